//! `stepdown wait`

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::marker::see_directory_of;
use super::stop::exit_of;
use crate::app::App;
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report};
use crate::cli::target::{find_job, resolve_here, slot_of};
use crate::config::duration::parse as duration;
use crate::daemon::ask::{MarkerWait, await_marker, await_running, await_stopped, single_poll};
use crate::daemon::watch::PlannedSlot;
use crate::marker::{MarkerPolicy, Trigger};
use crate::model::{AttemptId, Slot};
use crate::storage::{StoragePath, StorageUri};

/// Wait for a marker to come or go, or for a job to run or to be stopped
///
/// A marker that is waited for to be gone must be seen once: exit code 7 if it is not there at the
/// start. Errors are waited out, they are never taken for an absence. A job that is waited for to be
/// stopped is stopped when its receipt says so, not when its marker is gone: exit code 0 clean or
/// unproven, 3 dirty.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown wait hdfs:///stepdown/markers/clicks.blue --until gone
  stepdown wait clicks --until stopped --timeout 45m && deploy")]
pub struct WaitArgs {
    /// A marker's URI or path with `gone` and `present`, a job with `stopped` and `running`
    #[arg(value_name = "URI|JOB")]
    pub target: String,

    /// What to wait for
    #[arg(long, value_name = "WHAT", value_enum)]
    pub until: Until,

    /// Slot of the job, blue or green; needed where it has two
    #[arg(long, value_name = "SLOT")]
    pub slot: Option<Slot>,

    /// Give up after this time, with exit code 6 [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// The marker was there and is not any more
    Gone,
    /// The marker is there
    Present,
    /// The job has a receipt of its stop
    Stopped,
    /// The job has an attempt that runs
    Running,
}

/// The result of a wait for a marker.
#[derive(Debug, Serialize)]
struct MarkerReport {
    uri: StorageUri,
    state: &'static str,
}

impl Report for MarkerReport {
    fn text(&self, _look: Look) -> String {
        format!("{} is {}", self.uri, self.state)
    }
}

/// The result of a wait for a job to run.
#[derive(Debug, Serialize)]
struct RunningReport {
    attempt: AttemptId,
}

impl Report for RunningReport {
    fn text(&self, _look: Look) -> String {
        format!("{} runs", self.attempt)
    }
}

/// Runs the command.
///
/// # Errors
/// `NotFound` for what never was there; storage errors.
pub async fn run(args: WaitArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    let waited = async {
        match args.until {
            Until::Gone => wait_for_marker(&args, &app, context, Trigger::Disappears).await,
            Until::Present => wait_for_marker(&args, &app, context, Trigger::Appears).await,
            Until::Stopped => wait_for_stop(&args, &app, context).await,
            Until::Running => {
                let slot = plan(&args, &app)?;
                let attempt = await_running(&slot, app.config().watch.interval).await;
                context.out.confirmation(&RunningReport { attempt })?;
                Ok(Exit::Ok.into())
            }
        }
    };
    let Some(timeout) = args.timeout else {
        return waited.await;
    };
    if let Ok(result) = tokio::time::timeout(timeout, waited).await {
        return result;
    }
    let message = format!(
        "{} has not come to be {} within {} s",
        args.target,
        args.until.word(),
        timeout.as_secs_f64()
    );
    Err(Failure::new(Exit::DeadlinePassed, message))
}

impl Until {
    fn word(self) -> &'static str {
        match self {
            Until::Gone => "gone",
            Until::Present => "present",
            Until::Stopped => "stopped",
            Until::Running => "running",
        }
    }
}

async fn wait_for_marker(
    args: &WaitArgs,
    app: &App,
    context: &mut Context,
    until: Trigger,
) -> Result<Status> {
    let marker = resolve_here(&args.target)?;
    let storage = app.storage(&marker.authority)?;
    let watch = &app.config().watch;
    let sentinel_dir = marker.path.parent().unwrap_or_else(StoragePath::root);
    let policy = MarkerPolicy {
        trigger: until,
        confirm: watch.confirm,
        confirm_spacing: watch.confirm_spacing_of(&marker.authority),
        alarm_after: watch.alarm_after,
    };
    let poll = single_poll(&app.daemon()?, &storage, &marker.path, &sentinel_dir);
    let waited = await_marker(poll, until, policy, watch.interval, &sentinel_dir).await;
    if waited.is_err() {
        // A missing directory says more than that no sentinel can be put into it.
        see_directory_of(storage.as_ref(), &marker).await?;
    }
    let state = match waited? {
        MarkerWait::Present => "present",
        MarkerWait::Gone => "gone",
        MarkerWait::NeverSeen => {
            let message = format!("{marker} was not there from the beginning, so it cannot go");
            return Err(Failure::new(Exit::NotFound, message));
        }
    };
    context
        .out
        .confirmation(&MarkerReport { uri: marker, state })?;
    Ok(Exit::Ok.into())
}

async fn wait_for_stop(args: &WaitArgs, app: &App, context: &mut Context) -> Result<Status> {
    let slot = plan(args, app)?;
    let Some(receipt) = await_stopped(&slot, app.config().watch.interval).await? else {
        let message = format!("nothing of {} runs, and it has no receipt", args.target);
        return Err(Failure::new(Exit::NotFound, message));
    };
    context.out.result(&receipt)?;
    Ok(exit_of(&receipt).into())
}

fn plan(args: &WaitArgs, app: &App) -> Result<PlannedSlot> {
    let name = args
        .target
        .parse()
        .map_err(|error: crate::model::InvalidName| {
            Failure::new(
                Exit::Usage,
                format!("`--until {}` takes a job: {error}", args.until.word()),
            )
        })?;
    let job = find_job(app.config(), &name)?;
    let (slot, of) = slot_of(job, args.slot)?;
    Ok(app.plan_slot(job, slot, of, &app.board()?)?)
}
