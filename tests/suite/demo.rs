//! The demo of `make run`, followed as its reader would.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

/// A demo in a directory of its own; ended when dropped.
struct Demo {
    dir: TempDir,
    script: Child,
}

fn await_that(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "waited in vain until {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Demo {
    /// Starts it and waits for its invitation.
    fn start() -> Demo {
        let dir = TempDir::new().unwrap();
        let log = File::create(dir.path().join("output")).unwrap();
        let script =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/run.sh"))
                .env("STEPDOWN", env!("CARGO_BIN_EXE_stepdown"))
                .env("DEMO_DIR", dir.path().join("demo"))
                .env_remove("DEMO_REMOVE_AFTER")
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .process_group(0)
                .spawn()
                .unwrap();
        let mut demo = Demo { dir, script };
        await_that("it is the reader's turn", || {
            assert_eq!(demo.script.try_wait().unwrap(), None, "{}", demo.output());
            demo.output().contains("    rm ")
        });
        demo
    }

    fn output(&self) -> String {
        fs::read_to_string(self.dir.path().join("output")).unwrap()
    }

    /// What it tells its reader to remove.
    fn marker(&self) -> PathBuf {
        let output = self.output();
        let line = output.lines().find_map(|line| line.strip_prefix("    rm "));
        line.unwrap().into()
    }

    /// The pids of the job and of the watcher.
    fn processes(&self) -> Vec<Pid> {
        let pid = |name: &str| {
            let text = fs::read_to_string(self.dir.path().join("demo").join(name)).unwrap();
            Pid::from_raw(text.trim().parse().unwrap()).unwrap()
        };
        vec![pid("clicks.pid"), pid("watch.pid")]
    }

    fn end(&mut self) -> ExitStatus {
        let mut status = None;
        await_that("the demo ends", || {
            status = self.script.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if self.script.try_wait().is_ok_and(|status| status.is_none()) {
            // It cleans up on this signal.
            let _gone = kill_process(Pid::from_child(&self.script), Signal::TERM);
            let _ended = self.script.wait();
        }
    }
}

/// They are init's to bury once the script has ended, which takes a moment.
fn await_gone(processes: Vec<Pid>) {
    for pid in processes {
        await_that("the processes of the demo are gone", || {
            test_kill_process(pid).is_err()
        });
    }
}

#[test]
fn the_job_of_the_demo_stops_clean_when_its_marker_is_removed() {
    let mut demo = Demo::start();
    let processes = demo.processes();
    fs::remove_file(demo.marker()).unwrap();
    let status = demo.end();
    let output = demo.output();
    assert!(status.success(), "{status}\n{output}");
    for part in [
        "job   | SIGTERM: finishing the batch",
        "job   | ended, exit code 0",
        "clicks.blue stopped: clean, drained in ",
        "\"kind\": \"receipt\"",
    ] {
        assert!(output.contains(part), "{part:?} is missing\n{output}");
    }
    await_gone(processes);
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let mut demo = Demo::start();
    let processes = demo.processes();
    kill_process(Pid::from_child(&demo.script), Signal::TERM).unwrap();
    assert_eq!(demo.end().code(), Some(143), "{}", demo.output());
    await_gone(processes);
}
