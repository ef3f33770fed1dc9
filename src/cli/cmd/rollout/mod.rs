//! `stepdown rollout`: a new version takes over.

mod looking;
mod retaining;
mod starting;
mod steering;
mod text;

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::app::App;
use crate::cli::Context;
use crate::cli::cmd::checkpoint::parse_age;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::target::find_job;
use crate::config::duration::parse as duration;
use crate::config::{Job, Strategy};
use crate::daemon::rollout::RolloutPlan;
use crate::model::JobName;

/// Roll a new version of a job out, steer it, look at it
///
/// What is to be done is on record before it is done: a rollout that was cut short is gone on with by
/// `start`, on any host.
#[derive(Debug, Clone, Args)]
pub struct RolloutArgs {
    #[command(subcommand)]
    command: RolloutCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum RolloutCommand {
    Start(StartArgs),
    Status(StatusArgs),
    Promote(SteerArgs),
    Hold(SteerArgs),
    Abort(SteerArgs),
    Rollback(RollbackArgs),
    History(HistoryArgs),
    Retain(RetainArgs),
}

/// Begin a rollout, or go on with the one that was begun
///
/// Runs until it is over. Exit code 0 if the new version runs, 1 if it ended in any other way, 3 if
/// somebody has to look, 4 if another stepdown is at it. Ctrl-C leaves it where it is.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown rollout start clicks
  stepdown rollout start clicks --strategy hand-over --version 2.1 --dry-run
  stepdown rollout start clicks --if-changed /opt/clicks/VERSION      # from cron")]
struct StartArgs {
    /// The job
    job: JobName,

    /// Another way than the configured one
    #[arg(
        long,
        value_name = "STRATEGY",
        value_parser = crate::cli::words(Strategy::ALL, Strategy::as_str)
    )]
    strategy: Option<Strategy>,

    /// The new version, as the start command gets it
    #[arg(long, value_name = "TEXT")]
    version: Option<String>,

    /// Begin only if this file says a version that neither runs nor was tried last; harmless at any time
    #[arg(long, value_name = "FILE", conflicts_with = "version")]
    if_changed: Option<String>,

    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Show how far a rollout is: state, batches of both sides, lag, gap, deadline
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown rollout status clicks --follow
  stepdown --json rollout status clicks")]
struct StatusArgs {
    /// The job
    job: JobName,

    /// Go on, and show what changes
    #[arg(long, short)]
    follow: bool,

    /// Pause between two looks with --follow
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1s", requires = "follow")]
    interval: Duration,
}

/// Steer a rollout: promote goes on, hold waits, abort takes the new job back
///
/// Leaves a request; whoever drives the rollout takes it up. Where nobody does, this command goes on
/// with the rollout itself.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown rollout promote clicks
  stepdown rollout hold clicks
  stepdown rollout abort clicks --no-wait")]
struct SteerArgs {
    /// The job
    job: JobName,

    /// Leave the request only
    #[arg(long)]
    no_wait: bool,
}

/// Go back to the version before
///
/// The old version is started on a copy of the new one's checkpoint: nothing is lost and nothing is done
/// twice. With --accept-loss it is started on its own old checkpoint instead, after what that means was
/// shown.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown rollout rollback clicks
  stepdown rollout rollback clicks --accept-loss --dry-run")]
struct RollbackArgs {
    /// The job
    job: JobName,

    /// Start on the old checkpoint: what was done since is done again, or missing, as the sinks have it
    #[arg(long)]
    accept_loss: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Show the rollouts of a job, newest first, each with its gap
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown rollout history clicks
  stepdown --json rollout history clicks --last 1")]
struct HistoryArgs {
    /// The job
    job: JobName,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    last: usize,
}

/// Remove what copies of rollouts have moved aside, once it was kept long enough
///
/// A copy for the other slot moves aside what stands at its place: the checkpoint of an earlier rollout.
/// The newest of each place stays, and so does the newest that was a verified copy. `watch` does the same
/// by itself where `keep` is configured.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown rollout retain clicks --dry-run
  stepdown rollout retain clicks --keep-for 2d")]
struct RetainArgs {
    /// The job
    job: JobName,

    /// Keep those that are younger, in place of the configured time: days (14d), or a shorter time (36h)
    #[arg(long, value_name = "DURATION", value_parser = parse_age)]
    keep_for: Option<Duration>,

    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// The job's plan; its rollout must be configured.
fn plan(app: &App, name: &JobName) -> Result<(Job, RolloutPlan)> {
    let job = find_job(app.config(), name)?.clone();
    let Some(rollout) = job.rollout.clone() else {
        let message = format!("no rollout of {name} is configured: write [jobs.{name}.rollout]");
        return Err(Failure::new(Exit::Usage, message));
    };
    let plan = app.rollout_plan(&job, &rollout)?;
    Ok((job, plan))
}

/// Runs the command.
///
/// # Errors
/// Configuration, storage and backend errors; a rollout that did not end well.
pub async fn run(args: RolloutArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    match args.command {
        RolloutCommand::Start(args) => starting::start(&args, &app, context).await,
        RolloutCommand::Status(args) => looking::status(&args, &app, context).await,
        RolloutCommand::Promote(args) => {
            steering::steer(&args, crate::rollout::request::Verb::Promote, &app, context).await
        }
        RolloutCommand::Hold(args) => {
            steering::steer(&args, crate::rollout::request::Verb::Hold, &app, context).await
        }
        RolloutCommand::Abort(args) => {
            steering::steer(&args, crate::rollout::request::Verb::Abort, &app, context).await
        }
        RolloutCommand::Rollback(args) => steering::rollback(&args, &app, context).await,
        RolloutCommand::History(args) => looking::history(&args, &app, context).await,
        RolloutCommand::Retain(args) => retaining::retain(&args, &app, context).await,
    }
}
