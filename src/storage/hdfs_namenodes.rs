//! The NameNodes of one file system: which one is asked, what happens when it does not answer.
//!
//! The client's own failover is off (it retries silently for minutes). Here a call has one total
//! time; within it the NameNodes are asked in turn, beginning with the one that answered last, and
//! only for as long as it is certain that asking again is harmless.
//!
//! - A read is asked again after every sort of lost answer.
//! - A change is sent only over a connection that has answered a read since its last trouble, and is
//!   sent again only where the NameNode certainly did nothing (refused connection, standby).
//! - An answer counts only if its NameNode is still the one held for active when it comes: one that
//!   was hung and wakes up may tell of a past long gone.
//! - A client that did not answer twice is replaced by a new one, but not more often than every
//!   [`REBUILD_SPACING`](super::hdfs_slot::REBUILD_SPACING).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdfs_native::{Client, HdfsError};
use tokio::time::Instant;

use super::hdfs_error::{Asked, Failure, Next};
use super::hdfs_reach::Reach;
use super::hdfs_session::{Progress, Session};
use super::hdfs_slot::Slot;
use super::hdfs_tried::{Refusal, Tried};
use crate::storage::ErrorKind;

/// Rounds over NameNodes that all refuse connections: a restart takes longer than a call.
const ROUNDS_WHEN_HOPELESS: u32 = 3;
/// The shortest and the longest pause between rounds.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Which of a NameNode's two clients takes a call. Polling never waits behind a copy, and a copy's
/// trouble does not cost the poller its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Small reads that decide something.
    Poll,
    /// Everything else.
    Bulk,
}

/// An answer, and the session it came by.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) value: T,
    pub(super) session: Arc<Session>,
}

#[derive(Debug)]
struct Node {
    reach: Reach,
    lanes: [Slot; 2],
}

/// All NameNodes of one file system.
#[derive(Debug)]
pub(super) struct NameNodes {
    nodes: Vec<Node>,
    call_timeout: Duration,
    /// Epoch in the upper bits, index of the active NameNode in the lowest 8: they change together.
    active: AtomicU64,
}

/// What a call does with the time-out of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Read,
    /// A read that says when it moves on.
    LongRead,
    Change,
}

impl NameNodes {
    /// NameNodes to be asked in this order; at most 255, at least one.
    pub(super) fn new(reaches: Vec<Reach>, call_timeout: Duration) -> Self {
        let node = |reach| Node {
            reach,
            lanes: Default::default(),
        };
        Self {
            nodes: reaches.into_iter().take(255).map(node).collect(),
            call_timeout,
            active: AtomicU64::new(0),
        }
    }

    /// Grows with each failover and each replaced client.
    pub(super) fn epoch(&self) -> u64 {
        self.active.load(Ordering::SeqCst) >> 8
    }

    /// The longest that one call takes.
    pub(super) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// How to reach a NameNode, and why it may refuse.
    pub(super) fn reach(&self, node: usize) -> Option<&Reach> {
        self.nodes.get(node).map(|node| &node.reach)
    }

    fn name(&self, node: usize) -> String {
        self.reach(node).map(Reach::name).unwrap_or_default()
    }

    /// The answer to a question that changes nothing.
    pub(super) async fn read<T, Fut>(
        &self,
        lane: Lane,
        call: impl Fn(Client) -> Fut,
    ) -> Result<Answer<T>, Refusal>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, HdfsError>> + Send + 'static,
    {
        self.call(lane, Sort::Read, |client, _| call(client)).await
    }

    /// The answer to a question of many parts; its time counts from the last [`Progress::advance`].
    pub(super) async fn read_long<T, Fut>(
        &self,
        lane: Lane,
        call: impl Fn(Client, Progress) -> Fut,
    ) -> Result<Answer<T>, Refusal>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, HdfsError>> + Send + 'static,
    {
        self.call(lane, Sort::LongRead, call).await
    }

    /// The result of a change; see [`Refusal::outcome_is_unknown`].
    pub(super) async fn change<T, Fut>(
        &self,
        call: impl Fn(Client) -> Fut,
    ) -> Result<Answer<T>, Refusal>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, HdfsError>> + Send + 'static,
    {
        self.call(Lane::Bulk, Sort::Change, |client, _| call(client))
            .await
    }

