//! `/proc/<pid>/stat`: what the kernel says about one process number.

use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::exit::Exit;

/// What is needed of one line of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcStat {
    pub(super) pid: u32,
    /// The kernel's letter: `R`, `S`, `D`, `T`, `t`, `Z`, `X`, ...
    pub(super) state: u8,
    pub(super) pgrp: u32,
    pub(super) session: u32,
    pub(super) threads: u32,
    pub(super) start_ticks: u64,
    /// Status word as of `wait(2)`; 0 also where the kernel does not want to tell.
    wait_status: i32,
}

impl ProcStat {
    /// True if nothing of the process can run any more: dead, or waiting to be reaped.
    ///
    /// A main thread that ended before the others shows as `Z` too, while they go on.
    pub(super) fn is_dead(&self) -> bool {
        match self.state {
            b'X' | b'x' => true,
            b'Z' => self.threads <= 1,
            _ => false,
        }
    }

    /// How a dead process ended, where the kernel tells: 0 is not taken for an answer.
    pub(super) fn exit(&self) -> Option<Exit> {
        if self.is_dead() && self.wait_status != 0 {
            Exit::from_wait_status(self.wait_status)
        } else {
            None
        }
    }
}

/// Parses one line of `/proc/<pid>/stat`; nothing if it has not the known shape.
///
/// The name of the program, in parentheses, may hold blanks, line ends and parentheses of its own:
/// what counts stands before the first `(` and after the last `)`.
pub(super) fn parse_stat(line: &[u8]) -> Option<ProcStat> {
    let open = line.iter().position(|&b| b == b'(')?;
    let close = line.iter().rposition(|&b| b == b')')?;
    let pid = std::str::from_utf8(line.get(..open)?).ok()?.trim();
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // Field numbers as in proc(5), where the state is the third.
    let field = |number: usize| fields.get(number - 3).copied();
    Some(ProcStat {
        pid: pid.parse().ok()?,
        state: *field(3)?.as_bytes().first()?,
        // Both are 0 for a kernel thread and -1 for a process that is going away.
        pgrp: field(5)?.parse::<i64>().ok()?.try_into().unwrap_or(0),
        session: field(6)?.parse::<i64>().ok()?.try_into().unwrap_or(0),
        threads: field(20)?.parse().ok()?,
        start_ticks: field(22)?.parse().ok()?,
        wait_status: field(52).and_then(|text| text.parse().ok()).unwrap_or(0),
    })
}

/// What one look at a process number found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Look {
    /// A process or a thread has this number, perhaps a dead one.
    Found(ProcStat),
    /// The kernel knows no such process, by `/proc` and by `kill` alike.
    Absent,
    /// There may be one: `/proc` did not tell.
    Hidden(String),
}

/// Looks at one process number.
pub(super) fn look(pid: Pid) -> Look {
    let mut probed = false;
    loop {
        match read_stat(pid) {
            Ok(stat) => return Look::Found(stat),
            Err(error) if is_missing(&error) => {
                // With hidepid=2 the processes of others look missing, so a file that is not there
                // proves nothing; the kernel's answer to a signal does.
                match test_kill_process(pid) {
                    Err(Errno::SRCH) => return Look::Absent,
                    // A process that began between the two looks is seen by the next one.
                    Ok(()) | Err(_) if !probed => probed = true,
                    Ok(()) | Err(_) => {
                        return Look::Hidden(format!(
                            "process {} exists but /proc does not show it (mounted with hidepid?)",
                            pid.as_raw_nonzero()
                        ));
                    }
                }
            }
            Err(error) => {
                return Look::Hidden(format!(
                    "/proc/{}/stat cannot be read: {error}",
                    pid.as_raw_nonzero()
                ));
            }
        }
    }
}

/// Reads `/proc/<pid>/stat`.
pub(super) fn read_stat(pid: Pid) -> io::Result<ProcStat> {
    let line = std::fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    parse_stat(&line)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it has an unknown shape"))
}

/// True if the error says that there is no such process (it may go between `open` and `read`).
pub(super) fn is_missing(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::SRCH)
    )
}

/// The number as the kernel's type; nothing for 0 and for what no process can have.
pub(super) fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid)
        .ok()
        .filter(|&raw| raw > 0)
        .and_then(Pid::from_raw)
}

/// The kernel's type as a number.
pub(super) fn from_pid(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, state: char, threads: u32, wait_status: i32) -> Vec<u8> {
        let mut fields = vec![state.to_string(), "10".into(), "77".into(), "70".into()];
        fields.extend((7..=19).map(|n: u32| n.to_string()));
        fields.push(threads.to_string());
        fields.push("0".into());
        fields.push("123456789".into());
        fields.extend((23..=51).map(|n: u32| n.to_string()));
        fields.push(wait_status.to_string());
        format!("77 ({name}) {}\n", fields.join(" ")).into_bytes()
    }

    #[test]
    fn the_program_name_cannot_shift_the_fields() {
        for name in [
            "java",
            "",
            "a b",
            "a) R 1 2 3",
            "((",
            "))",
            ") S 1 (",
            "new\nline",
            "ä",
        ] {
            let stat = parse_stat(&line(name, 'S', 4, 0)).unwrap();
            assert_eq!(
                stat,
                ProcStat {
                    pid: 77,
                    state: b'S',
                    pgrp: 77,
                    session: 70,
                    threads: 4,
                    start_ticks: 123_456_789,
                    wait_status: 0
                },
                "{name:?}"
            );
        }
        assert!(
            parse_stat(&[b"77 (\xff\xfe) ".as_slice(), &line("x", 'S', 1, 0)[7..]].concat())
                .is_some()
        );
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = line("x y", 'S', 1, 0);
        for bad in [
            &b""[..],
            b"77",
            b"77 (x",
            b"77 (x)",
            b"77 (x) S 1 2",
            b") (",
            b"x (y) S",
        ] {
            assert_eq!(parse_stat(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
        // Kernels before 3.5 end before field 52.
        let short = whole.len() - 30;
        assert!(parse_stat(&whole[..short]).is_some());
    }

    #[test]
    fn dead_is_what_cannot_run_any_more() {
        let table = [
            ('R', 1, 0, false, None),
            ('S', 9, 0, false, None),
            ('D', 1, 0, false, None),
            ('T', 1, 0, false, None),
            ('t', 1, 0, false, None),
            ('I', 1, 0, false, None),
            ('Z', 1, 0, true, None),
            ('Z', 1, 9, true, Some("killed by SIGKILL")),
            ('Z', 1, 0x300, true, Some("exit code 3")),
            // The main thread ended, others run.
            ('Z', 3, 0x300, false, None),
            ('X', 1, 0, true, None),
            ('x', 1, 0, true, None),
        ];
        for (state, threads, wait_status, dead, exit) in table {
            let stat = parse_stat(&line("x", state, threads, wait_status)).unwrap();
            assert_eq!(stat.is_dead(), dead, "{state} {threads}");
            assert_eq!(
                stat.exit().map(|exit| exit.to_string()).as_deref(),
                exit,
                "{state}"
            );
        }
    }

    #[test]
    fn this_process_is_found_and_an_impossible_one_is_absent() {
        let Look::Found(stat) = look(rustix::process::getpid()) else {
            panic!("this process is not found")
        };
        assert_eq!(stat.pid, std::process::id());
        assert!(!stat.is_dead());
        // Above the kernel's highest possible pid, 2^22.
        assert_eq!(look(to_pid(0x7fff_ffff).unwrap()), Look::Absent);
        assert_eq!(to_pid(0), None);
        assert_eq!(to_pid(u32::MAX), None);
    }
}
