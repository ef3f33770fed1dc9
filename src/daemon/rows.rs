//! The slots of one directory: a row for each, and an engine for those in which something happens.

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayString;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Daemon;
use super::alarm::Alarms;
use super::poller::{Poller, Views};
use super::resting::{Rested, RestedAttempt};
use super::sentinel_keeper::SentinelKeeper;
use super::slot::SlotEngine;
use super::watch::SlotSource;
use crate::marker::GuardRecord;
use crate::marker::poll::error_chain;
use crate::model::AttemptId;
use crate::process::heap;
use crate::stop::Backend;
use crate::stop::wakes::{Sleeper, Wakes};

/// How many slots of a directory are looked at for the first time at once: few enough to fit into what
/// reading the configuration has left in the heap, and enough that a start takes few rounds, since each
/// attempt that was not armed before has to see one.
const STARTS_AT_ONCE: usize = 512;

/// From so many engines at once on, what they leave behind is given back to the system.
const MANY: usize = 128;

/// How long a first look counts among those: one that hangs must not keep the others waiting.
const START: Duration = Duration::from_secs(20);

/// What is known of one slot.
#[derive(Debug)]
struct Row {
    /// Its position in the source of the slots.
    place: u32,
    /// The same for all its engines, with what it knows of the attempt.
    backend: Arc<dyn Backend>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nobody has looked yet.
    New,
    /// It has an engine, and was woken since that began, or not.
    Awake { was_woken: bool },
    /// Nothing runs in it.
    Idle,
    /// Nothing is the matter with its attempt.
    Armed {
        attempt: KeptAttempt,
        /// Nearly always the same for all.
        directory: Arc<GuardRecord>,
    },
    /// It rests, and alarms are on.
    Alarmed(Box<Rested>),
}

/// The attempt of a slot that rests. A name lies in the row itself: ten thousand small pieces that are kept,
/// among all that a start frees, would keep as many pages of the heap.
#[derive(Debug)]
enum KeptAttempt {
    Short(ArrayString<SHORT_NAME>),
    /// Another one, or with a longer name.
    Other(Box<AttemptId>),
}

/// The application id of YARN with an attempt number has 34 bytes, a pod's uid 36.
const SHORT_NAME: usize = 54;

impl From<AttemptId> for KeptAttempt {
    fn from(attempt: AttemptId) -> Self {
        match &attempt {
            AttemptId::Named { name } => match ArrayString::from(name) {
                Ok(short) => KeptAttempt::Short(short),
                Err(_) => KeptAttempt::Other(Box::new(attempt)),
            },
            AttemptId::Process { .. } => KeptAttempt::Other(Box::new(attempt)),
        }
    }
}

impl From<KeptAttempt> for AttemptId {
    fn from(kept: KeptAttempt) -> Self {
        match kept {
            KeptAttempt::Short(name) => AttemptId::Named {
                name: name.as_str().to_owned(),
            },
            KeptAttempt::Other(attempt) => *attempt,
        }
    }
}

/// What a task of a directory comes to.
enum Ended {
    /// The poller ended.
    Poller,
    /// The engine of the row with this number rests, or ended.
    Engine(u32, Option<Rested>),
}

/// The slots of one directory.
pub(super) struct Rows {
    daemon: Daemon,
    source: Arc<dyn SlotSource>,
    slots: Vec<Row>,
    wakes: Arc<Wakes>,
    views: Views,
    stop: CancellationToken,
    tasks: JoinSet<Ended>,
    /// The directory that was rested in last.
    directory: Option<Arc<GuardRecord>>,
}

impl Rows {
    /// Rows for the slots at these `places` of the source, with their backends, in the order of the poll
    /// from which the `views` come.
    pub(super) fn new(
        daemon: Daemon,
        source: Arc<dyn SlotSource>,
        places: Vec<(u32, Arc<dyn Backend>)>,
        wakes: Arc<Wakes>,
        views: Views,
        stop: CancellationToken,
    ) -> Self {
        let row = |(place, backend)| Row {
            place,
            backend,
            state: State::New,
        };
        Self {
            daemon,
            source,
            slots: places.into_iter().map(row).collect(),
            wakes,
            views,
            stop,
            tasks: JoinSet::new(),
            directory: None,
        }
    }

    /// Runs the poller, and an engine for each slot that has something to do, until all have ended
    /// after the stop. True if none failed.
    pub(super) async fn run(mut self, keeper: SentinelKeeper, poller: Poller) -> bool {
        let polling = keeper.run(poller, self.stop.clone());
        self.tasks.spawn(async move {
            polling.await;
            Ended::Poller
        });
        let wakes = Arc::clone(&self.wakes);
        let stop = self.stop.clone();
        let starts = Arc::new(Semaphore::new(STARTS_AT_ONCE));
        let mut begun = 0_usize;
        let mut is_sound = true;
        let mut most = 0;
        loop {
            most = most.max(self.tasks.len());
            if most >= MANY && self.tasks.len() <= most / 8 && begun == self.slots.len() {
                most = 0;
                heap::give_back();
            }
            let is_stopped = stop.is_cancelled();
            if is_stopped && self.tasks.is_empty() {
                return is_sound;
            }
            tokio::select! {
                () = stop.cancelled(), if !is_stopped => {}
                Some(ended) = self.tasks.join_next() => {
                    if !self.take(ended) {
                        // One engine's fault must not leave its slot unwatched in silence: the whole
                        // group ends, the daemon notices and ends with an error, and its supervisor
                        // starts it anew.
                        is_sound = false;
                        stop.cancel();
                    }
                }
                woken = wakes.next(), if !is_stopped => {
                    for number in woken {
                        self.wake(number);
                    }
                }
                permit = Arc::clone(&starts).acquire_owned(), if !is_stopped && begun < self.slots.len() => {
                    self.begin(begun, permit.ok());
                    begun += 1;
                }
            }
        }
    }

