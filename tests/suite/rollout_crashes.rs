//! The crash matrix: stepdown is killed at every place that a rollout comes to, and gone on with, by this
//! host or by another. It must end in the promised state, without two writers and without a batch lost.
//!
//! The places are found by running each scenario once and listing what it passes. A sample is in every
//! test run; the whole matrix is `make soak`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::rollouts::{ELSEWHERE, Stage, live_through_all, set, text, wait_until};

/// How many cases run at once; most of the time they wait.
const AT_ONCE: usize = 4;

/// Longer than any of these rollouts takes, on a machine that is overloaded.
const PATIENCE: Duration = Duration::from_mins(3);

/// Every so many places of the whole matrix are in the sample.
const SAMPLE: usize = 17;

/// One way through the states, and what is promised at its end.
struct Scenario {
    name: &'static str,
    strategy: &'static str,
    extra: &'static str,
    /// Words for the job in the second rollout.
    job: &'static [&'static str],
    outcome: &'static str,
    running: &'static [&'static str],
    /// Another end that is as good: where stepdown was killed between the note of a start and the start, nobody
    /// can tell whether it was begun, and y is taken back.
    or_else: Option<(&'static str, &'static [&'static str])>,
    /// Whether every batch of a query id is written once.
    exactly_once: bool,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "hand-over",
        strategy: "hand-over",
        extra: "",
        job: &[],
        outcome: "rolled-out",
        running: &["green"],
        or_else: None,
        exactly_once: true,
    },
    Scenario {
        name: "hand-over in place",
        strategy: "in-place",
        extra: "",
        job: &[],
        outcome: "rolled-out",
        running: &["green"],
        or_else: None,
        exactly_once: true,
    },
    Scenario {
        name: "stop-start",
        strategy: "stop-start",
        extra: "",
        job: &[],
        outcome: "rolled-out",
        running: &["green"],
        or_else: None,
        exactly_once: true,
    },
    Scenario {
        name: "parallel",
        strategy: "parallel",
        extra: "",
        job: &[],
        outcome: "rolled-out",
        running: &["green"],
        or_else: None,
        exactly_once: false,
    },
    Scenario {
        name: "rolling",
        strategy: "rolling",
        extra: "",
        job: &[],
        outcome: "rolled-out",
        running: &["blue", "green"],
        or_else: None,
        exactly_once: true,
    },
    Scenario {
        name: "hand-over by a launcher",
        strategy: "launcher",
        // Until the start is given up.
        extra: "start-deadline = \"10s\"",
        job: &[],
        outcome: "rolled-out",
        running: &["green"],
        or_else: Some(("aborted", &["blue"])),
        exactly_once: true,
    },
    Scenario {
        name: "checks fail",
        strategy: "hand-over",
        extra: "gate = [\"sh\", \"-c\", \"exit 3\"]",
        job: &[],
        outcome: "aborted",
        running: &["blue"],
        or_else: None,
        exactly_once: true,
    },
    Scenario {
        name: "new job fails",
        strategy: "stop-start",
        // Only the host that started the new job sees that its start failed; another waits for these, one
        // after the other.
        extra: "cutover-deadline = \"10s\"\nabort-deadline = \"15s\"\nstart-deadline = \"15s\"",
        job: &["--fail", "start", "--only", "green"],
        outcome: "recovered",
        running: &["blue"],
        or_else: None,
        exactly_once: true,
    },
];

impl Scenario {
    /// A stage on which version 1 runs in blue, or in both slots, and the second rollout can begin.
    fn stage(&self) -> Result<Stage, String> {
        let mut stage = Stage::new(self.strategy);
        if self.strategy == "rolling" {
            for slot in self.running {
                stage.start_by_hand(slot);
            }
            wait_until("both to run", || stage.running() == set(self.running));
        } else {
            let begun = stage.roll_out(&["--version", "1"]);
            if !begun.status.success() {
                return Err(format!("version 1 did not start: {}", text(&begun)));
            }
        }
        let words = self.job.iter().map(|word| (*word).to_owned());
        stage.job_words.extend(words);
        stage.extra = self.extra.to_owned();
        stage.configure();
        Ok(stage)
    }

