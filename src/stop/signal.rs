//! The `signal` backend: a signal to a process of this host, or to its whole group.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use super::driver::observe_status;
use super::status::{Phase, Seat, StatusBoard};
use super::{
    Backend, BackendError, Exit, Freshness, Observation, StopOrder, Way, await_process,
    await_status_news, seat_of,
};
use crate::model::{AttemptId, JobName, Slot};
use crate::process::{
    self, EndsWith, Group, GroupError, IdentityError, PidFileError, ProcessState, Signal,
    SignalError, SignalTarget,
};

/// Where the backend learns which process runs in the slot.
#[derive(Debug, Clone)]
pub enum AttemptSource {
    /// It is given: the child of `run`.
    Known(AttemptId),
    /// From the status file of the slot.
    Status {
        /// Where the file is looked up.
        board: Arc<StatusBoard>,
        /// The job.
        job: JobName,
        /// The slot.
        slot: Slot,
    },
    /// From a file that holds a process id.
    PidFile(PathBuf),
}

/// What to send to whom.
#[derive(Debug, Clone)]
pub struct SignalOptions {
    /// Where the process is learned from.
    pub source: AttemptSource,
    /// The signal that asks.
    pub signal: Signal,
    /// Who gets it.
    pub target: SignalTarget,
    /// When the attempt counts as over.
    pub ends_with: EndsWith,
}

/// Asks by a signal.
#[derive(Debug)]
pub struct SignalBackend {
    options: SignalOptions,
    /// The attempt's group, as it was while its leader lived: without it nobody could tell whose it is.
    group: Mutex<Option<Group>>,
}

impl From<process::Exit> for Exit {
    fn from(exit: process::Exit) -> Self {
        match exit {
            process::Exit::Code(code) => Exit::Code { code },
            process::Exit::Signal { number, .. } => Exit::Signal { signal: number },
        }
    }
}

impl SignalBackend {
    /// The backend of one slot.
    pub fn new(options: SignalOptions) -> Self {
        Self {
            options,
            group: Mutex::new(None),
        }
    }

    fn failed(why: String) -> BackendError {
        BackendError::Failed {
            backend: "signal",
            why,
        }
    }

    /// Takes the group of an attempt for known.
    pub fn remember(&self, group: Group) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group);
    }

    /// Looks at the group of an attempt that runs, unless it is known.
    fn see_group(&self, attempt: &AttemptId) {
        let uses_group =
            self.options.target == SignalTarget::Group || self.options.ends_with == EndsWith::Group;
        if uses_group
            && self.group_of(attempt).is_none()
            && let Ok(group) = Group::of(attempt)
        {
            self.remember(group);
        }
    }

    fn group_of(&self, attempt: &AttemptId) -> Option<Group> {
        let known = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .as_ref()
            .filter(|group| group.attempt() == attempt)
            .cloned()
    }

    fn send(
        &self,
        attempt: &AttemptId,
        target: SignalTarget,
        signal: Signal,
    ) -> Result<(), BackendError> {
        self.see_group(attempt);
        let sent = match (target, self.group_of(attempt)) {
            (SignalTarget::Group, Some(group)) => group.signal(signal),
            (SignalTarget::Group, None) | (SignalTarget::Process, _) => {
                process::send(attempt, target, signal)
            }
        };
        match sent {
            // One that is over needs no signal; the next observation says so.
            Ok(_) => Ok(()),
            Err(SignalError::Unknown { why }) => Err(BackendError::OutOfReach {
                attempt: attempt.clone(),
                why,
            }),
            Err(error) => Err(Self::failed(crate::marker::poll::error_chain(&error))),
        }
    }
}

