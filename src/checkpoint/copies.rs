//! The copies that lie in a directory.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::CheckpointError;
use super::manifest::Manifest;
use super::retain::FoundCopy;
use crate::storage::{Depth, FileKind, OwnedTree, Storage, StorageError, StoragePath, StorageUri};

/// The copies directly below `dir`, oldest first. Directories without a usable manifest are not
/// copies; a manifest that cannot be read for another reason is an error.
///
/// # Errors
/// [`CheckpointError::Storage`].
pub async fn list_copies(
    storage: &dyn Storage,
    dir: &StoragePath,
) -> Result<Vec<FoundCopy>, CheckpointError> {
    let mut copies = Vec::new();
    for entry in storage.list(dir, Depth::Children).await? {
        // A work directory, or one that was moved aside, is not offered.
        if entry.kind != FileKind::Dir || entry.path.name().contains(".stepdown-") {
            continue;
        }
        let manifest = match Manifest::load(storage, &entry.path).await {
            Ok(Some(manifest)) => manifest,
            Ok(None) => continue,
            Err(error @ CheckpointError::Manifest { .. }) => {
                tracing::warn!("not shown: {error}");
                continue;
            }
            Err(error) => return Err(error),
        };
        let in_use = is_in_use(storage, &entry.path, &manifest).await?;
        copies.push(FoundCopy {
            uri: StorageUri::new(storage.authority().clone(), entry.path),
            copy_id: manifest.copy_id,
            parent: manifest.source.copy_id,
            query_id: manifest.query_id.clone(),
            last_planned_batch: manifest.last_planned_batch,
            last_committed_batch: manifest.last_committed_batch,
            scope: manifest.scope,
            created_at: manifest.created_at,
            files: manifest.files.len() as u64,
            bytes: manifest.total_bytes(),
            forced: manifest.forced,
            in_use,
            source: manifest.source.uri,
        });
    }
    copies.sort_by_key(|copy: &FoundCopy| (copy.created_at, copy.copy_id));
    Ok(copies)
}

/// In the name of a copy whose removal has begun.
const REMOVED: &str = ".stepdown-old-";

/// Removes a directory past any trash, at once for whoever looks on: it is moved to another name first, one
/// that says that it is stepdown's. Half of a checkpoint is none.
///
/// # Errors
/// Storage errors, `NotFound` if it is not there. It is whole then, or stands no more at its place and is
/// partly removed: the rest goes with [`remove_leftovers`].
pub(super) async fn remove_at_once(
    storage: &dyn Storage,
    dir: &StoragePath,
) -> Result<(), StorageError> {
    let doomed = dir.with_suffix(&format!("{REMOVED}{}", Uuid::new_v4().simple()));
    storage.rename(dir, &doomed).await?;
    if let Some(tree) = OwnedTree::claim(doomed) {
        storage.delete_tree(&tree).await?;
    }
    Ok(())
}

/// Removes what is left of copies below `dir` whose removal was cut short.
///
/// # Errors
/// Storage errors.
pub async fn remove_leftovers(
    storage: &dyn Storage,
    dir: &StoragePath,
) -> Result<(), CheckpointError> {
    for entry in storage.list(dir, Depth::Children).await? {
        let is_left = entry.kind == FileKind::Dir && entry.path.name().contains(REMOVED);
        if is_left && let Some(tree) = OwnedTree::claim(entry.path) {
            storage.delete_tree(&tree).await?;
        }
    }
    Ok(())
}

/// What became of a copy that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Gone,
    /// A query has begun to run in it, or another copy stands there now: it stays.
    InUse,
}

/// Removes a copy that was found, past any trash, unless it came into use since.
///
/// # Errors
/// Storage errors. The copy is whole then, or stands no more at its place and is partly removed.
pub async fn remove_copy(
    storage: &dyn Storage,
    copy: &FoundCopy,
) -> Result<Removed, CheckpointError> {
    let dir = &copy.uri.path;
    match Manifest::load(storage, dir).await? {
        Some(now) if now.copy_id == copy.copy_id && !is_in_use(storage, dir, &now).await? => {}
        _ => return Ok(Removed::InUse),
    }
    remove_at_once(storage, dir).await?;
    Ok(Removed::Gone)
}

/// Whether the logs have files that the manifest does not know: a query ran here since.
pub(super) async fn is_in_use(
    storage: &dyn Storage,
    dir: &StoragePath,
    manifest: &Manifest,
) -> Result<bool, CheckpointError> {
    let known: BTreeSet<&str> = manifest
        .files
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    for log in ["offsets", "commits"] {
        let entries = match storage.list(&dir.join(log), Depth::Children).await {
            Ok(entries) => entries,
            Err(error) if error.kind == crate::storage::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        for entry in entries {
            let name = entry.path.name();
            if !name.starts_with('.') && !known.contains(format!("{log}/{name}").as_str()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
