//! Programs of the operator: hooks, checks, and the commands of a backend.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::stat::to_pid;

/// Why a program did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// There is no such program, or it must not be run.
    #[error("cannot be run: {0}")]
    NotRun(#[source] io::Error),
    /// It took too long, and was killed with all that it had started in its process group.
    #[error("did not end in time and was killed")]
    Late,
}

/// The command of a program and its arguments: without a shell, without input.
pub fn command(argv: &[String]) -> Command {
    let mut command = Command::new(argv.first().map_or("", String::as_str));
    command
        .args(argv.get(1..).unwrap_or_default())
        .stdin(Stdio::null());
    command
}

/// How the program ended.
///
/// # Errors
/// [`ProgramError::NotRun`]; [`ProgramError::Late`] if it ran for longer than `timeout`.
pub async fn run(mut command: Command, timeout: Duration) -> Result<ExitStatus, ProgramError> {
    let mut program = Program::start(&mut command).map_err(ProgramError::NotRun)?;
    match tokio::time::timeout(timeout, program.wait()).await {
        Ok(ended) => ended.map_err(ProgramError::NotRun),
        Err(_) => Err(ProgramError::Late),
    }
}

/// A program that runs. Dropped before its end was awaited, it is killed with its process group: a shell
/// that waits for a program that hangs would leave that one behind, at each try another one.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Program {
    /// Starts it in a process group of its own.
    ///
    /// # Errors
    /// Those of the system.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        Ok(Self { child })
    }

    /// Its output and its error output, where they are pipes; once.
    pub fn take_output(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// How it ended. What it left in the background goes on.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has its number until it was waited for, so the group cannot be another one's.
        if let Some(group) = self.child.id().and_then(to_pid) {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Command {
        command(&["sh", "-c", script].map(str::to_owned))
    }

    async fn read_pid(file: &Path) -> u32 {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            if let Some(pid) = std::fs::read_to_string(file)
                .ok()
                .and_then(|text| text.trim().parse().ok())
            {
                return pid;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no pid in {}", file.display());
    }

    fn runs(pid: u32) -> bool {
        let pid = to_pid(pid).expect("a pid");
        super::super::stat::read_stat(pid).is_ok_and(|stat| !stat.is_dead())
    }

    async fn await_end(pid: u32) {
        let begun = Instant::now();
        while runs(pid) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{pid} runs on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn what_a_late_program_waits_for_is_killed_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        // Two commands, so that the shell does not become the first.
        let script = format!("sleep 300 & echo $! > {}; wait", file.display());
        let late = run(shell(&script), Duration::from_secs(5)).await;
        assert!(matches!(late, Err(ProgramError::Late)), "{late:?}");
        await_end(read_pid(&file).await).await;
    }

    #[tokio::test]
    async fn a_program_that_nobody_awaits_any_more_is_killed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; wait", file.display());
        let task = tokio::spawn(run(shell(&script), Duration::from_mins(5)));
        let pid = read_pid(&file).await;
        task.abort();
        await_end(pid).await;
    }

    #[tokio::test]
    async fn what_a_program_leaves_in_the_background_goes_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("pid");
        let script = format!(
            "sleep 300 >/dev/null 2>&1 & echo $! > {}; exit 4",
            file.display()
        );
        let ended = run(shell(&script), Duration::from_mins(1)).await;
        assert_eq!(ended.expect("an end").code(), Some(4));
        let pid = read_pid(&file).await;
        assert!(runs(pid));
        let pid = to_pid(pid).expect("a pid");
        rustix::process::kill_process(pid, Signal::KILL).expect("killed");
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_told_so() {
        let error = run(
            command(&["/nowhere/at-all".to_owned()]),
            Duration::from_secs(1),
        )
        .await
        .expect_err("an error");
        assert_eq!(
            error.to_string(),
            "cannot be run: No such file or directory (os error 2)"
        );
    }
}
