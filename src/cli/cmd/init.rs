//! `stepdown init`

use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report};
use crate::cli::target::resolve_here;
use crate::control::{ControlDir, SENTINEL, Sentinel};
use crate::storage::{Attributes, Depth, ErrorKind, StorageUri};

/// Permission bits of the folders that others than stepdown write to, with `--group`.
const SHARED_MODE: u32 = 0o775;

/// Make a control directory with its sentinels and folders
///
/// Repeatable: what is there stays as it is. A directory that holds anything else is refused.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown init hdfs:///stepdown
  stepdown init --group etl hdfs:///stepdown
  stepdown init                       the control directory of the configuration")]
pub struct InitArgs {
    /// The directory [default: control of the configuration]
    pub uri: Option<String>,

    /// Let this group write markers, requests and status files (mode 775); on local disk by its number
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,

    /// Say what would be made, and make nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// What `init` did, or would do.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Created,
    Exists,
    WouldCreate,
}

/// The result of `init`.
#[derive(Debug, Serialize)]
struct InitReport {
    uri: StorageUri,
    outcome: Outcome,
    /// The id of the directory, as in its sentinel; `null` if it is not made yet.
    directory_id: Option<String>,
}

impl Report for InitReport {
    fn text(&self, _look: Look) -> String {
        match self.outcome {
            Outcome::Created => format!("{} is ready", self.uri),
            Outcome::Exists => format!("{} was ready already", self.uri),
            Outcome::WouldCreate => format!("{} would be made", self.uri),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Storage errors; `Usage` where no directory is named, or one that holds something else.
pub async fn run(args: InitArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    let uri = match (&args.uri, &app.config().control) {
        (Some(uri), _) => resolve_here(uri)?,
        (None, Some(uri)) => uri.clone(),
        (None, None) => {
            let message = "no directory is named, and the configuration has no control";
            return Err(Failure::new(Exit::Usage, message));
        }
    };
    let control = app.control_at(&uri)?;
    let found = observe_sentinel(&control).await?;
    let (outcome, sentinel) = match (found, args.dry_run) {
        (None, true) => (Outcome::WouldCreate, None),
        (Some(sentinel), true) => (Outcome::Exists, Some(sentinel)),
        // Made again even if there is a sentinel: a folder may be missing.
        (Some(_), false) => (Outcome::Exists, Some(control.ensure().await?)),
        (None, false) => (Outcome::Created, Some(control.ensure().await?)),
    };
    if let (Some(group), false) = (args.group, args.dry_run) {
        share(&control, &group).await?;
    }
    context.out.confirmation(&InitReport {
        uri,
        outcome,
        directory_id: sentinel.map(|sentinel| sentinel.directory_id.to_string()),
    })?;
    Ok(Exit::Ok.into())
}

/// The sentinel, or `None` where a control directory can be made.
async fn observe_sentinel(control: &ControlDir) -> Result<Option<Sentinel>> {
    let storage = control.storage().as_ref();
    let entries = match storage.list(control.root(), Depth::Children).await {
        Ok(entries) => entries,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if let Some(sentinel) = Sentinel::load(storage, control.root()).await? {
        return Ok(Some(sentinel));
    }
    // What an `init` that was cut short may have left.
    let folders = ["markers", "requests", "status", "state"];
    let own = |name: &str| folders.contains(&name) || name.starts_with(SENTINEL);
    let foreign = entries
        .iter()
        .map(|entry| entry.path.name())
        .find(|name| !own(name) && !name.ends_with(".stepdown-tmp"));
    match foreign {
        None => Ok(None),
        Some(name) => Err(Failure::new(
            Exit::Usage,
            format!(
                "{} is no control directory and holds {name:?}; name a new or an empty directory",
                control.uri(control.root())
            ),
        )),
    }
}

async fn share(control: &ControlDir, group: &str) -> Result<()> {
    let attributes = Attributes {
        mode: Some(SHARED_MODE),
        owner: None,
        group: Some(Arc::from(group)),
    };
    for dir in [
        control.markers_dir(),
        control.requests_dir(),
        control.status_dir(),
    ] {
        control.storage().set_attributes(&dir, &attributes).await?;
    }
    Ok(())
}
