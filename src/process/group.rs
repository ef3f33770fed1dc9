//! The process group of a job: its members may outlive the process that leads it.

use rustix::io::Errno;
use rustix::process::{Pid, kill_process_group, test_kill_process_group};

use crate::model::AttemptId;

use super::identity::{Location, locate};
use super::signal::{Delivery, Signal, SignalError};
use super::stat::{Look, ProcStat, from_pid, is_missing, look, read_stat, to_pid};

/// Who is in a process group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Membership {
    /// Processes that can run, never none.
    Live(Vec<ProcStat>),
    /// Nobody, or only the dead that wait to be reaped.
    Empty,
    /// It cannot be seen whether somebody is.
    Unknown(String),
}

/// Looks who is in the group of this number.
pub(super) fn members(pgid: Pid) -> Membership {
    if pgid.is_init() {
        // `kill` takes the number -1 for every process there is.
        return Membership::Unknown("process 1 has no group that can be asked for".to_owned());
    }
    // A fork can slip through one pass over /proc: the child gets a number that was passed already,
    // and its parent ends before its own turn. So three passes, and the kernel's word before each.
    let mut seen = Membership::Empty;
    for _ in 0..3 {
        if test_kill_process_group(pgid) == Err(Errno::SRCH) {
            return Membership::Empty;
        }
        seen = scan(from_pid(pgid));
        if matches!(seen, Membership::Live(_)) {
            break;
        }
    }
    seen
}

/// One pass over all processes that `/proc` shows. Empty means: only zombies, and no process that
/// could not be read.
fn scan(group: u32) -> Membership {
    let entries = match std::fs::read_dir("/proc") {
        Ok(entries) => entries,
        Err(error) => return Membership::Unknown(format!("/proc cannot be listed: {error}")),
    };
    let mut live = Vec::new();
    let (mut zombies, mut unreadable) = (0_u32, None);
    for entry in entries {
        let pid = match entry {
            Ok(entry) => entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok()),
            Err(error) => {
                return Membership::Unknown(format!("/proc cannot be listed: {error}"));
            }
        };
        let Some(pid) = pid.and_then(to_pid) else {
            continue;
        };
        match read_stat(pid) {
            Ok(stat) if stat.pgrp != group => {}
            Ok(stat) if stat.is_dead() => zombies += 1,
            Ok(stat) => live.push(stat),
            Err(error) if is_missing(&error) => {}
            Err(error) => unreadable = Some((pid, error)),
        }
    }
    if !live.is_empty() {
        return Membership::Live(live);
    }
    if let Some((pid, error)) = unreadable {
        return Membership::Unknown(format!(
            "process group {group} is not empty, and process {} cannot be read: {error}",
            from_pid(pid)
        ));
    }
    if zombies == 0 {
        return Membership::Unknown(format!(
            "process group {group} is not empty, but /proc does not show who is in it (mounted with hidepid?)"
        ));
    }
    Membership::Empty
}

/// Why there is no group to speak of.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The process leads no group of its own, so the group holds strangers too.
    #[error(
        "process {pid} belongs to process group {pgid} and leads none of its own: start it with setsid or under `stepdown run`, or address the process only"
    )]
    NotLeader {
        /// The process.
        pid: u32,
        /// The group it belongs to.
        pgid: u32,
    },
    /// The first process of a host or a container: its group number means "everybody" to `kill`.
    #[error("process 1 has no group that can be addressed: address the process only")]
    Init,
    /// The leader ended; who carries its number now cannot be proved to be of the job.
    #[error(
        "process {pid} ended and left {} in its group, which cannot be proved to be of the job: end them by hand if they are",
        pids(left)
    )]
    LeaderGone {
        /// The leader.
        pid: u32,
        /// Who is in the group now.
        left: Vec<u32>,
    },
    /// The process ended, and its group is empty.
    #[error("process {0} ended, and nobody is left in its group")]
    Ended(u32),
    /// It cannot be seen from here.
    #[error("the process group cannot be seen: {why}")]
    Unknown {
        /// What stood in the way.
        why: String,
    },
}

fn pids(left: &[u32]) -> String {
    let list: Vec<String> = left.iter().map(u32::to_string).collect();
    format!("process {}", list.join(", "))
}

/// A process group that was seen with its leader alive, so that it is known again without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    attempt: AttemptId,
    pgid: u32,
    leader_start: u64,
    session: u32,
}

