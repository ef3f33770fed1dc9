//! Jobs and operators that do not keep to the plan of a rollout: an old job that does not stop, one that
//! its platform starts again, a new one that dies late, two rollouts at once.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::rollout_hooks::{Noted, noted, noting};
use super::rollouts::{ELSEWHERE, Stage, assert_ok, kill, live_through_all, set, text, wait_until};

/// What the slots wrote, in order, each slot once for all that it wrote in a row.
fn writers(stage: &Stage) -> Vec<String> {
    let sink = fs::read_to_string(stage.path("sink")).unwrap_or_default();
    let mut slots: Vec<String> = sink
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
        .collect();
    slots.dedup();
    slots
}

/// The batches that a slot wrote.
fn written_by(stage: &Stage, slot: &str) -> usize {
    let sink = fs::read_to_string(stage.path("sink")).unwrap_or_default();
    sink.lines()
        .filter(|line| line.split(' ').nth(4) == Some(slot))
        .count()
}

/// The places at which somebody was called.
fn calls(stage: &Stage) -> Vec<String> {
    let notes = noted(stage);
    let calls = notes.iter().filter(|note| note.hook == "on-needs-human");
    calls.map(Noted::place).collect()
}

fn phase(stage: &Stage, slot: &str) -> String {
    let file = fs::read_to_string(stage.path(&format!("c/status/clicks.{slot}.json"))).unwrap();
    let status: Value = serde_json::from_str(&file).unwrap();
    status["phase"].as_str().unwrap().to_owned()
}

/// Version 1 runs in blue and listens to nobody.
fn deaf_stage(strategy: &'static str) -> Stage {
    let mut stage = Stage::new(strategy);
    stage.job_words.push("--deaf".to_owned());
    stage.configure();
    assert_ok(&stage.roll_out(&["--version", "1"]));
    assert_eq!(stage.running(), set(&["blue"]));
    stage.job_words.pop();
    stage
}

#[test]
fn an_old_job_that_does_not_stop_keeps_the_new_one_waiting() {
    let mut stage = deaf_stage("hand-over");
    stage.extra = noting(&stage) + "[jobs.clicks]\ndrain-deadline = \"1s\"\n";
    stage.configure();
    let mut driving = stage.spawn(&["rollout", "start", "clicks", "--version", "2"]);
    wait_until("the alarm", || !calls(&stage).is_empty());
    let wrote = written_by(&stage, "blue");
    wait_until("the old job to write on", || {
        written_by(&stage, "blue") > wrote + 10
    });
    // It was asked, and all stays as it is.
    assert!(!stage.marker("blue").exists());
    assert_eq!(stage.state(), "stopping", "{}", stage.log());
    assert_eq!(stage.running(), set(&["blue", "green"]));
    assert_eq!(phase(&stage, "green"), "held");
    assert!(!stage.path("c/state/clicks/go.green.json").exists());
    assert!(!stage.path("ck/green").exists(), "no copy is published");
    wait_until("the deadline to be shown as passed", || {
        text(&stage.stepdown(&["rollout", "status", "clicks"])).contains("deadline: passed")
    });
    let told = calls(&stage);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("stopping: the old job drains longer than it may"),
        "{told:?}"
    );
    assert!(driving.try_wait().unwrap().is_none(), "{}", stage.log());
    // An operator ends it.
    kill(stage.pid("blue").unwrap());
    assert!(driving.wait().unwrap().success(), "{}", stage.log());
    assert_eq!(stage.outcome(), "rolled-out");
    assert_eq!(stage.running(), set(&["green"]));
    stage.check_sink();
    assert_eq!(writers(&stage), ["blue", "green"]);
}

