//! Signals that reach the attempt they were meant for, or nobody.

use std::fmt;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal as KernelSignal, kill_process, pidfd_open, pidfd_send_signal,
};

use crate::model::AttemptId;

use super::group::{Group, GroupError};
use super::identity::{Location, locate};
use super::stat::{Look, from_pid, look};

/// The signals that have a name, and it.
const NAMES: &[(&str, KernelSignal)] = &[
    ("HUP", KernelSignal::HUP),
    ("INT", KernelSignal::INT),
    ("QUIT", KernelSignal::QUIT),
    ("ILL", KernelSignal::ILL),
    ("TRAP", KernelSignal::TRAP),
    ("ABRT", KernelSignal::ABORT),
    ("BUS", KernelSignal::BUS),
    ("FPE", KernelSignal::FPE),
    ("KILL", KernelSignal::KILL),
    ("USR1", KernelSignal::USR1),
    ("SEGV", KernelSignal::SEGV),
    ("USR2", KernelSignal::USR2),
    ("PIPE", KernelSignal::PIPE),
    ("ALRM", KernelSignal::ALARM),
    ("TERM", KernelSignal::TERM),
    ("CHLD", KernelSignal::CHILD),
    ("CONT", KernelSignal::CONT),
    ("STOP", KernelSignal::STOP),
    ("TSTP", KernelSignal::TSTP),
    ("TTIN", KernelSignal::TTIN),
    ("TTOU", KernelSignal::TTOU),
    ("URG", KernelSignal::URG),
    ("XCPU", KernelSignal::XCPU),
    ("XFSZ", KernelSignal::XFSZ),
    ("VTALRM", KernelSignal::VTALARM),
    ("PROF", KernelSignal::PROF),
    ("WINCH", KernelSignal::WINCH),
    ("IO", KernelSignal::IO),
    ("SYS", KernelSignal::SYS),
];

/// A signal that has a name. Real-time signals have none and are refused.
///
/// Read from `TERM`, `SIGTERM` (in any case) or its number; shown as `SIGTERM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(KernelSignal);

impl Signal {
    /// Ask to end.
    pub const TERM: Signal = Signal(KernelSignal::TERM);
    /// Interrupt, Ctrl-C.
    pub const INT: Signal = Signal(KernelSignal::INT);
    /// The terminal is gone.
    pub const HUP: Signal = Signal(KernelSignal::HUP);
    /// Ctrl-\; a JVM prints its threads.
    pub const QUIT: Signal = Signal(KernelSignal::QUIT);
    /// Whatever the program makes of it.
    pub const USR1: Signal = Signal(KernelSignal::USR1);
    /// Whatever the program makes of it.
    pub const USR2: Signal = Signal(KernelSignal::USR2);
    /// End at once; cannot be refused.
    pub const KILL: Signal = Signal(KernelSignal::KILL);
    /// Go on after a stop.
    pub const CONT: Signal = Signal(KernelSignal::CONT);
    /// Stop by job control; cannot be refused.
    pub const STOP: Signal = Signal(KernelSignal::STOP);

    /// The kernel's number.
    pub fn number(self) -> i32 {
        self.0.as_raw()
    }

    /// The named signal of this number.
    pub fn from_number(number: i32) -> Option<Signal> {
        NAMES
            .iter()
            .find(|(_, signal)| signal.as_raw() == number)
            .map(|(_, signal)| Signal(*signal))
    }

    pub(super) fn as_kernel(self) -> KernelSignal {
        self.0
    }
}

/// The name of a signal's number, or `signal 34` where it has none.
pub(super) fn signal_name(number: i32) -> String {
    NAMES
        .iter()
        .find(|(_, signal)| signal.as_raw() == number)
        .map_or_else(
            || format!("signal {number}"),
            |(name, _)| format!("SIG{name}"),
        )
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&signal_name(self.number()))
    }
}

/// A text that names no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no signal that has a name: write one such as TERM, SIGTERM or 15")]
pub struct UnknownSignal(String);

