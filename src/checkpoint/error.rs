//! What can go wrong with a checkpoint, as values. Damage inside a checkpoint is no error but a
//! finding; an error means that the question could not be answered.

use crate::storage::{StorageError, StorageUri};

/// Why a checkpoint could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The storage answered that there is no such directory. A new query has no checkpoint yet, but
    /// a wrong path has none either.
    #[error("there is no checkpoint directory {uri}")]
    Missing {
        /// The directory.
        uri: StorageUri,
    },
    /// The storage could not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The manifest of a copy is not usable.
    #[error("{uri} is not a usable manifest: {why}")]
    Manifest {
        /// The manifest.
        uri: StorageUri,
        /// What is wrong with it.
        why: String,
    },
}
