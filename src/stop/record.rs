//! The steps of a stop on the storage: write-once files named after the stop.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::boundary::BoundaryReport;
use super::decide::Steps;
use crate::control::{
    ControlDir, Document, DocumentError, Prepared, Saved, load, load_optional, prepare_new,
    publish_new, save_new, save_replacing,
};
use crate::marker::GuardRecord;
use crate::model::{AttemptId, Generation, JobName, Slot, StopId};
use crate::storage::{CreateMode, Depth, ErrorKind, StorageError, StoragePath, StorageUri};

/// That the marker of an attempt was seen as it should be: from then on its change means something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its marker.
    pub marker: StorageUri,
    /// The directory in which the marker was seen.
    pub directory: GuardRecord,
    /// When, by the clock of the host that saw it.
    pub armed_at: Timestamp,
}

impl Document for Armed {
    const KIND: &'static str = "armed";
}

/// Why a stop was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The marker asked for it.
    Marker,
    /// stepdown's `run` got a signal.
    Signal,
    /// Nobody asked: the attempt ended by itself.
    None,
}

/// That an attempt is to be stopped, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The stop.
    pub stop_id: StopId,
    /// The job.
    pub job: JobName,
    /// The slot.
    pub slot: Slot,
    /// The attempt that is to stop, and no other.
    pub attempt: AttemptId,
    /// The marker.
    pub marker: StorageUri,
    /// Why.
    pub reason: Reason,
    /// The generation of the lease.
    pub generation: Generation,
    /// When it was written, by the clock of the host that did: held against the storage's own time
    /// stamp of the file it shows how far the two clocks are apart.
    pub written_at: Timestamp,
}

impl Document for Intent {
    const KIND: &'static str = "stop-intent";
}

/// That an attempt is about to be asked, or was, by whom, and when the drain begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Asking {
    /// The stop.
    pub stop_id: StopId,
    /// The generation of the lease.
    pub generation: Generation,
    /// The start of stepdown that asks.
    pub instance: Uuid,
    /// Its host.
    pub host: String,
    /// The kernel's boot id there.
    pub boot_id: String,
    /// The monotonic clock of that boot: the same boot's clock measures the drain whatever the wall
    /// clocks do.
    pub uptime: Duration,
    /// How the moment was chosen, where one between two batches was waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<BoundaryReport>,
}

impl Document for Asking {
    const KIND: &'static str = "stop-asking";
}

/// The files that say how far one stop has come.
#[derive(Debug, Clone)]
pub struct StopRecord {
    control: ControlDir,
    job: JobName,
    stop_id: StopId,
    /// What is there, as of the last look or write.
    pub steps: Steps,
    /// When the intent was written that is latched, by the storage's clock.
    pub latched_at: Option<Timestamp>,
    /// When the attempt was asked, or else someone was about to, by the storage's clock: the drain
    /// deadline counts from here.
    pub asked_at: Option<Timestamp>,
    /// Since when the moment to ask is waited for, by the storage's clock.
    pub waiting_at: Option<Timestamp>,
}

const LATCHED: &str = "latched.json";
const WAITING: &str = "waiting.json";
const REQUESTING: &str = "requesting.json";
const REQUESTED: &str = "requested.json";
const KILLING: &str = "killing";

impl StopRecord {
    /// Reads how far the stop has come.
    ///
    /// # Errors
    /// Storage errors; `NoControl`. A missing directory in a control directory that is there is a stop
    /// that has not begun.
    pub async fn load(
        control: &ControlDir,
        job: &JobName,
        stop_id: &StopId,
    ) -> Result<Self, DocumentError> {
        let storage = control.storage();
        let entries = match storage.list(&control.stops_dir(job), Depth::Children).await {
            Ok(entries) => entries,
            Err(error) if error.kind == ErrorKind::NotFound => {
                control.vouch().await?;
                Vec::new()
            }
            Err(error) => return Err(error.into()),
        };
        let prefix = format!("{stop_id}.");
        let mut names = BTreeSet::new();
        let (mut latched_at, mut asked_at, mut waiting_at) = (None, None, None);
        for entry in &entries {
            if let Some(step) = entry.path.name().strip_prefix(&prefix) {
                names.insert(step.to_owned());
                match step {
                    LATCHED => latched_at = Some(entry.modified_at),
                    WAITING => waiting_at = Some(entry.modified_at),
                    REQUESTING | REQUESTED => asked_at = asked_at.max(Some(entry.modified_at)),
                    _ => {}
                }
            }
        }
        let receipt = match storage.stat(&control.receipt(job, stop_id)).await {
            Ok(_) => true,
            Err(error) if error.kind == ErrorKind::NotFound => false,
            Err(error) => return Err(error.into()),
        };
        let has = |step: &str| names.contains(step);
        let steps = Steps {
            intent: has("json") || has(LATCHED),
            latched: has(LATCHED),
            waiting: has(WAITING),
            requesting: has(REQUESTING) || has(REQUESTED),
            requested: has(REQUESTED),
            killing: has(KILLING),
            receipt,
        };
        Ok(Self {
            control: control.clone(),
            job: job.clone(),
            stop_id: stop_id.clone(),
            steps,
            latched_at,
            asked_at,
            waiting_at,
        })
    }