    /// The places that it comes to, in order, each once.
    fn places(&self) -> Vec<String> {
        let stage = self.stage().unwrap();
        let output = stage
            .command(&["rollout", "start", "clicks", "--version", "2"])
            .env("STEPDOWN_LOG", "stepdown::daemon::crash_point=trace")
            .output()
            .unwrap();
        assert_eq!(
            stage.outcome(),
            self.outcome,
            "{}: {}",
            self.name,
            text(&output)
        );
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let mut seen = BTreeSet::new();
        let names = log.lines().filter(|line| line.contains("crash point"));
        names
            .filter_map(|line| {
                Some(
                    line.split_once("name=")?
                        .1
                        .trim()
                        .trim_matches('"')
                        .to_owned(),
                )
            })
            .filter(|name| seen.insert(name.clone()))
            .collect()
    }

    /// Killed at `place`, gone on with, held against the promise.
    fn survive(&self, place: &str, other_host: bool) -> Result<(), String> {
        let stage = self.stage()?;
        let begun = Instant::now();
        let killed = bounded(&stage, &[])
            .env("STEPDOWN_CRASH_AT", place)
            .output()
            .map_err(|error| error.to_string())?;
        let mut last = killed;
        // `timeout` ends by the signal that ended its command.
        let was_killed = last.status.signal() == Some(9) || last.status.code() == Some(137);
        if was_killed && begun.elapsed() < PATIENCE {
            // A lease that a dead process of another host left is waited out.
            last = resume(&stage, other_host).map_err(|error| error.to_string())?;
        } else if place.starts_with("rollout-") {
            return Err(format!("it was not killed there: {}", text(&last)));
        }
        // Else the driver ended before it was asked, so that the stop did not come to that place.
        let record = stage.record();
        // One that was killed before its first entry is begun anew, as the second or third.
        let of_start = place.starts_with("rollout-start-new");
        let (outcome, running) = match self.or_else {
            Some(other) if of_start && record["outcome"] == other.0 => other,
            _ => (self.outcome, self.running),
        };
        if record["outcome"] != outcome {
            return Err(format!(
                "it ended as {} at {}: {}",
                record["outcome"],
                record["state"],
                text(&last)
            ));
        }
        if stage.running() != set(running) {
            return Err(format!("{:?} run, not {running:?}", stage.running()));
        }
        stage.find_fault(if self.exactly_once {
            Stage::check_exactly_once
        } else {
            Stage::check_sink
        })
    }
}

/// `rollout start`, ended by force after a while; `before` runs it.
fn bounded(stage: &Stage, before: &[&str]) -> Command {
    let patience = PATIENCE.as_secs().to_string();
    let bounded = [&["timeout", "-s", "KILL", &patience], before].concat();
    stage.command_below(&bounded, &["rollout", "start", "clicks", "--version", "2"])
}

fn resume(stage: &Stage, other_host: bool) -> std::io::Result<Output> {
    bounded(stage, if other_host { ELSEWHERE } else { &[] }).output()
}

/// Runs the cases and says how many there were; panics with all that went wrong.
fn run_cases(cases: Vec<(&'static Scenario, String, bool)>) -> usize {
    let count = cases.len();
    live_through_all(cases, AT_ONCE, |(scenario, place, other_host)| {
        scenario.survive(&place, other_host).map_err(|why| {
            let host = if other_host {
                ", gone on with elsewhere"
            } else {
                ""
            };
            format!("{} killed at {place}{host}: {why}", scenario.name)
        })
    });
    count
}

/// All cases: every place of every scenario; every second one is gone on with elsewhere.
fn all_cases() -> Vec<(&'static Scenario, String, bool)> {
    let of = |scenario: &'static Scenario| {
        let places = scenario.places();
        assert!(places.len() > 15, "{}: {places:?}", scenario.name);
        places
            .into_iter()
            .enumerate()
            .map(move |(at, place)| (scenario, place, at % 2 == 1))
    };
    SCENARIOS.iter().flat_map(of).collect()
}

