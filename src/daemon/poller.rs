//! One task for each directory with markers: polls it, tells all slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::marker::poll::{DirectoryPoll, Round, Sighting, Why};
use crate::marker::watch::HintWatcher;
use crate::process::heap;
use crate::stop::wakes::Wakes;
use crate::storage::{Authority, DirIdentity};

/// Two polls after hints are at least this far apart.
const HINT_GAP: Duration = Duration::from_millis(5);

/// How many requests to look sooner may wait; more of them say nothing new.
const POKES: usize = 64;

/// After a round over so many markers its memory is given back.
const LARGE: usize = 4096;

/// When to poll.
#[derive(Debug, Clone, Copy)]
pub struct PollPolicy {
    /// Pause between two rounds.
    pub interval: Duration,
    /// Largest share of the pause by which it is shortened at random, 0 to 1.
    pub jitter: f64,
}

/// A slot's view of the poller of its directory.
#[derive(Debug, Clone)]
pub struct Sightings {
    views: Views,
    index: usize,
}

/// Where the views of all slots of a directory come from; clones are the same one. While there is one,
/// or a view, the poller goes on.
#[derive(Debug, Clone)]
pub struct Views {
    news: watch::Receiver<News>,
    bells: Arc<Bells>,
    pokes: mpsc::Sender<Instant>,
}

impl Views {
    /// The view of the marker at `index`, of those in the poll.
    pub fn of(&self, index: usize) -> Sightings {
        Sightings {
            views: self.clone(),
            index,
        }
    }
}

/// The last round, and the number of the directory that it was made in.
#[derive(Debug, Clone)]
pub(super) struct News {
    pub(super) round: Arc<Round>,
    /// Counts the directories that stood at the path, by their identities.
    dir_number: u64,
}

/// How the poller wakes one slot, and whether it has to.
///
/// Thousands of slots look at the same round, and in nearly all of them nothing has changed: only
/// those are woken that want every round, or whose marker or directory is not what they rest on.
#[derive(Debug)]
struct Bell {
    notify: Notify,
    resting_on: AtomicU64,
    /// Whether it rang and the round was not taken yet.
    has_rung: AtomicBool,
    /// Whether its engine is gone and is to be made again when it rings.
    is_asleep: AtomicBool,
}

/// The value of [`Bell::resting_on`] of a slot that wants every round.
const EVERY_ROUND: u64 = 0;

/// That of a slot that wants none.
const NO_ROUND: u64 = u64::MAX;

/// What a slot can rest on, as one number; none for what has to be looked at again.
fn rest_code(sighting: &Sighting, dir_number: u64) -> Option<u64> {
    let standing = match sighting {
        Sighting::Present(_) => 1,
        Sighting::Absent => 2,
        Sighting::Unknown(_) => return None,
    };
    Some(dir_number << 2 | standing)
}

impl Bell {
    fn new() -> Self {
        Self {
            notify: Notify::new(),
            resting_on: AtomicU64::new(NO_ROUND),
            has_rung: AtomicBool::new(false),
            is_asleep: AtomicBool::new(false),
        }
    }

    /// Whether a round that says this of the marker is to be told.
    fn wants(&self, marker: &Sighting, dir_number: u64) -> bool {
        match self.resting_on.load(Ordering::SeqCst) {
            NO_ROUND => false,
            EVERY_ROUND => true,
            code => rest_code(marker, dir_number) != Some(code),
        }
    }
}

impl Sightings {
    fn bell(&self) -> Option<&Bell> {
        self.views.bells.bells.get(self.index)
    }

    fn rest_on_code(&self, code: u64) {
        if let Some(bell) = self.bell() {
            bell.resting_on.store(code, Ordering::SeqCst);
        }
    }

    /// Waits for the next round that this slot has to see, and returns it. `None` when the poller has
    /// ended. All rounds after it are told, until [`Sightings::rest_on`].
    ///
    /// Cancel-safe. A round that came while nobody waited is returned at once, the newest only.
    pub async fn next_round(&mut self) -> Option<Arc<Round>> {
        let bell = self.bell()?;
        bell.notify.notified().await;
        bell.has_rung.store(false, Ordering::SeqCst);
        self.attend();
        self.views.news.has_changed().ok()?;
        Some(Arc::clone(&self.views.news.borrow_and_update().round))
    }

    /// Has every round told from now on.
    pub fn attend(&self) {
        self.rest_on_code(EVERY_ROUND);
    }

    /// Has no round told from now on.
    pub(super) fn ignore(&self) {
        self.rest_on_code(NO_ROUND);
    }

    /// Has no further round told until the marker or its directory is another than in `round`, which
    /// is the last one that was returned.
    pub fn rest_on(&self, round: &Round) {
        let news = self.views.news.borrow();
        // A newer round is there, and its bell has rung: that one says whether to rest.
        if std::ptr::eq(Arc::as_ptr(&news.round), round)
            && let Some(marker) = round.markers.get(self.index)
            && let Some(code) = rest_code(marker, news.dir_number)
        {
            self.rest_on_code(code);
        }
    }

