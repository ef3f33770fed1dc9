//! The lease: the sole right to act on a slot, with a generation that only grows.
//!
//! `<lease dir>/<generation>` is created exclusively and names its owner; the highest generation on
//! the storage wins. The holder touches `<generation>.beat`; who gives the right back adds
//! `<generation>.released`. Nobody writes a file of another generation.
//!
//! No two clocks are compared: a candidate takes a lease over when it saw the beat stand still for
//! the whole time to live by its own monotonic clock, or at once where the owner is a process of this
//! host that has ended.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::document::{self, Document, DocumentError, Saved};
use crate::model::{AttemptId, Generation};
use crate::storage::{Depth, ErrorKind, FileStat, Storage, StorageError, StoragePath, StorageUri};

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseOwner {
    /// One number for each start of stepdown: tells two runs of one pid apart for certain.
    pub instance: Uuid,
    /// The process of stepdown that holds it.
    pub process: AttemptId,
    /// When it was taken, by that host's clock (for people only).
    pub taken_at: Timestamp,
}

impl Document for LeaseOwner {
    const KIND: &'static str = "lease";
}

/// What a candidate goes by.
#[derive(Debug, Clone, Copy)]
pub struct LeasePolicy {
    /// How long a beat may stand still before the lease counts as left.
    pub ttl: Duration,
    /// Whether the owner is known to have ended: a process of this host that is gone. `false` where it
    /// is not known.
    pub owner_has_ended: fn(&AttemptId) -> bool,
}

/// Why a lease could not be taken or kept.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The storage refused or did not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A lease file could not be read or written.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A higher generation is on the storage: another process acts now, this one must not.
    #[error("the lease {uri} of generation {held} was lost to generation {newer}")]
    Lost {
        /// Its directory.
        uri: StorageUri,
        /// The generation that was held.
        held: Generation,
        /// The one that is there now.
        newer: Generation,
    },
}

/// Result of trying to take a lease.
#[derive(Debug)]
pub enum Acquired {
    /// It is ours.
    Taken(Lease),
    /// Another holds it.
    Held {
        /// Its generation.
        generation: Generation,
        /// Its owner; `None` if the file cannot be read (yet).
        owner: Option<LeaseOwner>,
    },
}

/// The lease directory as one listing shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Standing {
    highest: Option<Generation>,
    released: bool,
    beat: Option<Timestamp>,
    older: Vec<StoragePath>,
}

fn read_standing(entries: &[FileStat]) -> Standing {
    let parse = |entry: &FileStat| {
        let (number, rest) = match entry.path.name().split_once('.') {
            Some((number, rest)) => (number, rest),
            None => (entry.path.name(), ""),
        };
        Some((number.parse::<u64>().ok().map(Generation)?, rest.to_owned()))
    };
    let highest = entries
        .iter()
        .filter_map(|entry| {
            parse(entry)
                .filter(|(_, rest)| rest.is_empty())
                .map(|(g, _)| g)
        })
        .max();
    let mut standing = Standing {
        highest,
        ..Standing::default()
    };
    for entry in entries {
        let Some((generation, rest)) = parse(entry) else {
            continue;
        };
        if Some(generation) == highest {
            match rest.as_str() {
                "released" => standing.released = true,
                // The lease file's own time counts until the first beat.
                "beat" | "" => standing.beat = standing.beat.max(Some(entry.modified_at)),
                _ => {}
            }
        } else if highest.is_some_and(|highest| generation < highest) {
            standing.older.push(entry.path.clone());
        }
    }
    standing
}

