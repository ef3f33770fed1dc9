//! `stepdown status`

use std::time::Duration;

use clap::Args;
use futures::stream::{self, StreamExt as _};
use jiff::Timestamp;
use serde::Serialize;

use super::stop::receipt_text;
use crate::app::App;
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report, Row, Tone, ago, plain, table};
use crate::cli::target::find_job;
use crate::config::duration::parse as duration;
use crate::control::{DocumentError, LeaseScope, inspect_lease};
use crate::daemon::Daemon;
use crate::daemon::ask::single_poll;
use crate::daemon::watch::PlannedSlot;
use crate::marker::Sighting;
use crate::marker::poll::error_chain;
use crate::model::{AttemptId, BatchId, Generation, JobName, Slot, StopId};
use crate::stop::proof::{Proof, prove_once};
use crate::stop::receipt::{Receipt, load_newest_receipt};
use crate::stop::record::{StopRecord, load_armed};
use crate::stop::status::{KitStatus, Phase, load_heartbeat, load_kit_status, load_status};
use crate::stop::{Freshness, Observation};
use crate::storage::StorageUri;

/// How many slots are looked at at once.
const LOOKS_AT_ONCE: usize = 16;

/// Show what runs, which markers are there, which stops are under way
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown status
  stepdown status clicks --follow
  stepdown --json status clicks")]
pub struct StatusArgs {
    /// Only this job
    pub job: Option<JobName>,

    /// Go on, and show what changes
    #[arg(long, short)]
    pub follow: bool,

    /// Pause between two looks with --follow
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2s", requires = "follow")]
    pub interval: Duration,
}

/// What is known of one slot. Everything that could not be learned is in `unknown`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct SlotStatus {
    job: JobName,
    slot: Slot,
    marker: MarkerStatus,
    /// `running`, `stopping`, `stopped`, `unknown`.
    state: &'static str,
    attempt: Option<AttemptId>,
    /// Whether a removal of the marker would stop the attempt.
    armed: bool,
    stop: Option<StopStatus>,
    /// What the driver kit says, where there is one.
    driver: Option<DriverStatus>,
    /// The checkpoints as they are now.
    checkpoints: Proof,
    /// The last stop of the slot that is confirmed.
    receipt: Option<Receipt>,
    unknown: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct MarkerStatus {
    uri: StorageUri,
    /// `present`, `absent` or `unknown`.
    sighting: &'static str,
}

/// What the driver kit of the attempt says in its status file.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct DriverStatus {
    phase: Phase,
    /// When the file was written, by the storage's clock.
    heartbeat_at: Option<Timestamp>,
    /// How long ago that is, by the clock of this host.
    heartbeat_age_seconds: Option<f64>,
    #[serde(flatten)]
    kit: KitStatus,
}

impl DriverStatus {
    fn lines(&self) -> (Vec<String>, Tone) {
        let kit = &self.kit;
        let can_drain = kit.can_drain != Some(false);
        let spark = kit
            .spark_version
            .as_ref()
            .map(|spark| format!("Spark {spark}"));
        let who = [
            Some(kit.kit_version.clone()),
            spark,
            kit.application_id.clone(),
        ];
        let who: Vec<String> = who.into_iter().flatten().collect();
        let reason = kit
            .drain_reason
            .as_ref()
            .map_or_else(String::new, |reason| format!(" ({reason})"));
        let lacks = if can_drain {
            String::new()
        } else {
            let missing = kit.missing.as_deref().unwrap_or("it does not say what");
            format!(", CANNOT DRAIN, this Spark lacks something: {missing}")
        };
        let heartbeat = self.heartbeat_age_seconds.map_or_else(
            || "no heartbeat".to_owned(),
            |age| format!("heartbeat {age:.0} s ago"),
        );
        let head = format!(
            "driver kit {}: {}{reason}{lacks}, {heartbeat}",
            who.join(", "),
            self.phase.as_str()
        );
        let tone = if can_drain { Tone::Plain } else { Tone::Bad };
        let queries = kit.queries.iter().map(|query| {
            let name = query.name.as_deref().unwrap_or(&query.id);
            let batch = |batch: Option<BatchId>| {
                batch.map_or_else(|| "none".to_owned(), |batch| batch.to_string())
            };
            match &query.batches_unknown {
                Some(why) => format!("  query {name}: its batches are not known: {why}"),
                None => format!(
                    "  query {name}, as of that heartbeat: last planned batch {}, last committed {}",
                    batch(query.last_planned),
                    batch(query.last_batch)
                ),
            }
        });
        (std::iter::once(head).chain(queries).collect(), tone)
    }
}

