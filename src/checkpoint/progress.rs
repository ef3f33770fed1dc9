//! How far a query came, from file names alone: the evidence for the proof of a stop.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::contents::Identity;
use super::layout::{DirectoryKind, batch_of_name, recognise};
use super::load::{list_top, load_identity, present};
use super::{CheckpointError, QueryId};
use crate::model::BatchId;
use crate::storage::{Depth, FileKind, FileStat, Storage, StoragePath};

/// How far a query came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What the directory is. Everything below is `None` unless it is a query's checkpoint.
    pub directory: DirectoryKind,
    /// The id in `metadata`; `None` if the file is missing or damaged.
    pub query_id: Option<QueryId>,
    /// What is wrong with the content of `metadata`, if it is there and gives no id.
    pub metadata_damage: Option<String>,
    /// The greatest batch in `offsets/`.
    pub last_planned: Option<BatchId>,
    /// When that file was written, by the storage's clock.
    pub planned_at: Option<Timestamp>,
    /// The greatest batch in `commits/`.
    pub last_committed: Option<BatchId>,
    /// When that file was written, by the storage's clock.
    pub committed_at: Option<Timestamp>,
    /// Whether ids are missing between the smallest and the greatest in `offsets/`, as async progress
    /// tracking leaves them. With it, batches that ran after the last recorded one leave no trace, and
    /// run again after a restart.
    pub has_offset_gaps: bool,
}

/// What the progress of a query proves about its stop, in the words of the design.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The last planned batch is committed.
    Clean {
        /// That batch.
        batch: BatchId,
    },
    /// A batch is planned and not committed; a restart runs it again.
    Dirty {
        /// The last planned batch.
        planned: BatchId,
        /// The last committed batch; `None` if none ever was.
        committed: Option<BatchId>,
    },
    /// The query never planned a batch: there is nothing to lose or to repeat.
    Empty,
    /// The directory cannot say.
    Unproven(Unproven),
}

/// Why a directory proves nothing about a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// DStreams keep their progress in serialized Java objects.
    #[error("it is the checkpoint of a DStreams application, which does not show its batches")]
    DStreams,
    /// The directory has entries, but none of a checkpoint: the path is likely wrong.
    #[error("the directory is not a checkpoint of a streaming query")]
    NotACheckpoint,
    /// A batch is committed that was never planned: files were removed, or two queries write here.
    #[error("batch {committed} is committed, but offsets/{committed} does not exist")]
    CommitAhead {
        /// The last committed batch.
        committed: BatchId,
        /// The last planned batch.
        planned: Option<BatchId>,
    },
}

/// Reads how far the query with the checkpoint `dir` came.
///
/// Reads names and time stamps, and the content of `metadata` only. `commits/` is listed before
/// `offsets/`, so that a batch planned meanwhile can make a stop look dirty, but never clean.
///
/// # Errors
/// [`CheckpointError::Missing`] if there is no such directory, [`CheckpointError::Storage`] if the
/// storage could not answer.
pub async fn load_progress(
    storage: &dyn Storage,
    dir: &StoragePath,
) -> Result<Progress, CheckpointError> {
    let top = list_top(storage, dir).await?;
    let names: Vec<_> = top
        .iter()
        .map(|entry| (entry.path.name(), entry.kind == FileKind::Dir))
        .collect();
    let directory = recognise(dir.name(), &names);
    if directory != DirectoryKind::Query {
        return Ok(Progress::without_batches(directory));
    }
    let identity = load_identity(storage, dir).await?;
    let commits = present(storage.list(&dir.join("commits"), Depth::Children).await)?;
    let offsets = present(storage.list(&dir.join("offsets"), Depth::Children).await)?;
    Ok(read_progress(
        &identity,
        &offsets.unwrap_or_default(),
        &commits.unwrap_or_default(),
    ))
}

/// The time stamps of a query's logs, by batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTimes {
    /// What the directory is; the rest is empty unless it is a query's checkpoint.
    pub directory: DirectoryKind,
    /// When the files of `offsets/` were written, by the storage's clock.
    pub offsets: BTreeMap<u64, Timestamp>,
    /// The same of `commits/`.
    pub commits: BTreeMap<u64, Timestamp>,
}

