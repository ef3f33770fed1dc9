//! One round over the markers of one directory: present, absent, or unknown.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::state::Trigger;
use crate::control::Sentinel;
use crate::storage::{
    Depth, DirIdentity, ErrorKind, FileStat, Storage, StorageError, StoragePath, StorageUri,
};

/// From this many markers on, one listing is cheaper than a look at each.
const LIST_FROM: usize = 3;

/// After so many rounds in which no marker was missing, the directory is asked again who it is: without
/// its sentinel a removal would not be noticed.
const ROUNDS_TRUSTED: u32 = 10;

/// What one look at a marker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// It is there.
    Present(Seen),
    /// The storage said that it is not there, and its directory was the one it should be, readable,
    /// in the same round.
    Absent,
    /// Everything else. Never a reason to stop anything.
    Unknown(Why),
}

/// What is known of a marker that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Last change, by the storage's clock.
    pub modified_at: Timestamp,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// Why a look said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// There was no look yet.
    NotLooked,
    /// The storage gave an error.
    Storage {
        /// Its sort.
        kind: ErrorKind,
        /// Its text.
        text: Arc<str>,
    },
    /// The directory is not the one it was when the marker was armed.
    DirectoryReplaced(Arc<str>),
    /// The directory has no sentinel although it must have one.
    SentinelMissing(Arc<str>),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotLooked => f.write_str("no look yet"),
            Why::Storage { text, .. } => f.write_str(text),
            Why::DirectoryReplaced(dir) => write!(
                f,
                "the directory {dir} is not the one in which the marker was seen; \
                 if it was made anew on purpose, touch the marker again"
            ),
            Why::SentinelMissing(path) => write!(
                f,
                "the sentinel {path} is gone, so the directory may be another one; \
                 bring the directory back, or touch the marker again after `stepdown init`"
            ),
        }
    }
}

impl Sighting {
    /// A present marker of no particular content (tests, and markers just made).
    pub fn present() -> Self {
        Sighting::Present(Seen {
            modified_at: Timestamp::UNIX_EPOCH,
            len_bytes: 0,
        })
    }

    fn from_error(error: &StorageError) -> Self {
        let text = error_chain(error);
        Sighting::Unknown(Why::Storage {
            kind: error.kind,
            text: text.into(),
        })
    }
}

/// An error and its causes on one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The identity of a marker's directory, as it is saved with an armed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardRecord {
    /// What the storage itself tells.
    pub identity: DirIdentity,
    /// The kernel's boot id of the host that looked (local directories: device numbers may change
    /// with a reboot), empty for remote ones.
    pub boot_id: String,
    /// The id in the directory's sentinel, where it has one.
    pub directory_id: Option<Uuid>,
}

/// What is known of a marker's directory now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Its identity.
    pub record: GuardRecord,
    /// The sentinel's time stamp when its id was read: while it is the same, so is the id.
    sentinel_at: Option<Timestamp>,
}

impl GuardRecord {
    /// Whether `now` is the same directory. Without any identity to compare (HDFS without a sentinel)
    /// it is not.
    pub fn is_same(&self, now: &GuardRecord) -> bool {
        let same_boot = self.boot_id == now.boot_id;
        match (&self.identity, &now.identity) {
            // A sentinel that was added later does not make it another directory.
            (DirIdentity::Inode { .. }, DirIdentity::Inode { .. })
                if self.directory_id.is_none() =>
            {
                same_boot && self.identity == now.identity
            }
            // Device numbers may change with a reboot: then the sentinel alone tells.
            (DirIdentity::Inode { .. }, DirIdentity::Inode { .. }) => {
                self.directory_id == now.directory_id
                    && (!same_boot || self.identity == now.identity)
            }
            (DirIdentity::Unnumbered, DirIdentity::Unnumbered) => {
                self.directory_id.is_some() && self.directory_id == now.directory_id
            }
            (DirIdentity::Inode { .. }, DirIdentity::Unnumbered)
            | (DirIdentity::Unnumbered, DirIdentity::Inode { .. }) => false,
        }
    }
}

/// Result of one round over a directory.
#[derive(Debug)]
pub struct Round {
    /// When the round began: it says nothing of what was before.
    pub begun: Instant,
    /// The directory's identity, if it could be established.
    pub guard: Result<GuardRecord, Why>,
    /// For each marker, in the order given: there, or not in the listing.
    pub markers: Vec<Sighting>,
}

