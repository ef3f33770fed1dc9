//! One stop, from its intent to its receipt: does what [`decide`] says.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::alarm::AlarmKind;
use super::crash_point::crash_point;
use super::slot::SlotEngine;
use crate::control::{
    Acquired, DocumentError, Lease, LeaseError, LeasePolicy, LeaseWatch, Prepared,
};
use crate::marker::poll::{GuardRecord, error_chain};
use crate::model::{AttemptId, Generation};
use crate::process::{EndsWith, ProcessState, observe};
use crate::stop::decide::{Act, AttemptState, Look, Next, Situation, decide};
use crate::stop::receipt::Receipt;
use crate::stop::record::{Intent, Reason, StopRecord};
use crate::stop::{BackendError, Freshness, Observation};
use crate::storage::{StorageError, StoragePath};

/// How driving a stop came to its end.
#[derive(Debug)]
pub(super) enum StopEnd {
    /// It is over.
    Receipt(Box<Receipt>),
    /// The marker was back before the stop became irrevocable.
    Withdrawn,
    /// stepdown is shutting down.
    Interrupted,
}

/// What is made ready for a stop while its confirmation is waited for.
#[derive(Debug, Default)]
pub(super) struct Early {
    lease: Option<Lease>,
    intent: Option<Prepared<Intent>>,
}

impl Early {
    pub(super) fn is_empty(&self) -> bool {
        self.lease.is_none() && self.intent.is_none()
    }
}

/// What went wrong in a step; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl StepError {
    fn alarm(&self) -> AlarmKind {
        match self {
            StepError::Backend(_) => AlarmKind::RequestFailed,
            StepError::Storage(_) | StepError::Document(_) | StepError::Lease(_) => {
                AlarmKind::RecordFailed
            }
        }
    }
}

/// What a step leads to.
pub(super) enum Flow {
    Go,
    Wait,
    End(StopEnd),
}

/// The memory of one stop in this process.
pub(super) struct Drive {
    pub(super) reason: Reason,
    pub(super) record: StopRecord,
    pub(super) lease: Option<Lease>,
    pub(super) lease_watch: LeaseWatch,
    pub(super) prepared: Option<Prepared<Intent>>,
    pub(super) look: Look,
    pub(super) request: Request,
    pub(super) kill: Act,
    /// Drain time from before this process took the stop up, and when it did.
    pub(super) carried: Duration,
    pub(super) asked: Option<Instant>,
    pub(super) observation: Observation,
    /// The record has to be read again before anything is decided by it.
    pub(super) is_stale: bool,
}

/// State of the request in this process.
#[derive(Clone, Copy)]
pub(super) enum Request {
    None,
    Due,
    Inherited(Instant),
    Done,
}

pub(super) fn lease_policy(ttl: Duration) -> LeasePolicy {
    LeasePolicy {
        ttl,
        owner_has_ended: |owner| {
            matches!(
                observe(owner, EndsWith::Process),
                ProcessState::Stopped { .. }
            )
        },
    }
}

impl SlotEngine {
    fn lease_dir(&self) -> StoragePath {
        self.control.lease_dir(
            &self.spec.job,
            crate::control::LeaseScope::Stop(self.spec.slot),
        )
    }

    pub(super) fn intent(
        &self,
        attempt: &AttemptId,
        reason: Reason,
        generation: Generation,
    ) -> Intent {
        Intent {
            stop_id: attempt.stop_id(self.spec.slot),
            job: self.spec.job.clone(),
            slot: self.spec.slot,
            attempt: attempt.clone(),
            marker: self.spec.marker.clone(),
            reason,
            generation,
            written_at: Timestamp::now(),
        }
    }

    async fn try_lease(&self, watch: &mut LeaseWatch) -> Result<Acquired, LeaseError> {
        Lease::try_acquire(
            self.control.storage().as_ref(),
            &self.lease_dir(),
            &self.daemon.lease_owner(self.instance),
            lease_policy(self.spec.lease_ttl),
            watch,
        )
        .await
    }

    /// Takes the lease and writes the intent beside its place, if both can be had at once. Whatever
    /// fails here is done in its turn later.
    pub(super) async fn prepare(&mut self, attempt: &AttemptId) -> Early {
        if self.backend.check_reach(attempt).is_err() {
            return Early::default();
        }
        let Ok(Acquired::Taken(lease)) = self.try_lease(&mut LeaseWatch::default()).await else {
            return Early::default();
        };
        crash_point("lease-taken");
        let stop_id = attempt.stop_id(self.spec.slot);
        let intent = self.intent(attempt, Reason::Marker, lease.generation());
        let path = self.control.intent(&self.spec.job, &stop_id);
        let prepared = crate::control::prepare_new(self.control.storage().as_ref(), &path, &intent)
            .await
            .ok();
        crash_point("intent-prepared");
        Early {
            lease: Some(lease),
            intent: prepared,
        }
    }