/// A stop that is asked for and not confirmed.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct StopStatus {
    stop_id: StopId,
    /// `intended`, `latched`, `waiting`, `asked` or `killing`.
    step: &'static str,
    since: Option<Timestamp>,
    /// Who acts, by the generation of its lease.
    generation: Option<Generation>,
}

/// The result of `status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct StatusReport {
    slots: Vec<SlotStatus>,
}

impl StatusReport {
    fn without_ages(&self) -> Self {
        let mut report = self.clone();
        for slot in &mut report.slots {
            if let Some(driver) = &mut slot.driver {
                driver.heartbeat_age_seconds = None;
                driver.heartbeat_at = None;
            }
        }
        report
    }
}

impl Report for StatusReport {
    fn text(&self, look: Look) -> String {
        let rows: Vec<Row> = self.slots.iter().map(SlotStatus::row).collect();
        let head = [
            "JOB",
            "SLOT",
            "STATE",
            "MARKER",
            "ARMED",
            "BATCH",
            "STOP",
            "LAST STOP",
        ];
        let mut text = table(look, &head, &rows);
        for slot in &self.slots {
            for unknown in &slot.unknown {
                let line = format!("{}.{}: {unknown}", slot.job, slot.slot);
                text.push('\n');
                text.push_str(&look.paint(Tone::Warn, &line));
            }
        }
        for slot in &self.slots {
            let Some(driver) = &slot.driver else {
                continue;
            };
            let (lines, tone) = driver.lines();
            // Of many slots only what needs a look.
            if self.slots.len() == 1 || tone == Tone::Bad {
                for line in lines {
                    let line = format!("{}.{}: {line}", slot.job, slot.slot);
                    text.push('\n');
                    text.push_str(&look.paint(tone, &line));
                }
            }
        }
        if let [only] = self.slots.as_slice()
            && let Some(receipt) = &only.receipt
        {
            text.push_str("\nlast stop: ");
            text.push_str(&receipt_text(receipt, look));
        }
        text
    }
}

impl SlotStatus {
    fn row(&self) -> Row {
        let now = Timestamp::now();
        let state_tone = match self.state {
            "running" => Tone::Good,
            "unknown" => Tone::Bad,
            "stopping" => Tone::Warn,
            _ => Tone::Plain,
        };
        let marker_tone = if self.marker.sighting == "unknown" {
            Tone::Bad
        } else {
            Tone::Plain
        };
        let armed = match (&self.attempt, self.armed) {
            (None, _) => ("-".to_owned(), Tone::Dim),
            (Some(_), true) => ("yes".to_owned(), Tone::Plain),
            (Some(_), false) => ("NO".to_owned(), Tone::Bad),
        };
        let batch = |batch: Option<BatchId>| batch.map(|batch| batch.to_string());
        let batches = self.checkpoints.checkpoints.iter().map(|checkpoint| {
            let planned = batch(checkpoint.last_planned_batch);
            let committed = batch(checkpoint.last_committed_batch);
            match (planned, committed) {
                (Some(planned), Some(committed)) if planned == committed => planned,
                (Some(planned), committed) => {
                    format!(
                        "{planned} (committed {})",
                        committed.unwrap_or("none".to_owned())
                    )
                }
                (None, _) => "-".to_owned(),
            }
        });
        let batches: Vec<String> = batches.collect();
        let stop = self.stop.as_ref().map_or_else(
            || ("-".to_owned(), Tone::Dim),
            |stop| {
                let since = stop
                    .since
                    .map(|at| format!(" {}", ago(at, now)))
                    .unwrap_or_default();
                (format!("{}{since}", stop.step), Tone::Warn)
            },
        );
        let last = self.receipt.as_ref().map_or_else(
            || ("-".to_owned(), Tone::Dim),
            |receipt| {
                let verdict = receipt.proof.verdict.as_str();
                (
                    format!("{verdict} {}", ago(receipt.ended_at, now)),
                    Tone::Plain,
                )
            },
        );
        vec![
            plain(self.job.to_string()),
            plain(self.slot.to_string()),
            (self.state.to_owned(), state_tone),
            (self.marker.sighting.to_owned(), marker_tone),
            armed,
            plain(if batches.is_empty() {
                "-".to_owned()
            } else {
                batches.join(", ")
            }),
            stop,
            last,
        ]
    }
}

