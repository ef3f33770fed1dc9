//! A process that this one started: its end with its exit code, and its stops by job control.

use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, waitid};
use tokio::signal::unix::{Signal as SignalStream, SignalKind};
use tokio::time::timeout;

use crate::model::AttemptId;

use super::adopt::adopt;
use super::exit::Exit;
use super::group::Group;
use super::identity::{EndsWith, ProcessState};
use super::stat::from_pid;

/// The kernel's word comes by SIGCHLD; this is for one that got lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a child that is to end at once may take for it.
const LAST_STEP: Duration = Duration::from_secs(5);

/// What happened to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildEvent {
    /// Job control stopped it, by the signal of this number.
    Stopped {
        /// SIGTSTP (Ctrl-Z), SIGTTIN, SIGTTOU or SIGSTOP.
        signal: i32,
    },
    /// It ended, and the dead is buried.
    Ended(Exit),
}

/// Why a child's end cannot be told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WaitError {
    /// Something else in this process took the exit code.
    #[error("child {pid} ended, and its exit code was taken elsewhere")]
    Taken {
        /// The child.
        pid: u32,
    },
    /// The system refused.
    #[error("waiting for child {pid} failed")]
    System {
        /// The child.
        pid: u32,
        /// What the system said.
        source: Errno,
    },
}

/// The stream that tells of a change of any child. To be open before the child is started: what
/// came before is not told.
pub(super) fn watch_children() -> std::io::Result<SignalStream> {
    tokio::signal::unix::signal(SignalKind::child())
}

/// A process number of a child, until its death is noted.
#[derive(Debug)]
pub(super) struct Reaper {
    pid: Pid,
    changes: SignalStream,
    ended: Option<Result<Exit, WaitError>>,
}

impl Reaper {
    pub(super) fn new(pid: Pid, changes: SignalStream) -> Reaper {
        Reaper {
            pid,
            changes,
            ended: None,
        }
    }

    /// Waits for the end.
    pub(super) async fn wait(&mut self) -> Result<Exit, WaitError> {
        loop {
            if let ChildEvent::Ended(exit) = self.next_event().await? {
                return Ok(exit);
            }
        }
    }

    /// Waits for the next stop or the end.
    async fn next_event(&mut self) -> Result<ChildEvent, WaitError> {
        loop {
            if let Some(event) = self.poll_event()? {
                return Ok(event);
            }
            // A timeout and a closed stream mean the same: look.
            let _ = timeout(LOOK_AGAIN, self.changes.recv()).await;
        }
    }

    /// What happened since the last look, without waiting.
    fn poll_event(&mut self) -> Result<Option<ChildEvent>, WaitError> {
        if let Some(ended) = &self.ended {
            return ended.clone().map(|exit| Some(ChildEvent::Ended(exit)));
        }
        let pid = from_pid(self.pid);
        let options = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        let ended = match waitid(WaitId::Pid(self.pid), options) {
            Ok(None) | Err(Errno::INTR) => return Ok(None),
            Ok(Some(status)) => match event_of(&status) {
                Some(ChildEvent::Ended(exit)) => Ok(exit),
                other => return Ok(other),
            },
            Err(Errno::CHILD) => Err(WaitError::Taken { pid }),
            Err(source) => return Err(WaitError::System { pid, source }),
        };
        self.ended = Some(ended.clone());
        ended.map(|exit| Some(ChildEvent::Ended(exit)))
    }

    /// Kills the child and waits for its end, for a few seconds.
    pub(super) async fn kill(&mut self) {
        // As long as its death is not noted, nobody else can have the number.
        if self.ended.is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
        }
        let _ = timeout(LAST_STEP, self.wait()).await;
    }

    /// Waits for the end of a child that has nothing left to do, and kills it if it does not come.
    pub(super) async fn wait_or_kill(&mut self) -> Option<Result<Exit, WaitError>> {
        let ended = timeout(LAST_STEP, self.wait()).await.ok();
        if ended.is_none() {
            self.kill().await;
        }
        ended
    }
}

/// A child of this process. To drop it does nothing to the process.
#[derive(Debug)]
pub struct Child {
    reaper: Reaper,
    attempt: AttemptId,
    group: Option<Group>,
}

impl Child {
    pub(super) fn new(reaper: Reaper, attempt: AttemptId, group: Option<Group>) -> Child {
        Child {
            reaper,
            attempt,
            group,
        }
    }

    /// The child as an attempt.
    pub fn attempt(&self) -> &AttemptId {
        &self.attempt
    }

    /// The group that the child leads; none if it shares stepdown's.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    pub(super) fn reaper(&mut self) -> &mut Reaper {
        &mut self.reaper
    }

    /// Waits for the child to end, as long as it takes. Cancel safe; after the end it answers the
    /// same again.
    ///
    /// # Errors
    /// [`WaitError`].
    pub async fn wait(&mut self) -> Result<Exit, WaitError> {
        self.reaper.wait().await
    }

    /// Waits for the next stop by job control, or for the end. Cancel safe; each stop is told once.
    ///
    /// # Errors
    /// [`WaitError`].
    pub async fn next_event(&mut self) -> Result<ChildEvent, WaitError> {
        self.reaper.next_event().await
    }

    /// Waits until nobody of the child's group is left, at most this long; after [`Child::wait`].
    /// Answers what was seen last: [`ProcessState::Stopped`], or who or what is left at the deadline.
    pub async fn await_group_end(&self, timeout: Duration) -> ProcessState {
        let ends_with = match self.group {
            Some(_) => EndsWith::Group,
            None => EndsWith::Process,
        };
        adopt(self.attempt.clone(), ends_with)
            .await_end(timeout)
            .await
    }
}

fn event_of(status: &WaitIdStatus) -> Option<ChildEvent> {
    if let Some(signal) = status.stopping_signal() {
        return Some(ChildEvent::Stopped { signal });
    }
    if let Some(code) = status.exit_status() {
        return Some(ChildEvent::Ended(Exit::Code(code)));
    }
    status.terminating_signal().map(|number| {
        ChildEvent::Ended(Exit::Signal {
            number,
            core_dumped: status.dumped(),
        })
    })
}
