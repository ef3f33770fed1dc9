//! What a copy tells: while it goes on, and what it came to.

use serde::Serialize;
use uuid::Uuid;

use super::CopyRequest;
use crate::checkpoint::finding::Finding;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::plan::Tally;
use crate::model::BatchId;
use crate::storage::StorageUri;

/// What a copy tells while it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The plan stands.
    Planned {
        /// All files of the copy.
        total: Tally,
        /// Those that are copied in this pass.
        to_copy: Tally,
        /// Those that are in the work directory and need not be copied.
        kept: Tally,
    },
    /// A file is in the work directory.
    Copied {
        /// Its bytes.
        bytes: u64,
    },
    /// Part of a large file is there.
    Streamed {
        /// How many bytes more.
        bytes: u64,
    },
    /// All files are there and are checked now.
    Checking,
    /// Files of the plan vanished or changed: it is made anew.
    Replanned {
        /// Why.
        why: String,
    },
    /// The copy stands at its destination.
    Published,
}

/// Where events go.
pub type Events<'a> = &'a (dyn Fn(Event) + Send + Sync);

/// What a copy came to.
#[derive(Debug, Clone, Serialize)]
pub struct CopyReport {
    /// The source.
    pub source: StorageUri,
    /// The copy.
    pub destination: StorageUri,
    /// Its id, as in its manifest.
    pub copy_id: Uuid,
    /// Its query id.
    pub query_id: Option<String>,
    /// The last planned batch in it.
    pub last_planned_batch: Option<BatchId>,
    /// The last committed batch in it.
    pub last_committed_batch: Option<BatchId>,
    /// Its files.
    pub total: Tally,
    /// What the last pass had to copy.
    pub copied: Tally,
    /// Where the directory that stood at the destination is now.
    pub moved_aside: Option<StorageUri>,
    /// What was found and overruled: this is lost, or keeps the copy from a restart.
    pub problems: Vec<Finding>,
    /// What was found and does no harm.
    pub remarks: Vec<Finding>,
}

impl CopyReport {
    /// What `manifest` says of the copy that was asked for.
    pub(super) fn of(
        request: &CopyRequest,
        manifest: &Manifest,
        copied: Tally,
        moved_aside: Option<StorageUri>,
    ) -> Self {
        Self {
            source: request.source.uri(),
            destination: request.destination.uri(),
            copy_id: manifest.copy_id,
            query_id: manifest.query_id.clone(),
            last_planned_batch: manifest.last_planned_batch,
            last_committed_batch: manifest.last_committed_batch,
            total: Tally {
                files: manifest.files.len() as u64,
                bytes: manifest.total_bytes(),
            },
            copied,
            moved_aside,
            problems: Vec::new(),
            remarks: Vec::new(),
        }
    }
}
