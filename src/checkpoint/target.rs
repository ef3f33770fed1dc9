//! The batch that a restart continues from: in place, or at a copy. Pure.

use std::fmt;

use super::contents::Contents;
use crate::model::BatchId;

/// As of which batch a checkpoint is looked at or copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// As of the last planned batch: a batch in flight is repeated exactly.
    Planned,
    /// As of the last committed batch: a batch in flight is planned anew.
    Committed,
    /// As of this committed batch: what came after it is undone.
    Batch(BatchId),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Planned => f.write_str("its last planned batch"),
            At::Committed => f.write_str("its last committed batch"),
            At::Batch(batch) => write!(f, "batch {batch}"),
        }
    }
}

/// The files of the logs and the version of the state that a restart reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The newest file of `commits/`; `None` if no batch is committed.
    pub commit: Option<BatchId>,
    /// The newest file of `offsets/`; `None` if no batch is planned.
    pub offset: Option<BatchId>,
    /// The file of `offsets/` before it, which a restart reads as well.
    pub offset_before: Option<BatchId>,
    /// The version of the state; 0 is empty.
    pub state_version: u64,
}

impl Target {
    /// Whether the batch `offset` is repeated after a restart.
    pub fn is_in_flight(&self) -> bool {
        self.offset > self.commit
    }
}

/// Why there is no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    /// `commits/` has no such file.
    #[error("batch {batch} is not committed here (commits/{batch} does not exist); {}", choices(.committed.as_ref()))]
    NotCommitted {
        /// The batch that was asked for.
        batch: BatchId,
        /// The oldest and the newest batch that can be asked for.
        committed: Option<(BatchId, BatchId)>,
    },
}

fn choices(committed: Option<&(BatchId, BatchId)>) -> String {
    match committed {
        Some((oldest, newest)) => {
            format!("the committed batches that it still has are {oldest} to {newest}")
        }
        None => "no batch is committed here".to_owned(),
    }
}

/// What a restart of this checkpoint as of `at` reads.
///
/// # Errors
/// [`NoTarget::NotCommitted`] for a batch that is not in `commits/`.
pub fn choose_target(contents: &Contents, at: At) -> Result<Target, NoTarget> {
    let planned = contents.offsets.newest();
    let committed = contents.commits.newest();
    let after = |batch: BatchId| batch.0.saturating_add(1);
    Ok(match at {
        At::Planned if planned > committed => {
            let offset = planned.filter(|_| planned > committed);
            Target {
                commit: committed,
                offset,
                offset_before: offset.and_then(|batch| batch_before(contents, batch)),
                // Spark takes all batches before the planned one as done.
                state_version: offset.map_or(0, |batch| batch.0),
            }
        }
        At::Planned | At::Committed => Target {
            commit: committed,
            offset: committed,
            offset_before: committed.and_then(|batch| batch_before(contents, batch)),
            state_version: committed.map_or(0, after),
        },
        At::Batch(batch) if contents.commits.has(batch) => Target {
            commit: Some(batch),
            offset: Some(batch),
            offset_before: batch_before(contents, batch),
            state_version: after(batch),
        },
        At::Batch(batch) => {
            return Err(NoTarget::NotCommitted {
                batch,
                committed: contents.commits.oldest().zip(committed),
            });
        }
    })
}

/// The batch whose offsets a restart needs beside those of `batch`; it may be missing.
fn batch_before(contents: &Contents, batch: BatchId) -> Option<BatchId> {
    let before = BatchId(batch.0.checked_sub(1)?);
    if contents.offsets.has(before) || !contents.has_async_gaps() {
        return Some(before);
    }
    contents.offsets.before(batch)
}
