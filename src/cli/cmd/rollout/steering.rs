//! `rollout promote`, `hold`, `abort`, `rollback`.

use serde::Serialize;

use super::starting::{Said, await_seat, drive, dry_run, try_seat};
use super::{RollbackArgs, SteerArgs};
use crate::app::App;
use crate::checkpoint::diff::{Difference, diff};
use crate::cli::Context;
use crate::cli::cmd::checkpoint::inspection;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report};
use crate::control::LeaseWatch;
use crate::daemon::rollout::{RolloutError, RolloutPlan, Wanted};
use crate::model::Slot;
use crate::rollout::journal::{load_last_rolled_out, load_newest};
use crate::rollout::record::{Direction, Record};
use crate::rollout::request::{Verb, save_request};
use crate::rollout::state::State;
use crate::storage::StorageUri;

pub(super) async fn steer(
    args: &SteerArgs,
    verb: Verb,
    app: &App,
    context: &mut Context,
) -> Result<Status> {
    let (_, plan) = super::plan(app, &args.job)?;
    let newest = load_newest(&plan.control, &plan.job).await?;
    let Some(record) = newest.filter(|record| record.state != State::Ended) else {
        let message = format!("no rollout of {} is under way", args.job);
        return Err(Failure::new(Exit::NotFound, message));
    };
    refuse_in_vain(&record, verb)?;
    save_request(&plan.control, &plan.job, verb, Some(record.rollout_id)).await?;
    let said = format!(
        "asked rollout {} of {} to {}",
        record.rollout_id,
        args.job,
        verb.as_str()
    );
    context.out.confirmation(&Said {
        job: args.job.clone(),
        said,
    })?;
    if args.no_wait {
        return Ok(Exit::Ok.into());
    }
    let seat = match try_seat(&plan, app, &mut LeaseWatch::default()).await {
        Ok(seat) => seat,
        // Whoever drives it takes the request up.
        Err(RolloutError::Held { .. }) => return Ok(Exit::Ok.into()),
        Err(error) => return Err(error.into()),
    };
    let daemon = app.daemon()?;
    if let Some(begun) = plan.find_unfinished().await? {
        return drive(plan, &daemon, seat, begun, context).await;
    }
    plan.leave(seat).await;
    Ok(Exit::Ok.into())
}

/// What cannot be done in the state that the rollout is in is told at once.
fn refuse_in_vain(record: &Record, verb: Verb) -> Result<()> {
    let state = record.state;
    let why = match verb {
        Verb::Abort if state == State::Proving => {
            "the new job has planned a batch of its own: there is no abort any more; `stepdown rollout \
             rollback` after it is over"
        }
        Verb::Abort if matches!(state, State::Aborting | State::RecoverOld) => {
            "it goes back already"
        }
        Verb::Promote
            if !state.is_before_stop() && !matches!(state, State::NeedsHuman | State::Proving) =>
        {
            "the old job was asked to stop already"
        }
        Verb::Hold if !state.is_before_stop() => "the old job was asked to stop already",
        Verb::Start | Verb::Promote | Verb::Hold | Verb::Abort | Verb::Rollback => return Ok(()),
    };
    let message = format!("rollout {} is at {state}: {why}", record.rollout_id);
    Err(Failure::new(Exit::Usage, message))
}

/// What starting on the old checkpoint means.
#[derive(Debug, Serialize)]
struct Loss {
    job: crate::model::JobName,
    old_checkpoint: StorageUri,
    new_checkpoint: StorageUri,
    difference: Difference,
}

impl Report for Loss {
    fn text(&self, _look: Look) -> String {
        let show = |offset: &Option<String>| offset.clone().unwrap_or_else(|| "-".to_owned());
        let mut lines = vec![format!(
            "{} would start on {}, which is behind {}:",
            self.job, self.old_checkpoint, self.new_checkpoint
        )];
        lines.extend(self.difference.committed_offsets.iter().map(|range| {
            let (from, to) = (show(&range.offset.a), show(&range.offset.b));
            format!("  {} {}: {from} to {to}", range.source, range.partition)
        }));
        if self.difference.committed_offsets.is_empty() {
            lines.push("  no offsets differ".to_owned());
        }
        lines.push(
            "That range is read again. Sinks that know a batch by its id (Delta, the file sink, \
             foreachBatch with stored ids) skip batches of the same id, so their rows are missing; all \
             others get the rows a second time."
                .to_owned(),
        );
        lines.join("\n")
    }
}

pub(super) async fn rollback(
    args: &RollbackArgs,
    app: &App,
    context: &mut Context,
) -> Result<Status> {
    let (_, plan) = super::plan(app, &args.job)?;
    refuse_under_way(&plan).await?;
    let Some(last) = load_last_rolled_out(&plan.control, &plan.job).await? else {
        let message = format!(
            "{} was never rolled out: there is nothing to go back to",
            args.job
        );
        return Err(Failure::new(Exit::NotFound, message));
    };
    if last.old.is_none() {
        let message = format!(
            "rollout {} was the first one of {}: there is nothing to go back to",
            last.rollout_id, args.job
        );
        return Err(Failure::new(Exit::NotFound, message));
    }
    let wanted = Wanted {
        strategy: None,
        version: last.old_version.clone(),
        accept_loss: args.accept_loss,
        direction: Direction::Back,
    };
    if args.accept_loss {
        tell_loss(&plan, &last, context).await?;
    }
    if args.dry_run {
        return dry_run(&plan, &wanted, context).await;
    }
    let mut seat = await_seat(&plan, app).await?;
    let daemon = app.daemon()?;
    let begun = match refuse_under_way(&plan).await {
        Ok(()) => plan.begin(&mut seat, &wanted).await.map_err(Failure::from),
        Err(error) => Err(error),
    };
    match begun {
        Ok(begun) => drive(plan, &daemon, seat, begun, context).await,
        Err(error) => {
            plan.leave(seat).await;
            Err(error)
        }
    }
}

async fn refuse_under_way(plan: &RolloutPlan) -> Result<()> {
    let Some((_, record)) = plan.find_unfinished().await? else {
        return Ok(());
    };
    let message = format!(
        "rollout {} is at {}: `stepdown rollout abort {}` takes it back, or wait until it is over",
        record.rollout_id, record.state, plan.job
    );
    Err(Failure::new(Exit::Usage, message))
}

/// Shows by how much the old checkpoint is behind, for every query.
async fn tell_loss(plan: &RolloutPlan, last: &Record, context: &mut Context) -> Result<()> {
    let places = |slot: Option<Slot>| {
        slot.and_then(|slot| plan.slots.get(&slot))
            .map(|of| of.checkpoints.clone())
            .unwrap_or_default()
    };
    for (old, new) in places(last.old).into_iter().zip(places(Some(last.new))) {
        let a = inspection(&old).await?;
        let b = inspection(&new).await?;
        context.out.event(&Loss {
            job: plan.job.clone(),
            old_checkpoint: old.uri(),
            new_checkpoint: new.uri(),
            difference: diff(&a, &b),
        })?;
    }
    Ok(())
}
