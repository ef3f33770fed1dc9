//! The engine of one slot: finds its attempt, arms it, notices that its marker asks for a stop, and
//! has the stop driven to its receipt.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Daemon;
use super::alarm::{AlarmKind, Alarms};
use super::hooks::Hooks;
use super::poller::Sightings;
use super::stopping::{Early, StopEnd};
use crate::control::ControlDir;
use crate::marker::poll::{GuardRecord, Round, error_chain};
use crate::marker::{MarkerPolicy, MarkerState, Sighting, Verdict};
use crate::model::{AttemptId, JobName, Slot};
use crate::stop::decide::StopPolicy;
use crate::stop::receipt::Receipt;
use crate::stop::record::{Armed, Reason, StopRecord, load_armed, save_armed};
use crate::stop::{Backend, Freshness, Observation};
use crate::storage::{Storage, StoragePath, StorageUri};

/// Pause before a failed read or write of the slot's own records is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// All that an engine has to know of its slot.
#[derive(Debug)]
pub struct SlotSpec {
    /// The job.
    pub job: JobName,
    /// The slot.
    pub slot: Slot,
    /// The marker.
    pub marker: StorageUri,
    /// The marker's storage.
    pub marker_storage: Arc<dyn Storage>,
    /// The directory whose sentinel vouches for the marker's directory.
    pub sentinel_dir: StoragePath,
    /// How sightings become a decision.
    pub marker_policy: MarkerPolicy,
    /// How a stop goes on.
    pub stop_policy: StopPolicy,
    /// How long a lease holds without a beat.
    pub lease_ttl: Duration,
    /// Above this difference of clocks, time from before a restart of stepdown does not count.
    pub max_clock_skew: Duration,
    /// Pause between two looks at an attempt that was asked to stop.
    pub drain_interval: Duration,
    /// Pause between two looks at an attempt that runs.
    pub attempt_interval: Duration,
    /// The job's checkpoints.
    pub checkpoints: Vec<(Arc<dyn Storage>, StorageUri)>,
    /// The job's hooks.
    pub hooks: Hooks,
}

/// How following an attempt came to its end.
#[derive(Debug)]
pub enum Followed {
    /// The attempt is over and this is its receipt, written by this engine or by another.
    Receipt(Box<Receipt>),
    /// stepdown is shutting down; the attempt goes on, and what was begun can be taken up again.
    Interrupted,
}

/// The engine of one slot.
#[derive(Debug)]
pub struct SlotEngine {
    pub(super) daemon: Daemon,
    pub(super) spec: Arc<SlotSpec>,
    pub(super) control: ControlDir,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) sightings: Sightings,
    pub(super) alarms: Alarms,
    pub(super) instance: Uuid,
    pub(super) shutdown: CancellationToken,
    /// Cancelled when someone else (a signal that `run` passed on) asked the attempt already.
    pub(super) asked: CancellationToken,
    /// Since when the marker's directory has not been known for what it is.
    unguarded: Option<Instant>,
    origin: Instant,
}

