//! The same as the tests of copies of running queries, many times.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::hot::{Tally, copy_while_running};
use super::lab::{Lab, MORE};
use crate::common::SparkVersion;

/// Copies of each query.
const ROUNDS: u64 = 4;
const HEADING: &str = "## Copies of running queries";

type Kinds = [(&'static str, &'static str); 4];

/// What runs at the same time.
const SETS: [(SparkVersion, Kinds); 6] = [
    (
        SparkVersion::V3_5,
        [
            ("aggregation", "hdfs"),
            ("aggregation", "rocksdb"),
            ("aggregation", "changelog"),
            ("join", "hdfs"),
        ],
    ),
    (
        SparkVersion::V3_5,
        [
            ("watermark", "changelog"),
            ("deduplication", "hdfs"),
            ("two-operators", "rocksdb"),
            ("files", "hdfs"),
        ],
    ),
    (
        SparkVersion::V3_5,
        [
            ("watermark", "hdfs"),
            ("deduplication", "rocksdb"),
            ("join", "changelog"),
            ("files", "changelog"),
        ],
    ),
    (
        SparkVersion::V4,
        [
            ("aggregation", "hdfs"),
            ("aggregation", "rocksdb"),
            ("aggregation", "format-v2"),
            ("join", "format-v2"),
        ],
    ),
    (
        SparkVersion::V4,
        [
            ("watermark", "format-v2"),
            ("deduplication", "changelog"),
            ("two-operators", "format-v2"),
            ("files", "rocksdb"),
        ],
    ),
    (
        SparkVersion::V4,
        [
            ("aggregation", "changelog"),
            ("deduplication", "format-v2"),
            ("join", "rocksdb"),
            ("processor", "format-v2"),
        ],
    ),
];

/// What is done, by the number of the set; an interrupted soak goes on behind it.
type Progress = BTreeMap<usize, Vec<Tally>>;

fn progress_file() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak-spark-copies.json")
}

fn load_progress() -> Result<Progress> {
    match fs::read_to_string(progress_file()) {
        Ok(text) => serde_json::from_str(&text).context("the progress file is damaged: remove it"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Progress::new()),
        Err(error) => Err(error.into()),
    }
}

fn save_progress(progress: &Progress) -> Result<()> {
    let fresh = progress_file().with_extension("new");
    fs::write(&fresh, serde_json::to_string(progress)?)?;
    Ok(fs::rename(fresh, progress_file())?)
}

fn section(progress: &Progress) -> String {
    let today = jiff::Zoned::now().date();
    let tallies = || progress.values().flatten();
    let copies: u64 = tallies().map(|tally| tally.copies).sum();
    let rows: Vec<String> = tallies().map(row).collect();
    format!(
        "{HEADING}\n\n{today}: {copies} copies of running queries (200 ms triggers, 2 batches \
         retained), taken at random moments, every second one through a slowed storage. All {copies} \
         restarted at their new place, and each did at least {MORE} more batches with exactly right \
         sums.\n\n\
         | Spark | state store | query | copies | with a batch in flight | batches ended meanwhile | \
         planned anew |\n|---|---|---|---|---|---|---|\n{}\n",
        rows.join("\n")
    )
}

fn row(tally: &Tally) -> String {
    format!(
        "| {} | {} | {} | {} | {} | {} | {} |",
        tally.spark,
        tally.provider,
        tally.shape,
        tally.copies,
        tally.in_flight,
        tally.overtaken,
        tally.replans
    )
}

/// Puts the section in the place of an earlier one, or at the end.
fn write_section(section: &str) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/soak.md");
    let old = fs::read_to_string(&path).unwrap_or_else(|_| {
        "# Soak runs\n\nWhat `make soak` counted the last time; it writes these tables.\n"
            .to_owned()
    });
    let (before, rest) = old.split_once(HEADING).unwrap_or((old.trim_end(), ""));
    let after = rest
        .split_once("\n## ")
        .map_or(String::new(), |(_, after)| format!("\n## {after}"));
    Ok(fs::write(
        path,
        format!("{}\n\n{section}{after}", before.trim_end()),
    )?)
}

#[test]
#[ignore = "takes a quarter of an hour: make soak"]
fn soak_copies_of_running_queries_restart_right() -> Result<()> {
    let mut progress = load_progress()?;
    for (number, (version, kinds)) in SETS.iter().enumerate() {
        if progress.contains_key(&number) {
            continue;
        }
        let lab = Lab::new("soak", *version)?;
        progress.insert(number, copy_while_running(&lab, kinds, ROUNDS)?);
        save_progress(&progress)?;
        let copies: u64 = progress.values().flatten().map(|tally| tally.copies).sum();
        println!("{copies} copies of running queries restarted with right sums so far");
    }
    write_section(&section(&progress))?;
    fs::remove_file(progress_file()).context("the progress file is gone")
}
