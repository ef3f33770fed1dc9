//! How a process ended.

use std::fmt;

use super::signal::signal_name;

/// How a process ended, as its parent or the kernel told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It ended by itself with this code, 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// A core dump was written.
        core_dumped: bool,
    },
}

impl Exit {
    /// True for code 0 only.
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }

    /// The exit code a shell shows: the code itself, or 128 plus the number of the signal.
    pub fn shell_code(self) -> u8 {
        let code = match self {
            Exit::Code(code) => code & 0xff,
            Exit::Signal { number, .. } => 128 + (number & 0x7f),
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }

    /// The end that a status word of `wait(2)` tells of; nothing for a stop or a continuation.
    pub(super) fn from_wait_status(status: i32) -> Option<Exit> {
        match status & 0x7f {
            0 => Some(Exit::Code((status >> 8) & 0xff)),
            0x7f => None,
            number => Some(Exit::Signal {
                number,
                core_dumped: status & 0x80 != 0,
            }),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal {
                number,
                core_dumped,
            } => {
                write!(f, "killed by {}", signal_name(*number))?;
                if *core_dumped {
                    f.write_str(" (core dumped)")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_becomes_an_exit_and_a_shell_code() {
        let signal = |number, core_dumped| Exit::Signal {
            number,
            core_dumped,
        };
        let table = [
            (0x0000, Some(Exit::Code(0)), 0, "exit code 0"),
            (0x0100, Some(Exit::Code(1)), 1, "exit code 1"),
            (0xff00, Some(Exit::Code(255)), 255, "exit code 255"),
            (15, Some(signal(15, false)), 143, "killed by SIGTERM"),
            (9, Some(signal(9, false)), 137, "killed by SIGKILL"),
            (
                0x8b,
                Some(signal(11, true)),
                139,
                "killed by SIGSEGV (core dumped)",
            ),
            (34, Some(signal(34, false)), 162, "killed by signal 34"),
        ];
        for (status, exit, shell, text) in table {
            assert_eq!(Exit::from_wait_status(status), exit, "{status:#x}");
            let exit = exit.unwrap();
            assert_eq!(exit.shell_code(), shell, "{exit}");
            assert_eq!(exit.to_string(), text);
            assert_eq!(exit.is_success(), status == 0);
        }
        // Stopped by SIGTSTP, continued.
        assert_eq!(Exit::from_wait_status(0x147f), None);
        assert_eq!(Exit::from_wait_status(0xffff), None);
    }
}
