//! `stepdown doctor`

use clap::Args;

use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::Result;

/// Checks whether stepdown can work here: environment, Hadoop configuration, credentials, permissions
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {}

/// Runs the command.
///
/// # Errors
/// None.
pub async fn run(_args: DoctorArgs, context: &mut Context) -> Result<Status> {
    let _app = context.open()?;
    Ok(Exit::Ok.into())
}