impl Round {
    /// Whether markers are there and the sentinel that would vouch for their absence is not.
    pub fn lacks_sentinel(&self) -> bool {
        matches!(self.guard, Err(Why::SentinelMissing(_)))
            && self
                .markers
                .iter()
                .any(|marker| matches!(marker, Sighting::Present(_)))
    }

    /// What the round says of marker `index`, held against the directory in which it was armed.
    ///
    /// What would ask for a stop by `trigger` counts only in the directory in which the marker was
    /// armed; a marker that stands as it should does so in any directory. One that is not there is
    /// absent only where the directory is known.
    pub fn sighting(
        &self,
        index: usize,
        trigger: Trigger,
        armed_in: Option<&GuardRecord>,
    ) -> Sighting {
        let Some(raw) = self.markers.get(index) else {
            return Sighting::Unknown(Why::NotLooked);
        };
        let asks = trigger.asks(raw) == Some(true);
        match (raw, &self.guard, armed_in) {
            (Sighting::Absent, Err(why), _) => Sighting::Unknown(why.clone()),
            (_, Err(why), Some(_)) if asks => Sighting::Unknown(why.clone()),
            (_, Ok(now), Some(before)) if asks && !before.is_same(now) => {
                let why = match (before.directory_id, now.directory_id) {
                    (Some(id), None) => Why::SentinelMissing(id.to_string().into()),
                    _ => Why::DirectoryReplaced("of the marker".into()),
                };
                Sighting::Unknown(why)
            }
            _ => raw.clone(),
        }
    }
}

/// The markers of one directory, looked at together.
#[derive(Debug)]
pub struct DirectoryPoll {
    storage: Arc<dyn Storage>,
    dir: StoragePath,
    sentinel: StoragePath,
    boot_id: String,
    names: Vec<Box<str>>,
    /// Positions of the names in the order of their bytes, in which listings are.
    order: Vec<usize>,
    guard: Option<Guard>,
    /// Rounds for which `guard` is taken as it is.
    trusted: u32,
}

impl DirectoryPoll {
    /// A poll of the files `names` in `dir`. `sentinel_dir` holds the sentinel that vouches for the
    /// directory: `dir` itself, or the state directory beside a single marker.
    pub fn new(
        storage: Arc<dyn Storage>,
        dir: StoragePath,
        sentinel_dir: &StoragePath,
        names: Vec<String>,
        boot_id: String,
    ) -> Self {
        let names: Vec<Box<str>> = names.into_iter().map(Into::into).collect();
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_unstable_by_key(|at| names.get(*at));
        let sentinel = Sentinel::path(sentinel_dir);
        Self {
            storage,
            dir,
            sentinel,
            boot_id,
            names,
            order,
            guard: None,
            trusted: 0,
        }
    }

    /// The directory.
    pub fn dir(&self) -> &StoragePath {
        &self.dir
    }

    /// Its storage.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Looks at all markers once. Every storage call in it has its own time-out; nothing is retried.
    pub async fn poll(&mut self) -> Round {
        let begun = Instant::now();
        let before = self.storage.identify_dir(&self.dir).await;
        let mut markers = match &before {
            Ok(_) if self.names.len() >= LIST_FROM => self.look_by_listing().await,
            Ok(_) => self.look_at_each().await,
            Err(error) => vec![directory_error(error); self.names.len()],
        };
        let identity = match before {
            Ok(identity) => identity,
            Err(error) => {
                // Another one may stand there when it is seen again.
                self.trusted = 0;
                let Sighting::Unknown(why) = directory_error(&error) else {
                    return Round {
                        begun,
                        guard: Err(Why::NotLooked),
                        markers,
                    };
                };
                return Round {
                    begun,
                    guard: Err(why),
                    markers,
                };
            }
        };
        if !markers.contains(&Sighting::Absent) && self.trusted > 0 {
            // Nothing is missing: no need to ask who the directory is.
            let record = self.guard.as_ref().map(|guard| guard.record.clone());
            if let Some(record) = record.filter(|record| record.identity == identity) {
                self.trusted -= 1;
                return Round {
                    begun,
                    guard: Ok(record),
                    markers,
                };
            }
        }
        // The identity is established after the look, and must be the same as before it: a directory
        // that was swapped in between shows in one of the two.
        let guard = self.establish(identity).await;
        if let Err(why) = &guard {
            for marker in &mut markers {
                if *marker == Sighting::Absent {
                    *marker = Sighting::Unknown(why.clone());
                }
            }
        }
        Round {
            begun,
            guard,
            markers,
        }
    }

