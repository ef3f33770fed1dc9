//! Follows the batches of running queries by the files of their checkpoints, for a request that is to
//! arrive between two of them.
//!
//! A checkpoint is listed at first, and every now and then; between that each look asks for the one
//! file that comes next. A file counts as missing only where the storage said so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use super::boundary::{
    AskedAt, BatchTimes, BoundaryPolicy, BoundaryReport, Delivery, IdleFor, Moment, QueryNow,
    Rhythm, Sight, Verdict, decide, judge,
};
use crate::checkpoint::layout::DirectoryKind;
use crate::checkpoint::progress::{LogTimes, load_log_times};
use crate::marker::poll::error_chain;
use crate::storage::{Authority, ErrorKind, Storage, StorageError, StoragePath, StorageUri};

/// A checkpoint is listed anew after so long: what is asked for one by one may have been passed over.
const RELIST: Duration = Duration::from_secs(5);

/// Pauses between two looks: on a disk, over a network, where there is time, and before the gaps are
/// known.
const SHORTEST_PAUSE: Duration = Duration::from_millis(5);
const SHORTEST_REMOTE_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The pause is such a part of the gap that is waited for.
const LOOKS_IN_A_GAP: u32 = 50;

/// So many looks count for the time that one takes.
const LOOKS_REMEMBERED: usize = 32;

/// What is known of one query.
#[derive(Debug)]
struct Followed {
    storage: Arc<dyn Storage>,
    uri: StorageUri,
    batches: BTreeMap<u64, BatchTimes>,
    rhythm: Option<Rhythm>,
    blind: Option<String>,
    trouble: Option<String>,
    listed: Option<Instant>,
    /// When the last look began that was answered.
    looked: Option<Instant>,
    /// Since when nothing has changed, as seen from here.
    same_since: Instant,
    /// The storage's clock: at that moment it was not later than that.
    clock: Option<(Timestamp, Instant)>,
}

impl Followed {
    fn new(storage: Arc<dyn Storage>, uri: StorageUri) -> Self {
        Self {
            storage,
            uri,
            batches: BTreeMap::new(),
            rhythm: None,
            blind: None,
            trouble: None,
            listed: None,
            looked: None,
            same_since: Instant::now(),
            clock: None,
        }
    }

    fn last(&self) -> Option<(u64, BatchTimes)> {
        let (batch, times) = self.batches.last_key_value()?;
        Some((*batch, *times))
    }

    fn path(&self, log: &str, batch: u64) -> StoragePath {
        self.uri.path.join(log).join(&batch.to_string())
    }

    /// One look. At its end an idle query was idle after the look began.
    async fn look(&mut self) {
        let begun = Instant::now();
        if self.uri.authority == Authority::Local {
            // Files get their time from the clock of this host.
            self.clock = Some((Timestamp::now(), begun));
        }
        let is_old = self.listed.is_none_or(|at| at.elapsed() >= RELIST);
        let looked = if is_old {
            self.list(begun).await
        } else {
            self.look_for_next().await
        };
        match looked {
            Ok(()) => {
                self.trouble = None;
                self.looked = Some(begun);
            }
            Err(why) => {
                self.trouble = Some(why);
                (self.listed, self.looked) = (None, None);
                self.same_since = Instant::now();
            }
        }
    }

    async fn list(&mut self, begun: Instant) -> Result<(), String> {
        let logs = load_log_times(self.storage.as_ref(), &self.uri.path).await;
        let logs = logs.map_err(|error| error_chain(&error))?;
        self.blind = blindness(&logs);
        let before = self.last();
        self.batches = merge(&logs);
        if self.last() != before {
            self.changed();
        }
        self.listed = Some(begun);
        Ok(())
    }

    async fn look_for_next(&mut self) -> Result<(), String> {
        let storage = Arc::clone(&self.storage);
        let chain = |error: StorageError| error_chain(&error);
        let next = match self.last() {
            Some((batch, times)) if times.committed_at.is_none() => {
                let committed = stamp(storage.as_ref(), &self.path("commits", batch)).await;
                let Some(committed_at) = committed.map_err(chain)? else {
                    return Ok(());
                };
                let times = BatchTimes {
                    committed_at: Some(committed_at),
                    ..times
                };
                self.batches.insert(batch, times);
                self.changed();
                batch + 1
            }
            Some((batch, _)) => batch + 1,
            None => 0,
        };
        let planned = stamp(storage.as_ref(), &self.path("offsets", next)).await;
        if let Some(planned_at) = planned.map_err(chain)? {
            let times = BatchTimes {
                planned_at: Some(planned_at),
                committed_at: None,
            };
            self.batches.insert(next, times);
            self.changed();
        }
        Ok(())
    }

