//! The engine of one slot: finds its attempt, arms it, notices that its marker asks for a stop, and
//! has the stop driven to its receipt.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use uuid::Uuid;

use super::Daemon;
use super::alarm::{AlarmKind, Alarms};
use super::copying::CopyOrders;
use super::flag::Flag;
use super::hooks::Hooks;
use super::poller::Sightings;
use super::stopping::{Early, StopEnd};
use crate::control::ControlDir;
use crate::marker::poll::{GuardRecord, Round, error_chain};
use crate::marker::{MarkerPolicy, MarkerState, Sighting, Verdict};
use crate::model::{AttemptId, JobName, Slot};
use crate::stop::boundary::BoundaryPolicy;
use crate::stop::decide::StopPolicy;
use crate::stop::receipt::Receipt;
use crate::stop::record::{Armed, Reason, StopRecord, load_armed, load_unconfirmed, save_armed};
use crate::stop::{Backend, Freshness, Observation};
use crate::storage::{ErrorKind, Storage, StoragePath, StorageUri};

/// Pause before a failed read or write of the slot's own records is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How soon the marker of a new attempt is looked at; long enough that thousands of slots that begin
/// together share their rounds.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// Longest pause between two looks at whether another watcher has armed an attempt that is not armed
/// here.
const SLOWEST_ARMED_LOOK: Duration = Duration::from_mins(1);

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
    /// How a request waits until they are between two batches, where it does.
    pub boundary: Option<Arc<BoundaryPolicy>>,
    /// What is done with them after a stop: copies for the new job.
    pub copy_orders: Option<Arc<CopyOrders>>,
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

/// What an engine remembers of the marker of the attempt that it follows.
#[derive(Debug)]
struct Watched {
    marker: MarkerState,
    armed_in: Option<GuardRecord>,
    early: Option<Box<Early>>,
    /// Rounds that began before this say nothing.
    from: Instant,
    /// Pause before the next look at the attempt.
    pause: Duration,
    /// Whether a try to save the armed record ended without an answer, so that it may be there.
    unsure: bool,
}

/// What a look at an attempt comes to.
#[derive(Debug, Clone, Copy)]
enum Seen {
    Running,
    Over,
    Unknown,
}

