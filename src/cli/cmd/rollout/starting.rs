//! `rollout start`, and driving a rollout to its end.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::StartArgs;
use super::text::{Step, StepsReport, entered_text, steps_of};
use crate::app::{App, strategy};
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::interrupt::Interrupt;
use crate::cli::output::{Format, Look, Report};
use crate::cli::target::resolve_here;
use crate::control::LeaseWatch;
use crate::daemon::rollout::{RolloutError, RolloutPlan, Seat, Wanted};
use crate::rollout::engine::Ending;
use crate::rollout::journal::{Journal, load_last_rolled_out, load_last_tried, load_newest};
use crate::rollout::record::Record;
use crate::rollout::state::Outcome;

/// Files with a version are small.
const MAX_VERSION_BYTES: u64 = 64 << 10;

/// A confirmation in words.
#[derive(Debug, Serialize)]
pub(super) struct Said {
    pub(super) job: crate::model::JobName,
    pub(super) said: String,
}

impl Report for Said {
    fn text(&self, _look: Look) -> String {
        self.said.clone()
    }
}

/// A record that is told as it changes.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Told<'r>(&'r Record);

impl Report for Told<'_> {
    fn text(&self, look: Look) -> String {
        entered_text(self.0, look)
    }
}

pub(super) async fn start(args: &StartArgs, app: &App, context: &mut Context) -> Result<Status> {
    let (_, plan) = super::plan(app, &args.job)?;
    let version = match &args.if_changed {
        Some(file) => Some(read_version(app, file).await?),
        None => args.version.clone(),
    };
    let wanted = Wanted {
        strategy: args.strategy.map(strategy),
        version: version.clone(),
        ..Wanted::default()
    };
    if let (Some(_), Some(version)) = (&args.if_changed, &version)
        && let Some(said) = nothing_new(&plan, version).await?
    {
        let job = args.job.clone();
        context.out.confirmation(&Said { job, said })?;
        return Ok(Exit::Ok.into());
    }
    if args.dry_run {
        return dry_run(&plan, &wanted, context).await;
    }
    let daemon = app.daemon()?;
    let seat = match await_seat(&plan, app).await {
        Ok(seat) => seat,
        // From cron: the one that is at it goes on.
        Err(error @ (RolloutError::Held { .. } | RolloutError::Overtaken { .. }))
            if args.if_changed.is_some() =>
        {
            context.out.confirmation(&Said {
                job: args.job.clone(),
                said: error.to_string(),
            })?;
            return Ok(Exit::Ok.into());
        }
        Err(error @ RolloutError::Held { .. }) => {
            return Err(Failure::new(
                Exit::LeaseHeld,
                format!(
                    "{error}; `stepdown rollout status {} --follow` shows it",
                    args.job
                ),
            ));
        }
        Err(error) => return Err(error.into()),
    };
    let mut seat = seat;
    let by_file = version.as_deref().filter(|_| args.if_changed.is_some());
    match begin(&plan, &mut seat, &wanted, by_file).await {
        Ok(Begun::Rollout(begun)) => drive(plan, &daemon, seat, *begun, context).await,
        Ok(Begun::Nothing(said)) => {
            plan.leave(seat).await;
            let job = args.job.clone();
            context.out.confirmation(&Said { job, said })?;
            Ok(Exit::Ok.into())
        }
        Err(error) => {
            plan.leave(seat).await;
            Err(error)
        }
    }
}

/// What there is to do.
enum Begun {
    /// A rollout that begins, or one that was cut short.
    Rollout(Box<(Journal, Record)>),
    /// Nothing, and why.
    Nothing(String),
}

/// With the seat held: what was found before may have been done by another one since.
async fn begin(
    plan: &RolloutPlan,
    seat: &mut Seat,
    wanted: &Wanted,
    by_file: Option<&str>,
) -> Result<Begun> {
    if let Some(begun) = plan.find_unfinished().await? {
        return Ok(Begun::Rollout(Box::new(begun)));
    }
    if let Some(version) = by_file
        && let Some(said) = nothing_new(plan, version).await?
    {
        return Ok(Begun::Nothing(said));
    }
    let begun = plan.begin(seat, wanted).await?;
    Ok(Begun::Rollout(Box::new(begun)))
}

/// Pause between two looks at a seat that somebody holds.
const LOOK: Duration = Duration::from_millis(500);

/// Takes the seat. One that a process of this host holds is held, one that a dead one left is free; of
/// another host's holder only its beat or its silence can tell, which is waited for. What it has brought to
/// an end meanwhile may be what this one was about to do.
pub(super) async fn await_seat(
    plan: &RolloutPlan,
    app: &App,
) -> std::result::Result<Seat, RolloutError> {
    let until = Instant::now() + plan.lease_ttl + plan.lease_ttl / 2;
    let mut watch = LeaseWatch::default();
    let before = load_newest(&plan.control, &plan.job).await?;
    let mut has_waited = false;
    let seat = loop {
        match try_seat(plan, app, &mut watch).await {
            Err(RolloutError::Held {
                is_alive: false, ..
            }) if Instant::now() < until => {
                has_waited = true;
                tokio::time::sleep(LOOK).await;
            }
            other => break other?,
        }
    };
    if !has_waited {
        return Ok(seat);
    }
    let is_new = |now: &Record| {
        before
            .as_ref()
            .is_none_or(|before| (before.rollout_id, before.state) != (now.rollout_id, now.state))
    };
    let overtaken = match load_newest(&plan.control, &plan.job).await {
        Ok(Some(now)) if is_new(&now) => now.outcome.map(|outcome| RolloutError::Overtaken {
            job: plan.job.clone(),
            rollout_id: now.rollout_id,
            outcome,
        }),
        Ok(_) => None,
        Err(error) => Some(error.into()),
    };
    match overtaken {
        None => Ok(seat),
        Some(error) => {
            plan.leave(seat).await;
            Err(error)
        }
    }
}

