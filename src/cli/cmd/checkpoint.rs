//! `stepdown checkpoint`: look at checkpoints, check them, copy them.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::checkpoint_text::{Copies, PlanReport, PlannedPath, Retained, RetainedCopy, Synced};
use crate::app::App;
use crate::checkpoint::QueryId;
use crate::checkpoint::copy::{
    Check, CopyError, CopyRequest, Copyist, Damage, Event, Existing, Pace, Place, SyncedCopy, copy,
    plan_now,
};
use crate::checkpoint::diff::diff;
use crate::checkpoint::inspect::{Report as Inspection, inspect};
use crate::checkpoint::load::load_contents;
use crate::checkpoint::plan::Scope;
use crate::checkpoint::retain::{Fate, RetainPolicy, decide_fates, list_copies};
use crate::checkpoint::target::At;
use crate::checkpoint::verify::{Thoroughness, Verdict, verify};
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::progress::Progress;
use crate::cli::target::resolve_here;
use crate::config::duration::parse as duration;
use crate::model::BatchId;
use crate::storage::OwnedTree;

/// Looks at Spark checkpoints, checks them, copies them
///
/// A checkpoint is only ever read here, a copy is a directory of its own that appears at once when it
/// is whole and checked.
#[derive(Debug, Clone, Args)]
pub struct CheckpointArgs {
    #[command(subcommand)]
    command: CheckpointCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum CheckpointCommand {
    /// Show what a checkpoint holds: batches, offsets, state, and whether a copy can be taken
    #[command(after_help = "\
Examples:
  stepdown checkpoint inspect hdfs:///ck/clicks
  stepdown --json checkpoint inspect /ck/clicks | jq .last_committed_batch")]
    Inspect(InspectArgs),

    /// Check that a restart finds all it needs
    ///
    /// Exit code 0 if nothing is wrong, 3 with findings. What a stopped or killed query normally
    /// leaves behind is none.
    #[command(after_help = "\
Examples:
  stepdown checkpoint verify hdfs:///ck/clicks
  stepdown checkpoint verify --deep /ck/clicks")]
    Verify(VerifyArgs),

    /// Copy a checkpoint, of a stopped or of a running query
    ///
    /// The copy is made in a directory beside its destination, checked, given a manifest, and renamed.
    /// One that was cut short goes on where it was when the command is given again.
    #[command(after_help = "\
Examples:
  stepdown checkpoint copy hdfs:///ck/clicks hdfs:///ck/clicks-v2
  stepdown checkpoint copy --at committed --new-query-id hdfs:///ck/clicks /tmp/try
  stepdown checkpoint copy --dry-run /ck/clicks /ck/clicks-v2")]
    Copy(CopyArgs),

    /// Copy a running query's checkpoint again and again, then one last time
    ///
    /// Each pass copies what is new since the one before. With --finish the last pass is made and the
    /// copy appears; it grows with what is new, not with the checkpoint.
    #[command(after_help = "\
Examples:
  stepdown checkpoint sync hdfs:///ck/clicks hdfs:///ck/clicks-v2 --interval 30s
  stepdown checkpoint sync hdfs:///ck/clicks hdfs:///ck/clicks-v2 --finish")]
    Sync(SyncArgs),

    /// Make a copy that restarts after an earlier batch
    ///
    /// Deleting the newer files of a checkpoint by hand leaves state behind that makes the results
    /// wrong, without an error.
    #[command(after_help = "\
Examples:
  stepdown checkpoint rewind --to 1200 hdfs:///ck/clicks hdfs:///ck/clicks-1200")]
    Rewind(RewindArgs),

    /// Show what two checkpoints differ by: batches, offset ranges, confs, state
    ///
    /// Exit code 0 if they are the same, 3 if not.
    #[command(after_help = "\
Examples:
  stepdown checkpoint diff hdfs:///ck/clicks hdfs:///ck/clicks-v2")]
    Diff(DiffArgs),

    /// List the copies in a directory
    #[command(after_help = "\
Examples:
  stepdown checkpoint ls hdfs:///ck")]
    Ls(LsArgs),

    /// Remove old copies from a directory
    ///
    /// The newest copy of each source stays, and one that a query has run on since.
    #[command(after_help = "\
Examples:
  stepdown checkpoint retain hdfs:///ck --keep-last 5 --keep-for 14d --dry-run")]
    Retain(RetainArgs),
}

/// Arguments of `inspect`.
#[derive(Debug, Clone, Args)]
struct InspectArgs {
    /// The checkpoint directory
    uri: String,
}

/// Arguments of `verify`.
#[derive(Debug, Clone, Args)]
struct VerifyArgs {
    /// The checkpoint directory
    uri: String,

