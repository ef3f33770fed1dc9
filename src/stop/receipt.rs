//! The receipt: the file that confirms a stop.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Exit;
use super::boundary::BoundaryReport;
use super::decide::Outcome;
use super::proof::Proof;
use super::record::Reason;
use crate::control::{ControlDir, Document, DocumentError, Saved, load_optional, save_new};
use crate::model::{AttemptId, BatchId, Generation, JobName, Slot, StopId};
use crate::storage::{FileStat, StorageUri};

/// In what way an attempt came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It was asked and ended by itself within the drain deadline.
    Drained,
    /// It was asked and ended by itself after the deadline.
    DrainedLate,
    /// It was asked, did not end, and was killed.
    Killed,
    /// It ended without having been asked.
    ByItself,
}

/// A copy of a checkpoint for the new job, made before the stop was confirmed; or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointCopy {
    /// The checkpoint.
    pub source: StorageUri,
    /// Where the copy is, or was to be.
    pub destination: StorageUri,
    /// How it ended.
    #[serde(flatten)]
    pub end: CopyEnd,
}

/// How a copy ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum CopyEnd {
    /// It is complete and checked.
    Copied {
        /// Its id, as in its manifest.
        copy_id: Uuid,
        /// Its query id, where it has one.
        query_id: Option<String>,
        /// The last planned batch in it.
        last_planned_batch: Option<BatchId>,
        /// The last committed batch in it.
        last_committed_batch: Option<BatchId>,
        /// Number of its files.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// Where the directory that stood at the destination is now.
        moved_aside: Option<StorageUri>,
    },
    /// There is none.
    Failed {
        /// Why.
        why: String,
    },
}

impl CopyEnd {
    /// Whether there is a copy.
    pub fn is_copied(&self) -> bool {
        matches!(self, CopyEnd::Copied { .. })
    }
}

/// What is known of a stop when it is over. Written once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The stop.
    pub stop_id: StopId,
    /// The job.
    pub job: JobName,
    /// The slot.
    pub slot: Slot,
    /// The attempt that is over.
    pub attempt: AttemptId,
    /// Its marker.
    pub marker: StorageUri,
    /// `stopped`, `restarted` or `died`.
    pub outcome: Outcome,
    /// The attempt that runs instead, where the outcome is `restarted`.
    pub restarted_as: Option<AttemptId>,
    /// Why it was stopped.
    pub reason: Reason,
    /// How it ended.
    pub how: How,
    /// Exit code or signal, where known.
    pub exit: Option<Exit>,
    /// How the moment to ask was chosen, where one between two batches was waited for.
    #[serde(default)]
    pub boundary: Option<BoundaryReport>,
    /// What the checkpoints say.
    pub proof: Proof,
    /// The copies of its checkpoints, where `on-stopped = "copy"`; empty else.
    #[serde(default)]
    pub copies: Vec<CheckpointCopy>,
    /// Whether the marker was touched again while the stop went on: a request to start again.
    pub start_requested: bool,
    /// When the stop became irrevocable, by the storage's clock.
    pub latched_at: Option<Timestamp>,
    /// When the end of the attempt was seen, by the clock of the host that saw it.
    pub ended_at: Timestamp,
    /// From the latch to the end, in seconds, on one clock; absent where the attempt was not asked.
    pub drain_seconds: Option<f64>,
    /// Generation of the lease under which the receipt was written.
    pub generation: Generation,
    /// The backend that asked.
    pub backend: String,
    /// Host that wrote the receipt.
    pub host: String,
    /// Version of stepdown that wrote it.
    pub stepdown_version: String,
}

impl Document for Receipt {
    const KIND: &'static str = "receipt";
}

/// Publishes the receipt, unless one of this stop is there.
///
/// # Errors
/// Storage errors.
pub async fn save_receipt(control: &ControlDir, receipt: &Receipt) -> Result<Saved, DocumentError> {
    let path = control.receipt(&receipt.job, &receipt.stop_id);
    save_new(control.storage().as_ref(), &path, receipt).await
}

/// The receipt of a stop, if it is over.
///
/// # Errors
/// Storage errors; `Malformed`.
pub async fn load_receipt(
    control: &ControlDir,
    job: &JobName,
    stop_id: &StopId,
) -> Result<Option<Receipt>, DocumentError> {
    load_optional(control.storage().as_ref(), &control.receipt(job, stop_id)).await
}

/// The newest receipt of a slot, by the storage's time stamps.
///
/// # Errors
/// Storage errors; `NoControl`; `Malformed`.
pub async fn load_newest_receipt(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
) -> Result<Option<Receipt>, DocumentError> {
    let storage = control.storage();
    match list_receipts(control, job, slot).await?.pop() {
        Some(entry) => load_optional(storage.as_ref(), &entry.path).await,
        None => Ok(None),
    }
}

/// At most `count` of the newest receipts of a slot, without those that cannot be understood.
///
/// # Errors
/// Storage errors; `NoControl`.
pub async fn load_newest_receipts(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
    count: usize,
) -> Result<Vec<Receipt>, DocumentError> {
    let mut receipts = Vec::new();
    for entry in list_receipts(control, job, slot)
        .await?
        .iter()
        .rev()
        .take(count)
    {
        match load_optional(control.storage().as_ref(), &entry.path).await {
            Ok(found) => receipts.extend(found),
            Err(error @ DocumentError::Malformed { .. }) => tracing::debug!("left out: {error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(receipts)
}

/// The receipts of a slot, the newest last.
async fn list_receipts(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
) -> Result<Vec<FileStat>, DocumentError> {
    let mut entries = control.list(&control.receipts_dir(job)).await?;
    let prefix = format!("{slot}-");
    entries.retain(|entry| {
        let name = entry.path.name();
        name.strip_suffix(".json")
            .is_some_and(|id| id.starts_with(&prefix))
    });
    entries.sort_by_key(|entry| entry.modified_at);
    Ok(entries)
}
