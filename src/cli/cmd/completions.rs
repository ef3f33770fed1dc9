//! `stepdown completions`

use clap::Args;
use clap_complete::Shell;

use crate::cli::exit::{Exit, Status};
use crate::cli::failure::Result;
use crate::cli::{Context, command};

/// Write the completions of a shell to stdout
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  stepdown completions bash > /etc/bash_completion.d/stepdown")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// Runs the command.
///
/// # Errors
/// Where stdout could not be written.
pub fn run(args: &CompletionsArgs, context: &mut Context) -> Result<Status> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "stepdown", &mut script);
    context.out.raw(&script)?;
    Ok(Exit::Ok.into())
}
