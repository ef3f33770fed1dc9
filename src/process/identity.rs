//! A process as an attempt: host, boot, pid and start time, so that no other process is taken for it.

use std::io;

use rustix::process::Pid;

use crate::model::AttemptId;

use super::exit::Exit;
use super::group::{Membership, members};
use super::stat::{Look, look, to_pid};

/// The kernel's number of the first pid namespace, the same on every Linux.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// The place in which process numbers mean something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    /// Host name, as the kernel reports it. Within a container `name/pid:[number]`, with the number
    /// of the pid namespace: two containers of one machine may share name and boot, not pids.
    pub name: String,
    /// The kernel's boot id.
    pub boot_id: String,
}

/// Why a process could not be named as an attempt.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// What tells this host from others could not be read.
    #[error("the identity of this host cannot be read from {path}")]
    Host {
        /// The file.
        path: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// `/proc` shows the processes of another pid namespace.
    #[error(
        "/proc belongs to another pid namespace: mount the one of this container, or run with the host's pids and the host's /proc alike"
    )]
    ForeignProc,
    /// The number is 0 or too large.
    #[error("{0} is no process number")]
    InvalidPid(u32),
    /// There is no such process, or it is dead already.
    #[error("no process {0} is running")]
    NotRunning(u32),
    /// It cannot be seen from here.
    #[error("process {pid} cannot be identified: {why}")]
    Unknown {
        /// Its number.
        pid: u32,
        /// What stood in the way.
        why: String,
    },
}

/// This host, this boot and, in a container, this pid namespace.
///
/// # Errors
/// [`IdentityError::Host`] if `/proc` cannot be read, [`IdentityError::ForeignProc`] if it shows
/// other processes than the kernel numbers for this one.
pub fn this_host() -> Result<Host, IdentityError> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    const SELF: &str = "/proc/self";
    const NAMESPACE: &str = "/proc/self/ns/pid";
    let failed = |path| move |source| IdentityError::Host { path, source };

    let boot_id = std::fs::read_to_string(BOOT_ID).map_err(failed(BOOT_ID))?;
    let itself = std::fs::read_link(SELF).map_err(failed(SELF))?;
    if itself.as_os_str() != std::process::id().to_string().as_str() {
        return Err(IdentityError::ForeignProc);
    }
    let namespace = match std::fs::read_link(NAMESPACE) {
        Ok(link) => link.to_string_lossy().into_owned(),
        // A kernel without pid namespaces has one numbering only.
        Err(error) if error.kind() == io::ErrorKind::NotFound => FIRST_PID_NAMESPACE.to_owned(),
        Err(error) => return Err(failed(NAMESPACE)(error)),
    };
    let node = rustix::system::uname();
    let node = node.nodename().to_string_lossy();
    Ok(Host {
        name: if namespace == FIRST_PID_NAMESPACE {
            node.into_owned()
        } else {
            format!("{node}/{namespace}")
        },
        boot_id: boot_id.trim().to_owned(),
    })
}

/// The attempt that the running process `pid` is. It stays the same when the process calls `exec`.
///
/// # Errors
/// [`IdentityError::NotRunning`] if there is none or it is dead; [`IdentityError::Unknown`] if it
/// cannot be seen; the errors of [`this_host`].
pub fn identify(pid: u32) -> Result<AttemptId, IdentityError> {
    let host = this_host()?;
    match look(to_pid(pid).ok_or(IdentityError::InvalidPid(pid))?) {
        Look::Found(stat) if stat.is_dead() => Err(IdentityError::NotRunning(pid)),
        Look::Found(stat) => Ok(AttemptId::Process {
            host: host.name,
            boot_id: host.boot_id,
            pid,
            start_ticks: stat.start_ticks,
        }),
        Look::Absent => Err(IdentityError::NotRunning(pid)),
        Look::Hidden(why) => Err(IdentityError::Unknown { pid, why }),
    }
}

/// When an attempt counts as ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndsWith {
    /// With its process.
    Process,
    /// With the last process of the group that its process leads: `python app.py` leaves a JVM
    /// behind that may still write. Only for a process that leads its group (see
    /// [`Group::of`](super::group::Group::of)), zombies do not count.
    Group,
}

/// What one look at an attempt found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs, stopped by job control or not.
    Running {
        /// The processes that make it run, never none: its own, or what is left of its group.
        pids: Vec<u32>,
    },
    /// It ended; nothing of it can write any more.
    Stopped {
        /// How, where the kernel still knew.
        exit: Option<Exit>,
        /// The evidence.
        evidence: Evidence,
    },
    /// Nothing can be said; it may well run.
    Unknown {
        /// What stood in the way.
        why: String,
    },
}

/// Why an attempt is known to have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The kernel has no process of that number, or only what waits to be reaped.
    Gone,
    /// Its number belongs to a process with another start time.
    PidReused,
    /// The host was booted since.
    Rebooted,
}

/// What can be seen of an attempt now. Reads `/proc` only; with [`EndsWith::Group`], and the
/// leader gone, it looks through all processes of the host.
pub fn observe(attempt: &AttemptId, ends_with: EndsWith) -> ProcessState {
    match locate(attempt) {
        Location::Here { pid, start_ticks } => observe_here(pid, start_ticks, ends_with),
        Location::Rebooted => ProcessState::Stopped {
            exit: None,
            evidence: Evidence::Rebooted,
        },
        Location::Elsewhere { why } => ProcessState::Unknown { why },
    }
}

