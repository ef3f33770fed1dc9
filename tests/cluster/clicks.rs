//! The job `clicks` with its two slots, whose control directory, markers and checkpoints are on HDFS, and
//! what its rollouts leave on record.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Deref;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::Value;

use super::eye::Eye;
use super::remote::{Remote, WATCH, fresh_path};
use crate::common::Hdfs;
use crate::common::daemon::Daemon;

/// The job, and the edge node from which it is rolled out.
#[derive(Debug)]
pub(crate) struct Clicks(Remote);

impl Deref for Clicks {
    type Target = Remote;
    fn deref(&self) -> &Remote {
        &self.0
    }
}

/// What differs in the configuration of the job.
#[derive(Debug, Default)]
pub(crate) struct Table<'a> {
    pub(crate) strategy: &'a str,
    /// The words that start it.
    pub(crate) start: Vec<String>,
    /// More keys of `stop`.
    pub(crate) stop: &'a str,
    /// More keys of `rollout`.
    pub(crate) rollout: &'a str,
}

impl Clicks {
    /// The job in a directory of its own; `env` is in the environment of all processes.
    pub(crate) fn on(hdfs: &Hdfs, name: &str, env: Vec<(OsString, OsString)>) -> Result<Self> {
        let eye = Arc::new(Eye::open(hdfs.conf_dir())?);
        let dir = fresh_path(name);
        eye.make_dir(&dir)?;
        eye.make_dir(&format!("{dir}/ck"))?;
        let env = [hdfs.env(), env].concat();
        let remote = Remote::with_env(eye, &dir, hdfs.conf_dir(), "", env)?;
        Ok(Self(remote.init()?))
    }

    pub(crate) fn configure(&self, table: &Table<'_>) -> Result<()> {
        let dir = self.dir();
        let jobs = format!(
            r#"
[jobs.clicks.stop]
backend = "driver"
{stop}
[jobs.clicks.slots.blue]
checkpoints = ["hdfs://{dir}/ck/blue"]
[jobs.clicks.slots.green]
checkpoints = ["hdfs://{dir}/ck/green"]
[jobs.clicks.rollout]
strategy = "{strategy}"
start = {start:?}
start-is = "job"
start-log = "{log}"
sync-interval = "500ms"
{rollout}
"#,
            stop = table.stop,
            strategy = table.strategy,
            start = table.start,
            log = self.text("{slot}.log"),
            rollout = table.rollout,
        );
        self.configure_with(WATCH, &jobs)
    }

    /// Begins a rollout of `version`, or goes on with the one that was cut short; the output is in
    /// `<version>.log`.
    pub(crate) fn begin(&self, version: &str, env: &[(&str, &str)]) -> Result<Daemon> {
        self.start(version, roll_out(version), env)
    }

    /// As [`Clicks::begin`], as on a host of another name.
    pub(crate) fn begin_elsewhere(&self, version: &str, env: &[(&str, &str)]) -> Result<Daemon> {
        self.start_on_host("elsewhere", version, roll_out(version), env)
    }

    /// The record of the newest rollout.
    pub(crate) fn record(&self) -> Result<Value> {
        let (_, report) = self.json(&["rollout", "status", "clicks"])?;
        Ok(report["record"].clone())
    }

    /// The newest batch in a log of a slot's checkpoint.
    pub(crate) fn newest(&self, slot: &str, log: &str) -> Result<Option<u64>> {
        let names = self.eye().names(&self.at(&format!("ck/{slot}/{log}")))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).max())
    }
}

fn roll_out(version: &str) -> [OsString; 5] {
    ["rollout", "start", "clicks", "--version", version].map(OsString::from)
}

/// The slot that is not `slot`.
pub(crate) fn other(slot: &str) -> &'static str {
    if slot == "blue" { "green" } else { "blue" }
}

/// The times of a record: those of its gap, and of each state when it was entered last.
#[derive(Debug)]
pub(crate) struct Times(BTreeMap<String, Timestamp>);

impl Times {
    pub(crate) fn of(record: &Value) -> Result<Self> {
        let gap = record["gap"].as_object().context("no gap")?;
        let path = record["path"].as_array().context("no path")?;
        let states = path.iter().map(|entry| (entry[0].as_str(), &entry[1]));
        let named = gap.iter().map(|(name, at)| (Some(name.as_str()), at));
        let mut times = BTreeMap::new();
        for (name, at) in named.chain(states) {
            if let (Some(name), Some(at)) = (name, at.as_str()) {
                times.insert(name.to_owned(), at.parse()?);
            }
        }
        Ok(Self(times))
    }

    pub(crate) fn at(&self, name: &str) -> Result<Timestamp> {
        let found = self.0.get(name).copied();
        found.with_context(|| format!("{name} is missing: {self:?}"))
    }

    /// Seconds between two of them.
    pub(crate) fn between(&self, from: &str, to: &str) -> Result<f64> {
        Ok(self.at(to)?.duration_since(self.at(from)?).as_secs_f64())
    }

    /// From the old job's last commit to the new job's first own one.
    pub(crate) fn gap(&self) -> Result<f64> {
        self.between("old_committed_at", "new_committed_at")
    }
}
