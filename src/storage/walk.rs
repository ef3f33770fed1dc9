//! A tree listed directory by directory, for storages that list one directory at a time.

use std::collections::HashSet;
use std::future::Future;

use futures::stream::{FuturesUnordered, StreamExt};

use super::{ErrorKind, FileKind, FileStat, Result, StoragePath};

/// Directories that are listed at a time.
const CONCURRENT_LISTINGS: usize = 16;

/// All entries below `dir`, sorted by the bytes of their paths, as `list_children` shows them directory
/// by directory. A sub-directory that is gone, or is no directory any more, when its turn comes is left
/// out.
///
/// # Errors
/// The first error of `list_children`: there is no partial result.
pub(crate) async fn walk_tree<F, Listing>(
    dir: &StoragePath,
    list_children: F,
) -> Result<Vec<FileStat>>
where
    F: Fn(StoragePath) -> Listing + Send + Sync,
    Listing: Future<Output = Result<Vec<FileStat>>> + Send,
{
    let mut entries = list_children(dir.clone()).await?;
    let mut waiting: Vec<StoragePath> = directories(&entries).collect();
    let mut gone = HashSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < CONCURRENT_LISTINGS
            && let Some(next) = waiting.pop()
        {
            let listing = list_children(next.clone());
            running.push(async move { (next, listing.await) });
        }
        let Some((listed, outcome)) = running.next().await else {
            break;
        };
        match outcome {
            Ok(children) => {
                waiting.extend(directories(&children));
                entries.extend(children);
            }
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                gone.insert(listed);
            }
            Err(error) => return Err(error),
        }
    }
    entries.retain(|entry| !gone.contains(&entry.path));
    entries.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok(entries)
}

fn directories(entries: &[FileStat]) -> impl Iterator<Item = StoragePath> {
    entries
        .iter()
        .filter(|entry| entry.kind == FileKind::Dir)
        .map(|entry| entry.path.clone())
}