impl SlotEngine {
    /// An engine that has not begun.
    pub fn new(
        daemon: Daemon,
        spec: Arc<SlotSpec>,
        control: ControlDir,
        backend: Arc<dyn Backend>,
        sightings: Sightings,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            daemon,
            spec,
            control,
            backend,
            sightings,
            alarms: Alarms::default(),
            instance: Uuid::new_v4(),
            shutdown,
            asked: CancellationToken::new(),
            unguarded: None,
            origin: Instant::now(),
        }
    }

    /// The token to cancel when the attempt was asked to stop by other means than this engine's.
    pub fn asked(&self) -> CancellationToken {
        self.asked.clone()
    }

    /// Follows one attempt of the slot after the other until the shutdown.
    pub async fn run(mut self) {
        while let Some(attempt) = self.await_attempt().await {
            match Box::pin(self.follow(&attempt)).await {
                Followed::Interrupted => return,
                Followed::Receipt(_) => {
                    // The evidence of the old attempt may be there a moment longer.
                    if !self.pause(self.spec.attempt_interval).await {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until an attempt runs in the slot. `None` at the shutdown.
    pub async fn await_attempt(&mut self) -> Option<AttemptId> {
        let mut failing: Option<Instant> = None;
        loop {
            match self.backend.find_attempt().await {
                Ok(found) => {
                    failing = None;
                    self.alarms.clear(AlarmKind::AttemptUnknown);
                    if let Some(attempt) = found
                        && !self.is_confirmed(&attempt).await
                    {
                        return Some(attempt);
                    }
                }
                Err(error) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    let text = format!("it cannot be told what runs: {}", error_chain(&error));
                    self.alarm_if_late(AlarmKind::AttemptUnknown, since, &text);
                }
            }
            if !self.pause(self.spec.attempt_interval).await {
                return None;
            }
        }
    }

    /// Whether the attempt has its receipt already: then what still shows it is out of date.
    async fn is_confirmed(&self, attempt: &AttemptId) -> bool {
        let path = self
            .control
            .receipt(&self.spec.job, &attempt.stop_id(self.spec.slot));
        self.control.storage().stat(&path).await.is_ok()
    }

    /// Waits, unless the shutdown comes: then `false`.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    /// Raises the alarm once the trouble is old enough; before that, tells of it once.
    pub(super) fn alarm_if_late(&mut self, kind: AlarmKind, since: Instant, text: &str) {
        let lasted = since.elapsed();
        if lasted >= self.spec.marker_policy.alarm_after {
            self.alarms.raise(kind, text, &self.spec.hooks);
        } else if lasted < Duration::from_millis(1) {
            tracing::warn!(alarm = kind.as_str(), "{text}");
        } else {
            tracing::debug!(alarm = kind.as_str(), "{text}");
        }
    }

    /// Watches over `attempt` until it is over and its receipt is written, or until the shutdown.
    pub async fn follow(&mut self, attempt: &AttemptId) -> Followed {
        let Some((armed, record)) = self.load_state(attempt).await else {
            return Followed::Interrupted;
        };
        tracing::info!(attempt = %attempt, armed = armed.is_some(), "following the attempt");
        let mut marker = MarkerState::new(armed.is_some());
        let mut armed_in = armed.map(|armed| armed.directory);
        if record.steps.intent || record.steps.receipt {
            // A stop that was begun before this process: whatever the marker says meanwhile.
            match Box::pin(self.stop(attempt, Reason::Marker, armed_in.as_ref(), Early::default()))
                .await
            {
                StopEnd::Receipt(receipt) => return Followed::Receipt(receipt),
                StopEnd::Interrupted => return Followed::Interrupted,
                StopEnd::Withdrawn => marker = MarkerState::new(true),
            }
        }
        let mut early = Early::default();
        let backend = Arc::clone(&self.backend);
        let mut change = Box::pin(backend.await_change(attempt, self.spec.attempt_interval));
        let mut unseen: Option<Instant> = None;
        loop {
            let reason = tokio::select! {
                () = self.shutdown.cancelled() => {
                    self.drop_early(early).await;
                    return Followed::Interrupted;
                }
                () = self.asked.cancelled() => Reason::Signal,
                () = &mut change => {
                    let seen = self.backend.observe(attempt, Freshness::Recent).await;
                    change.set(backend.await_change(attempt, self.spec.attempt_interval));
                    match seen {
                        Observation::Stopped { .. } | Observation::Restarted { .. } => Reason::None,
                        Observation::Running | Observation::Stopping => {
                            unseen = None;
                            self.alarms.clear(AlarmKind::AttemptUnknown);
                            continue;
                        }
                        Observation::Unknown { why } => {
                            let since = *unseen.get_or_insert_with(Instant::now);
                            let text = format!("it cannot be told whether the attempt runs: {why}");
                            self.alarm_if_late(AlarmKind::AttemptUnknown, since, &text);
                            continue;
                        }
                    }
                }
                round = self.sightings.next_round() => {
                    let Some(round) = round else {
                        self.drop_early(early).await;
                        return Followed::Interrupted;
                    };
                    if self.take_round(attempt, &round, &mut marker, &mut armed_in, &mut early).await {
                        Reason::Marker
                    } else {
                        continue;
                    }
                }
            };
            let early = std::mem::take(&mut early);
            match Box::pin(self.stop(attempt, reason, armed_in.as_ref(), early)).await {
                StopEnd::Receipt(receipt) => return Followed::Receipt(receipt),
                StopEnd::Interrupted => return Followed::Interrupted,
                StopEnd::Withdrawn => marker = MarkerState::new(true),
            }
        }
    }

    /// Reads what is saved of the attempt, again and again until it can be read.
    async fn load_state(&mut self, attempt: &AttemptId) -> Option<(Option<Armed>, StopRecord)> {
        let since = Instant::now();
        loop {
            match self.try_load_state(attempt).await {
                Ok(state) => {
                    self.alarms.clear(AlarmKind::RecordFailed);
                    return Some(state);
                }
                Err(error) => {
                    let text = format!("its records cannot be read: {}", error_chain(&error));
                    self.alarm_if_late(AlarmKind::RecordFailed, since, &text);
                }
            }
            if !self.pause(RETRY).await {
                return None;
            }
        }
    }

    async fn try_load_state(
        &self,
        attempt: &AttemptId,
    ) -> Result<(Option<Armed>, StopRecord), crate::control::DocumentError> {
        let spec = &self.spec;
        let _permit = self.daemon.writes.acquire().await;
        self.control.ensure_job(&spec.job, spec.slot).await?;
        let armed = load_armed(&self.control, &spec.job, spec.slot, attempt, &spec.marker).await?;
        let stop_id = attempt.stop_id(spec.slot);
        let record = StopRecord::load(&self.control, &spec.job, &stop_id).await?;
        Ok((armed, record))
    }

    /// Takes one round; true if the stop is wanted.
    async fn take_round(
        &mut self,
        attempt: &AttemptId,
        round: &Round,
        marker: &mut MarkerState,
        armed_in: &mut Option<GuardRecord>,
        early: &mut Early,
    ) -> bool {
        let sighting = round.sighting(self.sightings.index(), armed_in.as_ref());
        let at = self.origin.elapsed();
        if marker.is_armed() && self.stands(&sighting) {
            self.check_guard(round);
        }
        match marker.decide(&sighting, at, &self.spec.marker_policy) {
            Verdict::Watch => {
                if !early.is_empty() && !marker.is_asked() {
                    self.drop_early(std::mem::take(early)).await;
                }
                let moved = matches!(&round.guard, Ok(now) if armed_in.as_ref() != Some(now));
                if marker.is_armed() && moved && self.stands(&sighting) {
                    // It is seen in a directory that is not the one on record: arm it there.
                    self.arm(attempt, round, marker, armed_in).await;
                }
            }
            Verdict::Arm => self.arm(attempt, round, marker, armed_in).await,
            Verdict::LookAgainAt(when) => {
                self.sightings.poke(self.origin + when);
                // What the stop will need is made ready while the confirmation is waited for.
                if early.is_empty() {
                    *early = Box::pin(self.prepare(attempt)).await;
                }
            }
            Verdict::StopWanted => return true,
            Verdict::Alarm { unknown_for, why } => {
                let text = format!(
                    "marker {} has been unknown for {} s; the job runs on, but its removal would \
                     not be noticed: {why}",
                    self.spec.marker,
                    unknown_for.as_secs()
                );
                self.alarms
                    .raise(AlarmKind::MarkerUnknown, &text, &self.spec.hooks);
            }
            Verdict::AlarmOver => {
                self.alarms.clear(AlarmKind::MarkerUnknown);
                self.sightings.poke(Instant::now());
            }
        }
        false
    }

    /// A marker that is there says nothing of whether its removal would be noticed.
    fn check_guard(&mut self, round: &Round) {
        match &round.guard {
            Ok(_) => {
                if self.unguarded.take().is_some() {
                    self.alarms.clear(AlarmKind::Unprotected);
                }
            }
            Err(why) => {
                let since = *self.unguarded.get_or_insert_with(Instant::now);
                let text = format!(
                    "the job is unprotected: marker {} is there, but its removal would not be \
                     noticed: {why}",
                    self.spec.marker
                );
                self.alarm_if_late(AlarmKind::Unprotected, since, &text);
            }
        }
    }

    fn stands(&self, sighting: &Sighting) -> bool {
        self.spec.marker_policy.trigger.asks(sighting) == Some(false)
    }

    async fn arm(
        &mut self,
        attempt: &AttemptId,
        round: &Round,
        marker: &mut MarkerState,
        armed_in: &mut Option<GuardRecord>,
    ) {
        let saved = match &round.guard {
            Ok(directory) => {
                let armed = Armed {
                    attempt: attempt.clone(),
                    marker: self.spec.marker.clone(),
                    directory: directory.clone(),
                    armed_at: Timestamp::now(),
                };
                let _permit = self.daemon.writes.acquire().await;
                save_armed(&self.control, &self.spec.job, self.spec.slot, &armed)
                    .await
                    .map(|()| directory.clone())
                    .map_err(|error| error_chain(&error))
            }
            Err(why) => Err(why.to_string()),
        };
        match saved {
            Ok(directory) => {
                if !marker.is_armed() {
                    tracing::info!(marker = %self.spec.marker, "armed");
                }
                *armed_in = Some(directory);
                marker.set_armed();
                self.alarms.clear(AlarmKind::Unprotected);
            }
            Err(why) => {
                let text = format!(
                    "the job is unprotected: marker {} is there, but that cannot be put on \
                     record, so its removal would stop nothing: {why}",
                    self.spec.marker
                );
                self.alarms
                    .raise(AlarmKind::Unprotected, &text, &self.spec.hooks);
            }
        }
    }
}
