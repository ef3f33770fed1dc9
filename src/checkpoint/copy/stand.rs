//! What is known of the tree of a work directory without a look at every file in it.
//!
//! At the end of a pass the whole tree is listed and held against the plan. What the directories'
//! time stamps were in that listing is kept: the stand. A storage changes the time stamp of a
//! directory with every file that is created in it, renamed or deleted, so a directory that still has
//! its time stamp still has the files that were seen in it. Before anything in the tree is changed
//! the stand is removed: one that is there is that of a pass which came to its end.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::CopyError;
use super::journal::{Given, Journal, split};
use super::work::Work;
use crate::control::{Document, DocumentError, load_optional, save_replacing};
use crate::storage::{
    Attributes, Depth, ErrorKind, FileKind, FileStat, Storage, StorageError, StoragePath,
};

/// Its name in the work directory.
const STAND: &str = "stand.json";

/// The stand of a tree with more directories is not kept on the storage, only in memory.
const MAX_DIRS: usize = 10_000;

/// Directories that are listed at a time.
const LISTINGS_AT_ONCE: usize = 16;

/// The tree as the last whole listing showed it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stand {
    /// The journal's next segment then: with another one files were noted since.
    journal_next: u64,
    /// Files of the tree.
    files: usize,
    dirs: Vec<StandDir>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StandDir {
    path: String,
    modified_at: Timestamp,
    /// The mode and the owners that it was given, or was refused.
    given: Option<Given>,
}

impl Document for Stand {
    const KIND: &'static str = "copy-stand";
}

/// What the tree has, as far as it had to be looked at.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// All directories.
    dirs: HashSet<String>,
    /// Those that hold exactly the files that the journal has of them.
    proved: HashSet<String>,
    /// Lengths of the files in all others.
    looked: HashMap<String, u64>,
}

impl Survey {
    pub(super) fn has_dir(&self, path: &str) -> bool {
        self.dirs.contains(path)
    }

    /// Whether the journal's file of this path is there with this length.
    pub(super) fn has(&self, path: &str, len_bytes: u64) -> bool {
        self.is_proved(path) || self.looked.get(path) == Some(&len_bytes)
    }

    /// Whether the file's directory has what the journal says.
    pub(super) fn is_proved(&self, path: &str) -> bool {
        self.proved.contains(split(path).0)
    }

    /// The files that had to be looked at.
    pub(super) fn looked(&self) -> impl Iterator<Item = &str> {
        self.looked.keys().map(String::as_str)
    }

    fn add_file(&mut self, path: &str, entry: &FileStat) {
        self.looked.insert(path.to_owned(), entry.len_bytes);
    }
}

impl Stand {
    /// The stand in the work directory `dir`, if it is that of `journal`.
    pub(super) async fn load(
        storage: &dyn Storage,
        dir: &StoragePath,
        journal: &Journal,
    ) -> Result<Option<Self>, DocumentError> {
        let found: Option<Self> = match load_optional(storage, &dir.join(STAND)).await {
            Err(DocumentError::Malformed { uri, why, .. }) => {
                tracing::warn!("{uri} is not usable, the whole tree is looked at: {why}");
                None
            }
            found => found?,
        };
        Ok(found.filter(|stand| {
            journal.is_complete()
                && stand.journal_next == journal.next()
                && stand.files == journal.files().count()
        }))
    }

    /// Removes the one in the work directory `dir`.
    pub(super) async fn remove(
        storage: &dyn Storage,
        dir: &StoragePath,
    ) -> Result<(), StorageError> {
        storage.delete_file(&dir.join(STAND)).await.map(drop)
    }

    /// What its directories were given.
    pub(super) fn given(&self) -> HashMap<String, Arc<Attributes>> {
        let given = |dir: &StandDir| {
            let given = dir.given.clone()?;
            Some((dir.path.clone(), Arc::new(given.into())))
        };
        self.dirs.iter().filter_map(given).collect()
    }
}