fn observe_here(pid: Pid, start_ticks: u64, ends_with: EndsWith) -> ProcessState {
    let (exit, evidence) = match look(pid) {
        Look::Hidden(why) => return ProcessState::Unknown { why },
        Look::Found(stat) if stat.start_ticks != start_ticks => {
            // The kernel gives a number away again only when no group carries it any more.
            return ProcessState::Stopped {
                exit: None,
                evidence: Evidence::PidReused,
            };
        }
        Look::Found(stat) if !stat.is_dead() => {
            return ProcessState::Running {
                pids: vec![stat.pid],
            };
        }
        Look::Found(stat) => (stat.exit(), Evidence::Gone),
        Look::Absent => (None, Evidence::Gone),
    };
    if ends_with == EndsWith::Process {
        return ProcessState::Stopped { exit, evidence };
    }
    match members(pid) {
        Membership::Empty => ProcessState::Stopped { exit, evidence },
        Membership::Live(members) => ProcessState::Running {
            pids: members.iter().map(|stat| stat.pid).collect(),
        },
        Membership::Unknown(why) => ProcessState::Unknown { why },
    }
}

/// Where an attempt's process is, seen from here.
pub(super) enum Location {
    /// On this host, in this boot: the number means something.
    Here { pid: Pid, start_ticks: u64 },
    /// On this host, in an earlier boot.
    Rebooted,
    /// Not to be seen from here.
    Elsewhere { why: String },
}

/// Whether the attempt is surely none of this host's processes, now and later.
pub fn is_elsewhere(attempt: &AttemptId) -> bool {
    match attempt {
        AttemptId::Named { .. } => true,
        AttemptId::Process { host, .. } => this_host().is_ok_and(|here| here.name != *host),
    }
}

/// Compares an attempt with this host.
pub(super) fn locate(attempt: &AttemptId) -> Location {
    match this_host() {
        Ok(here) => locate_from(&here, attempt),
        Err(error) => Location::Elsewhere {
            why: error.to_string(),
        },
    }
}

fn locate_from(here: &Host, attempt: &AttemptId) -> Location {
    let elsewhere = |why| Location::Elsewhere { why };
    match attempt {
        AttemptId::Named { name } => elsewhere(format!("{name} is no process")),
        AttemptId::Process { host, .. } if *host != here.name => elsewhere(format!(
            "the process belongs to host {host}, this is {}",
            here.name
        )),
        AttemptId::Process { boot_id, .. } if *boot_id != here.boot_id => Location::Rebooted,
        AttemptId::Process {
            pid, start_ticks, ..
        } => match to_pid(*pid) {
            Some(pid) => Location::Here {
                pid,
                start_ticks: *start_ticks,
            },
            None => elsewhere(format!("{pid} is no process number")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(host: &str, boot_id: &str, pid: u32) -> AttemptId {
        AttemptId::Process {
            host: host.into(),
            boot_id: boot_id.into(),
            pid,
            start_ticks: 5,
        }
    }

    #[test]
    fn only_this_host_and_this_boot_give_a_number_its_meaning() {
        let here = Host {
            name: "edge1".into(),
            boot_id: "b1".into(),
        };
        assert!(matches!(
            locate_from(&here, &attempt("edge1", "b1", 7)),
            Location::Here { start_ticks: 5, .. }
        ));
        assert!(matches!(
            locate_from(&here, &attempt("edge1", "b0", 7)),
            Location::Rebooted
        ));
        // The same boot under another name is a container's or a cloned machine's.
        for other in [
            attempt("edge2", "b1", 7),
            attempt("edge2", "b0", 7),
            attempt("edge1/pid:[1]", "b1", 7),
            attempt("edge1", "b1", 0),
            attempt("edge1", "b1", u32::MAX),
            AttemptId::Named {
                name: "application_1".into(),
            },
        ] {
            assert!(
                matches!(locate_from(&here, &other), Location::Elsewhere { .. }),
                "{other}"
            );
        }
    }

    #[test]
    fn this_process_runs_and_its_namesakes_do_not() {
        let me = identify(std::process::id()).unwrap();
        assert_eq!(
            observe(&me, EndsWith::Process),
            ProcessState::Running {
                pids: vec![std::process::id()]
            }
        );
        let AttemptId::Process {
            host,
            boot_id,
            pid,
            start_ticks,
        } = me
        else {
            panic!("{me}")
        };
        let other = |host: &str, boot_id: &str, start_ticks| {
            let attempt = AttemptId::Process {
                host: host.into(),
                boot_id: boot_id.into(),
                pid,
                start_ticks,
            };
            observe(&attempt, EndsWith::Group)
        };
        assert_eq!(
            other(&host, &boot_id, start_ticks + 1),
            ProcessState::Stopped {
                exit: None,
                evidence: Evidence::PidReused
            }
        );
        assert_eq!(
            other(&host, "another boot", start_ticks),
            ProcessState::Stopped {
                exit: None,
                evidence: Evidence::Rebooted
            }
        );
        assert!(matches!(
            other("another host", &boot_id, start_ticks),
            ProcessState::Unknown { .. }
        ));
    }

    #[test]
    fn what_is_not_there_is_not_identified() {
        assert!(matches!(identify(0), Err(IdentityError::InvalidPid(0))));
        assert!(matches!(
            identify(0x7fff_ffff),
            Err(IdentityError::NotRunning(_))
        ));
    }
}
