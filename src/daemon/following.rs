//! Following one attempt of a slot: its marker, its end, its stop.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::alarm::AlarmKind;
use super::resting::RestedAttempt;
use super::slot::SlotEngine;
use super::stopping::{Early, StopEnd};
use crate::marker::MarkerState;
use crate::marker::poll::{GuardRecord, error_chain};
use crate::model::AttemptId;
use crate::stop::receipt::Receipt;
use crate::stop::record::{Armed, Reason, StopRecord, load_armed};
use crate::stop::{Freshness, Observation};

/// Pause before a failed read or write of the slot's own records is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How soon the marker of a new attempt is looked at; long enough that thousands of slots that begin
/// together share their rounds.
const FIRST_LOOK: Duration = Duration::from_millis(50);

/// Longest pause between two looks at whether another watcher has armed an attempt that is not armed
/// here.
const SLOWEST_ARMED_LOOK: Duration = Duration::from_mins(1);

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
pub(super) struct Watched {
    pub(super) marker: MarkerState,
    pub(super) armed_in: Option<GuardRecord>,
    pub(super) early: Option<Box<Early>>,
    /// Rounds that began before this say nothing.
    from: Option<Instant>,
    /// Pause before the next look at the attempt.
    pause: Duration,
    /// Whether the attempt was seen to run since it is followed.
    was_seen: bool,
    /// Since when it cannot be told whether the attempt runs.
    unseen: Option<Instant>,
    /// Whether a try to save the armed record ended without an answer, so that it may be there.
    pub(super) unsure: bool,
}

impl Watched {
    /// Of an attempt that is looked at for the first time, armed before or not.
    fn begin(armed_in: Option<GuardRecord>) -> Self {
        Self {
            from: Some(Instant::now()),
            was_seen: false,
            ..Self::resume(armed_in)
        }
    }

    /// Of one that rested: the round that woke it counts.
    fn resume(armed_in: Option<GuardRecord>) -> Self {
        Self {
            marker: MarkerState::new(armed_in.is_some()),
            armed_in,
            early: None,
            from: None,
            pause: Duration::ZERO,
            was_seen: true,
            unseen: None,
            unsure: false,
        }
    }

    /// Whether all that is left to do is to hear of a change.
    pub(super) fn is_at_rest(&self) -> bool {
        self.marker.is_armed()
            && self.marker.is_settled()
            && self.armed_in.is_some()
            && self.early.is_none()
            && self.pause.is_zero()
            && self.was_seen
            && self.unseen.is_none()
    }
}

/// What the wait for something to drive comes to.
#[derive(Debug)]
enum News {
    /// There is a stop to drive.
    Stop(Reason),
    /// Nothing is the matter, and what changes wakes the slot.
    Rest,
    /// stepdown is shutting down.
    Shutdown,
}

/// How following an attempt came to its end, or to its rest.
#[derive(Debug)]
pub(super) enum Course {
    /// As [`Followed::Receipt`].
    Receipt(Box<Receipt>),
    /// As [`Followed::Interrupted`].
    Interrupted,
    /// Nothing is the matter, and what changes wakes the slot.
    Rest(RestedAttempt),
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

impl SlotEngine {
    /// Watches over `attempt` until it is over and its receipt is written, or until the shutdown.
    pub async fn follow(&mut self, attempt: &AttemptId) -> Followed {
        match self.follow_from(attempt, None).await {
            Course::Receipt(receipt) => Followed::Receipt(receipt),
            // There is no rest without one who can be woken.
            Course::Interrupted | Course::Rest(_) => Followed::Interrupted,
        }
    }

