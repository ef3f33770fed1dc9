//! The checks of a new job: batches that it must have committed, measures of how it does, and a program of
//! the operator.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::measure::Measure;
use crate::process::program;
use crate::rollout::observation::Gate;

/// What is checked.
#[derive(Debug, Clone)]
pub struct GateOptions {
    /// The program: exit code 0 passes, 3 fails for good, anything else is tried again.
    pub argv: Option<Vec<String>>,
    /// Pause between two tries.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// How many in a row must pass.
    pub passes: u32,
    /// How many batches of its own the job must have committed; 0 for one that is held.
    pub commits: u32,
    /// By how many offsets a job that runs beside the old one may be behind.
    pub max_lag: Option<u32>,
    /// How many times as long as the old job's its batches may take.
    pub max_slowdown: Option<f64>,
}

/// A check that goes on by itself.
#[derive(Debug, Default)]
pub(super) struct GateTask {
    result: Arc<Mutex<Gate>>,
    task: Option<JoinHandle<()>>,
}

/// The exit code of a program that says no for good.
const NO: i32 = 3;

impl GateTask {
    /// What it says now; begins it where it has not begun.
    pub(super) fn look(
        &mut self,
        options: &GateOptions,
        measure: Option<Measure>,
        env: Vec<(String, String)>,
        changed: &Arc<Notify>,
    ) -> Gate {
        if options.argv.is_none() && measure.is_none() {
            return Gate::Passed;
        }
        let result = Arc::clone(&self.result);
        self.task.get_or_insert_with(|| {
            let (options, changed) = (options.clone(), Arc::clone(changed));
            tokio::spawn(async move {
                let end = check(measure.as_ref(), &options, &env).await;
                *result.lock().unwrap_or_else(PoisonError::into_inner) = end;
                changed.notify_one();
            })
        });
        *self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it; the next look begins it anew.
    pub(super) fn reset(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.result = Arc::default();
    }
}

async fn check(measure: Option<&Measure>, options: &GateOptions, env: &[(String, String)]) -> Gate {
    let mut passed = 0;
    let mut told = String::new();
    loop {
        let objection = match measure {
            Some(measure) => measure.objection().await,
            None => None,
        };
        if let Some(why) = objection {
            passed = 0;
            if why != told {
                tracing::info!("not yet: {why}");
                told = why;
            }
        } else {
            match &options.argv {
                None => passed += 1,
                Some(argv) => match try_once(argv, options.timeout, env).await {
                    Some(0) => passed += 1,
                    Some(NO) => return Gate::Failed,
                    _ => passed = 0,
                },
            }
        }
        if passed >= options.passes {
            return Gate::Passed;
        }
        tokio::time::sleep(options.interval).await;
    }
}

/// The exit code of one try; `None` if it has none.
async fn try_once(argv: &[String], timeout: Duration, env: &[(String, String)]) -> Option<i32> {
    let mut command = program::command(argv);
    command.envs(env.iter().cloned());
    match program::run(command, timeout).await {
        Ok(status) => {
            tracing::debug!(%status, "the check ran");
            status.code()
        }
        Err(error) => {
            tracing::warn!("the check {error}");
            None
        }
    }
}
