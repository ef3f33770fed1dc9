//! One stop, from its intent to its receipt: does what [`decide`] says.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::alarm::AlarmKind;
use super::crash_point::crash_point;
use super::hooks::HookEvent;
use super::slot::SlotEngine;
use crate::control::{
    Acquired, DocumentError, Lease, LeaseError, LeasePolicy, LeaseWatch, Prepared, Saved,
};
use crate::marker::poll::{DirectoryPoll, GuardRecord, Sighting, Why, error_chain};
use crate::model::{AttemptId, Generation};
use crate::process::{EndsWith, ProcessState, observe};
use crate::stop::decide::{Act, AttemptState, Look, Next, Outcome, Situation, decide};
use crate::stop::proof::prove;
use crate::stop::receipt::{How, Receipt, load_receipt, save_receipt};
use crate::stop::record::{Intent, Reason, StopRecord};
use crate::stop::{BackendError, Observation, StopOrder};
use crate::storage::{ErrorKind, StorageError, StoragePath};

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
enum StepError {
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
enum Flow {
    Go,
    Wait,
    End(StopEnd),
}

/// The memory of one stop in this process.
struct Drive {
    reason: Reason,
    record: StopRecord,
    lease: Option<Lease>,
    lease_watch: LeaseWatch,
    prepared: Option<Prepared<Intent>>,
    look: Look,
    request: Request,
    kill: Act,
    /// Drain time from before this process took the stop up, and when it did.
    carried: Duration,
    asked: Option<Instant>,
    observation: Observation,
}

/// State of the request in this process.
#[derive(Clone, Copy)]
enum Request {
    None,
    Due,
    Inherited(Instant),
    Done,
}

fn lease_policy(ttl: Duration) -> LeasePolicy {
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

    fn intent(&self, attempt: &AttemptId, reason: Reason, generation: Generation) -> Intent {
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
            if self.shutdown.is_cancelled() {
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
            let receipt = load_receipt(
                &self.control,
                &self.spec.job,
                &attempt.stop_id(self.spec.slot),
            )
            .await?;
            return Ok(match receipt {
                Some(receipt) => Flow::End(StopEnd::Receipt(Box::new(receipt))),
                None => Flow::Wait,
            });
        }
        if let Some(lease) = drive.lease.as_mut()
            && lease.is_beat_due(self.spec.lease_ttl)
        {
            lease.beat(self.control.storage().as_ref()).await?;
        }
        drive.observation = self.backend.observe(attempt).await;
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

    async fn is_protected(&self, attempt: &AttemptId, armed_in: Option<&GuardRecord>) -> bool {
        self.backend.reports_running(attempt).await
            && self
                .spec
                .marker_policy
                .trigger
                .asks(&self.look(armed_in).await)
                != Some(true)
    }

    /// One look at the marker, by itself.
    async fn look(&self, armed_in: Option<&GuardRecord>) -> Sighting {
        let path = &self.spec.marker.path;
        let Some(dir) = path.parent() else {
            return Sighting::Unknown(Why::NotLooked);
        };
        let mut poll = DirectoryPoll::new(
            std::sync::Arc::clone(&self.spec.marker_storage),
            dir,
            &self.spec.sentinel_dir,
            vec![path.name().to_owned()],
            self.daemon.boot_id.clone(),
        );
        poll.poll().await.sighting(0, armed_in)
    }

    /// The look after the intent, by the server that shows the intent: one that was cut off from the
    /// others, and does not know yet that it is not the active one, does not have it.
    async fn look_after_intent(
        &self,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
    ) -> Result<Look, StepError> {
        let path = self
            .control
            .intent(&self.spec.job, &attempt.stop_id(self.spec.slot));
        let same_storage =
            self.control.storage().authority() == self.spec.marker_storage.authority();
        let epoch = self.spec.marker_storage.epoch();
        if same_storage {
            match self.spec.marker_storage.stat(&path).await {
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::NotFound => return Ok(Look::Unknown),
                Err(error) => return Err(error.into()),
            }
        }
        let sighting = self.look(armed_in).await;
        if same_storage && self.spec.marker_storage.epoch() != epoch {
            return Ok(Look::Unknown);
        }
        Ok(match self.spec.marker_policy.trigger.asks(&sighting) {
            Some(true) => Look::Asks,
            Some(false) => Look::Withdrawn,
            None => {
                if let Sighting::Unknown(why) = sighting {
                    tracing::warn!("the marker is unknown, so nothing is stopped yet: {why}");
                }
                Look::Unknown
            }
        })
    }

    async fn execute(
        &mut self,
        next: Next,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
        drive: &mut Drive,
    ) -> Result<Flow, StepError> {
        let storage = std::sync::Arc::clone(self.control.storage());
        let generation = drive.generation();
        match next {
            Next::SaveIntent => {
                let prepared = match drive.prepared.take() {
                    Some(prepared) if drive.reason == Reason::Marker => prepared,
                    unfit => {
                        if let Some(prepared) = unfit {
                            prepared.discard(storage.as_ref()).await;
                        }
                        let intent = self.intent(attempt, drive.reason, generation);
                        drive.record.prepare_intent(&intent).await?
                    }
                };
                drive.record.save_intent(prepared).await?;
                crash_point("intent-saved");
            }
            Next::Look => {
                drive.look = if drive.reason == Reason::Signal {
                    Look::Asks
                } else if drive.record.steps.intent {
                    self.look_after_intent(attempt, armed_in).await?
                } else {
                    match self
                        .spec
                        .marker_policy
                        .trigger
                        .asks(&self.look(armed_in).await)
                    {
                        Some(true) => Look::Asks,
                        Some(false) => Look::Withdrawn,
                        None => Look::Unknown,
                    }
                };
                crash_point("looked");
                if drive.look == Look::Unknown {
                    return Ok(Flow::Wait);
                }
            }
            Next::Withdraw => {
                drive.record.withdraw().await?;
                tracing::info!("the marker is back: the stop is withdrawn");
                return Ok(Flow::End(StopEnd::Withdrawn));
            }
            Next::Latch => {
                drive.check_lease(storage.as_ref()).await?;
                drive.record.latch().await?;
                crash_point("latched");
                tracing::info!(stop_id = %attempt.stop_id(self.spec.slot), "stopping");
            }
            Next::SaveRequesting => {
                drive.check_lease(storage.as_ref()).await?;
                drive.request = match drive.record.save_requesting().await? {
                    Saved::Created if drive.reason == Reason::Signal => Request::Done,
                    Saved::Created => Request::Due,
                    Saved::Exists => Request::Inherited(Instant::now()),
                };
                drive.asked = Some(Instant::now());
                crash_point("requesting-saved");
            }
            Next::Request => {
                self.backend
                    .request_stop(attempt, &self.order(attempt, generation))
                    .await?;
                drive.request = Request::Done;
                crash_point("requested");
                tracing::info!(backend = self.backend.name(), "asked the attempt to stop");
            }
            Next::SaveRequested => {
                drive.record.save_requested().await?;
                crash_point("requested-saved");
            }
            Next::Observe => return Ok(Flow::Wait),
            Next::Overdue => {
                let text = format!(
                    "the drain deadline of {} s has passed and the attempt still runs{}",
                    self.spec.stop_policy.drain_deadline.as_secs(),
                    match &drive.observation {
                        Observation::Unknown { why } => format!(", as far as can be told: {why}"),
                        _ => String::new(),
                    }
                );
                self.alarms
                    .raise(AlarmKind::Overdue, &text, &self.spec.hooks);
                return Ok(Flow::Wait);
            }
            Next::SaveKilling => {
                drive.check_lease(storage.as_ref()).await?;
                drive.record.save_killing().await?;
                drive.kill = Act::Due;
                crash_point("killing-saved");
            }
            Next::Kill => {
                self.backend
                    .force(attempt, &self.order(attempt, generation))
                    .await?;
                drive.kill = Act::Done;
                crash_point("killed");
                tracing::warn!("the drain deadline has passed: the attempt was killed");
            }
            Next::Confirm(outcome) => {
                let receipt = self.confirm(outcome, attempt, armed_in, drive).await?;
                return Ok(Flow::End(StopEnd::Receipt(Box::new(receipt))));
            }
            Next::Done => {
                let stop_id = attempt.stop_id(self.spec.slot);
                if let Some(receipt) = load_receipt(&self.control, &self.spec.job, &stop_id).await?
                {
                    return Ok(Flow::End(StopEnd::Receipt(Box::new(receipt))));
                }
                return Ok(Flow::Wait);
            }
        }
        Ok(Flow::Go)
    }

    fn order(&self, attempt: &AttemptId, generation: Generation) -> StopOrder {
        StopOrder {
            job: self.spec.job.clone(),
            slot: self.spec.slot,
            stop_id: attempt.stop_id(self.spec.slot),
            generation,
            marker: self.spec.marker.clone(),
            drain_deadline: self.spec.stop_policy.drain_deadline,
        }
    }

    async fn confirm(
        &mut self,
        outcome: Outcome,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
        drive: &mut Drive,
    ) -> Result<Receipt, StepError> {
        let ended_at = Timestamp::now();
        let drained_for = drive.draining_for();
        let stop_id = attempt.stop_id(self.spec.slot);
        let steps = drive.record.steps;
        let intent = if steps.intent {
            drive.record.load_intent().await?
        } else {
            None
        };
        let start_requested = steps.latched && drive.reason != Reason::Signal && {
            self.spec
                .marker_policy
                .trigger
                .asks(&self.look(armed_in).await)
                == Some(false)
        };
        if start_requested {
            let request = self.control.start_request(&self.spec.job, &stop_id);
            self.control.storage().touch(&request).await?;
        }
        let proof = prove(&self.spec.checkpoints).await;
        crash_point("proved");
        let (exit, restarted_as) = match &drive.observation {
            Observation::Stopped { exit } => (*exit, None),
            Observation::Restarted { attempt } => (None, Some(attempt.clone())),
            Observation::Running | Observation::Stopping | Observation::Unknown { .. } => {
                (None, None)
            }
        };
        let receipt = Receipt {
            stop_id: stop_id.clone(),
            job: self.spec.job.clone(),
            slot: self.spec.slot,
            attempt: attempt.clone(),
            marker: self.spec.marker.clone(),
            outcome,
            restarted_as,
            reason: match (outcome, intent) {
                (_, Some(intent)) => intent.reason,
                (Outcome::Stopped, None) => Reason::Marker,
                (Outcome::Died | Outcome::Restarted, None) => Reason::None,
            },
            how: match outcome {
                _ if steps.killing => How::Killed,
                Outcome::Died => How::ByItself,
                _ if !steps.requesting && !self.backend.drains_itself() => How::ByItself,
                _ if drained_for > self.spec.stop_policy.drain_deadline => How::DrainedLate,
                _ => How::Drained,
            },
            exit,
            proof,
            start_requested,
            latched_at: drive.record.latched_at,
            ended_at,
            drain_seconds: steps.requesting.then_some(drained_for.as_secs_f64()),
            generation: drive.generation(),
            backend: self.backend.name().to_owned(),
            host: self.daemon.host.clone(),
            stepdown_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let saved = save_receipt(&self.control, &receipt).await?;
        crash_point("receipt-saved");
        let path = self.control.receipt(&self.spec.job, &stop_id);
        if saved == Saved::Exists {
            let first = load_receipt(&self.control, &self.spec.job, &stop_id).await?;
            return Ok(first.unwrap_or(receipt));
        }
        let uri = self.control.uri(&path);
        tracing::info!(
            outcome = ?receipt.outcome,
            proof = receipt.proof.verdict.as_str(),
            receipt = %uri,
            "the stop is confirmed"
        );
        self.spec
            .hooks
            .run(HookEvent::Receipt {
                receipt: &receipt,
                uri: &uri,
            })
            .await;
        if let (Outcome::Restarted, Some(new)) = (receipt.outcome, &receipt.restarted_as) {
            self.alarms.clear(AlarmKind::Restarted);
            let text = format!("attempt {attempt} is over, but {new} runs in its place");
            self.alarms
                .raise(AlarmKind::Restarted, &text, &self.spec.hooks);
        }
        Ok(receipt)
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

    /// The attempt was asked by a signal that was passed on: no further request is due.
    fn signalled(&mut self) {
        self.reason = Reason::Signal;
        self.look = Look::Asks;
        if matches!(self.request, Request::Due) {
            self.request = Request::Done;
        }
    }

    fn generation(&self) -> Generation {
        self.lease.as_ref().map_or(Generation(0), Lease::generation)
    }

    async fn check_lease(&self, storage: &dyn crate::storage::Storage) -> Result<(), LeaseError> {
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

    fn draining_for(&self) -> Duration {
        self.asked
            .map_or(Duration::ZERO, |since| self.carried + since.elapsed())
    }
}
