//! The programs that a rollout runs: hooks at its turning points, checks at its end; and a job whose start
//! script holds it.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use super::rollouts::{Stage, assert_ok, set, text, wait_until};

/// All hooks of rollouts.
const HOOKS: [&str; 5] = [
    "on-start",
    "on-stopped",
    "on-success",
    "on-failure",
    "on-needs-human",
];

/// One run of a hook.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) hook: String,
    at: SystemTime,
    variables: BTreeMap<String, String>,
}

impl Noted {
    fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    /// The state of the rollout with its reason.
    pub(crate) fn place(&self) -> String {
        format!(
            "{}: {}",
            self.variable("STEPDOWN_ROLLOUT_STATE"),
            self.variable("STEPDOWN_ROLLOUT_REASON")
        )
    }
}

/// A table of hooks each of which leaves a file with its variables.
pub(crate) fn noting(stage: &Stage) -> String {
    let dir = stage.path("hooks");
    fs::create_dir_all(&dir).unwrap();
    let note = format!(
        "f={}/$STEPDOWN_HOOK.$$; env >$f.tmp; mv $f.tmp $f.noted",
        dir.display()
    );
    let hooks = HOOKS.map(|hook| format!("{hook} = [\"sh\", \"-c\", '{note}']\n"));
    format!("\n[jobs.clicks.rollout.hooks]\n{}", hooks.concat())
}

/// The runs of hooks so far, oldest first.
pub(crate) fn noted(stage: &Stage) -> Vec<Noted> {
    let entries = fs::read_dir(stage.path("hooks")).unwrap();
    let mut all: Vec<Noted> = entries
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            (path.extension()? == "noted").then_some(path)
        })
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let variables: BTreeMap<String, String> = text
                .lines()
                .filter_map(|line| line.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            Noted {
                hook: variables["STEPDOWN_HOOK"].clone(),
                at: fs::metadata(&path).unwrap().modified().unwrap(),
                variables,
            }
        })
        .collect();
    all.sort_by_key(|note| note.at);
    all
}

fn names(notes: &[Noted]) -> Vec<&str> {
    notes.iter().map(|note| note.hook.as_str()).collect()
}

/// Version 1 runs in blue; then hooks are there.
fn stage(strategy: &'static str) -> Stage {
    let mut stage = Stage::new(strategy);
    assert_ok(&stage.roll_out(&["--version", "1"]));
    stage.extra = noting(&stage);
    stage.configure();
    stage
}

/// From now on green fails there.
fn failing_at(stage: &mut Stage, place: &str) {
    let words = ["--fail", place, "--only", "green"].map(str::to_owned);
    stage.job_words.extend(words);
    stage.configure();
}

#[test]
fn hooks_run_once_each_at_their_time() {
    let stage = stage("hand-over");
    assert_ok(&stage.roll_out(&["--version", "2"]));
    let notes = noted(&stage);
    assert_eq!(names(&notes), ["on-start", "on-stopped", "on-success"]);
    for (note, (state, outcome)) in
        notes
            .iter()
            .zip([("preparing", ""), ("stopped", ""), ("ended", "rolled-out")])
    {
        for (name, value) in [
            ("STEPDOWN_JOB", "clicks"),
            ("STEPDOWN_ROLLOUT_ID", "r-2"),
            ("STEPDOWN_ROLLOUT_STATE", state),
            ("STEPDOWN_ROLLOUT_OUTCOME", outcome),
            ("STEPDOWN_OLD_SLOT", "blue"),
            ("STEPDOWN_NEW_SLOT", "green"),
            ("STEPDOWN_VERSION", "2"),
        ] {
            assert_eq!(note.variable(name), value, "{name} of {}", note.hook);
        }
        assert_ne!(note.variable("STEPDOWN_ROLLOUT_REASON"), "", "{note:?}");
    }
    // What a hook sees is so: the old job has written its last batch.
    let last = |slot: &str| {
        let commits = fs::read_dir(stage.path(&format!("ck/{slot}/commits"))).unwrap();
        let times = commits.map(|entry| entry.unwrap().metadata().unwrap().modified().unwrap());
        times.max().unwrap()
    };
    assert!(notes[1].at > last("blue"));
    stage.check_exactly_once();
}

