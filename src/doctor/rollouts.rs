//! Rollouts that are not over: where each stands, and who goes on with it.

use super::{Check, chain};
use crate::app::App;
use crate::control::{ControlDir, LeaseOwner, LeaseScope, inspect_lease};
use crate::model::JobName;
use crate::process::{EndsWith, ProcessState, observe};
use crate::rollout::journal::load_newest;
use crate::rollout::record::Record;
use crate::rollout::state::State;

/// A check for each job that was rolled out, or is.
pub async fn checks(app: &App) -> Vec<Check> {
    let mut checks = Vec::new();
    // That the control directory cannot be used is told by a check of its own.
    let Ok(control) = app.control() else {
        return checks;
    };
    let jobs = app.config().jobs.values();
    for job in jobs.filter(|job| job.rollout.is_some()) {
        let name = format!("rollout {}", job.name);
        match load_newest(&control, &job.name).await {
            Ok(None) => {}
            Ok(Some(record)) => checks.push(check(name, &control, &record).await),
            Err(error) => checks.push(Check::warn(
                name,
                chain(&error),
                format!("`stepdown rollout status {}`", job.name),
            )),
        }
    }
    checks
}

async fn check(name: String, control: &ControlDir, record: &Record) -> Check {
    let job = &record.job;
    if let (State::Ended, Some(outcome)) = (record.state, record.outcome) {
        let found = format!("the last one, {}, ended as {outcome}", record.rollout_id);
        return Check::ok(name, found);
    }
    let dir = control.lease_dir(job, LeaseScope::Rollout);
    let holder = match inspect_lease(control.storage().as_ref(), &dir).await {
        Ok(held) => held,
        Err(error) => {
            return Check::warn(name, chain(&error), "see whether the storage answers");
        }
    };
    let (driven, by) = match holder {
        None => (false, "nobody drives it".to_owned()),
        Some((_, None)) => (true, "another stepdown drives it".to_owned()),
        Some((_, Some(owner))) => driver(&owner),
    };
    let found = format!(
        "{} is at {} since {}: {}; {by}",
        record.rollout_id, record.state, record.since, record.reason
    );
    if record.state == State::NeedsHuman {
        return Check::warn(name, found, needs_human(job));
    }
    if driven {
        return Check::ok(name, found);
    }
    let advice =
        format!("`stepdown rollout start {job}` goes on with it, and so does `stepdown watch`");
    Check::warn(name, found, advice)
}

fn needs_human(job: &JobName) -> String {
    format!(
        "look: `stepdown status {job}`; then `stepdown rollout promote {job}` or `stepdown rollout \
         abort {job}`"
    )
}

/// Whether the holder of the lease lives, as far as this host can tell, and who it is.
fn driver(owner: &LeaseOwner) -> (bool, String) {
    match observe(&owner.process, EndsWith::Process) {
        ProcessState::Running { .. } => (true, format!("process {} drives it", owner.process)),
        ProcessState::Stopped { .. } => (
            false,
            format!("process {} drove it and is gone", owner.process),
        ),
        ProcessState::Unknown { .. } => (
            true,
            format!("process {} of another host has it", owner.process),
        ),
    }
}
