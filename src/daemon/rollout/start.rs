//! Start commands: on record before they run, findable again, ended when they are not wanted any more.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::{RolloutSlot, StartIs};
use crate::model::{AttemptId, Slot};
use crate::process::{
    EndsWith, Exit, ProcessState, Signal, SignalTarget, SpawnOptions, observe, send, spawn_gated,
};
use crate::rollout::engine::{ActError, Desk};
use crate::rollout::go::go_path;
use crate::rollout::observation::Task;
use crate::rollout::record::Record;
use crate::rollout::state::State;

use super::RolloutPlan;

/// The start command of one slot, as far as this process runs it.
#[derive(Debug, Default)]
pub(super) struct Start {
    ended: Arc<Mutex<Option<bool>>>,
    is_ours: bool,
}

impl Start {
    /// What is known of the command whose process is on record.
    pub(super) fn look(&self, recorded: Option<&AttemptId>, is: StartIs) -> Task {
        let Some(process) = recorded else {
            return Task::Idle;
        };
        if self.is_ours {
            return match *self.ended.lock().unwrap_or_else(PoisonError::into_inner) {
                None => Task::Busy,
                Some(true) => Task::Done,
                Some(false) => Task::Failed,
            };
        }
        // An earlier stepdown ran it, and how it ended is not known.
        match observe(process, EndsWith::Process) {
            ProcessState::Running { .. } => Task::Busy,
            ProcessState::Stopped { .. } => match is {
                // The job may be on its way: run again, it would be there twice.
                StartIs::Launcher => Task::Unknown,
                StartIs::Job => Task::Idle,
            },
            ProcessState::Unknown { .. } => Task::Unknown,
        }
    }

    /// Runs the start command of `slot`: its process is on record before it becomes the command.
    pub(super) async fn run(
        &mut self,
        plan: &RolloutPlan,
        slot: Slot,
        desk: &mut Desk<'_>,
        changed: &Arc<Notify>,
    ) -> Result<(), ActError> {
        let of = plan.slots.get(&slot).ok_or_else(|| ActError::Failed {
            what: format!("the job has no slot {slot}"),
        })?;
        let options = spawn_options(plan, slot, of, desk.record)?;
        let failed = |error: &dyn std::error::Error| ActError::Failed {
            what: crate::marker::poll::error_chain(error),
        };
        let gated = match spawn_gated(options).await {
            Ok(gated) => gated,
            Err(error) => return Err(failed(&error)),
        };
        let process = gated.attempt().clone();
        if desk.record.state == State::RecoverOld {
            desk.record.restart_process = Some(process);
        } else {
            desk.record.start_process = Some(process);
            desk.record.new_generation = Some(desk.record.generation);
        }
        if let Err(error) = desk.save().await {
            // It never became the command.
            let _cancelled = gated.cancel().await;
            return Err(error.into());
        }
        self.ended = Arc::default();
        self.is_ours = true;
        let mut child = match gated.release().await {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(
                    "the start command cannot be run: {}",
                    crate::marker::poll::error_chain(&error)
                );
                *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(false);
                return Ok(());
            }
        };
        let (ended, changed) = (Arc::clone(&self.ended), Arc::clone(changed));
        tokio::spawn(async move {
            let good = match child.wait().await {
                Ok(Exit::Code(0)) => true,
                Ok(exit) => {
                    tracing::error!("the start command failed: {exit}");
                    false
                }
                Err(error) => {
                    tracing::error!("the end of the start command cannot be told: {error}");
                    false
                }
            };
            *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(good);
            changed.notify_one();
        });
        Ok(())
    }

    /// Ends a start command that runs, with all that it started: SIGTERM, and SIGKILL when it is asked
    /// for again.
    pub(super) fn cancel(process: Option<&AttemptId>, again: bool) {
        let Some(process) = process else {
            return;
        };
        let signal = if again { Signal::KILL } else { Signal::TERM };
        if let Err(error) = send(process, SignalTarget::Group, signal) {
            tracing::warn!("the start command cannot be ended: {error}");
        }
    }
}

/// The placeholders of a word of a start command, with what stands for them.
fn fill(word: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(word.to_owned(), |text, (name, value)| {
        text.replace(&format!("{{{name}}}"), value)
    })
}

