//! Stops: intent, request, drain, proof, receipt.
//!
//! [`decide`] is the pure part: from the steps that are on the storage and what is observed of the
//! attempt it says what to do next. [`record`] keeps those steps, [`receipt`] the result,
//! [`proof`] reads from the checkpoint whether the stop was clean. A [`Backend`] is a way to ask an
//! attempt to stop and to see whether it did. Where it is to be asked between two batches, [`follow`]
//! reads the times of its batches, and [`boundary`] (pure) finds the moment.

pub mod boundary;
pub mod command;
pub mod decide;
pub mod driver;
pub mod follow;
pub mod proof;
pub mod receipt;
pub mod record;
pub mod retention;
pub mod signal;
pub mod status;
pub mod wakes;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::control::DocumentError;
use crate::model::{AttemptId, Generation, JobName, Slot, StopId};
use crate::storage::StorageUri;

/// How an attempt ended, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Exit {
    /// It ended by itself with this code.
    Code {
        /// The exit code.
        code: i32,
    },
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
    },
}

/// How new an observation must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// What was listed for all jobs a moment ago will do.
    Recent,
    /// Of now: a stop waits for it.
    Now,
}

/// What a backend sees of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// It runs.
    Running,
    /// It runs and says that it is draining.
    Stopping,
    /// It is over, and no other attempt of the slot runs.
    Stopped {
        /// How it ended, where that is known.
        exit: Option<Exit>,
    },
    /// It is over, and another attempt of the slot runs.
    Restarted {
        /// The new one.
        attempt: AttemptId,
    },
    /// It cannot be told.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// What a backend gets to know of the stop it is asked for.
#[derive(Debug, Clone)]
pub struct StopOrder {
    /// The job.
    pub job: JobName,
    /// The slot.
    pub slot: Slot,
    /// The stop.
    pub stop_id: StopId,
    /// The generation of the lease under which the order is given.
    pub generation: Generation,
    /// The marker.
    pub marker: StorageUri,
    /// How long the drain may take.
    pub drain_deadline: Duration,
    /// Whether a driver that drains by itself is to be asked by a signal, since it cannot.
    pub instead_of_drain: bool,
}

/// How an attempt comes to stop once that is on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// It is asked.
    Asked,
    /// It sees its marker itself, and all that can be known of that is known.
    Drains,
    /// It sees its marker itself, lives, and has not said yet that it drains.
    Listens,
    /// It would see its marker itself, and cannot drain: it has to be asked by a signal.
    CannotDrain {
        /// Why not.
        why: String,
        /// Whether a signal reaches it from here; why not, if it does not.
        reach: Result<(), String>,
    },
    /// That cannot be told now.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The attempt cannot be reached from here; another host or another backend must do it.
    #[error("attempt {attempt} cannot be reached from here: {why}")]
    OutOfReach {
        /// The attempt.
        attempt: AttemptId,
        /// Why, and what to do.
        why: String,
    },
    /// The request was refused or failed; it may be repeated.
    #[error("the {backend} backend failed: {why}")]
    Failed {
        /// The backend's name.
        backend: &'static str,
        /// What happened, and what to do.
        why: String,
    },
    /// The status files cannot be read.
    #[error(transparent)]
    Status(#[from] DocumentError),
    /// This backend has no such action.
    #[error("the {backend} backend cannot {action}")]
    Unsupported {
        /// The backend's name.
        backend: &'static str,
        /// What was asked.
        action: &'static str,
    },
}

/// A way to ask an attempt to stop from outside, and to see what became of it.
///
/// All calls end within a time that the backend bounds itself.
#[async_trait]
pub trait Backend: std::fmt::Debug + Send + Sync {
    /// Its name, as in the config.
    fn name(&self) -> &'static str;

    /// The attempt that runs in the slot now, if there is one.
    ///
    /// # Errors
    /// Where that cannot be told; the caller keeps what it knew.
    async fn find_attempt(&self) -> Result<Option<AttemptId>, BackendError>;

    /// Whether this host can ask `attempt` at all; looks only.
    ///
    /// # Errors
    /// `OutOfReach`: another host's stepdown must act.
    fn check_reach(&self, attempt: &AttemptId) -> Result<(), BackendError>;

