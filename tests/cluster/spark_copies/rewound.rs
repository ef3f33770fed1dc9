//! Copies as of an earlier batch, continued with other data. Where the state behind that batch stays,
//! Spark mixes it in and says nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use stepdown::checkpoint::target::At;
use stepdown::model::BatchId;

use super::lab::{Lab, MORE, last_batch, next_batch};
use super::sums::{Feed, check};
use crate::common::scratch::copy_dir;
use crate::common::{Query, SparkVersion};

/// Batches of the original.
const DONE: u64 = 8;
/// How many of them are undone.
const UNDONE: u64 = 3;
/// The other data.
const ROWS: i64 = 250;
const SCALE: i64 = 7;

/// Runs queries that keep their old batches, and stops them.
fn run_originals(lab: &Lab, kinds: &[(&'static str, &'static str)]) -> Result<Vec<Query>> {
    let mut queries: Vec<Query> = kinds
        .iter()
        .map(|(shape, provider)| lab.query(shape, provider))
        .collect();
    for query in &mut queries {
        let keep = ("spark.sql.streaming.minBatchesToRetain", "20".to_owned());
        query.conf.push(keep);
    }
    lab.start(&queries, DONE)?;
    for query in &queries {
        lab.spark.stop(query)?;
        check(query, &Feed::steady(100, 1), 0)?;
    }
    Ok(queries)
}

fn with_other_data(query: Query) -> Query {
    Query {
        rows: ROWS,
        scale: SCALE,
        ..query
    }
}

fn rewind(version: SparkVersion, kinds: &[(&'static str, &'static str)]) -> Result<()> {
    let lab = Lab::new("rewound", version)?;
    let mut again = Vec::new();
    let queries = run_originals(&lab, kinds)?;
    // All have done this batch, so the one before it is committed.
    let to_batch = DONE - 2 - UNDONE;
    let feed = Feed::steady(100, 1).then(to_batch + 1, ROWS, SCALE);
    let mut rewound = Vec::new();
    for query in &queries {
        let to = format!("{}-rewound", query.checkpoint);
        let report = lab.copy(&query.checkpoint, &to, At::Batch(BatchId(to_batch)))?;
        assert_eq!(report.last_committed_batch, Some(BatchId(to_batch)));
        assert_eq!(report.last_planned_batch, Some(BatchId(to_batch)));
        rewound.push(with_other_data(lab.moved(query, &to)));
    }
    for query in &rewound {
        lab.spark.run(query)?;
    }
    for query in &rewound {
        // Beyond the batches of the original, whose snapshots would be newer than this query's.
        lab.spark.await_batch(query, DONE + MORE)?;
        lab.spark.stop(query)?;
        check(query, &feed, to_batch + 1)?;
        // At another place, so that nothing is in memory.
        let to = format!("{}-again", query.checkpoint);
        let report = lab.copy(&query.checkpoint, &to, At::Planned)?;
        again.push((lab.moved(query, &to), next_batch(&report)));
    }
    lab.restart(&again, &feed)?;
    println!(
        "Spark {}: {} rewound copies continued with other data, and again, with right sums",
        version.as_str(),
        again.len()
    );
    Ok(())
}

#[test]
#[ignore = "the other Spark: `make soak`"]
fn soak_rewound_copies_continue_right_with_other_data_with_spark_3_5() -> Result<()> {
    rewind(
        SparkVersion::V3_5,
        &[
            ("aggregation", "hdfs"),
            ("aggregation", "rocksdb"),
            ("aggregation", "changelog"),
        ],
    )
}

#[test]
fn a_rewound_copy_continues_right_with_other_data_with_spark_4() -> Result<()> {
    rewind(
        SparkVersion::V4,
        &[
            ("aggregation", "hdfs"),
            ("aggregation", "changelog"),
            ("aggregation", "format-v2"),
        ],
    )
}

/// Cuts the logs of a copy by hand and goes on; what is wrong with its sums then, if anything is.
fn cut_by_hand(name: &str) -> Result<Option<anyhow::Error>> {
    let lab = Lab::new(name, SparkVersion::V3_5)?;
    let queries = run_originals(&lab, &[("aggregation", "changelog")])?;
    let query = queries.first().context("no query")?;
    let to_batch = DONE - 2 - UNDONE;
    let to = format!("{}-by-hand", query.checkpoint);
    copy_dir(Path::new(&query.checkpoint), Path::new(&to))?;
    let (last, _) = last_batch(query)?;
    for log in ["offsets", "commits"] {
        for batch in to_batch + 1..=last + 1 {
            for name in [format!("{batch}"), format!(".{batch}.crc")] {
                let file = Path::new(&to).join(log).join(name);
                if file.exists() {
                    fs::remove_file(file)?;
                }
            }
        }
    }
    let cut = with_other_data(lab.moved(query, &to));
    lab.spark.run(&cut)?;
    lab.spark.await_batch(&cut, DONE + MORE)?;
    lab.spark.stop(&cut)?;
    let feed = Feed::steady(100, 1).then(to_batch + 1, ROWS, SCALE);
    let checked = check(&cut, &feed, to_batch + 1);
    Ok(checked.err())
}

/// Shows that the tests above would see the corruption that they are about. It comes where Spark happens to read
/// the state that was left behind, which is not each time.
#[test]
fn logs_cut_by_hand_corrupt_a_query_and_the_sums_tell() -> Result<()> {
    for attempt in 0..5 {
        if let Some(wrong) = cut_by_hand(&format!("by-hand-{attempt}"))? {
            println!("by hand, attempt {attempt}: {wrong:#}");
            return Ok(());
        }
    }
    bail!("the sums are right each time")
}
