//! Operating system processes: who runs, how it is asked to end, and how one is started so that it
//! is on record before it runs.
//!
//! - [`identity`]: a process as an [`AttemptId`](crate::model::AttemptId), and whether it still runs
//! - [`group`]: the process group of a job, whose members may outlive the process that leads it
//! - [`pid_file`]: the process that a pid file names
//! - [`signal`]: signals that reach this attempt or nobody
//! - [`spawn`]: a command that is on record before it runs; [`gate`] stands in its place until then
//! - [`child`]: the end of a process started here; [`mod@adopt`]: of one that somebody else started
//! - [`terminal`]: the terminal, lent to the child as a shell lends it to a job
//! - [`forward`]: what the signals mean that a supervisor receives
//! - [`program`]: programs of the operator, which end in time
//! - [`restart`]: whether a job that ended is started again
//! - [`exit`]: how a process ended
//!
//! Knows Linux and its `/proc`. What cannot be seen is unknown, never ended.

pub mod adopt;
pub mod child;
pub mod exit;
pub mod forward;
pub mod gate;
pub mod group;
pub mod heap;
pub mod identity;
pub mod pid_file;
pub mod program;
pub mod restart;
pub mod signal;
pub mod spawn;
mod stat;
pub mod terminal;

pub use adopt::{Adopted, adopt};
pub use child::{Child, ChildEvent, WaitError};
pub use exit::Exit;
pub use forward::{ChildGroup, SignalPlan};
pub use group::{Group, GroupError};
pub use identity::{
    EndsWith, Host, IdentityError, ProcessState, identify, is_elsewhere, observe, this_host,
};
pub use pid_file::{PidFileError, read_pid_file};
pub use program::{Program, ProgramError};
pub use signal::{Delivery, Signal, SignalError, SignalTarget, send};
pub use spawn::{Gated, SpawnError, SpawnOptions, spawn_gated};
pub use terminal::Terminal;
