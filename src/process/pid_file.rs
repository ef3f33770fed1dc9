//! The process that a pid file names.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::model::AttemptId;

use super::identity::{IdentityError, identify};
use super::stat::{Look, look, to_pid};

/// A process writes its pid file after it started; start times and file times differ by rounding.
const SLACK: Duration = Duration::from_secs(2);

/// Why a pid file names no running process.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// There is no such file.
    #[error("pid file {} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("pid file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else than one process number; perhaps it is being written.
    #[error("pid file {} holds {text:?} and no process number", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its first characters.
        text: String,
    },
    /// The process of that number began after the file was written: the file is left over and its
    /// number was given to somebody else.
    #[error(
        "pid file {} is left over: process {pid} started {newer_by:?} after it was written; remove the file, or write it anew if that process is the job",
        path.display()
    )]
    Stale {
        /// The file.
        path: PathBuf,
        /// The number it holds.
        pid: u32,
        /// How much later the process began.
        newer_by: Duration,
    },
    /// The process it names is not running or cannot be seen.
    #[error("pid file {}", path.display())]
    Process {
        /// The file.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
}

/// The running process that the file names by its first line.
///
/// A file that was written before the process of its number began is refused: after a reboot a
/// number soon belongs to somebody else.
///
/// # Errors
/// [`PidFileError`].
pub fn read_pid_file(path: &Path) -> Result<AttemptId, PidFileError> {
    let unreadable = |source: io::Error| {
        if source.kind() == io::ErrorKind::NotFound {
            PidFileError::Missing { path: path.into() }
        } else {
            PidFileError::Unreadable {
                path: path.into(),
                source,
            }
        }
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    // More than any process number has, and little enough for a wrong file.
    io::copy(&mut (&file).take(64), &mut text).map_err(unreadable)?;
    let text = String::from_utf8_lossy(&text);
    let pid = text
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<u32>().ok())
        .ok_or_else(|| PidFileError::Malformed {
            path: path.into(),
            text: text.clone().into_owned(),
        })?;
    let written = file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .map_err(unreadable)?;
    let failed = |source| PidFileError::Process {
        path: path.into(),
        source,
    };
    let attempt = identify(pid).map_err(failed)?;
    let age = process_age(pid).map_err(failed)?;
    let since_written = SystemTime::now()
        .duration_since(written)
        .unwrap_or_default();
    match since_written.checked_sub(age) {
        Some(newer_by) if newer_by > SLACK => Err(PidFileError::Stale {
            path: path.into(),
            pid,
            newer_by,
        }),
        Some(_) | None => Ok(attempt),
    }
}

/// How long ago the process began, by the clock that start times count on.
fn process_age(pid: u32) -> Result<Duration, IdentityError> {
    let stat = match look(to_pid(pid).ok_or(IdentityError::InvalidPid(pid))?) {
        Look::Found(stat) => stat,
        Look::Absent => return Err(IdentityError::NotRunning(pid)),
        Look::Hidden(why) => return Err(IdentityError::Unknown { pid, why }),
    };
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    let started = Duration::from_millis(stat.start_ticks.saturating_mul(1000) / ticks_per_second);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = Duration::new(
        now.tv_sec.try_into().unwrap_or(0),
        now.tv_nsec.try_into().unwrap_or(0),
    );
    Ok(now.saturating_sub(started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_names_a_running_process_or_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job.pid");
        assert!(matches!(
            read_pid_file(&path),
            Err(PidFileError::Missing { .. })
        ));
        for bad in [
            "",
            "\n",
            "abc",
            "-1",
            "12 34",
            "99999999999999999999",
            "1.5",
            "0x10",
        ] {
            std::fs::write(&path, bad).unwrap();
            assert!(
                matches!(read_pid_file(&path), Err(PidFileError::Malformed { .. })),
                "{bad:?}"
            );
        }
        std::fs::write(&path, "0").unwrap();
        assert!(matches!(
            read_pid_file(&path),
            Err(PidFileError::Process {
                source: IdentityError::InvalidPid(0),
                ..
            })
        ));
        std::fs::write(&path, "2147483647\n").unwrap();
        assert!(matches!(
            read_pid_file(&path),
            Err(PidFileError::Process {
                source: IdentityError::NotRunning(_),
                ..
            })
        ));
        let me = std::process::id();
        for good in [
            format!("{me}"),
            format!("{me}\n"),
            format!("  {me} \nsecond line"),
        ] {
            std::fs::write(&path, &good).unwrap();
            assert_eq!(
                read_pid_file(&path).unwrap(),
                identify(me).unwrap(),
                "{good:?}"
            );
        }
        assert!(matches!(
            read_pid_file(dir.path()),
            Err(PidFileError::Unreadable { .. })
        ));
    }

    #[test]
    fn a_file_older_than_the_process_of_its_number_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job.pid");
        std::fs::write(&path, std::process::id().to_string()).unwrap();
        let before =
            SystemTime::now() - process_age(std::process::id()).unwrap() - Duration::from_hours(1);
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(before)
            .unwrap();
        let Err(PidFileError::Stale { newer_by, .. }) = read_pid_file(&path) else {
            panic!("a left-over pid file was believed")
        };
        assert!(
            newer_by.abs_diff(Duration::from_hours(1)) < Duration::from_secs(5),
            "{newer_by:?}"
        );
    }
}
