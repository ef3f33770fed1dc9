//! The sentinel of a directory with markers: placed before the first poll, and again where it was lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::poller::{News, Poller};
use crate::control::Sentinel;
use crate::marker::poll::error_chain;
use crate::storage::{Storage, StoragePath};

/// Longest pause before the sentinel of a directory is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// Keeps the sentinel of one directory in its place.
#[derive(Debug)]
pub(super) struct SentinelKeeper {
    storage: Arc<dyn Storage>,
    dir: StoragePath,
    retry: Duration,
    is_told: bool,
}

impl SentinelKeeper {
    /// A keeper for the sentinel in `dir`, which tries again after an `interval` of the poller.
    pub(super) fn new(storage: Arc<dyn Storage>, dir: StoragePath, interval: Duration) -> Self {
        Self {
            storage,
            dir,
            retry: interval.min(LONGEST_RETRY),
            is_told: false,
        }
    }

    /// Runs the poller, and keeps the sentinel in its place meanwhile.
    pub(super) async fn run(mut self, poller: Poller, stop: CancellationToken) {
        // Before the first look: on HDFS nothing can be armed in a directory without a sentinel.
        let is_placed = tokio::select! {
            () = stop.cancelled() => return,
            is_placed = self.place() => is_placed,
        };
        let rounds = poller.rounds();
        tokio::select! {
            () = poller.run(stop) => {}
            () = self.keep(is_placed, rounds) => {}
        }
    }

    async fn keep(&mut self, mut is_placed: bool, mut rounds: watch::Receiver<News>) {
        while !is_placed {
            tokio::time::sleep(self.retry).await;
            is_placed = self.place().await;
        }
        while rounds.changed().await.is_ok() {
            // A directory that was made anew. Where a marker of it was touched again, that is armed in
            // the new one; the others are known to be of the old one by its id.
            let lacks_sentinel = rounds.borrow_and_update().round.lacks_sentinel();
            if lacks_sentinel && self.place().await {
                tracing::warn!(dir = %self.dir, "the directory had lost its sentinel and has a new one");
            }
        }
    }

    /// Places the sentinel if it is missing; tells of the first failure of a row.
    async fn place(&mut self) -> bool {
        match Sentinel::ensure(self.storage.as_ref(), &self.dir).await {
            Ok(_) => {
                self.is_told = false;
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    let why = error_chain(&error);
                    tracing::warn!(
                        dir = %self.dir,
                        "no sentinel yet, so a replaced directory is harder to tell: {why}"
                    );
                }
                false
            }
        }
    }
}
