//! Real processes, groups, terminals and kills.

mod gate;
mod group;
mod identity;
mod roles;
mod strangers;
mod terminal;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Child as StdChild, Command, Stdio};
use std::time::{Duration, Instant};

use stepdown::model::AttemptId;
use stepdown::process::{
    EndsWith, ProcessState, Signal, SignalTarget, SpawnOptions, observe, send,
};

/// Long enough for a loaded machine; nothing waits for it to pass.
const SOON: Duration = Duration::from_secs(20);

/// Waits until it is so; fails the test if it does not become so in time.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The file's text once it ends with a line break, so once it is whole.
#[track_caller]
fn await_line(path: &Path) -> String {
    let mut text = String::new();
    wait_until(&format!("a line in {}", path.display()), || {
        text = std::fs::read_to_string(path).unwrap_or_default();
        text.ends_with('\n')
    });
    text.trim_end().to_owned()
}

/// Writes a program. Not with a file of this process: a fork of another test would keep it open for
/// writing for a moment, and no system runs such a file.
fn write_program(path: &Path, text: &str) {
    let mut shell = Started::sh("cat > \"$0\" && chmod 755 \"$0\"")
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    assert!(shell.wait().unwrap().success());
}

/// A child of the test, killed and buried at the end of the test.
struct Started(StdChild);

impl Started {
    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn bury(&mut self) {
        self.0.wait().unwrap();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An attempt that must not outlive the test.
struct Doomed(AttemptId);

impl Drop for Doomed {
    fn drop(&mut self) {
        let _ = send(&self.0, SignalTarget::Process, Signal::KILL);
    }
}

fn pid_of(attempt: &AttemptId) -> u32 {
    match attempt {
        AttemptId::Process { pid, .. } => *pid,
        AttemptId::Named { name } => panic!("{name} is no process"),
    }
}

fn runs(attempt: &AttemptId) -> bool {
    matches!(
        observe(attempt, EndsWith::Process),
        ProcessState::Running { .. }
    )
}

fn ended(attempt: &AttemptId, ends_with: EndsWith) -> bool {
    matches!(observe(attempt, ends_with), ProcessState::Stopped { .. })
}

/// One letter for what the process does, from `/proc`.
fn kernel_state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Options whose gate is the real binary; the test's own is none.
fn gated(argv: impl IntoIterator<Item = impl Into<OsString>>) -> SpawnOptions {
    SpawnOptions {
        gate_binary: env!("CARGO_BIN_EXE_stepdown").into(),
        ..SpawnOptions::new(argv)
    }
}
