//! The work directory of a copy: its lease, its journal, its tree.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::journal::Journal;
use super::stand::Stand;
use super::{CopyError, CopyRequest, Copyist, Place, check_parent, find_copy, lineage};
use crate::checkpoint::copies::remove_at_once;
use crate::checkpoint::load::present;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::plan::Scope;
use crate::control::{
    Acquired, Document, Lease, LeaseError, LeaseWatch, load_optional, save_replacing,
};
use crate::storage::{
    Attributes, Depth, ErrorKind, FileKind, Storage, StorageError, StoragePath, StorageUri,
};

/// Pause between two looks at another's lease that may have been left.
const RETRY: std::time::Duration = std::time::Duration::from_millis(500);

/// What a work directory is for. Another source or another scope begins anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Purpose {
    copy_id: Uuid,
    source: StorageUri,
    destination: StorageUri,
    scope: Scope,
    /// The copy that the source itself is.
    pub(super) parent: Option<Uuid>,
    begun_at: Timestamp,
}

impl Document for Purpose {
    const KIND: &'static str = "copy-work";
}

impl Purpose {
    fn is_same(&self, other: &Purpose) -> bool {
        (&self.source, &self.destination, self.scope, self.parent)
            == (&other.source, &other.destination, other.scope, other.parent)
    }
}

/// An open work directory, held by its lease.
#[derive(Debug)]
pub struct Work {
    pub(super) destination: Place,
    pub(super) dir: StoragePath,
    pub(super) journal: Journal,
    /// What the tree was at the end of the last pass, as long as it counts.
    pub(super) stand: Option<Stand>,
    /// The mode and the owners that directories of the tree were given, or were refused.
    pub(super) dirs_given: HashMap<String, Arc<Attributes>>,
    pub(super) purpose: Purpose,
    pub(super) host: String,
    pub(super) ttl: std::time::Duration,
    pub(super) lease: Lease,
}

/// What the name of a work directory has after that of its destination.
const SUFFIX: &str = ".stepdown-copy";

/// The directory of the files in it.
const TREE: &str = "tree";

/// The work directory of a copy to `destination`.
pub(super) fn work_dir(destination: &StoragePath) -> Option<StoragePath> {
    let parent = destination.parent()?;
    Some(parent.join(&format!(".{}{SUFFIX}", destination.name())))
}

/// The destination whose work directory this is by its name.
fn destination_of(dir: &StoragePath) -> Option<StoragePath> {
    let name = dir.name().strip_prefix('.')?.strip_suffix(SUFFIX)?;
    Some(dir.parent()?.join(name))
}

/// The directory in which a copy to `destination` is made; `None` where it can have none.
pub fn work_dir_of(destination: &Place) -> Option<StoragePath> {
    work_dir(&destination.path)
}

/// The URI of that directory, for messages; of the destination itself if it can have none.
pub(super) fn work_uri(destination: &Place) -> StorageUri {
    let dir = work_dir(&destination.path).unwrap_or_else(|| destination.path.clone());
    StorageUri::new(destination.storage.authority().clone(), dir)
}

/// Whether what stands at the destination was published from the work directory that still lies beside
/// it. Nothing is changed.
pub(super) async fn is_published_here(destination: &Place) -> Result<bool, CopyError> {
    let Some(dir) = work_dir(&destination.path) else {
        return Ok(false);
    };
    match load_purpose(destination, &dir).await? {
        Some(purpose) => Ok(find_copy(destination, purpose.copy_id).await?.is_some()),
        None => Ok(false),
    }
}

async fn load_purpose(
    destination: &Place,
    dir: &StoragePath,
) -> Result<Option<Purpose>, CopyError> {
    let path = dir.join("purpose.json");
    Ok(load_optional(destination.storage.as_ref(), &path).await?)
}

/// Whether nobody needs this work directory any more: its copy stands at the destination, or its
/// removal was cut short, or it never came to have anything in it.
async fn is_spent(destination: &Place, dir: &StoragePath) -> Result<bool, CopyError> {
    if let Some(purpose) = load_purpose(destination, dir).await? {
        return Ok(find_copy(destination, purpose.copy_id).await?.is_some());
    }
    let tree = Place {
        storage: Arc::clone(&destination.storage),
        path: dir.join(TREE),
    };
    Ok(!tree.exists().await?)
}

/// What to do about a work directory that another process may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// It is left.
    Once,
    /// Its lease is watched until it is known to be held or left.
    UntilKnown,
}

