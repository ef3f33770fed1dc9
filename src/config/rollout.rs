//! `[jobs.<job>.rollout]`: how a new version of the job takes over.

use std::path::PathBuf;
use std::time::Duration;

use super::schema::{Argv, words};

words! {
    /// How a new version takes over.
    Strategy {
        /// Stop, copy, start.
        StopStart = "stop-start",
        /// Start and hold, drain the old one, let the new one go.
        HandOver = "hand-over",
        /// Run both, drain the old one last.
        Parallel = "parallel",
        /// Both slots run and are exchanged one after the other.
        Rolling = "rolling",
    }
}

words! {
    /// What the new job finds in its checkpoint directories.
    RolloutCheckpoint {
        /// A verified copy of the old job's.
        Copy = "copy",
        /// The same directories.
        InPlace = "in-place",
    }
}

words! {
    /// What the start command is.
    StartIs {
        /// It submits the job, or has it started, and ends.
        Launcher = "launcher",
        /// It is the job: it runs as long as the job does.
        Job = "job",
    }
}

words! {
    /// How a new job is held before its queries start.
    HoldBy {
        /// By the driver kit, which says so in the status file.
        Kit = "kit",
        /// By its own start command, which waits for the `go`.
        Script = "script",
    }
}

words! {
    /// Who says that the old job may be asked.
    Promote {
        /// The checks.
        Auto = "auto",
        /// An operator.
        Manual = "manual",
    }
}

words! {
    /// What happens when the checks take too long.
    OnGateDeadline {
        /// The new job is taken back.
        Abort = "abort",
        /// An alarm.
        Hold = "hold",
    }
}

words! {
    /// Whether two jobs may write where this one writes.
    TwoWriters {
        /// `parallel` and `rolling` are refused.
        Refuse = "refuse",
        /// Each slot has a sink of its own, or the sink takes what comes twice.
        Accept = "accept",
    }
}

/// Commands that are run when a rollout has come to a certain place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RolloutHooks {
    /// It began.
    pub on_start: Option<Argv>,
    /// The old job is stopped.
    pub on_stopped: Option<Argv>,
    /// The new job runs.
    pub on_success: Option<Argv>,
    /// It ended in any other way.
    pub on_failure: Option<Argv>,
    /// Somebody has to look.
    pub on_needs_human: Option<Argv>,
}

/// `[jobs.<job>.rollout]`
#[derive(Debug, Clone, PartialEq)]
pub struct Rollout {
    /// How.
    pub strategy: Strategy,
    /// What becomes of the checkpoint.
    pub checkpoint: RolloutCheckpoint,
    /// What the start command is.
    pub start_is: StartIs,
    /// File for what the start command writes.
    pub start_log: Option<PathBuf>,
    /// How a new job is held.
    pub hold_by: HoldBy,
    /// Who says that it goes on.
    pub promote: Promote,
    /// Whether two jobs may write at the same time.
    pub two_writers: TwoWriters,
    /// The check of the new job before the old one is asked.
    pub gate: Option<Argv>,
    /// The check of the new job at the end.
    pub post_gate: Option<Argv>,
    /// Pause between two tries of a check.
    pub gate_interval: Duration,
    /// How long one try may take.
    pub gate_timeout: Duration,
    /// How many tries in a row must pass.
    pub gate_passes: u32,
    /// How many batches a job that runs beside the old one must have committed.
    pub gate_commits: u32,
    /// By how many offsets a job that runs beside the old one may be behind.
    pub gate_max_lag: Option<u32>,
    /// How many times as long as the old job's its batches may take.
    pub gate_max_slowdown: Option<f64>,
    /// What happens when the checks take too long.
    pub on_gate_deadline: OnGateDeadline,
    /// Pause between two passes of the copy.
    pub sync_interval: Duration,
    /// How long a checkpoint that a copy has replaced is kept; `None`: until somebody removes it.
    pub keep: Option<Duration>,
    /// How long the preparation may take.
    pub prepare_deadline: Duration,
    /// How long the start may take.
    pub start_deadline: Duration,
    /// How long the checks may take.
    pub gate_deadline: Duration,
    /// How long the new job may take to plan a batch of its own.
    pub cutover_deadline: Duration,
    /// How long it may then take to commit it, before there is an alarm.
    pub prove_deadline: Duration,
    /// How long it may take to take the new job back.
    pub abort_deadline: Duration,
    /// Hooks.
    pub hooks: RolloutHooks,
    /// How long a hook may take.
    pub hook_timeout: Duration,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            strategy: Strategy::StopStart,
            checkpoint: RolloutCheckpoint::Copy,
            start_is: StartIs::Launcher,
            start_log: None,
            hold_by: HoldBy::Kit,
            promote: Promote::Auto,
            two_writers: TwoWriters::Refuse,
            gate: None,
            post_gate: None,
            gate_interval: Duration::from_secs(10),
            gate_timeout: Duration::from_mins(1),
            gate_passes: 1,
            gate_commits: 3,
            gate_max_lag: None,
            gate_max_slowdown: None,
            on_gate_deadline: OnGateDeadline::Abort,
            sync_interval: Duration::from_secs(10),
            keep: None,
            prepare_deadline: Duration::from_mins(30),
            start_deadline: Duration::from_mins(10),
            gate_deadline: Duration::from_mins(30),
            cutover_deadline: Duration::from_mins(10),
            prove_deadline: Duration::from_mins(30),
            abort_deadline: Duration::from_mins(30),
            hooks: RolloutHooks::default(),
            hook_timeout: Duration::from_mins(1),
        }
    }
}