#[test]
fn an_old_job_that_does_not_stop_is_killed_where_the_policy_says_so() {
    let mut stage = deaf_stage("hand-over");
    stage.extra = "[jobs.clicks]\ndrain-deadline = \"1s\"\nescalate = \"kill\"\n".to_owned();
    stage.configure();
    let config = stage.path("stepdown.toml");
    let written = fs::read_to_string(&config).unwrap();
    let signalled = "backend = \"signal\"\nends-with = \"process\"";
    fs::write(&config, written.replace("backend = \"driver\"", signalled)).unwrap();
    let output = stage.roll_out(&["--version", "2"]);
    assert_ok(&output);
    let record = stage.record();
    assert_eq!(record["outcome"], "rolled-out", "{record}");
    assert_eq!(stage.running(), set(&["green"]));
    assert_eq!(stage.jobs().len(), 1, "{:?}", stage.jobs());
    stage.check_sink();
    assert_eq!(writers(&stage), ["blue", "green"]);
}

#[test]
fn a_new_job_that_dies_after_its_first_commit_is_forward_only() {
    let mut stage = Stage::new("hand-over");
    assert_ok(&stage.roll_out(&["--version", "1"]));
    let words = ["--fail", "committed", "--only", "green"].map(str::to_owned);
    stage.job_words.extend(words);
    // It is not enough that it committed once.
    let gate = stage.path("good").display().to_string();
    stage.extra = format!(
        "post-gate = [\"test\", \"-e\", \"{gate}\"]\ngate-interval = \"200ms\"\n{}",
        noting(&stage)
    );
    stage.configure();
    let output = stage.roll_out(&["--version", "2"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(stage.state(), "needs-human");
    assert!(stage.record()["gap"]["new_committed_at"].is_string());
    assert_eq!(stage.running(), set(&[]));
    let told = calls(&stage);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("needs-human: the new job died after it had planned"),
        "{told:?}"
    );
    // No way leads back to the old checkpoint.
    let back = stage.stepdown(&["rollout", "abort", "clicks"]);
    assert_eq!(back.status.code(), Some(3), "{}", text(&back));
    let back = stage.stepdown(&["rollout", "rollback", "clicks", "--accept-loss"]);
    assert_eq!(back.status.code(), Some(2), "{}", text(&back));
    assert_eq!(stage.state(), "needs-human");
    assert!(stage.jobs().is_empty(), "{:?}", stage.jobs());
    // Mended, started on its own checkpoint by hand, and accepted.
    stage.job_words.truncate(2);
    stage.configure();
    stage.start_by_hand("green");
    wait_until("it to run", || stage.running() == set(&["green"]));
    fs::write(&gate, "").unwrap();
    let accepted = stage.stepdown(&["rollout", "promote", "clicks"]);
    assert_ok(&accepted);
    assert_eq!(stage.outcome(), "rolled-out", "{}", text(&accepted));
    assert_eq!(stage.running(), set(&["green"]));
    stage.check_exactly_once();
    assert_eq!(writers(&stage), ["blue", "green"]);
}

/// The old job is started again by its platform.
#[derive(Debug)]
struct Restart {
    /// Where.
    place: &'static str,
    /// Whether that attempt is over before anybody looks.
    gone: bool,
    /// What comes of it.
    end: &'static str,
    /// At `needs-human`, once that attempt was ended: what an operator asks for, and what comes of that.
    then: Option<(&'static str, &'static str)>,
}

const fn restart(place: &'static str, end: &'static str) -> Restart {
    Restart {
        place,
        gone: false,
        end,
        then: None,
    }
}

/// It wrote, and is over before anybody looks.
const fn unseen(place: &'static str, end: &'static str) -> Restart {
    Restart {
        gone: true,
        ..restart(place, end)
    }
}

const fn and_then(place: &'static str, asked: &'static str, end: &'static str) -> Restart {
    Restart {
        then: Some((asked, end)),
        ..restart(place, "needs-human")
    }
}

/// The rollout is cut short at each place, since only there it is sure what has been seen.
const RESTARTS: &[Restart] = &[
    // It runs on as another attempt, which is the one that is asked then.
    restart("rollout-entered-held", "rolled-out"),
    // The next one sees what the one before was to see.
    restart("rollout-entered-stopping", "rolled-out"),
    // It is asked once more.
    restart("rollout-ask-old-done", "rolled-out"),
    and_then("rollout-entered-stopped", "abort", "recovered"),
    // The last pass takes what that attempt has written.
    and_then("rollout-entered-stopped", "promote", "rolled-out"),
    and_then("rollout-entered-cutover", "abort", "recovered"),
    // What was published lacks it.
    and_then("rollout-entered-cutover", "promote", "recovered"),
    unseen("rollout-entered-stopped", "rolled-out"),
    unseen("rollout-entered-cutover", "recovered"),
    unseen("rollout-go-begun", "recovered"),
    // The new one has planned: two of them run.
    restart("rollout-entered-proving", "needs-human"),
];

fn live_through_restart(case: &Restart) -> Result<(), String> {
    let Restart {
        place,
        gone,
        end,
        then,
    } = *case;
    let stage = Stage::new("hand-over");
    assert_ok(&stage.roll_out(&["--version", "1"]));
    let start = &["rollout", "start", "clicks", "--version", "2"][..];
    let mut command = stage.command(start);
    let killed = command.env("STEPDOWN_CRASH_AT", place).output();
    let killed = killed.map_err(|error| error.to_string())?;
    if let Some(code) = killed.status.code() {
        return Err(format!(
            "it was not killed, but ended with {code}: {}",
            text(&killed)
        ));
    }
    // The attempt ends, by itself where it was asked, and the platform starts another one.
    let attempt = stage.pid("blue");
    if matches!(place, "rollout-entered-held" | "rollout-entered-stopping") {
        kill(attempt.ok_or("blue does not run")?);
    }
    wait_until("the old attempt to end", || stage.pid("blue").is_none());
    stage.start_by_hand("blue");
    wait_until("the next attempt to run", || {
        stage.pid("blue").is_some() && phase(&stage, "blue") == "running"
    });
    let wrote = written_by(&stage, "blue");
    wait_until("it to write", || written_by(&stage, "blue") > wrote);
    if gone {
        kill(stage.pid("blue").ok_or("blue does not run any more")?);
        wait_until("it to end", || stage.pid("blue").is_none());
    }
    let resumed = stage.stepdown(start);
    let record = stage.record();
    let found = record["outcome"].as_str().or(record["state"].as_str());
    if found != Some(end) {
        let running = stage.jobs();
        return Err(format!(
            "{found:?}, not {end}: {}\n{record}, {running:?}",
            text(&resumed)
        ));
    }
    if end == "rolled-out" {
        assert_ok(&resumed);
        assert_eq!(stage.running(), set(&["green"]));
        assert_eq!(writers(&stage), ["blue", "green"]);
    } else if end == "recovered" {
        assert_eq!(stage.running(), set(&["blue"]), "{}", text(&resumed));
        assert_eq!(written_by(&stage, "green"), 0, "it was never let go");
    } else {
        assert_eq!(resumed.status.code(), Some(3), "{}", text(&resumed));
        assert!(stage.running().contains("blue"), "{}", text(&resumed));
        if let Some((asked, end)) = then {
            assert_eq!(written_by(&stage, "green"), 0, "it was never let go");
            assert_eq!(stage.running(), set(&["blue", "green"]));
            kill(stage.pid("blue").ok_or("blue does not run any more")?);
            let back = stage.stepdown(&["rollout", asked, "clicks"]);
            assert_eq!(stage.outcome(), end, "{}", text(&back));
            let runs = if end == "recovered" { "blue" } else { "green" };
            assert_eq!(stage.running(), set(&[runs]));
            assert_eq!(written_by(&stage, "green") > 0, runs == "green");
        }
    }
    stage.find_fault(Stage::check_sink)
}

#[test]
fn an_old_job_that_its_platform_starts_again_is_seen_in_every_state() {
    live_through_all(RESTARTS.iter().collect(), 3, |case| {
        let lived = std::panic::AssertUnwindSafe(|| live_through_restart(case));
        let lived = std::panic::catch_unwind(lived).unwrap_or_else(|panic| {
            let why = panic.downcast_ref::<String>().cloned();
            Err(why.unwrap_or_else(|| "it panicked".to_owned()))
        });
        lived.map_err(|why| format!("at {case:?}: {why}"))
    });
}

#[test]
fn an_old_job_that_comes_back_each_time_needs_somebody() {
    // How soon the next attempt shows is up to this machine: the rollout lasts until then.
    let stage = Stage::with("hand-over", "post-gate = [\"sleep\", \"2\"]");
    assert_ok(&stage.roll_out(&["--version", "1"]));
    let is_over = AtomicBool::new(false);
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if stage.pid("blue").is_none() {
                    stage.start_by_hand("blue");
                    wait_until("the next attempt", || stage.pid("blue").is_some());
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        let output = stage.roll_out(&["--version", "2"]);
        is_over.store(true, Ordering::Relaxed);
        output
    });
    let said = text(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert_eq!(stage.state(), "needs-human");
    assert!(
        said.contains("the old job comes back each time that it is stopped")
            || said.contains("the old job runs again after its stop"),
        "{said}"
    );
    let violations = fs::read_to_string(stage.path("sink.violations")).unwrap_or_default();
    assert!(violations.is_empty(), "{violations}");
}

#[test]
fn two_starts_at_once_are_one_rollout() {
    let stage = Stage::new("hand-over");
    assert_ok(&stage.roll_out(&["--version", "0"]));
    let history = || {
        let output = stage.stepdown(&["--json", "rollout", "history", "clicks"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["rollouts"].as_array().unwrap().len()
    };
    let file = stage.path("VERSION").display().to_string();
    for round in 1..=5_usize {
        let version = round.to_string();
        let by_cron = round == 5;
        let words = if by_cron {
            fs::write(&file, &version).unwrap();
            ["--if-changed", &file]
        } else {
            ["--version", &version]
        };
        let start = [&["rollout", "start", "clicks"], &words[..]].concat();
        let other: &[&str] = if round > 2 { ELSEWHERE } else { &[] };
        let both: Vec<_> = [&[], other]
            .into_iter()
            .map(|before| {
                stage
                    .command_below(before, &start)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let (mut most, mut ended) = (Vec::new(), Vec::new());
        thread::scope(|scope| {
            let waiting: Vec<_> = both
                .into_iter()
                .map(|child| scope.spawn(|| child.wait_with_output().unwrap()))
                .collect();
            while !waiting.iter().all(thread::ScopedJoinHandle::is_finished) {
                let jobs = stage.jobs();
                if jobs.len() > most.len() {
                    most = jobs;
                }
                thread::sleep(Duration::from_millis(20));
            }
            ended.extend(waiting.into_iter().map(|one| one.join().unwrap()));
        });
        let said: Vec<String> = ended.iter().map(text).collect();
        let mut codes: Vec<_> = ended.iter().map(|one| one.status.code()).collect();
        codes.sort_unstable();
        let second = if by_cron { 0 } else { 4 };
        assert_eq!(codes, [Some(0), Some(second)], "round {round}: {said:?}");
        // From another host its end may be all that is seen of it, and by cron that there is nothing to do.
        let words: &[&str] = match round {
            1 | 2 => &["are driven by process"],
            3 | 4 => &["are driven by process", "was driven by another process"],
            _ => &[
                "are driven by process",
                "was driven by another process",
                "runs version 5 already",
            ],
        };
        let other_is_named = |said: &String| words.iter().any(|words| said.contains(words));
        assert!(said.iter().any(other_is_named), "round {round}: {said:?}");
        assert_eq!(history(), round + 1, "round {round}");
        assert_eq!(
            most.len(),
            2,
            "round {round}: the old one, a new one: {most:?}"
        );
        let slot = if round % 2 == 1 { "green" } else { "blue" };
        assert_eq!(stage.running(), set(&[slot]), "round {round}");
        assert_eq!(stage.jobs().len(), 1, "round {round}");
        assert_eq!(stage.record()["version"], *version);
    }
    stage.check_exactly_once();
}
