//! All entries below a checkpoint, held compactly: some fifty bytes an entry beside its path.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::storage::{Attributes, FileStat, StoragePath};

pub use crate::storage::FileKind;

/// Names one entry of one [`Listing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(u32);

#[derive(Debug, Clone, Copy)]
struct Entry {
    path_start: usize,
    path_len: u32,
    attributes: u32,
    len_bytes: u64,
    modified_at: Timestamp,
    kind: FileKind,
}

/// One entry of a listing.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    /// Its name in the listing.
    pub id: EntryId,
    /// Path relative to the listed directory, components separated by `/`.
    pub path: &'a str,
    /// Kind of the entry.
    pub kind: FileKind,
    /// Length in bytes; 0 for what is not a regular file.
    pub len_bytes: u64,
    /// Last change of the content, by the storage's clock.
    pub modified_at: Timestamp,
    /// Mode and owners.
    pub attributes: &'a Attributes,
}

impl<'a> Listed<'a> {
    /// The last component of the path.
    pub fn name(&self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Whether Spark would read it as a file: a regular one, or a link.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, FileKind::File | FileKind::Symlink)
    }
}

/// All entries below one directory, sorted by the bytes of their paths.
#[derive(Debug, Default)]
pub struct Listing {
    text: String,
    entries: Vec<Entry>,
    attributes: Vec<Attributes>,
}

impl Listing {
    /// Starts an empty listing of the directory `root`.
    pub fn builder(root: StoragePath) -> ListingBuilder {
        ListingBuilder {
            root,
            listing: Self::default(),
            known_attributes: HashMap::new(),
        }
    }

    /// Number of entries, directories included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry named `id`, which must come from this listing.
    #[expect(
        clippy::indexing_slicing,
        reason = "only this listing makes its ids; another's id is a mistake in the program"
    )]
    pub fn get(&self, id: EntryId) -> Listed<'_> {
        let entry = &self.entries[id.0 as usize];
        Listed {
            id,
            path: self.path_of(entry),
            kind: entry.kind,
            len_bytes: entry.len_bytes,
            modified_at: entry.modified_at,
            attributes: &self.attributes[entry.attributes as usize],
        }
    }

    /// All entries in order.
    pub fn iter(&self) -> impl Iterator<Item = Listed<'_>> {
        self.range(0, self.entries.len())
    }

    /// The entry with this relative path.
    pub fn find(&self, path: &str) -> Option<Listed<'_>> {
        let index = self
            .entries
            .binary_search_by(|entry| compare(self.path_of(entry), path))
            .ok()?;
        self.range(index, index + 1).next()
    }

    /// All entries below the directory with this relative path, in order.
    pub fn below(&self, dir: &str) -> impl Iterator<Item = Listed<'_>> {
        let prefix = format!("{dir}/");
        let start = self
            .entries
            .partition_point(|entry| compare(self.path_of(entry), &prefix) == Ordering::Less);
        let end = start
            + self
                .entries
                .get(start..)
                .unwrap_or_default()
                .partition_point(|entry| self.path_of(entry).starts_with(&prefix));
        self.range(start, end)
    }

    fn range(&self, start: usize, end: usize) -> impl Iterator<Item = Listed<'_>> {
        (start..end)
            .filter_map(|index| u32::try_from(index).ok())
            .map(|index| self.get(EntryId(index)))
    }

    fn path_of(&self, entry: &Entry) -> &str {
        let end = entry.path_start + entry.path_len as usize;
        self.text.get(entry.path_start..end).unwrap_or_default()
    }
}

fn compare(a: &str, b: &str) -> Ordering {
    a.as_bytes().cmp(b.as_bytes())
}

/// Mode, owner, group.
type AttributesKey = (Option<u32>, Option<Arc<str>>, Option<Arc<str>>);

/// Collects the entries of a [`Listing`] from several calls.
#[derive(Debug)]
pub struct ListingBuilder {
    root: StoragePath,
    listing: Listing,
    known_attributes: HashMap<AttributesKey, u32>,
}

