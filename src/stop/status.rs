//! The status file of a slot: what the one who runs the driver says of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Exit;
use crate::control::{ControlDir, Document, DocumentError, load_optional, save_replacing};
use crate::model::{AttemptId, JobName, Slot};
use crate::storage::StorageUri;

/// Where an attempt is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is being started.
    Starting,
    /// It waits before its queries start.
    Held,
    /// Its queries run.
    Running,
    /// It finishes its batch.
    Draining,
    /// It finished its batches and ends.
    Drained,
    /// It is over.
    Ended,
}

/// The status file. One writer: the driver kit, or `run` where there is no kit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusFile {
    /// The job.
    pub job: JobName,
    /// The slot.
    pub slot: Slot,
    /// The attempt it speaks of.
    pub attempt: AttemptId,
    /// The run of `stepdown run`, where there is one.
    #[serde(default)]
    pub run_id: Option<Uuid>,
    /// Where it is.
    pub phase: Phase,
    /// The marker that it goes by.
    #[serde(default)]
    pub marker: Option<StorageUri>,
    /// How it ended, in phase `ended`.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// When this was written, by the writer's clock.
    pub written_at: Timestamp,
}

impl Document for StatusFile {
    const KIND: &'static str = "status";
}

/// Saves the status of a slot.
///
/// # Errors
/// Storage errors.
pub async fn save_status(control: &ControlDir, status: &StatusFile) -> Result<(), DocumentError> {
    let path = control.status(&status.job, status.slot);
    save_replacing(control.storage().as_ref(), &path, status).await
}

/// The status of a slot, if anyone wrote one.
///
/// # Errors
/// Storage errors; `Malformed`.
pub async fn load_status(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
) -> Result<Option<StatusFile>, DocumentError> {
    load_optional(control.storage().as_ref(), &control.status(job, slot)).await
}
