//! A copy in several passes while the query runs, and the last one after its end.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use stepdown::checkpoint::manifest::MANIFEST;
use stepdown::checkpoint::target::At;
use tokio_util::sync::CancellationToken;

use super::lab::{Lab, contents, last_batch, local, next_batch, request};
use super::sums::{Feed, check};
use crate::common::{Query, SparkVersion};

/// Passes while the query runs.
const PASSES: u64 = 3;

fn staged(query: &Query, to: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let parent = Path::new(&query.checkpoint).parent().context("no parent")?;
    let name = Path::new(to).file_name().context("no name")?;
    let work = format!(".{}.stepdown-copy", name.to_string_lossy());
    contents(&parent.join(work).join("tree"))
}

fn sync(version: SparkVersion, kinds: &[(&'static str, &'static str)]) -> Result<()> {
    let lab = Lab::new("passes", version)?;
    let feed = Feed::steady(100, 1);
    let never = CancellationToken::new();
    let mut copies = Vec::new();
    for (shape, provider) in kinds {
        let query = lab.query(shape, provider);
        lab.start(std::slice::from_ref(&query), 4)?;
        let to = format!("{}-synced", query.checkpoint);
        let mut copy = lab.sync(request(local(&query.checkpoint), local(&to), At::Planned))?;
        for pass in 0..PASSES {
            let passed = lab.block_on(copy.pass(&|_| (), &never))?;
            ensure!(passed.copied.files > 0, "pass {pass} had nothing to do");
            // The last noted batch may not be committed yet, nor may the one after it be.
            lab.spark.await_batch(&query, last_batch(&query)?.0 + 2)?;
        }
        lab.spark.stop(&query)?;
        check(&query, &feed, 0)?;

        let before = staged(&query, &to)?;
        let report = lab.block_on(copy.finish(&|_| (), &never))?;
        lab.block_on(copy.close(true));
        let mut after = contents(Path::new(&to))?;
        after.remove(MANIFEST);
        let new: Vec<&String> = after
            .iter()
            .filter(|(name, content)| before.get(*name) != Some(*content))
            .map(|(name, _)| name)
            .collect();
        println!(
            "{}: the last of {} passes copied {} of {} files",
            query.name,
            PASSES + 1,
            report.copied.files,
            report.total.files
        );
        assert_eq!(report.copied.files, new.len() as u64, "{new:?}");
        assert!(new.len() < after.len(), "nothing was kept: {new:?}");
        copies.push((lab.moved(&query, &to), next_batch(&report)));
    }
    lab.restart(&copies, &feed)
}

#[test]
#[ignore = "the other Spark: `make soak`"]
fn soak_synced_copies_restart_right_with_spark_3_5() -> Result<()> {
    sync(
        SparkVersion::V3_5,
        &[("aggregation", "rocksdb"), ("aggregation", "hdfs")],
    )
}

#[test]
fn a_synced_copy_restarts_right_and_its_last_pass_is_short_with_spark_4() -> Result<()> {
    sync(SparkVersion::V4, &[("join", "changelog")])
}