    /// Read every byte of every file, and check all checksums
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
    /// Copy everything, not only what a restart needs
    #[arg(long)]
    full: bool,

    /// Give the copy a query id of its own
    #[arg(long)]
    new_query_id: bool,

    /// Move a directory at DST aside first
    #[arg(long)]
    replace: bool,

    /// Copy a damaged checkpoint all the same
    #[arg(long)]
    force: bool,

    /// Read every file of the copy back and compare
    #[arg(long)]
    verify: bool,
}

/// Arguments of `copy`.
#[derive(Debug, Clone, Args)]
struct CopyArgs {
    #[command(flatten)]
    places: Places,

    /// As of which batch: committed, planned (with the batch in flight), or a number
    #[arg(long, value_name = "BATCH", value_parser = parse_at, default_value = "planned")]
    at: At,

    #[command(flatten)]
    options: CopyOptions,

    /// Say what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `sync`.
#[derive(Debug, Clone, Args)]
struct SyncArgs {
    #[command(flatten)]
    places: Places,

    /// Go on with a pass every so often, until Ctrl-C [default: one pass]
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "finish")]
    interval: Option<Duration>,

    /// With --interval: finish by itself once no batch was planned for so long and none is in flight
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "interval")]
    until_stopped: Option<Duration>,

    /// Make the last pass, as of the last planned batch, and let the copy appear
    #[arg(long)]
    finish: bool,

    #[command(flatten)]
    options: CopyOptions,
}

/// Arguments of `rewind`.
#[derive(Debug, Clone, Args)]
struct RewindArgs {
    #[command(flatten)]
    places: Places,

    /// The batch after which a restart goes on
    #[arg(long, value_name = "BATCH")]
    to: u64,

    #[command(flatten)]
    options: CopyOptions,

    /// Say what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `diff`.
#[derive(Debug, Clone, Args)]
struct DiffArgs {
    /// One checkpoint
    a: String,

    /// The other
    b: String,
}

/// Arguments of `ls`.
#[derive(Debug, Clone, Args)]
struct LsArgs {
    /// The directory that holds the copies
    uri: String,
}

/// Arguments of `retain`.
#[derive(Debug, Clone, Args)]
struct RetainArgs {
    /// The directory that holds the copies
    uri: String,

    /// Keep the newest so many of each source
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep_last: usize,

    /// Keep those that are younger
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "7d")]
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
            .map_err(|_| {
                "it is neither committed nor planned nor the number of a batch".to_owned()
            }),
    }
}

/// Runs the command.
///
/// # Errors
/// Storage errors; what a copy is refused for.
pub async fn run(args: CheckpointArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    match args.command {
        CheckpointCommand::Inspect(args) => show(&args, &app, context).await,
        CheckpointCommand::Verify(args) => check(&args, &app, context).await,
        CheckpointCommand::Copy(args) => {
            let request = request(&app, &args.places, &args.options, args.at)?;
            make_copy(request, args.dry_run, &app, context).await
        }
        CheckpointCommand::Rewind(args) => {
            let at = At::Batch(BatchId(args.to));
            let request = request(&app, &args.places, &args.options, at)?;
            make_copy(request, args.dry_run, &app, context).await
        }
        CheckpointCommand::Sync(args) => sync(&args, &app, context).await,
        CheckpointCommand::Diff(args) => compare(&args, &app, context).await,
        CheckpointCommand::Ls(args) => list(&args, &app, context).await,
        CheckpointCommand::Retain(args) => retain(&args, &app, context).await,
    }
}

fn copyist(app: &App) -> Result<Copyist> {
    Ok(app.daemon()?.copyist(app.config().watch.lease_ttl))
}

fn place(app: &App, given: &str) -> Result<Place> {
    let uri = resolve_here(given)?;
    Ok(Place {
        storage: app.storage(&uri.authority)?,
        path: uri.path,
    })
}

