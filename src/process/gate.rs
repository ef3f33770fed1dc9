//! The gate: what stands in a child's place until its parent has it on record.
//!
//! The parent starts its own binary with [`SUBCOMMAND`]; that process has the child's pid, start
//! time, process group, environment and files, but waits for the parent's word on a socket. With
//! the word it becomes the command by `exec`, without it (the parent died, gave up, or said nothing
//! for too long) it ends. So there is no moment in which a command runs that nobody wrote down.
//!
//! On the socket, an abstract one: the gate says `READY`; the parent says the word, which it gave to
//! the gate in [`WORD_VARIABLE`]; the gate says `LEAVING` and calls `exec`, which closes the socket,
//! or adds a `Failure`. Names of such sockets are no secret, and anybody may take one that is free:
//! the parent listens to that process only, the gate to that word only, which other users cannot
//! read.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::process::{getppid, set_parent_process_death_signal};

use super::signal::Signal;
use super::stat::from_pid;

/// The first argument that makes the binary a gate. Not for people.
pub const SUBCOMMAND: &str = "__exec";

/// The variable that holds the parent's word, one for each gate. The command does not get it.
pub const WORD_VARIABLE: &str = "STEPDOWN_GATE_WORD";

pub(super) const READY: u8 = b'r';
pub(super) const LEAVING: u8 = b'x';

/// Exit code of a gate that was not opened; its parent is gone or does not care for it.
const NOT_OPENED: u8 = 125;

/// All that a gate has to know, as its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    /// Name of the parent's socket.
    pub(super) socket: String,
    /// Who must be the parent.
    pub(super) parent: u32,
    /// The signal that the command gets when the parent dies; none if it is to live on.
    pub(super) on_parent_death: Option<Signal>,
    /// How long to wait for the parent's word.
    pub(super) patience: Duration,
    /// Where the command runs; where the parent runs if none.
    pub(super) cwd: Option<PathBuf>,
    /// The command, never empty.
    pub(super) argv: Vec<OsString>,
}

impl Order {
    /// The arguments after the binary's name.
    pub(super) fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![
            SUBCOMMAND.into(),
            self.socket.clone().into(),
            self.parent.to_string().into(),
            self.on_parent_death
                .map_or(0, Signal::number)
                .to_string()
                .into(),
            self.patience.as_millis().to_string().into(),
            self.cwd.clone().unwrap_or_default().into_os_string(),
            "--".into(),
        ];
        args.extend(self.argv.iter().cloned());
        args
    }

    /// Reads the arguments after [`SUBCOMMAND`].
    fn from_args(mut args: impl Iterator<Item = OsString>) -> Option<Order> {
        let socket = args.next()?.into_string().ok()?;
        let parent = args.next()?.to_str()?.parse().ok()?;
        let on_parent_death = match args.next()?.to_str()?.parse().ok()? {
            0 => None,
            number => Some(Signal::from_number(number)?),
        };
        let patience = Duration::from_millis(args.next()?.to_str()?.parse().ok()?);
        let cwd = Some(PathBuf::from(args.next()?)).filter(|dir| !dir.as_os_str().is_empty());
        if args.next()? != "--" {
            return None;
        }
        let order = Order {
            socket,
            parent,
            on_parent_death,
            patience,
            cwd,
            argv: args.collect(),
        };
        (!order.argv.is_empty() && !patience.is_zero()).then_some(order)
    }
}

/// The address of a parent's socket. Nothing lies in the file system, so nothing is left over.
pub(super) fn socket_address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

/// What an opened gate could not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Change to the command's directory.
    Chdir {
        /// The system's error number.
        errno: i32,
    },
    /// Become the command.
    Exec {
        /// The system's error number.
        errno: i32,
    },
}

