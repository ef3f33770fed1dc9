//! `on-stopped = "copy"` end to end on HDFS: marker, control directory, checkpoint and copy.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Yard, true_manifest};
use crate::common::Hdfs;
use crate::common::place::SOON;
use crate::remote::{STOPPED, WATCH};

/// A place with the sample as the checkpoint of a job, and keys of that job.
fn yard(hdfs: &Hdfs, name: &str) -> Result<(Yard, String)> {
    let yard = Yard::on(hdfs, name)?;
    let sample = yard.sample("3.5.9-agg-hdfs-inflight", "ck")?;
    yard.json(&["copy", "--full", &sample, &yard.uri("ck")], 0)?;
    let keys = format!(
        "checkpoints = [\"{}\"]\non-stopped = \"copy\"\ncopy-to = [\"{}\"]\n",
        yard.uri("ck"),
        yard.uri("next")
    );
    Ok((yard, keys))
}

/// The receipt names the copy, and the copy is whole and a good start.
fn assert_copied(yard: &Yard, receipt: &Value) -> Result<()> {
    let copy = &receipt["copies"][0];
    assert_eq!(copy["result"], "copied", "{receipt:#}");
    let named = copy["destination"].as_str().context("no destination")?;
    ensure!(named.ends_with(&yard.at("next")), "{named}");
    assert_eq!(copy["last_planned_batch"], 9);
    assert_eq!(copy["last_committed_batch"], 8);
    let proof = &receipt["proof"]["checkpoints"][0];
    assert_eq!(proof["last_planned_batch"], 9, "{receipt:#}");
    let manifest = true_manifest(yard.eye().contents(&yard.at("next"))?)?;
    assert_eq!(manifest["copy_id"], copy["copy_id"]);
    assert_eq!(
        json!(manifest["files"].as_array().map(Vec::len)),
        copy["files"]
    );
    yard.json(&["verify", "--deep", named], 0)?;
    yard.assert_tidy("next")
}

#[test]
fn a_watched_job_whose_marker_is_removed_leaves_a_copy_on_hdfs() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let (yard, keys) = yard(hdfs, "watched")?;
    let remote = &yard.remote;
    remote.configure_with(WATCH, &remote.pid_file_job("clicks", &keys, ""))?;
    let mut jobs = remote.start_jobs(&["clicks"], &["drain=0.3"])?;
    remote.touch("clicks")?;
    let _watch = remote.watch_armed("watch", 1)?;
    hdfs.dfs(&["-rm", &remote.marker("clicks")])?;
    let job = jobs.first_mut().context("no job")?;
    let receipt = job.await_stop(remote, STOPPED)?;
    assert_copied(&yard, &receipt)?;
    let (code, waited) = remote.json(&["wait", "clicks", "--until", "stopped"])?;
    assert_eq!(waited["copies"], receipt["copies"], "{code} {waited:#}");
    Ok(())
}

#[test]
fn a_job_under_run_whose_marker_is_removed_leaves_a_copy_on_hdfs() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let (yard, keys) = yard(hdfs, "under-run")?;
    let remote = &yard.remote;
    let table = format!("[jobs.clicks]\n{keys}[jobs.clicks.stop]\nbackend = \"signal\"\n");
    remote.configure_with(WATCH, &table)?;
    let job = remote.job("clicks")?;
    let argv = job.argv(&["drain=0.3"]);
    let mut run = remote.run("run", &["--job", "clicks"], argv, &[])?;
    job.await_starts(1)?;
    remote.await_rounds("run", 3)?;
    hdfs.dfs(&["-rm", &remote.marker("clicks")])?;
    assert_eq!(run.await_end(SOON * 2)?.code(), Some(0));
    let receipt = remote.await_receipt("clicks")?;
    for (name, value) in STOPPED {
        assert_eq!(receipt[*name], *value, "{receipt:#}");
    }
    assert_eq!(job.count("TERM"), 1);
    assert_copied(&yard, &receipt)
}
