//! What a decision sees of the world. Whatever cannot be told is `Unknown`, never an absence.

use crate::model::AttemptId;

/// Whether an attempt runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Life {
    /// It runs, draining or not.
    Running,
    /// It is over, for sure.
    Over,
    /// There never was one.
    NotThere,
    /// It cannot be told.
    #[default]
    Unknown,
}

impl Life {
    /// Whether nothing runs, for sure.
    pub fn is_gone(self) -> bool {
        matches!(self, Life::Over | Life::NotThere)
    }
}

/// A stop of an attempt, by whoever asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopSeen {
    /// There is none that is irrevocable.
    #[default]
    None,
    /// Its marker is gone, and the stop is latched.
    Latched,
    /// It is over: the marker asked for it.
    Stopped,
    /// It is over, and another attempt runs in its place.
    Restarted,
    /// The attempt ended without having been asked.
    Died,
}

impl StopSeen {
    /// Whether a marker asked for it.
    pub fn is_asked(self) -> bool {
        matches!(
            self,
            StopSeen::Latched | StopSeen::Stopped | StopSeen::Restarted
        )
    }

    /// Whether its receipt is there.
    pub fn is_confirmed(self) -> bool {
        matches!(
            self,
            StopSeen::Stopped | StopSeen::Restarted | StopSeen::Died
        )
    }
}

/// A question to the storage that may have no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Known {
    /// Yes.
    Yes,
    /// No.
    No,
    /// It cannot be told.
    #[default]
    Unknown,
}

/// What y's status file says of y's queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// There is no status of this rollout, or it is not known.
    #[default]
    Silent,
    /// It waits before its queries.
    Held,
    /// Its queries run, or may.
    Running,
    /// It drains or is over.
    Ending,
}

/// One side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Side {
    /// The attempt on record, or one that carries this rollout's tag; `NotThere` where nothing runs.
    pub life: Life,
    /// Its stop.
    pub stop: StopSeen,
    /// The attempt that runs in the slot and is not the one on record. Where y takes x's own place, it is
    /// x's until y was started, and y's from then on.
    pub found: Option<AttemptId>,
    /// Whether `found` says that it belongs to something else than this rollout.
    pub is_foreign: bool,
    /// Where its queries are.
    pub phase: Phase,
    /// Whether its marker is there, or was never seen, so that it cannot be missed. No: it was seen, and was
    /// missed often enough. Looked at only before x is asked, while a removal is an operator's.
    pub marker: Known,
}

/// A task that goes on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Task {
    /// It was not begun, or the process that began it is gone: it can be begun (again).
    #[default]
    Idle,
    /// It goes on.
    Busy,
    /// It came to its end.
    Done,
    /// It came to a bad end, and another try would not help.
    Failed,
    /// It was begun by another stepdown, and whether it goes on, or what came of it, cannot be told.
    Unknown,
}

/// The copy of the checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Copying {
    /// Nobody copies now.
    #[default]
    Idle,
    /// It goes on.
    Busy,
    /// Passes have brought every checkpoint as close to the running job as they can; more follow.
    InSync,
    /// All copies stand at their places.
    Published,
    /// It cannot be made.
    Failed,
}

/// The checks of the new job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gate {
    /// Not yet.
    #[default]
    Pending,
    /// It may go on.
    Passed,
    /// It must not.
    Failed,
}

/// What operators ask for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Go on, or accept what is there.
    pub promote: bool,
    /// Back.
    pub abort: bool,
}

/// All that a decision sees.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// x.
    pub old: Side,
    /// y.
    pub new: Side,
    /// x once it was started again.
    pub again: Side,
    /// The slot that must run meanwhile (`rolling`).
    pub peer: Life,
    /// Whether any query of y has planned a batch beyond what it was given.
    pub own_plan: Known,
    /// Whether all queries of y have committed one.
    pub own_commit: Known,
    /// The copy.
    pub copy: Copying,
    /// y's start command.
    pub start: Task,
    /// x's start command, when it is started again.
    pub restart: Task,
    /// The checks before x is asked.
    pub gate: Gate,
    /// The checks at the end.
    pub post_gate: Gate,
    /// Requests.
    pub asked: Asked,
}