    /// Says that the engine of this slot is about to go: the next ring wakes its number. False where
    /// there is a round that it has to see first.
    pub(super) fn fall_asleep(&self) -> bool {
        let Some(bell) = self.bell() else {
            return false;
        };
        if bell.resting_on.load(Ordering::SeqCst) == EVERY_ROUND {
            return false;
        }
        // First asleep, then looked at: whoever rings meanwhile finds one of the two.
        bell.is_asleep.store(true, Ordering::SeqCst);
        if bell.has_rung.load(Ordering::SeqCst) {
            self.stay_awake();
            return false;
        }
        true
    }

    /// Takes [`Sightings::fall_asleep`] back; also said by an engine that begins.
    pub(super) fn stay_awake(&self) {
        if let Some(bell) = self.bell() {
            bell.is_asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Position of this slot's marker in a round.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Asks for a poll at `at`, if none comes before.
    pub fn poke(&self, at: Instant) {
        // A full channel means that a poll is about to happen.
        let _full = self.views.pokes.try_send(at);
    }
}

/// The bells of all slots, and who hears of those that rest.
#[derive(Debug)]
struct Bells {
    bells: Box<[Bell]>,
    wakes: Arc<Wakes>,
}

impl Bells {
    fn ring(&self, news: &News) {
        for (number, (bell, marker)) in (0_u32..).zip(self.bells.iter().zip(&news.round.markers)) {
            if bell.wants(marker, news.dir_number) {
                bell.has_rung.store(true, Ordering::SeqCst);
                bell.notify.notify_one();
                if bell.is_asleep.swap(false, Ordering::SeqCst) {
                    self.wakes.wake(number);
                }
            }
        }
    }
}

/// Has the bells ring once more when the poller ends.
#[derive(Debug)]
struct LastRing(Arc<Bells>);

impl Drop for LastRing {
    fn drop(&mut self) {
        for bell in &self.0.bells {
            bell.notify.notify_one();
        }
    }
}

/// A poller that has not been started.
#[derive(Debug)]
pub struct Poller {
    poll: DirectoryPoll,
    policy: PollPolicy,
    pokes: mpsc::Receiver<Instant>,
    // Dropped in this order: who is woken at the end finds that there is no sender.
    news: watch::Sender<News>,
    bells: LastRing,
}

impl Poller {
    /// A poller, and where the views of `count` markers come from, in the order in which `poll` has them.
    pub fn new(poll: DirectoryPoll, policy: PollPolicy, count: usize) -> (Poller, Views) {
        Self::waking(poll, policy, count, Arc::default())
    }

    /// As [`Poller::new`]; the slots that rest are woken by their positions.
    pub(super) fn waking(
        poll: DirectoryPoll,
        policy: PollPolicy,
        count: usize,
        wakes: Arc<Wakes>,
    ) -> (Poller, Views) {
        let none = News {
            round: Arc::new(Round {
                begun: Instant::now(),
                guard: Err(Why::NotLooked),
                markers: Vec::new(),
            }),
            dir_number: 0,
        };
        let (news, receiver) = watch::channel(none);
        let (pokes, requests) = mpsc::channel(POKES);
        let bells = Arc::new(Bells {
            bells: (0..count).map(|_| Bell::new()).collect(),
            wakes,
        });
        let views = Views {
            news: receiver,
            bells: Arc::clone(&bells),
            pokes,
        };
        let poller = Poller {
            poll,
            policy,
            pokes: requests,
            news,
            bells: LastRing(bells),
        };
        (poller, views)
    }

    fn tell(&self, round: Round) {
        let before = self.news.borrow().clone();
        let moved = match (&before.round.guard, &round.guard) {
            (Ok(before), Ok(now)) => before != now,
            // Whether it is the same as before the trouble is for each slot to find out; and a marker
            // that is there in a directory that nobody vouches for is in trouble, too.
            (Err(_), Ok(_)) | (Ok(_), Err(_)) => true,
            (Err(_), Err(_)) => false,
        };
        let news = News {
            round: Arc::new(round),
            dir_number: before.dir_number + u64::from(moved),
        };
        // Told before the bells look at who rests: who comes to rest meanwhile is found by them.
        self.news.send_replace(news.clone());
        self.bells.0.ring(&news);
    }

    /// All rounds as they come, the newest only.
    pub(super) fn rounds(&self) -> watch::Receiver<News> {
        self.news.subscribe()
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
            let is_large = round.markers.len() >= LARGE;
            self.tell(round);
            if is_large && wanted.is_none() {
                // What a listing of so many names needs for a moment is a part of all that is used.
                heap::give_back();
            }
            if wanted.is_some_and(|at| at <= begun) {
                wanted = None;
            }
            let next = begun + self.pause();
            let earliest_hint = Instant::now() + HINT_GAP.max(begun.elapsed());
            loop {
                let at = wanted.map_or(next, |at| at.min(next));
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.news.closed() => return,
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
        // Shortened only, so that the interval bounds how long a removal stays unseen.
        let cut = self.policy.jitter.clamp(0.0, 1.0) * fastrand::f64();
        self.policy.interval.mul_f64(1.0 - cut)
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