    /// Gives back what was made ready for a stop that did not come.
    pub(super) async fn drop_early(&self, early: Early) {
        if let Some(prepared) = early.intent {
            prepared.discard(self.control.storage().as_ref()).await;
        }
        if let Some(lease) = early.lease {
            self.release(lease).await;
        }
    }

    async fn release(&self, lease: Lease) {
        // An unreleased lease runs out by itself.
        if let Err(error) = lease.release(self.control.storage().as_ref()).await {
            tracing::debug!("the lease was not given back: {}", error_chain(&error));
        }
    }

    /// Drives the stop of `attempt` to its receipt.
    pub(super) async fn stop(
        &mut self,
        attempt: &AttemptId,
        reason: Reason,
        armed_in: Option<&GuardRecord>,
        early: Early,
    ) -> StopEnd {
        let stop_id = attempt.stop_id(self.spec.slot);
        let mut failing: Option<Instant> = None;
        let record = loop {
            match StopRecord::load(&self.control, &self.spec.job, &stop_id).await {
                Ok(record) => break record,
                Err(error) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    let text = format!("the stop cannot be read: {}", error_chain(&error));
                    self.alarm_if_late(AlarmKind::RecordFailed, since, &text);
                    if !self.pause(self.spec.drain_interval).await {
                        self.drop_early(early).await;
                        return StopEnd::Interrupted;
                    }
                }
            }
        };
        let mut drive = Drive::new(reason, record, early);
        loop {
            // Between "about to ask" and "asked" there is no good place to leave: who takes over could
            // not know whether the attempt was asked.
            if self.shutdown.is_cancelled() && (failing.is_some() || !drive.is_asking()) {
                if let Some(lease) = drive.lease.take() {
                    self.release(lease).await;
                }
                return StopEnd::Interrupted;
            }
            let flow = match self.step(attempt, armed_in, &mut drive).await {
                Ok(flow) => {
                    failing = None;
                    self.alarms.clear(AlarmKind::RecordFailed);
                    flow
                }
                Err(StepError::Lease(error @ LeaseError::Lost { .. })) => {
                    tracing::warn!("{error}; following what the new holder does");
                    drive.lease = None;
                    Flow::Wait
                }
                Err(error) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    self.alarm_if_late(error.alarm(), since, &error_chain(&error));
                    // What the failed step found may not be what is there.
                    drive.is_stale = true;
                    Flow::Wait
                }
            };
            match flow {
                Flow::Go => {}
                Flow::Wait => self.await_drain(attempt, &drive).await,
                Flow::End(end) => {
                    if let Some(prepared) = drive.prepared.take() {
                        prepared.discard(self.control.storage().as_ref()).await;
                    }
                    if let Some(lease) = drive.lease.take() {
                        self.release(lease).await;
                    }
                    self.alarms.clear(AlarmKind::Overdue);
                    self.alarms.clear(AlarmKind::RequestFailed);
                    return end;
                }
            }
        }
    }

    /// Waits for the next look at the attempt.
    async fn await_drain(&self, attempt: &AttemptId, drive: &Drive) {
        let over = matches!(
            drive.observation,
            Observation::Stopped { .. } | Observation::Restarted { .. }
        );
        let change = async {
            if over {
                tokio::time::sleep(self.spec.drain_interval).await;
            } else {
                self.backend
                    .await_change(attempt, self.spec.drain_interval)
                    .await;
            }
        };
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = change => {}
        }
    }

    async fn step(
        &mut self,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
        drive: &mut Drive,
    ) -> Result<Flow, StepError> {
        if self.asked.is_cancelled() && drive.reason != Reason::Signal {
            drive.signalled();
        }
        if drive.lease.is_none() && !self.take_over(attempt, drive).await? {
            return self.end_with_receipt(attempt).await;
        }
        if drive.is_stale {
            let stop_id = attempt.stop_id(self.spec.slot);
            drive.record = StopRecord::load(&self.control, &self.spec.job, &stop_id).await?;
            drive.is_stale = false;
        }
        if let Some(lease) = drive.lease.as_mut()
            && lease.is_beat_due(self.spec.lease_ttl)
        {
            lease.beat(self.control.storage().as_ref()).await?;
        }
        drive.observation = self.backend.observe(attempt, Freshness::Now).await;
        if drive.reason == Reason::None
            && matches!(
                drive.observation,
                Observation::Running | Observation::Stopping
            )
        {
            // It was seen as over, and is not: nobody asked for anything.
            return Ok(Flow::End(StopEnd::Withdrawn));
        }
        let situation = Situation {
            steps: drive.record.steps,
            look: drive.look,
            attempt: match drive.observation {
                Observation::Running | Observation::Stopping => AttemptState::Running,
                Observation::Stopped { .. } => AttemptState::Stopped,
                Observation::Restarted { .. } => AttemptState::Restarted,
                Observation::Unknown { .. } => AttemptState::Unknown,
            },
            request: drive.request_act(),
            kill: drive.kill,
            draining_for: drive.draining_for(),
            protected: false,
            drains_itself: self.backend.drains_itself(),
        };
        let mut next = decide(&situation, &self.spec.stop_policy);
        if matches!(next, Next::SaveKilling | Next::Kill)
            && self.is_protected(attempt, armed_in).await
        {
            next = decide(
                &Situation {
                    protected: true,
                    ..situation
                },
                &self.spec.stop_policy,
            );
        }
        self.execute(next, attempt, armed_in, drive).await
    }

    /// Takes the lease, reads again how far the stop has come, and sets the clocks of the drain.
    async fn take_over(
        &mut self,
        attempt: &AttemptId,
        drive: &mut Drive,
    ) -> Result<bool, StepError> {
        if !drive.record.steps.receipt {
            self.backend.check_reach(attempt)?;
        }
        let mut lease = match self.try_lease(&mut drive.lease_watch).await? {
            Acquired::Taken(lease) => lease,
            Acquired::Held { generation, owner } => {
                tracing::debug!(%generation, ?owner, "another stepdown drives this stop");
                return Ok(false);
            }
        };
        drive.record = StopRecord::load(
            &self.control,
            &self.spec.job,
            &attempt.stop_id(self.spec.slot),
        )
        .await?;
        drive.inherit();
        if let Some(asked_at) = drive.record.asked_at {
            let now = lease.beat(self.control.storage().as_ref()).await?;
            let intent = drive.record.load_intent().await?;
            drive.carried = self.carried(asked_at, now, intent.as_ref(), &drive.record);
            drive.asked = Some(Instant::now());
            tracing::info!(
                drained_for_s = drive.carried.as_secs(),
                "taking up a stop that was begun before"
            );
        }
        drive.lease = Some(lease);
        Ok(true)
    }

    /// Drain time that went by before this process took the stop up: the difference of two time
    /// stamps of the storage, but nothing where its clock and a host's were too far apart, then or
    /// now: a clock that jumps must not kill a job early.
    fn carried(
        &self,
        asked_at: Timestamp,
        now: Timestamp,
        intent: Option<&Intent>,
        record: &StopRecord,
    ) -> Duration {
        let limit = self.spec.max_clock_skew;
        let apart = |a: Timestamp, b: Timestamp| a.duration_since(b).unsigned_abs();
        let skewed_now = apart(Timestamp::now(), now) > limit;
        let skewed_then = match (intent, record.latched_at) {
            (Some(intent), Some(stamp)) => apart(intent.written_at, stamp) > limit,
            _ => true,
        };
        if skewed_now || skewed_then {
            tracing::warn!(
                "the clocks of this host and of the storage differ by more than {} s, or did when \
                 the stop began: the drain deadline starts anew",
                limit.as_secs()
            );
            return Duration::ZERO;
        }
        Duration::try_from(now.duration_since(asked_at)).unwrap_or(Duration::ZERO)
    }
}

