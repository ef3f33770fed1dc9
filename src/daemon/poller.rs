//! One task for each directory with markers: polls it, tells all slots.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::marker::poll::{DirectoryPoll, Round, Why};
use crate::marker::watch::HintWatcher;
use crate::storage::{Authority, DirIdentity};

/// Two polls after hints are at least this far apart.
const HINT_GAP: Duration = Duration::from_millis(5);

/// How many requests to look sooner may wait; more of them say nothing new.
const POKES: usize = 64;

/// When to poll.
#[derive(Debug, Clone, Copy)]
pub struct PollPolicy {
    /// Pause between two rounds.
    pub interval: Duration,
    /// Share of the pause by which it is changed at random, 0 to 1.
    pub jitter: f64,
}

/// A slot's view of the poller of its directory.
#[derive(Debug, Clone)]
pub struct Sightings {
    rounds: watch::Receiver<Arc<Round>>,
    pokes: mpsc::Sender<Instant>,
    index: usize,
}

impl Sightings {
    /// Waits for the next round and returns it. `None` when the poller has ended.
    ///
    /// Cancel-safe. A round that came while nobody waited is returned at once, the newest only.
    pub async fn next_round(&mut self) -> Option<Arc<Round>> {
        self.rounds.changed().await.ok()?;
        Some(Arc::clone(&self.rounds.borrow_and_update()))
    }

    /// Position of this slot's marker in a round.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Asks for a poll at `at`, if none comes before.
    pub fn poke(&self, at: Instant) {
        // A full channel means that a poll is about to happen.
        let _full = self.pokes.try_send(at);
    }
}

/// A poller that has not been started.
#[derive(Debug)]
pub struct Poller {
    poll: DirectoryPoll,
    policy: PollPolicy,
    rounds: watch::Sender<Arc<Round>>,
    pokes: mpsc::Receiver<Instant>,
}

impl Poller {
    /// A poller, and the views of `count` markers in the order in which `poll` has them.
    pub fn new(poll: DirectoryPoll, policy: PollPolicy, count: usize) -> (Poller, Vec<Sightings>) {
        let none = Round {
            guard: Err(Why::NotLooked),
            markers: Vec::new(),
        };
        let (rounds, receiver) = watch::channel(Arc::new(none));
        let (pokes, requests) = mpsc::channel(POKES);
        let views = (0..count)
            .map(|index| Sightings {
                rounds: receiver.clone(),
                pokes: pokes.clone(),
                index,
            })
            .collect();
        (
            Poller {
                poll,
                policy,
                rounds,
                pokes: requests,
            },
            views,
        )
    }

    /// All rounds as they come, the newest only.
    pub fn rounds(&self) -> watch::Receiver<Arc<Round>> {
        self.rounds.subscribe()
    }

    /// Polls until `shutdown`, or until no slot listens any more.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (hint_sender, mut hints) = mpsc::channel(1);
        let mut hinting: Option<(HintWatcher, DirIdentity)> = None;
        let mut wanted: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let round = self.poll.poll().await;
            tracing::trace!(dir = %self.poll.dir(), known = round.guard.is_ok(), "round");
            self.renew_hints(&round, &hint_sender, &mut hinting);
            self.rounds.send_replace(Arc::new(round));
            if wanted.is_some_and(|at| at <= begun) {
                wanted = None;
            }
            let next = begun + self.pause();
            let earliest_hint = Instant::now() + HINT_GAP.max(begun.elapsed());
            loop {
                let at = wanted.map_or(next, |at| at.min(next));
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.rounds.closed() => return,
                    () = tokio::time::sleep_until(at) => break,
                    hint = hints.recv() => {
                        if hint.is_some() {
                            wanted = Some(wanted.map_or(earliest_hint, |at| at.min(earliest_hint)));
                        }
                    }
                    poke = self.pokes.recv() => {
                        if let Some(at) = poke {
                            wanted = Some(wanted.map_or(at, |before| before.min(at)));
                        }
                    }
                }
            }
        }
    }

    fn pause(&self) -> Duration {
        let swing = self.policy.jitter.clamp(0.0, 1.0) * (fastrand::f64() * 2.0 - 1.0);
        self.policy.interval.mul_f64((1.0 + swing).max(0.0))
    }

    /// Events come from a directory, not from a path: after it was replaced, the new one is watched.
    fn renew_hints(
        &self,
        round: &Round,
        sender: &mpsc::Sender<()>,
        hinting: &mut Option<(HintWatcher, DirIdentity)>,
    ) {
        if self.poll.storage().authority() != &Authority::Local {
            return;
        }
        match &round.guard {
            Ok(now) if hinting.as_ref().is_some_and(|(_, at)| *at == now.identity) => {}
            Ok(now) => {
                let dir = std::path::Path::new(self.poll.dir().as_str());
                *hinting = match HintWatcher::start(dir, sender.clone()) {
                    Ok(watcher) => Some((watcher, now.identity.clone())),
                    Err(error) => {
                        tracing::debug!("{error}");
                        None
                    }
                };
            }
            Err(_) => *hinting = None,
        }
    }
}
