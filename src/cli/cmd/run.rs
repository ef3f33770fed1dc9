//! `stepdown run`

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::stop::receipt_text;
use crate::app::{self, App};
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report};
use crate::cli::target::{find_job, resolve_here, slot_of};
use crate::cli::{Context, words};
use crate::config::duration::parse as duration;
use crate::config::{
    EndsWith, Environment, Escalate, Job, JobSlot, OnStopped, Restart, SignalStop, SignalTarget,
    Stop, StopSignal, Trigger,
};
use crate::control::ControlDir;
use crate::daemon::run::{Ask, RunError, RunOptions, Runner};
use crate::model::{Generation, JobName, Slot};
use crate::process::restart::{RestartMode, RestartPolicy};
use crate::stop::Exit as StopExit;
use crate::stop::decide::Outcome;
use crate::stop::receipt::Receipt;
use crate::stop::status::RolloutTag;
use crate::storage::{StoragePath, StorageUri};

/// How long after its command's end `run` tries to write the receipt.
const RECEIPT_DEADLINE: Duration = Duration::from_mins(5);

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

    /// Kill the command when stepdown itself dies
    #[arg(long)]
    pub kill_with_parent: bool,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// The command, after `--`
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,

    // Last: their headings hold for all that follows.
    /// How it is stopped.
    #[command(flatten)]
    pub stop: RunStop,

    /// Whether it is started again.
    #[command(flatten)]
    pub restarts: RunRestarts,
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

    /// Time after which a request of unknown fate is repeated [default: 1m]
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

/// What `run` says at its end, on stderr.
#[derive(Debug, Serialize)]
struct RunReport {
    exit: Option<StopExit>,
    receipt: Option<Box<Receipt>>,
}

impl Report for RunReport {
    fn text(&self, look: Look) -> String {
        match &self.receipt {
            Some(receipt) => receipt_text(receipt, look),
            None => "the command is over".to_owned(),
        }
    }
}

/// The result of `--dry-run`.
#[derive(Debug, Serialize)]
struct DryRun {
    marker: StorageUri,
    control: StorageUri,
    job: JobName,
    slot: Slot,
    command: Vec<String>,
}

impl Report for DryRun {
    fn text(&self, _look: Look) -> String {
        format!(
            "would run {} as {}.{} with marker {}, its state in {}",
            self.command.join(" "),
            self.job,
            self.slot,
            self.marker,
            self.control
        )
    }
}

/// Runs the command.
///
/// # Errors
/// Everything for which nothing was started, and a receipt that could not be written.
pub async fn run(args: RunArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    let (job, slot, of, control, sentinel_dir) = subject(&args, &app)?;
    if args.dry_run {
        let command = args
            .command
            .iter()
            .map(|word| word.to_string_lossy().into_owned());
        context.out.result(&DryRun {
            marker: of.marker.clone(),
            control: control.uri(control.root()),
            job: job.name.clone(),
            slot,
            command: command.collect(),
        })?;
        return Ok(Exit::Ok.into());
    }
    let spec = app.slot_spec(&job, slot, &of, sentinel_dir)?;
    let mut options = options(&args, &app, &job, &of.stop);
    options.rollout = rollout_of(&context.environment, &job.name, slot);
    let runner = Runner::new(app.daemon()?, spec, control, options);
    let end = match runner.run().await {
        Ok(end) => end,
        Err(error) => return Err(failure(error)),
    };
    let status = match (end.exit, &end.receipt) {
        (Some(StopExit::Code { code }), _) => Status::Child(u8::try_from(code & 0xff).unwrap_or(1)),
        (Some(StopExit::Signal { signal }), _) => {
            Status::Child(u8::try_from(128 + signal).unwrap_or(255))
        }
        // The exit code of an adopted command is its own parent's to know.
        (None, Some(receipt)) if receipt.outcome == Outcome::Stopped => Exit::Ok.into(),
        (None, _) => Exit::Failed.into(),
    };
    context.out.confirmation(&RunReport {
        exit: end.exit,
        receipt: end.receipt,
    })?;
    Ok(status)
}

fn failure(error: RunError) -> Failure {
    let exit = match &error {
        RunError::Occupied { .. } => Some(Exit::LeaseHeld),
        RunError::Interrupted(_) => Some(Exit::Interrupted),
        RunError::NoDirectory { .. } => Some(Exit::Usage),
        RunError::MarkerUnknown { .. } | RunError::AttemptUnknown { .. } => Some(Exit::Unreachable),
        RunError::Spawn(error) => match error.exit_code() {
            Some(127) => Some(Exit::CommandNotFound),
            Some(_) => Some(Exit::CannotExecute),
            None => None,
        },
        RunError::Storage(_)
        | RunError::Document(_)
        | RunError::Lease(_)
        | RunError::NoReceipt { .. }
        | RunError::Unfollowed { .. }
        | RunError::System { .. } => None,
    };
    let mut failure = Failure::from(error);
    if let Some(exit) = exit {
        failure.exit = exit;
    }
    failure
}

type Subject = (Job, Slot, JobSlot, ControlDir, Option<StoragePath>);

