//! A source that changes or goes while it is copied.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Yard;
use crate::common::checkpoint_tree::{Shape, add_batch, batch_files, metadata, purged_files};
use crate::common::place::SOON;
use crate::common::proxy::{CutProxy, Traffic};
use crate::common::{Hdfs, wait_until};
use crate::eye::Eye;
use crate::remote::{Remote, fresh_path};

/// A small query that purges soon: what a restart needs is all replaced within a few batches.
const SHAPE: Shape = Shape {
    batches: 14,
    partitions: 40,
    snapshot_each: 5,
};
/// After so many more batches nothing is left of what the last one of the shape needs.
const ALL_ANEW: u64 = 4;
/// Batches that stay beside the last one.
const KEPT: u64 = 2;

/// A query, as far as its checkpoint shows one.
struct Query<'a> {
    /// Where its checkpoint lies: on HDFS with an eye, else on local disk.
    eye: Option<&'a Eye>,
    dir: String,
    last: AtomicU64,
}

impl<'a> Query<'a> {
    fn start(eye: Option<&'a Eye>, dir: &str) -> Result<Self> {
        let query = Self {
            eye,
            dir: dir.to_owned(),
            last: AtomicU64::new(SHAPE.batches - 1),
        };
        if eye.is_none() {
            for partition in 0..SHAPE.partitions {
                fs::create_dir_all(format!("{dir}/state/0/{partition}"))?;
            }
            for name in ["offsets", "commits"] {
                fs::create_dir_all(format!("{dir}/{name}"))?;
            }
        }
        let mut files = vec![metadata()];
        for batch in 0..SHAPE.batches {
            files.extend(batch_files(SHAPE, batch));
            let purged = purged_files(SHAPE, batch, KEPT);
            files.retain(|(name, _)| !purged.contains(name));
        }
        match eye {
            Some(eye) => eye.write_all(dir, files)?,
            None => files
                .into_iter()
                .try_for_each(|(name, content)| fs::write(Path::new(dir).join(name), content))?,
        }
        Ok(query)
    }

    /// Plans, works, commits; then removes what is too old.
    fn run_batch(&self, batch: u64) -> Result<()> {
        match self.eye {
            None => add_batch(Path::new(&self.dir), SHAPE, batch)?,
            Some(eye) => {
                let mut files = batch_files(SHAPE, batch);
                let commit = files.pop().context("no commit")?;
                let state = files.split_off(1);
                for step in [files, state, vec![commit]] {
                    eye.write_all(&self.dir, step)?;
                }
            }
        }
        self.last.store(batch, Ordering::Release);
        for name in purged_files(SHAPE, batch, KEPT) {
            match self.eye {
                Some(eye) => eye.remove(&format!("{}/{name}", self.dir))?,
                None => fs::remove_file(Path::new(&self.dir).join(&name)).context(name)?,
            }
        }
        Ok(())
    }

    fn run_batches(&self, count: u64) -> Result<()> {
        let next = self.last() + 1;
        (next..next + count).try_for_each(|batch| self.run_batch(batch))
    }

    fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }
}

/// A yard whose way to the NameNode can be held.
struct Held {
    proxy: CutProxy,
    yard: Yard,
}

impl Held {
    fn on(hdfs: &Hdfs, name: &str) -> Result<Self> {
        let proxy = CutProxy::start(hdfs.namenode().port())?;
        let eye = Arc::new(Eye::open(hdfs.conf_dir())?);
        let remote = Remote::within(eye, &fresh_path(name), &proxy.conf_dir(hdfs)?, "")?;
        let yard = Yard::of(remote)?;
        // Longer than it is held.
        yard.remote.configure_with("call-timeout = \"30s\"", "")?;
        Ok(Self { proxy, yard })
    }