impl Group {
    /// The group that this attempt leads. The leader must be alive: a number without it may have
    /// passed to strangers.
    ///
    /// # Errors
    /// [`GroupError::NotLeader`] and [`GroupError::Init`] if the attempt has no group of its own,
    /// [`GroupError::LeaderGone`] and [`GroupError::Ended`] if it ended, [`GroupError::Unknown`].
    pub fn of(attempt: &AttemptId) -> Result<Group, GroupError> {
        let (pid, start_ticks) = match locate(attempt) {
            Location::Here { pid, start_ticks } => (pid, start_ticks),
            Location::Rebooted => return Err(GroupError::Ended(attempt_pid(attempt))),
            Location::Elsewhere { why } => return Err(GroupError::Unknown { why }),
        };
        let number = from_pid(pid);
        match look(pid) {
            Look::Hidden(why) => Err(GroupError::Unknown { why }),
            Look::Found(stat) if stat.start_ticks != start_ticks => Err(GroupError::Ended(number)),
            Look::Found(stat) if !stat.is_dead() => {
                if number == 1 {
                    Err(GroupError::Init)
                } else if stat.pgrp == number {
                    Ok(Group {
                        attempt: attempt.clone(),
                        pgid: number,
                        leader_start: start_ticks,
                        session: stat.session,
                    })
                } else {
                    Err(GroupError::NotLeader {
                        pid: number,
                        pgid: stat.pgrp,
                    })
                }
            }
            Look::Found(_) | Look::Absent => match members(pid) {
                Membership::Empty => Err(GroupError::Ended(number)),
                Membership::Live(left) => Err(GroupError::LeaderGone {
                    pid: number,
                    left: left.iter().map(|stat| stat.pid).collect(),
                }),
                Membership::Unknown(why) => Err(GroupError::Unknown { why }),
            },
        }
    }

    /// The attempt that leads it, or led it.
    pub fn attempt(&self) -> &AttemptId {
        &self.attempt
    }

    /// The group's number, which is the leader's pid.
    pub fn pgid(&self) -> u32 {
        self.pgid
    }

    /// Sends a signal to all members; also when the leader ended and others are left, as long as
    /// they are in the session that the leader was in.
    ///
    /// # Errors
    /// [`SignalError`] as of [`send`](super::signal::send).
    pub fn signal(&self, signal: Signal) -> Result<Delivery, SignalError> {
        let unknown = |why: String| SignalError::Unknown { why };
        let Some(pgid) = to_pid(self.pgid).filter(|_| self.pgid != 1) else {
            return Err(GroupError::Init.into());
        };
        match look(pgid) {
            Look::Hidden(why) => return Err(unknown(why)),
            Look::Found(stat) if stat.start_ticks != self.leader_start => {
                return Ok(Delivery::AlreadyGone);
            }
            // A leader cannot leave its group for another one of its session, but a process that
            // was given the group by its parent is no leader for good: look again.
            Look::Found(stat) if !stat.is_dead() && stat.pgrp != self.pgid => {
                return Err(GroupError::NotLeader {
                    pid: self.pgid,
                    pgid: stat.pgrp,
                }
                .into());
            }
            Look::Found(stat) if !stat.is_dead() => {}
            Look::Found(_) | Look::Absent => match members(pgid) {
                Membership::Unknown(why) => return Err(unknown(why)),
                Membership::Live(left) if left.iter().all(|stat| stat.session == self.session) => {}
                // Another session carries the number, so the group was given up and made again.
                Membership::Empty | Membership::Live(_) => return Ok(Delivery::AlreadyGone),
            },
        }
        match kill_process_group(pgid, signal.as_kernel()) {
            Ok(()) => Ok(Delivery::Sent),
            Err(Errno::SRCH) => Ok(Delivery::AlreadyGone),
            Err(Errno::PERM) => Err(SignalError::NotPermitted {
                pid: self.pgid,
                signal,
            }),
            Err(error) => Err(unknown(format!(
                "the system refused to send {signal} to process group {}: {error}",
                self.pgid
            ))),
        }
    }
}

fn attempt_pid(attempt: &AttemptId) -> u32 {
    match attempt {
        AttemptId::Process { pid, .. } => *pid,
        AttemptId::Named { .. } => 0,
    }
}
