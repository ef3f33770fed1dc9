//! Copies of checkpoints that lie on HDFS.

use std::time::Duration;

use anyhow::Result;
use stepdown::checkpoint::copy::Place;
use stepdown::checkpoint::target::At;

use super::super::hdfs_adapter::{open, path};
use super::lab::{Lab, local, next_batch, request};
use super::sums::{Feed, check};
use crate::common::{Hdfs, Query, SparkVersion};

const CALL: Duration = Duration::from_secs(30);

fn copy_there(
    version: SparkVersion,
    shape: &'static str,
    provider: &'static str,
    conf: &[(&'static str, &str)],
) -> Result<()> {
    let lab = Lab::new("hdfs", version)?;
    let hdfs = Hdfs::shared()?;
    let feed = Feed::steady(100, 1);
    let dir = hdfs.fresh_dir("spark")?;
    let storage = lab.block_on(async { open(hdfs.conf_dir(), CALL) });
    let there = |name: &str| Place {
        storage: storage.clone(),
        path: path(&format!("{dir}/{name}")),
    };
    let uri = |name: &str| format!("{}{dir}/{name}", hdfs.nn_uri());
    let mut query = Query {
        checkpoint: uri("original"),
        ..lab.query(shape, provider)
    };
    for (key, value) in conf {
        query.conf.push((key, (*value).to_owned()));
    }
    lab.start(std::slice::from_ref(&query), 4)?;

    let mut copies = Vec::new();
    let hot = lab.copy_request(&request(there("original"), there("hot"), At::Planned))?;
    copies.push((lab.moved(&query, &uri("hot")), next_batch(&hot)));
    let here = lab.dir.join("here").to_string_lossy().into_owned();
    let down = lab.copy_request(&request(there("original"), local(&here), At::Committed))?;
    copies.push((lab.moved(&query, &here), next_batch(&down)));

    lab.spark.stop(&query)?;
    check(&query, &feed, 0)?;
    let cold = lab.copy_request(&request(there("original"), there("cold"), At::Planned))?;
    copies.push((lab.moved(&query, &uri("cold")), next_batch(&cold)));
    // From HDFS to the local disk and back.
    let up = lab.copy_request(&request(local(&here), there("up"), At::Planned))?;
    copies.push((lab.moved(&query, &uri("up")), next_batch(&up)));
    hdfs.dfs(&["-rm", "-r", "-skipTrash", &format!("{dir}/original")])?;
    // One query id, and Spark lets it run once.
    for copy in copies {
        lab.restart(&[copy], &feed)?;
    }
    println!(
        "Spark {}, {shape}, {provider}: 4 copies on and off HDFS restarted with right sums",
        version.as_str()
    );
    Ok(())
}

#[test]
#[ignore = "the other Spark: `make soak`"]
fn soak_copies_of_a_checkpoint_on_hdfs_restart_right_with_spark_3_5() -> Result<()> {
    copy_there(SparkVersion::V3_5, "aggregation", "hdfs", &[])
}

#[test]
fn copies_of_a_checkpoint_on_hdfs_restart_right_with_spark_4() -> Result<()> {
    // Metadata of operators with absolute paths.
    let conf = [("spark.sql.streaming.join.stateFormatVersion", "3")];
    copy_there(SparkVersion::V4, "join", "changelog", &conf)
}
