//! Copies of running queries, at random moments.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use stepdown::checkpoint::target::At;

use super::lab::{Lab, last_batch, local, next_batch, request, slow};
use super::sums::{Feed, check};
use crate::common::{Query, SparkVersion, wait_until};

/// Batches before the first copy: enough that older ones are purged.
const BEFORE: u64 = 4;
/// Longer than a batch takes that has the machine for itself.
const MOST_PAUSE_MS: u64 = 700;
/// The longest that a slow storage takes for each call.
const MOST_DELAY_MS: u64 = 80;

/// What copies of one query came to: all restarted with right sums.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// The Spark that wrote and read them.
    pub(crate) spark: String,
    /// The query's.
    pub(crate) provider: String,
    /// The query's.
    pub(crate) shape: String,
    /// How many.
    pub(crate) copies: u64,
    /// Those with a batch in flight.
    pub(crate) in_flight: u64,
    /// Batches that ended while one was copied.
    pub(crate) overtaken: u64,
    /// How often one was planned anew, because files vanished under it.
    pub(crate) replans: u64,
}

impl Tally {
    fn of(query: &Query, version: SparkVersion) -> Self {
        Self {
            spark: version.as_str().to_owned(),
            provider: query.provider.to_owned(),
            shape: query.shape.to_owned(),
            copies: 0,
            in_flight: 0,
            overtaken: 0,
            replans: 0,
        }
    }
}

/// Takes `rounds` copies of each of these running queries, stops the queries, and restarts the copies.
pub(crate) fn copy_while_running(
    lab: &Lab,
    kinds: &[(&'static str, &'static str)],
    rounds: u64,
) -> Result<Vec<Tally>> {
    let feed = Feed::steady(100, 1);
    lab.make_input()?;
    let queries: Vec<Query> = kinds
        .iter()
        .map(|(shape, provider)| lab.query(shape, provider))
        .collect();
    let mut tallies: Vec<Tally> = queries
        .iter()
        .map(|query| Tally::of(query, lab.spark.version()))
        .collect();
    lab.start(&queries, BEFORE)?;
    let mut copies = Vec::new();
    for round in 0..rounds {
        let mut of_round = Vec::new();
        for (number, (query, tally)) in queries.iter().zip(&mut tallies).enumerate() {
            let begun = Instant::now();
            let pause = Duration::from_millis(fastrand::u64(0..MOST_PAUSE_MS));
            let deadline = Duration::from_millis(2 * MOST_PAUSE_MS);
            wait_until(deadline, "the moment has come", || begun.elapsed() >= pause)?;
            let to = format!("{}-copy-{round}", query.checkpoint);
            let at = if (number as u64 + round).is_multiple_of(2) {
                At::Planned
            } else {
                At::Committed
            };
            // Every second round the storage is slow, so that batches end while it is copied.
            let source = if round.is_multiple_of(2) {
                local(&query.checkpoint)
            } else {
                let delay = Duration::from_millis(fastrand::u64(0..MOST_DELAY_MS));
                slow(&query.checkpoint, delay)
            };
            let mut request = request(source, local(&to), at);
            request.pace.small_at_once = 4;
            let (batch, replans) = (last_batch(query)?.0, lab.replans());
            let report = lab.copy_request(&request)?;
            tally.copies += 1;
            tally.in_flight += u64::from(report.last_planned_batch > report.last_committed_batch);
            tally.overtaken += last_batch(query)?.0 - batch;
            tally.replans += lab.replans() - replans;
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
    }
    Ok(tallies)
}

fn in_tests(version: SparkVersion, kinds: &[(&'static str, &'static str)]) -> Result<()> {
    let lab = Lab::new("hot", version)?;
    let tallies = copy_while_running(&lab, kinds, 2)?;
    let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
    println!(
        "Spark {}: all {} copies of running queries restarted with right sums; {} with a batch in \
         flight, {} batches ended meanwhile, {} plans made anew",
        version.as_str(),
        sum(|tally| tally.copies),
        sum(|tally| tally.in_flight),
        sum(|tally| tally.overtaken),
        sum(|tally| tally.replans)
    );
    Ok(())
}

#[test]
#[ignore = "the other Spark: `make soak`"]
fn soak_copies_of_running_queries_restart_right_with_spark_3_5() -> Result<()> {
    in_tests(
        SparkVersion::V3_5,
        &[("join", "rocksdb"), ("files", "hdfs")],
    )
}

#[test]
fn copies_of_running_queries_restart_right_with_spark_4() -> Result<()> {
    in_tests(
        SparkVersion::V4,
        &[("aggregation", "format-v2"), ("two-operators", "changelog")],
    )
}
