//! Operating system processes: who runs, how it is asked to end, and how one is started so that it
//! is on record before it runs.
//!
//! - [`identity`]: a process as an [`AttemptId`](crate::model::AttemptId), and whether it still runs
//! - [`group`]: the process group of a job, whose members may outlive the process that leads it
//! - [`pid_file`]: the process that a pid file names
//! - [`signal`]: signals that reach this attempt or nobody
//! - [`exit`]: how a process ended
//!
//! Knows Linux and its `/proc`. What cannot be seen is unknown, never ended.

pub mod exit;
pub mod group;
pub mod identity;
pub mod pid_file;
pub mod signal;
mod stat;

pub use exit::Exit;
pub use group::{Group, GroupError};
pub use identity::{EndsWith, Host, IdentityError, ProcessState, identify, observe, this_host};
pub use pid_file::{PidFileError, read_pid_file};
pub use signal::{Delivery, Signal, SignalError, SignalTarget, send};
