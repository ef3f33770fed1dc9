//! The proof that the tree is the plan: each file seen in place with its length, each with the mode and
//! the owners of the source.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;

use super::work::Work;
use super::{CopyError, CopyRequest, Planned};
use crate::checkpoint::listing::{EntryId, Listing};
use crate::checkpoint::manifest::MANIFEST;
use crate::checkpoint::plan::PlannedFile;
use crate::storage::{
    Attributes, Depth, ErrorKind, FileKind, FileStat, Storage, StorageError, StoragePath,
};

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// At all that is in the tree; what is seen is kept as its stand.
    AtAll,
    /// At what was not seen in place yet, or was given another mode or owners than the source has
    /// now. Where that is most of it, at all.
    AtNews,
}

/// A file or a directory to look at.
struct Due<'a> {
    path: &'a str,
    /// Of a file.
    len_bytes: Option<u64>,
    wanted: Arc<Attributes>,
}

/// What entries of the source want to be given, each made once.
struct Wanted<'a> {
    listing: &'a Listing,
    same_names: bool,
    last: Option<(&'a Attributes, Arc<Attributes>)>,
    nothing: Arc<Attributes>,
}

impl Wanted<'_> {
    fn of(&mut self, like: Option<EntryId>) -> Arc<Attributes> {
        let Some(like) = like else {
            return Arc::clone(&self.nothing);
        };
        let source = self.listing.get(like).attributes;
        if let Some((known, wanted)) = &self.last
            && std::ptr::eq(*known, source)
        {
            return Arc::clone(wanted);
        }
        let wanted = Arc::new(Attributes {
            mode: source.mode,
            owner: source.owner.clone().filter(|_| self.same_names),
            group: source.group.clone().filter(|_| self.same_names),
        });
        self.last = Some((source, Arc::clone(&wanted)));
        wanted
    }
}

impl Work {
    /// Makes sure that the tree has the files of the plan with their lengths, modes and owners. Owners
    /// that this user must not give are left, once told.
    ///
    /// # Errors
    /// [`CopyError::NotSound`]; storage errors.
    pub(super) async fn prove(
        &mut self,
        request: &CopyRequest,
        planned: &Planned,
        look: Look,
    ) -> Result<(), CopyError> {
        let (due, total) = self.due(request, planned, look)?;
        let tree = self.tree();
        // A listing shows many entries for the price of one look.
        let all = look == Look::AtAll || due.len() * 4 > total;
        let entries = if all {
            let storage = &self.destination.storage;
            let entries = storage.list(&tree, Depth::Tree).await?;
            self.check_all(planned, &entries)?;
            entries
        } else {
            self.look_at(&due, request.pace.requests_at_once).await?
        };
        let found: HashMap<&str, &FileStat> = entries
            .iter()
            .filter_map(|entry| Some((entry.path.relative_to(&tree)?, entry)))
            .collect();
        let mut changes = Vec::new();
        for Due {
            path,
            len_bytes,
            wanted,
        } in &due
        {
            let Some(entry) = found.get(path) else {
                return Err(self.not_sound(format!("{path} is missing")));
            };
            let is_right = match len_bytes {
                Some(len_bytes) => entry.kind != FileKind::Dir && entry.len_bytes == *len_bytes,
                None => entry.kind == FileKind::Dir,
            };
            if !is_right {
                let why = format!("{path} is another one than was planned");
                return Err(self.not_sound(why));
            }
            let change = Attributes {
                mode: wanted.mode.filter(|mode| entry.mode != Some(*mode)),
                owner: wanted
                    .owner
                    .clone()
                    .filter(|o| entry.owner.as_ref() != Some(o)),
                group: wanted
                    .group
                    .clone()
                    .filter(|g| entry.group.as_ref() != Some(g)),
            };
            if change != Attributes::default() {
                changes.push((entry.path.clone(), change));
            }
        }
        self.give(changes, request.pace.requests_at_once).await?;
        for due in due {
            if due.len_bytes.is_some() {
                self.journal.note_seen(due.path, due.wanted);
            } else {
                self.dirs_given.insert(due.path.to_owned(), due.wanted);
            }
        }
        if look == Look::AtAll {
            // A look at all may take longer than the lease lasts.
            self.assure().await?;
            self.keep_stand(&entries).await?;
        }
        Ok(())
    }

