//! The record of a rollout on the storage, so that nobody who lost the lease can put it back.
//!
//! Each state of the record is a file of its own, `state/<job>/rollouts/<id>/<number>.json`, created
//! exclusively; the highest number counts. A late write of one who was halted meanwhile meets a number
//! that is taken, and is refused. Who takes a rollout over writes an entry first, so that every number
//! that the one before knows of is taken.

use crate::control::{
    ControlDir, DocumentError, Prepared, Saved, load, prepare_new, publish_new, save_new,
};
use crate::model::JobName;
use crate::storage::{StorageError, StoragePath};

use super::record::{Direction, Record, RolloutId};
use super::state::{Outcome, State};

/// How many entries of one rollout are kept.
const KEPT_ENTRIES: u64 = 20;

/// Why the record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The storage refused or did not answer, or a file is not what it should be.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Another process has written meanwhile: it acts now, this one must not.
    #[error("another process goes on with rollout {id}: its entry {number} is there")]
    Overtaken {
        /// The rollout.
        id: RolloutId,
        /// The number that was taken.
        number: u64,
    },
}

impl From<StorageError> for JournalError {
    fn from(error: StorageError) -> Self {
        Self::Document(error.into())
    }
}

/// The entries of one rollout, and the place of the next one.
#[derive(Debug)]
pub struct Journal {
    control: ControlDir,
    job: JobName,
    id: RolloutId,
    last: u64,
    /// Entries that are written already and wait for their number, so that to publish one is a rename.
    staged: Vec<(State, Prepared<Record>)>,
}

fn rollouts_dir(control: &ControlDir, job: &JobName) -> StoragePath {
    control.state_dir(job).join("rollouts")
}

fn entry_name(number: u64) -> String {
    format!("{number:06}.json")
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".json")?.parse().ok()
}