#[test]
fn a_rollout_that_is_taken_back_runs_the_hook_of_failures() {
    let mut stage = stage("hand-over");
    failing_at(&mut stage, "held");
    let output = stage.roll_out(&["--version", "2"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let notes = noted(&stage);
    assert_eq!(names(&notes), ["on-start", "on-failure"]);
    assert_eq!(notes[1].variable("STEPDOWN_ROLLOUT_OUTCOME"), "aborted");
    assert_eq!(stage.running(), set(&["blue"]));
    stage.check_exactly_once();
}

#[test]
fn somebody_is_called_once() {
    let mut stage = stage("hand-over");
    failing_at(&mut stage, "planned");
    let output = stage.roll_out(&["--version", "2"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    // To look again is no new reason to call.
    let again = stage.roll_out(&["--version", "2"]);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
    let notes = noted(&stage);
    assert_eq!(names(&notes), ["on-start", "on-stopped", "on-needs-human"]);
    let place = notes[2].place();
    assert!(
        place.starts_with("needs-human: the new job died after it had planned"),
        "{place}"
    );
    assert_eq!(stage.state(), "needs-human");
}

#[test]
fn hooks_that_fail_or_hang_do_no_harm() {
    for (name, program, said) in [
        ("fails", "[\"false\"]", "the hook failed"),
        (
            "is missing",
            "[\"/no/such/program\"]",
            "the hook cannot be run",
        ),
        (
            "hangs",
            "[\"sh\", \"-c\", 'echo $$ >>{pids}; exec sleep 300']",
            "the hook did not end in time and was killed",
        ),
    ] {
        let mut stage = Stage::new("hand-over");
        assert_ok(&stage.roll_out(&["--version", "1"]));
        let pids = stage.path("pids");
        let program = program.replace("{pids}", &pids.display().to_string());
        let hooks = HOOKS.map(|hook| format!("{hook} = {program}\n"));
        stage.extra = format!(
            "[jobs.clicks.rollout.hooks]\ntimeout = \"1s\"\n{}",
            hooks.concat()
        );
        stage.configure();
        let begun = Instant::now();
        let output = stage.roll_out(&["--version", "2"]);
        assert_ok(&output);
        assert!(text(&output).contains(said), "{name}: {}", text(&output));
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}");
        assert_eq!(stage.running(), set(&["green"]), "{name}");
        stage.check_exactly_once();
        if name == "hangs" {
            let pids = fs::read_to_string(pids).unwrap();
            assert_eq!(pids.lines().count(), 3, "start, stopped, success");
            for pid in pids.lines() {
                let words = fs::read_to_string(format!("/proc/{pid}/cmdline"));
                let left = words.unwrap_or_default().starts_with("sleep");
                assert!(!left, "the hook {pid} still runs");
            }
        }
    }
}

#[test]
fn a_last_check_that_says_no_is_an_alarm_and_no_way_back() {
    let mut stage = stage("hand-over");
    let verdict = stage.path("verdict").display().to_string();
    fs::write(stage.path("verdict"), "3").unwrap();
    let check = format!("exit $(cat {verdict})");
    let gate = format!("post-gate = [\"sh\", \"-c\", '{check}']\ngate-interval = \"100ms\"\n");
    stage.extra = gate + &stage.extra;
    stage.configure();
    let start = ["rollout", "start", "clicks", "--version", "2"];
    let mut driving = stage.spawn(&start);
    let called = || {
        let notes = noted(&stage);
        notes.into_iter().find(|note| note.hook == "on-needs-human")
    };
    wait_until("somebody to be called", || called().is_some());
    let place = called().unwrap().place();
    assert!(
        place.starts_with("proving: the new job does not pass its last checks"),
        "{place}"
    );
    assert_eq!(stage.state(), "proving");
    assert!(driving.try_wait().unwrap().is_none(), "{}", stage.log());
    let back = stage.stepdown(&["rollout", "abort", "clicks"]);
    assert_eq!(back.status.code(), Some(2), "{}", text(&back));
    assert_eq!(stage.running(), set(&["green"]));
    // The check is mended, and looked at again by the next one.
    kill_process(Pid::from_child(&driving), Signal::INT).unwrap();
    assert_eq!(driving.wait().unwrap().code(), Some(130), "{}", stage.log());
    fs::write(stage.path("verdict"), "0").unwrap();
    assert_ok(&stage.stepdown(&start));
    assert_eq!(stage.outcome(), "rolled-out");
    assert_eq!(
        names(&noted(&stage)),
        ["on-start", "on-stopped", "on-needs-human", "on-success"]
    );
    stage.check_exactly_once();
}

#[test]
fn a_job_that_fails_its_last_check_can_be_accepted() {
    let mut stage = stage("hand-over");
    stage.extra = "post-gate = [\"sh\", \"-c\", \"exit 3\"]\n".to_owned() + &stage.extra;
    stage.configure();
    let mut driving = stage.spawn(&["rollout", "start", "clicks", "--version", "2"]);
    let is_called = || {
        noted(&stage)
            .iter()
            .any(|note| note.hook == "on-needs-human")
    };
    wait_until("somebody to be called", is_called);
    assert_ok(&stage.stepdown(&["rollout", "promote", "clicks"]));
    assert!(driving.wait().unwrap().success(), "{}", stage.log());
    let record = stage.record();
    assert_eq!(record["outcome"], "rolled-out", "{record:#}");
    let reason = record["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("an operator accepted"), "{reason}");
    assert_eq!(stage.running(), set(&["green"]));
    stage.check_exactly_once();
}

#[test]
fn a_last_check_is_tried_until_it_passes() {
    let mut stage = stage("hand-over");
    let tries = stage.path("tries").display().to_string();
    let check = format!("echo $STEPDOWN_NEW_SLOT >>{tries}; test $(wc -l <{tries}) -ge 4");
    let gate = format!(
        "post-gate = [\"sh\", \"-c\", '{check}']\ngate-interval = \"50ms\"\ngate-passes = 2\n"
    );
    stage.extra = gate + &stage.extra;
    stage.configure();
    assert_ok(&stage.roll_out(&["--version", "2"]));
    // Three that fail, two that pass.
    let tries = fs::read_to_string(tries).unwrap();
    assert_eq!(tries.lines().collect::<Vec<_>>(), ["green"; 5]);
    assert_eq!(
        names(&noted(&stage)),
        ["on-start", "on-stopped", "on-success"]
    );
    stage.check_exactly_once();
}

#[test]
fn a_job_that_its_own_script_holds_is_not_asked_whether_it_waits() {
    let mut stage = Stage::new("hand-over");
    assert_ok(&stage.roll_out(&["--version", "1"]));
    stage.job_words.push("--mute".to_owned());
    // The kit would say that it holds the job.
    "start-deadline = \"2s\"".clone_into(&mut stage.extra);
    stage.configure();
    let output = stage.roll_out(&["--version", "2"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(stage.outcome(), "aborted");
    assert_eq!(stage.running(), set(&["blue"]));

    "hold-by = \"script\"\npromote = \"manual\"".clone_into(&mut stage.extra);
    stage.configure();
    let mut driving = stage.spawn(&["rollout", "start", "clicks", "--version", "2"]);
    stage.await_state("held");
    assert!(!stage.path("c/state/clicks/go.green.json").exists());
    assert!(!stage.path("ck/green").exists());
    assert_ok(&stage.stepdown(&["rollout", "promote", "clicks"]));
    assert!(driving.wait().unwrap().success(), "{}", stage.log());
    assert_eq!(stage.running(), set(&["green"]));
    stage.check_exactly_once();
}
