//! Eyes and hands of a rollout: looks at both slots, has copies made, commands run, jobs stopped.
//!
//! What is decided stands in [`crate::rollout`]; here is what touches the world. [`sides`] looks at the
//! slots, [`follow`] drives their stops, [`copies`] keeps the copies, [`start`] runs start commands,
//! [`gate`] the checks, [`hands`] brings them together for the engine. [`standby`] begins and goes on with
//! rollouts in a watch.

mod copies;
mod eyes;
mod follow;
mod gate;
mod hands;
mod hooks;
mod keep;
mod measure;
mod sides;
mod standby;
mod start;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Daemon;
use super::poller::PollPolicy;
use super::watch::PlannedSlot;
use crate::checkpoint::copy::Place;
use crate::control::{
    Acquired, ControlDir, DocumentError, Lease, LeaseError, LeaseOwner, LeaseScope, LeaseWatch,
};
use crate::model::{AttemptId, JobName, Slot};
use crate::process::{EndsWith, ProcessState, observe};
use crate::rollout::decide::Policy;
use crate::rollout::engine::{Ending, Engine, EngineError, EngineOptions};
use crate::rollout::journal::{Journal, JournalError, load_newest};
use crate::rollout::record::{Direction, Gap, Record, RolloutId};
use crate::rollout::state::{Outcome, State, Strategy, Transfer};
use crate::stop::BackendError;
use crate::storage::StorageError;

pub use gate::GateOptions;
pub use hands::RolloutHands;
pub use hooks::RolloutHookPrograms;
pub use keep::KeptReplaced;
pub use standby::{RolloutSource, Standby};

/// What a start command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartIs {
    /// It has the job started, and ends.
    Launcher,
    /// It runs as long as the job does.
    Job,
}

/// One slot of the job.
#[derive(Debug, Clone)]
pub struct RolloutSlot {
    /// As for a watch.
    pub planned: PlannedSlot,
    /// Its checkpoints, in order.
    pub checkpoints: Vec<Place>,
    /// Its start command.
    pub start: Option<Vec<String>>,
}

/// All that a rollout of a job has to know.
#[derive(Debug, Clone)]
pub struct RolloutPlan {
    /// The job.
    pub job: JobName,
    /// The control directory.
    pub control: ControlDir,
    /// Its slots.
    pub slots: BTreeMap<Slot, RolloutSlot>,
    /// How.
    pub strategy: Strategy,
    /// Whether the checkpoint changes hands in its place.
    pub in_place: bool,
    /// Deadlines and the like.
    pub policy: Policy,
    /// What a start command is.
    pub start_is: StartIs,
    /// Where it writes to.
    pub start_log: Option<PathBuf>,
    /// The checks before the old job is asked.
    pub gate: GateOptions,
    /// The checks at the end.
    pub post_gate: GateOptions,
    /// How long what was moved aside is kept; `None`: until somebody removes it.
    pub keep: Option<Duration>,
    /// Pause between two passes of a copy.
    pub sync_interval: Duration,
    /// How polls are timed.
    pub poll: PollPolicy,
    /// How long the lease holds without a beat.
    pub lease_ttl: Duration,
    /// Longest pause between two looks.
    pub tick: Duration,
    /// Hooks.
    pub hooks: Arc<RolloutHookPrograms>,
    /// Who is told of every state; what is not taken in time is dropped.
    pub told: Option<mpsc::Sender<Record>>,
    /// Whether driving ends where a person has to look, instead of waiting for requests.
    pub leave_at_needs_human: bool,
}

/// What is wanted of a rollout that is to begin.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Another strategy than the configured one.
    pub strategy: Option<Strategy>,
    /// The version of the new job.
    pub version: Option<String>,
    /// Start on the new slot's own checkpoint, whatever the old job did since.
    pub accept_loss: bool,
    /// Whether it is a version to bring, or the one before.
    pub direction: Direction,
}

/// Why a rollout did not begin, or could not be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The storage refused or did not answer.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The lease could not be looked at.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The record could not be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Which attempts run cannot be told.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Another process goes on with it.
    #[error("rollouts of {job} are driven by {holder}")]
    Held {
        /// The job.
        job: JobName,
        /// Who.
        holder: String,
        /// Whether it is known to live: a process of this host that runs, or one whose beat was seen.
        is_alive: bool,
    },
    /// Another process has driven a rollout to its end while this one waited for the right to.
    #[error(
        "rollout {rollout_id} of {job} was driven by another process meanwhile and ended as {outcome}; once more, if \
         another one is meant"
    )]
    Overtaken {
        /// The job.
        job: JobName,
        /// That rollout.
        rollout_id: RolloutId,
        /// How it ended.
        outcome: Outcome,
    },
    /// Both slots run, or none can take over.
    #[error("{why}")]
    Impossible {
        /// Why, and what to do.
        why: String,
    },
    /// It cannot be told yet whether one can begin.
    #[error("{why}")]
    Unsure {
        /// Why.
        why: String,
    },
    /// Another process has taken over.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<StorageError> for RolloutError {
    fn from(error: StorageError) -> Self {
        Self::Document(error.into())
    }
}

