//! The sentinel: a small file that tells a directory from an empty one at the same path.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::document::{self, Document, DocumentError, Saved};
use crate::storage::{Storage, StoragePath};

/// Name of the sentinel in its directory.
pub const SENTINEL: &str = ".stepdown";

/// Why a sentinel could not be made or read.
pub type SentinelError = DocumentError;

/// The content of a sentinel. Its id is the identity of the directory: a directory that was deleted
/// and made again has none, or another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sentinel {
    /// Identity of the directory.
    pub directory_id: Uuid,
    /// When the directory was set up, by the clock of the host that did it.
    pub created_at: Timestamp,
}

impl Document for Sentinel {
    const KIND: &'static str = "sentinel";
}

impl Sentinel {
    /// Path of the sentinel of `dir`.
    pub fn path(dir: &StoragePath) -> StoragePath {
        dir.join(SENTINEL)
    }

    /// The sentinel of `dir`, made if it is missing. Two callers at once get the same one.
    ///
    /// # Errors
    /// Storage errors (`NotFound`: `dir` is missing); `Malformed` if the file is something else.
    pub async fn ensure(storage: &dyn Storage, dir: &StoragePath) -> Result<Self, SentinelError> {
        let path = Self::path(dir);
        if let Some(found) = document::load_optional(storage, &path).await? {
            return Ok(found);
        }
        let fresh = Self {
            directory_id: Uuid::new_v4(),
            created_at: Timestamp::now(),
        };
        match document::save_new(storage, &path, &fresh).await? {
            Saved::Created => Ok(fresh),
            Saved::Exists => document::load(storage, &path).await,
        }
    }

    /// The sentinel of `dir`, or `None` if it has none.
    ///
    /// # Errors
    /// Storage errors; `Malformed`.
    pub async fn load(
        storage: &dyn Storage,
        dir: &StoragePath,
    ) -> Result<Option<Self>, SentinelError> {
        document::load_optional(storage, &Self::path(dir)).await
    }
}