/// Runs the command.
///
/// # Errors
/// `NotFound` for a job that is not configured. What cannot be learned of a slot is part of the
/// result, and makes the exit code 5.
pub async fn run(args: StatusArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    let daemon = app.daemon()?;
    let planned = plan(&app, args.job.as_ref())?;
    if !args.follow {
        let report = observe_all(&daemon, &planned).await;
        context.out.result(&report)?;
        let unknown = report.slots.iter().any(|slot| !slot.unknown.is_empty());
        return Ok(if unknown { Exit::Unreachable } else { Exit::Ok }.into());
    }
    let mut before: Option<StatusReport> = None;
    while !context.out.is_closed() {
        let report = observe_all(&daemon, &planned).await;
        // A heartbeat that gets older is no change.
        let told = report.without_ages();
        if before.as_ref() != Some(&told) {
            context.out.event(&report)?;
            before = Some(told);
        }
        tokio::select! {
            () = tokio::time::sleep(args.interval) => {}
            _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted.into()),
        }
    }
    Ok(Exit::Ok.into())
}

fn plan(app: &App, only: Option<&JobName>) -> Result<Vec<PlannedSlot>> {
    if let Some(name) = only {
        find_job(app.config(), name)?;
    }
    if app.config().jobs.is_empty() {
        return Err(Failure::new(
            Exit::NotFound,
            "the configuration has no jobs",
        ));
    }
    let board = app.board()?;
    let mut planned = Vec::new();
    for job in app.config().jobs.values() {
        if only.is_some_and(|only| *only != job.name) {
            continue;
        }
        for (slot, of) in &job.slots {
            planned.push(app.plan_slot(job, *slot, of, &board)?);
        }
    }
    Ok(planned)
}

async fn observe_all(daemon: &Daemon, planned: &[PlannedSlot]) -> StatusReport {
    let slots = stream::iter(planned)
        .map(|slot| observe_slot(daemon, slot))
        .buffered(LOOKS_AT_ONCE)
        .collect()
        .await;
    StatusReport { slots }
}

async fn observe_slot(daemon: &Daemon, planned: &PlannedSlot) -> SlotStatus {
    let spec = &planned.spec;
    let mut unknown = Vec::new();
    let trigger = spec.marker_policy.trigger;
    let mut poll = single_poll(
        daemon,
        &spec.marker_storage,
        &spec.marker.path,
        &spec.sentinel_dir,
    );
    let sighting = match poll.poll().await.sighting(0, trigger, None) {
        Sighting::Present(_) => "present",
        Sighting::Absent => "absent",
        Sighting::Unknown(why) => {
            unknown.push(format!("the marker: {why}"));
            "unknown"
        }
    };
    let mut state = "stopped";
    let mut attempt = None;
    match planned.backend.find_attempt().await {
        Ok(Some(found)) => {
            state = match planned.backend.observe(&found, Freshness::Now).await {
                Observation::Running | Observation::Restarted { .. } => "running",
                Observation::Stopping => "stopping",
                Observation::Stopped { .. } => "stopped",
                Observation::Unknown { why } => {
                    unknown.push(format!("the attempt: {why}"));
                    "unknown"
                }
            };
            attempt = Some(found);
        }
        Ok(None) => {}
        Err(error) => {
            state = "unknown";
            unknown.push(format!("what runs: {}", error_chain(&error)));
        }
    }
    let (armed, stop) = match &attempt {
        Some(attempt) => observe_stop(planned, attempt, &mut unknown).await,
        None => (false, None),
    };
    if stop.is_some() && state == "running" {
        state = "stopping";
    }
    let driver = match &attempt {
        Some(attempt) => observe_driver(planned, attempt, &mut unknown).await,
        None => None,
    };
    let receipt = match load_newest_receipt(&planned.control, &spec.job, spec.slot).await {
        Ok(receipt) => receipt,
        Err(error) => {
            unknown.push(format!("the last receipt: {}", error_chain(&error)));
            None
        }
    };
    SlotStatus {
        job: spec.job.clone(),
        slot: spec.slot,
        marker: MarkerStatus {
            uri: spec.marker.clone(),
            sighting,
        },
        state,
        attempt,
        armed,
        stop,
        driver,
        checkpoints: prove_once(&spec.checkpoints).await,
        receipt,
        unknown,
    }
}

