//! Looks at a slot: what runs in it, whose it is, how far its stop and its queries are.

use serde::{Deserialize, Serialize};

use super::RolloutSlot;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::copy::Place;
use crate::checkpoint::progress::{Progress, load_progress};
use crate::control::{ControlDir, Document, DocumentError, load_optional};
use crate::marker::poll::error_chain;
use crate::model::{AttemptId, BatchId, JobName, Slot};
use crate::rollout::observation::{Known, Life, Phase as QueryPhase, Side, StopSeen};
use crate::rollout::record::{Base, Record};
use crate::stop::decide::Outcome as StopOutcome;
use crate::stop::receipt::{Receipt, load_receipt};
use crate::stop::record::{StopRecord, load_unconfirmed};
use crate::stop::status::Phase;
use crate::stop::{Backend, Freshness, Observation};

/// What a rollout reads of a status file, whoever wrote it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Tagged {
    pub(super) attempt: AttemptId,
    pub(super) phase: Phase,
    #[serde(default)]
    pub(super) rollout_id: Option<String>,
}

impl Document for Tagged {
    const KIND: &'static str = "status";
}

async fn load_tag(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
) -> Result<Option<Tagged>, DocumentError> {
    load_optional(control.storage().as_ref(), &control.status(job, slot)).await
}

/// The receipt of an attempt, if its stop is over.
pub(super) async fn receipt_of(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
    attempt: &AttemptId,
) -> Result<Option<Receipt>, DocumentError> {
    load_receipt(control, job, &attempt.stop_id(slot)).await
}

/// How far the stop of an attempt is.
async fn look_at_stop(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
    attempt: &AttemptId,
) -> Result<StopSeen, DocumentError> {
    if let Some(receipt) = receipt_of(control, job, slot, attempt).await? {
        return Ok(match receipt.outcome {
            StopOutcome::Stopped => StopSeen::Stopped,
            StopOutcome::Restarted => StopSeen::Restarted,
            StopOutcome::Died => StopSeen::Died,
        });
    }
    let record = StopRecord::load(control, job, &attempt.stop_id(slot)).await?;
    Ok(if record.steps.latched {
        StopSeen::Latched
    } else {
        StopSeen::None
    })
}

/// What is seen of one slot. `recorded` is the attempt on record, `other` one that is not meant: the old
/// job, where the new one takes its place.
pub(super) async fn look_at_slot(
    record: &Record,
    control: &ControlDir,
    of: &RolloutSlot,
    recorded: Option<&AttemptId>,
    other: Option<&AttemptId>,
) -> Side {
    let spec = &of.planned.spec;
    let (job, slot) = (&spec.job, spec.slot);
    let backend = of.planned.backend.as_ref();
    let mut side = Side::default();
    let mut running = None;
    if let Some(attempt) = recorded {
        side.life = match backend.observe(attempt, Freshness::Now).await {
            Observation::Running | Observation::Stopping => Life::Running,
            Observation::Stopped { .. } => Life::Over,
            Observation::Restarted { attempt } => {
                // What is left of one that was killed shows it for long.
                let seen = backend.observe(&attempt, Freshness::Now).await;
                running = match seen {
                    Observation::Stopped { .. } => None,
                    Observation::Restarted { attempt } => Some(attempt),
                    Observation::Running | Observation::Stopping | Observation::Unknown { .. } => {
                        Some(attempt)
                    }
                };
                Life::Over
            }
            Observation::Unknown { why } => {
                tracing::debug!(%slot, "the attempt cannot be seen: {why}");
                Life::Unknown
            }
        };
        match look_at_stop(control, job, slot, attempt).await {
            Ok(stop) => side.stop = stop,
            Err(error) => {
                tracing::debug!(%slot, "its stop cannot be read: {error}");
                side.life = Life::Unknown;
            }
        }
    } else {
        match find(of, control).await {
            Ok(None) => side.life = Life::NotThere,
            Ok(Some(attempt)) => {
                side.life = Life::NotThere;
                running = Some(attempt);
            }
            Err(why) => {
                tracing::debug!(%slot, "what runs cannot be told: {why}");
                side.life = Life::Unknown;
            }
        }
    }
    side.found = running.filter(|found| Some(found) != recorded && Some(found) != other);
    match load_tag(control, job, slot).await {
        Ok(Some(tag)) => {
            if Some(&tag.attempt) == recorded {
                side.phase = match tag.phase {
                    Phase::Starting => QueryPhase::Silent,
                    Phase::Held => QueryPhase::Held,
                    Phase::Running => QueryPhase::Running,
                    Phase::Draining | Phase::Drained | Phase::Ended => QueryPhase::Ending,
                };
            }
            let tagged_otherwise = tag
                .rollout_id
                .as_ref()
                .is_some_and(|id| *id != record.rollout_id.to_string());
            side.is_foreign = tagged_otherwise && side.found.as_ref() == Some(&tag.attempt);
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%slot, "its status cannot be read: {error}"),
    }
    side
}

