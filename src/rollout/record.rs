//! The record of one rollout: the single source of truth about how far it came.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::state::{Act, Outcome, State, Strategy, Transfer};
use crate::control::Document;
use crate::model::{AttemptId, BatchId, Generation, InvalidName, JobName, Slot};
use crate::storage::StorageUri;

/// The id of a rollout of one job: `r-<number>`, growing from rollout to rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RolloutId(pub u64);

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r-{}", self.0)
    }
}

impl FromStr for RolloutId {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.strip_prefix("r-")
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .map(RolloutId)
            .ok_or_else(|| InvalidName {
                what: "rollout id",
                text: text.to_owned(),
                why: "it is not `r-` and a number",
            })
    }
}

impl TryFrom<String> for RolloutId {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<RolloutId> for String {
    fn from(id: RolloutId) -> String {
        id.to_string()
    }
}

/// Where the checkpoint of one query stood when it changed hands: what is beyond is the new job's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The new job's checkpoint.
    pub checkpoint: StorageUri,
    /// The last planned batch in it then; a batch in flight is planned again without a new plan.
    pub planned: Option<BatchId>,
    /// The last committed batch in it then.
    pub committed: Option<BatchId>,
}

/// The time without output. Commits are by the storage's clock, the rest by that of the host that saw it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The old job's last commit, over all queries.
    pub old_committed_at: Option<Timestamp>,
    /// When the old job's end was seen.
    pub old_ended_at: Option<Timestamp>,
    /// When the new job was let go.
    pub go_at: Option<Timestamp>,
    /// When the last of the new job's queries had made its first own commit.
    pub new_committed_at: Option<Timestamp>,
    /// When the old job was seen to run again, where it was started again.
    #[serde(default)]
    pub resumed_at: Option<Timestamp>,
}

impl Gap {
    /// From the old job's last commit to the new job's first own one, in seconds; negative where both ran
    /// at the same time. Where the old job was started again instead: until it ran. `None` until both are
    /// known.
    pub fn seconds(&self) -> Option<f64> {
        let (from, to) = (
            self.old_committed_at?,
            self.new_committed_at.or(self.resumed_at)?,
        );
        Some(to.duration_since(from).as_secs_f64())
    }

    /// stepdown's own part: from the old job's end to the go, both by the clocks of those who saw them.
    pub fn own_seconds(&self) -> Option<f64> {
        let (from, to) = (self.old_ended_at?, self.go_at?);
        Some(to.duration_since(from).as_secs_f64())
    }
}

/// Whether a rollout brings a version or takes one back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The version that was asked for.
    #[default]
    Forward,
    /// The one before, by `rollback`.
    Back,
}

/// A slot that was exchanged, of several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchanged {
    /// The slot.
    pub slot: Slot,
    /// Its time without output.
    pub gap: Gap,
}

/// One rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub rollout_id: RolloutId,
    /// The job.
    pub job: JobName,
    /// How.
    pub strategy: Strategy,
    /// What y finds in its checkpoint directories.
    pub transfer: Transfer,
    /// x: the slot that ran; none if nothing did.
    pub old: Option<Slot>,
    /// y: the slot that takes over; the same as x where a slot is exchanged in its own place.
    pub new: Slot,
    /// Slots that follow after this one (`rolling`).
    #[serde(default)]
    pub then: Vec<Slot>,
    /// Slots that came before this one (`rolling`).
    #[serde(default)]
    pub exchanged: Vec<Exchanged>,
    /// Which way it goes.
    #[serde(default)]
    pub direction: Direction,
    /// The attempt in x; none if it did not run when the rollout began.
    pub old_attempt: Option<AttemptId>,
    /// The attempt in y, once it is known.
    pub new_attempt: Option<AttemptId>,
    /// The process of y's start command, where this host or another has run it.
    #[serde(default)]
    pub start_process: Option<AttemptId>,
    /// The process of x's start command, when x was started again.
    #[serde(default)]
    pub restart_process: Option<AttemptId>,
    /// When x's start was about to be run again.
    #[serde(default)]
    pub restarting_since: Option<Timestamp>,
    /// The attempt in x after it was started again.
    #[serde(default)]
    pub old_again: Option<AttemptId>,
    /// The generation y was started under: the one its `go` must name.
    #[serde(default)]
    pub new_generation: Option<Generation>,
    /// The version of y, as its start command gets it.
    pub version: Option<String>,
    /// The version of x.
    pub old_version: Option<String>,
    /// Where it is.
    pub state: State,
    /// Since when, by the storage's clock.
    pub since: Timestamp,
    /// Why it is there.
    pub reason: String,
    /// When the rollout began, by the storage's clock.
    pub begun_at: Timestamp,
    /// The generation of the lease under which this was written.
    pub generation: Generation,
    /// Acts that were about to be done.
    pub begun: BTreeSet<Act>,
    /// Acts that are done.
    pub done: BTreeSet<Act>,
    /// An operator said: go on.
    pub promoted: bool,
    /// An operator said: wait.
    pub on_hold: bool,
    /// An operator said: back.
    pub abort_asked: bool,
    /// What y's checkpoints held when they changed hands.
    pub base: Vec<Base>,
    /// The time without output.
    pub gap: Gap,
    /// What the proof of x's stop said: `clean`, `dirty`, `unproven`.
    pub proof: Option<String>,
    /// What it came to.
    pub outcome: Option<Outcome>,
    /// The states it went through, with the time of entry.
    pub path: Vec<(State, Timestamp)>,
}