async fn observe_driver(
    planned: &PlannedSlot,
    attempt: &AttemptId,
    unknown: &mut Vec<String>,
) -> Option<DriverStatus> {
    let spec = &planned.spec;
    let read = async {
        let status = load_status(&planned.control, &spec.job, spec.slot).await?;
        if status.as_ref().is_some_and(|status| {
            status.attempt == *attempt && status.run_id.is_some() && status.kit.is_none()
        }) {
            // `run` has the slot's status file; the kit of its command says what it says in another.
            let word = load_kit_status(&planned.control, &spec.job, spec.slot).await?;
            return Ok(match word {
                Some((kit, at)) => (Some(kit), Some(at)),
                None => (None, None),
            });
        }
        let status = status.filter(|status| status.attempt == *attempt);
        let heartbeat = load_heartbeat(&planned.control, &spec.job, spec.slot).await?;
        Ok::<_, DocumentError>((status, heartbeat))
    };
    let (status, heartbeat_at) = match read.await {
        Ok(read) => read,
        Err(error) => {
            unknown.push(format!("its driver's status: {}", error_chain(&error)));
            return None;
        }
    };
    let status = status?;
    let age = |at: Timestamp| Timestamp::now().duration_since(at).as_secs_f64().max(0.0);
    Some(DriverStatus {
        phase: status.phase,
        heartbeat_at,
        heartbeat_age_seconds: heartbeat_at.map(age),
        kit: *status.kit?,
    })
}

async fn observe_stop(
    planned: &PlannedSlot,
    attempt: &AttemptId,
    unknown: &mut Vec<String>,
) -> (bool, Option<StopStatus>) {
    let spec = &planned.spec;
    let armed = load_armed(
        &planned.control,
        &spec.job,
        spec.slot,
        attempt,
        &spec.marker,
    )
    .await;
    let armed = match armed {
        Ok(armed) => armed.is_some(),
        Err(error) => {
            unknown.push(format!("whether it is armed: {}", error_chain(&error)));
            false
        }
    };
    let stop_id = attempt.stop_id(spec.slot);
    let record = match StopRecord::load(&planned.control, &spec.job, &stop_id).await {
        Ok(record) => record,
        Err(error) => {
            unknown.push(format!("its stop: {}", error_chain(&error)));
            return (armed, None);
        }
    };
    let steps = record.steps;
    if !steps.intent || steps.receipt {
        return (armed, None);
    }
    let dir = planned
        .control
        .lease_dir(&spec.job, LeaseScope::Stop(spec.slot));
    let holder = inspect_lease(planned.control.storage().as_ref(), &dir)
        .await
        .ok()
        .flatten();
    let step = if steps.killing {
        "killing"
    } else if steps.requested {
        "asked"
    } else if steps.waiting && !steps.requesting {
        "waiting"
    } else if steps.latched {
        "latched"
    } else {
        "intended"
    };
    let under_way = StopStatus {
        stop_id,
        step,
        since: record.asked_at.or(record.waiting_at).or(record.latched_at),
        generation: holder.map(|(generation, _)| generation),
    };
    (armed, Some(under_way))
}