fn request(app: &App, places: &Places, options: &CopyOptions, at: At) -> Result<CopyRequest> {
    Ok(CopyRequest {
        source: place(app, &places.source)?,
        destination: place(app, &places.destination)?,
        at,
        scope: if options.full {
            Scope::Full
        } else {
            Scope::Minimal
        },
        new_query_id: options.new_query_id.then(QueryId::random),
        existing: if options.replace {
            Existing::MoveAside
        } else {
            Existing::Refuse
        },
        damage: if options.force {
            Damage::Accept
        } else {
            Damage::Refuse
        },
        check: if options.verify {
            Check::ReadBack
        } else {
            Check::Restart
        },
        pace: Pace::default(),
    })
}

async fn inspection(place: &Place) -> Result<Inspection> {
    let contents = load_contents(place.storage.as_ref(), &place.path, At::Planned).await?;
    Ok(inspect(&contents, Timestamp::now()))
}

async fn show(args: &InspectArgs, app: &App, context: &mut Context) -> Result<Status> {
    let report = inspection(&place(app, &args.uri)?).await?;
    context.out.result(&report)?;
    Ok(Exit::Ok.into())
}

async fn check(args: &VerifyArgs, app: &App, context: &mut Context) -> Result<Status> {
    let place = place(app, &args.uri)?;
    let thoroughness = if args.deep {
        Thoroughness::Deep
    } else {
        Thoroughness::Quick
    };
    let verification = verify(place.storage.as_ref(), &place.path, thoroughness).await?;
    context.out.result(&verification)?;
    let sound = verification.verdict == Verdict::Sound && verification.not_checked.is_empty();
    Ok(if sound { Exit::Ok } else { Exit::Findings }.into())
}

async fn make_copy(
    request: CopyRequest,
    dry_run: bool,
    app: &App,
    context: &mut Context,
) -> Result<Status> {
    if dry_run {
        return show_plan(&request, context).await;
    }
    let shutdown = cancelled_by_signals();
    let progress = Progress::begin(&context.out);
    let events = |event: Event| progress.tell(&event);
    let done = copy(&request, &copyist(app)?, &events, &shutdown).await;
    progress.end();
    let report = done.map_err(failure)?;
    context.out.result(&report)?;
    Ok(Exit::Ok.into())
}

async fn show_plan(request: &CopyRequest, context: &mut Context) -> Result<Status> {
    crate::checkpoint::copy::check_places(request)
        .await
        .map_err(failure)?;
    let (contents, plan) = plan_now(request).await.map_err(failure)?;
    let listing = &contents.listing;
    let report = PlanReport {
        source: request.source.uri(),
        destination: request.destination.uri(),
        scope: plan.scope,
        query_id: plan.query_id.map(|id| id.to_string()),
        last_planned_batch: plan.target.offset,
        last_committed_batch: plan.target.commit,
        total: plan.tally(listing),
        files: plan
            .files
            .iter()
            .map(|file| PlannedPath {
                path: file.path(listing).to_owned(),
                bytes: file.len_bytes(listing),
            })
            .collect(),
        problems: plan.problems,
        remarks: plan.remarks,
    };
    context.out.result(&report)?;
    Ok(if report.problems.is_empty() {
        Exit::Ok
    } else {
        Exit::Findings
    }
    .into())
}

async fn sync(args: &SyncArgs, app: &App, context: &mut Context) -> Result<Status> {
    let request = request(app, &args.places, &args.options, At::Planned)?;
    let source = request.source.clone();
    let shutdown = cancelled_by_signals();
    let progress = Progress::begin(&context.out);
    let events = |event: Event| progress.tell(&event);
    let mut synced = SyncedCopy::open(request, &copyist(app)?)
        .await
        .map_err(failure)?;
    let outcome = async {
        if args.finish {
            return synced.finish(&events, &shutdown).await.map(Some);
        }
        let mut quiet_since: Option<(tokio::time::Instant, Option<BatchId>)> = None;
        loop {
            let copied = synced.pass(&events, &shutdown).await?;
            progress.line(&format!(
                "a pass copied {} files, {} bytes",
                copied.files, copied.bytes
            ));
            let Some(interval) = args.interval else {
                return Ok(None);
            };
            if let Some(quiet) = args.until_stopped
                && is_quiet(&source, &mut quiet_since, quiet).await?
            {
                return synced.finish(&events, &shutdown).await.map(Some);
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(interval) => {}
            }
        }
    }
    .await;
    progress.end();
    let published = matches!(outcome, Ok(Some(_)));
    synced.close(published).await;
    match outcome.map_err(failure)? {
        Some(report) => context.out.result(&report)?,
        None => context.out.confirmation(&Synced {
            destination: args.places.destination.clone(),
        })?,
    }
    Ok(Exit::Ok.into())
}