impl Document for Record {
    const KIND: &'static str = "rollout";
}

impl Record {
    /// Whether y takes x's own place.
    pub fn is_same_slot(&self) -> bool {
        self.old == Some(self.new)
    }

    /// Whether y is held before its queries start.
    pub fn holds(&self) -> bool {
        self.strategy == Strategy::HandOver && self.old.is_some()
    }

    /// Whether the new job may have been let go on what is its checkpoint now.
    pub fn may_have_released_new(&self) -> bool {
        let act = if self.holds() { Act::Go } else { Act::StartNew };
        self.begun.contains(&act)
    }

    /// Whether a copy that was published is handed over, and the new job is not known to have it.
    pub fn is_to_hand_over(&self) -> bool {
        self.transfer == Transfer::Copy
            && match self.state {
                State::Stopped => true,
                State::Cutover if self.holds() => !self.done.contains(&Act::Go),
                State::Cutover => self.new_attempt.is_none(),
                State::Preparing
                | State::Starting
                | State::Held
                | State::Shadow
                | State::Stopping
                | State::Proving
                | State::Aborting
                | State::RecoverOld
                | State::NeedsHuman
                | State::Ended => false,
            }
    }

    /// The slot whose checkpoint is the job's now that this is over: that of the job which ran last.
    pub fn slot_after(&self) -> Slot {
        let has_taken_over = match self.outcome {
            Some(Outcome::RolledOut) => true,
            Some(Outcome::Aborted | Outcome::Recovered | Outcome::Refused) => false,
            // y may have worked since, and then x's checkpoint is an old one; before, y's is at most a copy.
            Some(Outcome::StoppedByOperator) | None => {
                let takes = |(state, _): &(State, Timestamp)| {
                    matches!(state, State::Cutover | State::Proving)
                };
                self.path.iter().any(takes) && !self.done.contains(&Act::DropNew)
            }
        };
        match self.old {
            Some(old) if !has_taken_over => old,
            Some(_) | None => self.new,
        }
    }

    /// Goes to another state.
    pub fn enter(&mut self, state: State, now: Timestamp, reason: &str) {
        self.state = state;
        self.since = now;
        reason.clone_into(&mut self.reason);
        self.path.push((state, now));
    }

    /// Notes that `act` is about to be done; false if that is on record already.
    pub fn begin(&mut self, act: Act, now: Timestamp) -> bool {
        let is_new = self.begun.insert(act);
        if is_new && act == Act::RestartOld {
            self.restarting_since = Some(now);
        }
        is_new
    }

    /// Notes that it is over.
    pub fn end(&mut self, outcome: Outcome, now: Timestamp, reason: &str) {
        self.enter(State::Ended, now, reason);
        self.outcome = Some(outcome);
    }

    /// Begins with the next slot: what was done to the one before is behind.
    pub fn next_leg(&mut self, slot: Slot, now: Timestamp) {
        self.then.retain(|other| *other != slot);
        self.exchanged.push(Exchanged {
            slot: self.new,
            gap: std::mem::take(&mut self.gap),
        });
        self.old = Some(slot);
        self.new = slot;
        self.old_attempt = None;
        self.new_attempt = None;
        self.start_process = None;
        self.new_generation = None;
        self.begun.clear();
        self.done.clear();
        self.promoted = false;
        self.base.clear();
        self.proof = None;
        self.enter(State::Preparing, now, "the next slot");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollout_ids_are_numbers() {
        assert_eq!("r-7".parse::<RolloutId>().unwrap(), RolloutId(7));
        assert_eq!(RolloutId(7).to_string(), "r-7");
        for bad in ["", "r-", "7", "r-x", "r-1x", "r--1"] {
            assert!(bad.parse::<RolloutId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_gap_is_from_commit_to_commit() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let gap = Gap {
            old_committed_at: Some(at(10)),
            old_ended_at: Some(at(11)),
            go_at: Some(at(12)),
            new_committed_at: Some(at(15)),
            resumed_at: None,
        };
        assert!((gap.seconds().unwrap() - 5.0).abs() < 1e-9);
        assert!((gap.own_seconds().unwrap() - 1.0).abs() < 1e-9);
        let taken_back = Gap {
            new_committed_at: None,
            resumed_at: Some(at(18)),
            ..gap
        };
        assert!((taken_back.seconds().unwrap() - 8.0).abs() < 1e-9);
        assert_eq!(Gap::default().seconds(), None);
    }
}