/// The right to drive the rollouts of one job.
#[derive(Debug)]
pub struct Seat {
    lease: Lease,
}

impl RolloutPlan {
    /// Tries to take the right to drive the rollouts of the job. `watch` is kept from try to try.
    ///
    /// # Errors
    /// `Held`; storage errors.
    pub async fn take_seat(
        &self,
        daemon: &Daemon,
        watch: &mut LeaseWatch,
    ) -> Result<Seat, RolloutError> {
        self.control.vouch().await?;
        let dir = self.control.lease_dir(&self.job, LeaseScope::Rollout);
        self.control.storage().create_dir_all(&dir).await?;
        for slot in self.slots.keys() {
            self.control.ensure_job(&self.job, *slot).await?;
        }
        let owner: LeaseOwner = daemon.lease_owner(Uuid::new_v4());
        let policy = super::stopping::lease_policy(self.lease_ttl);
        let storage = self.control.storage().as_ref();
        match Lease::try_acquire(storage, &dir, &owner, policy, watch).await? {
            Acquired::Taken(lease) => Ok(Seat { lease }),
            Acquired::Held { owner, .. } => Err(RolloutError::Held {
                job: self.job.clone(),
                is_alive: watch.has_seen_a_beat()
                    || owner.as_ref().is_some_and(|owner| {
                        matches!(
                            observe(&owner.process, EndsWith::Process),
                            ProcessState::Running { .. }
                        )
                    }),
                holder: owner.map_or_else(
                    || "another stepdown".to_owned(),
                    |owner| format!("process {}", owner.process),
                ),
            }),
        }
    }

    /// What would be the record of a rollout that begins now; nothing is written.
    ///
    /// # Errors
    /// `Impossible`; where it cannot be told what runs.
    pub async fn draft(&self, wanted: &Wanted) -> Result<Record, RolloutError> {
        let newest = load_newest(&self.control, &self.job).await?;
        let mut running: Vec<(Slot, AttemptId)> = Vec::new();
        for (slot, of) in &self.slots {
            match sides::find_live(of.planned.backend.as_ref()).await {
                Ok(Some(attempt)) => running.push((*slot, attempt)),
                Ok(None) => {}
                Err(why) => {
                    return Err(RolloutError::Unsure {
                        why: format!("it cannot be told whether {}.{slot} runs: {why}", self.job),
                    });
                }
            }
        }
        let last = newest
            .as_ref()
            .filter(|record| record.state == State::Ended);
        let last_slot = last.map(Record::slot_after);
        let strategy = wanted.strategy.unwrap_or(self.strategy);
        let only = self
            .slots
            .keys()
            .next()
            .copied()
            .filter(|_| self.slots.len() == 1);
        let (old, new, then, attempt) = match (strategy, running.as_slice()) {
            (Strategy::Rolling, [(first, _), (second, _)]) => {
                // The one that took over last is the master: it is exchanged last.
                let master = last_slot.unwrap_or(*first);
                let replica = if master == *first { *second } else { *first };
                let attempt = running
                    .iter()
                    .find(|(slot, _)| *slot == replica)
                    .map(|(_, attempt)| attempt.clone());
                (Some(replica), replica, vec![master], attempt)
            }
            (Strategy::Rolling, some) => {
                return Err(one_is_missing(some.first().map(|(slot, _)| *slot)));
            }
            (_, [_, _]) => {
                return Err(impossible(
                    "both slots run; stop the one that is to be replaced by the new version, or use \
                     `--strategy rolling`",
                ));
            }
            (_, [(slot, attempt)]) => {
                let new = only.unwrap_or_else(|| slot.other());
                (Some(*slot), new, Vec::new(), Some(attempt.clone()))
            }
            (_, _) => {
                // Nothing runs: the slot that ran last is handed over, if there was one.
                let old = last_slot;
                let new = only.unwrap_or_else(|| old.map_or(Slot::Blue, Slot::other));
                (old, new, Vec::new(), None)
            }
        };
        let transfer = self.transfer_of(strategy, old, new, wanted)?;
        let now = jiff::Timestamp::now();
        Ok(Record {
            rollout_id: RolloutId(newest.as_ref().map_or(1, |record| record.rollout_id.0 + 1)),
            job: self.job.clone(),
            strategy,
            transfer,
            old,
            new,
            then,
            exchanged: Vec::new(),
            direction: wanted.direction,
            old_attempt: attempt,
            new_attempt: None,
            start_process: None,
            restart_process: None,
            restarting_since: None,
            old_again: None,
            new_generation: None,
            version: wanted.version.clone(),
            old_version: last.and_then(|record| match record.outcome {
                Some(Outcome::RolledOut) => record.version.clone(),
                _ => record.old_version.clone(),
            }),
            state: State::Preparing,
            since: now,
            reason: "it begins".to_owned(),
            begun_at: now,
            generation: crate::model::Generation(0),
            begun: std::collections::BTreeSet::new(),
            done: std::collections::BTreeSet::new(),
            promoted: false,
            on_hold: false,
            abort_asked: false,
            base: Vec::new(),
            gap: Gap::default(),
            proof: None,
            outcome: None,
            path: vec![(State::Preparing, now)],
        })
    }