impl Drive {
    fn new(reason: Reason, record: StopRecord, early: Early) -> Self {
        let mut drive = Self {
            reason,
            record,
            lease: early.lease,
            lease_watch: LeaseWatch::default(),
            prepared: early.intent,
            look: Look::Unknown,
            request: Request::None,
            kill: Act::None,
            carried: Duration::ZERO,
            asked: None,
            observation: Observation::Unknown {
                why: "no look yet".to_owned(),
            },
            is_stale: false,
        };
        drive.inherit();
        drive
    }

    /// Takes what is on the storage as another's acts of unknown fate.
    fn inherit(&mut self) {
        self.request = match (self.record.steps.requesting, self.record.steps.requested) {
            (_, true) => Request::Done,
            (true, false) => Request::Inherited(Instant::now()),
            (false, false) => Request::None,
        };
        self.kill = if self.record.steps.killing {
            Act::Inherited(Duration::ZERO)
        } else {
            Act::None
        };
    }

    fn is_asking(&self) -> bool {
        let steps = self.record.steps;
        let ours = matches!(self.request, Request::Due | Request::Done);
        steps.requesting && !steps.requested && !steps.receipt && ours
    }

    /// The attempt was asked by a signal that was passed on: no further request is due.
    fn signalled(&mut self) {
        self.reason = Reason::Signal;
        self.look = Look::Asks;
        if matches!(self.request, Request::Due) {
            self.request = Request::Done;
        }
    }

    pub(super) fn generation(&self) -> Generation {
        self.lease.as_ref().map_or(Generation(0), Lease::generation)
    }

    pub(super) async fn check_lease(
        &self,
        storage: &dyn crate::storage::Storage,
    ) -> Result<(), LeaseError> {
        match &self.lease {
            Some(lease) => lease.check(storage).await,
            None => Ok(()),
        }
    }

    fn request_act(&self) -> Act {
        match self.request {
            Request::None => Act::None,
            Request::Due => Act::Due,
            Request::Inherited(since) => Act::Inherited(since.elapsed()),
            Request::Done => Act::Done,
        }
    }

    pub(super) fn draining_for(&self) -> Duration {
        self.asked
            .map_or(Duration::ZERO, |since| self.carried + since.elapsed())
    }
}
