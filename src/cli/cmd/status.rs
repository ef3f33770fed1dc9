//! `stepdown status`

use std::time::Duration;

use clap::Args;

use crate::config::duration::parse as duration;
use crate::model::JobName;

/// Show what runs, which markers are there, which stops are under way
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown status
  stepdown status clicks --follow
  stepdown --json status clicks")]
pub struct StatusArgs {
    /// Only this job
    pub job: Option<JobName>,

    /// Go on, and show what changes
    #[arg(long, short)]
    pub follow: bool,

    /// Pause between two looks with --follow
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2s", requires = "follow")]
    pub interval: Duration,
}
