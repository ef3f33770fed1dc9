//! stepdown is killed at places of a hand-over of a real `PySpark` job on HDFS, and gone on with, by this host
//! or by another. The whole matrix, with a job without Spark, is in the suite (`rollout_crashes.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::clicks::{Times, other};
use super::soak::{add_row, machine};
use super::spark_job::{ROLLOUT, Stage, Way};
use crate::common::{Hdfs, SparkVersion};

/// Before the old job is asked and after it, between the published copy and the go, before the go and
/// after it, when the new job has planned a batch of its own.
const PLACES: [&str; 6] = [
    "rollout-ask-old-begun",
    "rollout-ask-old-done",
    "rollout-enter-cutover",
    "rollout-go-begun",
    "rollout-go-done",
    "rollout-entered-proving",
];

/// How often the processes of the machine are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// The most applications that were seen at the same time with one checkpoint.
#[derive(Debug, Default)]
struct Watch {
    is_over: AtomicBool,
    most: AtomicUsize,
    looks: AtomicUsize,
}

impl Watch {
    fn run(&self, stage: &Stage) {
        while !self.is_over.load(Ordering::SeqCst) {
            let most = applications(stage).into_values().max().unwrap_or(0);
            self.most.fetch_max(most, Ordering::SeqCst);
            self.looks.fetch_add(1, Ordering::SeqCst);
            thread::sleep(LOOK);
        }
    }
}

/// How many applications run with each checkpoint: by the processes of their Python, of which each has one.
fn applications(stage: &Stage) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for pid in stage.pids() {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let line = read("cmdline");
        let mut words = line.split(|byte| *byte == 0);
        if !words.next().is_some_and(|word| word.ends_with(b"python3")) {
            continue;
        }
        let environ = read("environ");
        let variables = String::from_utf8_lossy(&environ);
        let named = variables
            .split('\0')
            .find_map(|variable| variable.strip_prefix("STEPDOWN_CHECKPOINT="));
        if let Some(checkpoint) = named {
            *found.entry(checkpoint.to_owned()).or_insert(0) += 1;
        }
    }
    found
}

/// Kills a rollout of `version` at `place`, and goes on with it.
fn kill_and_go_on(stage: &Stage, version: &str, place: &str, elsewhere: bool) -> Result<f64> {
    let clicks = &stage.clicks;
    let mut killed = clicks.begin(version, &[("STEPDOWN_CRASH_AT", place)])?;
    let status = killed
        .await_end(ROLLOUT)
        .with_context(|| stage.logs(version))?;
    ensure!(
        status.signal() == Some(9),
        "it was not killed at {place}: {status}\n{}",
        stage.logs(version)
    );
    let unfinished = clicks.record()?;
    ensure!(unfinished["outcome"].is_null(), "{unfinished:#}");
    let mut resumed = if elsewhere {
        clicks.begin_elsewhere(version, &[])?
    } else {
        clicks.begin(version, &[])?
    };
    let status = resumed
        .await_end(ROLLOUT)
        .with_context(|| stage.logs(version))?;
    ensure!(
        status.success(),
        "{place}: {status}\n{}",
        stage.logs(version)
    );
    let record = clicks.record()?;
    ensure!(
        record["outcome"] == "rolled-out" && record["rollout_id"] == unfinished["rollout_id"],
        "{record:#}"
    );
    assert_eq!(record["proof"], "clean", "{record:#}");
    Times::of(&record)?.gap()
}

/// So many batches are in the sink: each once, none missing, by one query id.
fn check_sink(stage: &Stage) -> Result<u64> {
    let written = stage.exactly_once("sink")?;
    let mut by_id = written.into_values();
    let batches = by_id.next().context("nothing was written")?;
    ensure!(by_id.next().is_none(), "another query wrote");
    let last = batches.last().copied().unwrap_or(0);
    let missing: Vec<u64> = (0..=last)
        .filter(|batch| !batches.contains(batch))
        .collect();
    ensure!(missing.is_empty(), "missing {missing:?} of {last}");
    Ok(last + 1)
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_of_spark_that_are_killed() -> Result<()> {
    let stage = Stage::new(Hdfs::shared()?, SparkVersion::V4)?;
    let way = Way::of("hand-over");
    stage.roll_out(way, "first")?;
    let mut slot = "blue";
    let mut seen = 0;
    for (at, place) in PLACES.into_iter().enumerate() {
        let elsewhere = at % 2 == 1;
        let last = stage.clicks.newest(slot, "commits")?.unwrap_or(0);
        stage.await_commits(slot, last + 2)?;
        let begun = Instant::now();
        let watch = Watch::default();
        let gap = thread::scope(|scope| {
            let looking = scope.spawn(|| watch.run(&stage));
            let done = kill_and_go_on(&stage, &format!("version-{at}"), place, elsewhere);
            watch.is_over.store(true, Ordering::SeqCst);
            looking.join().map_err(|_| anyhow!("the watch ended"))?;
            done
        })?;
        let took = begun.elapsed().as_secs();
        let old = slot;
        slot = other(slot);
        let (most, looks) = (watch.most.into_inner(), watch.looks.into_inner());
        ensure!(most == 1, "{most} applications on one checkpoint: {place}");
        let handed = stage.clicks.newest(old, "commits")?.context("no commit")?;
        stage.await_commits(slot, handed + 2)?;
        let batches = check_sink(&stage)?;
        let row = format!(
            "| {} | {} | {} | `{place}` | {} | rolled-out | {gap:.1} s | {took} s | {} | 0 | 0 | {most} ({looks}) |\n",
            jiff::Zoned::now().date(),
            machine(),
            SparkVersion::V4.as_str(),
            if elsewhere {
                "another host"
            } else {
                "this host"
            },
            batches - seen,
        );
        seen = batches;
        print!("{row}");
        add_row(&row, "<!-- end of rollouts of Spark -->")?;
    }
    stage.stop(slot)?;
    let last = stage.clicks.newest(slot, "commits")?.context("no commit")?;
    assert_eq!(check_sink(&stage)?, last + 1);
    Ok(())
}