    fn transfer_of(
        &self,
        strategy: Strategy,
        old: Option<Slot>,
        new: Slot,
        wanted: &Wanted,
    ) -> Result<Transfer, RolloutError> {
        let places = |slot: Slot| self.slots.get(&slot).map(|of| &of.checkpoints);
        let in_place = self.in_place || old == Some(new);
        if wanted.accept_loss && in_place {
            return Err(impossible(
                "the new version went on with the same checkpoint: there is no old one to go back to",
            ));
        }
        if wanted.accept_loss || old.is_none() {
            return Ok(Transfer::Own);
        }
        if in_place {
            return Ok(Transfer::InPlace);
        }
        if !self.slots.contains_key(&new) {
            return Err(impossible("the job has one slot only"));
        }
        let has_none = old.and_then(places).is_none_or(Vec::is_empty);
        if has_none {
            return Err(impossible("the job has no checkpoints to hand over"));
        }
        Ok(match strategy {
            Strategy::Parallel => Transfer::CopyNewId,
            Strategy::StopStart | Strategy::HandOver | Strategy::Rolling => Transfer::Copy,
        })
    }

    /// Begins a rollout; its first record is saved.
    ///
    /// # Errors
    /// As [`RolloutPlan::draft`]; storage errors.
    pub async fn begin(
        &self,
        seat: &mut Seat,
        wanted: &Wanted,
    ) -> Result<(Journal, Record), RolloutError> {
        let mut record = self.draft(wanted).await?;
        let now = seat.lease.beat(self.control.storage().as_ref()).await?;
        record.since = now;
        record.begun_at = now;
        record.path = vec![(State::Preparing, now)];
        record.generation = seat.lease.generation();
        let journal = Journal::begin(&self.control, &mut record).await?;
        Ok((journal, record))
    }

    /// The rollout that is under way, to be taken up.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn find_unfinished(&self) -> Result<Option<(Journal, Record)>, RolloutError> {
        let Some(newest) = load_newest(&self.control, &self.job).await? else {
            return Ok(None);
        };
        if newest.state == State::Ended {
            return Ok(None);
        }
        Ok(Journal::resume(&self.control, &self.job, newest.rollout_id).await?)
    }

    /// Goes on with a rollout to its end, or until `shutdown`.
    ///
    /// # Errors
    /// [`RolloutError::Engine`]: another process goes on with it.
    pub async fn drive(
        &self,
        daemon: &Daemon,
        seat: Seat,
        begun: (Journal, Record),
        shutdown: CancellationToken,
    ) -> Result<(Ending, Record), RolloutError> {
        let (journal, record) = begun;
        let mut hands = RolloutHands::new(daemon.clone(), self.clone(), &shutdown);
        let mut policy = self.policy;
        policy.has_start = self
            .slots
            .get(&record.new)
            .is_some_and(|slot| slot.start.is_some());
        policy.has_restart = record
            .old
            .and_then(|old| self.slots.get(&old))
            .is_some_and(|slot| slot.start.is_some());
        let options = EngineOptions {
            control: self.control.clone(),
            journal,
            record,
            lease: seat.lease,
            lease_ttl: self.lease_ttl,
            policy,
            tick: self.tick,
            shutdown,
            leave_at_needs_human: self.leave_at_needs_human,
            crash_point: super::crash_point::crash_point,
        };
        Ok(Engine::new(options, &mut hands).run().await?)
    }

    /// Gives the seat back without having driven anything.
    pub async fn leave(&self, seat: Seat) {
        if let Err(error) = seat.lease.release(self.control.storage().as_ref()).await {
            tracing::debug!("the lease was not given back: {error}");
        }
    }
}

/// `rolling` with `running` alone.
fn one_is_missing(running: Option<Slot>) -> RolloutError {
    let (what, start) = match running {
        Some(slot) => (format!("{} does not", slot.other()), "it"),
        None => ("neither does".to_owned(), "both"),
    };
    impossible(&format!(
        "rolling exchanges two slots that both run, and {what}; start {start} first, with what the start command \
         would get"
    ))
}

fn impossible(why: &str) -> RolloutError {
    RolloutError::Impossible {
        why: why.to_owned(),
    }
}
