//! stepdown's own part of the gap: from the old job's end to the go, with a checkpoint of ten thousand
//! files of which a restart needs each.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use stepdown::checkpoint::copy::Pace;
use stepdown::checkpoint::manifest::MANIFEST;

use super::clicks::{Times, other};
use super::closes::{Close, chain, closes_between, in_waves};
use super::scripted::Stage;
use super::soak::{median, turns, write_block};
use crate::common::Hdfs;
use crate::common::checkpoint_tree::Shape;

/// Ten thousand state files: no snapshot, so a restart reads all of them.
const SHAPE: Shape = Shape {
    batches: 50,
    partitions: 200,
    snapshot_each: 0,
};
/// A batch takes so long beside the writing of its files.
const BATCH: Duration = Duration::from_secs(5);

/// With it a file is closed before its DataNode has told the NameNode of its last block.
const QUICK_CLOSE: &str = "dfs.namenode.file.close.num-committed-allowed";

/// What one hand-over took, in seconds, and what was written in stepdown's part of it.
#[derive(Debug)]
struct Part {
    /// The old job's last commit, its end, the receipt, the published copy, the go, the new job's first
    /// commit: what lies between two of them.
    spans: [f64; 5],
    own: f64,
    gap: f64,
    /// Files of the copy.
    files: usize,
    /// Files with content that stepdown closed in its part,
    closes: usize,
    /// and so many of them one after the other, the copied ones counted by waves.
    chain: usize,
}

const MOMENTS: [&str; 6] = [
    "old_committed_at",
    "old_ended_at",
    "stopped",
    "cutover",
    "go_at",
    "new_committed_at",
];

impl Stage {
    /// Whether stepdown wrote the file, and not the job.
    fn is_stepdowns(&self, path: &str) -> bool {
        let of_job = ["control/status/", "ck/blue/", "ck/green/"];
        !of_job
            .iter()
            .any(|dir| path.starts_with(&self.clicks.at(dir)))
    }

    fn hand_over(&self, name: &str, new: &str) -> Result<Part> {
        let record = self.roll_out(name)?;
        assert_eq!(record["proof"], "clean", "{record:#}");
        let times = Times::of(&record)?;
        let mut spans = [0.0; 5];
        for (span, ends) in spans.iter_mut().zip(MOMENTS.windows(2)) {
            *span = times.between(ends[0], ends[1])?;
        }
        let (from, to) = (times.at("old_ended_at")?, times.at("go_at")?);
        let mut closes = closes_between(&self.hdfs, from, to)?;
        closes.retain(|close| self.is_stepdowns(&close.path));
        let dir = self.clicks.at("");
        let mut waves = in_waves(
            &closes,
            |path| path.contains(".stepdown-copy/tree/") && !path.contains(MANIFEST),
            Pace::HURRIED.small_at_once,
        );
        // It is written beside the manifest, which does not wait for it.
        waves.retain(|close| !close.path.contains(".stepdown-copy/journal/"));
        let chain = chain(&waves);
        for Close {
            path,
            begun,
            closed,
        } in &chain
        {
            let path = path.strip_prefix(&dir).unwrap_or(path);
            println!("  {begun} to {closed}: {path}");
        }
        let manifest = self
            .clicks
            .eye()
            .read(&self.clicks.at(&format!("ck/{new}/{MANIFEST}")))?;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
        Ok(Part {
            spans,
            own: times.between("old_ended_at", "go_at")?,
            gap: times.gap()?,
            files: manifest["files"].as_array().context("no files")?.len(),
            closes: closes.len(),
            chain: chain.len(),
        })
    }
}

/// Hand-overs there and back on one server.
fn measure(hdfs: Hdfs, turns: usize) -> Result<Vec<Part>> {
    let stage = Stage::on(hdfs, "part")?.with_state(SHAPE.partitions, BATCH);
    stage.bring_checkpoint("blue", SHAPE)?;
    stage.configure("hand-over", "")?;
    stage.roll_out("first")?;
    let mut slot = "blue";
    let mut parts = Vec::new();
    for turn in 0..turns {
        stage.await_commits(slot, 2)?;
        slot = other(slot);
        let part = stage.hand_over(&format!("turn-{turn}"), slot)?;
        ensure!(part.files > 10_000, "it copied {} files", part.files);
        println!("turn {turn}: {part:?}");
        parts.push(part);
    }
    stage.await_commits(slot, 1)?;
    stage.check_sink(SHAPE.batches)?;
    Ok(parts)
}

fn middle_and_worst(values: Vec<f64>) -> String {
    let worst = values.iter().copied().fold(f64::MIN, f64::max);
    format!("{:.2} s, {worst:.2} s", median(values))
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_own_part_of_the_gap() -> Result<()> {
    let turns = turns(5)?;
    let builder = || Hdfs::builder().heap_mb(1024);
    let quick = builder().server_hdfs_site(QUICK_CLOSE, "1");
    let mut text = format!(
        "{turns} hand-over(s) on each server (Hadoop 3.4, one NameNode and one DataNode on this machine), median and \
         worst. Closes: each turn.\n\n\
         | server | end to receipt | last pass, published | go | stepdown's own part | files of the copy | closes with \
         content | one after the other | whole gap |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    );
    for (server, builder) in [
        (format!("`{QUICK_CLOSE}=1`"), quick),
        ("its defaults".to_owned(), builder()),
    ] {
        let parts = measure(builder.start()?, turns)?;
        let span =
            |index: usize| middle_and_worst(parts.iter().map(|part| part.spans[index]).collect());
        let each = |count: fn(&Part) -> usize| {
            let all: Vec<String> = parts.iter().map(|part| count(part).to_string()).collect();
            all.join(", ")
        };
        writeln!(
            text,
            "| {server} | {} | {} | {} | {} | {} | {} | {} | {} |",
            span(1),
            span(2),
            span(3),
            middle_and_worst(parts.iter().map(|part| part.own).collect()),
            each(|part| part.files),
            each(|part| part.closes),
            each(|part| part.chain),
            middle_and_worst(parts.iter().map(|part| part.gap).collect()),
        )?;
        write_block("rollout-own-part", &text)?;
    }
    print!("{text}");
    Ok(())
}
