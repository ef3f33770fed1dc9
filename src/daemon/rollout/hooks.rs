//! The hooks of rollouts.

use std::time::Duration;

use tokio::process::Command;

use tokio::task::JoinSet;

use crate::daemon::hooks::finish;
use crate::process::program;
use crate::rollout::record::Record;
use crate::rollout::state::{Outcome, State};

/// The programs; each is a program and its arguments, run without a shell.
#[derive(Debug, Clone, Default)]
pub struct RolloutHookPrograms {
    /// A rollout began.
    pub on_start: Option<Vec<String>>,
    /// The old job is stopped.
    pub on_stopped: Option<Vec<String>>,
    /// The new job runs.
    pub on_success: Option<Vec<String>>,
    /// It ended in any other way.
    pub on_failure: Option<Vec<String>>,
    /// Somebody has to look.
    pub on_needs_human: Option<Vec<String>>,
    /// How long each may take; then it is killed.
    pub timeout: Duration,
}

impl RolloutHookPrograms {
    fn of_state(&self, record: &Record) -> Option<(&'static str, &Vec<String>)> {
        let (name, argv) = match (record.state, record.outcome) {
            // Not of the slots that follow in `rolling`.
            (State::Preparing, _) if record.path.len() == 1 => ("on-start", &self.on_start),
            (State::Stopped, _) => ("on-stopped", &self.on_stopped),
            (State::Ended, Some(Outcome::RolledOut)) => ("on-success", &self.on_success),
            (State::Ended, _) => ("on-failure", &self.on_failure),
            (State::NeedsHuman, _) => ("on-needs-human", &self.on_needs_human),
            (
                State::Preparing
                | State::Starting
                | State::Held
                | State::Shadow
                | State::Stopping
                | State::Cutover
                | State::Proving
                | State::Aborting
                | State::RecoverOld,
                _,
            ) => return None,
        };
        argv.as_ref().map(|argv| (name, argv))
    }

    /// Begins to run the hook of the state that was entered, if it has one; `running` has it then.
    pub(super) fn run(&self, record: &Record, running: &mut JoinSet<()>) {
        if let Some((name, argv)) = self.of_state(record) {
            let command = command(name, argv, record, &record.reason);
            running.spawn(finish(name, command, self.timeout));
        }
    }

    /// Begins to run `on-needs-human` for an alarm in a state that goes on.
    pub(super) fn alarm(&self, record: &Record, why: &str, running: &mut JoinSet<()>) {
        if record.state == State::NeedsHuman {
            return;
        }
        if let Some(argv) = &self.on_needs_human {
            let command = command("on-needs-human", argv, record, why);
            running.spawn(finish("on-needs-human", command, self.timeout));
        }
    }
}

fn command(name: &str, argv: &[String], record: &Record, why: &str) -> Command {
    let mut command = program::command(argv);
    command
        .env("STEPDOWN_HOOK", name)
        .env("STEPDOWN_JOB", record.job.as_str())
        .env("STEPDOWN_ROLLOUT_ID", record.rollout_id.to_string())
        .env("STEPDOWN_ROLLOUT_STATE", record.state.as_str())
        .env("STEPDOWN_ROLLOUT_REASON", why)
        .env(
            "STEPDOWN_OLD_SLOT",
            record.old.map_or("", |slot| slot.as_str()),
        )
        .env("STEPDOWN_NEW_SLOT", record.new.as_str())
        .env(
            "STEPDOWN_VERSION",
            record.version.as_deref().unwrap_or_default(),
        )
        .env(
            "STEPDOWN_ROLLOUT_OUTCOME",
            record.outcome.map_or("", Outcome::as_str),
        );
    command
}
