//! Servers that restart, hang and die under a copy.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Copying, Yard};
use crate::common::checkpoint_tree::Shape;
use crate::common::{Hdfs, wait_until};

const SHAPE: Shape = Shape {
    batches: 35,
    partitions: 20,
    snapshot_each: 0,
};
/// Longer than a copy tries on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// A copy of `ck` to `name` on HDFS.
struct Trial<'a> {
    yard: &'a Yard,
    source: &'a str,
    name: &'a str,
}

impl<'a> Trial<'a> {
    /// A copy with some of its files there and most of them not.
    fn in_the_middle(&self) -> Result<Copying<'a>> {
        let mut copying = self
            .yard
            .begin(self.name, &[self.source, &self.yard.uri(self.name)])?;
        copying.await_staged(self.name, 60)?;
        Ok(copying)
    }

    /// Its end: whole, or one of these exit codes and a message that says what to do.
    fn judge(&self, copying: Copying<'_>, codes: &[i32]) -> Result<()> {
        let (code, last, log) = copying.end(PATIENCE)?;
        if code == 0 {
            println!("{}: it came to its end", self.name);
            return self.assert_published();
        }
        println!("{}: {code} {last:#}", self.name);
        ensure!(codes.contains(&code), "{code}: {log}");
        assert_says_what_to_do(&last, self.name)
    }

    /// Nothing is there, and then the same command completes it.
    fn complete(&self) -> Result<()> {
        if !self.yard.published(self.name)? {
            let uri = self.yard.uri(self.name);
            self.yard.json(&["copy", self.source, &uri], 0)?;
        }
        self.assert_published()
    }

    fn assert_published(&self) -> Result<()> {
        ensure!(
            self.yard.published(self.name)?,
            "{} is not there",
            self.name
        );
        let uri = self.yard.uri(self.name);
        self.yard.json(&["diff", self.source, &uri], 0)?;
        self.yard.assert_tidy(self.name)
    }
}

/// What, where, what to do.
fn assert_says_what_to_do(document: &Value, name: &str) -> Result<()> {
    let error = &document["error"];
    let message = error["message"].as_str().context("no message")?;
    for word in [name, "once ", "the same command goes on"] {
        ensure!(message.contains(word), "no {word:?} in {document:#}");
    }
    let cause = error["causes"][0].as_str().context("no cause")?;
    ensure!(
        cause.contains("hdfs://") || cause.contains("/ck/"),
        "{document:#}"
    );
    Ok(())
}

fn pause(time: Duration) -> Result<()> {
    let begun = Instant::now();
    wait_until(time * 2, "the pause is over", || begun.elapsed() >= time)
}

#[test]
fn servers_that_restart_hang_and_die_leave_nothing_half_done() -> Result<()> {
    let hdfs = Hdfs::builder().start()?;
    let yard = Yard::on(&hdfs, "outages")?;
    let keys = "call-timeout = \"2s\"\nlease-ttl = \"4s\"";
    yard.remote.configure_with(keys, "")?;
    let source = yard.tree("ck", SHAPE)?;
    let trial = |name| Trial {
        yard: &yard,
        source: &source,
        name,
    };

    // Small: local disks sync each file.
    let from = yard.uri("small");
    let small = yard.sample("3.5.9-agg-hdfs-clean", "small")?;
    yard.json(&["copy", "--full", &small, &from], 0)?;
    let hangs = trial("hangs");
    let copying = hangs.in_the_middle()?;
    hdfs.namenode().suspend()?;
    let judged = hangs_judge(&hangs, copying);
    hdfs.namenode().resume()?;
    judged?;
    hangs.complete()?;

    let hesitates = trial("hesitates");
    let copying = hesitates.in_the_middle()?;
    hdfs.namenode().suspend()?;
    pause(Duration::from_secs(1))?;
    hdfs.namenode().resume()?;
    hesitates.judge(copying, &[5])?;
    hesitates.complete()?;

    let restarts = trial("restarts");
    let copying = restarts.in_the_middle()?;
    hdfs.restart_namenode()?;
    restarts.judge(copying, &[5])?;
    restarts.complete()?;

    let dies = trial("dies");
    let copying = dies.in_the_middle()?;
    let datanode = hdfs.datanodes().first().context("no DataNode")?;
    datanode.kill()?;
    dies.judge(copying, &[1, 5])?;
    // Without a DataNode what is there cannot be read either.
    let down = yard.text("down");
    let told = yard.told(
        &["copy", &from, &down],
        5,
        &["once the storage answers again"],
    )?;
    println!("{told}");
    ensure!(!yard.remote.path("down").exists());
    ensure!(!yard.eye().exists(&yard.at("dies"))?);
    hdfs.restart_datanode(0)?;
    dies.complete()?;
    yard.json(&["copy", &from, &down], 0)?;
    yard.json(&["verify", &down], 0)?;
    Ok(())
}

/// While the NameNode hangs nobody can look at what is there.
fn hangs_judge(trial: &Trial<'_>, copying: Copying<'_>) -> Result<()> {
    let (code, last, log) = copying.end(PATIENCE)?;
    println!("{}: {code} {last:#}", trial.name);
    ensure!(code == 5, "{code}: {log}");
    assert_says_what_to_do(&last, trial.name)
}