/// Reads when the batches of the query with the checkpoint `dir` were planned and committed, from names
/// and time stamps alone.
///
/// `commits/` is listed before `offsets/`: where the newest batch is committed, none was planned after
/// it when the second listing was made.
///
/// # Errors
/// As [`load_progress`].
pub async fn load_log_times(
    storage: &dyn Storage,
    dir: &StoragePath,
) -> Result<LogTimes, CheckpointError> {
    let top = list_top(storage, dir).await?;
    let names: Vec<_> = top
        .iter()
        .map(|entry| (entry.path.name(), entry.kind == FileKind::Dir))
        .collect();
    let mut times = LogTimes {
        directory: recognise(dir.name(), &names),
        offsets: BTreeMap::new(),
        commits: BTreeMap::new(),
    };
    if times.directory == DirectoryKind::Query {
        let by_batch = |listing: Option<Vec<FileStat>>| {
            let listing = listing.unwrap_or_default();
            batches(&listing)
                .map(|(BatchId(batch), at)| (batch, at))
                .collect::<BTreeMap<u64, Timestamp>>()
        };
        let commits = storage.list(&dir.join("commits"), Depth::Children).await;
        times.commits = by_batch(present(commits)?);
        let offsets = storage.list(&dir.join("offsets"), Depth::Children).await;
        times.offsets = by_batch(present(offsets)?);
    }
    Ok(times)
}

/// What `progress` proves about the stop of its query.
pub fn judge(progress: &Progress) -> Proof {
    match progress.directory {
        DirectoryKind::Empty => return Proof::Empty,
        DirectoryKind::DStreams => return Proof::Unproven(Unproven::DStreams),
        DirectoryKind::FileSink | DirectoryKind::Foreign => {
            return Proof::Unproven(Unproven::NotACheckpoint);
        }
        DirectoryKind::Query => {}
    }
    match (progress.last_planned, progress.last_committed) {
        (None, None) => Proof::Empty,
        (Some(planned), Some(committed)) if committed == planned => {
            Proof::Clean { batch: committed }
        }
        (Some(planned), Some(committed)) if committed < planned => Proof::Dirty {
            planned,
            committed: Some(committed),
        },
        (Some(planned), None) => Proof::Dirty {
            planned,
            committed: None,
        },
        (planned, Some(committed)) => Proof::Unproven(Unproven::CommitAhead { committed, planned }),
    }
}

impl Progress {
    fn without_batches(directory: DirectoryKind) -> Self {
        Self {
            directory,
            query_id: None,
            metadata_damage: None,
            last_planned: None,
            planned_at: None,
            last_committed: None,
            committed_at: None,
            has_offset_gaps: false,
        }
    }
}

/// The progress that the query id and the listings of `offsets/` and `commits/` show.
pub fn read_progress(identity: &Identity, offsets: &[FileStat], commits: &[FileStat]) -> Progress {
    let mut progress = Progress::without_batches(DirectoryKind::Query);
    match identity {
        Identity::Known(id) => progress.query_id = Some(*id),
        Identity::Damaged(damage) => progress.metadata_damage = Some(damage.to_string()),
        Identity::Missing => {}
    }
    if let Some((batch, written_at)) = newest(offsets) {
        progress.last_planned = Some(batch);
        progress.planned_at = Some(written_at);
        progress.has_offset_gaps = has_gaps(offsets);
    }
    if let Some((batch, written_at)) = newest(commits) {
        progress.last_committed = Some(batch);
        progress.committed_at = Some(written_at);
    }
    progress
}

/// The batches that a listing of `offsets/` or `commits/` shows, in no order. Spark follows links.
fn batches(listing: &[FileStat]) -> impl Iterator<Item = (BatchId, Timestamp)> {
    listing
        .iter()
        .filter(|entry| matches!(entry.kind, FileKind::File | FileKind::Symlink))
        .filter_map(|entry| Some((batch_of_name(entry.path.name())?, entry.modified_at)))
}

fn newest(listing: &[FileStat]) -> Option<(BatchId, Timestamp)> {
    batches(listing).max_by_key(|(batch, _)| *batch)
}

