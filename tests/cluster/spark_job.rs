//! The job `clicks` as a real `PySpark` application with the driver kit, its sink, and what is promised of
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::clicks::{Clicks, Table};
use crate::common::scratch::scratch_dir;
use crate::common::spark::pyspark_home;
use crate::common::{Hdfs, SparkVersion, Turn, wait_until};

/// The rows in a sink, by query id and batch; each time that a batch was written.
pub(crate) type Sink = BTreeMap<String, BTreeMap<u64, Vec<Vec<u64>>>>;

/// A whole rollout on a machine that others use as well: a start of Spark, its warm-up, a drain, batches.
pub(crate) const ROLLOUT: Duration = Duration::from_mins(6);
/// A start of Spark, or an end of it.
pub(crate) const STEP: Duration = Duration::from_mins(4);

/// The driver kit, built once for all tests of this binary, where no other process replaces it under a JVM
/// that runs with it.
pub(crate) fn kit_jar() -> Result<&'static Path> {
    static JAR: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || -> Result<PathBuf> {
        let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/driver/build.sh"))
            .env("STEPDOWN_DRIVER_OUT", scratch_dir("kit")?)
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "driver/build.sh: {text}");
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().last().context("it named no jar")?.into())
    };
    JAR.get_or_init(|| build().map_err(|error| format!("{error:?}")))
        .as_deref()
        .map_err(|error| anyhow!("no driver kit: {error}"))
}

/// What an application of this PySpark needs in its environment.
pub(crate) fn spark_env(home: &Path) -> Vec<(OsString, OsString)> {
    vec![
        ("PYTHONPATH".into(), home.into()),
        ("PYTHONDONTWRITEBYTECODE".into(), "1".into()),
        ("PYSPARK_PYTHON".into(), "python3".into()),
        ("SPARK_HOME".into(), home.join("pyspark").into()),
        ("SPARK_LOCAL_IP".into(), "127.0.0.1".into()),
    ]
}

/// How the job is to be rolled out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) strategy: &'a str,
    /// Where each side writes.
    pub(crate) sink: &'a str,
    /// Options of spark-submit.
    pub(crate) options: &'a [&'a str],
    /// Arguments of the job.
    pub(crate) arguments: &'a [&'a str],
}

impl Way<'_> {
    pub(crate) fn of(strategy: &str) -> Way<'_> {
        Way {
            strategy,
            sink: "sink",
            options: &[],
            arguments: &[],
        }
    }
}

/// A job with two slots whose files are on HDFS, but for its sink. What of it still runs is killed when
/// this is dropped.
pub(crate) struct Stage {
    pub(crate) clicks: Clicks,
    pub(crate) version: SparkVersion,
    _turn: Turn,
}

impl Stage {
    pub(crate) fn new(hdfs: &Hdfs, version: SparkVersion) -> Result<Self> {
        let turn = Turn::take();
        let home = pyspark_home(version)?;
        let mut env = spark_env(&home);
        if let Some(java) = std::env::var_os("JAVA_HOME") {
            env.push(("JAVA_HOME".into(), java));
        }
        Ok(Self {
            clicks: Clicks::on(hdfs, "rollout", env)?,
            version,
            _turn: turn,
        })
    }

    /// The words that start the job.
    pub(crate) fn start_words(&self, way: Way<'_>) -> Result<Vec<String>> {
        let jobs = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spark/jobs");
        let mut words = vec![
            format!("{jobs}/start.sh"),
            kit_jar()?.to_string_lossy().into_owned(),
            "--conf".into(),
            "spark.stepdown.interval=200ms".into(),
            "--conf".into(),
            format!("spark.sql.warehouse.dir={}", self.clicks.text("warehouse")),
        ];
        words.extend(way.options.iter().map(|&word| word.to_owned()));
        words.push(format!("{jobs}/rows.py"));
        words.push(self.clicks.text(way.sink));
        words.extend(way.arguments.iter().map(|&word| word.to_owned()));
        Ok(words)
    }