#[async_trait]
impl Backend for SignalBackend {
    fn name(&self) -> &'static str {
        "signal"
    }

    async fn find_attempt(&self) -> Result<Option<AttemptId>, BackendError> {
        match &self.options.source {
            AttemptSource::Known(attempt) => Ok(Some(attempt.clone())),
            AttemptSource::Status { board, job, slot } => {
                let status = board.load(job, *slot).await?;
                let Some(status) = status.filter(|status| status.phase != Phase::Ended) else {
                    return Ok(None);
                };
                // A status file outlives a host that crashed.
                match process::observe(&status.attempt, self.options.ends_with) {
                    ProcessState::Stopped { .. } => Ok(None),
                    ProcessState::Running { .. } | ProcessState::Unknown { .. } => {
                        Ok(Some(status.attempt.clone()))
                    }
                }
            }
            AttemptSource::PidFile(path) => match process::read_pid_file(path) {
                Ok(attempt) => Ok(Some(attempt)),
                Err(
                    PidFileError::Missing { .. }
                    | PidFileError::Stale { .. }
                    | PidFileError::Process {
                        source: IdentityError::NotRunning(_),
                        ..
                    },
                ) => Ok(None),
                Err(error) => Err(Self::failed(crate::marker::poll::error_chain(&error))),
            },
        }
    }

    fn check_reach(&self, attempt: &AttemptId) -> Result<(), BackendError> {
        match process::observe(attempt, EndsWith::Process) {
            ProcessState::Unknown { why } => Err(BackendError::OutOfReach {
                attempt: attempt.clone(),
                why,
            }),
            ProcessState::Running { .. } | ProcessState::Stopped { .. } => Ok(()),
        }
    }

    async fn request_stop(&self, attempt: &AttemptId, _: &StopOrder) -> Result<(), BackendError> {
        self.send(attempt, self.options.target, self.options.signal)
    }

    async fn observe(&self, attempt: &AttemptId, freshness: Freshness) -> Observation {
        let exit = match process::observe(attempt, self.options.ends_with) {
            ProcessState::Running { .. } => {
                self.see_group(attempt);
                return Observation::Running;
            }
            ProcessState::Stopped { exit, .. } => exit.map(Exit::from),
            ProcessState::Unknown { why } => {
                // Of another host's process only its own status file can tell.
                let AttemptSource::Status { board, job, slot } = &self.options.source else {
                    return Observation::Unknown { why };
                };
                return match board.load_as(job, *slot, freshness).await {
                    Ok(status) => observe_status(status.as_deref(), attempt),
                    Err(error) => Observation::Unknown {
                        why: error.to_string(),
                    },
                };
            }
        };
        match self.find_attempt().await {
            Ok(Some(other)) if other != *attempt => Observation::Restarted { attempt: other },
            // Whether there is a new one cannot be told now; that this one is over can.
            Ok(_) | Err(_) => Observation::Stopped { exit },
        }
    }

    async fn await_change(&self, attempt: &AttemptId, at_most: Duration) {
        await_process(attempt, self.options.ends_with, at_most).await;
    }

    async fn await_news(&self, attempt: Option<&AttemptId>, pace: Duration) {
        let ends_with = self.options.ends_with;
        match (&self.options.source, attempt) {
            (AttemptSource::Status { board, job, slot }, attempt) => {
                await_status_news(board, job, *slot, attempt, ends_with, pace).await;
            }
            (AttemptSource::Known(_) | AttemptSource::PidFile(_), Some(attempt)) => {
                Box::pin(await_process(attempt, ends_with, pace)).await;
            }
            (AttemptSource::Known(_) | AttemptSource::PidFile(_), None) => {
                tokio::time::sleep(pace).await;
            }
        }
    }

    fn told_by(&self, attempt: Option<&AttemptId>) -> Option<Seat<'_>> {
        match &self.options.source {
            AttemptSource::Status { board, job, slot } => seat_of(board, job, *slot, attempt),
            AttemptSource::Known(_) | AttemptSource::PidFile(_) => None,
        }
    }

    async fn force(&self, attempt: &AttemptId, _: &StopOrder) -> Result<(), BackendError> {
        // All that its end waits for. A process without a group of its own is all there is of it.
        let target = match self.options.ends_with {
            EndsWith::Group if !leads_no_group(attempt) => SignalTarget::Group,
            EndsWith::Group => SignalTarget::Process,
            EndsWith::Process => self.options.target,
        };
        self.send(attempt, target, Signal::KILL)
    }

    fn drains_itself(&self) -> bool {
        false
    }

    async fn way(&self, _: &AttemptId, _: Timestamp) -> Way {
        Way::Asked
    }

    async fn has_drained(&self, _: &AttemptId) -> Option<bool> {
        None
    }

    async fn reports_running(&self, _: &AttemptId) -> bool {
        false
    }
}

/// Whether the attempt is known to lead no group.
fn leads_no_group(attempt: &AttemptId) -> bool {
    matches!(
        Group::of(attempt),
        Err(GroupError::NotLeader { .. } | GroupError::Init)
    )
}