    fn step(&self, step: &str) -> StoragePath {
        self.control.stop_step(&self.job, &self.stop_id, step)
    }

    /// The intent as it was saved, latched or not.
    ///
    /// # Errors
    /// Storage errors; `Malformed`.
    pub async fn load_intent(&self) -> Result<Option<Intent>, DocumentError> {
        let storage = self.control.storage().as_ref();
        if let Some(intent) = load_optional(storage, &self.step(LATCHED)).await? {
            return Ok(Some(intent));
        }
        load_optional(storage, &self.control.intent(&self.job, &self.stop_id)).await
    }

    /// Writes the intent beside its place, so that publishing it takes one call.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn prepare_intent(&self, intent: &Intent) -> Result<Prepared<Intent>, DocumentError> {
        let path = self.control.intent(&self.job, &self.stop_id);
        prepare_new(self.control.storage().as_ref(), &path, intent).await
    }

    /// Publishes a prepared intent; one that is there already counts as well.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn save_intent(
        &mut self,
        prepared: Prepared<Intent>,
    ) -> Result<Saved, DocumentError> {
        let path = self.control.intent(&self.job, &self.stop_id);
        let saved = publish_new(self.control.storage().as_ref(), &path, prepared).await?;
        self.steps.intent = true;
        Ok(saved)
    }

    /// Moves the intent to its latched name. Latch and withdrawal move the same file, so exactly one
    /// of them can happen.
    ///
    /// # Errors
    /// Storage errors; `NotFound` if the intent was withdrawn.
    pub async fn latch(&mut self) -> Result<(), StorageError> {
        let from = self.control.intent(&self.job, &self.stop_id);
        let to = self.step(LATCHED);
        self.move_intent(&from, &to).await?;
        self.steps.latched = true;
        Ok(())
    }

    /// Takes the intent back; it stays on the storage under another name.
    ///
    /// # Errors
    /// Storage errors; `NotFound` if it was latched.
    pub async fn withdraw(&mut self) -> Result<(), StorageError> {
        let from = self.control.intent(&self.job, &self.stop_id);
        let to = self.step(&format!("withdrawn-{}.json", Uuid::new_v4()));
        self.move_intent(&from, &to).await?;
        self.steps.intent = false;
        Ok(())
    }

    async fn move_intent(&self, from: &StoragePath, to: &StoragePath) -> Result<(), StorageError> {
        let storage = self.control.storage();
        match storage.rename(from, to).await {
            Err(error)
                if matches!(
                    error.kind,
                    ErrorKind::OutcomeUnknown | ErrorKind::NotFound | ErrorKind::AlreadyExists
                ) =>
            {
                // An earlier try may have done it.
                match storage.stat(to).await {
                    Ok(_) => Ok(()),
                    Err(_) => Err(error),
                }
            }
            other => other,
        }
    }

    /// Records that the moment to ask the attempt is waited for from now on.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn save_waiting(&mut self, asking: &Asking) -> Result<Saved, DocumentError> {
        let path = self.step(WAITING);
        let saved = save_new(self.control.storage().as_ref(), &path, asking).await?;
        self.steps.waiting = true;
        Ok(saved)
    }

    /// Who began to wait, and when, if anyone did.
    ///
    /// # Errors
    /// Storage errors; `Malformed`.
    pub async fn load_waiting(&self) -> Result<Option<Asking>, DocumentError> {
        load_optional(self.control.storage().as_ref(), &self.step(WAITING)).await
    }

    /// Writes that the attempt is about to be asked beside its place, so that publishing it takes one
    /// call.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn prepare_requesting(
        &self,
        asking: &Asking,
    ) -> Result<Prepared<Asking>, DocumentError> {
        let path = self.step(REQUESTING);
        prepare_new(self.control.storage().as_ref(), &path, asking).await
    }

    /// Publishes what was prepared; as [`save_requesting`](StopRecord::save_requesting).
    ///
    /// # Errors
    /// As there.
    pub async fn publish_requesting(
        &mut self,
        prepared: Prepared<Asking>,
    ) -> Result<Saved, DocumentError> {
        let path = self.step(REQUESTING);
        let saved = publish_new(self.control.storage().as_ref(), &path, prepared).await?;
        self.steps.requesting = true;
        Ok(saved)
    }

    /// Records that the attempt is about to be asked. `Created` means: by this call, so the caller
    /// asks; `Exists`: by another, who may have asked.
    ///
    /// # Errors
    /// Storage errors; `OutcomeUnknown` where it cannot be told by whom.
    pub async fn save_requesting(&mut self, asking: &Asking) -> Result<Saved, DocumentError> {
        let path = self.step(REQUESTING);
        let saved = save_new(self.control.storage().as_ref(), &path, asking).await?;
        self.steps.requesting = true;
        Ok(saved)
    }

    /// Who was about to ask the attempt, if anyone was.
    ///
    /// # Errors
    /// Storage errors; `Malformed`.
    pub async fn load_asking(&self) -> Result<Option<Asking>, DocumentError> {
        load_optional(self.control.storage().as_ref(), &self.step(REQUESTING)).await
    }

    /// Who asked the attempt, if that is known.
    ///
    /// # Errors
    /// Storage errors; `Malformed`.
    pub async fn load_asked(&self) -> Result<Option<Asking>, DocumentError> {
        load_optional(self.control.storage().as_ref(), &self.step(REQUESTED)).await
    }

    /// Records that the attempt was asked.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn save_requested(&mut self, asking: &Asking) -> Result<(), DocumentError> {
        let path = self.step(REQUESTED);
        save_new(self.control.storage().as_ref(), &path, asking).await?;
        self.steps.requested = true;
        Ok(())
    }

    /// Records that the attempt is about to be killed.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn save_killing(&mut self) -> Result<Saved, StorageError> {
        let saved = self.save_step(KILLING).await?;
        self.steps.killing = true;
        Ok(saved)
    }

    async fn save_step(&self, step: &str) -> Result<Saved, StorageError> {
        let path = self.step(step);
        let storage = self.control.storage();
        let created = match storage.create(&path, CreateMode::New).await {
            Ok(writer) => writer.finish().await,
            Err(error) => Err(error),
        };
        match created {
            Ok(()) => Ok(Saved::Created),
            Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(Saved::Exists),
            Err(error) if error.kind == ErrorKind::OutcomeUnknown => {
                // An empty file does not tell whose it is: the careful reading is "another's".
                match storage.stat(&path).await {
                    Ok(_) => Ok(Saved::Exists),
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// Saves that an attempt is armed; a newer sighting replaces an older one.
///
/// # Errors
/// Storage errors: the attempt is then not protected.
pub async fn save_armed(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
    armed: &Armed,
) -> Result<(), DocumentError> {
    let path = control.armed(job, &armed.attempt.stop_id(slot));
    save_replacing(control.storage().as_ref(), &path, armed).await
}

/// The armed record of an attempt for this marker, if it was armed.
///
/// # Errors
/// Storage errors; `Malformed`.
pub async fn load_armed(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
    attempt: &AttemptId,
    marker: &StorageUri,
) -> Result<Option<Armed>, DocumentError> {
    let path = control.armed(job, &attempt.stop_id(slot));
    let armed: Option<Armed> = load_optional(control.storage().as_ref(), &path).await?;
    Ok(armed.filter(|armed| armed.attempt == *attempt && armed.marker == *marker))
}

/// The attempts of a slot that were armed and have no receipt: the one that runs, and those that ended
/// while nobody looked.
///
/// # Errors
/// Storage errors; `NoControl`. A record that cannot be read is left out, and told.
pub async fn load_unconfirmed(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
) -> Result<Vec<AttemptId>, DocumentError> {
    let prefix = format!("{slot}-");
    let storage = control.storage();
    let ids_in = async |dir: StoragePath| match storage.list(&dir, Depth::Children).await {
        Ok(entries) => Ok(entries
            .into_iter()
            .filter(|entry| {
                let id = entry.path.name().strip_suffix(".json");
                id.is_some_and(|id| id.starts_with(&prefix))
            })
            .map(|entry| entry.path)
            .collect::<Vec<_>>()),
        Err(error) if error.kind == ErrorKind::NotFound => {
            control.vouch().await?;
            Ok(Vec::new())
        }
        Err(error) => Err(DocumentError::from(error)),
    };
    let armed = ids_in(control.armed_dir(job)).await?;
    if armed.is_empty() {
        return Ok(Vec::new());
    }
    // After the armed ones: a receipt that is written meanwhile must not be missed.
    let receipts = ids_in(control.receipts_dir(job)).await?;
    let confirmed: BTreeSet<&str> = receipts.iter().map(StoragePath::name).collect();
    let mut attempts = Vec::new();
    for path in armed.iter().filter(|path| !confirmed.contains(path.name())) {
        match load::<Armed>(storage.as_ref(), path).await {
            Ok(armed) => attempts.push(armed.attempt),
            Err(error @ DocumentError::Malformed { .. }) => tracing::error!("{error}"),
            // Removed with its receipt meanwhile.
            Err(error) if error.storage_kind() == Some(ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(attempts)
}