    /// Takes note of a change that came after the look before this one.
    fn changed(&mut self) {
        self.same_since = Instant::now();
        self.rhythm = Rhythm::of(&self.batches);
        let last = self.last().map(|(_, times)| times);
        let stamp = last.and_then(|times| times.committed_at.or(times.planned_at));
        // What was not there when that look began has a time stamp of later.
        if let (Some(stamp), Some(before)) = (stamp, self.looked)
            && self.uri.authority != Authority::Local
        {
            self.set_clock(stamp, before);
        }
    }

    /// Takes the bound on the storage's clock, if it is a tighter one.
    fn set_clock(&mut self, stamp: Timestamp, at: Instant) {
        let fresh = (stamp, at);
        let is_tighter = self
            .clock
            .is_none_or(|known| now_of(fresh) <= now_of(known));
        if is_tighter {
            self.clock = Some(fresh);
        }
    }

    fn sight(&self) -> Sight {
        if let Some(why) = &self.blind {
            return Sight::Blind { why: why.clone() };
        }
        if let Some(why) = &self.trouble {
            return Sight::Unknown { why: why.clone() };
        }
        if self.listed.is_none() {
            return Sight::Unknown {
                why: "it was not looked at yet".to_owned(),
            };
        }
        let at_least = self.same_since.elapsed();
        let Some((batch, times)) = self.last() else {
            let idle_for = IdleFor {
                at_least,
                at_most: None,
            };
            return Sight::Idle {
                idle_for,
                expected: None,
            };
        };
        let Some(committed_at) = times.committed_at else {
            return Sight::Busy;
        };
        let at_most = self.clock.map(|clock| {
            let passed = now_of(clock).duration_since(committed_at);
            Duration::try_from(passed).unwrap_or_default()
        });
        Sight::Idle {
            idle_for: IdleFor { at_least, at_most },
            expected: self
                .rhythm
                .as_ref()
                .and_then(|rhythm| rhythm.expected_gap(batch)),
        }
    }
}

/// The storage's clock now, at most.
fn now_of((stamp, at): (Timestamp, Instant)) -> Timestamp {
    stamp.saturating_add(at.elapsed()).unwrap_or(Timestamp::MAX)
}

