//! Waiting for the end of a process that is not a child of this one.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::model::AttemptId;

use super::group::{Group, GroupError};
use super::identity::{EndsWith, Location, ProcessState, locate, observe};
use super::signal::open_handle;

/// Looks at a group, or at a process without a handle, begin with this pause ...
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// ... and get slower up to this one: a look at a group reads the whole of `/proc`.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// With a handle the kernel tells the end of the process; this is for what it does not tell.
const HANDLE_PAUSE: Duration = Duration::from_secs(5);

/// A process that somebody else started: an earlier stepdown, a script, an operator. Its exit code
/// stays unknown.
#[derive(Debug)]
pub struct Adopted {
    attempt: AttemptId,
    ends_with: EndsWith,
    group: Option<Group>,
    handle: Option<OwnedFd>,
}

/// Takes an attempt over, whatever its state. To drop it does nothing to the process.
pub fn adopt(attempt: AttemptId, ends_with: EndsWith) -> Adopted {
    let handle = match locate(&attempt) {
        Location::Here { pid, .. } => open_handle(pid).ok().flatten(),
        Location::Rebooted | Location::Elsewhere { .. } => None,
    };
    // The handle was opened first: if the attempt has the number after that, the handle is its own.
    let own = matches!(
        observe(&attempt, EndsWith::Process),
        ProcessState::Running { .. }
    );
    Adopted {
        group: Group::of(&attempt).ok(),
        handle: handle.filter(|_| own),
        attempt,
        ends_with,
    }
}

impl Adopted {
    /// The attempt.
    pub fn attempt(&self) -> &AttemptId {
        &self.attempt
    }

    /// The group it led when it was taken over; none if it led none, or had ended.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// That its process leads a group, which [`EndsWith::Group`] needs.
    ///
    /// # Errors
    /// [`GroupError`] says what is the matter and what to do.
    pub fn check_group(&self) -> Result<(), GroupError> {
        match self.ends_with {
            EndsWith::Process => Ok(()),
            EndsWith::Group if self.group.is_some() => Ok(()),
            EndsWith::Group => match Group::of(&self.attempt) {
                Ok(_) | Err(GroupError::Ended(_) | GroupError::LeaderGone { .. }) => Ok(()),
                Err(error) => Err(error),
            },
        }
    }

    /// What can be seen of it now.
    pub fn state(&self) -> ProcessState {
        observe(&self.attempt, self.ends_with)
    }

    /// Waits for its end, at most this long. Answers what was seen last:
    /// [`ProcessState::Stopped`] as soon as that is sure, else what it was at the deadline.
    /// Cancel safe.
    pub async fn await_end(&self, timeout: Duration) -> ProcessState {
        let deadline = Instant::now() + timeout;
        let mut pause = FIRST_PAUSE;
        // Registered here, not before: it belongs to the runtime that waits.
        let mut handle = self.handle.as_ref().and_then(watch_handle);
        loop {
            let state = self.state();
            let now = Instant::now();
            if matches!(state, ProcessState::Stopped { .. }) || now >= deadline {
                return state;
            }
            if let Some(fd) = &handle {
                let until = deadline.min(now + HANDLE_PAUSE);
                if timeout_at(until, fd.readable()).await.is_ok() {
                    // The process ended; what is left of it is found by looking.
                    handle = None;
                }
            } else {
                sleep_until(deadline.min(now + pause)).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
        }
    }
}

/// Has the runtime wake us when the process of this handle ends; none if it cannot.
fn watch_handle(handle: &OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    let own = handle.try_clone().ok()?;
    #[expect(
        deprecated,
        reason = "the successor is unsafe for the sake of types that do not own their file; OwnedFd does"
    )]
    AsyncFd::with_interest(own, Interest::READABLE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::identify;

    #[tokio::test]
    async fn the_end_is_seen_with_and_without_a_handle() {
        for with_handle in [true, false] {
            let mut child = std::process::Command::new("sleep")
                .arg("600")
                .spawn()
                .unwrap();
            let mut adopted = adopt(identify(child.id()).unwrap(), EndsWith::Process);
            assert!(adopted.handle.is_some(), "this kernel has no handles");
            if !with_handle {
                adopted.handle = None;
            }
            let pids = vec![child.id()];
            assert_eq!(
                adopted.await_end(Duration::from_millis(50)).await,
                ProcessState::Running { pids }
            );
            child.kill().unwrap();
            // A zombie until it is waited for: an end all the same.
            let state = adopted.await_end(Duration::from_secs(20)).await;
            assert!(matches!(state, ProcessState::Stopped { .. }), "{state:?}");
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn what_cannot_be_seen_stays_unknown_to_the_deadline() {
        let elsewhere = AttemptId::Process {
            host: "another host".into(),
            boot_id: "x".into(),
            pid: 1,
            start_ticks: 1,
        };
        let adopted = adopt(elsewhere, EndsWith::Group);
        let state = adopted.await_end(Duration::from_millis(50)).await;
        assert!(matches!(state, ProcessState::Unknown { .. }), "{state:?}");
        assert!(adopted.check_group().is_err());
    }
}
