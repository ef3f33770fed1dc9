//! `rollout retain`: the end of what rollouts have moved aside.

use serde::Serialize;

use super::RetainArgs;
use crate::app::App;
use crate::checkpoint::retain::Fate;
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report, plain, table};
use crate::daemon::rollout::KeptReplaced;
use crate::model::JobName;

/// The result of `rollout retain`.
#[derive(Debug, Serialize)]
struct RetainReport {
    job: JobName,
    dry_run: bool,
    replaced: Vec<KeptReplaced>,
}

impl Report for RetainReport {
    fn text(&self, look: Look) -> String {
        if self.replaced.is_empty() {
            return format!("nothing of {} was moved aside", self.job);
        }
        let rows: Vec<_> = self
            .replaced
            .iter()
            .map(|one| {
                let fate = match one.fate {
                    Fate::Remove if self.dry_run => "would go",
                    Fate::Remove => "removed",
                    Fate::KeepNewest => "stays: the newest",
                    Fate::KeepLast => "stays: among the last",
                    Fate::KeepYoung => "stays: young",
                    Fate::KeepInUse => "stays: in use",
                };
                vec![
                    plain(one.slot.to_string()),
                    plain(one.replaced.replaced_at.to_string()),
                    plain(fate),
                    plain(one.replaced.uri.to_string()),
                ]
            })
            .collect();
        table(look, &["SLOT", "MOVED ASIDE", "", "CHECKPOINT"], &rows)
    }
}

pub(super) async fn retain(args: &RetainArgs, app: &App, context: &mut Context) -> Result<Status> {
    let (_, plan) = super::plan(app, &args.job)?;
    let Some(keep) = args.keep_for.or(plan.keep) else {
        let message = format!(
            "nothing says how long: --keep-for, or keep in [jobs.{}.rollout]",
            args.job
        );
        return Err(Failure::new(Exit::Usage, message));
    };
    let replaced = if args.dry_run {
        plan.judge_replaced(keep).await?
    } else {
        plan.remove_old_replaced(keep).await?
    };
    context.out.result(&RetainReport {
        job: args.job.clone(),
        dry_run: args.dry_run,
        replaced,
    })?;
    Ok(Exit::Ok.into())
}