fn has_gaps(listing: &[FileStat]) -> bool {
    let mut count = 0_u64;
    let (mut min, mut max) = (u64::MAX, 0);
    for (BatchId(batch), _) in batches(listing) {
        count += 1;
        min = min.min(batch);
        max = max.max(batch);
    }
    count > 0 && max - min >= count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::InvalidQueryId;

    const ID: &str = "c77e8c68-28a9-4bfb-877a-e29b6987550f";

    fn entry(path: &str, kind: FileKind, second: i64) -> FileStat {
        FileStat {
            path: StoragePath::parse(path).unwrap(),
            kind,
            len_bytes: 1,
            modified_at: Timestamp::from_second(second).unwrap(),
            mode: None,
            owner: None,
            group: None,
        }
    }

    /// A listing of `names`; entry i was written at second i.
    fn listing(names: &[&str]) -> Vec<FileStat> {
        let mut second = -1;
        names
            .iter()
            .map(|name| {
                second += 1;
                entry(&format!("/c/{name}"), FileKind::File, second)
            })
            .collect()
    }

    #[test]
    fn a_stop_is_judged_by_names_alone() {
        let b = BatchId;
        let dirty = |planned, committed: Option<u64>| Proof::Dirty {
            planned: b(planned),
            committed: committed.map(b),
        };
        let ahead = |committed, planned: Option<u64>| {
            Proof::Unproven(Unproven::CommitAhead {
                committed: b(committed),
                planned: planned.map(b),
            })
        };
        for (offsets, commits, proof) in [
            (&[][..], &[][..], Proof::Empty),
            (&["0"], &["0"], Proof::Clean { batch: b(0) }),
            (&["0"], &[], dirty(0, None)),
            (&["8", "9", "10"], &["8", "9"], dirty(10, Some(9))),
            // Sorted by bytes, 10 stands before 9.
            (
                &["10", "8", "9"],
                &["10", "8", "9"],
                Proof::Clean { batch: b(10) },
            ),
            (&["5", "6", "7"], &["5"], dirty(7, Some(5))),
            // Gaps of async progress tracking, and a gap in commits.
            (
                &["0", "3", "37", "7"],
                &["0", "37"],
                Proof::Clean { batch: b(37) },
            ),
            (
                &[".9.0f0f.tmp", ".8.crc", "8", "9.bak", "README", "011"],
                &[".9.0f0f.tmp", "8", "9.compact", "99999999999999999999"],
                Proof::Clean { batch: b(8) },
            ),
            (&["7"], &["7", "8"], ahead(8, Some(7))),
            (&[], &["3"], ahead(3, None)),
        ] {
            let progress = read_progress(&Identity::Missing, &listing(offsets), &listing(commits));
            assert_eq!(judge(&progress), proof, "{offsets:?} {commits:?}");
        }
    }

    #[test]
    fn times_are_those_of_the_newest_batch_and_gaps_are_seen() {
        let progress = read_progress(
            &Identity::Known(ID.parse().unwrap()),
            &listing(&["10", "8", "9"]),
            &listing(&["4", "6", "8", "9"]),
        );
        assert_eq!(progress.planned_at, Some(Timestamp::UNIX_EPOCH));
        assert_eq!(progress.committed_at.map(Timestamp::as_second), Some(3));
        assert!(!progress.has_offset_gaps);
        assert_eq!(
            progress.query_id.map(|id| id.to_string()).as_deref(),
            Some(ID)
        );
        assert!(read_progress(&Identity::Missing, &listing(&["0", "3"]), &[]).has_offset_gaps);
    }

    #[test]
    fn damaged_metadata_does_not_hide_the_batches() {
        let progress = read_progress(
            &Identity::Damaged(InvalidQueryId::Empty),
            &listing(&["1"]),
            &listing(&["1"]),
        );
        assert_eq!(progress.query_id, None);
        assert_eq!(
            progress.metadata_damage.as_deref(),
            Some("the file is empty")
        );
        assert_eq!(judge(&progress), Proof::Clean { batch: BatchId(1) });
    }

    #[test]
    fn a_directory_with_a_batch_name_is_no_batch() {
        let mut offsets = listing(&["1"]);
        offsets.push(entry("/c/2", FileKind::Dir, 9));
        let progress = read_progress(&Identity::Missing, &offsets, &listing(&["1"]));
        assert_eq!(judge(&progress), Proof::Clean { batch: BatchId(1) });
    }

    #[test]
    fn other_directories_prove_nothing() {
        assert_eq!(
            judge(&Progress::without_batches(DirectoryKind::DStreams)),
            Proof::Unproven(Unproven::DStreams)
        );
        assert_eq!(
            judge(&Progress::without_batches(DirectoryKind::Foreign)),
            Proof::Unproven(Unproven::NotACheckpoint)
        );
    }
}
