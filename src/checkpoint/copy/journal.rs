//! The journal of a work directory: which files are there, whole, and from what they were made.
//!
//! One segment a few seconds, each written whole under a number that only grows; what a later one
//! says of a file counts. A file that no segment names is copied again.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::control::{Document, DocumentError, load, save_replacing};
use crate::storage::{Depth, Storage, StoragePath};

/// A segment is written when it has this many files,
const SEGMENT_FILES: usize = 2_000;
/// or is this old.
const SEGMENT_AGE: std::time::Duration = std::time::Duration::from_secs(5);

/// What a file in the work directory was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub(super) enum Made {
    /// From the file of the same path in the source.
    Source {
        /// Its length in bytes.
        len_bytes: u64,
        /// Its time stamp, by the source's clock.
        modified_at: Timestamp,
    },
    /// From bytes of stepdown's own.
    Written,
}

/// A file in the work directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Staged {
    /// Relative path.
    pub(super) path: String,
    /// What it was made from.
    pub(super) made: Made,
    /// Its length in bytes.
    pub(super) len_bytes: u64,
    /// BLAKE3 digest of its content.
    pub(super) blake3: blake3::Hash,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    path: String,
    made: Made,
    bytes: u64,
    blake3: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Segment {
    files: Vec<Line>,
}

impl Document for Segment {
    const KIND: &'static str = "copy-journal";
}

/// The files of a work directory by path.
#[derive(Debug)]
pub(super) struct Journal {
    dir: StoragePath,
    next: u64,
    pending: Vec<Line>,
    flushed: Instant,
    files: HashMap<String, Staged>,
}

impl Journal {
    /// Reads all segments in `dir`, which must exist. A segment that cannot be read counts as if it
    /// were not there: its files are copied again.
    pub(super) async fn open(
        storage: &dyn Storage,
        dir: StoragePath,
    ) -> Result<Self, DocumentError> {
        let mut numbers: Vec<u64> = storage
            .list(&dir, Depth::Children)
            .await?
            .iter()
            .filter_map(|entry| entry.path.name().strip_suffix(".json")?.parse().ok())
            .collect();
        numbers.sort_unstable();
        let mut files = HashMap::new();
        for number in &numbers {
            let segment: Segment = match load(storage, &dir.join(&format!("{number}.json"))).await {
                Ok(segment) => segment,
                Err(DocumentError::Malformed { uri, why, .. }) => {
                    tracing::warn!("{uri} is not usable, its files are copied again: {why}");
                    continue;
                }
                Err(error) => return Err(error),
            };
            for line in segment.files {
                let Ok(blake3) = blake3::Hash::from_hex(&line.blake3) else {
                    continue;
                };
                let staged = Staged {
                    path: line.path,
                    made: line.made,
                    len_bytes: line.bytes,
                    blake3,
                };
                files.insert(staged.path.clone(), staged);
            }
        }
        let next = numbers.last().map_or(0, |last| last + 1);
        Ok(Self {
            dir,
            next,
            pending: Vec::new(),
            flushed: Instant::now(),
            files,
        })
    }

    pub(super) fn get(&self, path: &str) -> Option<&Staged> {
        self.files.get(path)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Staged> {
        self.files.values()
    }

    /// Forgets a file that is not in the work directory any more. What the segments say of it is
    /// harmless: a file that is not there is copied whatever they say.
    pub(super) fn forget(&mut self, path: &str) {
        self.files.remove(path);
    }

    /// Notes a file. True if the segment should be written now.
    pub(super) fn note(&mut self, staged: Staged) -> bool {
        self.pending.push(Line {
            path: staged.path.clone(),
            made: staged.made,
            bytes: staged.len_bytes,
            blake3: staged.blake3.to_hex().to_string(),
        });
        self.files.insert(staged.path.clone(), staged);
        self.pending.len() >= SEGMENT_FILES || self.flushed.elapsed() >= SEGMENT_AGE
    }

    /// Whether a file was noted since the last time that a segment was written.
    pub(super) fn has_news(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes what was noted since the last time.
    pub(super) async fn flush(&mut self, storage: &dyn Storage) -> Result<(), DocumentError> {
        self.flushed = Instant::now();
        if self.pending.is_empty() {
            return Ok(());
        }
        let path = self.dir.join(&format!("{}.json", self.next));
        let segment = Segment {
            files: std::mem::take(&mut self.pending),
        };
        self.next += 1;
        save_replacing(storage, &path, &segment).await
    }
}
