//! The job `clicks` without Spark: a process of this program that keeps the driver kit's contract. It
//! writes real checkpoint files and waits, as Spark does, until HDFS answers again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use stepdown::storage::{
    CreateMode, Depth, ErrorKind, Storage, StorageError, StoragePath, StorageUri,
};

use super::clicks::{Clicks, Table};
use super::hdfs_adapter::{open, write};
use crate::common::checkpoint_tree::{Shape, batch_files, make};
use crate::common::daemon::Daemon;
use crate::common::scratch::scratch_dir;
use crate::common::{Hdfs, wait_until};

/// A rollout to its end, after an outage, on a machine that is overloaded.
pub(crate) const ROLLOUT: Duration = Duration::from_mins(6);
/// A start of a process, a commit, on such a machine.
pub(crate) const SOON: Duration = Duration::from_mins(3);

/// Where the job writes what it has done.
const SINK: &str = "STEPDOWN_TEST_SINK";
/// How many partitions the state of its query has; without it there is no state.
const PARTITIONS: &str = "STEPDOWN_TEST_PARTITIONS";
/// How long a batch takes beside its files.
const BATCH_MS: &str = "STEPDOWN_TEST_BATCH_MS";
/// The slot in which the job does not start.
pub(crate) const FAILS_IN: &str = "STEPDOWN_TEST_FAILS_IN";

/// State files that the job writes at the same time.
const AT_ONCE: usize = 32;

/// The job with its two slots; what of it still runs ends when this is dropped.
pub(crate) struct Stage {
    pub(crate) hdfs: Hdfs,
    pub(crate) clicks: Clicks,
    /// For the job.
    env: Vec<(&'static str, String)>,
}

impl Stage {
    /// On a cluster of its own.
    pub(crate) fn on(hdfs: Hdfs, name: &str) -> Result<Self> {
        let clicks = Clicks::on(&hdfs, name, Vec::new())?;
        let env = vec![(SINK, clicks.text("sink"))];
        Ok(Self { hdfs, clicks, env })
    }

    /// Has the job's query keep state in so many partitions, and its batches take so long.
    pub(crate) fn with_state(mut self, partitions: u64, batch: Duration) -> Self {
        self.env.push((PARTITIONS, partitions.to_string()));
        self.env.push((BATCH_MS, batch.as_millis().to_string()));
        self
    }

    pub(crate) fn configure(&self, strategy: &str, rollout: &str) -> Result<()> {
        let job = std::env::current_exe()?;
        let start = [
            job.to_str().context("the path of this test")?,
            "scripted::the_job_of_these_tests",
            "--exact",
            "--ignored",
            "--nocapture",
        ];
        self.clicks.configure(&Table {
            strategy,
            start: start.map(str::to_owned).to_vec(),
            stop: "heartbeat-timeout = \"1h\"",
            rollout,
        })
    }

    /// What the job is to find in its environment, and `more`.
    pub(crate) fn env<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = self.env.iter().map(|(name, value)| (*name, value.as_str()));
        own.chain(more.iter().copied()).collect()
    }

    /// Begins a rollout; its output is in `<name>.log`.
    pub(crate) fn begin(&self, name: &str, env: &[(&str, &str)]) -> Result<Daemon> {
        self.clicks.begin(name, &self.env(env))
    }

    /// A rollout to its end.
    pub(crate) fn roll_out(&self, name: &str) -> Result<Value> {
        let status = self.begin(name, &[])?.await_end(ROLLOUT)?;
        ensure!(status.success(), "{}", self.clicks.log(name));
        let record = self.clicks.record()?;
        ensure!(record["outcome"] == "rolled-out", "{record:#}");
        Ok(record)
    }

    /// Waits until the job in a slot commits so many batches more.
    pub(crate) fn await_commits(&self, slot: &str, more: u64) -> Result<()> {
        let newest = || self.clicks.newest(slot, "commits");
        let before = newest()?;
        let goal = before.map_or(more - 1, |batch| batch + more);
        wait_until(SOON, "a commit", || {
            newest().is_ok_and(|now| now >= Some(goal))
        })
        .with_context(|| self.clicks.log(slot))
    }

    /// Every batch from `first` on was written once, none is missing, and never by two at a time.
    pub(crate) fn check_sink(&self, first: u64) -> Result<()> {
        let text = fs::read_to_string(self.clicks.path("sink"))?;
        let mut times: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        for line in text.lines() {
            let (batch, who) = line.split_once(' ').context("a line of the sink")?;
            times.entry(batch.parse()?).or_default().push(who);
        }
        let last = times.keys().next_back().copied().context("an empty sink")?;
        for batch in first..=last {
            let by = times.get(&batch).cloned().unwrap_or_default();
            ensure!(by.len() == 1, "batch {batch} was written by {by:?}");
        }
        Ok(())
    }

