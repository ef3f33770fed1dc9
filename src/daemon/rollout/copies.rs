//! The copies of a rollout: passes while the old job runs, the last one after it stopped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::QueryId;
use crate::checkpoint::copy::{
    CopyError, CopyRequest, Copyist, Existing, Place, SyncedCopy, copy, work_dir_of,
};
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::target::At;
use crate::marker::poll::error_chain;
use crate::rollout::observation::Copying;
use crate::rollout::record::{Base, RolloutId};
use crate::storage::{ErrorKind, OwnedTree, StorageError};

/// Pause before a failed pass is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A copy is in sync when a pass took no longer than this,
const QUICK_PASS: Duration = Duration::from_secs(1);

/// or no less than this part of the one before: then the job writes as fast as it is copied.
const NO_GAIN: f64 = 0.7;

/// How often the work directories are kept while nothing is copied.
const KEEP: Duration = Duration::from_secs(2);

/// One checkpoint with the place of its copy.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) source: Place,
    pub(super) destination: Place,
}

impl Pair {
    /// The id of the copy that a rollout makes: whoever takes it up finds what was published before.
    pub(super) fn copy_id(&self, rollout: RolloutId) -> Uuid {
        let name = format!(
            "{rollout}\n{}\n{}",
            self.source.uri(),
            self.destination.uri()
        );
        crate::daemon::copying::id_of(&name)
    }

