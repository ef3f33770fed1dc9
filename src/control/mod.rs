//! The control directory: where stepdown, operators and drivers keep their files for all jobs.
//!
//! Every record of a stop is a file that is written once, by exclusive create or by rename, and is
//! named after the attempt that it speaks of. So a write that arrives late finds its file there
//! already and changes nothing, and a watcher that takes over reads from the names alone how far the
//! one before it came. `docs/design/control-directory.md` has the whole tree.

mod document;
mod lease;
mod sentinel;

use std::sync::Arc;

use crate::model::{JobName, Slot, StopId};
use crate::storage::{self, Depth, ErrorKind, FileStat, Storage, StoragePath, StorageUri};

pub use document::{
    Document, DocumentError, FORMAT, Prepared, Saved, load, load_optional, prepare_new,
    publish_new, save_new, save_replacing,
};
pub use lease::{Acquired, Lease, LeaseError, LeaseOwner, LeasePolicy, LeaseWatch, inspect_lease};
pub use sentinel::{SENTINEL, Sentinel, SentinelError};

/// What a lease gives the sole right to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseScope {
    /// To stop the attempt that runs in a slot.
    Stop(Slot),
    /// To start and supervise the process of a slot (`stepdown run`).
    Run(Slot),
    /// To drive the rollouts of the job.
    Rollout,
}

/// A control directory: a storage and a root within it, with the names of all files below.
///
/// The state that `run --marker URI` keeps beside a marker (`<marker>.stepdown/`) is a small control
/// directory of the same shape. Clones are the same one.
#[derive(Debug, Clone)]
pub struct ControlDir(Arc<Place>);

/// Where a control directory is.
#[derive(Debug)]
struct Place {
    storage: Arc<dyn Storage>,
    root: StoragePath,
}

impl ControlDir {
    /// The control directory at `root`; nothing is read or made.
    pub fn new(storage: Arc<dyn Storage>, root: StoragePath) -> Self {
        Self(Arc::new(Place { storage, root }))
    }

