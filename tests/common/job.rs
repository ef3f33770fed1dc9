//! A small job to be watched: notes what happens to it, and ends as it is told.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::wait::wait_until;

const SCRIPT: &str = include_str!("job.py");
const PYTHON: &str = "/usr/bin/python3";
/// Longer than a Python takes to come up on a busy machine.
const START: Duration = Duration::from_secs(20);

/// A job with a log of its own. What of it still runs is killed when this is dropped.
#[derive(Debug)]
pub struct Job {
    script: PathBuf,
    log: PathBuf,
}

impl Job {
    /// A job that has not been started, with its files in `dir`.
    ///
    /// # Errors
    /// If the script cannot be written.
    pub fn new(dir: &Path, name: &str) -> Result<Self> {
        let script = dir.join(format!("{name}.py"));
        fs::write(&script, SCRIPT).context("cannot write the job's script")?;
        Ok(Self {
            log: dir.join(format!("{name}.notes")),
            script,
        })
    }

    /// The command that starts it; `behaviour` as `job.py` has it.
    pub fn argv(&self, behaviour: &[&str]) -> Vec<OsString> {
        let mut argv: Vec<OsString> = vec![PYTHON.into(), "-I".into(), "-S".into()];
        argv.push(self.script.clone().into());
        argv.push(self.log.clone().into());
        argv.extend(behaviour.iter().map(OsString::from));
        argv
    }

    /// Starts it by itself, as the leader of a process group, and waits until it is up.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(&self, behaviour: &[&str]) -> Result<BareJob> {
        let before = self.starts().len();
        let mut command = Command::new("setsid");
        command.args(self.argv(behaviour)).stdin(Stdio::null());
        let child = command.spawn().context("cannot start setsid")?;
        let job = BareJob { child };
        self.await_starts(before + 1)?;
        Ok(job)
    }

    /// All that was noted so far.
    pub fn notes(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How often exactly this was noted.
    pub fn count(&self, note: &str) -> usize {
        self.notes().iter().filter(|line| *line == note).count()
    }

    /// The pids with which it was started, in order.
    pub fn starts(&self) -> Vec<u32> {
        let notes = self.notes();
        let pids = notes.iter().filter_map(|line| line.strip_prefix("start "));
        pids.filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Waits until it was started so many times, and returns the last pid.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub fn await_starts(&self, times: usize) -> Result<u32> {
        wait_until(START, "the job is started", || self.starts().len() >= times)
            .with_context(|| format!("{:?}", self.notes()))?;
        self.starts().last().copied().context("no pid was noted")
    }

    /// Waits until `note` was noted so many times.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub fn await_notes(&self, note: &str, times: usize, deadline: Duration) -> Result<()> {
        let what = format!("the job notes {note:?} {times} times");
        wait_until(deadline, &what, || self.count(note) >= times)
            .with_context(|| format!("{:?}", self.notes()))
    }

    /// Whether a process of this job runs with this pid, its own or its child's.
    pub fn runs(&self, pid: u32) -> bool {
        let script = self.script.to_string_lossy().into_owned();
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        // A dead process that waits to be reaped has no command line.
        String::from_utf8_lossy(&command_line).contains(&script)
    }

    /// The pids of all processes of this job that run.
    pub fn running(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.runs(*pid)).collect()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for pid in self.running() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// A job that a test started itself.
#[derive(Debug)]
pub struct BareJob {
    child: Child,
}

impl BareJob {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did; until this is asked a dead one is a zombie.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for BareJob {
    fn drop(&mut self) {
        // Only a process that was not waited for is killed: the number is its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
