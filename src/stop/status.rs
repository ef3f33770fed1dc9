//! The status file of a slot: what the one who runs the driver says of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify, Semaphore};
use tokio::time::Instant;
use uuid::Uuid;

use super::wakes::Sleeper;
use super::{Exit, Freshness};
use crate::control::{ControlDir, Document, DocumentError, load_optional, save_replacing};
use crate::model::{AttemptId, BatchId, Generation, JobName, Slot};
use crate::storage::{ErrorKind, FileStat, StorageError, StorageUri};

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

impl Phase {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Held => "held",
            Phase::Running => "running",
            Phase::Draining => "draining",
            Phase::Drained => "drained",
            Phase::Ended => "ended",
        }
    }
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
    /// What the driver kit says beside it. Boxed: most status files of thousands have none.
    #[serde(flatten)]
    pub kit: Option<Box<KitStatus>>,
}

/// What the driver kit says of the driver that it runs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitStatus {
    /// Its version; what has none was not written by a kit.
    pub kit_version: String,
    /// The revision that it was built from.
    #[serde(default)]
    pub kit_revision: Option<String>,
    /// Spark's name for the application.
    #[serde(default)]
    pub application_id: Option<String>,
    /// The version of Spark.
    #[serde(default)]
    pub spark_version: Option<String>,
    /// The rollout that it was started for.
    #[serde(default)]
    pub rollout_id: Option<String>,
    /// The generation that it was started for.
    #[serde(default)]
    pub generation: Option<Generation>,
    /// Whether this Spark has all that a drain needs.
    #[serde(default)]
    pub can_drain: Option<bool>,
    /// What it lacks.
    #[serde(default)]
    pub missing: Option<String>,
    /// Whether the kit has seen its marker.
    #[serde(default)]
    pub armed: Option<bool>,
    /// What its last look at the marker said.
    #[serde(default)]
    pub sighting: Option<String>,
    /// Why it drains.
    #[serde(default)]
    pub drain_reason: Option<String>,
    /// Its queries, those that have ended as well.
    #[serde(default)]
    pub queries: Vec<KitQuery>,
}

/// One query as the driver kit sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KitQuery {
    /// Its id, the same in every run.
    pub id: String,
    /// The id of this run.
    #[serde(default)]
    pub run_id: Option<String>,
    /// The name that the job gave it.
    #[serde(default)]
    pub name: Option<String>,
    /// Its checkpoint, as Spark writes it.
    #[serde(default)]
    pub checkpoint: Option<String>,
    /// The last planned batch.
    #[serde(default)]
    pub last_planned: Option<BatchId>,
    /// The last committed batch.
    #[serde(default)]
    pub last_batch: Option<BatchId>,
    /// Why the batches could not be read.
    #[serde(default)]
    pub batches_unknown: Option<String>,
}

impl Document for StatusFile {
    const KIND: &'static str = "status";
}

/// The rollout that a command was started for, as its environment has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutTag {
    /// Its id.
    pub rollout_id: String,
    /// The generation of its lease.
    pub generation: Option<Generation>,
}

/// A status file with the rollout beside it; a kit writes these two of its own.
#[derive(Debug, Serialize, Deserialize)]
struct TaggedStatus {
    // First: what a kit says has the same names.
    #[serde(flatten)]
    tag: RolloutTag,
    #[serde(flatten)]
    status: StatusFile,
}

impl Document for TaggedStatus {
    const KIND: &'static str = StatusFile::KIND;
}

