//! The `driver` backend: the driver sees its marker itself; stepdown follows its status file and waits
//! for its end.
//!
//! Nothing is sent as long as the driver kit lives and can drain. A kit says in its status whether it
//! can; one that says nothing any more counts as gone after a while. Then its driver can be asked by a
//! signal, where it is a process of this host.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::time::Instant;

use super::status::{KitStatus, Phase, Seat, StatusBoard, StatusFile, load_heartbeat};
use super::{
    Backend, BackendError, Freshness, Observation, StopOrder, Way, await_process,
    await_status_news, seat_of,
};
use crate::marker::poll::error_chain;
use crate::model::{AttemptId, Generation, JobName, Slot};
use crate::process::{self, EndsWith, ProcessState, Signal, SignalError, SignalTarget};

/// Follows a driver by its status file.
#[derive(Debug)]
pub struct DriverBackend {
    board: Arc<StatusBoard>,
    job: JobName,
    slot: Slot,
    heartbeat_timeout: Duration,
    /// The highest generation of a rollout that is known of the slot; 0 is none.
    generation: AtomicU64,
    /// Since when there has been no status file at all.
    missing_since: Mutex<Option<Instant>>,
}

impl DriverBackend {
    /// The backend of one slot. A kit whose status file is older than `heartbeat_timeout` counts as gone.
    pub fn new(
        board: Arc<StatusBoard>,
        job: JobName,
        slot: Slot,
        heartbeat_timeout: Duration,
    ) -> Self {
        Self {
            board,
            job,
            slot,
            heartbeat_timeout,
            generation: AtomicU64::new(0),
            missing_since: Mutex::default(),
        }
    }

    /// Makes a generation known: from now on the status of a kit that was started for a lower one is
    /// refused.
    pub fn expect_generation(&self, generation: Generation) {
        self.generation.fetch_max(generation.0, Ordering::SeqCst);
    }

    async fn load(&self, freshness: Freshness) -> Result<Option<Arc<StatusFile>>, BackendError> {
        let status = self.board.load_as(&self.job, self.slot, freshness).await?;
        let named = status.as_deref().and_then(generation_of);
        let Some(named) = named else {
            return Ok(status);
        };
        let known = self.generation.fetch_max(named.0, Ordering::SeqCst);
        if named.0 < known {
            return Err(BackendError::Failed {
                backend: "driver",
                why: format!(
                    "the status file is of generation {named}, and {known} is known of this slot: an \
                     older driver still writes it"
                ),
            });
        }
        Ok(status)
    }

    /// The status of this attempt, if it is what its file tells of.
    async fn load_of(&self, attempt: &AttemptId) -> Result<Option<Arc<StatusFile>>, BackendError> {
        let status = self.load(Freshness::Now).await?;
        Ok(status.filter(|status| status.attempt == *attempt))
    }

    /// For how long there has been no status file, as far as this was asked before.
    fn missing_for(&self, is_missing: bool) -> Duration {
        let mut since = self
            .missing_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if is_missing {
            since.get_or_insert_with(Instant::now).elapsed()
        } else {
            *since = None;
            Duration::ZERO
        }
    }

    /// How long ago the status file was written, by the storage's clock.
    async fn silence(&self, now: Timestamp) -> Result<Option<Duration>, BackendError> {
        let control = self.board.control();
        let written_at = load_heartbeat(control, &self.job, self.slot)
            .await
            .map_err(crate::control::DocumentError::from)?;
        Ok(written_at.map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default()))
    }
}

fn generation_of(status: &StatusFile) -> Option<Generation> {
    status.kit.as_ref()?.generation
}

