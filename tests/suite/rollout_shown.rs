//! What is shown of a rollout: of one that goes on, and of one that was not begun.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use super::rollout_checks::json;
use super::rollouts::{Stage, assert_ok, set, text, wait_until};

/// `rollout status --follow` in a pipe.
struct Follower {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Follower {
    fn start(stage: &Stage, before: &[&str]) -> Follower {
        let words = [
            "rollout",
            "status",
            "clicks",
            "--follow",
            "--interval",
            "20ms",
        ];
        let mut child = stage
            .command(&[before, &words[..]].concat())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pipe = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                if sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Follower {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Reads until a line has `wanted`.
    fn await_line(&mut self, wanted: &str) {
        while !self.seen.iter().any(|line| line.contains(wanted)) {
            let next = self.lines.recv_timeout(Duration::from_secs(30));
            let next = next.unwrap_or_else(|_| panic!("no {wanted} in {:#?}", self.seen));
            self.seen.push(next);
        }
    }

    /// All lines, once it has ended; with its exit code.
    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let mut status = None;
        wait_until("status --follow to end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.seen.extend(self.lines.iter());
        (status.unwrap().code(), self.seen)
    }
}

/// The states in the lines, each once.
fn states(lines: &[String]) -> Vec<&str> {
    let mut states: Vec<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("  ")?.split_once(": "))
        .map(|(state, _)| state)
        .filter(|word| !["batch", "gap", "deadline", "asked", "requested"].contains(word))
        .collect();
    states.dedup();
    states
}

#[test]
fn a_rollout_is_followed_to_its_end() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    assert_ok(&stage.roll_out(&["--version", "1"]));
    let mut driving = stage.spawn(&["rollout", "start", "clicks", "--version", "2"]);
    stage.await_state("held");
    let mut follower = Follower::start(&stage, &[]);
    follower.await_line("  held: the new job waits for its go");
    follower.await_line("  batch: blue ");
    follower.await_line("  deadline: in ");
    assert_eq!(follower.seen[0], "clicks r-2 by hand-over: blue to green");
    assert!(follower.child.try_wait().unwrap().is_none());
    assert_ok(&stage.stepdown(&["rollout", "promote", "clicks"]));
    assert!(driving.wait().unwrap().success(), "{}", stage.log());
    let (code, lines) = follower.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    // Short ones may lie between two looks.
    let states = states(&lines);
    let ways = [
        "held",
        "stopping",
        "stopped",
        "cutover",
        "proving",
        "rolled-out",
    ];
    let mut order = ways.iter();
    assert!(
        states.iter().all(|state| order.any(|way| way == state)),
        "{states:?}"
    );
    assert_eq!(states.first(), Some(&"held"));
    assert_eq!(states.last(), Some(&"rolled-out"));
    let gap = lines.iter().rfind(|line| line.starts_with("  gap: "));
    assert!(gap.unwrap().ends_with(" s"), "{lines:#?}");
    stage.check_exactly_once();
}

#[test]
fn a_checkpoint_of_an_earlier_rollout_is_not_taken_for_the_new_job_s() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    assert_ok(&stage.roll_out(&["--version", "1"]));
    let mut driving = stage.spawn(&["rollout", "start", "clicks", "--version", "2"]);
    stage.await_state("held");
    assert_ok(&stage.stepdown(&["rollout", "promote", "clicks"]));
    assert!(driving.wait().unwrap().success(), "{}", stage.log());
    // Back to blue, whose checkpoint of before stands where the copy will be.
    let mut driving = stage.spawn(&["rollout", "start", "clicks", "--version", "3"]);
    stage.await_state("held");
    let shown = text(&stage.stepdown(&["rollout", "status", "clicks"]));
    assert!(
        shown.contains("clicks r-3 by hand-over: green to blue\n"),
        "{shown}"
    );
    assert!(shown.contains(", blue -\n"), "{shown}");
    let report = json(&stage.stepdown(&["--json", "rollout", "status", "clicks"]));
    assert_eq!(
        report["new"]["checkpoints"],
        serde_json::json!([]),
        "{report}"
    );
    assert_eq!(report["lag_batches"], Value::Null, "{report}");
    assert_ok(&stage.stepdown(&["rollout", "abort", "clicks"]));
    assert_eq!(driving.wait().unwrap().code(), Some(1), "{}", stage.log());

