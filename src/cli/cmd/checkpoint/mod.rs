//! `stepdown checkpoint`: look at checkpoints, check them, copy them.

mod copies;
mod copying;
mod copying_text;
mod inspect_text;
mod looking;
mod syncing;
mod text;

use std::time::Duration;

use clap::{Args, Subcommand};

pub(in crate::cli::cmd) use looking::inspection;

use crate::app::App;
use crate::checkpoint::copy::Place;
use crate::checkpoint::target::At;
use crate::cli::Context;
use crate::cli::exit::Status;
use crate::cli::failure::Result;
use crate::cli::target::resolve_here;
use crate::config::duration::parse as duration;
use crate::model::BatchId;

/// Look at Spark checkpoints, check them, copy them
///
/// A checkpoint is only ever read. A copy is a directory of its own that appears at once, when it is
/// whole and checked.
#[derive(Debug, Clone, Args)]
pub struct CheckpointArgs {
    #[command(subcommand)]
    command: CheckpointCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum CheckpointCommand {
    Inspect(InspectArgs),
    Verify(VerifyArgs),
    Copy(CopyArgs),
    Sync(SyncArgs),
    Rewind(RewindArgs),
    Diff(DiffArgs),
    Ls(LsArgs),
    Retain(RetainArgs),
}

/// Show what a checkpoint holds: batches, offsets, state, and whether a copy can be taken
///
/// Reads names, logs and what the logs name; `verify` reads more.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown checkpoint inspect hdfs:///ck/clicks
  stepdown --json checkpoint inspect /ck/clicks | jq .last_committed_batch")]
struct InspectArgs {
    /// The checkpoint directory
    uri: String,
}

/// Check that a restart finds all it needs
///
/// Tells everything that is wrong, and what Spark does about it. What a stopped, killed or running
/// query normally leaves behind is not wrong. Exit code 0 if the checkpoint is sound, 3 with findings.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown checkpoint verify hdfs:///ck/clicks && ./start-the-new-job
  stepdown checkpoint verify --deep /ck/clicks")]
struct VerifyArgs {
    /// The checkpoint directory
    uri: String,

    /// Read every byte of every file and check all checksums; of a copy also its manifest's digests
    #[arg(long)]
    deep: bool,
}

/// The two directories of a copy.
#[derive(Debug, Clone, Args)]
struct Places {
    /// The checkpoint; it is only read
    #[arg(value_name = "SRC")]
    source: String,

    /// The copy; its parent must exist
    #[arg(value_name = "DST")]
    destination: String,
}

/// What all copies can be asked for.
#[derive(Debug, Clone, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one switch of the command line"
)]
struct CopyOptions {
    /// Copy what a restart needs, and files that stepdown does not know (the default)
    #[arg(long, conflicts_with = "full")]
    minimal: bool,

    /// Copy everything up to the chosen batch
    #[arg(long)]
    full: bool,

    /// Give the copy a query id of its own, for a query that runs beside the old one
    #[arg(long)]
    new_query_id: bool,

    /// Move what stands at DST aside, right before the copy takes its place
    #[arg(long)]
    replace: bool,

    /// Copy a damaged checkpoint all the same, and say what is lost
    #[arg(long)]
    force: bool,

    /// Read every file of the copy back and compare, before the copy appears
    #[arg(long)]
    verify: bool,

    /// Say what would be copied and why, and copy nothing
    #[arg(long)]
    dry_run: bool,
}

/// Copy a checkpoint, of a stopped or of a running query
///
/// The copy is made in a hidden directory beside DST, checked, given a manifest, and renamed to DST. One
/// that was cut short (Ctrl-C, kill -9, an outage) goes on where it was when the same command is given
/// again. Exit code 3 if the checkpoint is damaged, 4 if another process copies to DST.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown checkpoint copy hdfs:///ck/clicks hdfs:///ck/clicks-v2
  stepdown checkpoint copy --at committed --new-query-id hdfs:///ck/clicks /tmp/try
  stepdown checkpoint copy --dry-run /ck/clicks /ck/clicks-v2")]
struct CopyArgs {
    #[command(flatten)]
    places: Places,

    /// As of which batch: planned (with the batch in flight, which a restart repeats), committed, or
    /// the number of a committed batch
    #[arg(long, value_name = "BATCH", value_parser = parse_at, default_value = "planned")]
    at: At,

    #[command(flatten)]
    options: CopyOptions,
}

/// Copy a running query's checkpoint again and again, then one last time
///
/// Each pass brings what is new since the one before into a hidden directory beside DST. With
/// --finish the last pass is made and the copy appears at DST: it takes as long as what is new, however
/// large the checkpoint. Without --interval and --until-stopped one pass is made.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown checkpoint sync hdfs:///ck/clicks hdfs:///ck/clicks-v2 --interval 30s
  stepdown stop clicks && stepdown checkpoint sync hdfs:///ck/clicks hdfs:///ck/clicks-v2 --finish
  stepdown checkpoint sync /ck/clicks /ck/clicks-v2 --until-stopped=10m --finish")]
