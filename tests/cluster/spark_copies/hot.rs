//! Copies of running queries, at random moments.

use std::time::{Duration, Instant};

use anyhow::Result;
use stepdown::checkpoint::target::At;

use super::lab::{Lab, local, next_batch, request, slow};
use super::sums::{Feed, check};
use crate::common::{Query, SparkVersion, wait_until};

/// Batches before the first copy: enough that older ones are purged.
const BEFORE: u64 = 4;
/// Longer than a batch takes that has the machine for itself.
const MOST_PAUSE_MS: u64 = 700;
/// The longest that a slow storage takes for each call.
const MOST_DELAY_MS: u64 = 60;

/// What a round of copies came to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    /// Copies that restarted with right sums.
    pub(crate) right: u64,
    /// Those among them with a batch in flight.
    pub(crate) in_flight: u64,
    /// How often one was planned anew.
    pub(crate) replans: u64,
}

/// Takes `rounds` copies of each of these running queries, stops the queries, and restarts the copies.
pub(crate) fn copy_while_running(
    lab: &Lab,
    kinds: &[(&'static str, &'static str)],
    rounds: u64,
) -> Result<Tally> {
    let feed = Feed::steady(100, 1);
    lab.make_input()?;
    let queries: Vec<Query> = kinds
        .iter()
        .map(|(shape, provider)| lab.query(shape, provider))
        .collect();
    lab.start(&queries, BEFORE)?;
    let mut tally = Tally::default();
    let mut copies = Vec::new();
    for round in 0..rounds {
        let mut of_round = Vec::new();
        for (number, query) in queries.iter().enumerate() {
            let begun = Instant::now();
            let pause = Duration::from_millis(fastrand::u64(0..MOST_PAUSE_MS));
            wait_until(pause * 2, "the moment has come", || {
                begun.elapsed() >= pause
            })?;
            let to = format!("{}-copy-{round}", query.checkpoint);
            let at = match (number as u64 + round).is_multiple_of(2) {
                true => At::Planned,
                false => At::Committed,
            };
            // Every second round the storage is slow, so that batches end while it is copied.
            let delay = Duration::from_millis(fastrand::u64(0..MOST_DELAY_MS));
            let source = match round.is_multiple_of(2) {
                true => local(&query.checkpoint),
                false => slow(&query.checkpoint, delay),
            };
            let mut request = request(source, local(&to), at);
            request.pace.small_at_once = 4;
            let report = lab.copy_request(&request)?;
            tally.in_flight += u64::from(report.last_planned_batch > report.last_committed_batch);
            of_round.push((lab.moved(query, &to), next_batch(&report)));
        }
        copies.push(of_round);
    }
    // A copy has the query id of its original, which Spark would stop when the copy starts.
    for query in &queries {
        lab.spark.stop(query)?;
        let last = check(query, &feed, 0)?;
        println!("{}: {} batches", query.name, last + 1);
    }
    for of_round in &copies {
        lab.restart(of_round, &feed)?;
        tally.right += of_round.len() as u64;
    }
    tally.replans = lab.replans();
    Ok(tally)
}

fn in_tests(version: SparkVersion, kinds: &[(&'static str, &'static str)]) -> Result<()> {
    let lab = Lab::new("hot", version)?;
    let tally = copy_while_running(&lab, kinds, 3)?;
    println!(
        "Spark {}: {} of {} copies of running queries restarted with right sums; {} with a batch in \
         flight, {} plans made anew",
        version.as_str(),
        tally.right,
        kinds.len() * 3,
        tally.in_flight,
        tally.replans
    );
    Ok(())
}

#[test]
fn copies_of_running_queries_restart_right_with_spark_3_5() -> Result<()> {
    in_tests(
        SparkVersion::V3_5,
        &[
            ("aggregation", "hdfs"),
            ("aggregation", "changelog"),
            ("join", "rocksdb"),
            ("files", "hdfs"),
        ],
    )
}

#[test]
fn copies_of_running_queries_restart_right_with_spark_4() -> Result<()> {
    in_tests(
        SparkVersion::V4,
        &[
            ("aggregation", "format-v2"),
            ("aggregation", "rocksdb"),
            ("two-operators", "changelog"),
            ("join", "format-v2"),
        ],
    )
}
