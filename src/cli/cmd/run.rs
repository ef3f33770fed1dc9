//! `stepdown run`

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use crate::cli::words;
use crate::config::duration::parse as duration;
use crate::config::{EndsWith, Escalate, Restart, SignalTarget, StopSignal};
use crate::model::{JobName, Slot};

/// Run a command as a job: make its marker, stop it when the marker goes, write the receipt
///
/// The command has stdin, stdout and its own process group; signals that stepdown gets are passed on
/// once. When the command ends, its exit code becomes stepdown's; codes from 64 on are stepdown's own
/// failures. If stepdown itself is killed, the command lives on, and the next `run` or `watch` takes
/// it over.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown run --marker /run/clicks -- python clicks.py
  stepdown run --job clicks --slot blue -- spark-submit clicks.py
  stepdown run --marker hdfs:///m/clicks --checkpoint hdfs:///ck/clicks -- ./clicks.sh")]
pub struct RunArgs {
    /// The job.
    #[command(flatten)]
    pub what: RunWhat,

    /// Its slot, blue or green; needed where the job has two
    #[arg(long, value_name = "SLOT", requires = "job")]
    pub slot: Option<Slot>,

    /// Wait for the marker instead of making it
    #[arg(long)]
    pub no_create: bool,

    /// Checkpoint directory of a query, to prove the stop from; may be repeated
    #[arg(long, value_name = "URI")]
    pub checkpoint: Vec<String>,

    /// How it is stopped.
    #[command(flatten)]
    pub stop: RunStop,

    /// Whether it is started again.
    #[command(flatten)]
    pub restarts: RunRestarts,

    /// Kill the command when stepdown itself dies
    #[arg(long)]
    pub kill_with_parent: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// The command, after `--`
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// What is run: a configured job, or anything with a marker.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct RunWhat {
    /// The marker: hdfs://ns/path, hdfs:///path, viewfs://cluster/path, file:///path or a local path
    #[arg(long, value_name = "URI")]
    pub marker: Option<String>,

    /// The job of the configuration that the command is
    #[arg(long, value_name = "JOB")]
    pub job: Option<JobName>,
}

/// How it is stopped; each wins over the configuration.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stop")]
pub struct RunStop {
    /// How long the command may take to finish its batch and end [default: 30m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub drain_deadline: Option<Duration>,

    /// What comes after the deadline [default: never]
    #[arg(long, value_name = "POLICY", value_parser = words(Escalate::ALL, Escalate::as_str))]
    pub escalate: Option<Escalate>,

    /// How long a killed command may take to be gone [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub kill_deadline: Option<Duration>,

    /// The signal that asks it to stop [default: TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = words(StopSignal::ALL, StopSignal::as_str))]
    pub signal: Option<StopSignal>,

    /// Who gets the signal [default: process]
    #[arg(long, value_name = "TARGET", value_parser = words(SignalTarget::ALL, SignalTarget::as_str))]
    pub target: Option<SignalTarget>,

    /// When it counts as ended [default: group]
    #[arg(long, value_name = "WHAT", value_parser = words(EndsWith::ALL, EndsWith::as_str))]
    pub ends_with: Option<EndsWith>,

    /// Time after which a signal without effect is sent again [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub resend_after: Option<Duration>,
}

/// Whether it is started again; each wins over `[run]` of the configuration.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Restarts")]
pub struct RunRestarts {
    /// Whether a command that died by itself is started again [default: never]
    #[arg(long, value_name = "POLICY", value_parser = words(Restart::ALL, Restart::as_str))]
    pub restart: Option<Restart>,

    /// Pause before the first restart; doubled each time [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub restart_min_delay: Option<Duration>,

    /// Longest pause before a restart [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub restart_max_delay: Option<Duration>,

    /// Restarts in a row before giving up [default: 10]
    #[arg(long, value_name = "N")]
    pub max_restarts: Option<u32>,
}
