//! `stepdown wait`

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config::duration::parse as duration;
use crate::model::Slot;

/// Wait for a marker to come or go, or for a job to run or to be stopped
///
/// A marker that is waited for to be gone must be seen once: exit code 7 if it is not there at the
/// start. Errors are waited out, they are never taken for an absence. A job that is waited for to be
/// stopped is stopped when its receipt says so, not when its marker is gone: exit code 0 clean or
/// unproven, 3 dirty.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown wait hdfs:///stepdown/markers/clicks.blue --until gone
  stepdown wait clicks --until stopped --timeout 45m && deploy")]
pub struct WaitArgs {
    /// A marker's URI or path with `gone` and `present`, a job with `stopped` and `running`
    #[arg(value_name = "URI|JOB")]
    pub target: String,

    /// What to wait for
    #[arg(long, value_name = "WHAT", value_enum)]
    pub until: Until,

    /// Slot of the job, blue or green; needed where it has two
    #[arg(long, value_name = "SLOT")]
    pub slot: Option<Slot>,

    /// Give up after this time, with exit code 6 [default: never]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// The marker was there and is not any more
    Gone,
    /// The marker is there
    Present,
    /// The job has a receipt of its stop
    Stopped,
    /// The job has an attempt that runs
    Running,
}