/// Removes a work directory that nobody needs any more: its process was killed before it did so itself.
/// True if it was there and is gone; one that another process holds stays.
pub(super) async fn remove_spent(
    destination: &Place,
    copyist: &Copyist,
    patience: Patience,
) -> Result<bool, CopyError> {
    let Some(dir) = work_dir(&destination.path) else {
        return Ok(false);
    };
    let storage = destination.storage.as_ref();
    match storage.stat(&dir).await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    if !is_spent(destination, &dir).await? {
        return Ok(false);
    }
    storage.create_dir_all(&dir.join("lease")).await?;
    let lease = match take(storage, destination, &dir.join("lease"), copyist, patience).await {
        Ok(lease) => lease,
        Err(CopyError::InProgress { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    // Who held it until now may have begun another copy.
    let removed = match is_spent(destination, &dir).await {
        // With the lease in it: nobody takes it up meanwhile.
        Ok(true) => clear(storage, &dir)
            .await
            .map(|()| true)
            .map_err(Into::into),
        other => other,
    };
    if !matches!(removed, Ok(true)) {
        release(storage, lease).await;
    }
    removed
}

/// The places directly below `dir` beside which a work directory lies that nobody needs any more: the
/// copy is complete, or was not begun.
///
/// # Errors
/// Storage errors; [`CopyError::Document`] for a work directory of another version.
pub async fn find_spent(dir: &Place) -> Result<Vec<Place>, CopyError> {
    let mut spent = Vec::new();
    for entry in dir.storage.list(&dir.path, Depth::Children).await? {
        let Some(path) = destination_of(&entry.path) else {
            continue;
        };
        let storage = Arc::clone(&dir.storage);
        let destination = Place { storage, path };
        if entry.kind == FileKind::Dir && is_spent(&destination, &entry.path).await? {
            spent.push(destination);
        }
    }
    Ok(spent)
}

/// Removes such a work directory beside `destination`; waits until it is known that no other process
/// holds it. True if it was there and is gone.
///
/// # Errors
/// As [`find_spent`].
pub async fn clean_up_after(destination: &Place, copyist: &Copyist) -> Result<bool, CopyError> {
    remove_spent(destination, copyist, Patience::UntilKnown).await
}

/// What is known of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is held.
    Held,
    /// It was not taken as far as is known; another may take it from now on.
    Unknown,
}

/// Whether the storage did not say anything about what it was asked.
pub(super) fn is_no_answer(kind: ErrorKind) -> bool {
    kind.is_unreachable() || matches!(kind, ErrorKind::OutcomeUnknown | ErrorKind::Other)
}

impl Work {
    /// Takes up the work directory of the destination, or begins one.
    ///
    /// # Errors
    /// [`CopyError::InProgress`] if another process holds it; storage errors, `NotFound` if the
    /// parent of the destination is missing.
    pub async fn open(request: &CopyRequest, copyist: &Copyist) -> Result<Self, CopyError> {
        let destination = request.destination.clone();
        let storage = Arc::clone(&destination.storage);
        let Some(dir) = work_dir(&destination.path) else {
            return Err(CopyError::Exists {
                destination: destination.uri(),
            });
        };
        check_parent(&destination).await?;
        let lease_dir = dir.join("lease");
        storage.create_dir_all(&lease_dir).await?;
        let patience = Patience::UntilKnown;
        let lease = take(
            storage.as_ref(),
            &destination,
            &lease_dir,
            copyist,
            patience,
        )
        .await?;
        match Self::begin(request, copyist, dir, lease).await {
            Ok(work) => Ok(work),
            Err((lease, error)) => {
                release(storage.as_ref(), *lease).await;
                Err(error)
            }
        }
    }

    async fn begin(
        request: &CopyRequest,
        copyist: &Copyist,
        dir: StoragePath,
        lease: Lease,
    ) -> Result<Self, (Box<Lease>, CopyError)> {
        let destination = request.destination.clone();
        match Self::prepare(request, &dir).await {
            Ok((purpose, journal, stand)) => Ok(Self {
                destination,
                dir,
                journal,
                dirs_given: stand.as_ref().map(Stand::given).unwrap_or_default(),
                stand,
                purpose,
                host: copyist.host.clone(),
                ttl: copyist.policy.ttl,
                lease,
            }),
            Err(error) => Err((Box::new(lease), error)),
        }
    }

    async fn prepare(
        request: &CopyRequest,
        dir: &StoragePath,
    ) -> Result<(Purpose, Journal, Option<Stand>), CopyError> {
        let storage = request.destination.storage.as_ref();
        let fresh = Purpose {
            copy_id: request.copy_id.unwrap_or_else(Uuid::new_v4),
            source: request.source.uri(),
            destination: request.destination.uri(),
            scope: request.scope,
            parent: lineage(&request.source).await?,
            begun_at: Timestamp::now(),
        };
        let path = dir.join("purpose.json");
        let found: Option<Purpose> = load_optional(storage, &path).await?;
        let purpose = match found {
            Some(found)
                if found.is_same(&fresh)
                    && request.copy_id.is_none_or(|id| id == found.copy_id) =>
            {
                tracing::info!(copy_id = %found.copy_id, "going on with an earlier copy");
                found
            }
            other => {
                // A missing purpose is that of a call that was cut short here, or of `begin_anew`.
                if let Some(other) = other {
                    // One with an id is made by a watcher or a rollout, whose earlier one is out of date.
                    if request.copy_id.is_none() && other.source != fresh.source {
                        Self::refuse_unfinished(request, dir, &other).await?;
                    }
                    tracing::warn!(
                        source = %other.source,
                        "an unfinished copy of another source, extent or lineage is dropped"
                    );
                }
                Stand::remove(storage, dir).await?;
                for name in [TREE, "journal"] {
                    clear(storage, &dir.join(name)).await?;
                }
                save_replacing(storage, &path, &fresh).await?;
                fresh
            }
        };
        storage.create_dir_all(&dir.join(TREE)).await?;
        let journal_dir = dir.join("journal");
        storage.create_dir_all(&journal_dir).await?;
        let journal = Journal::open(storage, journal_dir).await?;
        let stand = Stand::load(storage, dir, &journal).await?;
        Ok((purpose, journal, stand))
    }

    /// Work that was done on a copy of another source is nobody's to drop but its owner's: the source
    /// may be a mistake in the path.
    async fn refuse_unfinished(
        request: &CopyRequest,
        dir: &StoragePath,
        other: &Purpose,
    ) -> Result<(), CopyError> {
        let storage = request.destination.storage.as_ref();
        let journal = dir.join("journal");
        let journal = present(storage.list(&journal, Depth::Children).await)?.unwrap_or_default();
        let is_published = find_copy(&request.destination, other.copy_id).await?;
        if journal.is_empty() || is_published.is_some() {
            return Ok(());
        }
        Err(CopyError::Unfinished {
            destination: request.destination.uri(),
            other: other.source.clone(),
            work: work_uri(&request.destination),
        })
    }

    /// The directory of the files.
    pub(super) fn tree(&self) -> StoragePath {
        self.dir.join(TREE)
    }

    /// The URI of the work directory, for messages.
    pub fn uri(&self) -> StorageUri {
        work_uri(&self.destination)
    }

    /// Id of the copy.
    pub fn copy_id(&self) -> Uuid {
        self.purpose.copy_id
    }

    /// The manifest at the destination, if what stands there is this very copy: an earlier call was
    /// cut short right after it published.
    pub(super) async fn published(&self) -> Result<Option<Manifest>, CopyError> {
        find_copy(&self.destination, self.copy_id()).await
    }

    /// Makes this the work directory of another copy: the one it was for stands at the destination.
    pub(super) async fn begin_anew(&mut self, request: &CopyRequest) -> Result<(), CopyError> {
        let storage = self.destination.storage.as_ref();
        storage.delete_file(&self.dir.join("purpose.json")).await?;
        (self.purpose, self.journal, self.stand) = Self::prepare(request, &self.dir).await?;
        self.dirs_given.clear();
        Ok(())
    }

    /// Keeps the lease alive; to be called now and then. A storage that does not answer for a while
    /// is an error only once another process may take the lease over.
    pub(super) async fn keep(&mut self) -> Result<(), CopyError> {
        if !self.lease.is_beat_due(self.ttl) {
            return Ok(());
        }
        match self.lease.beat(self.destination.storage.as_ref()).await {
            Ok(_) => Ok(()),
            Err(LeaseError::Storage(error)) if self.lease.is_fresh(self.ttl) => {
                tracing::debug!("{error}; the lease still holds");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The same for one who writes: tells apart that the lease is lost and that nothing is known of
    /// it, because the storage did not answer for so long that another may have taken it. In doubt
    /// nothing more is written until [`Work::assure`] says that it is still ours.
    pub(super) async fn keep_or_doubt(&mut self) -> Result<Kept, CopyError> {
        match self.keep().await {
            Ok(()) => Ok(Kept::Held),
            Err(CopyError::Lease(LeaseError::Storage(error))) if is_no_answer(error.kind) => {
                tracing::info!("{error}; nothing is written until the lease is known to be held");
                Ok(Kept::Unknown)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that the lease is still held, and by so new a beat that nobody can have taken it
    /// since; waits for a storage that does not answer.
    ///
    /// # Errors
    /// `Lost` if another took it; what the storage said if it does not answer for ten times to live.
    pub(super) async fn assure(&mut self) -> Result<(), CopyError> {
        let storage = Arc::clone(&self.destination.storage);
        let until = tokio::time::Instant::now() + self.ttl * 10;
        loop {
            let sure = if self.lease.is_sure(self.ttl) {
                self.lease.check(storage.as_ref()).await
            } else {
                self.lease.beat(storage.as_ref()).await.map(drop)
            };
            match sure {
                // A beat that took long says little of now.
                Ok(()) if self.lease.is_fresh(self.ttl) => return Ok(()),
                Ok(()) if tokio::time::Instant::now() < until => {}
                Ok(()) => {
                    let error = StorageError::new("keep", self.uri(), ErrorKind::TimedOut)
                        .with_detail("a beat of its lease takes longer than the lease lasts");
                    return Err(LeaseError::Storage(error).into());
                }
                Err(LeaseError::Storage(error))
                    if is_no_answer(error.kind) && tokio::time::Instant::now() < until =>
                {
                    tracing::debug!("{error}; asking again whether the lease is held");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Gives the lease back; after a publication the directory goes too. What is left after an error
    /// here is taken up or removed by the next copy to the same destination.
    pub(super) async fn close(mut self, published: bool) {
        let storage = Arc::clone(&self.destination.storage);
        let storage = storage.as_ref();
        if !published
            && self.journal.has_news()
            // Only its holder writes the journal.
            && self.lease.beat(storage).await.is_ok()
            && let Err(error) = self.record().await
        {
            tracing::warn!("what was copied last is copied again: {error}");
        }
        if published {
            // With the lease in it: nobody takes it up meanwhile.
            match clear(storage, &self.dir).await {
                Ok(()) => return,
                Err(error) => tracing::warn!("the work directory stays: {error}"),
            }
        }
        release(storage, self.lease).await;
    }
}

async fn take(
    storage: &dyn Storage,
    destination: &Place,
    dir: &StoragePath,
    copyist: &Copyist,
    patience: Patience,
) -> Result<Lease, CopyError> {
    let mut watch = LeaseWatch::default();
    let begun = tokio::time::Instant::now();
    loop {
        let tried =
            Lease::try_acquire(storage, dir, &copyist.owner, copyist.policy, &mut watch).await?;
        let (generation, owner) = match tried {
            Acquired::Taken(lease) => return Ok(lease),
            Acquired::Held { generation, owner } => (generation, owner),
        };
        // A holder on this host that has not ended is alive; of another's only its silence tells.
        let here = owner
            .as_ref()
            .is_some_and(|owner| is_same_host(owner, copyist));
        let is_over = patience == Patience::Once;
        if is_over || here || begun.elapsed() > copyist.policy.ttl + copyist.policy.ttl / 2 {
            let holder = owner.map_or_else(|| "unknown".to_owned(), |o| o.process.to_string());
            let destination = destination.uri();
            return Err(CopyError::InProgress {
                destination,
                holder,
                generation,
            });
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn is_same_host(owner: &crate::control::LeaseOwner, copyist: &Copyist) -> bool {
    use crate::model::AttemptId::Process;
    match (&owner.process, &copyist.owner.process) {
        (
            Process {
                host: a,
                boot_id: b,
                ..
            },
            Process {
                host: c,
                boot_id: d,
                ..
            },
        ) => a == c && b == d,
        _ => false,
    }
}

async fn release(storage: &dyn Storage, lease: Lease) {
    if let Err(error) = lease.release(storage).await {
        tracing::debug!("the lease was not given back: {error}");
    }
}

/// Removes the work directory or one in it, if it is there.
async fn clear(storage: &dyn Storage, dir: &StoragePath) -> Result<(), StorageError> {
    present(remove_at_once(storage, dir).await).map(|_| ())
}
