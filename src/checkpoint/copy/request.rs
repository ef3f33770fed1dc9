//! What is asked of a copy, and by whom.

use std::sync::Arc;

use uuid::Uuid;

use crate::checkpoint::plan::Scope;
use crate::checkpoint::query_id::QueryId;
use crate::checkpoint::target::At;
use crate::control::{LeaseOwner, LeasePolicy};
use crate::storage::{ErrorKind, Storage, StorageError, StoragePath, StorageUri};

/// A directory in a storage.
#[derive(Debug, Clone)]
pub struct Place {
    /// The storage.
    pub storage: Arc<dyn Storage>,
    /// The directory.
    pub path: StoragePath,
}

impl Place {
    /// Its URI.
    pub fn uri(&self) -> StorageUri {
        StorageUri::new(self.storage.authority().clone(), self.path.clone())
    }

    /// Whether something stands there.
    ///
    /// # Errors
    /// Storage errors: then it is not known.
    pub async fn exists(&self) -> Result<bool, StorageError> {
        match self.storage.stat(&self.path).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What becomes of a directory that stands at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// The copy is refused.
    Refuse,
    /// It is moved aside, to a name that is told, right before the copy is published.
    MoveAside,
}

/// What to do about a source that lacks what a restart needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The copy is refused, with the findings.
    Refuse,
    /// It is made all the same; the manifest says what is lost.
    Accept,
}

/// How the result is checked before it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Names and lengths of all files, and what a restart reads of them.
    Restart,
    /// As `Restart`, and every byte is read back and compared by its digest.
    ReadBack,
}

/// How many files are under way at once.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Files that are held in memory whole.
    pub small_at_once: usize,
    /// And so many bytes of them, one file at least.
    pub small_bytes_at_once: u64,
    /// Files that are streamed.
    pub large_at_once: usize,
    /// Requests without content: looks, removals, directories.
    pub requests_at_once: usize,
}

impl Pace {
    /// The pace of a last pass, which a job waits for: what a batch writes over a thousand partitions goes in
    /// two waves, not in eight, each of which is as long as the slowest of its closes.
    pub const HURRIED: Self = Self {
        small_at_once: 512,
        ..Self::USUAL
    };

    // A small file on HDFS waits up to half a second in its close, without work for anybody.
    const USUAL: Self = Self {
        small_at_once: 128,
        small_bytes_at_once: 64 << 20,
        large_at_once: 4,
        requests_at_once: 128,
    };
}

impl Default for Pace {
    fn default() -> Self {
        Self::USUAL
    }
}

/// Who copies: the owner of the destination's lease.
#[derive(Debug, Clone)]
pub struct Copyist {
    /// As the lease names it.
    pub owner: LeaseOwner,
    /// When another's lease counts as left.
    pub policy: LeasePolicy,
    /// Host name, for the manifest.
    pub host: String,
}

/// What is asked of a copy.
#[derive(Debug, Clone)]
pub struct CopyRequest {
    /// The checkpoint.
    pub source: Place,
    /// The copy.
    pub destination: Place,
    /// As of which batch.
    pub at: At,
    /// How much.
    pub scope: Scope,
    /// A new identity for the copy.
    pub new_query_id: Option<QueryId>,
    /// The id in the manifest, where the caller has one: a second call with the same one finds what the
    /// first has published. Without it each copy gets an id of its own.
    pub copy_id: Option<Uuid>,
    /// A directory at the destination.
    pub existing: Existing,
    /// A damaged source.
    pub damage: Damage,
    /// The check before publishing.
    pub check: Check,
    /// How fast.
    pub pace: Pace,
}

impl CopyRequest {
    /// A minimal copy with the identity of its source, which is refused where something stands at the
    /// destination or the source is damaged.
    pub fn new(source: Place, destination: Place, at: At) -> Self {
        Self {
            source,
            destination,
            at,
            scope: Scope::Minimal,
            new_query_id: None,
            copy_id: None,
            existing: Existing::Refuse,
            damage: Damage::Refuse,
            check: Check::Restart,
            pace: Pace::default(),
        }
    }
}
