//! Rollouts that `watch` begins from request files, and goes on with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::rollouts::{ELSEWHERE, Stage, set, text, wait_until};

/// A watcher; killed when dropped.
struct Watcher {
    child: Child,
    log: PathBuf,
}

impl Watcher {
    fn start(stage: &Stage, name: &str, crash_at: Option<&str>) -> Watcher {
        Self::start_by(stage, name, crash_at, &[])
    }

    /// A watcher that takes itself for another host.
    fn elsewhere(stage: &Stage, name: &str) -> Watcher {
        Self::start_by(stage, name, None, ELSEWHERE)
    }

    fn start_by(stage: &Stage, name: &str, crash_at: Option<&str>, before: &[&str]) -> Watcher {
        let log = stage.path(&format!("{name}.log"));
        let file = fs::File::create(&log).unwrap();
        let both = file.try_clone().unwrap();
        let mut words = before.to_vec();
        words.extend_from_slice(&[env!("CARGO_BIN_EXE_stepdown"), "watch"]);
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env("STEPDOWN_CONFIG", stage.path("stepdown.toml"))
            .env_remove("STEPDOWN_CONTROL")
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(both);
        if let Some(place) = crash_at {
            command.env("STEPDOWN_CRASH_AT", place);
        }
        Watcher {
            child: command.spawn().unwrap(),
            log,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn await_end(&mut self, what: &str) -> Option<i32> {
        let mut status = None;
        wait_until(what, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// Ends it as a service manager does.
    fn end(mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let code = self.await_end("the watcher to end");
        assert_eq!(code, Some(0), "{}", self.log());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            println!("{}", self.log());
        }
    }
}

fn ask(stage: &Stage, request: &str, text: &str) -> PathBuf {
    let path = stage.path(&format!("c/requests/{request}"));
    fs::write(&path, text).unwrap();
    path
}

fn await_gone(path: &Path) {
    wait_until(&format!("{} to be taken", path.display()), || {
        !path.exists()
    });
}

/// The records of all rollouts, newest first.
fn history(stage: &Stage) -> Vec<Value> {
    let output = stage.stepdown(&["--json", "rollout", "history", "clicks"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["rollouts"].as_array().unwrap().clone()
}

/// Waits until this many rollouts are there and the newest is over.
fn await_over(stage: &Stage, count: usize, watcher: &Watcher) -> Value {
    let mut newest = Value::Null;
    wait_until(
        &format!("rollout {count} to be over; {}", watcher.log()),
        || {
            let all = history(stage);
            newest = all.first().cloned().unwrap_or_default();
            all.len() == count && newest["state"] == "ended"
        },
    );
    newest
}

fn await_state(stage: &Stage, id: &str, wanted: &str, watcher: &Watcher) {
    wait_until(&format!("{id} at {wanted}; {}", watcher.log()), || {
        history(stage)
            .first()
            .is_some_and(|newest| newest["rollout_id"] == id && newest["state"] == wanted)
    });
}

fn refusal(stage: &Stage, request: &str) -> String {
    let path = stage.path(&format!("c/state/clicks/rollouts/refused.{request}"));
    let mut why = String::new();
    wait_until(&format!("{request} to be refused"), || {
        let found: Option<Value> = fs::read_to_string(&path)
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok());
        why = found
            .and_then(|found| Some(found["why"].as_str()?.to_owned()))
            .unwrap_or_default();
        !why.is_empty()
    });
    why
}

#[test]
fn touch_is_enough_to_roll_out_and_back() {
    let stage = Stage::new("hand-over");
    let watcher = Watcher::start(&stage, "watch", None);
    let asked = ask(&stage, "clicks.start", "1\n");
    let first = await_over(&stage, 1, &watcher);
    assert_eq!(first["outcome"], "rolled-out", "{}", watcher.log());
    assert_eq!(first["version"], "1");
    assert!(!asked.exists());
    assert_eq!(stage.running(), set(&["blue"]));

    ask(&stage, "clicks.start", "2");
    let second = await_over(&stage, 2, &watcher);
    assert_eq!(second["outcome"], "rolled-out", "{}", watcher.log());
    assert_eq!(second["old_version"], "1");
    assert_eq!(second["proof"], "clean");
    assert_eq!(stage.running(), set(&["green"]));

    ask(&stage, "clicks.rollback", "");
    let back = await_over(&stage, 3, &watcher);
    assert_eq!(back["outcome"], "rolled-out", "{}", watcher.log());
    assert_eq!(back["version"], "1");
    assert_eq!(stage.running(), set(&["blue"]));
    watcher.end();
    assert_eq!(stage.running(), set(&["blue"]), "jobs outlive the watcher");
    stage.check_exactly_once();
    assert_eq!(stage.sink().len(), 1, "the query id is kept");
}

#[test]
fn a_request_that_nobody_takes_is_shown() {
    let stage = Stage::new("hand-over");
    let asked = ask(&stage, "clicks.start", "");
    let status = stage.stepdown(&["rollout", "status", "clicks"]);
    let said = text(&status);
    assert_eq!(status.status.code(), Some(7), "{said}");
    assert!(
        said.contains("clicks.start: nobody has taken it yet"),
        "{said}"
    );
    // A command begins another one all the same; the request is met by that.
    let begun = stage.roll_out(&["--version", "1"]);
    assert!(begun.status.success(), "{}", text(&begun));
    assert!(!asked.exists());
}

#[test]
fn a_request_while_one_is_under_way_is_harmless_and_files_steer() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    let watcher = Watcher::start(&stage, "watch", None);
    await_gone(&ask(&stage, "clicks.start", "1"));
    await_over(&stage, 1, &watcher);
    ask(&stage, "clicks.start", "2");
    await_state(&stage, "r-2", "held", &watcher);
    for _ in 0..3 {
        await_gone(&ask(&stage, "clicks.start", "3"));
    }
    // A command beside it is told who is at it.
    let beside = stage.roll_out(&["--version", "3"]);
    assert_eq!(beside.status.code(), Some(4), "{}", text(&beside));
    await_gone(&ask(&stage, "clicks.abort", ""));
    let aborted = await_over(&stage, 2, &watcher);
    assert_eq!(aborted["outcome"], "aborted", "{}", watcher.log());
    assert_eq!(stage.running(), set(&["blue"]));

    ask(&stage, "clicks.start", "3");
    await_state(&stage, "r-3", "held", &watcher);
    ask(&stage, "clicks.promote.r-3", "");
    let third = await_over(&stage, 3, &watcher);
    assert_eq!(third["outcome"], "rolled-out", "{}", watcher.log());
    assert_eq!(third["version"], "3");
    assert_eq!(stage.running(), set(&["green"]));
    watcher.end();
    stage.check_exactly_once();
}

#[test]
fn what_cannot_be_met_is_told_and_changes_nothing() {
    let stage = Stage::new("hand-over");
    let watcher = Watcher::start(&stage, "watch", None);
    for (request, content, said) in [
        ("clicks.strat", "", "none of start"),
        ("clicks.abort.7", "", "r-1, r-2"),
        ("clicks.start.r-1", "", "names none"),
        ("clicks.start", "1.5\n1.6\n", "several lines"),
        ("clicks.promote", "", "no rollout is under way"),
        ("clicks.hold.r-4", "", "r-4 is not under way"),
        ("clicks.rollback", "", "never rolled out"),
    ] {
        let asked = ask(&stage, request, content);
        let why = refusal(&stage, request);
        assert!(why.contains(said), "{request}: {why}");
        await_gone(&asked);
        assert!(watcher.log().contains(&why), "{}", watcher.log());
    }
    // At the same time: abort wins.
    ask(&stage, "clicks.start", "1");
    ask(&stage, "clicks.abort", "");
    refusal_after(&stage, "clicks.start", "an abort was asked for");
    // What is not for this job, or not for a rollout, stays.
    let others = [
        ask(&stage, "views.start", ""),
        ask(&stage, "clicks.start.blue-0123456789abcdef", ""),
    ];
    let status = stage.stepdown(&["rollout", "status", "clicks"]);
    assert_eq!(status.status.code(), Some(7));
    assert!(text(&status).contains("r-1, r-2"), "{}", text(&status));
    assert!(history(&stage).is_empty());
    assert_eq!(stage.running(), set(&[]));
    // And a good one is met after all that.
    ask(&stage, "clicks.start", "");
    let first = await_over(&stage, 1, &watcher);
    assert_eq!(first["outcome"], "rolled-out", "{}", watcher.log());
    for other in others {
        assert!(other.exists(), "{}", other.display());
    }
    // Two slots that both run are nothing to roll out by hand-over.
    stage.start_by_hand("green");
    wait_until("both to run", || stage.running() == set(&["blue", "green"]));
    ask(&stage, "clicks.start", "");
    refusal_after(&stage, "clicks.start", "both slots run");
    let status = stage.stepdown(&["--json", "rollout", "status", "clicks"]);
    let report: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(report["refused"][0]["request"], "clicks.start", "{report}");
    watcher.end();
}

/// Of a request that was refused before, too.
fn refusal_after(stage: &Stage, request: &str, said: &str) {
    wait_until(&format!("{request} to be refused: {said}"), || {
        refusal(stage, request).contains(said)
    });
}

/// Killed by itself at `place` of the second rollout; the next watcher goes on.
fn survive(place: &str, other_host: bool) {
    let stage = Stage::new("hand-over");
    let begun = stage.roll_out(&["--version", "1"]);
    assert!(begun.status.success(), "{}", text(&begun));
    let mut first = Watcher::start(&stage, "first", Some(place));
    ask(&stage, "clicks.start", "2");
    first.await_end(&format!("the watcher to die at {place}"));
    let second = if other_host {
        Watcher::elsewhere(&stage, "second")
    } else {
        Watcher::start(&stage, "second", None)
    };
    let newest = await_over(&stage, 2, &second);
    assert_eq!(newest["outcome"], "rolled-out", "{place}: {}", second.log());
    assert_eq!(newest["version"], "2", "{place}");
    assert_eq!(stage.running(), set(&["green"]), "{place}");
    second.end();
    stage.check_exactly_once();
    assert!(!stage.path("c/requests/clicks.start").exists(), "{place}");
}

#[test]
fn a_watcher_that_is_killed_leaves_the_rollout_to_the_next_one() {
    std::thread::scope(|scope| {
        let of = |places: &'static [&'static str], other_host| {
            scope.spawn(move || {
                for place in places {
                    survive(place, other_host);
                }
            })
        };
        of(
            &[
                "rollout-request-begun",
                "rollout-start-new-done",
                "rollout-go-begun",
            ],
            false,
        );
        of(
            &["rollout-entered-stopping", "rollout-entered-stopped"],
            true,
        );
    });
}

#[test]
fn of_two_watchers_one_drives_and_the_other_takes_over() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    let begun = stage.roll_out(&["--version", "1"]);
    assert!(begun.status.success(), "{}", text(&begun));
    let first = Watcher::start(&stage, "first", None);
    ask(&stage, "clicks.start", "2");
    await_state(&stage, "r-2", "held", &first);
    let second = Watcher::elsewhere(&stage, "second");
    wait_until("the second one to watch", || {
        second.log().contains("watching")
    });
    let generation = history(&stage)[0]["generation"].clone();
    // kill -9, without a word.
    drop(first);
    wait_until("the other one to have it", || {
        history(&stage)[0]["generation"] != generation
    });
    assert_eq!(history(&stage)[0]["state"], "held");
    ask(&stage, "clicks.promote", "");
    let newest = await_over(&stage, 2, &second);
    assert_eq!(newest["outcome"], "rolled-out", "{}", second.log());
    assert_eq!(stage.running(), set(&["green"]));
    second.end();
    stage.check_exactly_once();
}

#[test]
fn a_rollout_that_a_command_left_is_gone_on_with() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    let begun = stage.roll_out(&["--version", "1"]);
    assert!(begun.status.success(), "{}", text(&begun));
    let mut command = stage.spawn(&["rollout", "start", "clicks", "--version", "2"]);
    wait_until("the rollout to be held", || stage.state() == "held");
    let watcher = Watcher::start(&stage, "watch", None);
    wait_until("it to watch", || watcher.log().contains("watching"));
    kill_process(Pid::from_child(&command), Signal::INT).unwrap();
    command.wait().unwrap();
    wait_until("the watcher to have it", || {
        watcher.log().contains("goes on with a rollout")
    });
    // Told to end, it leaves the rollout where it is, for the next one.
    watcher.end();
    assert_eq!(stage.state(), "held");
    assert_eq!(stage.running(), set(&["blue", "green"]));
    ask(&stage, "clicks.promote", "");
    let next = Watcher::start(&stage, "next", None);
    let newest = await_over(&stage, 2, &next);
    assert_eq!(newest["outcome"], "rolled-out", "{}", next.log());
    next.end();
    stage.check_exactly_once();
}