    /// Puts the checkpoint of a query that has ended at a slot's place.
    pub(crate) fn bring_checkpoint(&self, slot: &str, shape: Shape) -> Result<()> {
        let local = scratch_dir("checkpoint")?;
        make(&local, shape)?;
        let to = format!("hdfs://{}", self.clicks.at(&format!("ck/{slot}")));
        let words = ["checkpoint", "copy", "--full"].map(OsString::from);
        let words = words.into_iter().chain([local.into(), to.into()]);
        let status = self.clicks.start("bring", words, &[])?.await_end(ROLLOUT)?;
        ensure!(status.success(), "{}", self.clicks.log("bring"));
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A job that waits for a NameNode sees this, too.
        let end = end_file(&self.clicks.path("sink"));
        let _told = fs::write(end, "");
        let _resumed = self.hdfs.namenode().resume();
        let ours = || {
            let marker = format!("{SINK}={}", self.clicks.text("sink"));
            let found = fs::read_dir("/proc").into_iter().flatten().flatten();
            found
                .filter(|entry| {
                    let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
                    String::from_utf8_lossy(&environ).contains(&marker)
                })
                .count()
        };
        let _gone = wait_until(SOON, "the jobs end", || ours() == 0);
    }
}

fn end_file(sink: &Path) -> PathBuf {
    sink.with_extension("end")
}

/// A job as a rollout sees one: a status file as the driver kit writes it, a checkpoint as Spark does.
struct Job {
    storage: Arc<dyn Storage>,
    slot: String,
    marker: StoragePath,
    control: StoragePath,
    checkpoint: StoragePath,
    sink: PathBuf,
    /// Of its checkpoint; only the partitions count.
    shape: Shape,
    batch: Duration,
    seen: bool,
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

fn number(name: &str, default: u64) -> Result<u64> {
    let text = std::env::var(name);
    text.map_or(Ok(default), |text| Ok(text.parse()?))
}

fn path_of(name: &str) -> Result<StoragePath> {
    Ok(variable(name)?.parse::<StorageUri>()?.path)
}

impl Job {
    /// Does `call` until the storage answers. Ends the process where the test is over.
    async fn persist<T>(
        &self,
        mut call: impl AsyncFnMut() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        loop {
            if end_file(&self.sink).exists() || !self.sink.parent().is_some_and(Path::exists) {
                std::process::exit(1);
            }
            match call().await {
                Err(error) if error.kind.is_unreachable() => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) if error.kind == ErrorKind::OutcomeUnknown => {}
                other => return other,
            }
        }
    }

    async fn say(&self, phase: &str) -> Result<()> {
        let mut status = json!({
            "format": 1, "kind": "status", "write_id": uuid::Uuid::new_v4(),
            "job": "clicks", "slot": self.slot, "phase": phase,
            "attempt": stepdown::process::identify(std::process::id())?,
            "written_at": jiff::Timestamp::now(),
        });
        status["rollout_id"] = variable("STEPDOWN_ROLLOUT_ID")?.into();
        status["generation"] = variable("STEPDOWN_GENERATION")?.parse::<u64>()?.into();
        let path = self
            .control
            .join("status")
            .join(&format!("clicks.{}.json", self.slot));
        self.publish(&path, status.to_string().as_bytes(), CreateMode::Replace)
            .await
    }

    /// Writes a file whole; one that only this job writes may be there already.
    async fn publish(&self, path: &StoragePath, content: &[u8], mode: CreateMode) -> Result<()> {
        let written = self
            .persist(async || write(self.storage.as_ref(), path, mode, content).await)
            .await;
        match written {
            Err(error) if error.kind == ErrorKind::AlreadyExists => Ok(()),
            other => Ok(other?),
        }
    }

