//! What can be refused before anything is written.

use super::{CopyError, CopyRequest, Existing, Place, work};
use crate::storage::{DirIdentity, ErrorKind, FileKind, StorageError, StoragePath, StorageUri};

/// Refuses what can be refused before anything is written.
///
/// # Errors
/// [`CopyError::Nested`], [`CopyError::Exists`], storage errors.
pub async fn check_places(request: &CopyRequest) -> Result<(), CopyError> {
    let (source, destination) = (&request.source, &request.destination);
    if destination.path.parent().is_none() {
        let error = StorageError::new("copy to", destination.uri(), ErrorKind::InvalidPath);
        let why =
            "a copy is renamed to its place, so the root cannot be one; name a directory in it";
        return Err(error.with_detail(why).into());
    }
    if source.storage.authority() == destination.storage.authority() {
        let (from, to) = (&source.path, &destination.path);
        let nested = from == to || to.is_below(from) || from.is_below(to);
        if nested || is_below_by_links(source, destination).await? {
            return Err(CopyError::Nested {
                destination: destination.uri(),
                source_uri: source.uri(),
            });
        }
    }
    if let Some(parent) = destination.path.parent()
        && is_checkpoint(destination, &parent).await?
    {
        return Err(CopyError::Nested {
            destination: destination.uri(),
            source_uri: StorageUri::new(destination.storage.authority().clone(), parent),
        });
    }
    if request.existing == Existing::Refuse
        && destination.exists().await?
        && !work::is_published_here(destination).await?
    {
        return Err(CopyError::Exists {
            destination: destination.uri(),
        });
    }
    Ok(())
}

/// Whether a query keeps its checkpoint in `dir`: nothing else is to lie there.
async fn is_checkpoint(place: &Place, dir: &StoragePath) -> Result<bool, CopyError> {
    for (name, kind) in [("metadata", FileKind::File), ("offsets", FileKind::Dir)] {
        match place.storage.stat(&dir.join(name)).await {
            Ok(found) if found.kind == kind => {}
            Err(error) if error.kind.is_unreachable() => return Err(error.into()),
            // A directory that is missing, or may not be seen, is told later.
            Ok(_) | Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// Refuses a destination in a directory that is not there: a mistake in the path, not something to make.
///
/// # Errors
/// Storage errors, `NotFound` if it is missing.
pub async fn check_parent(destination: &Place) -> Result<(), CopyError> {
    let Some(parent) = destination.path.parent() else {
        return Ok(());
    };
    match destination.storage.identify_dir(&parent).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == ErrorKind::NotFound => {
            let why = "the directory in which the copy is to lie must exist";
            Err(error.with_detail(why).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a link on the way to the destination leads into the source.
async fn is_below_by_links(source: &Place, destination: &Place) -> Result<bool, CopyError> {
    let identity = match source.storage.identify_dir(&source.path).await {
        Ok(identity @ DirIdentity::Inode { .. }) => identity,
        // Without numbers there are no links either; what else is wrong with the source is told later.
        Ok(DirIdentity::Unnumbered) | Err(_) => return Ok(false),
    };
    let mut above = destination.path.parent();
    while let Some(dir) = above {
        match destination.storage.identify_dir(&dir).await {
            Ok(found) if found == identity => return Ok(true),
            Err(error) if error.kind.is_unreachable() => return Err(error.into()),
            // One that is missing is told later; one that may not be seen is not the source.
            Ok(_) | Err(_) => {}
        }
        above = dir.parent();
    }
    Ok(false)
}
