//! `stepdown watch`

use clap::Args;

use crate::model::JobName;

/// Watch the markers of all configured jobs and act on them
///
/// Runs until it is told to end. The first SIGTERM or SIGINT lets what has begun come to a safe point,
/// the second ends it at once; the jobs are not touched by either. SIGHUP reads the configuration
/// again.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  stepdown watch
  stepdown watch --job clicks --dry-run -v")]
pub struct WatchArgs {
    /// Watch only this job; may be repeated
    #[arg(long, value_name = "JOB")]
    pub job: Vec<JobName>,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}