impl FromStr for Signal {
    type Err = UnknownSignal;
    fn from_str(text: &str) -> Result<Signal, UnknownSignal> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        NAMES
            .iter()
            .find(|(known, signal)| *known == name || upper == signal.as_raw().to_string())
            .map(|(_, signal)| Signal(*signal))
            .ok_or_else(|| UnknownSignal(text.to_owned()))
    }
}

/// Who of an attempt gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalTarget {
    /// The process only: `python app.py`, whose JVM must not get it.
    Process,
    /// Everybody in the group that the process leads.
    Group,
}

/// What became of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// The kernel took it; the receiver may ignore it.
    Sent,
    /// The attempt ended before; nobody got anything.
    AlreadyGone,
}

/// Why a signal was not sent. Nobody got it.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// This user must not signal that process.
    #[error(
        "not permitted to send {signal} to process {pid}: run stepdown as the user of that process, or give it CAP_KILL"
    )]
    NotPermitted {
        /// The process, or the leader of the group.
        pid: u32,
        /// The signal.
        signal: Signal,
    },
    /// The group cannot be addressed.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The attempt is not of this host, or cannot be seen.
    #[error("no signal was sent: {why}")]
    Unknown {
        /// What stood in the way.
        why: String,
    },
}

/// Sends a signal to this attempt and to no other process, even if its number was given away.
///
/// Race-free for a process where the kernel has pidfds (5.3); elsewhere, and for a group, the
/// identity is checked right before, and only a number that goes through the whole range of pids
/// within these microseconds could be mistaken.
///
/// # Errors
/// [`SignalError`]; then nobody got the signal.
pub fn send(
    attempt: &AttemptId,
    target: SignalTarget,
    signal: Signal,
) -> Result<Delivery, SignalError> {
    match target {
        SignalTarget::Process => send_to_process(attempt, signal, open_handle),
        SignalTarget::Group => match Group::of(attempt) {
            Ok(group) => group.signal(signal),
            Err(GroupError::Ended(_)) => Ok(Delivery::AlreadyGone),
            Err(GroupError::Unknown { why }) => Err(SignalError::Unknown { why }),
            Err(
                error @ (GroupError::NotLeader { .. }
                | GroupError::Init
                | GroupError::LeaderGone { .. }),
            ) => Err(error.into()),
        },
    }
}

fn send_to_process(
    attempt: &AttemptId,
    signal: Signal,
    open_handle: impl Fn(Pid) -> Result<Option<OwnedFd>, Errno>,
) -> Result<Delivery, SignalError> {
    let (pid, start_ticks) = match locate(attempt) {
        Location::Here { pid, start_ticks } => (pid, start_ticks),
        Location::Rebooted => return Ok(Delivery::AlreadyGone),
        Location::Elsewhere { why } => return Err(SignalError::Unknown { why }),
    };
    let handle = match open_handle(pid) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Ok(Delivery::AlreadyGone),
        Err(error) => {
            return Err(SignalError::Unknown {
                why: format!("process {} cannot be opened: {error}", from_pid(pid)),
            });
        }
    };
    // After the handle is open: the attempt began before, so if it has the number now, the handle
    // is its own.
    match look(pid) {
        Look::Absent => return Ok(Delivery::AlreadyGone),
        Look::Hidden(why) => return Err(SignalError::Unknown { why }),
        Look::Found(stat) if stat.start_ticks != start_ticks || stat.is_dead() => {
            return Ok(Delivery::AlreadyGone);
        }
        Look::Found(_) => {}
    }
    let sent = match handle {
        Some(handle) => pidfd_send_signal(handle, signal.as_kernel()),
        None => kill_process(pid, signal.as_kernel()),
    };
    match sent {
        Ok(()) => Ok(Delivery::Sent),
        Err(Errno::SRCH) => Ok(Delivery::AlreadyGone),
        Err(Errno::PERM) => Err(SignalError::NotPermitted {
            pid: from_pid(pid),
            signal,
        }),
        Err(error) => Err(SignalError::Unknown {
            why: format!(
                "the system refused to send {signal} to process {}: {error}",
                from_pid(pid)
            ),
        }),
    }
}