    /// Copies, with `change` of the source while the copy stands still in the middle.
    fn copy(
        &self,
        source: &str,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<(i32, Value, Vec<Value>, String)> {
        self.proxy.hold_after(25, "create");
        let mut copying = self.yard.begin("copy", &[source, &self.yard.uri("copy")])?;
        wait_until(SOON, "the copy is in the middle", || {
            self.proxy.cuts() > 0 || copying.has_ended()
        })?;
        let changed = change();
        self.proxy.set(Traffic::Pass);
        changed.with_context(|| copying.log())?;
        wait_until(SOON * 2, "the copy ends", || copying.has_ended())?;
        let replanned = copying.events("replanned");
        let (code, last, log) = copying.end(SOON)?;
        Ok((code, last, replanned, log))
    }
}

fn assert_planned_anew(held: &Held, query: &Query<'_>, source: &str) -> Result<()> {
    let before = query.last();
    let (code, report, replanned, log) = held.copy(source, || query.run_batches(ALL_ANEW))?;
    assert_eq!(code, 0, "{log}");
    ensure!(!replanned.is_empty(), "{log}");
    assert_eq!(report["last_committed_batch"], before + ALL_ANEW, "{log}");
    ensure!(held.yard.published("copy")?);
    held.yard.assert_tidy("copy")?;
    held.yard.json(&["verify", &held.yard.uri("copy")], 0)?;
    Ok(())
}

#[test]
fn a_local_source_that_is_purged_under_the_copy_is_planned_anew() -> Result<()> {
    let held = Held::on(Hdfs::shared()?, "purged")?;
    let source = held.yard.text("ck");
    let query = Query::start(None, &source)?;
    assert_planned_anew(&held, &query, &source)
}

#[test]
fn a_source_on_hdfs_that_is_purged_under_the_copy_is_planned_anew() -> Result<()> {
    let held = Held::on(Hdfs::shared()?, "purged")?;
    let query = Query::start(Some(held.yard.eye()), &held.yard.at("ck"))?;
    assert_planned_anew(&held, &query, &held.yard.uri("ck"))
}

#[test]
fn copies_of_a_query_that_goes_on_and_purges_are_whole() -> Result<()> {
    let yard = Yard::on(Hdfs::shared()?, "running")?;
    let source = yard.text("ck");
    let query = Query::start(None, &source)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let running = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Acquire) {
                let begun = Instant::now();
                query.run_batches(1)?;
                wait_until(SOON, "the next trigger", || {
                    begun.elapsed() > Duration::from_millis(150)
                })?;
            }
            Ok(())
        });
        let copied = (0..4).try_for_each(|number| {
            let name = format!("copy-{number}");
            copy_while_running(&yard, &query, &source, &name)
                .with_context(|| format!("copy {number}"))
        });
        over.store(true, Ordering::Release);
        running.join().expect("the query panicked")?;
        copied
    })
}

fn copy_while_running(yard: &Yard, query: &Query<'_>, source: &str, name: &str) -> Result<()> {
    let before = query.last();
    for _ in 0..5 {
        let copying = yard.begin(name, &[source, &yard.uri(name)])?;
        let (code, report, log) = copying.end(SOON * 2)?;
        if code != 0 {
            // On a machine that is too slow for this query it says so, and shows nothing.
            let message = report["error"]["message"].as_str().unwrap_or_default();
            ensure!(code == 1 && message.contains("changed faster"), "{log}");
            ensure!(!yard.published(name)?);
            continue;
        }
        let batch = report["last_committed_batch"]
            .as_u64()
            .context("no batch")?;
        ensure!((before..=query.last()).contains(&batch), "{batch}: {log}");
        ensure!(yard.published(name)?);
        yard.json(&["verify", &yard.uri(name)], 0)?;
        return yard.assert_tidy(name);
    }
    anyhow::bail!("the query was always faster")
}

#[test]
fn a_source_that_is_removed_under_the_copy_is_said_to_be_gone() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    for local in [false, true] {
        let held = Held::on(hdfs, "removed")?;
        let yard = &held.yard;
        let (source, dir) = if local {
            (yard.text("ck"), yard.text("ck"))
        } else {
            (yard.uri("ck"), yard.at("ck"))
        };
        let eye = (!local).then(|| yard.eye());
        let _query = Query::start(eye, &dir)?;
        let (code, document, _, log) = held.copy(&source, || match eye {
            Some(eye) => eye.remove(&dir),
            None => Ok(fs::remove_dir_all(&dir)?),
        })?;
        assert_eq!(code, 7, "{log}");
        let message = document["error"]["message"].as_str().unwrap_or_default();
        println!("{message}");
        for word in [
            &dir,
            "was removed while it was copied",
            ".copy.stepdown-copy",
        ] {
            ensure!(message.contains(word), "{word}: {message}");
        }
        ensure!(!yard.published("copy")?);
    }
    Ok(())
}