    /// The storage it lies in.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.0.storage
    }

    /// Its root.
    pub fn root(&self) -> &StoragePath {
        &self.0.root
    }

    /// The URI of a path in it, for messages.
    pub fn uri(&self, path: &StoragePath) -> StorageUri {
        StorageUri::new(self.0.storage.authority().clone(), path.clone())
    }

    /// Operators, jobs and rollouts touch and remove files here; one listing shows all.
    pub fn markers_dir(&self) -> StoragePath {
        self.0.root.join("markers")
    }

    /// The marker of a slot, unless the config names another one.
    pub fn marker(&self, job: &JobName, slot: Slot) -> StoragePath {
        self.markers_dir().join(&format!("{job}.{slot}"))
    }

    /// Requests of operators.
    pub fn requests_dir(&self) -> StoragePath {
        self.0.root.join("requests")
    }

    /// The request to start a slot again: a marker that was touched while its stop went on.
    pub fn start_request(&self, job: &JobName, stop_id: &StopId) -> StoragePath {
        self.requests_dir().join(&format!("{job}.start.{stop_id}"))
    }

    /// Status files of drivers and of `run`.
    pub fn status_dir(&self) -> StoragePath {
        self.0.root.join("status")
    }

    /// The status file of a slot.
    pub fn status(&self, job: &JobName, slot: Slot) -> StoragePath {
        self.status_dir().join(&format!("{job}.{slot}.json"))
    }

    /// What the driver kit says of a driver that `run` has started; its word only, since the status file is
    /// `run`'s.
    pub fn kit_status(&self, job: &JobName, slot: Slot) -> StoragePath {
        self.status_dir().join(&format!("{job}.{slot}.kit.json"))
    }

    /// What stepdown itself keeps of a job.
    pub fn state_dir(&self, job: &JobName) -> StoragePath {
        self.0.root.join("state").join(job.as_str())
    }

    /// The generations of one lease.
    pub fn lease_dir(&self, job: &JobName, scope: LeaseScope) -> StoragePath {
        let name = match scope {
            LeaseScope::Stop(slot) => format!("{slot}.lease"),
            LeaseScope::Run(slot) => format!("{slot}.run-lease"),
            LeaseScope::Rollout => "rollout.lease".to_owned(),
        };
        self.state_dir(job).join(&name)
    }

    /// Records of armed attempts.
    pub fn armed_dir(&self, job: &JobName) -> StoragePath {
        self.state_dir(job).join("armed")
    }

    /// The record that the marker of this attempt was seen.
    pub fn armed(&self, job: &JobName, stop_id: &StopId) -> StoragePath {
        self.armed_dir(job).join(&format!("{stop_id}.json"))
    }

    /// Intents of stops and their steps.
    pub fn stops_dir(&self, job: &JobName) -> StoragePath {
        self.state_dir(job).join("stops")
    }

    /// The intent of a stop.
    pub fn intent(&self, job: &JobName, stop_id: &StopId) -> StoragePath {
        self.stops_dir(job).join(&format!("{stop_id}.json"))
    }

    /// A step of a stop, an empty file beside its intent: `latched`, `requesting`, ...
    pub fn stop_step(&self, job: &JobName, stop_id: &StopId, step: &str) -> StoragePath {
        self.stops_dir(job).join(&format!("{stop_id}.{step}"))
    }

    /// Receipts of a job.
    pub fn receipts_dir(&self, job: &JobName) -> StoragePath {
        self.state_dir(job).join("receipts")
    }

    /// The receipt of a stop.
    pub fn receipt(&self, job: &JobName, stop_id: &StopId) -> StoragePath {
        self.receipts_dir(job).join(&format!("{stop_id}.json"))
    }

    /// Makes the root, its sentinel, and the folders that all jobs share; repeatable.
    ///
    /// # Errors
    /// As [`Storage::create_dir_all`] and [`Sentinel::ensure`].
    pub async fn ensure(&self) -> Result<Sentinel, SentinelError> {
        for dir in [
            self.markers_dir(),
            self.requests_dir(),
            self.status_dir(),
            self.0.root.join("state"),
        ] {
            self.0.storage.create_dir_all(&dir).await?;
        }
        let sentinel = Sentinel::ensure(self.0.storage.as_ref(), &self.0.root).await?;
        Sentinel::ensure(self.0.storage.as_ref(), &self.markers_dir()).await?;
        Ok(sentinel)
    }

    /// That the directory is the control directory: its sentinel is there. Where it is not, a file
    /// that is missing says nothing (the disk may not be mounted), and nothing must be made in it.
    ///
    /// # Errors
    /// `NoControl`; storage errors.
    pub async fn vouch(&self) -> Result<(), DocumentError> {
        match self.storage().stat(&Sentinel::path(self.root())).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => Err(DocumentError::NoControl {
                uri: self.uri(self.root()),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// The entries of a folder of it; none where the folder was not made yet.
    ///
    /// # Errors
    /// Storage errors; `NoControl`, where a missing folder says nothing.
    pub async fn list(&self, dir: &StoragePath) -> Result<Vec<FileStat>, DocumentError> {
        match self.storage().list(dir, Depth::Children).await {
            Ok(entries) => Ok(entries),
            Err(error) if error.kind == ErrorKind::NotFound => {
                self.vouch().await?;
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the folders in which stepdown keeps the state of one job; repeatable.
    ///
    /// # Errors
    /// As [`Storage::create_dir_all`].
    pub async fn ensure_job(&self, job: &JobName, slot: Slot) -> storage::Result<()> {
        for dir in [
            self.lease_dir(job, LeaseScope::Stop(slot)),
            self.armed_dir(job),
            self.stops_dir(job),
            self.receipts_dir(job),
        ] {
            self.0.storage.create_dir_all(&dir).await?;
        }
        Ok(())
    }
}