/// Saves the status of a slot whose command was started by a rollout.
///
/// # Errors
/// Storage errors.
pub async fn save_tagged_status(
    control: &ControlDir,
    status: StatusFile,
    tag: RolloutTag,
) -> Result<(), DocumentError> {
    let path = control.status(&status.job, status.slot);
    let tagged = TaggedStatus { tag, status };
    save_replacing(control.storage().as_ref(), &path, &tagged).await
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

/// What a driver kit says to the `run` that has started it, and when it wrote that, by the storage's clock;
/// `None` if there is no kit, or it has not written yet.
///
/// # Errors
/// Storage errors; `Malformed`.
pub async fn load_kit_status(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
) -> Result<Option<(StatusFile, Timestamp)>, DocumentError> {
    let (storage, path) = (control.storage().as_ref(), control.kit_status(job, slot));
    let Some(status) = load_optional::<StatusFile>(storage, &path).await? else {
        return Ok(None);
    };
    let written_at = storage.stat(&path).await?.modified_at;
    Ok(status.kit.is_some().then_some((status, written_at)))
}

/// When the status of a slot was last written, by the storage's clock; `None` if nobody wrote one.
///
/// # Errors
/// Storage errors.
pub async fn load_heartbeat(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
) -> Result<Option<Timestamp>, StorageError> {
    match control.storage().stat(&control.status(job, slot)).await {
        Ok(found) => Ok(Some(found.modified_at)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The status files of all jobs of a control directory, seen through one listing.
///
/// With thousands of jobs the storage gets one listing a round instead of one look a job, a file is
/// read when its time stamp has changed, and only then does its slot hear of it.
#[derive(Debug)]
pub struct StatusBoard {
    control: ControlDir,
    max_age: Duration,
    /// Never held while something is waited for: a slot that waits for news in one place of its engine, and
    /// asks in another, would be given the lock where it does not look, and all would wait for ever.
    seen: std::sync::Mutex<Seen>,
    /// Held by who lists.
    listing: Mutex<()>,
    reads: Semaphore,
    looks_around: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    /// When the last listing was tried, and why it failed if it did.
    listed: Option<(Instant, Option<Trouble>)>,
    /// Counts the listings.
    number: u32,
    files: HashMap<Box<str>, Entry>,
}

/// Why there was no listing; told to all who ask, so that each need not wait for a failure of its own.
#[derive(Debug, Clone)]
struct Trouble {
    kind: ErrorKind,
    text: String,
}

/// What is known of one status file, and who waits for news of it.
#[derive(Debug, Default)]
struct Entry {
    /// Time stamp in the last listing; none if it was not there.
    stamp: Option<Timestamp>,
    /// Since when that is known; none if it was so at the first look.
    since: Option<Instant>,
    /// The last listing that it was in.
    listed_in: u32,
    /// Whether it changed in the last listing: its slot is told once more after the next, since two
    /// changes may have the same time stamp.
    is_fresh: bool,
    /// Whether there is news that nobody has taken yet.
    has_news: bool,
    /// What it said at a time stamp.
    read: Option<(Timestamp, Arc<StatusFile>)>,
    /// Rings for who waits.
    bell: Option<Arc<Notify>>,
    /// Who rests and is to be woken.
    sleeper: Option<Sleeper>,
}

impl Entry {
    /// Takes what a listing says of the file, and rings if that is not what it said before.
    fn see(&mut self, stamp: Option<Timestamp>, now: Instant) {
        if self.stamp != stamp {
            self.stamp = stamp;
            self.since = Some(now);
            self.is_fresh = true;
            self.read = None;
            self.ring();
        } else if self.is_fresh && self.since.is_some_and(|at| now - at >= STAMP_GRAIN) {
            self.is_fresh = false;
            self.ring();
        }
    }

    fn ring(&mut self) {
        self.has_news = true;
        if let Some(bell) = &self.bell {
            bell.notify_one();
        }
        if let Some(sleeper) = self.sleeper.take() {
            sleeper.wake();
        }
    }
}

/// The place of one slot at a board.
#[derive(Debug, Clone, Copy)]
pub struct Seat<'s> {
    /// The board.
    pub board: &'s Arc<StatusBoard>,
    /// The job.
    pub job: &'s JobName,
    /// The slot.
    pub slot: Slot,
}

impl Seat<'_> {
    /// Has `sleeper` woken, once, as soon as the status may be another than it was at the last
    /// [`load`](StatusBoard::load). False where it may be so already, or cannot be told: then there is
    /// no rest.
    pub fn rest(&self, sleeper: Sleeper) -> bool {
        self.board.rest(self.job, self.slot, sleeper)
    }
}

/// Two changes within this time may have the same time stamp, so what was read of a file that has just
/// changed is not kept.
const STAMP_GRAIN: Duration = Duration::from_secs(2);

/// How many status files are read at once: a start with thousands of jobs must not make the reads of
/// each other time out.
const READS_AT_ONCE: usize = 32;

/// Without news a slot looks all the same after so many times the pace of the board.
const PACES_WITHOUT_NEWS: u32 = 12;

impl StatusBoard {
    /// The board of a control directory; what it says is at most `max_age` old, or three times that
    /// once somebody waits for news: then it lists by itself, every second `max_age`.
    pub fn new(control: ControlDir, max_age: Duration) -> Self {
        Self {
            control,
            max_age,
            seen: std::sync::Mutex::default(),
            listing: Mutex::default(),
            reads: Semaphore::new(READS_AT_ONCE),
            looks_around: AtomicBool::new(false),
        }
    }

    /// The control directory.
    pub fn control(&self) -> &ControlDir {
        &self.control
    }

    fn pace(&self) -> Duration {
        self.max_age * 2
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
        let max_age = if self.looks_around.load(Ordering::Relaxed) {
            self.pace() + self.max_age
        } else {
            self.max_age
        };
        let is_old = || {
            let listed = &self.seen().listed;
            listed
                .as_ref()
                .is_none_or(|(at, _)| at.elapsed() >= max_age)
        };
        if is_old() {
            let _turn = self.listing.lock().await;
            // Another may have listed meanwhile.
            if is_old() {
                self.list().await;
            }
        }
        let stamp = {
            let mut seen = self.seen();
            if let Some((_, Some(trouble))) = &seen.listed {
                let uri = self.control.uri(&self.control.status_dir());
                let error = StorageError::new("list", uri, trouble.kind).with_detail(&trouble.text);
                return Err(error.into());
            }
            let entry = seen.entry_of(path.name());
            let Some(stamp) = entry.stamp else {
                return Ok(None);
            };
            if let Some((at, file)) = &entry.read
                && *at == stamp
            {
                return Ok(Some(Arc::clone(file)));
            }
            stamp
        };
        let _permit = self.reads.acquire().await;
        let Some(file) =
            load_optional::<StatusFile>(self.control.storage().as_ref(), &path).await?
        else {
            return Ok(None);
        };
        let file = Arc::new(file);
        let mut seen = self.seen();
        let entry = seen.entry_of(path.name());
        if entry
            .since
            .is_none_or(|since| since.elapsed() >= STAMP_GRAIN)
        {
            entry.read = Some((stamp, Arc::clone(&file)));
        }
        Ok(Some(file))
    }

    /// Returns when the status of a slot may be another than it was at the last
    /// [`load`](StatusBoard::load), or after a long while.
    pub async fn await_news(self: &Arc<Self>, job: &JobName, slot: Slot) {
        self.begin_looking_around();
        let patience = self.pace() * PACES_WITHOUT_NEWS;
        let until = Instant::now() + patience.mul_f64(0.8 + 0.4 * fastrand::f64());
        let path = self.control.status(job, slot);
        loop {
            let bell = {
                let mut seen = self.seen();
                let entry = seen.entry_of(path.name());
                if std::mem::take(&mut entry.has_news) {
                    return;
                }
                Arc::clone(entry.bell.get_or_insert_default())
            };
            if tokio::time::timeout_at(until, bell.notified())
                .await
                .is_err()
            {
                // It is time to look all the same.
                return;
            }
        }
    }

    fn rest(self: &Arc<Self>, job: &JobName, slot: Slot, sleeper: Sleeper) -> bool {
        self.begin_looking_around();
        let path = self.control.status(job, slot);
        let mut seen = self.seen();
        if !matches!(seen.listed, Some((_, None))) {
            return false;
        }
        let entry = seen.entry_of(path.name());
        if entry.has_news {
            return false;
        }
        entry.sleeper = Some(sleeper);
        // Who is woken reads what is new.
        entry.read = None;
        entry.bell = None;
        true
    }

    fn begin_looking_around(self: &Arc<Self>) {
        if !self.looks_around.swap(true, Ordering::Relaxed) {
            tokio::spawn(look_around(Arc::downgrade(self), self.pace()));
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists the directory and rings for every file that is not as it was. For who has the turn.
    async fn list(&self) {
        let entries = match self.control.list(&self.control.status_dir()).await {
            Ok(entries) => entries,
            Err(error) => {
                let kind = error.storage_kind().unwrap_or(ErrorKind::Other);
                return self.seen().fail(kind, &error);
            }
        };
        let mut seen = self.seen();
        let had_trouble = matches!(seen.listed, Some((_, Some(_))));
        seen.take(&entries);
        if had_trouble {
            seen.ring_all();
        }
        seen.listed = Some((Instant::now(), None));
    }
}

impl Seen {
    fn entry_of(&mut self, name: &str) -> &mut Entry {
        self.files.entry(name.into()).or_default()
    }

    /// Takes the time stamps of a listing and rings for what is not as it was.
    fn take(&mut self, listing: &[FileStat]) {
        let now = Instant::now();
        self.number = self.number.wrapping_add(1);
        let since = self.listed.is_some().then_some(now);
        let mut known = 0;
        for found in listing {
            let name = found.path.name();
            if let Some(entry) = self.files.get_mut(name) {
                entry.listed_in = self.number;
                known += 1;
                entry.see(Some(found.modified_at), now);
            } else {
                let entry = Entry {
                    stamp: Some(found.modified_at),
                    since,
                    listed_in: self.number,
                    ..Entry::default()
                };
                self.files.insert(name.into(), entry);
                known += 1;
            }
        }
        if known < self.files.len() {
            for entry in self.files.values_mut() {
                if entry.listed_in != self.number {
                    entry.see(None, now);
                }
            }
        }
    }

    /// Notes that there was no listing, and has everybody told.
    fn fail(&mut self, kind: ErrorKind, error: &dyn std::error::Error) {
        let text = crate::marker::poll::error_chain(error);
        self.listed = Some((Instant::now(), Some(Trouble { kind, text })));
        self.ring_all();
    }

    fn ring_all(&mut self) {
        for entry in self.files.values_mut() {
            entry.ring();
        }
    }
}

/// Lists every now and then, for as long as the board is in use.
async fn look_around(board: Weak<StatusBoard>, pace: Duration) {
    loop {
        tokio::time::sleep(pace).await;
        let Some(board) = board.upgrade() else {
            return;
        };
        let _turn = board.listing.lock().await;
        board.list().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::faulty::{Fault, FaultScript, Faulty, Operation, When};
    use crate::storage::memory::MemoryStorage;
    use crate::storage::{Storage, StoragePath};
    use futures::poll;

    /// An engine waits for news in one place and asks for other things in another, and looks at one of
    /// them at a time.
    #[tokio::test(start_paused = true)]
    async fn who_waits_for_news_and_does_not_look_keeps_nobody_waiting() {
        let script = FaultScript::new();
        let storage: Arc<dyn Storage> =
            Arc::new(Faulty::new(MemoryStorage::new("board"), script.clone()));
        let control = ControlDir::new(storage, StoragePath::parse("/c").unwrap());
        control.ensure().await.unwrap();
        let board = Arc::new(StatusBoard::new(control, Duration::from_secs(1)));
        let job: JobName = "clicks".parse().unwrap();
        script.inject(
            When::on(Operation::List),
            Fault::Delay(Duration::from_secs(5)),
        );
        let lists = tokio::spawn({
            let (board, job) = (Arc::clone(&board), job.clone());
            async move {
                board
                    .load(&job, Slot::Blue)
                    .await
                    .map(|found| found.is_some())
            }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!lists.is_finished());
        // It begins to wait during the listing, and is not looked at any more.
        let mut news = Box::pin(board.await_news(&job, Slot::Blue));
        assert!(poll!(&mut news).is_pending());
        assert!(!lists.await.unwrap().unwrap());
        let sleeper = Sleeper::new(Arc::default(), 0);
        let others = async {
            let found = board.load(&job, Slot::Green).await.unwrap();
            (found.is_some(), board.rest(&job, Slot::Green, sleeper))
        };
        let others = tokio::time::timeout(Duration::from_mins(1), others).await;
        assert_eq!(others, Ok((false, true)));
    }
}