    /// What has to be looked at, and how much there is in all.
    fn due<'a>(
        &self,
        request: &CopyRequest,
        planned: &'a Planned,
        look: Look,
    ) -> Result<(Vec<Due<'a>>, usize), CopyError> {
        let listing = &planned.contents.listing;
        let mut wanted = Wanted {
            listing,
            same_names: request.source.storage.authority() == self.destination.storage.authority(),
            last: None,
            nothing: Arc::default(),
        };
        let mut due = Vec::new();
        for file in &planned.plan.files {
            let like = match file {
                PlannedFile::Copy { entry, .. } => Some(*entry),
                PlannedFile::Write { like, .. } => *like,
            };
            let path = file.path(listing);
            let Some(staged) = self.journal.get(path) else {
                return Err(self.not_sound(format!("{path} is not in the journal")));
            };
            let wanted = wanted.of(like);
            if look == Look::AtAll || staged.seen.as_ref() != Some(&wanted) {
                due.push(Due {
                    path,
                    len_bytes: Some(file.len_bytes(listing)),
                    wanted,
                });
            }
        }
        for (path, like) in &planned.plan.dirs {
            let wanted = wanted.of(*like);
            if look == Look::AtAll || self.dirs_given.get(path) != Some(&wanted) {
                due.push(Due {
                    path,
                    len_bytes: None,
                    wanted,
                });
            }
        }
        Ok((due, planned.plan.files.len() + planned.plan.dirs.len()))
    }

    async fn look_at(&self, due: &[Due<'_>], at_once: usize) -> Result<Vec<FileStat>, CopyError> {
        let (storage, tree) = (&self.destination.storage, self.tree());
        let mut looks = futures::stream::iter(due)
            .map(|due| {
                let path = tree.join_all(due.path);
                async move { (due.path, storage.stat(&path).await) }
            })
            .buffer_unordered(at_once.clamp(1, 64));
        let mut entries = Vec::with_capacity(due.len());
        while let Some((path, looked)) = looks.next().await {
            match looked {
                Ok(entry) => entries.push(entry),
                Err(error) if error.kind == ErrorKind::NotFound => {
                    return Err(self.not_sound(format!("{path} is missing")));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(entries)
    }

    /// Exactly the files of the plan are there, with their lengths.
    fn check_all(&self, planned: &Planned, entries: &[FileStat]) -> Result<(), CopyError> {
        let tree = self.tree();
        let mut found: HashMap<&str, u64> = entries
            .iter()
            .filter(|entry| entry.kind != FileKind::Dir)
            .filter_map(|entry| Some((entry.path.relative_to(&tree)?, entry.len_bytes)))
            .collect();
        // Of an earlier try to publish.
        found.remove(MANIFEST);
        for file in &planned.plan.files {
            let path = file.path(&planned.contents.listing);
            let expected = file.len_bytes(&planned.contents.listing);
            match found.remove(path) {
                Some(len_bytes) if len_bytes == expected => {}
                Some(len_bytes) => {
                    let why = format!("{path} has {len_bytes} bytes instead of {expected}");
                    return Err(self.not_sound(why));
                }
                None => return Err(self.not_sound(format!("{path} is missing"))),
            }
        }
        match found.keys().next() {
            Some(path) => Err(self.not_sound(format!("{path} is not in the plan"))),
            None => Ok(()),
        }
    }

    async fn give(
        &self,
        changes: Vec<(StoragePath, Attributes)>,
        at_once: usize,
    ) -> Result<(), CopyError> {
        let storage = &self.destination.storage;
        let mut set =
            futures::stream::iter(changes)
                .map(|(path, change)| async move {
                    set_as_allowed(storage.as_ref(), &path, change).await
                })
                .buffer_unordered(at_once.clamp(1, 64));
        let mut refused = 0_u64;
        while let Some(done) = set.next().await {
            refused += u64::from(!done?);
        }
        if refused > 0 {
            tracing::warn!(
                files = refused,
                "owners or modes of the source could not be kept"
            );
        }
        Ok(())
    }
}

/// True if all was set; false if something was refused for lack of rights.
async fn set_as_allowed(
    storage: &dyn Storage,
    path: &StoragePath,
    change: Attributes,
) -> Result<bool, StorageError> {
    match storage.set_attributes(path, &change).await {
        Ok(()) => Ok(true),
        Err(error) if is_refusal(error.kind) && change.mode.is_some() => {
            let mode = Attributes {
                mode: change.mode,
                ..Attributes::default()
            };
            match storage.set_attributes(path, &mode).await {
                Ok(()) => Ok(change.owner.is_none() && change.group.is_none()),
                Err(error) if is_refusal(error.kind) => Ok(false),
                Err(error) => Err(error),
            }
        }
        Err(error) if is_refusal(error.kind) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::Unsupported)
}
