//! `stepdown stop`

use std::time::Duration;

use clap::Args;

use crate::config::duration::parse as duration;
use crate::model::{JobName, Slot};

/// Stop a job: remove its marker, wait for the receipt, say clean, dirty or unproven
///
/// Repeatable: a job that is stopping already is waited for. Where no `watch` or `run` looks after
/// the job, this command does so itself until the job is stopped. Exit code 0 clean or unproven, 3
/// dirty, 6 if the deadline passed; the stop then stays asked for.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown stop clicks
  stepdown stop clicks --slot blue --timeout 1h
  stepdown stop clicks --dry-run")]
pub struct StopArgs {
    /// The job
    pub job: JobName,

    /// Its slot, blue or green [default: the one that runs]
    #[arg(long, value_name = "SLOT")]
    pub slot: Option<Slot>,

    /// Wait no longer than this [default: drain-deadline and kill-deadline of the job]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,

    /// Ask only, and do not wait
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}