/// The attempt that a backend shows and that is not over: what is left of one that was killed shows it
/// for long.
pub(super) async fn find_live(backend: &dyn Backend) -> Result<Option<AttemptId>, String> {
    let found = backend.find_attempt().await;
    let Some(found) = found.map_err(|error| error_chain(&error))? else {
        return Ok(None);
    };
    match backend.observe(&found, Freshness::Now).await {
        Observation::Running | Observation::Stopping => Ok(Some(found)),
        Observation::Stopped { .. } => Ok(None),
        Observation::Restarted { attempt } => Ok(Some(attempt)),
        Observation::Unknown { why } => Err(why),
    }
}

/// The attempt that runs in a slot, or one of which it is not known whether it still does.
async fn find(of: &RolloutSlot, control: &ControlDir) -> Result<Option<AttemptId>, String> {
    let spec = &of.planned.spec;
    let backend = of.planned.backend.as_ref();
    let found = find_live(backend).await?;
    if found.is_some() {
        return Ok(found);
    }
    // One that was armed and has no receipt may run where this host does not see it.
    let left = load_unconfirmed(control, &spec.job, spec.slot)
        .await
        .map_err(|error| error.to_string())?;
    for attempt in left {
        match backend.observe(&attempt, Freshness::Now).await {
            Observation::Stopped { .. } | Observation::Restarted { .. } => {}
            Observation::Running | Observation::Stopping => return Ok(Some(attempt)),
            Observation::Unknown { why } => return Err(why),
        }
    }
    Ok(None)
}

/// How far the queries of a slot are, each as of now; `None` for a checkpoint that is not there yet.
pub(super) async fn look_at_batches(
    checkpoints: &[Place],
) -> Result<Vec<Option<Progress>>, CheckpointError> {
    let mut all = Vec::with_capacity(checkpoints.len());
    for place in checkpoints {
        match load_progress(place.storage.as_ref(), &place.path).await {
            Ok(progress) => all.push(Some(progress)),
            Err(CheckpointError::Missing { .. }) => all.push(None),
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The first copy whose source has planned or committed more since.
pub(super) fn find_outrun<'b>(base: &'b [Base], source: &[Option<Progress>]) -> Option<&'b Base> {
    let mut pairs = base.iter().zip(source);
    let found = pairs.find(|(base, source)| {
        source.as_ref().is_some_and(|now| {
            now.last_planned > base.planned || now.last_committed > base.committed
        })
    });
    found.map(|(base, _)| base)
}

/// Whether batches beyond what was given are planned by any query, and committed by all.
pub(super) fn own_batches(base: &[Base], now: &[Option<Progress>]) -> (Known, Known) {
    let beyond = |at: Option<BatchId>, base: Option<BatchId>| at > base;
    let pairs = || base.iter().zip(now);
    let planned = pairs().any(|(base, now)| {
        now.as_ref()
            .is_some_and(|now| beyond(now.last_planned, base.planned))
    });
    let committed = !base.is_empty()
        && base.len() == now.len()
        && pairs().all(|(base, now)| {
            now.as_ref()
                .is_some_and(|now| beyond(now.last_committed, base.committed))
        });
    let known = |yes| if yes { Known::Yes } else { Known::No };
    (known(planned), known(committed))
}