/// Halted at `place` for longer than its lease lasts; another host brings the rollout to its end; then it
/// goes on.
fn comes_back_late(place: &str) {
    let stage = Stage::new("hand-over");
    let begun = stage.roll_out(&["--version", "1"]);
    assert!(begun.status.success(), "{}", text(&begun));
    let halted = bounded(&stage, &[])
        .env("STEPDOWN_HALT_AT", place)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // `timeout` runs it as its child.
    let pid = || {
        let children = format!("/proc/{0}/task/{0}/children", halted.id());
        let child = fs::read_to_string(children).ok()?;
        child.split_whitespace().next()?.parse::<i32>().ok()
    };
    let mode = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .and_then(|(_, rest)| rest.chars().next())
    };
    wait_until(&format!("it to be halted at {place}"), || {
        pid().is_some_and(|pid| mode(pid) == Some('T'))
    });
    let pid = pid().and_then(Pid::from_raw).unwrap();
    let other = resume(&stage, true).unwrap();
    assert!(other.status.success(), "{place}: {}", text(&other));
    let record = stage.record();
    assert_eq!(record["outcome"], "rolled-out", "{place}");
    let green = stage.running();
    kill_process(pid, Signal::CONT).unwrap();
    let late = halted.wait_with_output().unwrap();
    assert_eq!(late.status.code(), Some(4), "{place}: {}", text(&late));
    assert_eq!(stage.record(), record, "{place}");
    assert_eq!(stage.running(), green, "{place}");
    assert_eq!(green, set(&["green"]), "{place}");
    stage.check_exactly_once();
}

#[test]
fn whoever_lost_the_lease_does_nothing_more() {
    let places = [
        "rollout-entered-starting",
        "rollout-start-new-begun",
        "rollout-ask-old-begun",
        "rollout-entered-stopped",
        "rollout-finish-copy-begun",
        "rollout-go-begun",
    ];
    thread::scope(|scope| {
        for half in places.chunks(3) {
            scope.spawn(move || half.iter().for_each(|place| comes_back_late(place)));
        }
    });
}

#[test]
fn a_rollout_that_was_killed_is_gone_on_with() {
    let cases: Vec<_> = all_cases().into_iter().step_by(SAMPLE).collect();
    let count = run_cases(cases);
    println!("{count} places of the crash matrix");
}

/// Counts of the whole matrix, in the table of `docs/soak.md`.
#[test]
#[ignore = "a long count: make soak"]
fn soak_of_the_crash_matrix() {
    let begun = Instant::now();
    let cases = all_cases();
    let mut rows = Vec::new();
    for scenario in SCENARIOS {
        let of: Vec<_> = cases
            .iter()
            .filter(|case| case.0.name == scenario.name)
            .cloned()
            .collect();
        let elsewhere = of.iter().filter(|case| case.2).count();
        let count = run_cases(of);
        rows.push((scenario, count, elsewhere));
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let date = jiff::Zoned::now().date();
    let mut table = String::new();
    for (scenario, count, elsewhere) in rows {
        let (name, outcome) = (scenario.name, scenario.outcome);
        let row =
            format!("| {date} | {cores} cores | {name} | {count} | {elsewhere} | {outcome} | 0 |");
        table.push_str(&row);
        table.push('\n');
    }
    println!("{table}in {} s", begun.elapsed().as_secs());
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/soak.md");
    let text = fs::read_to_string(file).unwrap();
    let end = "<!-- end of rollouts -->";
    assert!(text.contains(end), "docs/soak.md has no place for it");
    fs::write(file, text.replace(end, &format!("{table}{end}"))).unwrap();
}
