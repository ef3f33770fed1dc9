//! What can go wrong with `run`.

use crate::control::{DocumentError, LeaseError};
use crate::model::AttemptId;
use crate::process::{Signal, SpawnError};
use crate::stop::Exit;
use crate::storage::StorageError;

/// Why nothing was started, or what went wrong with what was.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The storage refused or did not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file of the control directory could not be read or written.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The lease could not be asked for.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Another `stepdown run` supervises the slot.
    #[error("another `stepdown run` supervises this slot: {holder}; nothing was started")]
    Occupied {
        /// Who.
        holder: String,
    },
    /// It cannot be told whether the attempt on record is over.
    #[error(
        "attempt {attempt} is on record and it cannot be told whether it is over: {why}; nothing \
         was started. Once you are sure that it is over, remove {status}"
    )]
    AttemptUnknown {
        /// The attempt.
        attempt: AttemptId,
        /// Why it cannot be told.
        why: String,
        /// Its status file.
        status: String,
    },
    /// The marker's directory is not there.
    #[error(
        "marker {marker} cannot be made: its directory is not there; nothing was started. Make the \
         directory, mount its disk, or correct the path"
    )]
    NoDirectory {
        /// The marker.
        marker: String,
        /// What the storage said of the directory.
        source: StorageError,
    },
    /// The marker could not be seen after it was made, so the command would be unprotected.
    #[error("marker {marker} cannot be watched: {why}; nothing was started")]
    MarkerUnknown {
        /// The marker.
        marker: String,
        /// Why.
        why: String,
    },
    /// The command could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A signal ended `run` before anything was started.
    #[error("interrupted by {0} before the command was started")]
    Interrupted(Signal),
    /// The command is over, but its receipt could not be written in time.
    #[error("the command is over ({}), but its receipt could not be written", exit_text(*.exit))]
    NoReceipt {
        /// How the command ended.
        exit: Option<Exit>,
    },
    /// A fault of stepdown: the command may run on, and its marker is left for who comes next.
    #[error(
        "the command is not followed any more, and may run on; `stepdown run` again takes it over"
    )]
    Unfollowed {
        /// What happened.
        source: std::io::Error,
    },
    /// Something of the system refused.
    #[error("{step} failed")]
    System {
        /// What.
        step: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn exit_text(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit::Code { code }) => format!("exit code {code}"),
        Some(Exit::Signal { signal }) => format!("ended by signal {signal}"),
        None => "its exit code is not known".to_owned(),
    }
}