impl Failure {
    fn to_bytes(self) -> [u8; 5] {
        let (stage, errno) = match self {
            Failure::Chdir { errno } => (b'c', errno),
            Failure::Exec { errno } => (b'e', errno),
        };
        let [a, b, c, d] = errno.to_le_bytes();
        [stage, a, b, c, d]
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Failure> {
        let (stage, errno) = bytes.split_first()?;
        let errno = i32::from_le_bytes(errno.try_into().ok()?);
        match stage {
            b'c' => Some(Failure::Chdir { errno }),
            b'e' => Some(Failure::Exec { errno }),
            _ => None,
        }
    }

    fn errno(self) -> i32 {
        match self {
            Failure::Chdir { errno } | Failure::Exec { errno } => errno,
        }
    }

    /// The exit code that a shell has for it: 127 for a command that is not there, else 126.
    pub(super) fn exit_code(self) -> u8 {
        match self {
            Failure::Exec { errno } if errno == rustix::io::Errno::NOENT.raw_os_error() => 127,
            Failure::Exec { .. } | Failure::Chdir { .. } => 126,
        }
    }

    pub(super) fn to_error(self) -> io::Error {
        io::Error::from_raw_os_error(self.errno())
    }
}

/// Becomes the gate if the arguments (with the binary's name) say so, and returns only if it does
/// not become the command: with the exit code to end with. Returns nothing for any other command
/// line.
///
/// To be called first in `main`, before any thread is started.
pub fn run_if_asked(args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.skip(1).peekable();
    args.next_if(|first| first == SUBCOMMAND)?;
    let Some(order) = Order::from_args(args) else {
        return Some(ExitCode::from(NOT_OPENED));
    };
    Some(match stand(&order) {
        Ok(never) => match never {},
        Err(code) => ExitCode::from(code),
    })
}

/// Waits for the word and becomes the command; else the exit code.
fn stand(order: &Order) -> Result<Infallible, u8> {
    let closed = |_: io::Error| NOT_OPENED;
    let word = std::env::var_os(WORD_VARIABLE)
        .filter(|word| !word.is_empty())
        .ok_or(NOT_OPENED)?;
    if let Some(signal) = order.on_parent_death {
        set_parent_process_death_signal(Some(signal.as_kernel())).map_err(|_| NOT_OPENED)?;
        // If the parent died before, there will be no signal.
        if getppid().map(from_pid) != Some(order.parent) {
            return Err(NOT_OPENED);
        }
    }
    let address = socket_address(&order.socket).map_err(closed)?;
    let mut socket = UnixStream::connect_addr(&address).map_err(closed)?;
    socket
        .set_read_timeout(Some(order.patience))
        .map_err(closed)?;
    socket.write_all(&[READY]).map_err(closed)?;
    let mut said = vec![0; word.len()];
    socket.read_exact(&mut said).map_err(closed)?;
    if said != word.as_bytes() {
        return Err(NOT_OPENED);
    }

    // The command is on record from here on, so a parent that died meanwhile changes nothing.
    let failure = match become_command(order, &mut socket) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    // With the parent gone nobody reads it; the exit code says the same.
    let _ = socket.write_all(&failure.to_bytes());
    Err(failure.exit_code())
}

fn become_command(order: &Order, socket: &mut UnixStream) -> Result<Infallible, Failure> {
    let errno = |error: io::Error| error.raw_os_error().unwrap_or(0);
    if let Some(dir) = &order.cwd {
        std::env::set_current_dir(dir).map_err(|error| Failure::Chdir {
            errno: errno(error),
        })?;
    }
    let Some((program, args)) = order.argv.split_first() else {
        return Err(Failure::Exec { errno: 0 });
    };
    let _ = socket.write_all(&[LEAVING]);
    // `exec` resets the signal mask and SIGPIPE, which Rust's start-up ignores; handlers end with
    // the old program. What was ignored before stays so, as `nohup` wants it.
    let error = Command::new(program)
        .args(args)
        .env_remove(WORD_VARIABLE)
        .exec();
    Err(Failure::Exec {
        errno: exec_errno(&error, program.as_bytes()),
    })
}

/// The error number of a failed `exec`; a program name with a NUL in it never gets to the system.
fn exec_errno(error: &io::Error, program: &[u8]) -> i32 {
    let fallback = if program.is_empty() || program.contains(&0) {
        rustix::io::Errno::NOENT
    } else {
        rustix::io::Errno::INVAL
    };
    error.raw_os_error().unwrap_or(fallback.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn order() -> Order {
        Order {
            socket: "stepdown-gate-1".into(),
            parent: 77,
            on_parent_death: Some(Signal::TERM),
            patience: Duration::from_secs(5),
            cwd: Some("/tmp/a b".into()),
            argv: vec![
                "--".into(),
                OsString::from_vec(vec![0xff]),
                String::new().into(),
            ],
        }
    }

    #[test]
    fn an_order_survives_its_way_through_the_arguments() {
        for order in [
            order(),
            Order {
                cwd: None,
                on_parent_death: None,
                ..order()
            },
            Order {
                argv: vec!["x".into()],
                ..order()
            },
        ] {
            let mut args = order.to_args().into_iter();
            assert_eq!(args.next().as_deref(), Some(SUBCOMMAND.as_ref()));
            assert_eq!(Order::from_args(args), Some(order));
        }
        let whole = order().to_args();
        for cut in 1..=7 {
            assert_eq!(
                Order::from_args(whole[1..cut].iter().cloned()),
                None,
                "{cut} arguments"
            );
        }
    }

    #[test]
    fn other_command_lines_are_left_alone_and_a_broken_one_runs_nothing() {
        let args = |list: &[&str]| {
            list.iter()
                .map(OsString::from)
                .collect::<Vec<_>>()
                .into_iter()
        };
        assert!(run_if_asked(args(&["stepdown"])).is_none());
        assert!(run_if_asked(args(&["stepdown", "run", SUBCOMMAND])).is_none());
        assert!(run_if_asked(args(&[])).is_none());
        assert!(run_if_asked(args(&["stepdown", SUBCOMMAND])).is_some());
        assert!(run_if_asked(args(&["stepdown", SUBCOMMAND, "--help"])).is_some());
    }

    #[test]
    fn a_failure_survives_its_way_through_the_socket() {
        for (failure, code) in [
            (Failure::Exec { errno: 2 }, 127),
            (Failure::Exec { errno: 13 }, 126),
            (Failure::Exec { errno: 8 }, 126),
            (Failure::Chdir { errno: 2 }, 126),
        ] {
            assert_eq!(Failure::from_bytes(&failure.to_bytes()), Some(failure));
            assert_eq!(failure.exit_code(), code);
        }
        for bad in [&b""[..], b"e", b"e123", b"z1234", b"e12345"] {
            assert_eq!(Failure::from_bytes(bad), None);
        }
    }
}