    /// Whether the marker is there; what cannot be told is neither.
    async fn marker_is_there(&self) -> Result<bool> {
        let found = self
            .persist(async || self.storage.stat(&self.marker).await)
            .await;
        match found {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn is_asked(&mut self) -> Result<bool> {
        if self.marker_is_there().await? {
            self.seen = true;
            return Ok(false);
        }
        if !self.seen {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(!self.marker_is_there().await?)
    }

    /// Waits for the go of its rollout; false where it is asked to stop first.
    async fn await_go(&mut self) -> Result<bool> {
        let go = variable("STEPDOWN_GO").unwrap_or_default();
        if go.is_empty() {
            return Ok(true);
        }
        let go = go.parse::<StorageUri>()?.path;
        self.say("held").await?;
        loop {
            let text = self
                .persist(async || self.storage.read_small(&go, 1 << 16).await)
                .await;
            if let Ok(text) = text {
                let said: Value = serde_json::from_slice(&text)?;
                let generation = variable("STEPDOWN_GENERATION")?.parse::<u64>()?;
                if said["rollout_id"] == variable("STEPDOWN_ROLLOUT_ID")?
                    && said["generation"] == generation
                {
                    return Ok(true);
                }
            }
            if self.is_asked().await? {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn newest(&self, log: &str) -> Result<Option<u64>> {
        let dir = self.checkpoint.join(log);
        let entries = self
            .persist(async || self.storage.list(&dir, Depth::Children).await)
            .await?;
        Ok(entries
            .iter()
            .filter_map(|entry| entry.path.name().parse().ok())
            .max())
    }

    async fn run_batch(&self) -> Result<()> {
        let (planned, committed) = (self.newest("offsets").await?, self.newest("commits").await?);
        let next = committed.map_or(0, |batch| batch + 1);
        let batch = match planned {
            Some(planned) if Some(planned) > committed => planned,
            _ => next,
        };
        let files = batch_files(self.shape, batch);
        let (offsets, rest) = files.split_first().context("no offsets")?;
        let (commit, state) = rest.split_last().context("no commit")?;
        self.add(offsets).await?;
        tokio::time::sleep(self.batch).await;
        let written = stream::iter(state).map(|file| self.add(file));
        let written = written.buffer_unordered(AT_ONCE);
        written.try_for_each(|()| async { Ok(()) }).await?;
        let mut sink = fs::File::options()
            .append(true)
            .create(true)
            .open(&self.sink)?;
        sink.write_all(format!("{batch} {} {}\n", self.slot, std::process::id()).as_bytes())?;
        self.add(commit).await
    }

    /// Adds a file to the checkpoint.
    async fn add(&self, (name, content): &(String, Vec<u8>)) -> Result<()> {
        let path = self.checkpoint.join_all(name);
        self.publish(&path, content, CreateMode::New).await
    }

    async fn run(mut self) -> Result<()> {
        self.say("starting").await?;
        if !self.await_go().await? {
            return self.say("ended").await;
        }
        let stores = (0..self.shape.partitions).map(|partition| format!("state/0/{partition}"));
        for dir in stores.chain(["offsets", "commits"].map(str::to_owned)) {
            let dir = self.checkpoint.join_all(&dir);
            self.persist(async || self.storage.create_dir_all(&dir).await)
                .await?;
        }
        let id = json!({ "id": uuid::Uuid::new_v4() }).to_string();
        let metadata = self.checkpoint.join("metadata");
        let found = self
            .persist(async || self.storage.stat(&metadata).await)
            .await;
        if found.is_err_and(|error| error.kind == ErrorKind::NotFound) {
            self.publish(&metadata, id.as_bytes(), CreateMode::New)
                .await?;
        }
        self.say("running").await?;
        while !self.is_asked().await? {
            self.run_batch().await?;
        }
        for phase in ["draining", "drained", "ended"] {
            self.say(phase).await?;
        }
        Ok(())
    }
}

/// The job itself: a process that the rollouts of these tests start.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "no test: the job that the rollouts here start"]
async fn the_job_of_these_tests() -> Result<()> {
    let slot = variable("STEPDOWN_SLOT")?;
    if std::env::var(FAILS_IN).is_ok_and(|fails| fails == slot) {
        std::process::exit(9);
    }
    let conf_dir = PathBuf::from(variable("HADOOP_CONF_DIR")?);
    let job = Job {
        storage: open(&conf_dir, Duration::from_secs(5)),
        slot,
        marker: path_of("STEPDOWN_MARKER")?,
        control: path_of("STEPDOWN_CONTROL")?,
        checkpoint: path_of("STEPDOWN_CHECKPOINT")?,
        sink: PathBuf::from(variable(SINK)?),
        shape: Shape {
            partitions: number(PARTITIONS, 0)?,
            ..Shape::default()
        },
        batch: Duration::from_millis(number(BATCH_MS, 200)?),
        seen: false,
    };
    job.run().await
}