/// Whether no batch was planned for `quiet` and none is in flight.
async fn is_quiet(
    source: &Place,
    since: &mut Option<(tokio::time::Instant, Option<BatchId>)>,
    quiet: Duration,
) -> std::result::Result<bool, CopyError> {
    let progress =
        crate::checkpoint::progress::load_progress(source.storage.as_ref(), &source.path).await?;
    let planned = progress.last_planned;
    if planned != progress.last_committed {
        *since = None;
        return Ok(false);
    }
    match since {
        Some((at, batch)) if *batch == planned => Ok(at.elapsed() >= quiet),
        _ => {
            *since = Some((tokio::time::Instant::now(), planned));
            Ok(false)
        }
    }
}

async fn compare(args: &DiffArgs, app: &App, context: &mut Context) -> Result<Status> {
    let (a, b) = (place(app, &args.a)?, place(app, &args.b)?);
    let (a, b) = (inspection(&a).await?, inspection(&b).await?);
    let difference = diff(&a, &b);
    context.out.result(&difference)?;
    Ok(if difference.same {
        Exit::Ok
    } else {
        Exit::Findings
    }
    .into())
}

async fn list(args: &LsArgs, app: &App, context: &mut Context) -> Result<Status> {
    let place = place(app, &args.uri)?;
    let copies = list_copies(place.storage.as_ref(), &place.path).await?;
    context.out.result(&Copies { copies })?;
    Ok(Exit::Ok.into())
}

async fn retain(args: &RetainArgs, app: &App, context: &mut Context) -> Result<Status> {
    let place = place(app, &args.uri)?;
    let copies = list_copies(place.storage.as_ref(), &place.path).await?;
    let policy = RetainPolicy {
        keep_last: args.keep_last,
        keep_for: args.keep_for,
    };
    let fates = decide_fates(&copies, policy, Timestamp::now());
    let mut report = Retained {
        dry_run: args.dry_run,
        copies: Vec::new(),
    };
    for (copy, fate) in copies.into_iter().zip(fates) {
        if fate == Fate::Remove && !args.dry_run {
            // A name that is stepdown's own first: half a removed copy is no copy any more.
            let doomed = copy
                .uri
                .path
                .with_suffix(&format!(".stepdown-old-{}", Uuid::new_v4().simple()));
            place.storage.rename(&copy.uri.path, &doomed).await?;
            if let Some(tree) = OwnedTree::claim(doomed) {
                place.storage.delete_tree(&tree).await?;
            }
        }
        report.copies.push(RetainedCopy { copy, fate });
    }
    context.out.result(&report)?;
    Ok(Exit::Ok.into())
}

/// Cancelled by the first SIGINT or SIGTERM.
fn cancelled_by_signals() -> CancellationToken {
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        use crate::process::Signal;
        let Ok(mut signals) = crate::daemon::signals::Signals::catch(&[Signal::INT, Signal::TERM])
        else {
            return;
        };
        signals.next().await;
        cancel.cancel();
    });
    token
}

fn failure(error: CopyError) -> Failure {
    let exit = match &error {
        CopyError::InProgress { .. } => Some(Exit::LeaseHeld),
        CopyError::Damaged { .. } | CopyError::NotSound { .. } => Some(Exit::Findings),
        CopyError::Interrupted { .. } => Some(Exit::Interrupted),
        CopyError::Exists { .. } | CopyError::Nested { .. } | CopyError::Refused { .. } => {
            Some(Exit::Failed)
        }
        CopyError::Storage(_)
        | CopyError::Checkpoint(_)
        | CopyError::Document(_)
        | CopyError::Lease(_)
        | CopyError::Unstable { .. } => None,
    };
    let mut failure = Failure::from(error);
    if let Some(exit) = exit {
        failure.exit = exit;
    }
    failure
}