    async fn look_by_listing(&self) -> Vec<Sighting> {
        match self.storage.list(&self.dir, Depth::Children).await {
            Ok(entries) => {
                let mut markers = vec![Sighting::Absent; self.names.len()];
                // Both are sorted, so the next name is nearly always the one at hand; where it is not, it
                // is searched for, since a name that is overlooked would read as absent.
                let mut at = 0;
                for entry in &entries {
                    let name = entry.path.name();
                    if self.name_in_order(at) != Some(name) {
                        at = self
                            .order
                            .partition_point(|at| self.names.get(*at).map_or("", |one| one) < name);
                    }
                    // Two slots may have the same marker.
                    while self.name_in_order(at) == Some(name) {
                        let marker = self.order.get(at).and_then(|at| markers.get_mut(*at));
                        if let Some(marker) = marker {
                            *marker = Sighting::Present(seen(entry));
                        }
                        at += 1;
                    }
                }
                markers
            }
            Err(error) => vec![directory_error(&error); self.names.len()],
        }
    }

    fn name_in_order(&self, at: usize) -> Option<&str> {
        let name = self.names.get(*self.order.get(at)?)?;
        Some(name)
    }

    async fn look_at_each(&self) -> Vec<Sighting> {
        let mut markers = Vec::with_capacity(self.names.len());
        for name in &self.names {
            markers.push(match self.storage.stat(&self.dir.join(name)).await {
                Ok(stat) => Sighting::Present(seen(&stat)),
                Err(error) if error.kind == ErrorKind::NotFound => Sighting::Absent,
                Err(error) => Sighting::from_error(&error),
            });
        }
        markers
    }

    async fn establish(&mut self, before: DirIdentity) -> Result<GuardRecord, Why> {
        self.trusted = 0;
        let why = |error: &StorageError| match directory_error(error) {
            Sighting::Unknown(why) => why,
            Sighting::Present(_) | Sighting::Absent => Why::NotLooked,
        };
        let sentinel_at = match self.storage.stat(&self.sentinel).await {
            Ok(stat) => Some(stat.modified_at),
            Err(error) if error.kind == ErrorKind::NotFound => None,
            Err(error) => return Err(why(&error)),
        };
        let after = self
            .storage
            .identify_dir(&self.dir)
            .await
            .map_err(|error| why(&error))?;
        if after != before {
            return Err(Why::DirectoryReplaced(self.dir.as_str().into()));
        }
        let known = self
            .guard
            .as_ref()
            .filter(|guard| sentinel_at.is_some() && guard.sentinel_at == sentinel_at);
        let directory_id = match (known, sentinel_at) {
            (Some(guard), _) => guard.record.directory_id,
            (None, None) => None,
            (None, Some(_)) => {
                let sentinel: Sentinel =
                    crate::control::load(self.storage.as_ref(), &self.sentinel)
                        .await
                        .map_err(|error| Why::Storage {
                            kind: error.storage_kind().unwrap_or(ErrorKind::Other),
                            text: error_chain(&error).into(),
                        })?;
                Some(sentinel.directory_id)
            }
        };
        let boot_id = match after {
            DirIdentity::Inode { .. } => self.boot_id.clone(),
            DirIdentity::Unnumbered => String::new(),
        };
        let record = GuardRecord {
            identity: after,
            boot_id,
            directory_id,
        };
        if record.identity == DirIdentity::Unnumbered && record.directory_id.is_none() {
            let uri = StorageUri::new(self.storage.authority().clone(), self.sentinel.clone());
            return Err(Why::SentinelMissing(uri.to_string().into()));
        }
        self.guard = Some(Guard {
            record: record.clone(),
            sentinel_at,
        });
        self.trusted = ROUNDS_TRUSTED;
        Ok(record)
    }
}

fn seen(stat: &FileStat) -> Seen {
    Seen {
        modified_at: stat.modified_at,
        len_bytes: stat.len_bytes,
    }
}

/// A directory that is missing is no absence of its markers.
fn directory_error(error: &StorageError) -> Sighting {
    Sighting::from_error(error)
}
