//! The journal of a work directory: which files are there, whole, and from what they were made.
//!
//! One segment a few seconds, each written whole under a number that only grows; what a later one
//! says of a file counts. A file that no segment names is copied again. Once in a while all of it is
//! condensed to one file, `whole.json`, which is read in a fraction of the time that its segments
//! take.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::transfer::write_whole;
use crate::control::{Document, DocumentError, load, save_replacing};
use crate::storage::{
    Attributes, CreateMode, Depth, Storage, StorageError, StoragePath, StorageUri,
};

/// A segment is written when it has this many files,
const SEGMENT_FILES: usize = 2_000;
/// or is this old.
const SEGMENT_AGE: std::time::Duration = std::time::Duration::from_secs(5);

/// The journal is condensed when one file in so many is news to its condensed part,
const NEWS_SHARE: usize = 50;
/// or when it has this many segments beside it.
const SEGMENTS: u64 = 20;

/// The name of the condensed part.
const WHOLE: &str = "whole.json";

/// The format version of the condensed part that this stepdown writes, and the only one it reads.
const WHOLE_FORMAT: u32 = 1;

/// The condensed part of 100,000 files has about 12 MB; more than this is none.
const MAX_WHOLE_BYTES: u64 = 256 << 20;

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
    /// Once it was seen in place with its length: the mode and the owners that it was given then, or
    /// was refused.
    pub(super) seen: Option<Arc<Attributes>>,
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
    /// Files that are not there any more; the ones in `files` are newer.
    #[serde(default)]
    gone: Vec<String>,
    files: Vec<Line>,
}

impl Document for Segment {
    const KIND: &'static str = "copy-journal";
}

/// Mode and owners as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Given {
    mode: Option<u32>,
    owner: Option<String>,
    group: Option<String>,
}

impl From<&Attributes> for Given {
    fn from(attributes: &Attributes) -> Self {
        Self {
            mode: attributes.mode,
            owner: attributes.owner.as_deref().map(str::to_owned),
            group: attributes.group.as_deref().map(str::to_owned),
        }
    }
}

impl From<Given> for Attributes {
    fn from(given: Given) -> Self {
        Self {
            mode: given.mode,
            owner: given.owner.map(Arc::from),
            group: given.group.map(Arc::from),
        }
    }
}

/// The condensed part: all files as of one moment.
#[derive(Debug, Serialize, Deserialize)]
struct Whole<'a> {
    format: u32,
    /// The first segment that is not in it.
    next: u64,
    given: Vec<Given>,
    #[serde(borrow)]
    dirs: Vec<WholeDir<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WholeDir<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    files: Vec<WholeFile<'a>>,
}

/// Name, length, digest, seconds and nanoseconds of the source's time stamp (none of a file of
/// stepdown's own), and which of `given` it was given, once it was seen.
#[derive(Debug, Serialize, Deserialize)]
struct WholeFile<'a>(
    #[serde(borrow)] Cow<'a, str>,
    u64,
    #[serde(borrow)] Cow<'a, str>,
    Option<(i64, i32)>,
    Option<u32>,
);

/// The files of a work directory by path.
#[derive(Debug)]
pub(super) struct Journal {
    dir: StoragePath,
    /// The first segment that is not in the condensed part.
    first: u64,
    next: u64,
    /// Files that were noted since the journal was condensed.
    news: usize,
    pending: Vec<Line>,
    gone: Vec<String>,
    flushed: Instant,
    files: HashMap<String, Staged>,
    is_complete: bool,
}

/// A segment that is not written yet.
#[derive(Debug)]
pub(super) struct News {
    path: StoragePath,
    segment: Segment,
}

impl News {
    pub(super) async fn save(self, storage: &dyn Storage) -> Result<(), DocumentError> {
        save_replacing(storage, &self.path, &self.segment).await
    }
}