impl Work {
    /// Looks at the tree: at all of it, or with a stand only where it may have changed since. The
    /// stand counts no longer then.
    pub(super) async fn survey(&mut self) -> Result<Survey, CopyError> {
        let storage = Arc::clone(&self.destination.storage);
        let survey = match self.stand.take() {
            Some(stand) => self.survey_since(&stand).await?,
            None => self.survey_all().await?,
        };
        Stand::remove(storage.as_ref(), &self.dir).await?;
        Ok(survey)
    }

    async fn survey_all(&self) -> Result<Survey, StorageError> {
        let tree = self.tree();
        let mut survey = Survey::default();
        for entry in self.destination.storage.list(&tree, Depth::Tree).await? {
            let Some(path) = entry.path.relative_to(&tree) else {
                continue;
            };
            if entry.kind == FileKind::Dir {
                survey.dirs.insert(path.to_owned());
            } else {
                survey.add_file(path, &entry);
            }
        }
        Ok(survey)
    }

    /// A directory with others in it is always listed: that is how theirs are seen.
    async fn survey_since(&self, stand: &Stand) -> Result<Survey, StorageError> {
        let (storage, tree) = (&self.destination.storage, self.tree());
        let known: HashMap<&str, Timestamp> = stand
            .dirs
            .iter()
            .map(|dir| (dir.path.as_str(), dir.modified_at))
            .collect();
        let parents: HashSet<&str> = known.keys().map(|path| split(path).0).collect();
        let mut survey = Survey::default();
        let mut waiting = vec![String::new()];
        while !waiting.is_empty() {
            let mut listings = futures::stream::iter(std::mem::take(&mut waiting))
                .map(|dir| {
                    let path = tree.join_all(&dir);
                    async move { (dir, storage.list(&path, Depth::Children).await) }
                })
                .buffer_unordered(LISTINGS_AT_ONCE);
            while let Some((dir, listed)) = listings.next().await {
                let entries = match listed {
                    // Gone, or something else by now, since its parent was listed.
                    Err(error)
                        if matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotADirectory)
                            && !dir.is_empty() =>
                    {
                        survey.dirs.remove(&dir);
                        continue;
                    }
                    listed => listed?,
                };
                for entry in &entries {
                    let Some(path) = entry.path.relative_to(&tree) else {
                        continue;
                    };
                    if entry.kind != FileKind::Dir {
                        survey.add_file(path, entry);
                        continue;
                    }
                    survey.dirs.insert(path.to_owned());
                    let is_as_it_was = known.get(path) == Some(&entry.modified_at);
                    if is_as_it_was && !parents.contains(path) {
                        survey.proved.insert(path.to_owned());
                    } else {
                        waiting.push(path.to_owned());
                    }
                }
            }
        }
        Ok(survey)
    }

    /// Keeps what a listing of the whole tree has shown, `entries`, which is the plan and nothing
    /// else.
    pub(super) async fn keep_stand(&mut self, entries: &[FileStat]) -> Result<(), CopyError> {
        let storage = Arc::clone(&self.destination.storage);
        let tree = self.tree();
        self.record().await?;
        self.journal.condense(storage.as_ref()).await?;
        let dirs: Vec<StandDir> = entries
            .iter()
            .filter(|entry| entry.kind == FileKind::Dir)
            .filter_map(|entry| {
                let path = entry.path.relative_to(&tree)?;
                Some(StandDir {
                    path: path.to_owned(),
                    modified_at: entry.modified_at,
                    given: self.dirs_given.get(path).map(|given| given.as_ref().into()),
                })
            })
            .collect();
        let stand = Stand {
            journal_next: self.journal.next(),
            files: self.journal.files().count(),
            dirs,
        };
        if stand.dirs.len() <= MAX_DIRS {
            save_replacing(storage.as_ref(), &self.dir.join(STAND), &stand).await?;
        }
        self.stand = Some(stand);
        Ok(())
    }
}