/// The ids of all rollouts of a job, oldest first.
///
/// # Errors
/// Storage errors; `NoControl`.
pub async fn list_rollouts(
    control: &ControlDir,
    job: &JobName,
) -> Result<Vec<RolloutId>, DocumentError> {
    let dir = rollouts_dir(control, job);
    let entries = control.list(&dir).await?;
    let mut ids: Vec<RolloutId> = entries
        .iter()
        .filter_map(|entry| entry.path.name().parse().ok())
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The record of a rollout as of its last entry; `None` where it has none (it was cut short before its
/// first one).
///
/// # Errors
/// Storage errors; `Malformed`.
pub async fn load_rollout(
    control: &ControlDir,
    job: &JobName,
    id: RolloutId,
) -> Result<Option<Record>, DocumentError> {
    Ok(load_last(control, job, id).await?.map(|(_, record)| record))
}

async fn load_last(
    control: &ControlDir,
    job: &JobName,
    id: RolloutId,
) -> Result<Option<(u64, Record)>, DocumentError> {
    let dir = rollouts_dir(control, job).join(&id.to_string());
    let entries = control.list(&dir).await?;
    let last = entries
        .iter()
        .filter_map(|entry| number_of(entry.path.name()))
        .max();
    let Some(last) = last else {
        return Ok(None);
    };
    let record = load(control.storage().as_ref(), &dir.join(&entry_name(last))).await?;
    Ok(Some((last, record)))
}

/// The newest rollout of a job that has a record, ended or not.
///
/// # Errors
/// Storage errors; `Malformed`; `NoControl`.
pub async fn load_newest(
    control: &ControlDir,
    job: &JobName,
) -> Result<Option<Record>, DocumentError> {
    load_last_where(control, job, |_| true).await
}

/// The last rollout of a job that came to its goal.
///
/// # Errors
/// Storage errors; `Malformed`; `NoControl`.
pub async fn load_last_rolled_out(
    control: &ControlDir,
    job: &JobName,
) -> Result<Option<Record>, DocumentError> {
    load_last_where(control, job, |record| {
        record.outcome == Some(Outcome::RolledOut)
    })
    .await
}

/// The last rollout of a job that was to bring a version, whatever came of it: not one that went back, nor one
/// that could not begin.
///
/// # Errors
/// Storage errors; `Malformed`; `NoControl`.
pub async fn load_last_tried(
    control: &ControlDir,
    job: &JobName,
) -> Result<Option<Record>, DocumentError> {
    load_last_where(control, job, |record| {
        record.direction == Direction::Forward && record.outcome != Some(Outcome::Refused)
    })
    .await
}

/// The newest record of which `is_meant` is true.
async fn load_last_where(
    control: &ControlDir,
    job: &JobName,
    is_meant: impl Fn(&Record) -> bool,
) -> Result<Option<Record>, DocumentError> {
    for id in list_rollouts(control, job).await?.into_iter().rev() {
        if let Some(record) = load_rollout(control, job, id).await?
            && is_meant(&record)
        {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// Whether a rollout of a job is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is none, or none that has a record as the newest.
    None,
    /// The newest is over, for good.
    Over(RolloutId),
    /// This one is not over.
    UnderWay(RolloutId),
}

/// Whether a rollout of a job is under way. One that is known to be `over` is not read again.
///
/// # Errors
/// Storage errors; `Malformed`; `NoControl`.
pub async fn look_for_unfinished(
    control: &ControlDir,
    job: &JobName,
    over: Option<RolloutId>,
) -> Result<Standing, DocumentError> {
    let ids = list_rollouts(control, job).await?;
    let newest = ids.last().copied();
    for id in ids.into_iter().rev() {
        if over == Some(id) {
            return Ok(Standing::Over(id));
        }
        match load_rollout(control, job, id).await? {
            Some(record) if record.state != State::Ended => return Ok(Standing::UnderWay(id)),
            // Of a newer one the first entry may be on its way.
            Some(_) if newest == Some(id) => return Ok(Standing::Over(id)),
            Some(_) => return Ok(Standing::None),
            None => {}
        }
    }
    Ok(Standing::None)
}

impl Journal {
    /// Begins a rollout: takes the next free id, gives it to `record`, and saves the record.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn begin(control: &ControlDir, record: &mut Record) -> Result<Journal, JournalError> {
        let job = record.job.clone();
        let storage = control.storage();
        let dir = rollouts_dir(control, &job);
        storage.create_dir_all(&dir).await?;
        let newest = list_rollouts(control, &job).await?.pop();
        let id = RolloutId(newest.map_or(1, |newest| newest.0 + 1));
        storage.create_dir_all(&dir.join(&id.to_string())).await?;
        record.rollout_id = id;
        let mut journal = Journal {
            control: control.clone(),
            job,
            id,
            last: 0,
            staged: Vec::new(),
        };
        journal.append(record).await?;
        Ok(journal)
    }

    /// Takes a rollout up where it was left.
    ///
    /// # Errors
    /// Storage errors; `Malformed`.
    pub async fn resume(
        control: &ControlDir,
        job: &JobName,
        id: RolloutId,
    ) -> Result<Option<(Journal, Record)>, DocumentError> {
        Ok(load_last(control, job, id).await?.map(|(last, record)| {
            let journal = Journal {
                control: control.clone(),
                job: job.clone(),
                id,
                last,
                staged: Vec::new(),
            };
            (journal, record)
        }))
    }

    /// Whether only its first entry is there: nobody has driven the rollout yet.
    pub fn is_new(&self) -> bool {
        self.last <= 1
    }

    fn path(&self, number: u64) -> StoragePath {
        rollouts_dir(&self.control, &self.job)
            .join(&self.id.to_string())
            .join(&entry_name(number))
    }

    /// Saves the record as the next entry. An entry that was staged for its state is published as it is.
    ///
    /// # Errors
    /// `Overtaken`: nothing more must be done; storage errors, after which it can be called again.
    pub async fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let number = self.last + 1;
        let path = self.path(number);
        let storage = self.control.storage().clone();
        let staged = self.staged.iter().position(|(state, _)| {
            *state == record.state && record.path.last().map(|(s, _)| s) == Some(state)
        });
        let saved = match staged {
            Some(at) => {
                let (_, prepared) = self.staged.remove(at);
                publish_new(storage.as_ref(), &path, prepared).await
            }
            None => save_new(storage.as_ref(), &path, record).await,
        };
        match saved? {
            Saved::Created => {
                self.last = number;
                if let Some(old) = number.checked_sub(KEPT_ENTRIES).filter(|old| *old > 0) {
                    // The next entry tries again; one that stays costs nothing.
                    let _cleanup = storage.delete_file(&self.path(old)).await;
                }
                Ok(())
            }
            Saved::Exists => {
                let found: Record = load(storage.as_ref(), &path).await?;
                if found.generation == record.generation {
                    // Our own, whose answer was lost: it says less than what is to be saved now.
                    self.last = number;
                    return Box::pin(self.append(record)).await;
                }
                Err(JournalError::Overtaken {
                    id: self.id,
                    number,
                })
            }
        }
    }

    /// Writes an entry beside its place, to be published by [`Journal::append`] when `record.state` is
    /// entered.
    ///
    /// # Errors
    /// Storage errors; nothing is lost then, the entry is written when it is due.
    pub async fn stage(&mut self, record: &Record) -> Result<(), JournalError> {
        let path = self.path(self.last + 1);
        let prepared = prepare_new(self.control.storage().as_ref(), &path, record).await?;
        self.staged.push((record.state, prepared));
        Ok(())
    }

    /// Removes what was staged and is not used.
    pub async fn drop_staged(&mut self) {
        for (_, prepared) in self.staged.drain(..) {
            prepared.discard(self.control.storage().as_ref()).await;
        }
    }

    /// Whether anything is staged.
    pub fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Slot;
    use crate::rollout::decide::tests_record;
    use crate::storage::memory::MemoryStorage;

    async fn control() -> ControlDir {
        let storage = Arc::new(MemoryStorage::new("journal"));
        let control = ControlDir::new(storage, StoragePath::parse("/c").unwrap());
        control.ensure().await.unwrap();
        control
    }

    #[tokio::test]
    async fn the_late_write_of_a_loser_is_refused() {
        let control = control().await;
        let mut record = tests_record(Slot::Green);
        let mut loser = Journal::begin(&control, &mut record).await.unwrap();
        assert_eq!(record.rollout_id, RolloutId(1));
        let (mut winner, mut found) = Journal::resume(&control, &record.job, record.rollout_id)
            .await
            .unwrap()
            .unwrap();
        found.reason = "taken over".to_owned();
        // Whoever takes over has a lease of its own.
        found.generation = crate::model::Generation(2);
        winner.append(&found).await.unwrap();
        // Whatever the loser still writes, it has the number that is taken.
        let late = loser.append(&record).await;
        assert!(
            matches!(late, Err(JournalError::Overtaken { number: 2, .. })),
            "{late:?}"
        );
        let newest = load_newest(&control, &record.job).await.unwrap().unwrap();
        assert_eq!(newest.reason, "taken over");
    }

    #[tokio::test]
    async fn ids_grow_and_an_empty_one_is_passed_over() {
        let control = control().await;
        let mut first = tests_record(Slot::Green);
        Journal::begin(&control, &mut first).await.unwrap();
        // Cut short right after the directory was made.
        let empty = rollouts_dir(&control, &first.job).join("r-2");
        control.storage().create_dir_all(&empty).await.unwrap();
        let newest = load_newest(&control, &first.job).await.unwrap().unwrap();
        assert_eq!(newest.rollout_id, RolloutId(1));
        let mut third = tests_record(Slot::Green);
        Journal::begin(&control, &mut third).await.unwrap();
        assert_eq!(third.rollout_id, RolloutId(3));
    }

    #[tokio::test]
    async fn a_staged_entry_is_published_by_a_rename() {
        let control = control().await;
        let mut record = tests_record(Slot::Green);
        let mut journal = Journal::begin(&control, &mut record).await.unwrap();
        let mut ahead = record.clone();
        ahead.enter(State::Stopped, record.begun_at, "staged");
        journal.stage(&ahead).await.unwrap();
        record.reason = "between".to_owned();
        journal.append(&record).await.unwrap();
        record.enter(State::Stopped, record.begun_at, "staged");
        journal.append(&record).await.unwrap();
        assert!(!journal.has_staged());
        let newest = load_newest(&control, &record.job).await.unwrap().unwrap();
        assert_eq!(newest.state, State::Stopped);
    }
}