/// The directory and the name of a relative path.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Journal {
    /// Reads all that is in `dir`, which must exist. What cannot be read counts as if it were not
    /// there: its files are copied again.
    pub(super) async fn open(
        storage: &dyn Storage,
        dir: StoragePath,
    ) -> Result<Self, DocumentError> {
        let mut numbers = Vec::new();
        let mut has_whole = false;
        for entry in storage.list(&dir, Depth::Children).await? {
            let name = entry.path.name();
            has_whole |= name == WHOLE;
            numbers.extend(
                name.strip_suffix(".json")
                    .and_then(|n| n.parse::<u64>().ok()),
            );
        }
        numbers.sort_unstable();
        let mut journal = Self {
            dir,
            first: 0,
            next: 0,
            news: 0,
            pending: Vec::new(),
            gone: Vec::new(),
            flushed: Instant::now(),
            files: HashMap::new(),
            is_complete: true,
        };
        if has_whole {
            journal.load_whole(storage).await?;
        }
        for number in numbers {
            // One that was condensed is left where its removal was cut short.
            if number >= journal.first {
                journal.load_segment(storage, number).await?;
            }
        }
        Ok(journal)
    }

    async fn load_whole(&mut self, storage: &dyn Storage) -> Result<(), StorageError> {
        let path = self.dir.join(WHOLE);
        let content = storage.read_small(&path, MAX_WHOLE_BYTES).await?;
        match decode_whole(&content) {
            Ok((next, files)) => {
                self.first = next;
                self.next = next;
                self.files = files;
            }
            Err(why) => {
                let uri = StorageUri::new(storage.authority().clone(), path);
                tracing::warn!("{uri} is not usable, its files are copied again: {why}");
                self.is_complete = false;
            }
        }
        Ok(())
    }

    async fn load_segment(
        &mut self,
        storage: &dyn Storage,
        number: u64,
    ) -> Result<(), DocumentError> {
        let path = self.dir.join(&format!("{number}.json"));
        self.is_complete &= number == self.next;
        self.next = number.saturating_add(1);
        let segment: Segment = match load(storage, &path).await {
            Ok(segment) => segment,
            Err(DocumentError::Malformed { uri, why, .. }) => {
                tracing::warn!("{uri} is not usable, its files are copied again: {why}");
                self.is_complete = false;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for path in &segment.gone {
            self.files.remove(path);
        }
        self.news += segment.files.len();
        for line in segment.files {
            let Ok(blake3) = blake3::Hash::from_hex(&line.blake3) else {
                self.is_complete = false;
                continue;
            };
            let staged = Staged {
                path: line.path,
                made: line.made,
                len_bytes: line.bytes,
                blake3,
                seen: None,
            };
            self.files.insert(staged.path.clone(), staged);
        }
        Ok(())
    }

    pub(super) fn get(&self, path: &str) -> Option<&Staged> {
        self.files.get(path)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Staged> {
        self.files.values()
    }

    /// The number of the next segment: grows with each that is written.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether all that was ever noted was read: then the work directory has no file that is not here,
    /// but one whose copying was cut short.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Forgets a file that is not in the work directory any more.
    pub(super) fn forget(&mut self, path: &str) {
        if self.files.remove(path).is_some() {
            self.pending.retain(|line| line.path != path);
            self.gone.push(path.to_owned());
        }
    }

    /// Notes a file. True if the segment should be written now.
    pub(super) fn note(&mut self, staged: Staged) -> bool {
        self.pending.push(Line {
            path: staged.path.clone(),
            made: staged.made,
            bytes: staged.len_bytes,
            blake3: staged.blake3.to_hex().to_string(),
        });
        self.news += 1;
        self.files.insert(staged.path.clone(), staged);
        self.pending.len() >= SEGMENT_FILES || self.flushed.elapsed() >= SEGMENT_AGE
    }

    /// Notes that a file was seen in place with its length, and what it was given.
    pub(super) fn note_seen(&mut self, path: &str, given: Arc<Attributes>) {
        if let Some(staged) = self.files.get_mut(path) {
            staged.seen = Some(given);
        }
    }

    /// Whether a file was noted since the last time that a segment was written.
    pub(super) fn has_news(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What was noted since the last time, to be written.
    pub(super) fn take_news(&mut self) -> Option<News> {
        self.flushed = Instant::now();
        if self.pending.is_empty() && self.gone.is_empty() {
            return None;
        }
        let path = self.dir.join(&format!("{}.json", self.next));
        let segment = Segment {
            gone: std::mem::take(&mut self.gone),
            files: std::mem::take(&mut self.pending),
        };
        self.next += 1;
        Some(News { path, segment })
    }

    /// Makes one file of all that was written, where that is worth it.
    pub(super) async fn condense(&mut self, storage: &dyn Storage) -> Result<(), DocumentError> {
        let is_worth_it = self.news * NEWS_SHARE >= self.files.len().max(1)
            || self.next - self.first >= SEGMENTS
            || !self.is_complete;
        if !is_worth_it {
            return Ok(());
        }
        let path = self.dir.join(WHOLE);
        let content =
            encode_whole(self.next, &self.files).map_err(|error| DocumentError::Malformed {
                uri: StorageUri::new(storage.authority().clone(), path.clone()),
                kind: Segment::KIND,
                why: error.to_string(),
            })?;
        write_whole(storage, &path, CreateMode::Replace, content.into()).await?;
        for number in self.first..self.next {
            let path = self.dir.join(&format!("{number}.json"));
            storage.delete_file(&path).await?;
        }
        self.first = self.next;
        self.news = 0;
        self.is_complete = true;
        Ok(())
    }
}

fn encode_whole(next: u64, files: &HashMap<String, Staged>) -> serde_json::Result<Vec<u8>> {
    let mut sorted: Vec<&Staged> = files.values().collect();
    sorted.sort_unstable_by_key(|staged| split(&staged.path));
    let mut given: Vec<Given> = Vec::new();
    let mut known: HashMap<&Attributes, u32> = HashMap::new();
    let mut dirs: Vec<WholeDir<'_>> = Vec::new();
    for staged in sorted {
        let (dir, name) = split(&staged.path);
        let seen = staged.seen.as_deref().map(|attributes| {
            *known.entry(attributes).or_insert_with(|| {
                given.push(attributes.into());
                u32::try_from(given.len() - 1).unwrap_or(u32::MAX)
            })
        });
        let made = match staged.made {
            Made::Source { modified_at, .. } => {
                Some((modified_at.as_second(), modified_at.subsec_nanosecond()))
            }
            Made::Written => None,
        };
        let digest = staged.blake3.to_hex().to_string();
        let file = WholeFile(name.into(), staged.len_bytes, digest.into(), made, seen);
        match dirs.last_mut().filter(|last| last.path == dir) {
            Some(last) => last.files.push(file),
            None => dirs.push(WholeDir {
                path: dir.into(),
                files: vec![file],
            }),
        }
    }
    serde_json::to_vec(&Whole {
        format: WHOLE_FORMAT,
        next,
        given,
        dirs,
    })
}

/// The first segment that is not in it, and its files.
fn decode_whole(content: &[u8]) -> Result<(u64, HashMap<String, Staged>), String> {
    let whole: Whole<'_> = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    if whole.format != WHOLE_FORMAT {
        return Err(format!("its format version is {}", whole.format));
    }
    let given: Vec<Arc<Attributes>> = whole
        .given
        .into_iter()
        .map(|given| Arc::new(given.into()))
        .collect();
    let mut files = HashMap::with_capacity(whole.dirs.iter().map(|dir| dir.files.len()).sum());
    for dir in whole.dirs {
        for WholeFile(name, len_bytes, digest, made, seen) in dir.files {
            let path = match dir.path.as_ref() {
                "" => name.into_owned(),
                dir => format!("{dir}/{name}"),
            };
            let made = match made {
                Some((seconds, nanoseconds)) => Made::Source {
                    len_bytes,
                    modified_at: Timestamp::new(seconds, nanoseconds)
                        .map_err(|error| error.to_string())?,
                },
                None => Made::Written,
            };
            let seen = match seen {
                Some(index) => {
                    let given = given.get(index as usize);
                    Some(
                        given
                            .cloned()
                            .ok_or_else(|| format!("no attributes {index}"))?,
                    )
                }
                None => None,
            };
            let staged = Staged {
                path: path.clone(),
                made,
                len_bytes,
                blake3: blake3::Hash::from_hex(digest.as_bytes())
                    .map_err(|error| error.to_string())?,
                seen,
            };
            files.insert(path, staged);
        }
    }
    Ok((whole.next, files))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStorage;

    fn staged(path: &str, made: Made) -> Staged {
        Staged {
            path: path.to_owned(),
            made,
            len_bytes: 7,
            blake3: blake3::hash(path.as_bytes()),
            seen: None,
        }
    }

    fn from_source(path: &str, seconds: i64) -> Staged {
        let made = Made::Source {
            len_bytes: 7,
            modified_at: Timestamp::new(seconds, 123_456_789).unwrap(),
        };
        staged(path, made)
    }

    async fn journal(storage: &MemoryStorage) -> Journal {
        let dir = StoragePath::parse("/j").unwrap();
        storage.create_dir_all(&dir).await.unwrap();
        Journal::open(storage, dir).await.unwrap()
    }

    async fn flush(journal: &mut Journal, storage: &MemoryStorage) {
        if let Some(news) = journal.take_news() {
            news.save(storage).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_condensed_is_read_as_it_was() {
        let storage = MemoryStorage::new("journal");
        let mut written = journal(&storage).await;
        written.note(from_source("state/0/1/\"9\".delta", 1_700_000_000));
        written.note(from_source("state/0/1/8 \u{e4}.delta", -5));
        written.note(staged("metadata", Made::Written));
        let given = Attributes {
            mode: Some(0o640),
            owner: Some("spark".into()),
            group: None,
        };
        written.note_seen("metadata", Arc::new(given));
        flush(&mut written, &storage).await;
        written.condense(&storage).await.unwrap();
        written.note(from_source("state/0/1/10.delta", 6));
        written.forget("state/0/1/8 \u{e4}.delta");
        flush(&mut written, &storage).await;
        let read = journal(&storage).await;
        assert!(read.is_complete());
        assert_eq!(read.next(), written.next());
        assert_eq!(read.files, written.files);
        assert_eq!(read.files.len(), 3);
        // The condensed part and one segment.
        let dir = StoragePath::parse("/j").unwrap();
        let entries = storage.list(&dir, Depth::Children).await.unwrap();
        assert_eq!(entries.len(), 2);
    }

    #[tokio::test]
    async fn a_file_that_came_back_is_there_and_one_that_went_is_not() {
        let storage = MemoryStorage::new("journal");
        let mut written = journal(&storage).await;
        for path in ["a", "b"] {
            written.note(from_source(path, 1));
            flush(&mut written, &storage).await;
            written.forget(path);
        }
        written.note(from_source("a", 2));
        flush(&mut written, &storage).await;
        let read = journal(&storage).await;
        assert_eq!(read.files, written.files);
        assert!(read.get("a").is_some() && read.get("b").is_none());
    }

    #[tokio::test]
    async fn a_part_that_is_damaged_or_missing_makes_it_incomplete() {
        for (name, content) in [
            ("whole.json", Some("{")),
            ("1.json", Some("{")),
            ("1.json", None),
        ] {
            let storage = MemoryStorage::new("journal");
            let mut written = journal(&storage).await;
            for path in ["a", "b", "c", "d"] {
                written.note(from_source(path, 1));
                flush(&mut written, &storage).await;
                if path == "a" {
                    written.condense(&storage).await.unwrap();
                }
            }
            let path = StoragePath::parse(&format!("/j/{name}")).unwrap();
            storage.remove(&path).unwrap();
            if let Some(content) = content {
                storage.put(&path, content).unwrap();
            }
            let read = journal(&storage).await;
            assert!(!read.is_complete(), "{name}");
            assert!(read.files.len() < 4, "{name}");
            assert!(read.next() >= written.next(), "{name}");
        }
    }
}
