//! Rollouts whose NameNode does not answer for a while, in every state, with the job without Spark.
//!
//! stepdown is halted where it has entered the state, the NameNode is suspended or killed, stepdown goes on:
//! so each state is met for sure.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::clicks::{Times, other};
use super::scripted::{FAILS_IN, ROLLOUT, SOON, Stage};
use super::soak::{add_row, machine};
use crate::common::node::NameNode;
use crate::common::{Hdfs, wait_until};

/// A way to a state, and what is promised when the NameNode is silent there.
#[derive(Debug, Clone, Copy)]
struct Case {
    state: &'static str,
    strategy: &'static str,
    extra: &'static str,
    fails: bool,
    outcome: &'static str,
}

/// What becomes of the NameNode, which comes back in the end.
#[derive(Debug, Clone, Copy)]
enum Outage {
    /// Connections stay open and nothing answers.
    Silent,
    /// Connections are refused, and it is in safe mode as it comes back.
    Down,
}

impl Outage {
    fn begin(self, namenode: &NameNode) -> Result<()> {
        match self {
            Self::Silent => namenode.suspend(),
            Self::Down => namenode.kill(),
        }
    }

    fn end(self, hdfs: &Hdfs) -> Result<()> {
        match self {
            Self::Silent => hdfs.namenode().resume(),
            Self::Down => {
                hdfs.namenode().start()?;
                hdfs.await_ready()
            }
        }
    }
}

const fn on_the_way(state: &'static str) -> Case {
    Case {
        state,
        strategy: "hand-over",
        extra: "",
        fails: false,
        outcome: "rolled-out",
    }
}

const CASES: &[Case] = &[
    on_the_way("starting"),
    on_the_way("held"),
    on_the_way("stopping"),
    on_the_way("stopped"),
    on_the_way("cutover"),
    on_the_way("proving"),
    Case {
        extra: "gate = [\"sh\", \"-c\", \"exit 3\"]",
        outcome: "aborted",
        ..on_the_way("aborting")
    },
    Case {
        strategy: "stop-start",
        fails: true,
        outcome: "recovered",
        ..on_the_way("recover-old")
    },
];

fn stage() -> Result<Stage> {
    Stage::on(Hdfs::builder().start()?, "outage")
}

impl Stage {
    /// A rollout with an outage of this length once the state is entered; its record.
    fn survive(&self, case: Case, outage: Outage, length: Duration) -> Result<Value> {
        let before = self.clicks.record()?;
        let old = before["new"]
            .as_str()
            .filter(|_| before["outcome"] == "rolled-out");
        let old = old.or_else(|| before["old"].as_str()).context("no slot")?;
        let new = other(old);
        self.configure(case.strategy, case.extra)?;
        let place = format!("rollout-entered-{}", case.state);
        let mut env = vec![("STEPDOWN_HALT_AT", place.as_str())];
        if case.fails {
            env.push((FAILS_IN, new));
        }
        let name = format!("with-{}", case.state);
        let mut driving = self.begin(&name, &env)?;
        let pid = driving.pid();
        let come = wait_until(SOON, &format!("{name} is halted"), || is_halted(pid));
        come.with_context(|| self.clicks.log(&name))?;
        outage.begin(self.hdfs.namenode())?;
        driving.signal(Signal::CONT)?;
        let begun = Instant::now();
        wait_until(length * 2, "the outage is over", || {
            begun.elapsed() >= length
        })?;
        ensure!(
            driving.exit_status().is_none(),
            "it gave up: {}",
            self.clicks.log(&name)
        );
        outage.end(&self.hdfs)?;
        driving
            .await_end(ROLLOUT)
            .with_context(|| self.clicks.log(&name))?;
        let record = self.clicks.record()?;
        let log = || self.clicks.log(&name);
        ensure!(record["outcome"] == case.outcome, "{record:#}\n{}", log());
        let runs = if case.outcome == "rolled-out" {
            new
        } else {
            old
        };
        self.await_commits(runs, 1)
            .with_context(|| format!("{runs} does not go on: {}", log()))?;
        self.check_sink(0)?;
        Ok(record)
    }
}

fn is_halted(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// A watcher begins it, as a file on HDFS asks for it, and is killed in it; the next one goes on.
fn first_version_by_request(stage: &Stage) -> Result<()> {
    stage.configure("hand-over", "")?;
    let clicks = &stage.clicks;
    let watch = |name: &str, more: &[(&str, &str)]| clicks.watch(name, &stage.env(more));
    let mut first = watch("first", &[("STEPDOWN_CRASH_AT", "rollout-start-new-done")])?;
    let request = clicks.at("control/requests/clicks.start");
    clicks.eye().write(&request, "first\n")?;
    first.await_end(SOON)?;
    let second = watch("second", &[])?;
    wait_until(ROLLOUT, "the rollout is over", || {
        clicks
            .record()
            .is_ok_and(|record| record["state"] == "ended")
    })
    .with_context(|| clicks.log("second"))?;
    let record = clicks.record()?;
    ensure!(
        record["outcome"] == "rolled-out" && record["version"] == "first",
        "{record:#}\n{}",
        clicks.log("second")
    );
    ensure!(
        !clicks.eye().exists(&request)?,
        "the request is still there"
    );
    // The rollouts that follow are driven by commands.
    drop(second);
    Ok(())
}

#[test]
fn a_namenode_that_is_silent_in_the_middle_of_a_rollout_loses_nothing() -> Result<()> {
    let stage = stage()?;
    first_version_by_request(&stage)?;
    for case in CASES {
        if ["stopping", "cutover"].contains(&case.state) {
            stage.survive(*case, Outage::Silent, Duration::from_secs(8))?;
        }
    }
    Ok(())
}

/// A minute in every state, in the table of `docs/soak.md`.
#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_namenode_silent_for_a_minute() -> Result<()> {
    a_minute_in_every_state(Outage::Silent, "silent")
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_namenode_down_for_a_minute() -> Result<()> {
    a_minute_in_every_state(Outage::Down, "killed")
}

fn a_minute_in_every_state(outage: Outage, word: &str) -> Result<()> {
    let stage = stage()?;
    stage.configure("hand-over", "")?;
    stage.roll_out("first")?;
    for case in CASES {
        let length = Duration::from_mins(1);
        let record = stage.survive(*case, outage, length)?;
        let gap = match Times::of(&record)?.gap() {
            Ok(gap) if case.outcome == "rolled-out" => format!("{gap:.1} s"),
            _ => String::new(),
        };
        let row = format!(
            "| {} | {} | {} | {} | {word}, {} s | {} | {gap} | 0 |\n",
            jiff::Zoned::now().date(),
            machine(),
            case.strategy,
            case.state,
            length.as_secs(),
            case.outcome,
        );
        print!("{row}");
        add_row(&row, "<!-- end of outages -->")?;
    }
    Ok(())
}
