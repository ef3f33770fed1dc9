//! Hooks: the operator's programs that are told what happened.

use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::model::{JobName, Slot};
use crate::process::program;
use crate::stop::decide::Outcome;
use crate::stop::proof::Verdict;
use crate::stop::receipt::Receipt;
use crate::storage::StorageUri;

/// How many hooks run at once: a NameNode that does not answer is an alarm of every job.
static AT_ONCE: Semaphore = Semaphore::const_new(8);

/// The hooks of one slot.
#[derive(Debug, Clone)]
pub struct Hooks {
    /// The job, for the environment.
    pub job: JobName,
    /// The slot, for the environment.
    pub slot: Slot,
    /// What is run; the same for all jobs that name none of their own.
    pub programs: Arc<HookPrograms>,
}

/// The programs; each is a program and its arguments, run without a shell.
#[derive(Debug, Clone)]
pub struct HookPrograms {
    /// After a clean stop.
    pub on_clean: Option<Vec<String>>,
    /// After a dirty stop.
    pub on_dirty: Option<Vec<String>>,
    /// After a stop that nothing proves.
    pub on_unproven: Option<Vec<String>>,
    /// When the attempt ended by itself.
    pub on_died: Option<Vec<String>>,
    /// When an alarm comes on.
    pub on_alarm: Option<Vec<String>>,
    /// How long each may take; then it is killed.
    pub timeout: Duration,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum HookEvent<'a> {
    /// A receipt was written.
    Receipt {
        /// The receipt.
        receipt: &'a Receipt,
        /// Its file.
        uri: &'a StorageUri,
    },
    /// An alarm came on.
    Alarm {
        /// Its name.
        kind: &'a str,
        /// What is wrong.
        text: &'a str,
    },
}

impl Hooks {
    /// No hooks.
    pub fn none(job: JobName, slot: Slot) -> Self {
        let programs = HookPrograms {
            on_clean: None,
            on_dirty: None,
            on_unproven: None,
            on_died: None,
            on_alarm: None,
            timeout: Duration::from_mins(1),
        };
        Self {
            job,
            slot,
            programs: Arc::new(programs),
        }
    }

    fn select(&self, event: HookEvent<'_>) -> Option<(&'static str, &Vec<String>)> {
        let (name, argv) = match event {
            HookEvent::Alarm { .. } => ("on-alarm", &self.programs.on_alarm),
            HookEvent::Receipt { receipt, .. } => match (receipt.outcome, receipt.proof.verdict) {
                (Outcome::Died, _) => ("on-died", &self.programs.on_died),
                (_, Verdict::Clean) => ("on-clean", &self.programs.on_clean),
                (_, Verdict::Dirty) => ("on-dirty", &self.programs.on_dirty),
                (_, Verdict::Unproven) => ("on-unproven", &self.programs.on_unproven),
            },
        };
        argv.as_ref().map(|argv| (name, argv))
    }

    fn command(&self, name: &str, argv: &[String], event: HookEvent<'_>) -> Command {
        let mut command = program::command(argv);
        command
            .env("STEPDOWN_HOOK", name)
            .env("STEPDOWN_JOB", self.job.as_str())
            .env("STEPDOWN_SLOT", self.slot.as_str());
        match event {
            HookEvent::Receipt { receipt, uri } => {
                command
                    .env("STEPDOWN_STOP_ID", receipt.stop_id.as_str())
                    .env("STEPDOWN_ATTEMPT", receipt.attempt.to_string())
                    .env("STEPDOWN_RECEIPT", uri.to_string())
                    .env("STEPDOWN_PROOF", receipt.proof.verdict.as_str())
                    .env("STEPDOWN_COPIES", copies(receipt));
            }
            HookEvent::Alarm { kind, text } => {
                command
                    .env("STEPDOWN_ALARM", kind)
                    .env("STEPDOWN_ALARM_TEXT", text);
            }
        }
        command
    }

    /// Runs the hook of `event`, if there is one, and waits for its end, at most for its time-out.
    /// What goes wrong is logged: a stop that is over cannot fail any more.
    pub async fn run(&self, event: HookEvent<'_>) {
        let Some((name, argv)) = self.select(event) else {
            return;
        };
        let command = self.command(name, argv, event);
        finish(name, command, self.programs.timeout).await;
    }

    /// As [`Hooks::run`], without waiting.
    pub fn spawn(&self, event: HookEvent<'_>) {
        let Some((name, argv)) = self.select(event) else {
            return;
        };
        let command = self.command(name, argv, event);
        tokio::spawn(finish(name, command, self.programs.timeout));
    }
}

/// The URIs of the copies that were made, a line each.
fn copies(receipt: &Receipt) -> String {
    let made = receipt.copies.iter().filter(|copy| copy.end.is_copied());
    let uris: Vec<String> = made.map(|copy| copy.destination.to_string()).collect();
    uris.join("\n")
}

/// Runs a hook to its end, at most for `timeout`; what goes wrong is logged.
pub(super) async fn finish(name: &'static str, command: Command, timeout: Duration) {
    // Never closed, so there is always a permit in the end.
    let _permit = AT_ONCE.acquire().await;
    match program::run(command, timeout).await {
        Ok(status) if status.success() => tracing::info!(hook = name, "the hook ran"),
        Ok(status) => tracing::error!(hook = name, "the hook failed: {status}"),
        Err(error) => tracing::error!(hook = name, "the hook {error}"),
    }
}
