//! `watch`: all slots of a configuration, grouped by the directories of their markers.
//!
//! A group (one directory, its poller, the engines of its slots) runs by itself. A reload stops and
//! starts the groups whose plan has changed and leaves the others alone; since all that an engine
//! knows is on the storage, one that is started again goes on where the one before it was.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Daemon;
use super::poller::{PollPolicy, Poller};
use super::sentinel_keeper::SentinelKeeper;
use super::slot::{SlotEngine, SlotSpec};
use crate::control::ControlDir;
use crate::marker::poll::DirectoryPoll;
use crate::stop::Backend;
use crate::storage::{Authority, Storage, StoragePath};

/// Digest of what something was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; blake3::OUT_LEN]);

impl Fingerprint {
    /// The digest of anything that shows all of itself in its debug text, which is not kept.
    pub fn of(shown: fmt::Arguments<'_>) -> Self {
        struct Sink(blake3::Hasher);
        impl fmt::Write for Sink {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.update(text.as_bytes());
                Ok(())
            }
        }
        let mut sink = Sink(blake3::Hasher::new());
        // The sink takes everything.
        let _infallible = fmt::write(&mut sink, shown);
        Self(*sink.0.finalize().as_bytes())
    }
}

/// One slot to watch.
#[derive(Debug, Clone)]
pub struct PlannedSlot {
    /// What its engine has to know.
    pub spec: Arc<SlotSpec>,
    /// Where its records are.
    pub control: ControlDir,
    /// How it is stopped.
    pub backend: Arc<dyn Backend>,
    /// Digest of the configuration that all this was made from: two equal ones need no restart.
    pub fingerprint: Fingerprint,
}

/// One directory with the slots whose markers lie in it.
#[derive(Debug, Clone)]
struct Group {
    storage: Arc<dyn Storage>,
    dir: StoragePath,
    sentinel_dir: StoragePath,
    slots: Vec<PlannedSlot>,
    policy: PollPolicy,
}

type GroupKey = (Authority, StoragePath);

#[derive(Debug)]
struct Running {
    fingerprint: Fingerprint,
    stop: CancellationToken,
    tasks: tokio::task::JoinHandle<()>,
}

/// The daemon's groups.
#[derive(Debug)]
pub struct Watcher {
    daemon: Daemon,
    shutdown: CancellationToken,
    running: BTreeMap<GroupKey, Running>,
}

/// What a reload did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// Directories that are watched now and were not before.
    pub started: usize,
    /// Directories whose slots have changed.
    pub restarted: usize,
    /// Directories that are not watched any more.
    pub ended: usize,
    /// Directories that were left alone.
    pub kept: usize,
}

impl Watcher {
    /// A watcher of nothing.
    pub fn new(daemon: Daemon, shutdown: CancellationToken) -> Self {
        Self {
            daemon,
            shutdown,
            running: BTreeMap::new(),
        }
    }

    /// Watches exactly `slots` from now on.
    pub fn apply(&mut self, slots: Vec<PlannedSlot>, policy: PollPolicy) -> Changes {
        let mut groups: BTreeMap<GroupKey, Group> = BTreeMap::new();
        for slot in slots {
            let storage = Arc::clone(&slot.spec.marker_storage);
            let dir = slot
                .spec
                .marker
                .path
                .parent()
                .unwrap_or_else(StoragePath::root);
            groups
                .entry((storage.authority().clone(), dir.clone()))
                .or_insert_with(|| Group {
                    storage,
                    dir,
                    sentinel_dir: slot.spec.sentinel_dir.clone(),
                    slots: Vec::new(),
                    policy,
                })
                .slots
                .push(slot);
        }
        let mut changes = Changes::default();
        let gone: Vec<GroupKey> = self
            .running
            .keys()
            .filter(|key| !groups.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            if let Some(old) = self.running.remove(&key) {
                old.stop.cancel();
                changes.ended += 1;
            }
        }
        for (key, group) in groups {
            let fingerprint = group.fingerprint();
            let before = match self.running.remove(&key) {
                Some(old) if old.fingerprint == fingerprint && !old.tasks.is_finished() => {
                    changes.kept += 1;
                    self.running.insert(key, old);
                    continue;
                }
                Some(old) => {
                    changes.restarted += 1;
                    old.stop.cancel();
                    Some(old.tasks)
                }
                None => {
                    changes.started += 1;
                    None
                }
            };
            let stop = self.shutdown.child_token();
            let tasks = tokio::spawn(group.run(self.daemon.clone(), stop.clone(), before));
            self.running.insert(
                key,
                Running {
                    fingerprint,
                    stop,
                    tasks,
                },
            );
        }
        changes
    }

    /// How many directories are watched.
    pub fn directories(&self) -> usize {
        self.running.len()
    }

    /// Names of directories whose tasks have ended although nobody asked for it: a fault of stepdown.
    pub fn broken(&self) -> Vec<String> {
        self.running
            .iter()
            .filter(|(_, running)| running.tasks.is_finished() && !self.shutdown.is_cancelled())
            .map(|((_, dir), _)| dir.to_string())
            .collect()
    }

    /// Waits until all groups have ended, at most `patience`. Call it after the shutdown token was
    /// cancelled. False if some had not ended.
    pub async fn join(self, patience: Duration) -> bool {
        let all = async {
            for (_, running) in self.running {
                // A panic was told by the panic hook; the others are waited for all the same.
                let _ended = running.tasks.await;
            }
        };
        tokio::time::timeout(patience, all).await.is_ok()
    }
}

impl Group {
    fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&Fingerprint::of(format_args!("{:?}", self.policy)).0);
        for slot in &self.slots {
            hasher.update(&slot.fingerprint.0);
        }
        Fingerprint(*hasher.finalize().as_bytes())
    }

    async fn run(
        self,
        daemon: Daemon,
        stop: CancellationToken,
        before: Option<tokio::task::JoinHandle<()>>,
    ) {
        if let Some(before) = before {
            // The engines before these release their leases first.
            let _ended = before.await;
        }
        let names = self
            .slots
            .iter()
            .map(|slot| slot.spec.marker.path.name().to_owned())
            .collect();
        let poll = DirectoryPoll::new(
            Arc::clone(&self.storage),
            self.dir.clone(),
            &self.sentinel_dir,
            names,
            daemon.boot_id.clone(),
        );
        let (poller, views) = Poller::new(poll, self.policy, self.slots.len());
        let keeper = SentinelKeeper::new(self.storage, self.sentinel_dir, self.policy.interval);
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run(poller, stop.clone()));
        for (slot, sightings) in self.slots.into_iter().zip(views) {
            let engine = SlotEngine::new(
                daemon.clone(),
                slot.spec,
                slot.control,
                slot.backend,
                sightings,
                stop.clone(),
            );
            tasks.spawn(engine.run());
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                // One engine's fault must not leave its slot unwatched in silence: the whole group
                // ends, the daemon notices and ends with an error, and its supervisor starts it anew.
                tracing::error!(dir = %self.dir, "a task failed: {error}");
                stop.cancel();
            }
        }
    }
}
