//! Rollouts whose NameNode does not answer for a while, in every state. Control directory, markers and
//! checkpoints are on HDFS; the job writes real checkpoint files and waits, as Spark does, until HDFS
//! answers again.
//!
//! stepdown is halted where it has entered the state, the NameNode is suspended, stepdown goes on: so each
//! state is met for sure.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use stepdown::storage::{
    CreateMode, Depth, ErrorKind, Storage, StorageError, StoragePath, StorageUri,
};

use super::eye::Eye;
use super::hdfs_adapter::{open, write};
use super::remote::{Remote, WATCH, fresh_path};
use super::soak::{add_row, machine};
use crate::common::{Hdfs, wait_until};

/// A rollout to its end, after the outage, on a machine that is overloaded.
const ROLLOUT: Duration = Duration::from_mins(6);
/// A start of a process, a commit, on such a machine.
const SOON: Duration = Duration::from_mins(3);
/// Where the job writes what it has done.
const SINK: &str = "STEPDOWN_TEST_SINK";
/// The slot in which the job does not start.
const FAILS_IN: &str = "STEPDOWN_TEST_FAILS_IN";

/// A way to a state, and what is promised when the NameNode is silent there.
#[derive(Debug, Clone, Copy)]
struct Case {
    state: &'static str,
    strategy: &'static str,
    extra: &'static str,
    fails: bool,
    outcome: &'static str,
}

const fn on_the_way(state: &'static str) -> Case {
    Case {
        state,
        strategy: "hand-over",
        extra: "",
        fails: false,
        outcome: "rolled-out",
    }
}

const CASES: &[Case] = &[
    on_the_way("starting"),
    on_the_way("held"),
    on_the_way("stopping"),
    on_the_way("stopped"),
    on_the_way("cutover"),
    on_the_way("proving"),
    Case {
        extra: "gate = [\"sh\", \"-c\", \"exit 3\"]",
        outcome: "aborted",
        ..on_the_way("aborting")
    },
    Case {
        strategy: "stop-start",
        fails: true,
        outcome: "recovered",
        ..on_the_way("recover-old")
    },
];

/// The job with its two slots; what of it still runs ends when this is dropped.
struct Stage {
    hdfs: Hdfs,
    remote: Remote,
}

impl Stage {
    fn new() -> Result<Self> {
        let hdfs = Hdfs::builder().start()?;
        let eye = Arc::new(Eye::open(hdfs.conf_dir())?);
        let dir = fresh_path("outage");
        eye.make_dir(&dir)?;
        eye.make_dir(&format!("{dir}/ck"))?;
        let env: Vec<(OsString, OsString)> =
            vec![("HADOOP_CONF_DIR".into(), hdfs.conf_dir().into())];
        let remote = Remote::with_env(eye, &dir, hdfs.conf_dir(), "", env)?.init()?;
        Ok(Self { hdfs, remote })
    }

    fn configure(&self, case: Case) -> Result<()> {
        let dir = self.remote.dir();
        let job = std::env::current_exe()?;
        let start = [
            job.to_str().context("the path of this test")?,
            "rollout_outages::the_job_of_these_tests",
            "--exact",
            "--ignored",
            "--nocapture",
        ];
        let jobs = format!(
            r#"
[jobs.clicks.stop]
backend = "driver"
heartbeat-timeout = "1h"
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
{extra}
"#,
            strategy = case.strategy,
            extra = case.extra,
            log = self.remote.text("{slot}.log"),
        );
        self.remote.configure_with(WATCH, &jobs)
    }

    /// Begins a rollout; its output is in `<name>.log`.
    fn begin(&self, name: &str, env: &[(&str, &str)]) -> Result<crate::common::daemon::Daemon> {
        let sink = self.remote.text("sink");
        let env = [&[(SINK, sink.as_str())], env].concat();
        let words = ["rollout", "start", "clicks", "--version", name].map(OsString::from);
        self.remote.start(name, words, &env)
    }

    fn record(&self) -> Result<Value> {
        let (_, report) = self.remote.json(&["rollout", "status", "clicks"])?;
        Ok(report["record"].clone())
    }