/// Tries to take the seat once.
pub(super) async fn try_seat(
    plan: &RolloutPlan,
    app: &App,
    watch: &mut LeaseWatch,
) -> std::result::Result<Seat, RolloutError> {
    let daemon = app.daemon().map_err(|error| RolloutError::Impossible {
        why: error.to_string(),
    })?;
    plan.take_seat(&daemon, watch).await
}

/// Tells a state that was entered; with `--quiet` people are not told.
fn tell(record: &Record, context: &mut Context) -> std::io::Result<()> {
    if context.global.quiet && context.out.format() == Format::Text {
        return Ok(());
    }
    context.out.event(&Told(record))
}

/// Drives a rollout to its end and tells every state.
pub(super) async fn drive(
    mut plan: RolloutPlan,
    daemon: &crate::daemon::Daemon,
    seat: Seat,
    begun: (Journal, Record),
    context: &mut Context,
) -> Result<Status> {
    let interrupt = Interrupt::catch(|| {}, || {})?;
    let (sender, mut told) = tokio::sync::mpsc::channel(64);
    plan.told = Some(sender);
    let job = plan.job.clone();
    let driven = plan.drive(daemon, seat, begun, interrupt.token().clone());
    tokio::pin!(driven);
    let ended = loop {
        tokio::select! {
            biased;
            Some(record) = told.recv() => tell(&record, context)?,
            ended = &mut driven => break ended,
        }
    };
    while let Ok(record) = told.try_recv() {
        tell(&record, context)?;
    }
    let (ending, record) = ended?;
    match ending {
        Ending::Over(Outcome::RolledOut) => Ok(Exit::Ok.into()),
        Ending::Over(outcome) => {
            let message = format!("the rollout of {job} ended as {outcome}: {}", record.reason);
            Err(Failure::new(Exit::Failed, message))
        }
        Ending::NeedsHuman => {
            let message = format!(
                "the rollout of {job} needs somebody to look: {}\n  look:      stepdown rollout status {job}; stepdown status {job}\n  go on:     stepdown rollout promote {job}\n  go back:   stepdown rollout abort {job}",
                record.reason
            );
            Err(Failure::new(Exit::Findings, message))
        }
        Ending::Interrupted => {
            let message = format!(
                "interrupted; the rollout of {job} stays at {}: `stepdown rollout start {job}` goes on with it",
                record.state
            );
            Err(Failure::new(interrupt.exit(), message))
        }
    }
}

/// Why a version that a file says does not begin a rollout; nothing if it does. One that was tried is not tried
/// again by itself: it was taken back, or the job was stopped on purpose.
async fn nothing_new(plan: &RolloutPlan, version: &str) -> Result<Option<String>> {
    if plan.find_unfinished().await?.is_some() {
        return Ok(None);
    }
    let job = &plan.job;
    let is_version = |record: &Record| record.version.as_deref() == Some(version);
    let running = load_last_rolled_out(&plan.control, job).await?;
    if running.as_ref().is_some_and(is_version) {
        return Ok(Some(format!("{job} runs version {version} already")));
    }
    let tried = load_last_tried(&plan.control, job).await?;
    Ok(tried.filter(is_version).map(|tried| {
        let came_to = match (tried.outcome, running) {
            (Some(Outcome::RolledOut), Some(back)) => format!("{} went back", back.rollout_id),
            (Some(outcome), _) => format!("{outcome}: {}", tried.reason),
            (None, _) => tried.reason.clone(),
        };
        format!(
            "version {version} of {job} was tried by rollout {} ({came_to}): not begun again until the file says \
             another; `stepdown rollout start {job} --version {version}` tries it again",
            tried.rollout_id
        )
    }))
}

/// The version that a file says: its text where that is one short line, else its digest.
async fn read_version(app: &App, file: &str) -> Result<String> {
    let uri = resolve_here(file)?;
    let storage = app.storage(&uri.authority)?;
    let bytes = storage.read_small(&uri.path, MAX_VERSION_BYTES).await?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            format!("{uri} is empty: it says no version"),
        ));
    }
    if text.lines().count() == 1 && text.len() <= 200 {
        return Ok(text.to_owned());
    }
    let digest = blake3::hash(&bytes).to_hex();
    Ok(digest.as_str().get(..16).unwrap_or_default().to_owned())
}

/// What would be done, step by step.
pub(super) async fn dry_run(
    plan: &RolloutPlan,
    wanted: &Wanted,
    context: &mut Context,
) -> Result<Status> {
    if let Some((_, record)) = plan.find_unfinished().await? {
        let said = format!(
            "would go on with rollout {} of {}, which is at {}",
            record.rollout_id, record.job, record.state
        );
        context.out.result(&Said {
            job: plan.job.clone(),
            said,
        })?;
        return Ok(Exit::Ok.into());
    }
    let record = plan.draft(wanted).await?;
    let steps: Vec<Step> = steps_of(&record, plan);
    context.out.result(&StepsReport {
        job: record.job.clone(),
        strategy: record.strategy,
        old: record.old,
        new: record.new,
        transfer: record.transfer,
        version: record.version.clone(),
        steps,
    })?;
    Ok(Exit::Ok.into())
}