/// How a driver with this kit comes to stop, if its last word is so old; or why it does not by itself.
///
/// # Errors
/// A sentence: it has to be asked by a signal.
pub fn way_of(
    phase: Phase,
    kit: &KitStatus,
    silence: Duration,
    heartbeat_timeout: Duration,
) -> Result<Way, String> {
    match phase {
        Phase::Draining | Phase::Drained | Phase::Ended => return Ok(Way::Drains),
        Phase::Starting | Phase::Held | Phase::Running => {}
    }
    if kit.can_drain == Some(false) {
        let missing = kit.missing.as_deref().unwrap_or("it does not say what");
        return Err(format!(
            "the driver kit cannot drain, this Spark lacks something: {missing}"
        ));
    }
    if silence > heartbeat_timeout {
        return Err(format!(
            "the driver kit has not written its status for {} s",
            silence.as_secs()
        ));
    }
    Ok(Way::Listens)
}

/// Whether a signal reaches the attempt from here.
fn reach(attempt: &AttemptId) -> Result<(), String> {
    match process::observe(attempt, EndsWith::Process) {
        ProcessState::Running { .. } | ProcessState::Stopped { .. } => Ok(()),
        ProcessState::Unknown { why } => Err(why),
    }
}

/// What a status file says of `attempt`, taken together with what this host knows of its process.
pub(super) fn observe_status(status: Option<&StatusFile>, attempt: &AttemptId) -> Observation {
    let process = match attempt {
        AttemptId::Process { .. } => process::observe(attempt, EndsWith::Process),
        AttemptId::Named { .. } => process::ProcessState::Unknown {
            why: "it is not a process of this host".to_owned(),
        },
    };
    match (status, process) {
        (_, process::ProcessState::Stopped { .. }) => ended_or_restarted(status, attempt),
        (Some(status), _) if status.attempt == *attempt => match status.phase {
            Phase::Ended => Observation::Stopped { exit: status.exit },
            Phase::Draining | Phase::Drained => Observation::Stopping,
            Phase::Starting | Phase::Held | Phase::Running => Observation::Running,
        },
        (_, process::ProcessState::Running { .. }) => Observation::Running,
        // A slot has one status file, and an attempt writes it for as long as it runs.
        (Some(status), process::ProcessState::Unknown { .. }) => Observation::Restarted {
            attempt: status.attempt.clone(),
        },
        (None, process::ProcessState::Unknown { why }) => Observation::Unknown { why },
    }
}

fn ended_or_restarted(status: Option<&StatusFile>, attempt: &AttemptId) -> Observation {
    match status {
        Some(status) if status.attempt == *attempt => Observation::Stopped { exit: status.exit },
        Some(status) if status.phase != Phase::Ended => Observation::Restarted {
            attempt: status.attempt.clone(),
        },
        _ => Observation::Stopped { exit: None },
    }
}