/// The rhythm in which an attempt that is not armed here is looked for among the armed ones: doubled
/// from look to look, so that thousands of jobs without a marker cost little.
struct ArmedLook {
    pause: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl ArmedLook {
    fn after(pause: Duration) -> Self {
        Self {
            pause,
            sleep: Box::pin(tokio::time::sleep(pause)),
        }
    }
}

/// Returns at the next look, if there is one.
async fn next_armed_look(look: &mut Option<ArmedLook>) {
    let Some(look) = look else {
        return std::future::pending().await;
    };
    look.sleep.as_mut().await;
    look.pause = (look.pause * 2).min(SLOWEST_ARMED_LOOK.max(look.pause));
    look.sleep.as_mut().reset(Instant::now() + look.pause);
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
    /// Raised when someone else (a signal that `run` passed on) asked the attempt already.
    pub(super) asked: Flag,
    /// Raised when someone (a signal to `run`) wants the stop, and this engine is to ask the attempt.
    pub(super) wanted: Flag,
    /// Raised when someone else (a second signal to `run`) killed the attempt.
    pub(super) aborted: Flag,
    /// Raised when the attempt is known to have been asked by this engine or by one before it.
    pub(super) requested: Flag,
    /// Attempts that ended, or may have, while no engine looked; none before they were looked for.
    left_over: Option<Vec<AttemptId>>,
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
            asked: Flag::default(),
            wanted: Flag::default(),
            aborted: Flag::default(),
            requested: Flag::default(),
            left_over: None,
            unguarded: None,
            origin: Instant::now(),
        }
    }

    /// The token to cancel when the attempt was asked to stop by other means than this engine's.
    pub fn asked(&self) -> CancellationToken {
        self.asked.token()
    }

    /// The token to cancel when the attempt is to be asked, whatever its marker says.
    pub fn wanted(&self) -> CancellationToken {
        self.wanted.token()
    }

    /// The token to cancel when the attempt was killed by other means than this engine's.
    pub fn aborted(&self) -> CancellationToken {
        self.aborted.token()
    }

    /// The token that is cancelled as soon as it is known that the attempt was asked.
    pub fn requested(&self) -> CancellationToken {
        self.requested.token()
    }

    /// What the log says of the slot. Made when there is something to say, and not kept: thousands of
    /// idle slots have nothing to.
    fn span(&self) -> tracing::Span {
        let spec = &self.spec;
        tracing::info_span!("slot", job = %spec.job, slot = %spec.slot, marker = %spec.marker)
    }

    // What is rare is boxed from here on, so that an engine that only waits is small.

    /// Follows one attempt of the slot after the other until the shutdown.
    pub async fn run(mut self) {
        while let Some(attempt) = Box::pin(self.await_attempt()).await {
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

    /// Waits until there is an attempt to follow: one that runs in the slot, or one that ended while
    /// nobody looked and has no receipt yet. `None` at the shutdown.
    pub async fn await_attempt(&mut self) -> Option<AttemptId> {
        let mut failing: Option<Instant> = None;
        loop {
            let span = self.span();
            let looked = Box::pin(self.look_for_attempt(&mut failing)).instrument(span);
            if let Some(found) = looked.await {
                return Some(found);
            }
            let backend = &self.backend;
            let interval = self.spec.attempt_interval;
            let news = match failing {
                None => backend.await_news(None, interval),
                Some(_) => Box::pin(tokio::time::sleep(interval)),
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = news => {}
            }
        }
    }

    async fn look_for_attempt(&mut self, failing: &mut Option<Instant>) -> Option<AttemptId> {
        match self.find_attempt().await {
            Ok(found) => {
                *failing = None;
                self.alarms.clear(AlarmKind::AttemptUnknown);
                found
            }
            Err(why) => {
                let since = *failing.get_or_insert_with(Instant::now);
                let text = format!("it cannot be told what runs: {why}");
                self.alarm_if_late(AlarmKind::AttemptUnknown, since, &text);
                None
            }
        }
    }

    async fn find_attempt(&mut self) -> Result<Option<AttemptId>, String> {
        if let Some(ended) = self.find_left_over().await? {
            return Ok(Some(ended));
        }
        let found = self.backend.find_attempt().await;
        let found = found.map_err(|error| error_chain(&error))?;
        Ok(match found {
            Some(attempt) if self.is_confirmed(&attempt).await => None,
            other => other,
        })
    }

    /// An attempt that was armed, has no receipt and is over: an engine before this one did not come
    /// to write it. Those of which nothing can be told here are asked for again each time.
    async fn find_left_over(&mut self) -> Result<Option<AttemptId>, String> {
        let mut left = if let Some(left) = self.left_over.take() {
            left
        } else {
            let _permit = self.daemon.writes.acquire().await;
            load_unconfirmed(&self.control, &self.spec.job, self.spec.slot)
                .await
                .map_err(|error| error_chain(&error))?
        };
        let mut still = Vec::new();
        let mut found = None;
        while let Some(attempt) = left.pop() {
            match self.backend.observe(&attempt, Freshness::Now).await {
                Observation::Stopped { .. } | Observation::Restarted { .. } => {
                    if !self.is_confirmed(&attempt).await {
                        tracing::warn!(attempt = %attempt, "an earlier attempt ended unseen");
                        found = Some(attempt);
                        break;
                    }
                }
                // It is found as the one that runs.
                Observation::Running | Observation::Stopping => {}
                Observation::Unknown { why } => {
                    tracing::debug!(attempt = %attempt, "nothing is known of it here: {why}");
                    if !self.is_confirmed(&attempt).await {
                        still.push(attempt);
                    }
                }
            }
        }
        left.extend(still);
        self.left_over = Some(left);
        Ok(found)
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
        let span = self.span();
        let state = Box::pin(self.load_state(attempt)).instrument(span).await;
        let Some((armed, begun)) = state else {
            return Followed::Interrupted;
        };
        let mut watched = Watched {
            marker: MarkerState::new(armed.is_some()),
            armed_in: armed.map(|armed| armed.directory),
            early: None,
            from: Instant::now(),
            pause: Duration::ZERO,
            unsure: false,
        };
        // A stop that was begun before this process goes on whatever the marker says meanwhile.
        let mut reason = begun.then_some(Reason::Marker);
        loop {
            let wanted = match reason.take() {
                Some(reason) => Some(reason),
                None => self.await_reason(attempt, &mut watched).await,
            };
            let Some(wanted) = wanted else {
                if let Some(early) = watched.early.take() {
                    Box::pin(self.drop_early(*early)).await;
                }
                return Followed::Interrupted;
            };
            let early = watched
                .early
                .take()
                .map_or_else(Early::default, |early| *early);
            let armed_in = watched.armed_in.as_ref();
            let span = self.span();
            let stop = Box::pin(self.stop(attempt, wanted, armed_in, early));
            match stop.instrument(span).await {
                StopEnd::Receipt(receipt) => return Followed::Receipt(receipt),
                StopEnd::Interrupted => return Followed::Interrupted,
                StopEnd::Withdrawn => {
                    watched.marker = MarkerState::new(watched.marker.is_armed());
                    watched.from = Instant::now();
                    if wanted == Reason::None {
                        // It looks like over and is not: not to be asked again at once.
                        watched.pause = self.spec.attempt_interval;
                    }
                }
            }
        }
    }

    /// Watches the attempt and its marker until there is something to drive. `None` at the shutdown.
    async fn await_reason(&mut self, attempt: &AttemptId, watched: &mut Watched) -> Option<Reason> {
        let backend = Arc::clone(&self.backend);
        let interval = self.spec.attempt_interval;
        let watch = |after: Duration| {
            let news = backend.await_news(Some(attempt), interval);
            if after.is_zero() {
                return news;
            }
            Box::pin(async move {
                tokio::time::sleep(after).await;
                news.await;
            })
        };
        self.sightings.attend();
        if !watched.marker.is_armed() {
            // Until the marker is seen for this attempt, its removal means nothing.
            self.sightings.poke(Instant::now() + FIRST_LOOK);
        }
        // Another watcher may have seen the marker when it was there, and be gone.
        let mut armed_look = (!watched.marker.is_armed()).then(|| ArmedLook::after(interval));
        let mut change = watch(std::mem::take(&mut watched.pause));
        let mut unseen: Option<Instant> = None;
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = self.asked.raised() => return Some(Reason::Signal),
                () = self.wanted.raised() => return Some(Reason::Signal),
                () = next_armed_look(&mut armed_look) => {
                    if !watched.marker.is_armed() {
                        let span = self.span();
                        Box::pin(self.see_armed(attempt, watched)).instrument(span).await;
                        // Its absence may be what was seen all the time.
                        self.sightings.attend();
                        self.sightings.poke(Instant::now());
                    }
                    if watched.marker.is_armed() {
                        armed_look = None;
                    }
                }
                () = &mut change => {
                    let span = self.span();
                    let seen = Box::pin(self.look_at(attempt, &mut unseen)).instrument(span).await;
                    change = watch(match seen {
                        Seen::Over => return Some(Reason::None),
                        Seen::Running => Duration::ZERO,
                        // What changed may be that it is over, and then it changes no more.
                        Seen::Unknown => interval,
                    });
                }
                round = self.sightings.next_round() => {
                    let round = round?;
                    // What was seen before the attempt was, or before its last stop was taken back,
                    // says nothing of it.
                    if round.begun < watched.from {
                        continue;
                    }
                    let span = self.span();
                    let taken = Box::pin(self.take_round(attempt, &round, watched));
                    if taken.instrument(span).await {
                        return Some(Reason::Marker);
                    }
                }
            }
        }
    }

    /// One look at the attempt that is followed.
    async fn look_at(&mut self, attempt: &AttemptId, unseen: &mut Option<Instant>) -> Seen {
        match self.backend.observe(attempt, Freshness::Recent).await {
            Observation::Stopped { .. } | Observation::Restarted { .. } => Seen::Over,
            Observation::Running | Observation::Stopping => {
                *unseen = None;
                self.alarms.clear(AlarmKind::AttemptUnknown);
                Seen::Running
            }
            Observation::Unknown { why } => {
                let since = *unseen.get_or_insert_with(Instant::now);
                let text = format!("it cannot be told whether the attempt runs: {why}");
                self.alarm_if_late(AlarmKind::AttemptUnknown, since, &text);
                Seen::Unknown
            }
        }
    }

    /// Reads what is saved of the attempt, again and again until it can be read: whether it was armed,
    /// and whether its stop was begun.
    async fn load_state(&mut self, attempt: &AttemptId) -> Option<(Option<Armed>, bool)> {
        let since = Instant::now();
        loop {
            match self.try_load_state(attempt).await {
                Ok((armed, record)) => {
                    self.alarms.clear(AlarmKind::RecordFailed);
                    let armed_before = armed.is_some();
                    tracing::info!(%attempt, armed = armed_before, "following the attempt");
                    return Some((armed, record.steps.intent || record.steps.receipt));
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
        // Without its sentinel the directory may be another one, and "not armed" would be no answer.
        self.control.vouch().await?;
        self.control.ensure_job(&spec.job, spec.slot).await?;
        let armed = load_armed(&self.control, &spec.job, spec.slot, attempt, &spec.marker).await?;
        let stop_id = attempt.stop_id(spec.slot);
        let record = StopRecord::load(&self.control, &spec.job, &stop_id).await?;
        if record.steps.requested {
            self.requested.raise();
        }
        Ok((armed, record))
    }

    /// Takes one round; true if the stop is wanted.
    async fn take_round(
        &mut self,
        attempt: &AttemptId,
        round: &Round,
        watched: &mut Watched,
    ) -> bool {
        let policy = self.spec.marker_policy;
        if watched.unsure && !watched.marker.is_armed() {
            self.see_armed(attempt, watched).await;
        }
        let armed_in = watched.armed_in.as_ref();
        let sighting = round.sighting(self.sightings.index(), policy.trigger, armed_in);
        let at = round.begun.saturating_duration_since(self.origin);
        if watched.marker.is_armed() && self.stands(&sighting) {
            self.check_guard(round);
        }
        match watched.marker.decide(&sighting, at, &policy) {
            Verdict::Watch => {
                if !watched.marker.is_asked()
                    && let Some(early) = watched.early.take()
                {
                    self.drop_early(*early).await;
                }
                let moved = matches!(&round.guard, Ok(now) if armed_in != Some(now));
                if watched.marker.is_armed() && moved && self.stands(&sighting) {
                    // It is seen in a directory that is not the one on record: arm it there.
                    self.arm(attempt, round, watched).await;
                } else if watched.marker.is_settled() && round.guard.is_ok() {
                    self.sightings.rest_on(round);
                }
            }
            Verdict::Arm => self.arm(attempt, round, watched).await,
            Verdict::LookAgainAt(when) => {
                self.sightings.poke(self.origin + when);
                // What the stop will need is made ready while the confirmation is waited for.
                if watched.early.is_none() {
                    let early = self.prepare(attempt).await;
                    watched.early = (!early.is_empty()).then(|| Box::new(early));
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

    /// Looks whether the record was saved after all.
    async fn see_armed(&mut self, attempt: &AttemptId, watched: &mut Watched) {
        let spec = &self.spec;
        let armed = load_armed(&self.control, &spec.job, spec.slot, attempt, &spec.marker).await;
        if let Ok(Some(armed)) = armed {
            tracing::info!(marker = %spec.marker, "armed");
            watched.armed_in = Some(armed.directory);
            watched.marker.set_armed();
            self.alarms.clear(AlarmKind::Unprotected);
        }
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

    async fn arm(&mut self, attempt: &AttemptId, round: &Round, watched: &mut Watched) {
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
                    .map_err(|error| {
                        watched.unsure = error.storage_kind() == Some(ErrorKind::OutcomeUnknown);
                        error_chain(&error)
                    })
            }
            Err(why) => Err(why.to_string()),
        };
        match saved {
            Ok(directory) => {
                if !watched.marker.is_armed() {
                    tracing::info!(marker = %self.spec.marker, "armed");
                }
                watched.armed_in = Some(directory);
                watched.marker.set_armed();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::poller::{PollPolicy, Poller};
    use crate::marker::{DirectoryPoll, Trigger};
    use crate::stop::decide::Escalate;
    use crate::stop::driver::DriverBackend;
    use crate::stop::status::StatusBoard;
    use crate::storage::memory::MemoryStorage;

    fn spec(storage: &Arc<dyn Storage>) -> SlotSpec {
        let job: JobName = "clicks".parse().unwrap();
        let dir = StoragePath::parse("/m").unwrap();
        SlotSpec {
            slot: Slot::Blue,
            marker: StorageUri::new(storage.authority().clone(), dir.join("clicks.blue")),
            marker_storage: Arc::clone(storage),
            sentinel_dir: dir,
            marker_policy: MarkerPolicy {
                trigger: Trigger::Disappears,
                confirm: 2,
                confirm_spacing: Duration::from_millis(20),
                alarm_after: Duration::from_mins(1),
            },
            stop_policy: StopPolicy {
                drain_deadline: Duration::from_mins(30),
                escalate: Escalate::Never,
                resend_after: Duration::from_mins(1),
                kill_deadline: Duration::from_mins(1),
            },
            lease_ttl: Duration::from_secs(30),
            max_clock_skew: Duration::from_mins(1),
            drain_interval: Duration::from_millis(500),
            attempt_interval: Duration::from_secs(5),
            checkpoints: Vec::new(),
            boundary: None,
            copy_orders: None,
            hooks: Hooks::none(job.clone(), Slot::Blue),
            job,
        }
    }

    /// Thousands of engines wait at the same time; what they hold while they do is counted here, so
    /// that a rare path that is not boxed shows.
    #[tokio::test]
    async fn an_engine_that_waits_is_small() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new("small"));
        let control = ControlDir::new(Arc::clone(&storage), StoragePath::parse("/c").unwrap());
        let spec = Arc::new(spec(&storage));
        let board = Arc::new(StatusBoard::new(control.clone(), Duration::from_secs(1)));
        let backend: Arc<dyn Backend> = Arc::new(DriverBackend::new(
            board,
            spec.job.clone(),
            spec.slot,
            Duration::from_mins(2),
        ));
        let policy = PollPolicy {
            interval: Duration::from_secs(5),
            jitter: 0.0,
        };
        let poll = DirectoryPoll::new(
            storage,
            spec.sentinel_dir.clone(),
            &spec.sentinel_dir,
            vec!["clicks.blue".to_owned()],
            String::new(),
        );
        let (_poller, mut views) = Poller::new(poll, policy, 1);
        let attempt = AttemptId::Named {
            name: "application_1_1".to_owned(),
        };
        let process = AttemptId::Process {
            host: "h".to_owned(),
            boot_id: "b".to_owned(),
            pid: 1,
            start_ticks: 1,
        };
        let daemon = Daemon::new("h".to_owned(), "b".to_owned(), process);
        let shutdown = CancellationToken::new();
        let sightings = views.swap_remove(0);
        let mut engine =
            SlotEngine::new(daemon, spec, control, backend.clone(), sightings, shutdown);
        // Each future borrows the engine until it is measured.
        let waiting = size_of_val(&engine.await_attempt());
        let following = size_of_val(&engine.follow(&attempt));
        let news = size_of_val(&*backend.await_news(Some(&attempt), Duration::ZERO));
        let idle = size_of_val(&engine);
        let running = size_of_val(&engine.run());
        // A build that is not optimised keeps what is passed to a future twice.
        let sizes = [
            ("spec", size_of::<SlotSpec>(), 480),
            ("engine", idle, 320),
            ("wait for an attempt", waiting, 560),
            ("follow", following, 1_250),
            ("news", news, 500),
            ("run", running, 900),
        ];
        for (what, bytes, limit) in sizes {
            assert!(bytes <= limit, "{what} takes {bytes} bytes; all: {sizes:?}");
        }
    }
}
