//! Copies of queries that have ended: in flight, clean, killed.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use stepdown::checkpoint::target::At;
use stepdown::model::BatchId;

use super::lab::{Lab, next_batch};
use super::sums::{Feed, check};
use crate::common::spark::{CHOSEN, QueryPace, Trouble};
use crate::common::{Query, Spark, SparkVersion};

/// The batch that fails, or hangs.
const FAILED: u64 = 4;
/// A driver for one test ends after this time.
const LIFE: Duration = Duration::from_mins(10);

/// Metadata of operators with absolute paths.
const JOIN_3: (&str, &str) = ("spark.sql.streaming.join.stateFormatVersion", "3");

/// Nothing may be read from where a copy was taken.
fn hide(query: &Query) -> Result<()> {
    let hidden = format!("{}-hidden", query.checkpoint);
    fs::rename(&query.checkpoint, hidden).context("cannot hide the original")
}

/// Each query fails in a batch, is copied, goes on at the copy, ends clean there, is copied from
/// there, and goes on again. The originals are out of reach.
fn in_flight_and_clean(lab: &Lab, mut queries: Vec<Query>) -> Result<()> {
    let feed = Feed::steady(100, 1);
    for query in &mut queries {
        query.trouble = Some(Trouble::FailsAt(FAILED));
        lab.spark.run(query)?;
    }
    let mut copies = Vec::new();
    for query in &queries {
        let error = lab.spark.await_end(query)?.unwrap_or_default();
        ensure!(error.contains(CHOSEN), "{}: {error}", query.name);
        ensure!(check(query, &feed, 0)? == FAILED);
        let to = format!("{}-in-flight", query.checkpoint);
        let report = lab.copy(&query.checkpoint, &to, At::Planned)?;
        assert_eq!(report.last_planned_batch, Some(BatchId(FAILED)));
        assert_eq!(report.last_committed_batch, Some(BatchId(FAILED - 1)));
        hide(query)?;
        copies.push((lab.moved(query, &to), FAILED));
    }
    lab.restart(&copies, &feed)?;

    let mut clean_copies = Vec::new();
    for (copy, _) in &copies {
        let once = Query {
            pace: QueryPace::Once,
            ..copy.clone()
        };
        lab.spark.run(&once)?;
        let error = lab.spark.await_end(&once)?;
        ensure!(error.is_none(), "{}: {error:?}", once.name);
        let last = check(&once, &feed, FAILED)?;
        let to = format!("{}-clean", copy.checkpoint);
        let report = lab.copy(&copy.checkpoint, &to, At::Planned)?;
        assert_eq!(report.last_planned_batch, Some(BatchId(last)));
        assert_eq!(report.last_committed_batch, Some(BatchId(last)));
        hide(copy)?;
        clean_copies.push((lab.moved(copy, &to), next_batch(&report)));
    }
    lab.restart(&clean_copies, &feed)?;
    println!(
        "Spark {}: {} copies in flight and {} clean ones restarted with right sums",
        lab.spark.version().as_str(),
        copies.len(),
        clean_copies.len()
    );
    Ok(())
}

#[test]
fn copies_of_ended_queries_restart_right_with_spark_3_5() -> Result<()> {
    with_spark_3_5(&[
        ("aggregation", "rocksdb"),
        ("watermark", "hdfs"),
        ("deduplication", "changelog"),
    ])
}

#[test]
#[ignore = "the rest of the kinds: `make soak`"]
fn soak_copies_of_ended_queries_restart_right_with_spark_3_5() -> Result<()> {
    with_spark_3_5(&[
        ("aggregation", "hdfs"),
        ("aggregation", "changelog"),
        ("two-operators", "hdfs"),
        ("join", "hdfs"),
    ])
}

fn with_spark_3_5(kinds: &[(&'static str, &'static str)]) -> Result<()> {
    let lab = Lab::new("cold", SparkVersion::V3_5)?;
    let queries = kinds
        .iter()
        .map(|(shape, provider)| lab.query(shape, provider));
    in_flight_and_clean(&lab, queries.collect())
}

#[test]
fn copies_of_ended_queries_restart_right_with_spark_4() -> Result<()> {
    with_spark_4(&[
        ("aggregation", "format-v2"),
        ("processor", "rocksdb"),
        ("join", "format-v2"),
    ])
}

#[test]
#[ignore = "the rest of the kinds: `make soak`"]
fn soak_copies_of_ended_queries_restart_right_with_spark_4() -> Result<()> {
    with_spark_4(&[
        ("aggregation", "hdfs"),
        ("watermark", "changelog"),
        ("deduplication", "rocksdb"),
        ("two-operators", "format-v2"),
        ("processor", "format-v2"),
    ])
}

fn with_spark_4(kinds: &[(&'static str, &'static str)]) -> Result<()> {
    let lab = Lab::new("cold", SparkVersion::V4)?;
    let mut queries: Vec<Query> = kinds
        .iter()
        .map(|(shape, provider)| lab.query(shape, provider))
        .collect();
    for query in queries.iter_mut().filter(|query| query.shape == "join") {
        query.conf.push((JOIN_3.0, JOIN_3.1.to_owned()));
    }
    in_flight_and_clean(&lab, queries)
}

#[test]
fn a_copy_of_a_killed_drivers_checkpoint_restarts_right() -> Result<()> {
    let lab = Lab::new("killed", SparkVersion::V3_5)?;
    let feed = Feed::steady(100, 1);
    let doomed = Spark::start(SparkVersion::V3_5, LIFE)?;
    let kinds = [("aggregation", "changelog"), ("two-operators", "hdfs")];
    let mut queries = kinds.map(|(shape, provider)| lab.query(shape, provider));
    for query in &mut queries {
        query.trouble = Some(Trouble::HangsAt(FAILED));
        doomed.run(query)?;
    }
    for query in &queries {
        doomed.await_batch(query, FAILED)?;
    }
    doomed.kill()?;
    let mut copies = Vec::new();
    for query in &queries {
        let to = format!("{}-copy", query.checkpoint);
        let report = lab.copy(&query.checkpoint, &to, At::Planned)?;
        assert_eq!(report.last_committed_batch, Some(BatchId(FAILED - 1)));
        assert_eq!(report.last_planned_batch, Some(BatchId(FAILED)));
        hide(query)?;
        copies.push((lab.moved(query, &to), FAILED));
    }
    lab.restart(&copies, &feed)
}