#[async_trait]
impl Backend for DriverBackend {
    fn name(&self) -> &'static str {
        "driver"
    }

    async fn find_attempt(&self) -> Result<Option<AttemptId>, BackendError> {
        let status = self.load(Freshness::Recent).await?;
        Ok(status
            .filter(|status| status.phase != Phase::Ended)
            .map(|status| status.attempt.clone()))
    }

    fn check_reach(&self, _: &AttemptId) -> Result<(), BackendError> {
        Ok(())
    }

    async fn request_stop(
        &self,
        attempt: &AttemptId,
        order: &StopOrder,
    ) -> Result<(), BackendError> {
        if !order.instead_of_drain {
            return Ok(());
        }
        match process::send(attempt, SignalTarget::Process, Signal::TERM) {
            Ok(_) => Ok(()),
            Err(SignalError::Unknown { why }) => Err(BackendError::OutOfReach {
                attempt: attempt.clone(),
                why,
            }),
            Err(error) => Err(BackendError::Failed {
                backend: "driver",
                why: error_chain(&error),
            }),
        }
    }

    async fn observe(&self, attempt: &AttemptId, freshness: Freshness) -> Observation {
        match self.load(freshness).await {
            Ok(status) => observe_status(status.as_deref(), attempt),
            Err(error) => Observation::Unknown {
                why: error_chain(&error),
            },
        }
    }

    async fn await_change(&self, attempt: &AttemptId, at_most: Duration) {
        await_process(attempt, EndsWith::Process, at_most).await;
    }

    async fn await_news(&self, attempt: Option<&AttemptId>, pace: Duration) {
        let ends_with = EndsWith::Process;
        await_status_news(&self.board, &self.job, self.slot, attempt, ends_with, pace).await;
    }

    fn told_by(&self, attempt: Option<&AttemptId>) -> Option<Seat<'_>> {
        seat_of(&self.board, &self.job, self.slot, attempt)
    }

    async fn force(&self, _: &AttemptId, _: &StopOrder) -> Result<(), BackendError> {
        Err(BackendError::Unsupported {
            backend: "driver",
            action: "kill an attempt",
        })
    }

    fn drains_itself(&self) -> bool {
        true
    }

    async fn way(&self, attempt: &AttemptId, now: Timestamp) -> Way {
        let told = match self.load(Freshness::Now).await {
            Ok(told) => told,
            Err(error) => {
                let why = error_chain(&error);
                return Way::Unknown { why };
            }
        };
        let missing_for = self.missing_for(told.is_none());
        if told.is_none() {
            if missing_for <= self.heartbeat_timeout {
                return Way::Listens;
            }
            return Way::CannotDrain {
                why: format!(
                    "there has been no status file for {} s",
                    missing_for.as_secs()
                ),
                reach: reach(attempt),
            };
        }
        let told = told.filter(|status| status.attempt == *attempt);
        // One without a kit looks at its marker by means of its own, and owes no heartbeat.
        let Some((phase, kit)) = told.as_ref().and_then(|status| {
            let kit = status.kit.as_deref()?;
            Some((status.phase, kit))
        }) else {
            return Way::Drains;
        };
        let silence = match self.silence(now).await {
            Ok(silence) => silence.unwrap_or_default(),
            Err(error) => {
                let why = error_chain(&error);
                return Way::Unknown { why };
            }
        };
        way_of(phase, kit, silence, self.heartbeat_timeout).unwrap_or_else(|why| Way::CannotDrain {
            why,
            reach: reach(attempt),
        })
    }

    async fn has_drained(&self, attempt: &AttemptId) -> Option<bool> {
        let status = self.load_of(attempt).await.ok()??;
        status.kit.as_ref()?;
        Some(matches!(status.phase, Phase::Drained | Phase::Ended))
    }

    async fn reports_running(&self, attempt: &AttemptId) -> bool {
        self.load(Freshness::Recent).await.is_ok_and(|status| {
            status
                .is_some_and(|status| status.attempt == *attempt && status.phase == Phase::Running)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kit(can_drain: Option<bool>) -> KitStatus {
        KitStatus {
            kit_version: "0.1.0".to_owned(),
            kit_revision: None,
            application_id: None,
            spark_version: None,
            rollout_id: None,
            generation: None,
            can_drain,
            missing: Some("no field state".to_owned()),
            armed: None,
            sighting: None,
            drain_reason: None,
            queries: Vec::new(),
        }
    }

    #[test]
    fn a_kit_that_lives_and_can_drain_is_left_to_it() {
        let limit = Duration::from_mins(2);
        let way = |phase, can_drain, silence| {
            way_of(phase, &kit(can_drain), Duration::from_secs(silence), limit)
        };
        for phase in [Phase::Starting, Phase::Held, Phase::Running] {
            assert_eq!(way(phase, Some(true), 120), Ok(Way::Listens));
            assert_eq!(way(phase, None, 0), Ok(Way::Listens));
            assert!(way(phase, Some(true), 121).unwrap_err().contains("121 s"));
            let lacks = way(phase, Some(false), 0).unwrap_err();
            assert!(lacks.contains("no field state"), "{lacks}");
        }
        // One that drains is not disturbed, whatever else it says or does not say any more.
        for phase in [Phase::Draining, Phase::Drained, Phase::Ended] {
            assert_eq!(way(phase, Some(false), 999), Ok(Way::Drains));
        }
    }
}
