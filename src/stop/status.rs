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
use crate::storage::{Depth, ErrorKind, StorageError, StorageUri};

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
    /// The last listing failed, then and so: all who ask meanwhile are told, and do not wait in line
    /// for a storage that does not answer.
    failed: Option<(Instant, ErrorKind, Arc<str>)>,
    stamps: HashMap<String, Stamp>,
    files: HashMap<String, (Timestamp, Arc<StatusFile>)>,
}

/// The time stamp of a file, and since when it is known.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    modified_at: Timestamp,
    since: Instant,
}

/// Two changes within this time may have the same time stamp, so what was read of a file that has just
/// changed is not kept.
const STAMP_GRAIN: Duration = Duration::from_secs(2);

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
    /// Storage errors; `NoControl`; `Malformed`.
    pub async fn load(
        &self,
        job: &JobName,
        slot: Slot,
    ) -> Result<Option<Arc<StatusFile>>, DocumentError> {
        let path = self.control.status(job, slot);
        let mut seen = self.seen.lock().await;
        if seen.listed.is_none_or(|at| at.elapsed() >= self.max_age) {
            self.renew(&mut seen).await?;
        }
        let Some(stamp) = seen.stamps.get(path.name()).copied() else {
            seen.files.remove(path.name());
            return Ok(None);
        };
        if let Some((at, file)) = seen.files.get(path.name())
            && *at == stamp.modified_at
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
        if stamp.since.elapsed() >= STAMP_GRAIN {
            let kept = (stamp.modified_at, Arc::clone(&file));
            let mut seen = self.seen.lock().await;
            seen.files.insert(path.name().to_owned(), kept);
        }
        Ok(Some(file))
    }

    /// Lists again. The lock is held meanwhile, so that all who ask share one listing.
    async fn renew(&self, seen: &mut Seen) -> Result<(), DocumentError> {
        let dir = self.control.status_dir();
        if let Some((at, kind, why)) = &seen.failed
            && at.elapsed() < self.max_age
        {
            let error = StorageError::new("list", self.control.uri(&dir), *kind);
            return Err(error.with_detail(&**why).into());
        }
        let entries = match self.control.storage().list(&dir, Depth::Children).await {
            Ok(entries) => entries,
            Err(error) if error.kind == ErrorKind::NotFound => {
                self.control.vouch().await?;
                Vec::new()
            }
            Err(error) => {
                let why = format!("as of a moment ago: {error}");
                seen.failed = Some((Instant::now(), error.kind, why.into()));
                return Err(error.into());
            }
        };
        let now = Instant::now();
        let stamps = entries.into_iter().map(|entry| {
            let name = entry.path.name().to_owned();
            let known = seen.stamps.get(&name);
            let since = known
                .filter(|known| known.modified_at == entry.modified_at)
                .map_or(now, |known| known.since);
            let modified_at = entry.modified_at;
            (name, Stamp { modified_at, since })
        });
        seen.stamps = stamps.collect();
        seen.listed = Some(now);
        seen.failed = None;
        Ok(())
    }
}