    /// As [`SlotEngine::follow`]; from a rest in the directory in which the attempt is armed, or from
    /// what is saved of it.
    pub(super) async fn follow_from(
        &mut self,
        attempt: &AttemptId,
        rested_in: Option<GuardRecord>,
    ) -> Course {
        let (mut watched, begun) = if rested_in.is_some() {
            (Watched::resume(rested_in), false)
        } else {
            let span = self.span();
            let state = Box::pin(self.load_state(attempt)).instrument(span).await;
            let Some((armed, begun)) = state else {
                return Course::Interrupted;
            };
            self.sightings.attend();
            (Watched::begin(armed.map(|armed| armed.directory)), begun)
        };
        // A stop that was begun before this process goes on whatever the marker says meanwhile.
        let mut reason = begun.then_some(Reason::Marker);
        loop {
            let news = match reason.take() {
                Some(reason) => News::Stop(reason),
                None => self.await_reason(attempt, &mut watched).await,
            };
            let wanted = match news {
                News::Stop(reason) => reason,
                News::Rest => {
                    let Some(directory) = watched.armed_in.take() else {
                        return Course::Interrupted;
                    };
                    let attempt = attempt.clone();
                    return Course::Rest(RestedAttempt { attempt, directory });
                }
                News::Shutdown => {
                    if let Some(early) = watched.early.take() {
                        Box::pin(self.drop_early(*early)).await;
                    }
                    return Course::Interrupted;
                }
            };
            let early = watched
                .early
                .take()
                .map_or_else(Early::default, |early| *early);
            let armed_in = watched.armed_in.as_ref();
            let span = self.span();
            let stop = Box::pin(self.stop(attempt, wanted, armed_in, early));
            match stop.instrument(span).await {
                StopEnd::Receipt(receipt) => return Course::Receipt(receipt),
                StopEnd::Interrupted => return Course::Interrupted,
                StopEnd::Withdrawn => {
                    watched.marker = MarkerState::new(watched.marker.is_armed());
                    watched.from = Some(Instant::now());
                    self.sightings.attend();
                    watched.pause = if wanted == Reason::None {
                        // It looks like over and is not: not to be asked again at once.
                        self.spec.attempt_interval
                    } else {
                        Duration::ZERO
                    };
                }
            }
        }
    }

    /// Watches the attempt and its marker until there is something to drive, or nothing to wait for.
    async fn await_reason(&mut self, attempt: &AttemptId, watched: &mut Watched) -> News {
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
        if !watched.marker.is_armed() {
            // Until the marker is seen for this attempt, its removal means nothing.
            self.sightings.poke(Instant::now() + FIRST_LOOK);
        }
        // Another watcher may have seen the marker when it was there, and be gone.
        let mut armed_look = (!watched.marker.is_armed()).then(|| ArmedLook::after(interval));
        let mut change = watch(watched.pause);
        watched.unseen = None;
        if self.sleeper.is_some() && !watched.was_seen && watched.pause.is_zero() {
            // News are of changes, and one that is over before it was looked at changes no more.
            let span = self.span();
            let seen = Box::pin(self.look_at(attempt, watched))
                .instrument(span)
                .await;
            match seen {
                Seen::Over => return News::Stop(Reason::None),
                Seen::Running => {}
                Seen::Unknown => change = watch(interval),
            }
        }
        if self.backend.told_by(Some(attempt)).is_none() {
            self.beginning = None;
        }
        loop {
            if self.rest_on_attempt(attempt, watched) {
                return News::Rest;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return News::Shutdown,
                () = self.asked.raised() => return News::Stop(Reason::Signal),
                () = self.wanted.raised() => return News::Stop(Reason::Signal),
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
                    watched.pause = Duration::ZERO;
                    let span = self.span();
                    let seen = Box::pin(self.look_at(attempt, watched)).instrument(span).await;
                    change = watch(match seen {
                        Seen::Over => return News::Stop(Reason::None),
                        Seen::Running => Duration::ZERO,
                        // What changed may be that it is over, and then it changes no more.
                        Seen::Unknown => interval,
                    });
                }
                round = self.sightings.next_round() => {
                    let Some(round) = round else {
                        return News::Shutdown;
                    };
                    // What was seen before the attempt was, or before its last stop was taken back,
                    // says nothing of it.
                    if watched.from.is_some_and(|from| round.begun < from) {
                        continue;
                    }
                    let span = self.span();
                    let taken = Box::pin(self.take_round(attempt, &round, watched));
                    if taken.instrument(span).await {
                        return News::Stop(Reason::Marker);
                    }
                    if !watched.marker.is_armed() {
                        self.beginning = None;
                    }
                }
            }
        }
    }

    /// One look at the attempt that is followed.
    async fn look_at(&mut self, attempt: &AttemptId, watched: &mut Watched) -> Seen {
        match self.backend.observe(attempt, Freshness::Recent).await {
            Observation::Stopped { .. } | Observation::Restarted { .. } => Seen::Over,
            Observation::Running | Observation::Stopping => {
                watched.unseen = None;
                watched.was_seen = true;
                self.alarms.clear(AlarmKind::AttemptUnknown);
                Seen::Running
            }
            Observation::Unknown { why } => {
                let since = *watched.unseen.get_or_insert_with(Instant::now);
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
}
