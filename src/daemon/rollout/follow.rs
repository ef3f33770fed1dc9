//! Followers: an engine for each attempt of both slots, so that its marker is watched and its stop driven
//! whether or not a `stepdown watch` runs somewhere.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::daemon::Daemon;
use crate::daemon::ask::await_receipt;
use crate::daemon::poller::PollPolicy;
use crate::daemon::watch::PlannedSlot;
use crate::model::AttemptId;

/// The followers of one rollout.
#[derive(Debug)]
pub(super) struct Followers {
    daemon: Daemon,
    policy: PollPolicy,
    shutdown: CancellationToken,
    changed: Arc<Notify>,
    tasks: HashMap<AttemptId, JoinHandle<()>>,
}

impl Followers {
    pub(super) fn new(
        daemon: Daemon,
        policy: PollPolicy,
        shutdown: CancellationToken,
        changed: Arc<Notify>,
    ) -> Self {
        Self {
            daemon,
            policy,
            shutdown,
            changed,
            tasks: HashMap::new(),
        }
    }

    /// Follows `attempt` to its receipt, unless that is done already.
    pub(super) fn follow(&mut self, slot: &PlannedSlot, attempt: &AttemptId) {
        if self.tasks.contains_key(attempt) {
            return;
        }
        let (daemon, slot, of) = (self.daemon.clone(), slot.clone(), attempt.clone());
        let (policy, shutdown) = (self.policy, self.shutdown.clone());
        let changed = Arc::clone(&self.changed);
        let task = tokio::spawn(async move {
            // Its receipt is read from the storage: here it only says that there is one.
            let _receipt = await_receipt(&daemon, &slot, &of, policy, shutdown).await;
            changed.notify_one();
        });
        self.tasks.insert(attempt.clone(), task);
    }

    /// Ends all of them and waits until they have let go of their leases.
    pub(super) async fn close(&mut self) {
        self.shutdown.cancel();
        for (_, task) in self.tasks.drain() {
            let _ended = task.await;
        }
    }
}