    async fn call<T, Fut>(
        &self,
        lane: Lane,
        sort: Sort,
        call: impl Fn(Client, Progress) -> Fut,
    ) -> Result<Answer<T>, Refusal>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, HdfsError>> + Send + 'static,
    {
        let deadline = Instant::now() + self.call_timeout;
        for round in 1.. {
            let mut tried = Tried::default();
            let seen = self.active.load(Ordering::SeqCst);
            for node in self.order(seen) {
                let until = self.share(deadline, tried.count);
                match self.ask(node, lane, sort, until, deadline, &call).await {
                    Ok(answer) if sort == Sort::Change || self.is_active(seen, node) => {
                        // A change that was made was made, whoever is active by now.
                        self.is_active(seen, node);
                        return Ok(answer);
                    }
                    Ok(_) => tried.add(node, &self.name(node), Failure::Closed),
                    Err((failure, _)) if failure.next() == Next::Return => {
                        if sort == Sort::Change || self.is_active(seen, node) {
                            self.is_active(seen, node);
                            return Err(Refusal {
                                failure,
                                node,
                                tried: String::new(),
                                outcome_is_unknown: false,
                            });
                        }
                        tried.add(node, &self.name(node), Failure::Closed);
                    }
                    Err((failure, WasSent::Maybe))
                        if sort == Sort::Change && failure.next() == Next::Unknown =>
                    {
                        return Err(Refusal {
                            failure,
                            node,
                            tried: String::new(),
                            outcome_is_unknown: true,
                        });
                    }
                    Err((failure, _)) => tried.add(node, &self.name(node), failure),
                }
            }
            let pause = PAUSES.1.min(PAUSES.0 * 2_u32.saturating_pow(round - 1));
            let pause = pause.mul_f64(0.5 + fastrand::f64());
            let in_vain = tried.is_hopeless && round >= ROUNDS_WHEN_HOPELESS;
            if in_vain || Instant::now() + pause >= deadline {
                return Err(tried.into_refusal());
            }
            tokio::time::sleep(pause).await;
        }
        Err(Tried::default().into_refusal())
    }

    /// Asks one NameNode. `until` bounds what may be asked again elsewhere, `deadline` a change.
    async fn ask<T, Fut>(
        &self,
        index: usize,
        lane: Lane,
        sort: Sort,
        until: Instant,
        deadline: Instant,
        call: &impl Fn(Client, Progress) -> Fut,
    ) -> Result<Answer<T>, (Failure, WasSent)>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, HdfsError>> + Send + 'static,
    {
        let Some(node) = self.nodes.get(index) else {
            return Err((Failure::Closed, WasSent::No));
        };
        let slot = node.slot(lane);
        let session = slot
            .session(&node.reach, until)
            .await
            .map_err(|f| (f, WasSent::No))?;
        if sort == Sort::Change && !slot.is_proved() {
            let client = session.client();
            let proof = session
                .run(until, async move { client.get_file_info("/").await })
                .await;
            self.note(slot, &session, proof.as_ref().err());
            if let Err(failure) = proof
                && !(failure.next() == Next::Return
                    && failure.kind(Asked::Stat) == ErrorKind::PermissionDenied)
            {
                return Err((failure, WasSent::No));
            }
        }
        let client = session.client();
        let result = match sort {
            Sort::LongRead => {
                let pause = until.saturating_duration_since(Instant::now());
                session
                    .run_while_advancing(pause, |progress| call(client, progress))
                    .await
            }
            Sort::Read => session.run(until, call(client, Progress::ignored())).await,
            Sort::Change => {
                session
                    .run(deadline, call(client, Progress::ignored()))
                    .await
            }
        };
        self.note(slot, &session, result.as_ref().err());
        match result {
            Ok(value) => Ok(Answer { value, session }),
            Err(failure) => Err((failure, WasSent::Maybe)),
        }
    }

    /// Keeps what a call taught about its session.
    fn note(&self, slot: &Slot, session: &Arc<Session>, failure: Option<&Failure>) {
        if slot.note(session, failure) {
            self.active.fetch_add(1 << 8, Ordering::SeqCst);
            tracing::info!("an HDFS client that did not answer is replaced by a new one");
        }
    }

    /// Indices of the NameNodes, the active one first.
    fn order(&self, seen: u64) -> impl Iterator<Item = usize> + use<> {
        let count = self.nodes.len();
        let first = active_index(seen);
        (0..count).map(move |step| (first + step) % count)
    }

    /// Whether `node` is the active one, now that it answered; it becomes it if no other did since
    /// `seen`.
    fn is_active(&self, seen: u64, node: usize) -> bool {
        let moved = |state: u64| {
            let is_as_seen = active_index(state) == active_index(seen);
            (is_as_seen && active_index(state) != node)
                .then_some(((state >> 8) + 1) << 8 | node as u64)
        };
        if self
            .active
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, moved)
            .is_ok()
        {
            tracing::info!(namenode = self.name(node), "another NameNode is active now");
        }
        active_index(self.active.load(Ordering::SeqCst)) == node
    }

    /// Leaves a fair part of the time to the NameNodes that are still to be asked.
    fn share(&self, deadline: Instant, tried: usize) -> Instant {
        let left = deadline.saturating_duration_since(Instant::now());
        let still = self.nodes.len().saturating_sub(tried).max(1);
        Instant::now() + left / u32::try_from(still).unwrap_or(1)
    }
}

impl Node {
    fn slot(&self, lane: Lane) -> &Slot {
        let [poll, bulk] = &self.lanes;
        match lane {
            Lane::Poll => poll,
            Lane::Bulk => bulk,
        }
    }
}

fn active_index(state: u64) -> usize {
    usize::try_from(state & 0xff).unwrap_or_default()
}

/// Whether a request of a failed call can have reached its NameNode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WasSent {
    No,
    Maybe,
}

#[cfg(test)]
#[path = "hdfs_namenodes_tests.rs"]
mod tests;