/// The time stamp of a file; `None` where the storage says that there is none.
async fn stamp(
    storage: &dyn Storage,
    path: &StoragePath,
) -> Result<Option<Timestamp>, StorageError> {
    match storage.stat(path).await {
        Ok(found) => Ok(Some(found.modified_at)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why the checkpoint will never show when a batch is done, if so.
fn blindness(logs: &LogTimes) -> Option<String> {
    match logs.directory {
        // A query that has just begun.
        DirectoryKind::Empty => return None,
        DirectoryKind::Query => {}
        DirectoryKind::DStreams => {
            return Some("DStreams do not show their batches".to_owned());
        }
        DirectoryKind::FileSink | DirectoryKind::Foreign => {
            return Some("the directory is not a checkpoint of a streaming query".to_owned());
        }
    }
    let (first, last) = (
        logs.offsets.keys().next()?,
        logs.offsets.keys().next_back()?,
    );
    let has_gaps = usize::try_from(last - first).is_ok_and(|span| span + 1 > logs.offsets.len());
    has_gaps.then(|| {
        "it does not write its progress with every batch (async progress tracking)".to_owned()
    })
}

fn merge(logs: &LogTimes) -> BTreeMap<u64, BatchTimes> {
    let mut batches: BTreeMap<u64, BatchTimes> = BTreeMap::new();
    for (batch, at) in &logs.offsets {
        batches.entry(*batch).or_default().planned_at = Some(*at);
    }
    for (batch, at) in &logs.commits {
        batches.entry(*batch).or_default().committed_at = Some(*at);
    }
    batches
}

/// Follows all queries of a job, and finds the moment to ask it.
#[derive(Debug)]
pub struct Follower {
    queries: Vec<Followed>,
    policy: BoundaryPolicy,
    reaction: Duration,
    begun: Instant,
    /// What was waited before this process took the stop up.
    carried: Duration,
    looks: Vec<Duration>,
    pause: Duration,
    looked: Option<Instant>,
}

impl Follower {
    /// A follower that has not looked yet; the driver plans for as long as `reaction` after a request, and
    /// `carried` was waited before.
    pub fn new(
        checkpoints: &[(Arc<dyn Storage>, StorageUri)],
        policy: BoundaryPolicy,
        reaction: Duration,
        carried: Duration,
    ) -> Self {
        Self {
            queries: checkpoints
                .iter()
                .map(|(storage, uri)| Followed::new(Arc::clone(storage), uri.clone()))
                .collect(),
            policy,
            reaction,
            begun: Instant::now(),
            carried,
            looks: Vec::new(),
            pause: FIRST_PAUSE,
            looked: None,
        }
    }

    /// How long a moment has been waited for.
    pub fn waited(&self) -> Duration {
        self.carried + self.begun.elapsed()
    }

    /// A bound on the clock of the storage at `authority`: it was not later than `stamp` at `at`.
    pub fn know_clock(&mut self, authority: &Authority, stamp: Timestamp, at: Instant) {
        for query in &mut self.queries {
            if query.uri.authority == *authority && *authority != Authority::Local {
                query.set_clock(stamp, at);
            }
        }
    }

    /// Looks again and again until the request is to be sent, or until `until`: then what it waits for.
    /// `send` is what sending takes.
    pub async fn await_moment(&mut self, until: Instant, send: Duration) -> Verdict {
        loop {
            self.look().await;
            let verdict = self.verdict(send);
            let next = Instant::now() + self.pause;
            if matches!(verdict, Verdict::Wait { .. }) {
                tokio::time::sleep_until(next.min(until)).await;
                if next < until {
                    continue;
                }
            }
            return verdict;
        }
    }

    async fn look(&mut self) {
        let begun = Instant::now();
        join_all(self.queries.iter_mut().map(Followed::look)).await;
        if self.looked.is_some() {
            // The first one connects and reads a whole listing.
            if self.looks.len() == LOOKS_REMEMBERED {
                self.looks.remove(0);
            }
            self.looks.push(begun.elapsed());
        }
        self.looked = Some(begun);
        self.pause = self.next_pause();
    }

    fn next_pause(&self) -> Duration {
        if self.queries.iter().any(|query| query.trouble.is_some()) {
            return LONGEST_PAUSE;
        }
        let gaps = self
            .queries
            .iter()
            .filter_map(|query| query.rhythm.as_ref());
        let Some(shortest) = gaps.map(Rhythm::usual_gap).min() else {
            return FIRST_PAUSE;
        };
        let is_local = |query: &Followed| query.uri.authority == Authority::Local;
        let least = if self.queries.iter().all(is_local) {
            SHORTEST_PAUSE
        } else {
            SHORTEST_REMOTE_PAUSE
        };
        (shortest / LOOKS_IN_A_GAP).clamp(least, LONGEST_PAUSE)
    }

    /// What a request takes on this storage.
    fn delivery(&self, send: Duration) -> Delivery {
        let look = self.looks.iter().max().copied().unwrap_or_default();
        Delivery {
            look: self.pause + look,
            send,
            reaction: self.reaction,
        }
    }

    fn verdict(&self, send: Duration) -> Verdict {
        let queries: Vec<QueryNow<'_>> = self
            .queries
            .iter()
            .map(|query| QueryNow {
                sight: query.sight(),
                rhythm: query.rhythm.as_ref(),
            })
            .collect();
        let judged = judge(&queries, self.delivery(send));
        decide(judged, self.waited(), &self.policy)
    }

    /// What is put on record of a request: before it is known when it is sent, and then.
    pub fn report(
        &self,
        verdict: Option<&Verdict>,
        send: Duration,
        because: Option<&str>,
    ) -> BoundaryReport {
        let delivery = self.delivery(send);
        let (asked, gap, idle, why) = match verdict {
            Some(Verdict::Send(Moment::Gap { expected, left })) => {
                let idle = expected.saturating_sub(*left);
                (AskedAt::InGap, Some(*expected), Some(idle), None)
            }
            Some(Verdict::Send(Moment::Quiet { idle_for })) => {
                (AskedAt::Quiet, None, Some(*idle_for), None)
            }
            Some(Verdict::SendAnyway(hindrance)) => {
                (AskedAt::WithoutGap, None, None, Some(hindrance.to_string()))
            }
            Some(Verdict::Wait { .. }) | None => (AskedAt::Unknown, None, None, None),
        };
        let rhythms = self
            .queries
            .iter()
            .filter_map(|query| query.rhythm.as_ref());
        let parts = [because.map(str::to_owned), why];
        let whys: Vec<String> = parts.into_iter().flatten().collect();
        let seconds = |duration: Duration| duration.as_secs_f64();
        BoundaryReport {
            asked,
            gap_seconds: gap.map(seconds),
            idle_seconds: idle.map(seconds),
            usual_gap_seconds: rhythms.map(Rhythm::usual_gap).min().map(seconds),
            needed_seconds: seconds(delivery.needs()),
            delivery_seconds: seconds(delivery.look + delivery.send),
            waited_seconds: seconds(self.waited()),
            why: (!whys.is_empty()).then(|| whys.join("; ")),
        }
    }
}