/// What is run: the configured job, or one made up for the marker.
fn subject(args: &RunArgs, app: &App) -> Result<Subject> {
    let checkpoints = args
        .checkpoint
        .iter()
        .map(|uri| resolve_here(uri))
        .collect::<Result<Vec<_>>>()?;
    let (mut job, slot, mut of, control, sentinel_dir) = match (&args.what.job, &args.what.marker) {
        (Some(name), _) => {
            let job = find_job(app.config(), name)?.clone();
            let (slot, of) = slot_of(&job, args.slot)?;
            let of = of.clone();
            (job, slot, of, app.control()?, None)
        }
        (None, Some(marker)) => {
            let marker = resolve_here(marker)?;
            let (name, slot) = name_of(&marker);
            let state = StorageUri::new(
                marker.authority.clone(),
                marker.path.with_suffix(".stepdown"),
            );
            let of = JobSlot {
                marker,
                checkpoints: Vec::new(),
                copy_to: Vec::new(),
                file_sinks: Vec::new(),
                stop: Stop::Signal(SignalStop::default()),
                start: None,
            };
            let hooks = app.config().hooks.clone();
            let job = Job::unconfigured(name, slot, of.clone(), hooks);
            (job, slot, of, app.control_at(&state)?, Some(state.path))
        }
        (None, None) => {
            return Err(Failure::new(
                Exit::Usage,
                "neither a marker nor a job is named",
            ));
        }
    };
    if job.trigger == Trigger::Appears {
        let message = "`run` makes the marker of its command and stops it when that disappears; \
                       the trigger of this job is \"appears\", so let `watch` look after it";
        return Err(Failure::new(Exit::Usage, message));
    }
    if !checkpoints.is_empty() {
        of.checkpoints = checkpoints;
        if job.on_stopped == OnStopped::Copy && of.copy_to.len() != of.checkpoints.len() {
            let message = format!(
                "job {} copies its checkpoints after a stop, and --checkpoint names {} where copy-to \
                 names {} place(s)",
                job.name,
                of.checkpoints.len(),
                of.copy_to.len()
            );
            return Err(Failure::new(Exit::Usage, message));
        }
    }
    job.drain_deadline = args.stop.drain_deadline.unwrap_or(job.drain_deadline);
    job.kill_deadline = args.stop.kill_deadline.unwrap_or(job.kill_deadline);
    job.escalate = args.stop.escalate.unwrap_or(job.escalate);
    if let Stop::Signal(stop) = &mut of.stop {
        stop.resend_after = args.stop.resend_after.unwrap_or(stop.resend_after);
    }
    Ok((job, slot, of, control, sentinel_dir))
}

/// Job and slot that a marker's name says: `clicks.green` is the slot green of clicks, anything else
/// is the slot blue of a job with a name as near as a job's name can be.
fn name_of(marker: &StorageUri) -> (JobName, Slot) {
    let name = marker.path.name();
    let (job, slot) = match name.rsplit_once('.').map(|(job, slot)| (job, slot.parse())) {
        Some((job, Ok(slot))) => (job, slot),
        Some(_) | None => (name, Slot::Blue),
    };
    (JobName::nearest(job), slot)
}

/// The rollout that starts this slot, as the environment of its start command says.
fn rollout_of(environment: &Environment, job: &JobName, slot: Slot) -> Option<RolloutTag> {
    let is = |name: &str, value: &str| environment.get(name).as_deref() == Some(value);
    // A command within a job may run another job.
    if !is("STEPDOWN_JOB", job.as_str()) || !is("STEPDOWN_SLOT", slot.as_str()) {
        return None;
    }
    let generation = environment.get("STEPDOWN_GENERATION");
    Some(RolloutTag {
        rollout_id: environment.get("STEPDOWN_ROLLOUT_ID")?,
        generation: generation
            .and_then(|text| text.parse().ok())
            .map(Generation),
    })
}

fn options(args: &RunArgs, app: &App, job: &Job, stop: &Stop) -> RunOptions {
    let run = &app.config().run;
    let configured = match stop {
        Stop::Signal(stop) => stop.clone(),
        Stop::Command(_) | Stop::Driver(_) => SignalStop::default(),
    };
    let ask = match stop {
        Stop::Signal(_) => Ask::Signal,
        Stop::Command(stop) => Ask::Command(app::command_options(stop)),
        Stop::Driver(stop) => Ask::Driver {
            heartbeat_timeout: stop.heartbeat_timeout,
        },
    };
    let max_delay = args
        .restarts
        .restart_max_delay
        .unwrap_or(run.restart_max_delay);
    RunOptions {
        argv: args.command.clone(),
        env: Vec::new(),
        rollout: None,
        create_marker: !args.no_create,
        restart: RestartPolicy {
            mode: match args.restarts.restart.unwrap_or(run.restart) {
                Restart::Never => RestartMode::Never,
                Restart::OnFailure => RestartMode::OnFailure,
            },
            first_delay: args
                .restarts
                .restart_min_delay
                .unwrap_or(run.restart_min_delay),
            max_delay,
            stable_after: max_delay,
            max_restarts: Some(args.restarts.max_restarts.unwrap_or(run.max_restarts)),
        },
        die_with_parent: args.kill_with_parent || run.kill_with_parent,
        ask,
        signal: app::stop_signal(args.stop.signal.unwrap_or(configured.signal)),
        target: app::signal_target(args.stop.target.unwrap_or(configured.target)),
        ends_with: app::ends_with(args.stop.ends_with.unwrap_or(configured.ends_with)),
        receipt_deadline: match job.on_stopped {
            OnStopped::Nothing => RECEIPT_DEADLINE,
            OnStopped::Copy => RECEIPT_DEADLINE + job.copy_deadline,
        },
        poll: app.poll_policy(),
    }
}
