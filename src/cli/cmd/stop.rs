//! `stepdown stop`

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report, Tone};
use crate::cli::target::find_job;
use crate::config::duration::parse as duration;
use crate::config::{Job, JobSlot};
use crate::control::{LeaseScope, inspect_lease};
use crate::daemon::ask::{await_receipt, find_stoppable, request_by_marker};
use crate::daemon::watch::PlannedSlot;
use crate::model::{AttemptId, JobName, Slot, StopId};
use crate::stop::Exit as StopExit;
use crate::stop::boundary::{AskedAt, BoundaryReport};
use crate::stop::decide::Outcome;
use crate::stop::proof::Verdict;
use crate::stop::receipt::{CheckpointCopy, CopyEnd, How, Receipt};
use crate::storage::StorageUri;

/// What the way from the marker to the receipt may take beside the drain itself.
const SLACK: Duration = Duration::from_mins(1);

/// Stop a job: remove its marker, wait for the receipt, say clean, dirty or unproven
///
/// Repeatable: a job that is stopping already is waited for. Where no `watch` or `run` looks after
/// the job, this command does so itself until the job is stopped. Exit code 0 clean or unproven, 3
/// dirty, 6 if the deadline passed; the stop then stays asked for.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown stop clicks
  stepdown stop clicks --slot blue --timeout 1h
  stepdown stop clicks --dry-run")]
pub struct StopArgs {
    /// The job
    pub job: JobName,

    /// Its slot, blue or green [default: the one that runs]
    #[arg(long, value_name = "SLOT")]
    pub slot: Option<Slot>,

    /// Wait no longer than this [default: drain-deadline and kill-deadline of the job]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,