    /// A rollout in which the NameNode says nothing for `outage` once the state is entered; its record.
    fn survive(&self, case: Case, outage: Duration) -> Result<Value> {
        let before = self.record()?;
        let old = before["new"]
            .as_str()
            .filter(|_| before["outcome"] == "rolled-out");
        let old = old.or_else(|| before["old"].as_str()).context("no slot")?;
        let new = if old == "blue" { "green" } else { "blue" };
        self.configure(case)?;
        let place = format!("rollout-entered-{}", case.state);
        let mut env = vec![("STEPDOWN_HALT_AT", place.as_str())];
        if case.fails {
            env.push((FAILS_IN, new));
        }
        let name = format!("with-{}", case.state);
        let mut driving = self.begin(&name, &env)?;
        let pid = driving.pid();
        let come = wait_until(SOON, &format!("{name} is halted"), || is_halted(pid));
        come.with_context(|| self.remote.log(&name))?;
        self.hdfs.namenode().suspend()?;
        driving.signal(Signal::CONT)?;
        let begun = Instant::now();
        wait_until(outage * 2, "the outage is over", || {
            begun.elapsed() >= outage
        })?;
        ensure!(
            driving.exit_status().is_none(),
            "it gave up: {}",
            self.remote.log(&name)
        );
        self.hdfs.namenode().resume()?;
        driving
            .await_end(ROLLOUT)
            .with_context(|| self.remote.log(&name))?;
        let record = self.record()?;
        let log = || self.remote.log(&name);
        ensure!(record["outcome"] == case.outcome, "{record:#}\n{}", log());
        let runs = if case.outcome == "rolled-out" {
            new
        } else {
            old
        };
        ensure!(self.commits(runs)?, "{runs} does not go on: {}", log());
        self.check_sink()?;
        Ok(record)
    }

    /// Whether the job in a slot commits.
    fn commits(&self, slot: &str) -> Result<bool> {
        let dir = self.remote.at(&format!("ck/{slot}/commits"));
        let newest = || -> Result<Option<u64>> {
            let names = self.remote.eye().names(&dir)?;
            Ok(names.iter().filter_map(|name| name.parse().ok()).max())
        };
        let before = newest()?;
        Ok(wait_until(SOON, "a commit", || newest().is_ok_and(|now| now > before)).is_ok())
    }

