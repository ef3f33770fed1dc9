//! The log of a file sink, and whether it belongs to a checkpoint. Spark takes a batch that the log has as
//! written and skips it, without a word and whoever wrote it.

use super::layout::{FILE_SINK_LOG, batch_of_name};
use super::load::present;
use super::progress::Progress;
use crate::model::BatchId;
use crate::storage::{Depth, Storage, StorageError, StoragePath};

/// The newest batch in the log of the output directory `dir`; `None` if there is no log, or nothing in it.
///
/// # Errors
/// Storage errors: then it is not known.
pub async fn newest_written(
    storage: &dyn Storage,
    dir: &StoragePath,
) -> Result<Option<BatchId>, StorageError> {
    let log = storage
        .list(&dir.join(FILE_SINK_LOG), Depth::Children)
        .await;
    let entries = present(log)?.unwrap_or_default();
    let batches = entries.iter().filter_map(|entry| {
        let name = entry.path.name();
        batch_of_name(name.strip_suffix(".compact").unwrap_or(name))
    });
    Ok(batches.max())
}

/// How a sink and the checkpoints of its job go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Nothing was written and nothing is committed.
    Unused,
    /// The log is as far as one of the checkpoints.
    Together,
    /// The log has batches that no checkpoint has planned: Spark would skip them.
    Ahead {
        /// The newest in the log.
        written: BatchId,
        /// The newest that is planned.
        planned: Option<BatchId>,
    },
    /// The log lacks batches that every checkpoint with batches has committed: they were written elsewhere.
    Behind {
        /// The newest in the log.
        written: Option<BatchId>,
        /// The oldest of the newest that are committed.
        committed: BatchId,
    },
}

/// Whether one of these checkpoints can be that of the query which writes the sink. Pure. Which one is not
/// known where there are several.
pub fn judge(written: Option<BatchId>, checkpoints: &[Progress]) -> Match {
    let planned = checkpoints.iter().filter_map(|one| one.last_planned).max();
    if let Some(written) = written.filter(|written| Some(*written) > planned) {
        return Match::Ahead { written, planned };
    }
    // A query writes a batch before it commits it.
    match checkpoints
        .iter()
        .filter_map(|one| one.last_committed)
        .min()
    {
        Some(committed) if written < Some(committed) => Match::Behind { written, committed },
        None if written.is_none() => Match::Unused,
        _ => Match::Together,
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::DirectoryKind;
    use super::*;

    fn at(planned: Option<u64>, committed: Option<u64>) -> Progress {
        Progress {
            directory: DirectoryKind::Query,
            query_id: None,
            metadata_damage: None,
            last_planned: planned.map(BatchId),
            planned_at: None,
            last_committed: committed.map(BatchId),
            committed_at: None,
            has_offset_gaps: false,
        }
    }

    #[test]
    fn a_sink_is_neither_ahead_of_its_checkpoint_nor_behind_it() {
        let ahead = |written, planned: Option<u64>| Match::Ahead {
            written: BatchId(written),
            planned: planned.map(BatchId),
        };
        let behind = |written: Option<u64>, committed| Match::Behind {
            written: written.map(BatchId),
            committed: BatchId(committed),
        };
        for (written, checkpoints, expected) in [
            (None, vec![at(None, None)], Match::Unused),
            (Some(7), vec![at(Some(7), Some(7))], Match::Together),
            // Written, and not committed yet; planned, and not written yet.
            (Some(8), vec![at(Some(8), Some(7))], Match::Together),
            (Some(7), vec![at(Some(8), Some(7))], Match::Together),
            (None, vec![at(Some(0), None)], Match::Unused),
            (Some(9), vec![at(Some(8), Some(8))], ahead(9, Some(8))),
            (Some(9), vec![at(None, None)], ahead(9, None)),
            (Some(6), vec![at(Some(8), Some(7))], behind(Some(6), 7)),
            (None, vec![at(Some(8), Some(8))], behind(None, 8)),
            // It may be the first one's.
            (
                Some(3),
                vec![at(Some(3), Some(3)), at(Some(90), Some(90))],
                Match::Together,
            ),
            (
                Some(91),
                vec![at(Some(3), Some(3)), at(Some(90), Some(90))],
                ahead(91, Some(90)),
            ),
        ] {
            assert_eq!(
                judge(written.map(BatchId), &checkpoints),
                expected,
                "{written:?} {checkpoints:?}"
            );
        }
    }
}