    /// Ask only, and do not wait
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A receipt as a few lines for people.
pub(super) fn receipt_text(receipt: &Receipt, look: Look) -> String {
    let verdict = receipt.proof.verdict;
    let tone = match (receipt.outcome, verdict) {
        (Outcome::Stopped, Verdict::Clean) => Tone::Good,
        (Outcome::Stopped, Verdict::Unproven) => Tone::Plain,
        (Outcome::Died | Outcome::Restarted, _) | (_, Verdict::Dirty) => Tone::Bad,
    };
    let what = match receipt.outcome {
        Outcome::Stopped => "stopped",
        Outcome::Restarted => "stopped, but another attempt runs in its place",
        Outcome::Died => "ended by itself",
    };
    let how = match (receipt.how, receipt.drain_seconds) {
        (How::Drained, Some(seconds)) => format!(", drained in {seconds:.1} s"),
        (How::DrainedLate, Some(seconds)) => format!(", drained late, in {seconds:.1} s"),
        (How::Killed, _) => ", killed after the drain deadline".to_owned(),
        (How::Drained | How::DrainedLate, None) | (How::ByItself, _) => String::new(),
    };
    let exit = match receipt.exit {
        Some(StopExit::Code { code }) => format!(", exit code {code}"),
        Some(StopExit::Signal { signal }) => format!(", ended by signal {signal}"),
        None => String::new(),
    };
    let head = format!(
        "{}.{} {what}: {}",
        receipt.job,
        receipt.slot,
        verdict.as_str()
    );
    let mut text = format!("{}{how}{exit}", look.paint(tone, &head));
    if let Some(boundary) = &receipt.boundary {
        text.push_str(&format_boundary(boundary));
    }
    for checkpoint in &receipt.proof.checkpoints {
        let batch = |batch: Option<crate::model::BatchId>| {
            batch.map_or_else(|| "none".to_owned(), |batch| batch.to_string())
        };
        text.push_str(&format_checkpoint(
            &checkpoint.uri,
            &batch(checkpoint.last_planned_batch),
            &batch(checkpoint.last_committed_batch),
            checkpoint.why.as_deref(),
        ));
    }
    for copy in &receipt.copies {
        text.push_str(&format_copy(copy));
    }
    if receipt.start_requested {
        text.push_str("\n  its marker was touched meanwhile: a start is asked for");
    }
    text
}

fn format_checkpoint(
    uri: &StorageUri,
    planned: &str,
    committed: &str,
    why: Option<&str>,
) -> String {
    let why = why.map_or_else(String::new, |why| format!(" ({why})"));
    format!("\n  {uri}: last planned batch {planned}, last committed {committed}{why}")
}

fn format_boundary(boundary: &BoundaryReport) -> String {
    let seconds = |seconds: Option<f64>| seconds.unwrap_or_default();
    let how = match boundary.asked {
        AskedAt::InGap => format!(
            "asked between two batches: {:.2} s into a gap of {:.2} s",
            seconds(boundary.idle_seconds),
            seconds(boundary.gap_seconds)
        ),
        AskedAt::Quiet => format!(
            "asked after {:.0} s without a batch",
            seconds(boundary.idle_seconds)
        ),
        AskedAt::WithoutGap => "NOT asked between two batches".to_owned(),
        AskedAt::Unknown => "it is not known at what moment it was asked".to_owned(),
    };
    let why = boundary
        .why
        .as_ref()
        .map_or_else(String::new, |why| format!(" ({why})"));
    format!(
        "\n  {how}, after waiting {:.1} s{why}",
        boundary.waited_seconds
    )
}

fn format_copy(copy: &CheckpointCopy) -> String {
    match &copy.end {
        CopyEnd::Copied {
            files,
            bytes,
            moved_aside,
            ..
        } => {
            let aside = moved_aside.as_ref().map_or_else(String::new, |uri| {
                format!("; what stood there is now {uri}")
            });
            format!(
                "\n  copied to {} ({files} files, {bytes} bytes){aside}",
                copy.destination
            )
        }
        CopyEnd::Failed { why } => format!("\n  NOT copied to {}: {why}", copy.destination),
    }
}

/// The result of `stop` that was not waited for, or only thought through.
#[derive(Debug, Serialize)]
struct AskReport {
    job: JobName,
    slot: Slot,
    attempt: AttemptId,
    stop_id: StopId,
    marker: StorageUri,
    outcome: &'static str,
}

impl Report for AskReport {
    fn text(&self, _look: Look) -> String {
        match self.outcome {
            "would-ask" => format!(
                "would remove {} and wait for attempt {} to end",
                self.marker, self.attempt
            ),
            _ => format!(
                "asked {}.{} to stop; its stop is {}",
                self.job, self.slot, self.stop_id
            ),
        }
    }
}

impl Report for Receipt {
    fn text(&self, look: Look) -> String {
        receipt_text(self, look)
    }
}

/// The exit code that a receipt means for who asked for the stop.
pub(super) fn exit_of(receipt: &Receipt) -> Exit {
    let all_copied = receipt.copies.iter().all(|copy| copy.end.is_copied());
    match (receipt.outcome, receipt.proof.verdict) {
        (Outcome::Restarted, _) => Exit::Failed,
        (Outcome::Stopped | Outcome::Died, _) if !all_copied => Exit::Findings,
        (Outcome::Stopped | Outcome::Died, Verdict::Dirty) => Exit::Findings,
        (Outcome::Stopped | Outcome::Died, Verdict::Clean | Verdict::Unproven) => Exit::Ok,
    }
}

/// Runs the command.
///
/// # Errors
/// `NotFound` if nothing runs; storage and backend errors.
pub async fn run(args: StopArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    let job = find_job(app.config(), &args.job)?;
    let (planned, attempt) = find_running(&app, job, args.slot).await?;
    let report = |outcome| AskReport {
        job: job.name.clone(),
        slot: planned.spec.slot,
        attempt: attempt.clone(),
        stop_id: attempt.stop_id(planned.spec.slot),
        marker: planned.spec.marker.clone(),
        outcome,
    };
    if args.dry_run {
        context.out.result(&report("would-ask"))?;
        return Ok(Exit::Ok.into());
    }
    let daemon = app.daemon()?;
    request_by_marker(&daemon, &planned, &attempt).await?;
    if args.no_wait {
        context.out.confirmation(&report("asked"))?;
        return Ok(Exit::Ok.into());
    }
    let policy = &planned.spec.stop_policy;
    let timeout = args
        .timeout
        .unwrap_or(policy.drain_deadline + policy.kill_deadline + SLACK);
    let shutdown = CancellationToken::new();
    let receipt = await_receipt(
        &daemon,
        &planned,
        &attempt,
        app.poll_policy(),
        shutdown.clone(),
    );
    tokio::pin!(receipt);
    let (receipt, cut_short) = tokio::select! {
        receipt = &mut receipt => (receipt, None),
        () = tokio::time::sleep(timeout) => {
            shutdown.cancel();
            (receipt.await, Some(Exit::DeadlinePassed))
        }
        _ = tokio::signal::ctrl_c() => {
            shutdown.cancel();
            (receipt.await, Some(Exit::Interrupted))
        }
    };
    let Some(receipt) = receipt else {
        let message = format!(
            "{}.{} was asked to stop and has not stopped yet; the stop {} stays asked for: \
             `stepdown stop {}` waits on",
            job.name,
            planned.spec.slot,
            attempt.stop_id(planned.spec.slot),
            job.name
        );
        return Err(Failure::new(cut_short.unwrap_or(Exit::Failed), message));
    };
    context.out.result(receipt.as_ref())?;
    Ok(exit_of(&receipt).into())
}

/// The slot that is meant, with its attempt: the one that was named, or the one that runs.
async fn find_running(
    app: &App,
    job: &Job,
    named: Option<Slot>,
) -> Result<(PlannedSlot, AttemptId)> {
    let board = app.board()?;
    let mut found: Vec<(PlannedSlot, AttemptId)> = Vec::new();
    let slots: Vec<(Slot, &JobSlot)> = job
        .slots
        .iter()
        .map(|(slot, of)| (*slot, of.as_ref()))
        .filter(|(slot, _)| named.is_none_or(|named| named == *slot))
        .collect();
    if slots.is_empty() {
        let message = format!("the job {} has no such slot", job.name);
        return Err(Failure::new(Exit::NotFound, message));
    }
    for (slot, of) in slots {
        let planned = app.plan_slot(job, slot, of, &board)?;
        if let Some(attempt) = find_stoppable(&planned).await? {
            found.push((planned, attempt));
        }
    }
    if found.len() > 1 {
        let message = format!("both slots of {} run; name one with --slot", job.name);
        return Err(Failure::new(Exit::Usage, message));
    }
    if let Some(found) = found.pop() {
        return Ok(found);
    }
    for slot in job.slots.keys() {
        let dir = board.control().lease_dir(&job.name, LeaseScope::Run(*slot));
        if let Some((_, owner)) = inspect_lease(board.control().storage().as_ref(), &dir).await? {
            let who = owner.map_or_else(
                || "a `stepdown run`".to_owned(),
                |owner| format!("`stepdown run` (process {})", owner.process),
            );
            let message = format!(
                "nothing of {}.{slot} runs now, but {who} may start it again: remove its marker, \
                 `stepdown marker rm --job {} --slot {slot}`",
                job.name, job.name
            );
            return Err(Failure::new(Exit::NotFound, message));
        }
    }
    let message = format!("nothing of {} runs that is known here", job.name);
    Err(Failure::new(Exit::NotFound, message))
}
