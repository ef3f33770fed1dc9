//! Copies of checkpoints over a real HDFS while something breaks: the destination is absent or whole,
//! the message says what to do, and the same command completes it.

mod cuts;
mod directions;
mod large;
mod live;
mod outages;
mod refusals;
mod stops;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::eye::Eye;
use super::remote::{Remote, WATCH};
use crate::common::checkpoint_tree::{self, Shape};
use crate::common::daemon::Daemon;
use crate::common::place::SOON;
use crate::common::{Hdfs, wait_until};

const MANIFEST: &str = ".stepdown-manifest.json";

/// An edge node with copies to make, and a directory on HDFS.
struct Yard {
    remote: Remote,
}

impl Yard {
    fn on(hdfs: &Hdfs, name: &str) -> Result<Self> {
        Self::of(Remote::on(hdfs, name)?)
    }

    fn of(remote: Remote) -> Result<Self> {
        remote.configure_with(WATCH, "")?;
        Ok(Self { remote })
    }

    fn eye(&self) -> &Eye {
        self.remote.eye()
    }

    /// The path of `name` on HDFS.
    fn at(&self, name: &str) -> String {
        self.remote.at(name)
    }

    /// The URI of `name` on HDFS.
    fn uri(&self, name: &str) -> String {
        format!("hdfs://{}", self.at(name))
    }

    /// The path of `name` on local disk.
    fn text(&self, name: &str) -> String {
        self.remote.text(name)
    }

    /// A sample on local disk, as `name`; its path.
    fn sample(&self, sample: &str, name: &str) -> Result<String> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints");
        let archive = File::open(fixtures.join(format!("{sample}.tar.gz")))?;
        tar::Archive::new(GzDecoder::new(archive)).unpack(self.remote.path(""))?;
        fs::rename(self.remote.path(sample), self.remote.path(name))?;
        Ok(self.text(name))
    }

    /// A checkpoint of this shape on local disk, as `name`; its path.
    fn tree(&self, name: &str, shape: Shape) -> Result<String> {
        checkpoint_tree::make(&self.remote.path(name), shape)?;
        Ok(self.text(name))
    }

    /// `stepdown --json checkpoint ...`, which must end with `code`; its document.
    fn json(&self, args: &[&str], code: i32) -> Result<Value> {
        self.json_with(args, &[], code)
    }

    fn json_with(&self, args: &[&str], env: &[(&str, &str)], code: i32) -> Result<Value> {
        let args = [&["--json", "checkpoint"], args].concat();
        let ran = self.remote.stepdown_with(&args, env)?;
        ensure!(ran.status.code() == Some(code), "{args:?}: {ran:?}");
        serde_json::from_str(&ran.stdout).with_context(|| format!("{args:?}: {ran:?}"))
    }

    /// `stepdown checkpoint ...`, which must end with `code` and a message that has all of `words`.
    fn told(&self, args: &[&str], code: i32, words: &[&str]) -> Result<String> {
        self.told_with(args, &[], code, words)
    }

    fn told_with(
        &self,
        args: &[&str],
        env: &[(&str, &str)],
        code: i32,
        words: &[&str],
    ) -> Result<String> {
        let args = [&["checkpoint"], args].concat();
        let ran = self.remote.stepdown_with(&args, env)?;
        ensure!(ran.status.code() == Some(code), "{args:?}: {ran:?}");
        message_with(&ran.stderr, words)
    }

    /// Starts a copy that goes on by itself.
    fn begin(&self, name: &str, args: &[&str]) -> Result<Copying<'_>> {
        let args = ["--json", "checkpoint", "copy"].iter().chain(args);
        Ok(Copying {
            yard: self,
            name: name.to_owned(),
            daemon: self.remote.start(name, args.map(Into::into), &[])?,
        })
    }

    /// The number of files that are in the work directory of `name` on HDFS.
    fn staged(&self, name: &str) -> Result<usize> {
        Ok(self.eye().lengths(&self.at(&tree_of(name)))?.len())
    }

    /// Whether there is a copy `name` on HDFS; if so it is whole, by its manifest's digests.
    fn published(&self, name: &str) -> Result<bool> {
        let found = self.eye().contents(&self.at(name))?;
        if found.is_empty() {
            ensure!(!self.eye().exists(&self.at(name))?, "{name} is empty");
            return Ok(false);
        }
        true_manifest(found)?;
        Ok(true)
    }

    /// Neither the copy nor what it was made in is there.
    fn assert_tidy(&self, name: &str) -> Result<()> {
        let names = self.eye().names(self.remote.dir())?;
        let left = names
            .iter()
            .any(|found| found.starts_with(&format!(".{name}.")));
        ensure!(!left, "{names:?}");
        Ok(())
    }
}

/// A copy under way.
struct Copying<'a> {
    yard: &'a Yard,
    name: String,
    daemon: Daemon,
}

impl Copying<'_> {
    fn log(&self) -> String {
        self.yard.remote.log(&self.name)
    }

    fn has_ended(&mut self) -> bool {
        self.daemon.exit_status().is_some()
    }

    /// The documents among what it printed: events, and the report or the error.
    fn documents(&self) -> Vec<Value> {
        let log = self.log();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Its events of this name.
    fn events(&self, name: &str) -> Vec<Value> {
        let mut events = self.documents();
        events.retain(|event| event["event"] == name);
        events
    }

    /// Waits until so many files are in the work directory on HDFS.
    fn await_staged(&mut self, destination: &str, count: usize) -> Result<()> {
        wait_until(SOON, "files are copied", || {
            self.daemon.exit_status().is_some()
                || self.yard.staged(destination).is_ok_and(|n| n >= count)
        })?;
        ensure!(!self.has_ended(), "it was over too soon: {}", self.log());
        Ok(())
    }

    /// Its exit code and its last document.
    fn end(mut self, deadline: Duration) -> Result<(i32, Value, String)> {
        let status = self.daemon.await_end(deadline)?;
        let log = self.log();
        let last = self.documents().pop().with_context(|| log.clone())?;
        Ok((status.code().unwrap_or(-1), last, log))
    }
}

fn tree_of(name: &str) -> String {
    format!(".{name}.stepdown-copy/tree")
}

/// The message at the end of what a command wrote to stderr; it has all of `words`.
fn message_with(stderr: &str, words: &[&str]) -> Result<String> {
    let start = stderr.rfind("error: ").context("no message")?;
    let message = stderr.get(start..).unwrap_or_default();
    for word in words {
        ensure!(message.contains(word), "{word:?} is not in: {message}");
    }
    Ok(message.to_owned())
}

/// The manifest among the files of a copy, all others held against it.
fn true_manifest(mut found: BTreeMap<String, Vec<u8>>) -> Result<Value> {
    let manifest = found.remove(MANIFEST).context("no manifest")?;
    let manifest: Value = serde_json::from_slice(&manifest)?;
    let files = manifest["files"].as_array().context("no files")?;
    for file in files {
        let path = file["path"].as_str().context("no path")?;
        let content = found.remove(path).with_context(|| format!("no {path}"))?;
        let digest = blake3::hash(&content).to_hex().to_string();
        ensure!(file["blake3"] == digest, "{path} has another content");
    }
    ensure!(found.is_empty(), "not in the manifest: {:?}", found.keys());
    Ok(manifest)
}

/// The files below a local directory with their contents, by relative path.
fn contents(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir)?.to_string_lossy().into_owned();
                found.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(found)
}
