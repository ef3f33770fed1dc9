//! The `go`: the file that lets a held job start its queries.

use serde::{Deserialize, Serialize};

use super::record::RolloutId;
use crate::control::{ControlDir, Document, DocumentError, load_optional};
use crate::model::{Generation, JobName, Slot};
use crate::storage::{Removal, StoragePath, StorageUri};

/// What the file says. A receiver starts only for its own rollout and generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Go {
    /// The rollout.
    pub rollout_id: RolloutId,
    /// The generation under which the receiver was started.
    pub generation: Generation,
    /// The job.
    pub job: JobName,
    /// The slot.
    pub slot: Slot,
    /// The checkpoints that it takes over.
    pub checkpoints: Vec<StorageUri>,
}

impl Document for Go {
    const KIND: &'static str = "go";
}

/// Where the file of a slot lies.
pub fn go_path(control: &ControlDir, job: &JobName, slot: Slot) -> StoragePath {
    control.state_dir(job).join(&format!("go.{slot}.json"))
}

/// Whether the file of `go`'s slot is there and means the same rollout and generation.
///
/// # Errors
/// Storage errors. Another's file, or one that is no `go`, is none of it.
pub async fn is_given(control: &ControlDir, go: &Go) -> Result<bool, DocumentError> {
    let path = go_path(control, &go.job, go.slot);
    match load_optional::<Go>(control.storage().as_ref(), &path).await {
        Ok(found) => Ok(found.is_some_and(|found| {
            found.rollout_id == go.rollout_id && found.generation == go.generation
        })),
        Err(DocumentError::Malformed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the file of a slot, whatever it says: nobody waits for it any more.
///
/// # Errors
/// Storage errors.
pub async fn remove_go(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
) -> Result<Removal, DocumentError> {
    let path = go_path(control, job, slot);
    Ok(control.storage().delete_file(&path).await?)
}
