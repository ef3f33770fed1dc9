//! Making and removing markers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::control::{Document, DocumentError, Saved, load, save_new};
use crate::model::{JobName, Slot};
use crate::storage::{ErrorKind, Removal, Storage, StoragePath};

/// The content of a marker that stepdown made: it says which run it belongs to. A marker may as well
/// be empty, or hold anything else: only its presence counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkerNote {
    /// The run that made it; only that run removes it by itself.
    pub run_id: Uuid,
    /// Its job.
    pub job: JobName,
    /// Its slot.
    pub slot: Slot,
    /// When, by the clock of the host that made it.
    pub created_at: Timestamp,
}

impl Document for MarkerNote {
    const KIND: &'static str = "marker";
}

/// Makes the marker with `note` in it, unless one is there: then that one counts, as it is.
///
/// # Errors
/// Storage errors; the marker may then not be there.
pub async fn create_marker(
    storage: &dyn Storage,
    path: &StoragePath,
    note: &MarkerNote,
) -> Result<Saved, DocumentError> {
    save_new(storage, path, note).await
}

/// Removes the marker if it is still the one that `run_id` made; any other is left alone.
///
/// Between the look and the removal an operator may put another one there: the window is one storage
/// round trip, and a removed request to run is visible in the receipt.
///
/// # Errors
/// Storage errors.
pub async fn remove_own_marker(
    storage: &dyn Storage,
    path: &StoragePath,
    run_id: Uuid,
) -> Result<Removal, DocumentError> {
    match load::<MarkerNote>(storage, path).await {
        Ok(note) if note.run_id == run_id => Ok(storage.delete_file(path).await?),
        // Another run's, an operator's touch, or not JSON at all.
        Ok(_) | Err(DocumentError::Malformed { .. } | DocumentError::NoControl { .. }) => {
            Ok(Removal::Absent)
        }
        Err(DocumentError::Storage(error)) if error.kind == ErrorKind::NotFound => {
            Ok(Removal::Absent)
        }
        Err(error) => Err(error),
    }
}
