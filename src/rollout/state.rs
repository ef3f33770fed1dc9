//! The words of a rollout: strategies, states, acts, outcomes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a new version takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Stop the old one, copy its checkpoint at rest, start the new one.
    StopStart,
    /// Start the new one and hold it before its queries start; keep its copy in sync; drain the old one;
    /// last pass; go.
    HandOver,
    /// The new one runs on a copy of its own beside the old one, which is drained last.
    Parallel,
    /// Both slots run: each is stopped and started anew in its own place, the replica first.
    Rolling,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 4] = [
        Strategy::StopStart,
        Strategy::HandOver,
        Strategy::Parallel,
        Strategy::Rolling,
    ];

    /// The word of the design.
    pub fn as_str(self) -> &'static str {
        match self {
            Strategy::StopStart => "stop-start",
            Strategy::HandOver => "hand-over",
            Strategy::Parallel => "parallel",
            Strategy::Rolling => "rolling",
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the new job finds in its checkpoint directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transfer {
    /// A verified copy of the old job's, with its query id.
    Copy,
    /// As `Copy`, with a new query id: two jobs run at the same time.
    CopyNewId,
    /// The same directories, which change hands after the receipt.
    InPlace,
    /// What is in its own directories already: nothing ran before, or the loss was accepted.
    Own,
}

impl Transfer {
    /// Whether a copy is made.
    pub fn copies(self) -> bool {
        matches!(self, Transfer::Copy | Transfer::CopyNewId)
    }
}

/// Where a rollout is. `x` is the slot that ran, `y` the one that takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The place of y is made ready.
    Preparing,
    /// y is being started.
    Starting,
    /// y waits before its queries start, and is looked at.
    Held,
    /// y runs beside x, and is looked at.
    Shadow,
    /// x is asked to stop.
    Stopping,
    /// x is stopped, with proof.
    Stopped,
    /// y is let go, or started.
    Cutover,
    /// y has planned a batch of its own.
    Proving,
    /// y is taken back; x was never asked to stop.
    Aborting,
    /// x is started again on its own checkpoint; y has planned nothing.
    RecoverOld,
    /// It cannot be told what is right: frozen until somebody looks.
    NeedsHuman,
    /// Over.
    Ended,
}

impl State {
    /// All of them, in the order in which a rollout goes through them.
    pub const ALL: [State; 12] = [
        State::Preparing,
        State::Starting,
        State::Held,
        State::Shadow,
        State::Stopping,
        State::Stopped,
        State::Cutover,
        State::Proving,
        State::Aborting,
        State::RecoverOld,
        State::NeedsHuman,
        State::Ended,
    ];

    /// The word of the design, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Preparing => "preparing",
            State::Starting => "starting",
            State::Held => "held",
            State::Shadow => "shadow",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Cutover => "cutover",
            State::Proving => "proving",
            State::Aborting => "aborting",
            State::RecoverOld => "recover-old",
            State::NeedsHuman => "needs-human",
            State::Ended => "ended",
        }
    }

    /// Whether x has not been asked to stop yet.
    pub fn is_before_stop(self) -> bool {
        matches!(
            self,
            State::Preparing | State::Starting | State::Held | State::Shadow
        )
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that is done to the world. That it is about to be done is on record before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Remove y's old `go`, make y's marker.
    PrepareNew,
    /// Begin to keep y's copy in sync with x's checkpoint.
    Sync,
    /// Make y's copy as of the last committed batch, with an identity of its own.
    CopyCommitted,
    /// Run the start command of y.
    StartNew,
    /// Claim x's stop and take its marker away.
    AskOld,
    /// x came back as another attempt: claim that one's stop too.
    AskOldAgain,
    /// Make the last pass, verify and publish y's copy.
    FinishCopy,
    /// Let y start its queries.
    Go,
    /// Claim y's stop and take its marker away.
    AskNew,
    /// End a start command that has not come to its end.
    CancelStart,
    /// Drop y's unfinished or unused copy, its marker and its `go`.
    DropNew,
    /// Make x's marker and run its start command, for the old version.
    RestartOld,
}

impl Act {
    /// All of them.
    pub const ALL: [Act; 12] = [
        Act::PrepareNew,
        Act::Sync,
        Act::CopyCommitted,
        Act::StartNew,
        Act::AskOld,
        Act::AskOldAgain,
        Act::FinishCopy,
        Act::Go,
        Act::AskNew,
        Act::CancelStart,
        Act::DropNew,
        Act::RestartOld,
    ];

    /// Its name in records, logs and crash tests.
    pub fn as_str(self) -> &'static str {
        match self {
            Act::PrepareNew => "prepare-new",
            Act::Sync => "sync",
            Act::CopyCommitted => "copy-committed",
            Act::StartNew => "start-new",
            Act::AskOld => "ask-old",
            Act::AskOldAgain => "ask-old-again",
            Act::FinishCopy => "finish-copy",
            Act::Go => "go",
            Act::AskNew => "ask-new",
            Act::CancelStart => "cancel-start",
            Act::DropNew => "drop-new",
            Act::RestartOld => "restart-old",
        }
    }

    /// What it does, for `--dry-run`.
    pub fn means(self) -> &'static str {
        match self {
            Act::PrepareNew => "remove the old go file of the new slot and make its marker",
            Act::Sync => "keep a copy of the checkpoint in sync while the old job runs",
            Act::CopyCommitted => {
                "copy the checkpoint as of the last committed batch, with a new query id"
            }
            Act::StartNew => "run the start command of the new slot",
            Act::AskOld => "remove the marker of the old slot, wait for its receipt",
            Act::AskOldAgain => "ask the attempt that came back in the old slot",
            Act::FinishCopy => "make the last pass, verify and publish the copy",
            Act::Go => "write the go file: the new job starts its queries",
            Act::AskNew => "remove the marker of the new slot, wait for its receipt",
            Act::CancelStart => "end the start command",
            Act::DropNew => "drop the copy, the marker and the go file of the new slot",
            Act::RestartOld => "make the marker of the old slot and run its start command",
        }
    }

    /// Whether it goes on by itself once begun, and its end is observed instead of recorded.
    pub fn is_observed(self) -> bool {
        matches!(
            self,
            Act::Sync
                | Act::CopyCommitted
                | Act::StartNew
                | Act::FinishCopy
                | Act::RestartOld
                | Act::CancelStart
        )
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a rollout came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// y runs.
    RolledOut,
    /// y was taken back; x runs on as it did.
    Aborted,
    /// x was stopped and runs again on its own checkpoint.
    Recovered,
    /// An operator stopped the job meanwhile: nothing runs, and nothing was started against that.
    StoppedByOperator,
    /// It could not begin; nothing was changed.
    Refused,
}

impl Outcome {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::RolledOut => "rolled-out",
            Outcome::Aborted => "aborted",
            Outcome::Recovered => "recovered",
            Outcome::StoppedByOperator => "stopped-by-operator",
            Outcome::Refused => "refused",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
