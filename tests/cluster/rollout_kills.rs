//! stepdown is killed at places of a hand-over of a real `PySpark` job on HDFS, and gone on with, by this host
//! or by another. The whole matrix, with a job without Spark, is in the suite (`rollout_crashes.rs`).

use std::os::unix::process::ExitStatusExt as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::applications::{Seen, watched};
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
        let (gap, Seen { most, looks, .. }) = watched(&stage, || {
            kill_and_go_on(&stage, &format!("version-{at}"), place, elsewhere)
        })?;
        let took = begun.elapsed().as_secs();
        let old = slot;
        slot = other(slot);
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