    /// Asks `attempt` to stop; returns when it was asked, not when it stopped. Asking an attempt that
    /// is over is no error. Never reaches another attempt.
    ///
    /// # Errors
    /// Where it could not be asked.
    async fn request_stop(
        &self,
        attempt: &AttemptId,
        order: &StopOrder,
    ) -> Result<(), BackendError>;

    /// What can be seen of `attempt`. An error is `Unknown`.
    async fn observe(&self, attempt: &AttemptId, freshness: Freshness) -> Observation;

    /// Returns when `attempt` may have changed, or after `at_most`: a hint to observe.
    async fn await_change(&self, attempt: &AttemptId, at_most: Duration);

    /// Returns when it may have changed what runs in the slot, where `attempt` was seen last: a hint
    /// to look. A backend that is told of changes waits for them, so that thousands of slots in which
    /// nothing happens cost nothing; one that has to look for itself returns after `pace`.
    async fn await_news(&self, attempt: Option<&AttemptId>, pace: Duration);

    /// The status file that alone tells of changes in the slot, where `attempt` was seen last: then
    /// nobody has to wait for them, the board can wake who rests. `None` where the backend has to look
    /// by itself.
    fn told_by(&self, _attempt: Option<&AttemptId>) -> Option<status::Seat<'_>> {
        None
    }

    /// Ends `attempt` at once.
    ///
    /// # Errors
    /// `Unsupported`, or where it could not be done.
    async fn force(&self, attempt: &AttemptId, order: &StopOrder) -> Result<(), BackendError>;

    /// Whether the driver looks at its marker itself, so that it may end before it is asked.
    fn drains_itself(&self) -> bool;

    /// How `attempt` comes to stop; `now` is the time of the storage that its messages lie in.
    async fn way(&self, attempt: &AttemptId, now: Timestamp) -> Way;

    /// Whether the driver of `attempt` said at its end that it had drained; `None` where there is
    /// nobody to say it.
    async fn has_drained(&self, attempt: &AttemptId) -> Option<bool>;

    /// Whether the driver says that it runs undisturbed: then no kill while its marker is present.
    async fn reports_running(&self, attempt: &AttemptId) -> bool;
}

/// As [`Backend::told_by`], for a slot whose attempt is known from its status file: of a process of this
/// host the kernel tells, of all others their files alone.
fn seat_of<'s>(
    board: &'s std::sync::Arc<status::StatusBoard>,
    job: &'s JobName,
    slot: Slot,
    attempt: Option<&AttemptId>,
) -> Option<status::Seat<'s>> {
    let tells = attempt.is_none_or(crate::process::is_elsewhere);
    tells.then_some(status::Seat { board, job, slot })
}

/// As [`Backend::await_news`], for a slot whose attempt is known from its status file.
async fn await_status_news(
    board: &std::sync::Arc<status::StatusBoard>,
    job: &JobName,
    slot: Slot,
    attempt: Option<&AttemptId>,
    ends_with: crate::process::EndsWith,
    pace: Duration,
) {
    use crate::process::{EndsWith, ProcessState, observe};
    match attempt {
        // Of a process of this host the kernel tells.
        Some(attempt)
            if !matches!(
                observe(attempt, EndsWith::Process),
                ProcessState::Unknown { .. }
            ) =>
        {
            // Boxed: most slots wait for the board, and there are many of them.
            Box::pin(await_process(attempt, ends_with, pace)).await;
        }
        Some(_) | None => board.await_news(job, slot).await,
    }
}

/// Returns when the process of `attempt` may have ended, or after `at_most`.
async fn await_process(
    attempt: &AttemptId,
    ends_with: crate::process::EndsWith,
    at_most: Duration,
) {
    let begun = tokio::time::Instant::now();
    match crate::process::adopt(attempt.clone(), ends_with)
        .await_end(at_most)
        .await
    {
        crate::process::ProcessState::Running { .. }
        | crate::process::ProcessState::Stopped { .. } => {}
        // Nothing of this host: whoever asks must not ask again at once.
        crate::process::ProcessState::Unknown { .. } => {
            tokio::time::sleep_until(begun + at_most).await;
        }
    }
}