impl ListingBuilder {
    /// Adds what a storage listed; entries outside the root, and those beyond 4,294,967,295, are left
    /// out.
    pub fn add(&mut self, stats: impl IntoIterator<Item = FileStat>) {
        for stat in stats {
            let Some(path) = stat.path.relative_to(&self.root) else {
                continue;
            };
            let Ok(path_len) = u32::try_from(path.len()) else {
                continue;
            };
            if self.listing.entries.len() >= u32::MAX as usize {
                return;
            }
            let path_start = self.listing.text.len();
            self.listing.text.push_str(path);
            let attributes = self.intern(stat.mode, stat.owner, stat.group);
            self.listing.entries.push(Entry {
                path_start,
                path_len,
                attributes,
                len_bytes: stat.len_bytes,
                modified_at: stat.modified_at,
                kind: stat.kind,
            });
        }
    }

    fn intern(
        &mut self,
        mode: Option<u32>,
        owner: Option<Arc<str>>,
        group: Option<Arc<str>>,
    ) -> u32 {
        let known = &mut self.listing.attributes;
        *self
            .known_attributes
            .entry((mode, owner.clone(), group.clone()))
            .or_insert_with(|| {
                known.push(Attributes { mode, owner, group });
                u32::try_from(known.len() - 1).unwrap_or_default()
            })
    }

    /// The listing. Of two entries with the same path the one that was added last stays.
    pub fn finish(self) -> Listing {
        let mut listing = self.listing;
        let mut entries = std::mem::take(&mut listing.entries);
        entries.sort_by(|a, b| compare(listing.path_of(a), listing.path_of(b)));
        entries.reverse();
        entries.dedup_by(|a, b| listing.path_of(a) == listing.path_of(b));
        entries.reverse();
        entries.shrink_to_fit();
        listing.entries = entries;
        listing
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A listing of files (a trailing `/` makes a directory) of one byte each.
    pub(crate) fn listing_of(paths: &[&str]) -> Listing {
        let root = StoragePath::parse("/c").unwrap();
        let mut builder = Listing::builder(root);
        builder.add(paths.iter().map(|path| stat(path, 1)));
        builder.finish()
    }

    pub(crate) fn stat(path: &str, len_bytes: u64) -> FileStat {
        let is_dir = path.ends_with('/');
        FileStat {
            path: StoragePath::parse(&format!("/c/{path}")).unwrap(),
            kind: if is_dir {
                FileKind::Dir
            } else {
                FileKind::File
            },
            len_bytes: if is_dir { 0 } else { len_bytes },
            modified_at: Timestamp::UNIX_EPOCH,
            mode: Some(0o644),
            owner: Some("spark".into()),
            group: None,
        }
    }

    #[test]
    fn entries_are_found_by_path_and_by_directory() {
        let listing = listing_of(&["b/2", "a", "b/", "b/10", "b.x", "b/c/d", "bb/1"]);
        let paths: Vec<_> = listing.iter().map(|e| e.path).collect();
        assert_eq!(paths, ["a", "b", "b.x", "b/10", "b/2", "b/c/d", "bb/1"]);
        let below: Vec<_> = listing.below("b").map(|e| e.name()).collect();
        assert_eq!(below, ["10", "2", "d"]);
        assert_eq!(listing.below("a").count(), 0);
        assert_eq!(listing.below("zz").count(), 0);
        assert_eq!(listing.find("b/2").map(|e| e.len_bytes), Some(1));
        assert!(listing.find("b/").is_none());
        assert_eq!(listing.attributes.len(), 1);
    }

    #[test]
    fn the_last_of_two_listings_wins() {
        let mut builder = Listing::builder(StoragePath::parse("/c").unwrap());
        builder.add([stat("x", 1), stat("y", 1)]);
        builder.add([stat("x", 2), stat("x", 3)]);
        let listing = builder.finish();
        assert_eq!(listing.len(), 2);
        assert_eq!(listing.find("x").map(|e| e.len_bytes), Some(3));
    }
}
