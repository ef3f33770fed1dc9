//! `stepdown watch`

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sd_notify::NotifyState;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::{App, ConfiguredSlots};
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report, plain, table};
use crate::cli::target::find_job;
use crate::config::Job;
use crate::daemon::rollout::Standby;
use crate::daemon::signals::Signals;
use crate::daemon::watch::{Changes, SlotSource, Watcher};
use crate::model::{JobName, Slot};
use crate::process::{Signal, heap};
use crate::storage::StorageUri;

/// How long the engines may take to come to a safe point after the first signal.
const DRAIN: Duration = Duration::from_secs(30);

/// Pause between two looks at the daemon's own health, where no watchdog asks for less.
const HEALTH: Duration = Duration::from_secs(5);

/// How long after a start or a reload the memory that these took is given back.
const SETTLED: Duration = Duration::from_secs(20);

/// Watch the markers of all configured jobs and act on them
///
/// Rollouts of these jobs that a file in `requests/` asks for are begun, and those that nobody drives are
/// gone on with.
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

/// The result of `--dry-run`.
#[derive(Debug, Serialize)]
struct DryRun {
    slots: Vec<DrySlot>,
}

#[derive(Debug, Serialize)]
struct DrySlot {
    job: JobName,
    slot: Slot,
    marker: StorageUri,
    backend: &'static str,
    checkpoints: Vec<StorageUri>,
}

impl Report for DryRun {
    fn text(&self, look: Look) -> String {
        let rows: Vec<_> = self
            .slots
            .iter()
            .map(|slot| {
                vec![
                    plain(slot.job.to_string()),
                    plain(slot.slot.to_string()),
                    plain(slot.marker.to_string()),
                    plain(slot.backend),
                    plain(slot.checkpoints.len().to_string()),
                ]
            })
            .collect();
        table(
            look,
            &["JOB", "SLOT", "MARKER", "BACKEND", "CHECKPOINTS"],
            &rows,
        )
    }
}

/// All slots of the configuration, or those of the jobs that were named.
fn plan(app: App, only: &[JobName]) -> Result<ConfiguredSlots> {
    for name in only {
        find_job(app.config(), name)?;
    }
    if app.config().jobs.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "the configuration has no jobs to watch",
        ));
    }
    let wants = |job: &Job| only.is_empty() || only.contains(&job.name);
    Ok(ConfiguredSlots::new(app, wants)?)
}

/// What `--dry-run` says.
fn dry_run(slots: &ConfiguredSlots) -> Result<DryRun> {
    let mut shown = Vec::with_capacity(slots.count());
    for at in 0..slots.count() {
        let planned = slots.plan(at)?;
        let spec = &planned.spec;
        shown.push(DrySlot {
            job: spec.job.clone(),
            slot: spec.slot,
            marker: spec.marker.clone(),
            backend: planned.backend.name(),
            checkpoints: spec
                .checkpoints
                .iter()
                .map(|(_, uri)| uri.clone())
                .collect(),
        });
    }
    Ok(DryRun { slots: shown })
}

/// Runs the command.
///
/// # Errors
/// All problems of the configuration at the start; a task of the daemon that failed.
pub async fn run(args: WatchArgs, context: &mut Context) -> Result<Status> {
    heap::share();
    let slots = plan(context.open()?, &args.job)?;
    if args.dry_run {
        context.out.result(&dry_run(&slots)?)?;
        return Ok(Exit::Ok.into());
    }
    let mut signals = Signals::catch(&[Signal::TERM, Signal::INT, Signal::HUP])?;
    let shutdown = CancellationToken::new();
    let daemon = slots.app().daemon()?;
    let mut watcher = Watcher::new(daemon.clone(), shutdown.clone());
    let standby = Standby::new(daemon, shutdown.clone());
    let count = slots.count();
    apply(&mut watcher, &standby, slots)?;
    tracing::info!(
        slots = count,
        directories = watcher.directories(),
        "watching"
    );
    tell(&[NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled();
    let mut health = tokio::time::interval(watchdog.map_or(HEALTH, |time| time / 3).min(HEALTH));
    let mut settles_at = Some(Instant::now() + SETTLED);
    let ended_by = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::HUP => {
                    reload(&args, context, &mut watcher, &standby);
                    settles_at = Some(Instant::now() + SETTLED);
                }
                other => break other,
            },
            _ = health.tick() => {
                let mut broken = watcher.broken();
                if standby.is_broken() {
                    broken.push("rollouts".to_owned());
                }
                if !broken.is_empty() {
                    tell(&[NotifyState::Stopping]);
                    let message = format!("the watch of {} failed", broken.join(", "));
                    return Err(Failure::new(Exit::Failed, message));
                }
                if watchdog.is_some() {
                    tell(&[NotifyState::Watchdog]);
                }
                if settles_at.is_some_and(|at| at <= Instant::now()) {
                    settles_at = None;
                    heap::give_back();
                }
            }
        }
    };
    tell(&[NotifyState::Stopping]);
    tracing::info!(signal = %ended_by, "ending; the jobs run on");
    shutdown.cancel();
    let second = async { while signals.next().await == Signal::HUP {} };
    tokio::select! {
        (slots, rollouts) = async { tokio::join!(watcher.join(DRAIN), standby.join(DRAIN)) } => {
            if !slots || !rollouts {
                let message = "not everything came to a safe point in time; a later watch takes \
                               up what was begun";
                return Err(Failure::new(Exit::DeadlinePassed, message));
            }
        }
        () = second => return Ok(Exit::Interrupted.into()),
    }
    Ok(Exit::Ok.into())
}

fn apply(watcher: &mut Watcher, standby: &Standby, slots: ConfiguredSlots) -> Result<Changes> {
    let policy = slots.app().poll_policy();
    let slots = Arc::new(slots);
    let source: Arc<dyn SlotSource> = Arc::<ConfiguredSlots>::clone(&slots);
    let changes = watcher.apply(&source, policy)?;
    standby.apply(slots);
    Ok(changes)
}

/// Reads the configuration again; a wrong one changes nothing.
fn reload(args: &WatchArgs, context: &mut Context, watcher: &mut Watcher, standby: &Standby) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
    let applied = context
        .open()
        .and_then(|app| apply(watcher, standby, plan(app, &args.job)?));
    match applied {
        Ok(changes) => tracing::info!(?changes, "the configuration was read again"),
        Err(failure) => {
            tracing::error!("the configuration was not taken over: {:#}", failure.error);
        }
    }
    tell(&[NotifyState::Ready]);
}

/// Tells systemd, if it asked to be told.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd was not told: {error}");
    }
}