    /// Every batch was written once, none is missing, and never by two at a time.
    fn check_sink(&self) -> Result<()> {
        let text = fs::read_to_string(self.remote.path("sink"))?;
        let mut times: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        for line in text.lines() {
            let (batch, who) = line.split_once(' ').context("a line of the sink")?;
            times.entry(batch.parse()?).or_default().push(who);
        }
        let last = times.keys().next_back().copied().context("an empty sink")?;
        for batch in 0..=last {
            let by = times.get(&batch).cloned().unwrap_or_default();
            ensure!(by.len() == 1, "batch {batch} was written by {by:?}");
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A job that waits for a NameNode sees this, too.
        let end = end_file(&self.remote.path("sink"));
        let _told = fs::write(end, "");
        let _resumed = self.hdfs.namenode().resume();
        let ours = || {
            let marker = format!("{SINK}={}", self.remote.text("sink"));
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

fn is_halted(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('T'))
}

fn first_version(stage: &Stage) -> Result<()> {
    stage.configure(on_the_way("held"))?;
    let status = stage.begin("first", &[])?.await_end(ROLLOUT)?;
    ensure!(status.success(), "{}", stage.remote.log("first"));
    Ok(())
}

/// A watcher begins it, as a file on HDFS asks for it, and is killed in it; the next one goes on.
fn first_version_by_request(stage: &Stage) -> Result<()> {
    stage.configure(on_the_way("held"))?;
    let sink = stage.remote.text("sink");
    let watch = |name: &str, more: &[(&str, &str)]| {
        let env = [&[(SINK, sink.as_str())], more].concat();
        stage.remote.watch(name, &env)
    };
    let mut first = watch("first", &[("STEPDOWN_CRASH_AT", "rollout-start-new-done")])?;
    let request = stage.remote.at("control/requests/clicks.start");
    stage.remote.eye().write(&request, "first\n")?;
    first.await_end(SOON)?;
    let second = watch("second", &[])?;
    wait_until(ROLLOUT, "the rollout is over", || {
        stage
            .record()
            .is_ok_and(|record| record["state"] == "ended")
    })
    .with_context(|| stage.remote.log("second"))?;
    let record = stage.record()?;
    ensure!(
        record["outcome"] == "rolled-out" && record["version"] == "first",
        "{record:#}\n{}",
        stage.remote.log("second")
    );
    ensure!(
        !stage.remote.eye().exists(&request)?,
        "the request is still there"
    );
    // The rollouts that follow are driven by commands.
    drop(second);
    Ok(())
}

#[test]
fn a_namenode_that_is_silent_in_the_middle_of_a_rollout_loses_nothing() -> Result<()> {
    let stage = Stage::new()?;
    first_version_by_request(&stage)?;
    for case in CASES {
        if ["stopping", "cutover"].contains(&case.state) {
            stage.survive(*case, Duration::from_secs(8))?;
        }
    }
    Ok(())
}

/// A minute in every state, in the table of `docs/soak.md`.
#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_namenode_silent_for_a_minute() -> Result<()> {
    let stage = Stage::new()?;
    first_version(&stage)?;
    for case in CASES {
        let outage = Duration::from_mins(1);
        let record = stage.survive(*case, outage)?;
        let at =
            |key: &str| -> Option<jiff::Timestamp> { record["gap"][key].as_str()?.parse().ok() };
        let gap = match (at("old_committed_at"), at("new_committed_at")) {
            (Some(from), Some(to)) if case.outcome == "rolled-out" => {
                format!("{:.1} s", to.duration_since(from).as_secs_f64())
            }
            _ => String::new(),
        };
        let row = format!(
            "| {} | {} | {} | {} | {} s | {} | {gap} | 0 |\n",
            jiff::Zoned::now().date(),
            machine(),
            case.strategy,
            case.state,
            outage.as_secs(),
            case.outcome,
        );
        print!("{row}");
        add_row(&row, "<!-- end of outages -->")?;
    }
    Ok(())
}

/// A job as a rollout sees one: a status file as the driver kit writes it, a checkpoint as Spark does.
struct Job {
    storage: Arc<dyn Storage>,
    slot: String,
    marker: StoragePath,
    control: StoragePath,
    checkpoint: StoragePath,
    sink: PathBuf,
    seen: bool,
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
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
        self.publish(&path, &status.to_string(), CreateMode::Replace)
            .await
    }

    /// Writes a file whole; one that only this job writes may be there already.
    async fn publish(&self, path: &StoragePath, text: &str, mode: CreateMode) -> Result<()> {
        let written = self
            .persist(async || write(self.storage.as_ref(), path, mode, text.as_bytes()).await)
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
        let head = r#"{"batchWatermarkMs":0,"batchTimestampMs":0,"conf":{}}"#;
        let offsets = self.checkpoint.join("offsets").join(&batch.to_string());
        let text = format!("v1\n{head}\n{}", (batch + 1) * 10);
        self.publish(&offsets, &text, CreateMode::New).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut sink = fs::File::options()
            .append(true)
            .create(true)
            .open(&self.sink)?;
        sink.write_all(format!("{batch} {} {}\n", self.slot, std::process::id()).as_bytes())?;
        let commit = self.checkpoint.join("commits").join(&batch.to_string());
        let text = "v1\n{\"nextBatchWatermarkMs\":0}";
        self.publish(&commit, text, CreateMode::New).await
    }

    async fn run(mut self) -> Result<()> {
        self.say("starting").await?;
        if !self.await_go().await? {
            return self.say("ended").await;
        }
        for log in ["offsets", "commits"] {
            let dir = self.checkpoint.join(log);
            self.persist(async || self.storage.create_dir_all(&dir).await)
                .await?;
        }
        let id = json!({ "id": uuid::Uuid::new_v4() }).to_string();
        let metadata = self.checkpoint.join("metadata");
        let found = self
            .persist(async || self.storage.stat(&metadata).await)
            .await;
        if found.is_err_and(|error| error.kind == ErrorKind::NotFound) {
            self.publish(&metadata, &id, CreateMode::New).await?;
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
        seen: false,
    };
    job.run().await
}
