//! One stop, from its intent to its receipt: does what [`decide`] says.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Daemon;
use super::alarm::AlarmKind;
use super::crash_point::crash_point;
use super::drive::{Drive, Request};
use super::slot::SlotEngine;
use crate::checkpoint::copy::CopyError;
use crate::control::{
    Acquired, DocumentError, Lease, LeaseError, LeasePolicy, LeaseWatch, Prepared, inspect_lease,
};
use crate::marker::poll::{GuardRecord, error_chain};
use crate::model::{AttemptId, Generation};
use crate::process::{EndsWith, ProcessState, observe};
use crate::stop::decide::{AttemptState, Look, Moment, Next, Situation, decide};
use crate::stop::receipt::Receipt;
use crate::stop::record::{Asking, Intent, Reason, StopRecord};
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
    pub(super) lease: Option<Lease>,
    pub(super) intent: Option<Prepared<Intent>>,
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
    #[error("the checkpoint cannot be copied yet")]
    Copy(#[source] Box<CopyError>),
    #[error("the copy broke off")]
    Unfollowed(#[source] tokio::task::JoinError),
}

impl StepError {
    fn alarm(&self) -> AlarmKind {
        match self {
            StepError::Backend(_) => AlarmKind::RequestFailed,
            StepError::Copy(_) | StepError::Unfollowed(_) => AlarmKind::CopyFailed,
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

    pub(super) async fn release(&self, lease: Lease) {
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
                drive.timing.discard(self.control.storage().as_ref()).await;
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
                    drive.look_again();
                    if let Some(prepared) = drive.prepared.take() {
                        // It names a generation that is over.
                        prepared.discard(self.control.storage().as_ref()).await;
                    }
                    drive.timing.discard(self.control.storage().as_ref()).await;
                    Flow::Wait
                }
                Err(error) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    self.alarm_if_late(error.alarm(), since, &error_chain(&error));
                    // What the failed step found may not be what is there, neither of the record nor
                    // of the marker.
                    drive.is_stale = true;
                    drive.look_again();
                    Flow::Wait
                }
            };
            match flow {
                Flow::Go => {}
                Flow::Wait => self.await_drain(attempt, &drive, failing.is_some()).await,
                Flow::End(end) => {
                    if let Some(prepared) = drive.prepared.take() {
                        prepared.discard(self.control.storage().as_ref()).await;
                    }
                    drive.timing.discard(self.control.storage().as_ref()).await;
                    if let Some(lease) = drive.lease.take() {
                        self.release(lease).await;
                    }
                    for alarm in [
                        AlarmKind::Overdue,
                        AlarmKind::RequestFailed,
                        AlarmKind::NoGap,
                        AlarmKind::CannotDrain,
                    ] {
                        self.alarms.clear(alarm);
                    }
                    return end;
                }
            }
        }
    }

    /// Waits for the next look at the attempt. Only while its end is what is waited for may it cut the
    /// wait short: one that is over stays over, and what else is waited for needs its time.
    async fn await_drain(&self, attempt: &AttemptId, drive: &Drive, failing: bool) {
        let runs = matches!(
            drive.observation,
            Observation::Running | Observation::Stopping
        );
        let change = async {
            if runs && drive.lease.is_some() && !failing {
                self.backend
                    .await_change(attempt, self.spec.drain_interval)
                    .await;
            } else {
                tokio::time::sleep(self.spec.drain_interval).await;
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
        if self.asked.is_raised() {
            drive.signalled();
        } else if self.wanted.is_raised() {
            drive.wanted();
        }
        if drive.lease.is_none()
            && let Some(flow) = self.take_over(attempt, armed_in, drive).await?
        {
            return Ok(flow);
        }
        if drive.is_stale && self.read_again(attempt, drive).await? == Record::Withdrawn {
            return Ok(Flow::End(StopEnd::Withdrawn));
        }
        if let Some(lease) = drive.lease.as_mut()
            && lease.is_beat_due(self.spec.lease_ttl)
        {
            let begun = Instant::now();
            let now = lease.beat(self.control.storage().as_ref()).await?;
            drive.clock = Some((now, begun));
        }
        let begun = Instant::now();
        drive.observation = self.backend.observe(attempt, Freshness::Now).await;
        drive.observed_in = begun.elapsed();
        let is_over = matches!(
            drive.observation,
            Observation::Stopped { .. } | Observation::Restarted { .. }
        );
        if drive.reason == Reason::None && !is_over && !drive.record.steps.latched {
            // It was seen as over, and is not or cannot be told to be: nobody asked for anything.
            return Ok(Flow::End(StopEnd::Withdrawn));
        }
        let moment = if is_over {
            Moment::Now
        } else {
            Box::pin(self.moment(attempt, drive)).await?
        };
        let undrained = is_over && self.is_undrained(attempt, drive).await;
        drive.moment = moment;
        let situation = Situation {
            steps: drive.record.steps,
            look: drive.look,
            attempt: match drive.observation {
                Observation::Running | Observation::Stopping => AttemptState::Running,
                Observation::Stopped { .. } => AttemptState::Stopped,
                Observation::Restarted { .. } => AttemptState::Restarted,
                Observation::Unknown { .. } => AttemptState::Unknown,
            },
            moment,
            request: drive.request_act(),
            kill: drive.kill,
            draining_for: drive.draining_for(),
            protected: false,
            drains_itself: self.backend.drains_itself(),
            undrained,
            signalled: drive.signalled,
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

    /// Takes the lease, reads again how far the stop has come, and sets the clocks of the drain. What
    /// to do instead where the lease is not to be had, or what was wanted is out of date.
    async fn take_over(
        &mut self,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
        drive: &mut Drive,
    ) -> Result<Option<Flow>, StepError> {
        if !drive.record.steps.receipt
            && let Err(error) = self.backend.check_reach(attempt)
        {
            return self
                .follow_others(attempt, armed_in, drive, error)
                .await
                .map(Some);
        }
        let lease = match self.try_lease(&mut drive.lease_watch).await? {
            Acquired::Taken(lease) => lease,
            Acquired::Held { generation, owner } => {
                tracing::debug!(%generation, ?owner, "another stepdown drives this stop");
                drive.waited = true;
                if !self.requested.is_raised() {
                    self.see_requested(attempt, drive).await?;
                }
                return self.end_with_receipt(attempt).await.map(Some);
            }
        };
        let lease = drive.lease.insert(lease);
        drive.record = StopRecord::load(
            &self.control,
            &self.spec.job,
            &attempt.stop_id(self.spec.slot),
        )
        .await?;
        if drive.record.steps.requesting || drive.record.steps.waiting {
            let begun = Instant::now();
            let now = lease.beat(self.control.storage().as_ref()).await?;
            drive.clock = Some((now, begun));
            drive.carried = self.carried(now, &drive.record).await?;
            drive.asked = Some(Instant::now());
            tracing::info!(
                drained_for_s = drive.carried.as_secs(),
                "taking up a stop that was begun before"
            );
        }
        drive.is_stale = false;
        drive.inherit();
        drive.look_again();
        let steps = drive.record.steps;
        if steps.requested {
            self.requested.raise();
        }
        if drive.waited && drive.reason == Reason::Marker && !steps.intent && !steps.receipt {
            // The other took its stop back, or never came to it: what was confirmed before is old.
            return Ok(Some(Flow::End(StopEnd::Withdrawn)));
        }
        Ok(None)
    }

    /// Notices that another asked the attempt.
    async fn see_requested(&self, attempt: &AttemptId, drive: &mut Drive) -> Result<(), StepError> {
        let stop_id = attempt.stop_id(self.spec.slot);
        drive.record = StopRecord::load(&self.control, &self.spec.job, &stop_id).await?;
        if drive.record.steps.requested {
            self.requested.raise();
        }
        Ok(())
    }

    /// What to do about an attempt that only another host can ask: follow its receipt, or go back to
    /// watching if the marker is back.
    async fn follow_others(
        &self,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
        drive: &mut Drive,
        out_of_reach: BackendError,
    ) -> Result<Flow, StepError> {
        if let flow @ Flow::End(_) = self.end_with_receipt(attempt).await? {
            return Ok(flow);
        }
        let stop_id = attempt.stop_id(self.spec.slot);
        drive.record = StopRecord::load(&self.control, &self.spec.job, &stop_id).await?;
        if !drive.record.steps.latched
            && drive.reason != Reason::Signal
            && self.look_now(armed_in).await == Look::Withdrawn
        {
            return Ok(Flow::End(StopEnd::Withdrawn));
        }
        let held = inspect_lease(self.control.storage().as_ref(), &self.lease_dir()).await?;
        match held {
            Some((generation, _)) => {
                tracing::debug!(%generation, "another stepdown drives this stop");
                Ok(Flow::Wait)
            }
            None => Err(out_of_reach.into()),
        }
    }

    /// Reads the record after something has failed: whose acts are there, and whether another took the
    /// stop back.
    async fn read_again(
        &self,
        attempt: &AttemptId,
        drive: &mut Drive,
    ) -> Result<Record, StepError> {
        let had_intent = drive.record.steps.intent;
        let stop_id = attempt.stop_id(self.spec.slot);
        drive.record = StopRecord::load(&self.control, &self.spec.job, &stop_id).await?;
        if matches!(drive.request, Request::None) && drive.record.steps.requesting {
            let ours = drive
                .record
                .load_asking()
                .await?
                .is_some_and(|asking| asking.instance == self.instance);
            drive.inherit();
            if ours && !drive.record.steps.requested {
                drive.request = Request::Due;
            }
            drive.asked = Some(Instant::now());
        }
        drive.is_stale = false;
        let steps = drive.record.steps;
        Ok(if had_intent && !steps.intent && !steps.receipt {
            Record::Withdrawn
        } else {
            Record::Stands
        })
    }

    /// Drain time that went by before this process took the stop up.
    ///
    /// Where the same boot of the same host asked, its monotonic clock tells. Else it is the difference
    /// of two time stamps of the storage, but nothing where its clock and a host's were too far apart,
    /// then or now: a clock that jumps must not kill a job early.
    async fn carried(&self, now: Timestamp, record: &StopRecord) -> Result<Duration, StepError> {
        let mut asking = record.load_asked().await?;
        if asking.is_none() {
            asking = record.load_asking().await?;
        }
        if asking.is_none() {
            asking = record.load_waiting().await?;
        }
        if let Some(asking) = &asking
            && asking.host == self.daemon.host
            && asking.boot_id == self.daemon.boot_id
        {
            return Ok(Daemon::uptime().saturating_sub(asking.uptime));
        }
        let intent = record.load_intent().await?;
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
            return Ok(Duration::ZERO);
        }
        let since = record.asked_at.or(record.waiting_at);
        let elapsed = since.map(|since| now.duration_since(since));
        Ok(elapsed
            .and_then(|elapsed| Duration::try_from(elapsed).ok())
            .unwrap_or(Duration::ZERO))
    }

    /// What is written before the attempt is asked.
    pub(super) fn asking(&self, attempt: &AttemptId, generation: Generation) -> Asking {
        Asking {
            stop_id: attempt.stop_id(self.spec.slot),
            generation,
            instance: self.instance,
            host: self.daemon.host.clone(),
            boot_id: self.daemon.boot_id.clone(),
            uptime: Daemon::uptime(),
            boundary: None,
        }
    }
}

/// What reading the record again came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// The stop goes on from what is there.
    Stands,
    /// Another took it back before it was irrevocable.
    Withdrawn,
}