    pub(crate) fn configure(&self, way: Way<'_>) -> Result<()> {
        self.clicks.configure(&Table {
            strategy: way.strategy,
            start: self.start_words(way)?,
            stop: "",
            rollout: "two-writers = \"accept\"\ngate-commits = 2",
        })
    }

    /// A rollout of `version` to its end; its record.
    pub(crate) fn roll_out(&self, way: Way<'_>, version: &str) -> Result<Value> {
        self.configure(way)?;
        let mut driving = self.clicks.begin(version, &[])?;
        let status = driving
            .await_end(ROLLOUT)
            .with_context(|| self.logs(version))?;
        ensure!(status.success(), "{status}\n{}", self.logs(version));
        let record = self.clicks.record()?;
        ensure!(record["outcome"] == "rolled-out", "{record:#}");
        Ok(record)
    }

    /// The ends of what the job and the rollout wrote.
    pub(crate) fn logs(&self, name: &str) -> String {
        let mut text = String::new();
        for log in [name, "blue", "green"] {
            let lines = self.clicks.log(log);
            let lines: Vec<&str> = lines.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            text.push_str(&["--- ", log, "\n", &tail, "\n"].concat());
        }
        text
    }

    /// What was written to a sink: by query id and batch, the rows of each time it was written.
    pub(crate) fn sink(&self, name: &str) -> Result<Sink> {
        let mut all: Sink = BTreeMap::new();
        let text = fs::read_to_string(self.clicks.path(name)).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let [id, batch, rows, _] = *line.split(' ').collect::<Vec<_>>() else {
                return Err(anyhow!("a line of the sink: {line:?}"));
            };
            let rows = rows.split(',').map(str::parse).collect::<Result<_, _>>()?;
            let batches = all.entry(id.to_owned()).or_default();
            batches.entry(batch.parse()?).or_default().push(rows);
        }
        Ok(all)
    }

    /// The batches of one query id, each of which was written once, with just its rows.
    pub(crate) fn exactly_once(&self, name: &str) -> Result<BTreeMap<String, BTreeSet<u64>>> {
        let mut by_id = BTreeMap::new();
        for (id, batches) in self.sink(name)? {
            for (batch, times) in &batches {
                let expected: Vec<u64> = (batch * 10..batch * 10 + 10).collect();
                ensure!(
                    *times == [expected],
                    "batch {batch} of query {id} was written so: {times:?}"
                );
            }
            by_id.insert(id, batches.into_keys().collect());
        }
        Ok(by_id)
    }

    pub(crate) fn await_commits(&self, slot: &str, beyond: u64) -> Result<()> {
        wait_until(
            STEP,
            &format!("{slot} commits beyond {beyond}"),
            || matches!(self.clicks.newest(slot, "commits"), Ok(Some(batch)) if batch > beyond),
        )
        .with_context(|| self.logs("none"))
    }

    /// Removes a marker as an operator does, and waits until the process of the job is gone.
    pub(crate) fn stop(&self, slot: &str) -> Result<()> {
        let control = self.clicks.at("control");
        let status = self
            .clicks
            .eye()
            .read(&format!("{control}/status/clicks.{slot}.json"))?;
        let status: Value = serde_json::from_slice(&status)?;
        let pid = status["attempt"]["pid"].as_u64().context("no pid")?;
        self.clicks
            .eye()
            .remove(&format!("{control}/markers/clicks.{slot}"))?;
        wait_until(STEP, &format!("{slot} has ended"), || !self.is_ours(pid))
            .with_context(|| self.logs("none"))
    }

    /// Whether a process of this job has this number; one that waits to be reaped has no command line.
    fn is_ours(&self, pid: u64) -> bool {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line);
        text.contains(&self.clicks.text("sink")) && text.contains("rows.py")
    }

    /// The processes of this job, its own and those of its Python.
    pub(crate) fn pids(&self) -> Vec<u64> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.is_ours(*pid)).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for pid in self.pids() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