    /// Takes the end of a task; false if it was a fault.
    fn take(&mut self, ended: Result<Ended, tokio::task::JoinError>) -> bool {
        match ended {
            Ok(Ended::Engine(number, Some(rested))) => {
                let state = self.state_of(rested);
                let row = usize::try_from(number)
                    .ok()
                    .and_then(|at| self.slots.get_mut(at));
                if let Some(row) = row {
                    let before = std::mem::replace(&mut row.state, state);
                    if matches!(before, State::Awake { was_woken: true }) {
                        self.wake(number);
                    }
                }
                true
            }
            Ok(Ended::Poller | Ended::Engine(_, None)) => {
                let is_expected = self.stop.is_cancelled();
                if !is_expected {
                    tracing::error!("a task ended although nobody asked for it");
                }
                is_expected
            }
            Err(error) => {
                tracing::error!("a task failed: {error}");
                !error.is_panic()
            }
        }
    }

    fn state_of(&mut self, rested: Rested) -> State {
        if !rested.alarms.is_empty() {
            return State::Alarmed(Box::new(rested));
        }
        let Some(RestedAttempt { attempt, directory }) = rested.armed else {
            return State::Idle;
        };
        let shared = match &self.directory {
            Some(known) if **known == directory => Arc::clone(known),
            _ => Arc::clone(self.directory.insert(Arc::new(directory))),
        };
        State::Armed {
            attempt: attempt.into(),
            directory: shared,
        }
    }

    /// Has a slot looked at for the first time.
    fn begin(&mut self, at: usize, permit: Option<OwnedSemaphorePermit>) {
        let (Ok(number), Some(row)) = (u32::try_from(at), self.slots.get_mut(at)) else {
            return;
        };
        row.state = State::Awake { was_woken: false };
        let (place, backend) = (row.place, Arc::clone(&row.backend));
        let Some(mut engine) = self.engine(number, place, backend) else {
            return;
        };
        let sleeper = Sleeper::new(Arc::clone(&self.wakes), number);
        let begun = engine.begun();
        tokio::spawn(async move {
            // Whichever comes first.
            let _over = tokio::time::timeout(START, begun).await;
            drop(permit);
        });
        self.tasks
            .spawn(async move { Ended::Engine(number, engine.run_to_rest(sleeper, None).await) });
    }

    /// Makes the engine of a slot that rests again; one that is awake sees by itself what woke it.
    fn wake(&mut self, number: u32) {
        let row = usize::try_from(number)
            .ok()
            .and_then(|at| self.slots.get_mut(at));
        let Some(row) = row else {
            return;
        };
        let awake = State::Awake { was_woken: false };
        let rested = match std::mem::replace(&mut row.state, awake) {
            State::New => {
                row.state = State::New;
                return;
            }
            State::Awake { .. } => {
                row.state = State::Awake { was_woken: true };
                return;
            }
            State::Idle => Rested {
                armed: None,
                alarms: Alarms::default(),
            },
            State::Armed { attempt, directory } => Rested {
                armed: Some(RestedAttempt {
                    attempt: attempt.into(),
                    directory: Arc::unwrap_or_clone(directory),
                }),
                alarms: Alarms::default(),
            },
            State::Alarmed(rested) => *rested,
        };
        let (place, backend) = (row.place, Arc::clone(&row.backend));
        let Some(engine) = self.engine(number, place, backend) else {
            return;
        };
        let sleeper = Sleeper::new(Arc::clone(&self.wakes), number);
        self.tasks.spawn(async move {
            Ended::Engine(number, engine.run_to_rest(sleeper, Some(rested)).await)
        });
    }

    /// The engine of a slot. `None` where it cannot be made, although it could at the start: then the
    /// group ends.
    fn engine(&self, number: u32, place: u32, backend: Arc<dyn Backend>) -> Option<SlotEngine> {
        let (Ok(index), Ok(place)) = (usize::try_from(number), usize::try_from(place)) else {
            return None;
        };
        match self.source.plan(place) {
            Ok(planned) => {
                let sightings = self.views.of(index);
                sightings.stay_awake();
                Some(SlotEngine::new(
                    self.daemon.clone(),
                    planned.spec,
                    planned.control,
                    backend,
                    sightings,
                    self.stop.clone(),
                ))
            }
            Err(error) => {
                tracing::error!("a slot cannot be set up: {}", error_chain(&error));
                self.stop.cancel();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_kept_as_it_is() {
        let named = |name: &str| AttemptId::Named {
            name: name.to_owned(),
        };
        let process = AttemptId::Process {
            host: "h".to_owned(),
            boot_id: "b".to_owned(),
            pid: 1,
            start_ticks: 2,
        };
        let long = "x".repeat(SHORT_NAME + 1);
        for attempt in [
            named("application_1795153035831_06656/1"),
            named(&long),
            named(""),
            process,
        ] {
            let kept = KeptAttempt::from(attempt.clone());
            assert_eq!(AttemptId::from(kept), attempt);
        }
    }
}
