//! The status file of a slot: what the one who runs the driver says of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Exit, Freshness};
use crate::control::{ControlDir, Document, DocumentError, load_optional, save_replacing};
use crate::model::{AttemptId, JobName, Slot};
use crate::storage::{Depth, ErrorKind, StorageUri};

/// Where an attempt is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is being started.
    Starting,
    /// It waits before its queries start.
    Held,
    /// Its queries run.
    Running,
    /// It finishes its batch.
    Draining,
    /// It finished its batches and ends.
    Drained,
    /// It is over.
    Ended,
}

/// The status file. One writer: the driver kit, or `run` where there is no kit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusFile {
    /// The job.
    pub job: JobName,
    /// The slot.
    pub slot: Slot,
    /// The attempt it speaks of.
    pub attempt: AttemptId,
    /// The run of `stepdown run`, where there is one.
    #[serde(default)]
    pub run_id: Option<Uuid>,
    /// Where it is.
    pub phase: Phase,
    /// The marker that it goes by.
    #[serde(default)]
    pub marker: Option<StorageUri>,
    /// How it ended, in phase `ended`.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// When this was written, by the writer's clock.
    pub written_at: Timestamp,
}

impl Document for StatusFile {
    const KIND: &'static str = "status";
}

/// Saves the status of a slot.
///
/// # Errors
/// Storage errors.
pub async fn save_status(control: &ControlDir, status: &StatusFile) -> Result<(), DocumentError> {
    let path = control.status(&status.job, status.slot);
    save_replacing(control.storage().as_ref(), &path, status).await
}

/// The status of a slot, if anyone wrote one.
///
/// # Errors
/// Storage errors; `Malformed`.
pub async fn load_status(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
) -> Result<Option<StatusFile>, DocumentError> {
    load_optional(control.storage().as_ref(), &control.status(job, slot)).await
}

/// The status files of all jobs of a control directory, seen through one listing.
///
/// With thousands of jobs the storage gets one listing a round instead of one look a job, and a file
/// is read when its time stamp has changed.
#[derive(Debug)]
pub struct StatusBoard {
    control: ControlDir,
    max_age: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    listed: Option<Instant>,
    stamps: HashMap<String, Timestamp>,
    files: HashMap<String, (Timestamp, Arc<StatusFile>)>,
}

impl StatusBoard {
    /// The board of a control directory; what it says is at most `max_age` old.
    pub fn new(control: ControlDir, max_age: Duration) -> Self {
        Self {
            control,
            max_age,
            seen: Mutex::new(Seen::default()),
        }
    }

    /// The control directory.
    pub fn control(&self) -> &ControlDir {
        &self.control
    }

    /// The status of a slot as new as `freshness` asks.
    ///
    /// # Errors
    /// Storage errors; `Malformed`.
    pub async fn load_as(
        &self,
        job: &JobName,
        slot: Slot,
        freshness: Freshness,
    ) -> Result<Option<Arc<StatusFile>>, DocumentError> {
        match freshness {
            Freshness::Recent => self.load(job, slot).await,
            Freshness::Now => Ok(load_status(&self.control, job, slot).await?.map(Arc::new)),
        }
    }

    /// The status of a slot, if anyone wrote one, as of the last listing.
    ///
    /// # Errors
    /// Storage errors; `Malformed`.
    pub async fn load(
        &self,
        job: &JobName,
        slot: Slot,
    ) -> Result<Option<Arc<StatusFile>>, DocumentError> {
        let path = self.control.status(job, slot);
        let mut seen = self.seen.lock().await;
        if seen.listed.is_none_or(|at| at.elapsed() >= self.max_age) {
            let listing = self
                .control
                .storage()
                .list(&self.control.status_dir(), Depth::Children)
                .await;
            let entries = match listing {
                Ok(entries) => entries,
                Err(error) if error.kind == ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error.into()),
            };
            seen.stamps = entries
                .into_iter()
                .map(|entry| (entry.path.name().to_owned(), entry.modified_at))
                .collect();
            seen.listed = Some(Instant::now());
        }
        let Some(stamp) = seen.stamps.get(path.name()).copied() else {
            seen.files.remove(path.name());
            return Ok(None);
        };
        if let Some((at, file)) = seen.files.get(path.name())
            && *at == stamp
        {
            return Ok(Some(Arc::clone(file)));
        }
        // The others do not wait for this read.
        drop(seen);
        let Some(file) =
            load_optional::<StatusFile>(self.control.storage().as_ref(), &path).await?
        else {
            return Ok(None);
        };
        let file = Arc::new(file);
        let mut seen = self.seen.lock().await;
        seen.files
            .insert(path.name().to_owned(), (stamp, Arc::clone(&file)));
        Ok(Some(file))
    }
}