    /// What stands at the destination, if it is this rollout's copy.
    pub(super) async fn published(&self, rollout: RolloutId) -> Result<Option<Base>, CopyError> {
        let place = &self.destination;
        let found = match place.storage.stat(&place.path).await {
            Ok(_) => Manifest::load(place.storage.as_ref(), &place.path).await,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match found {
            Ok(found) => Ok(found
                .filter(|manifest| manifest.copy_id == self.copy_id(rollout))
                .map(|manifest| Base {
                    checkpoint: place.uri(),
                    planned: manifest.last_planned_batch,
                    committed: manifest.last_committed_batch,
                })),
            Err(CheckpointError::Manifest { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the task is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Pass after pass.
    Sync,
    /// The last pass, and publish.
    Finish,
    /// One copy as of the last committed batch, with an identity of its own.
    Committed,
}

/// The task that copies.
#[derive(Debug)]
pub(super) struct Copies {
    copyist: Copyist,
    interval: Duration,
    changed: Arc<Notify>,
    state: Arc<Mutex<Copying>>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    order: watch::Sender<Order>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Copies {
    pub(super) fn new(copyist: Copyist, interval: Duration, changed: Arc<Notify>) -> Self {
        Self {
            copyist,
            interval,
            changed,
            state: Arc::default(),
            running: None,
        }
    }

    /// How far it is.
    pub(super) fn look(&self) -> Copying {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins with `order`, or gives it to the task that runs.
    pub(super) fn order(&mut self, pairs: Vec<Pair>, rollout: RolloutId, order: Order) {
        let set = |state| *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        if let Some(running) = &self.running
            && !running.task.is_finished()
        {
            if order == Order::Finish {
                set(Copying::Busy);
            }
            running.order.send_replace(order);
            return;
        }
        set(Copying::Busy);
        let (sender, orders) = watch::channel(order);
        let cancel = CancellationToken::new();
        let work = Work {
            pairs,
            rollout,
            copyist: self.copyist.clone(),
            interval: self.interval,
            state: Arc::clone(&self.state),
            changed: Arc::clone(&self.changed),
            cancel: cancel.clone(),
            orders,
        };
        // On a thread of its own: what it computes over gigabytes must not delay anybody's poll.
        let runtime = tokio::runtime::Handle::current();
        let task = tokio::task::spawn_blocking(move || runtime.block_on(work.run()));
        self.running = Some(Running {
            order: sender,
            cancel,
            task,
        });
    }

    /// Ends the task; what it copied stays and is gone on with.
    pub(super) async fn close(&mut self) {
        if let Some(running) = self.running.take() {
            running.cancel.cancel();
            let _ended = running.task.await;
        }
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Copying::Idle;
    }
}

/// Whether the copy is as close to the job as passes bring it. The first pass alone says nothing of that:
/// all that was written in its time is behind it, and would be copied in the gap.
fn is_close(before: Option<Duration>, took: Duration) -> bool {
    took <= QUICK_PASS || before.is_some_and(|before| took > before.mul_f64(NO_GAIN))
}

struct Work {
    pairs: Vec<Pair>,
    rollout: RolloutId,
    copyist: Copyist,
    interval: Duration,
    state: Arc<Mutex<Copying>>,
    changed: Arc<Notify>,
    cancel: CancellationToken,
    orders: watch::Receiver<Order>,
}

impl Work {
    fn set(&self, state: Copying) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_one();
    }

    async fn run(mut self) {
        let order = *self.orders.borrow();
        let end = match order {
            Order::Committed => self.copy_committed().await,
            Order::Sync | Order::Finish => self.sync().await,
        };
        match end {
            Ok(()) => self.set(Copying::Published),
            Err(CopyError::Interrupted { .. }) => self.set(Copying::Idle),
            Err(error) => {
                tracing::error!("the checkpoint cannot be copied: {}", error_chain(&error));
                self.set(Copying::Failed);
            }
        }
    }

    fn request(&self, pair: &Pair, at: At, new_query_id: Option<QueryId>) -> CopyRequest {
        CopyRequest {
            new_query_id,
            copy_id: Some(pair.copy_id(self.rollout)),
            // The other slot's checkpoint of an earlier time: its job is stopped, and it is kept.
            existing: Existing::MoveAside,
            ..CopyRequest::new(pair.source.clone(), pair.destination.clone(), at)
        }
    }

    async fn copy_committed(&self) -> Result<(), CopyError> {
        for pair in &self.pairs {
            let request = self.request(pair, At::Committed, Some(QueryId::random()));
            loop {
                match copy(&request, &self.copyist, &|_| {}, &self.cancel).await {
                    Ok(_) => break,
                    Err(error) if may_pass(&error) => self.again(&error).await?,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Waits before another try.
    async fn again(&self, error: &CopyError) -> Result<(), CopyError> {
        tracing::warn!("the copy is tried again: {}", error_chain(error));
        tokio::select! {
            () = self.cancel.cancelled() => Err(self.interrupted()),
            () = tokio::time::sleep(RETRY) => Ok(()),
        }
    }

    fn interrupted(&self) -> CopyError {
        let first = self.pairs.first().map(|pair| pair.destination.uri());
        CopyError::Interrupted {
            work: first.unwrap_or_else(|| {
                crate::storage::StorageUri::new(
                    crate::storage::Authority::Local,
                    crate::storage::StoragePath::root(),
                )
            }),
        }
    }

    async fn sync(&mut self) -> Result<(), CopyError> {
        let mut open: Vec<(Pair, SyncedCopy)> = Vec::new();
        for pair in self.pairs.clone() {
            loop {
                // One that an earlier process has published is not made again.
                let tried = async {
                    if pair.published(self.rollout).await?.is_some() {
                        return Ok(None);
                    }
                    let request = self.request(&pair, At::Planned, None);
                    SyncedCopy::open(request, &self.copyist).await.map(Some)
                };
                match tried.await {
                    Ok(None) => break,
                    Ok(Some(copy)) => {
                        open.push((pair, copy));
                        break;
                    }
                    Err(error) if may_pass(&error) => self.again(&error).await?,
                    Err(error) => {
                        close_all(open, false).await;
                        return Err(error);
                    }
                }
            }
        }
        let end = self.passes(&mut open).await;
        close_all(open, end.is_ok()).await;
        end
    }

    async fn passes(&mut self, open: &mut Vec<(Pair, SyncedCopy)>) -> Result<(), CopyError> {
        let mut before = None;
        loop {
            let last = *self.orders.borrow_and_update() == Order::Finish;
            let mut failed = false;
            let begun = tokio::time::Instant::now();
            let hurry = self.cancel.child_token();
            let results = self.round(open, last, &hurry).await;
            let mut finished = Vec::new();
            for (at, result) in results.into_iter().enumerate() {
                match result {
                    Ok(()) => finished.push(at),
                    Err(error) if may_pass(&error) => {
                        tracing::warn!("this pass failed: {}", error_chain(&error));
                        failed = true;
                    }
                    Err(CopyError::Interrupted { .. })
                        if hurry.is_cancelled() && !self.cancel.is_cancelled() =>
                    {
                        failed = true;
                    }
                    // A job without a checkpoint yet has none to hand over now; the last pass decides.
                    Err(CopyError::Checkpoint(CheckpointError::Missing { .. })) if !last => {
                        failed = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            if last {
                for at in finished.into_iter().rev() {
                    let (_, copy) = open.remove(at);
                    copy.close(true).await;
                }
                if open.is_empty() {
                    return Ok(());
                }
            } else if !failed {
                let took = begun.elapsed();
                if is_close(before.replace(took), took) {
                    self.set(Copying::InSync);
                }
            }
            self.pause(open, if last || failed { RETRY } else { self.interval })
                .await?;
        }
    }

    /// One pass of each copy, the last one if it is that. Another one is cut short by the order to make the
    /// last one, through `hurry`: what it has copied stays, its look at all of the copy is not waited for.
    async fn round(
        &self,
        open: &mut [(Pair, SyncedCopy)],
        last: bool,
        hurry: &CancellationToken,
    ) -> Vec<Result<(), CopyError>> {
        // All at once: the last pass lies in the gap.
        let each = open.iter_mut().map(async |(_, copy)| {
            if last {
                copy.finish(&|_| {}, &self.cancel).await.map(drop)
            } else {
                copy.pass(&|_| {}, hurry).await.map(drop)
            }
        });
        let mut orders = self.orders.clone();
        // Not with what it returns: that keeps others from giving an order.
        let is_asked = async {
            orders
                .wait_for(|order| *order == Order::Finish)
                .await
                .is_ok()
        };
        let mut passes = std::pin::pin!(futures::future::join_all(each));
        tokio::select! {
            results = &mut passes => results,
            true = is_asked, if !last => {
                hurry.cancel();
                passes.await
            }
        }
    }

    /// Waits for the next pass, or for the order to make the last one.
    async fn pause(
        &mut self,
        open: &mut [(Pair, SyncedCopy)],
        time: Duration,
    ) -> Result<(), CopyError> {
        let until = tokio::time::Instant::now() + time;
        loop {
            let now = tokio::time::Instant::now();
            if now >= until {
                return Ok(());
            }
            tokio::select! {
                () = self.cancel.cancelled() => return Err(self.interrupted()),
                changed = self.orders.changed() => {
                    if changed.is_err() {
                        return Err(self.interrupted());
                    }
                    return Ok(());
                }
                () = tokio::time::sleep_until(until.min(now + KEEP)) => {}
            }
            for (_, copy) in open.iter_mut() {
                match copy.keep().await {
                    Err(error) if !may_pass(&error) => return Err(error),
                    // Whether the directory is still this process's is looked at before it is published.
                    Ok(()) | Err(_) => {}
                }
            }
        }
    }
}

async fn close_all(open: Vec<(Pair, SyncedCopy)>, published: bool) {
    for (_, copy) in open {
        copy.close(published).await;
    }
}

/// Whether another try may go better.
fn may_pass(error: &CopyError) -> bool {
    match error {
        CopyError::Storage(_)
        | CopyError::CutShort { .. }
        | CopyError::Document(_)
        | CopyError::Lease(_)
        | CopyError::InProgress { .. }
        | CopyError::Unstable { .. }
        | CopyError::Checkpoint(CheckpointError::Storage(_)) => true,
        CopyError::Checkpoint(_)
        | CopyError::Refused { .. }
        | CopyError::Damaged { .. }
        | CopyError::Exists { .. }
        | CopyError::Unfinished { .. }
        | CopyError::Nested { .. }
        | CopyError::NotSound { .. }
        | CopyError::SourceGone { .. }
        | CopyError::Interrupted { .. } => false,
    }
}

/// Removes this rollout's copy at the destination, and the work directory of an unfinished one. What is
/// not this rollout's stays.
///
/// # Errors
/// Storage errors; it can be called again.
pub(super) async fn drop_copy(pair: &Pair, rollout: RolloutId) -> Result<(), CopyError> {
    let place = &pair.destination;
    let storage = place.storage.as_ref();
    let parent = place
        .path
        .parent()
        .unwrap_or_else(crate::storage::StoragePath::root);
    let name = place.path.name();
    let dropped = parent.join(&format!(".{name}.stepdown-dropped-{rollout}"));
    if pair.published(rollout).await?.is_some() {
        match storage.rename(&place.path, &dropped).await {
            Ok(()) => {}
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    for tree in [Some(dropped), work_dir_of(place)].into_iter().flatten() {
        remove_tree(storage, tree).await?;
    }
    Ok(())
}

async fn remove_tree(
    storage: &dyn crate::storage::Storage,
    path: crate::storage::StoragePath,
) -> Result<(), StorageError> {
    let Some(tree) = OwnedTree::claim(path) else {
        return Ok(());
    };
    storage.delete_tree(&tree).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_in_sync_when_its_passes_are_quick_or_no_quicker_any_more() {
        let seconds = Duration::from_secs_f64;
        for (before, took, is_so) in [
            (None, 0.9, true),
            (None, 60.0, false),
            (Some(60.0), 15.0, false),
            (Some(60.0), 50.0, true),
            (Some(15.0), 0.5, true),
            (Some(3.0), 9.0, true),
        ] {
            let found = is_close(before.map(seconds), seconds(took));
            assert_eq!(found, is_so, "{before:?} {took}");
        }
    }
}