/// A handle that stays with the process that has this number now; none where the kernel (before
/// 5.3) or a container's filter has no such thing.
pub(super) fn open_handle(pid: Pid) -> Result<Option<OwnedFd>, Errno> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Ok(Some(handle)),
        Err(Errno::NOSYS | Errno::PERM) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;
    use crate::process::identify;

    #[test]
    fn signals_are_read_by_name_and_number() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("term", 15),
            ("SigTerm", 15),
            ("15", 15),
            ("INT", 2),
            ("USR1", 10),
            ("SIGUSR2", 12),
            ("9", 9),
            ("HUP", 1),
        ] {
            assert_eq!(
                text.parse::<Signal>().map(Signal::number),
                Ok(number),
                "{text}"
            );
        }
        for text in [
            "", "SIG", "0", "-9", "64", "RTMIN+1", "TERMX", " TERM", "015", "+15",
        ] {
            assert_eq!(
                text.parse::<Signal>(),
                Err(UnknownSignal(text.into())),
                "{text:?}"
            );
        }
        for (name, signal) in NAMES {
            assert_eq!(Signal(*signal).to_string(), format!("SIG{name}"));
            assert_eq!(
                Signal::from_number(signal.as_raw()),
                Some(Signal(*signal)),
                "{name}"
            );
            assert_eq!(
                Signal(*signal).to_string().parse(),
                Ok(Signal(*signal)),
                "{name}"
            );
        }
    }

    #[test]
    fn nothing_is_sent_to_what_is_not_the_attempt() {
        let AttemptId::Process {
            host,
            boot_id,
            pid,
            start_ticks,
        } = identify(std::process::id()).unwrap()
        else {
            panic!("no process")
        };
        let namesake = |host: &str, boot_id: &str, start_ticks| AttemptId::Process {
            host: host.into(),
            boot_id: boot_id.into(),
            pid,
            start_ticks,
        };
        // SIGKILL: if one of them were delivered, this test would not end.
        for target in [SignalTarget::Process, SignalTarget::Group] {
            for gone in [
                namesake(&host, &boot_id, start_ticks + 1),
                namesake(&host, "other", start_ticks),
            ] {
                assert_eq!(
                    send(&gone, target, Signal::KILL).unwrap(),
                    Delivery::AlreadyGone,
                    "{gone}"
                );
            }
            let elsewhere = namesake("other", &boot_id, start_ticks);
            assert!(
                matches!(
                    send(&elsewhere, target, Signal::KILL),
                    Err(SignalError::Unknown { .. })
                ),
                "{target:?}"
            );
        }
    }
    #[test]
    fn a_kernel_without_handles_gets_signals_to_the_same_processes() {
        let without = |_| Ok(None);
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let attempt = identify(child.id()).unwrap();
        let AttemptId::Process {
            host,
            boot_id,
            pid,
            start_ticks,
        } = attempt.clone()
        else {
            panic!("no process")
        };
        let namesake = AttemptId::Process {
            host,
            boot_id,
            pid,
            start_ticks: start_ticks + 1,
        };
        assert_eq!(
            send_to_process(&namesake, Signal::KILL, without).unwrap(),
            Delivery::AlreadyGone
        );
        assert_eq!(
            send_to_process(&attempt, Signal::TERM, without).unwrap(),
            Delivery::Sent
        );
        assert_eq!(child.wait().unwrap().signal(), Some(15));
        assert_eq!(
            send_to_process(&attempt, Signal::TERM, without).unwrap(),
            Delivery::AlreadyGone
        );
        // Too many open files: nothing was sent, and the end is not claimed.
        assert!(matches!(
            send_to_process(&attempt, Signal::TERM, |_| Err(Errno::MFILE)),
            Err(SignalError::Unknown { .. })
        ));
    }
}
