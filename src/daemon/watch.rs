//! `watch`: all slots of a configuration, grouped by the directories of their markers.
//!
//! A group (one directory, its poller, the rows and engines of its slots) runs by itself. A reload stops and
//! starts the groups whose plan has changed and leaves the others alone; since all that an engine
//! knows is on the storage, one that is started again goes on where the one before it was.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Daemon;
use super::poller::{PollPolicy, Poller};
use super::rows::Rows;
use super::sentinel_keeper::SentinelKeeper;
use super::slot::SlotSpec;
use crate::control::ControlDir;
use crate::marker::poll::DirectoryPoll;
use crate::stop::Backend;
use crate::stop::wakes::Wakes;
use crate::storage::{Authority, Storage, StorageError, StoragePath};

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

/// Where the slots to watch come from: one is made when there is something to do in it, so that
/// thousands in which there is not take little room.
pub trait SlotSource: fmt::Debug + Send + Sync {
    /// How many slots there are.
    fn count(&self) -> usize;

    /// The slot at a position below the count: the same each time.
    ///
    /// # Errors
    /// Where it cannot be made; then it could not be the first time either, and is not watched.
    fn plan(&self, at: usize) -> Result<PlannedSlot, StorageError>;
}

/// One directory with the slots whose markers lie in it.
#[derive(Debug)]
struct Group {
    storage: Arc<dyn Storage>,
    dir: StoragePath,
    sentinel_dir: StoragePath,
    source: Arc<dyn SlotSource>,
    /// The slots, by their positions in the source, with their backends; and the names of their markers.
    places: Vec<(u32, Arc<dyn Backend>)>,
    names: Vec<String>,
    hasher: blake3::Hasher,
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

    /// Watches exactly the slots of `source` from now on.
    ///
    /// # Errors
    /// Where one of them cannot be made: then nothing has changed.
    pub fn apply(
        &mut self,
        source: &Arc<dyn SlotSource>,
        policy: PollPolicy,
    ) -> Result<Changes, StorageError> {
        let groups = group(source, policy)?;
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
        Ok(changes)
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

/// The slots of `source` by the directories of their markers.
fn group(
    source: &Arc<dyn SlotSource>,
    policy: PollPolicy,
) -> Result<BTreeMap<GroupKey, Group>, StorageError> {
    let mut groups: BTreeMap<GroupKey, Group> = BTreeMap::new();
    for (place, at) in (0_u32..).zip(0..source.count()) {
        let slot = source.plan(at)?;
        let spec = &slot.spec;
        let dir = spec.marker.path.parent().unwrap_or_else(StoragePath::root);
        let key = (spec.marker_storage.authority().clone(), dir);
        let group = groups.entry(key).or_insert_with_key(|(_, dir)| Group {
            storage: Arc::clone(&spec.marker_storage),
            dir: dir.clone(),
            sentinel_dir: spec.sentinel_dir.clone(),
            source: Arc::clone(source),
            places: Vec::new(),
            names: Vec::new(),
            hasher: blake3::Hasher::new(),
            policy,
        });
        group.places.push((place, slot.backend));
        group.names.push(spec.marker.path.name().to_owned());
        group.hasher.update(&slot.fingerprint.0);
    }
    Ok(groups)
}

impl Group {
    fn fingerprint(&self) -> Fingerprint {
        let mut hasher = self.hasher.clone();
        hasher.update(&Fingerprint::of(format_args!("{:?}", self.policy)).0);
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
        let poll = DirectoryPoll::new(
            Arc::clone(&self.storage),
            self.dir.clone(),
            &self.sentinel_dir,
            self.names,
            daemon.boot_id.clone(),
        );
        let wakes = Arc::<Wakes>::default();
        let count = self.places.len();
        let (poller, views) = Poller::waking(poll, self.policy, count, Arc::clone(&wakes));
        let keeper = SentinelKeeper::new(self.storage, self.sentinel_dir, self.policy.interval);
        let rows = Rows::new(daemon, self.source, self.places, wakes, views, stop);
        if !rows.run(keeper, poller).await {
            tracing::error!(dir = %self.dir, "the directory is not watched any more");
        }
    }
}