fn spawn_options(
    plan: &RolloutPlan,
    slot: Slot,
    of: &RolloutSlot,
    record: &Record,
) -> Result<SpawnOptions, ActError> {
    let Some(start) = &of.start else {
        return Err(ActError::Failed {
            what: format!("slot {slot} has no start command"),
        });
    };
    let recovers = record.state == State::RecoverOld;
    let spec = &of.planned.spec;
    let version = if recovers {
        &record.old_version
    } else {
        &record.version
    };
    let uris: Vec<String> = of
        .checkpoints
        .iter()
        .map(|place| place.uri().to_string())
        .collect();
    let control = plan.control.uri(plan.control.root()).to_string();
    let go = plan
        .control
        .uri(&go_path(&plan.control, &plan.job, slot))
        .to_string();
    let is_held = record.holds() && !recovers;
    let values = [
        ("job", plan.job.to_string()),
        ("slot", slot.to_string()),
        ("rollout-id", record.rollout_id.to_string()),
        ("generation", record.generation.to_string()),
        ("marker", spec.marker.to_string()),
        ("checkpoint", uris.first().cloned().unwrap_or_default()),
        ("checkpoints", uris.join(",")),
        ("control", control.clone()),
        ("go", go.clone()),
        ("version", version.clone().unwrap_or_default()),
    ];
    let argv = start.iter().map(|word| OsString::from(fill(word, &values)));
    let mut options = SpawnOptions::new(argv);
    let variable = |name: &str, value: String| (OsString::from(name), Some(OsString::from(value)));
    options.env = vec![
        variable("STEPDOWN_JOB", plan.job.to_string()),
        variable("STEPDOWN_SLOT", slot.to_string()),
        variable("STEPDOWN_ROLLOUT_ID", record.rollout_id.to_string()),
        variable("STEPDOWN_GENERATION", record.generation.to_string()),
        variable("STEPDOWN_MARKER", spec.marker.to_string()),
        variable(
            "STEPDOWN_CHECKPOINT",
            uris.first().cloned().unwrap_or_default(),
        ),
        variable("STEPDOWN_CHECKPOINTS", uris.join("\n")),
        variable("STEPDOWN_CONTROL", control),
        variable("STEPDOWN_VERSION", version.clone().unwrap_or_default()),
        // A service manager's words to stepdown are none to the job.
        (OsString::from("NOTIFY_SOCKET"), None),
        (OsString::from("WATCHDOG_USEC"), None),
        (OsString::from("WATCHDOG_PID"), None),
        // Empty for a job that is to start its queries at once.
        variable("STEPDOWN_GO", if is_held { go } else { String::new() }),
    ];
    let log = plan.start_log.clone().unwrap_or_else(default_log);
    let log = PathBuf::from(fill(&log.to_string_lossy(), &values));
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir).map_err(|error| ActError::Failed {
            what: format!(
                "the directory {} for what the start command writes cannot be made: {error}; set start-log",
                dir.display()
            ),
        })?;
    }
    options.output = Some(log);
    Ok(options)
}

/// Below the state directory of the user, else in the temporary one: cron has no HOME.
fn default_log() -> PathBuf {
    let home = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = home("XDG_STATE_HOME")
        .or_else(|| home("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(std::env::temp_dir);
    base.join("stepdown").join("{job}.{slot}.{rollout-id}.log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::identify;

    #[test]
    fn placeholders_are_filled_and_others_left() {
        let values = [("slot", "green".to_owned()), ("version", "2.1".to_owned())];
        assert_eq!(fill("app-{version}.{slot}", &values), "app-2.1.green");
        assert_eq!(fill("${HOME} {other}", &values), "${HOME} {other}");
    }

    #[test]
    fn a_launcher_whose_end_nobody_saw_is_not_run_again() {
        let start = Start::default();
        let me = identify(std::process::id()).unwrap();
        let mut gone = me.clone();
        if let AttemptId::Process { start_ticks, .. } = &mut gone {
            // Its number belongs to another process by now.
            *start_ticks += 1;
        }
        for is in [StartIs::Launcher, StartIs::Job] {
            assert_eq!(start.look(None, is), Task::Idle);
            assert_eq!(start.look(Some(&me), is), Task::Busy);
        }
        assert_eq!(start.look(Some(&gone), StartIs::Launcher), Task::Unknown);
        assert_eq!(start.look(Some(&gone), StartIs::Job), Task::Idle);
    }
}