    let shown = text(&stage.stepdown(&["rollout", "history", "clicks"]));
    let lines: Vec<Vec<&str>> = shown
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0][..3], ["ROLLOUT", "STRATEGY", "SLOTS"], "{shown}");
    let slots = "r-3 hand-over green to blue 3 aborted - -"
        .split(' ')
        .collect::<Vec<_>>();
    assert_eq!(lines[1][..slots.len()], slots, "{shown}");
    assert_eq!(
        lines[3][..5],
        ["r-1", "hand-over", "nothing", "to", "blue"],
        "{shown}"
    );
    assert_eq!(
        lines[4],
        ["r-3:", "the", "old", "job", "runs", "on"],
        "{shown}"
    );
    assert_eq!(lines.len(), 5, "{shown}");
}

#[test]
fn one_that_is_taken_back_is_followed_to_its_end_too() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    assert_ok(&stage.roll_out(&["--version", "1"]));
    let mut driving = stage.spawn(&["rollout", "start", "clicks", "--version", "2"]);
    stage.await_state("held");
    let mut follower = Follower::start(&stage, &["--json"]);
    follower.await_line("\"state\":\"held\"");
    assert_ok(&stage.stepdown(&["rollout", "abort", "clicks"]));
    assert_eq!(driving.wait().unwrap().code(), Some(1), "{}", stage.log());
    let (code, lines) = follower.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    let reports: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let mut states: Vec<&str> = reports
        .iter()
        .map(|report| report["record"]["state"].as_str().unwrap())
        .collect();
    states.dedup();
    assert!(
        states == ["held", "aborting", "ended"] || states == ["held", "ended"],
        "{states:?}"
    );
    let last = reports.last().unwrap();
    assert_eq!(last["record"]["outcome"], "aborted", "{last}");
    assert_eq!(last["record"]["rollout_id"], "r-2", "{last}");
    assert_eq!(stage.running(), set(&["blue"]));
}