struct SyncArgs {
    #[command(flatten)]
    places: Places,

    /// Make a pass every so often, until Ctrl-C or --until-stopped [default: 10s with --until-stopped]
    #[arg(long, value_name = "DURATION", value_parser = pause)]
    interval: Option<Duration>,

    /// Make passes until no batch was planned for so long and none is in flight [default: 2m]. A query
    /// without new data looks stopped as well; `stepdown wait JOB --until stopped` knows better
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2m"
    )]
    until_stopped: Option<Duration>,

    /// Make the last pass, and let the copy appear
    #[arg(long)]
    finish: bool,

    /// As of which batch the last pass is: planned (with the batch in flight, which a restart repeats),
    /// committed, or the number of a committed batch
    #[arg(long, value_name = "BATCH", value_parser = parse_at, default_value = "planned")]
    at: At,

    #[command(flatten)]
    options: CopyOptions,
}

/// Make a copy that restarts after an earlier batch
///
/// Nothing of a later batch is in it. Deleting the newer files of a checkpoint by hand leaves state
/// behind that makes the results wrong, without an error. How far back it goes is a matter of what
/// Spark has not removed yet (spark.sql.streaming.minBatchesToRetain).
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown checkpoint rewind --to 1200 hdfs:///ck/clicks hdfs:///ck/clicks-1200
  stepdown checkpoint rewind --to 1200 --dry-run /ck/clicks /ck/clicks-1200")]
struct RewindArgs {
    #[command(flatten)]
    places: Places,

    /// The committed batch after which a restart goes on
    #[arg(long, value_name = "BATCH")]
    to: u64,

    #[command(flatten)]
    options: CopyOptions,
}

/// Show what two checkpoints differ by: batches, offset ranges, confs, state
///
/// Exit code 0 if they are the same, 3 if not.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown checkpoint diff hdfs:///ck/clicks hdfs:///ck/clicks-v2")]
struct DiffArgs {
    /// One checkpoint
    a: String,

    /// The other
    b: String,
}

/// List the copies in a directory
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown checkpoint ls hdfs:///ck")]
struct LsArgs {
    /// The directory that holds the copies
    uri: String,
}

/// Remove old copies from a directory
///
/// A copy goes only if it is not among the last of its source and not young. The newest sound copy of
/// each source stays whatever is asked, and so does one in use: one in which a query has run since, or
/// that is a checkpoint of a configured job.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown checkpoint retain hdfs:///ck --keep-last 5 --keep-for 14d --dry-run
  stepdown checkpoint retain hdfs:///ck --keep-last 1 --keep-for 0s")]
struct RetainArgs {
    /// The directory that holds the copies
    uri: String,

    /// Keep the newest so many of each source
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep_last: usize,

    /// Keep those that are younger: days (14d), or a shorter time (36h)
    #[arg(long, value_name = "DURATION", value_parser = parse_age, default_value = "7d")]
    keep_for: Duration,

    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

fn parse_at(text: &str) -> std::result::Result<At, String> {
    match text {
        "committed" => Ok(At::Committed),
        "planned" => Ok(At::Planned),
        number => number
            .parse()
            .map(|batch| At::Batch(BatchId(batch)))
            .map_err(|_| "neither committed nor planned nor the number of a batch".to_owned()),
    }
}

/// A duration above zero.
fn pause(text: &str) -> std::result::Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a pause must be longer than that".to_owned()),
        pause => Ok(pause),
    }
}

/// A duration, or a number of days.
pub(super) fn parse_age(text: &str) -> std::result::Result<Duration, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
    match days.and_then(|days: u64| days.checked_mul(24 * 60 * 60)) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => duration(text),
    }
}

/// Runs the command.
///
/// # Errors
/// Storage errors; what a copy is refused for.
pub async fn run(args: CheckpointArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    match args.command {
        CheckpointCommand::Inspect(args) => looking::show(&args, &app, context).await,
        CheckpointCommand::Verify(args) => looking::check(&args, &app, context).await,
        CheckpointCommand::Diff(args) => looking::compare(&args, &app, context).await,
        CheckpointCommand::Copy(args) => {
            copying::make(&args.places, &args.options, args.at, &app, context).await
        }
        CheckpointCommand::Rewind(args) => {
            let at = At::Batch(BatchId(args.to));
            copying::make(&args.places, &args.options, at, &app, context).await
        }
        CheckpointCommand::Sync(args) => syncing::sync(&args, &app, context).await,
        CheckpointCommand::Ls(args) => copies::list(&args, &app, context).await,
        CheckpointCommand::Retain(args) => copies::retain(&args, &app, context).await,
    }
}

/// The directory that was named on the command line.
fn place(app: &App, given: &str) -> Result<Place> {
    let uri = resolve_here(given)?;
    Ok(Place {
        storage: app.storage(&uri.authority)?,
        path: uri.path,
    })
}