/// Generation and owner of the lease in `dir`, if one is held now; it may be a stale one.
///
/// # Errors
/// Storage errors; a missing directory is `None`.
pub async fn inspect_lease(
    storage: &dyn Storage,
    dir: &StoragePath,
) -> Result<Option<(Generation, Option<LeaseOwner>)>, LeaseError> {
    let entries = match storage.list(dir, Depth::Children).await {
        Ok(entries) => entries,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let standing = read_standing(&entries);
    match standing.highest {
        Some(generation) if !standing.released => {
            let owner = document::load(storage, &dir.join(&generation.to_string()))
                .await
                .ok();
            Ok(Some((generation, owner)))
        }
        _ => Ok(None),
    }
}

/// A candidate for, or the holder of, one lease.
#[derive(Debug)]
pub struct Lease {
    dir: StoragePath,
    generation: Generation,
    beaten_at: Instant,
}

/// What a candidate remembers between two tries: the standing it saw, and since when.
#[derive(Debug, Default)]
pub struct LeaseWatch {
    seen: Option<(Option<Generation>, Option<Timestamp>, Instant)>,
    has_seen_a_beat: bool,
}

impl Lease {
    /// Tries to take the lease in `dir` (which must exist) once, without waiting for another holder.
    ///
    /// `watch` carries what this candidate saw before: call it again with the same one to take over
    /// a lease whose holder is silent.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn try_acquire(
        storage: &dyn Storage,
        dir: &StoragePath,
        owner: &LeaseOwner,
        policy: LeasePolicy,
        watch: &mut LeaseWatch,
    ) -> Result<Acquired, LeaseError> {
        let standing = read_standing(&storage.list(dir, Depth::Children).await?);
        if let Some(generation) = standing.highest
            && !standing.released
        {
            let path = dir.join(&generation.to_string());
            let holder: Option<LeaseOwner> = document::load(storage, &path).await.ok();
            // An earlier one of our own, left by a lost answer: a late release of it must not end the
            // one that is taken now, so it is not taken up but superseded.
            let own = holder
                .as_ref()
                .is_some_and(|holder| holder.instance == owner.instance);
            let ended = holder
                .as_ref()
                .is_some_and(|h| (policy.owner_has_ended)(&h.process));
            if !own && !ended && !watch.is_silent(&standing, policy.ttl) {
                return Ok(Acquired::Held {
                    generation,
                    owner: holder,
                });
            }
        }
        let next = Generation(standing.highest.map_or(1, |highest| highest.0 + 1));
        match document::save_new(storage, &dir.join(&next.to_string()), owner).await? {
            Saved::Created => {
                for old in standing.older {
                    // Left-overs of two generations ago; the next holder tries again.
                    let _cleanup = storage.delete_file(&old).await;
                }
                Ok(Acquired::Taken(Self::held(dir, next)))
            }
            Saved::Exists => {
                let path = dir.join(&next.to_string());
                let holder = document::load(storage, &path).await.ok();
                Ok(Acquired::Held {
                    generation: next,
                    owner: holder,
                })
            }
        }
    }

    fn held(dir: &StoragePath, generation: Generation) -> Lease {
        Lease {
            dir: dir.clone(),
            generation,
            beaten_at: Instant::now(),
        }
    }

    /// Its generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether a third of `ttl` has gone by since the last beat.
    pub fn is_beat_due(&self, ttl: Duration) -> bool {
        self.beaten_at.elapsed() >= ttl / 3
    }

    /// Whether nobody can have taken the lease over yet who waits for `ttl` of silence.
    pub fn is_fresh(&self, ttl: Duration) -> bool {
        self.beaten_at.elapsed() < ttl
    }

    /// Whether the last beat is so new that nobody can have taken the lease over since: this process
    /// may have been halted in the middle of anything.
    pub fn is_sure(&self, ttl: Duration) -> bool {
        self.beaten_at.elapsed() < ttl / 2
    }

    /// Says that the holder lives, checks that it is still the holder, and returns the storage's time.
    ///
    /// # Errors
    /// `Lost` if another took it; storage errors, after which it is not known whether it is held.
    pub async fn beat(&mut self, storage: &dyn Storage) -> Result<Timestamp, LeaseError> {
        let begun = Instant::now();
        let path = self.dir.join(&format!("{}.beat", self.generation));
        storage.touch(&path).await?;
        let now = storage.stat(&path).await?.modified_at;
        self.check(storage).await?;
        self.beaten_at = begun;
        Ok(now)
    }

    /// Checks that no higher generation is on the storage.
    ///
    /// # Errors
    /// `Lost` if there is one; storage errors.
    pub async fn check(&self, storage: &dyn Storage) -> Result<(), LeaseError> {
        let standing = read_standing(&storage.list(&self.dir, Depth::Children).await?);
        match standing.highest {
            Some(newer) if newer > self.generation => Err(LeaseError::Lost {
                uri: StorageUri::new(storage.authority().clone(), self.dir.clone()),
                held: self.generation,
                newer,
            }),
            _ => Ok(()),
        }
    }

    /// Gives the lease back, so that the next one need not wait.
    ///
    /// # Errors
    /// Storage errors; the lease then runs out by itself.
    pub async fn release(self, storage: &dyn Storage) -> Result<(), LeaseError> {
        storage
            .touch(&self.dir.join(&format!("{}.released", self.generation)))
            .await?;
        Ok(())
    }
}

impl LeaseWatch {
    /// Whether the same holder's beat was seen to stand still for `ttl`.
    fn is_silent(&mut self, standing: &Standing, ttl: Duration) -> bool {
        match &self.seen {
            Some((highest, beat, since))
                if *highest == standing.highest && *beat == standing.beat =>
            {
                since.elapsed() >= ttl
            }
            before => {
                self.has_seen_a_beat |= before.is_some();
                self.seen = Some((standing.highest, standing.beat, Instant::now()));
                false
            }
        }
    }

    /// Whether somebody was seen to take the lease or to keep it since the first try: a holder that lives,
    /// on whatever host.
    pub fn has_seen_a_beat(&self) -> bool {
        self.has_seen_a_beat
    }
}