/// What `--dry-run` says of a stage, as state and act, and the words of the steps.
fn steps(stage: &Stage, more: &[&str]) -> (Vec<(String, String)>, Vec<String>) {
    let args = [
        &["rollout", "start", "clicks", "--dry-run", "--version", "2"],
        more,
    ]
    .concat();
    let output = stage.stepdown(&[&["--json"], &args[..]].concat());
    assert_ok(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let steps = report["steps"].as_array().unwrap();
    let does: Vec<String> = steps.iter().map(|step| word(&step["does"])).collect();
    // People are told the same, in the same order.
    let output = stage.stepdown(&args);
    assert_ok(&output);
    let said = text(&output);
    let mut from = 0;
    for step in steps {
        let (name, does) = (word(&step["state"]), word(&step["does"]));
        let found = said[from..]
            .find(&does)
            .unwrap_or_else(|| panic!("{does}: {said}"));
        from += found;
        let line = said[..from].rsplit('\n').next().unwrap();
        assert!(line.starts_with(&name), "{name}: {said}");
    }
    let pairs = steps
        .iter()
        .map(|step| (word(&step["state"]), word(&step["act"])))
        .collect();
    (pairs, does)
}

#[test]
fn a_dry_run_says_the_steps_of_each_strategy() {
    const PREPARE: (&str, &str) = ("preparing", "prepare-new");
    const ASK: (&str, &str) = ("stopping", "ask-old");
    const COPY: (&str, &str) = ("stopped", "finish-copy");
    const PROVE: (&str, &str) = ("proving", "-");
    const START_LAST: (&str, &str) = ("cutover", "start-new");
    const START_FIRST: (&str, &str) = ("starting", "start-new");
    const GO: (&str, &str) = ("cutover", "go");
    const SYNC: (&str, &str) = ("preparing", "sync");
    let cases: [(&'static str, &[(&str, &str)]); 5] = [
        ("stop-start", &[PREPARE, ASK, COPY, START_LAST, PROVE]),
        (
            "hand-over",
            &[
                PREPARE,
                SYNC,
                START_FIRST,
                ("held", "-"),
                ASK,
                COPY,
                GO,
                PROVE,
            ],
        ),
        (
            "in-place",
            &[PREPARE, START_FIRST, ("held", "-"), ASK, GO, PROVE],
        ),
        (
            "parallel",
            &[
                PREPARE,
                ("preparing", "copy-committed"),
                START_FIRST,
                ("shadow", "-"),
                ASK,
                PROVE,
            ],
        ),
        ("rolling", &[ASK, START_LAST, PROVE, ("preparing", "-")]),
    ];
    for (strategy, expected) in cases {
        let checks = "gate = [\"check\", \"before\"]\npost-gate = [\"check\", \"after\"]";
        let stage = Stage::with(strategy, checks);
        if strategy == "rolling" {
            for slot in ["blue", "green"] {
                stage.start_by_hand(slot);
            }
        } else {
            stage.start_by_hand("blue");
        }
        let slots = if strategy == "rolling" { 2 } else { 1 };
        wait_until("the job to run", || stage.running().len() == slots);
        let before = stage.jobs();
        let (found, does) = steps(&stage, &[]);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(state, act)| (state.as_str(), act.as_str()))
            .collect();
        assert_eq!(found, expected, "{strategy}");
        let said = does.join("\n");
        let has_gate = !matches!(strategy, "stop-start" | "rolling");
        assert_eq!(said.contains("check before passes"), has_gate, "{said}");
        assert!(said.contains("then for check after to pass"), "{said}");
        assert!(said.contains("run python3 "), "{said}");
        if strategy == "rolling" {
            assert_eq!(does[3], "the same for blue", "{said}");
        }
        assert!(
            !stage.path("c/state/clicks/rollouts").exists(),
            "{strategy}"
        );
        assert_eq!(stage.jobs(), before, "{strategy}");
    }
}

#[test]
fn a_dry_run_says_what_a_first_start_does_and_what_is_under_way() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    let (first, _) = steps(&stage, &[]);
    let first: Vec<(&str, &str)> = first
        .iter()
        .map(|(state, act)| (state.as_str(), act.as_str()))
        .collect();
    assert_eq!(
        first,
        [
            ("preparing", "prepare-new"),
            ("starting", "start-new"),
            ("proving", "-")
        ]
    );
    assert_ok(&stage.roll_out(&["--version", "1"]));
    let (_, does) = steps(&stage, &[]);
    assert!(
        does.contains(&"wait for: `rollout promote`".to_owned()),
        "{does:?}"
    );
    // The strategy of the command line counts.
    let (other, _) = steps(&stage, &["--strategy", "stop-start"]);
    assert_eq!(other.last().unwrap().0, "proving");
    assert!(
        other
            .iter()
            .any(|(state, act)| state == "cutover" && act == "start-new")
    );
    let mut driving = stage.spawn(&["rollout", "start", "clicks", "--version", "2"]);
    stage.await_state("held");
    let output = stage.roll_out(&["--dry-run"]);
    assert_ok(&output);
    let said = text(&output);
    assert!(
        said.contains("would go on with rollout r-2 of clicks, which is at held"),
        "{said}"
    );
    assert_ok(&stage.stepdown(&["rollout", "abort", "clicks"]));
    assert_eq!(driving.wait().unwrap().code(), Some(1));
}
