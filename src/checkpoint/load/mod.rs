//! Reads a checkpoint in the order that gives a consistent picture of one that is being written.

mod logs;
mod state;

use std::collections::{BTreeMap, HashMap};

use super::CheckpointError;
use super::contents::{BatchLog, Contents, Identity};
use super::layout::{DirectoryKind, batch_of_name, recognise};
use super::listing::Listing;
use super::state_store::stores::stores;
use super::target::At;
use crate::model::BatchId;
use crate::storage::{
    Authority, Depth, ErrorKind, FileKind, FileStat, Storage, StorageError, StoragePath, StorageUri,
};

pub(super) use logs::load_identity;

/// Small files that are read at the same time.
const READS_AT_ONCE: usize = 32;

/// Reads the checkpoint `dir`: all names, the logs that a restart as of `at` reads, and of the state
/// what says which files belong together.
///
/// `commits/` is listed and read first, then `offsets/`, `sources/`, and `state/` last: whatever a
/// running query adds meanwhile is newer than the batch that was chosen. Files that vanish meanwhile
/// are findings of [`needs`](super::needs::needs); then a caller reads again.
///
/// # Errors
/// [`CheckpointError::Missing`]; [`CheckpointError::Storage`].
pub async fn load_contents(
    storage: &dyn Storage,
    dir: &StoragePath,
    at: At,
) -> Result<Contents, CheckpointError> {
    load_staged(storage, dir, dir, at).await
}

/// The same for a checkpoint that lies in `dir` and is made to be published as `home`: absolute paths
/// inside it lead there.
///
/// # Errors
/// As [`load_contents`].
pub async fn load_staged(
    storage: &dyn Storage,
    dir: &StoragePath,
    home: &StoragePath,
    at: At,
) -> Result<Contents, CheckpointError> {
    load(storage, dir, home, Names::Storage, at).await
}

/// The same where the names below `dir` are known: `entries`, sorted by path. Nothing is listed.
pub(super) async fn load_known(
    storage: &dyn Storage,
    dir: &StoragePath,
    home: &StoragePath,
    at: At,
    entries: &[FileStat],
) -> Result<Contents, CheckpointError> {
    load(storage, dir, home, Names::Known(entries), at).await
}

async fn load(
    storage: &dyn Storage,
    dir: &StoragePath,
    home: &StoragePath,
    names: Names<'_>,
    at: At,
) -> Result<Contents, CheckpointError> {
    let reader = Reader {
        storage,
        dir,
        home,
        names,
    };
    let top = match reader.names {
        Names::Storage => list_top(storage, dir).await?,
        Names::Known(entries) => below(entries, dir, Depth::Children),
    };
    let names: Vec<_> = top
        .iter()
        .map(|entry| (entry.path.name(), entry.kind == FileKind::Dir))
        .collect();
    let directory = recognise(dir.name(), &names);
    let mut contents = Contents {
        location: location_of(storage.authority(), dir),
        directory,
        listing: Listing::default(),
        identity: Identity::Missing,
        offsets: BatchLog::default(),
        commits: BatchLog::default(),
        operators: BTreeMap::new(),
        schemas_elsewhere: BTreeMap::new(),
        stores: Vec::new(),
        headers: HashMap::new(),
        zips: HashMap::new(),
    };
    let mut listing = Listing::builder(dir.clone());
    if directory == DirectoryKind::Query {
        contents.identity = load_identity(storage, dir).await?;
        let (commits, offsets) = reader.logs().await?;
        contents.commits.present = batches(&commits);
        contents.offsets.present = batches(&offsets);
        reader.read_logs(&mut contents, at).await?;
        listing.add(commits);
        listing.add(offsets);
        listing.add(reader.tree("sources").await?);
        listing.add(reader.tree("state").await?);
        for entry in &top {
            let name = entry.path.name();
            let is_listed = matches!(name, "commits" | "offsets" | "sources" | "state");
            if entry.kind == FileKind::Dir && !is_listed {
                listing.add(reader.tree(name).await?);
            }
        }
        listing.add(top);
        contents.listing = listing.finish();
        contents.stores = stores(&contents.listing);
        reader.read_operators(&mut contents).await?;
        reader.read_state(&mut contents, at).await?;
    } else {
        listing.add(match reader.names {
            Names::Storage => storage.list(dir, Depth::Tree).await?,
            Names::Known(entries) => entries.to_vec(),
        });
        contents.listing = listing.finish();
    }
    Ok(contents)
}

/// The entries at the top of a directory.
pub(super) async fn list_top(
    storage: &dyn Storage,
    dir: &StoragePath,
) -> Result<Vec<FileStat>, CheckpointError> {
    match storage.list(dir, Depth::Children).await {
        Ok(top) => Ok(top),
        Err(e) if e.kind == ErrorKind::NotFound => {
            let uri = StorageUri::new(storage.authority().clone(), dir.clone());
            Err(CheckpointError::Missing { uri })
        }
        Err(e) => Err(e.into()),
    }
}

/// Tells "the storage said that it is not there" from every other failure.
pub(super) fn present<T>(answer: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// A path as Spark writes it into its files: with a scheme, and without `//` for local ones.
pub fn location_of(authority: &Authority, path: &StoragePath) -> String {
    match authority {
        Authority::Local => format!("file:{path}"),
        Authority::Hdfs(_) | Authority::Viewfs(_) | Authority::Memory(_) => {
            StorageUri::new(authority.clone(), path.clone()).to_string()
        }
    }
}

fn batches(listing: &[FileStat]) -> Vec<BatchId> {
    let mut batches: Vec<_> = listing
        .iter()
        .filter(|entry| matches!(entry.kind, FileKind::File | FileKind::Symlink))
        .filter_map(|entry| batch_of_name(entry.path.name()))
        .collect();
    batches.sort_unstable();
    batches
}

/// Where the names below a checkpoint come from.
#[derive(Clone, Copy)]
enum Names<'a> {
    /// They are listed.
    Storage,
    /// They are these.
    Known(&'a [FileStat]),
}

/// Of the entries those below `dir`.
fn below(entries: &[FileStat], dir: &StoragePath, depth: Depth) -> Vec<FileStat> {
    let is_wanted = |entry: &&FileStat| match entry.path.relative_to(dir) {
        Some(relative) => depth == Depth::Tree || !relative.contains('/'),
        None => false,
    };
    entries.iter().filter(is_wanted).cloned().collect()
}

struct Reader<'a> {
    storage: &'a dyn Storage,
    dir: &'a StoragePath,
    home: &'a StoragePath,
    names: Names<'a>,
}

impl Reader<'_> {
    fn path(&self, relative: &str) -> StoragePath {
        self.dir.join_all(relative)
    }

    async fn tree(&self, name: &str) -> Result<Vec<FileStat>, StorageError> {
        let path = self.path(name);
        let listed = match self.names {
            Names::Storage => self.storage.list(&path, Depth::Tree).await,
            Names::Known(entries) => Ok(below(entries, &path, Depth::Tree)),
        };
        match listed {
            // A link or a file in place of a directory: its entry says so.
            Err(e) if e.kind == ErrorKind::NotADirectory => Ok(Vec::new()),
            other => Ok(present(other)?.unwrap_or_default()),
        }
    }
}
