//! Rollouts of a real `PySpark` job with the driver kit: control directory, markers and checkpoints on HDFS.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::eye::Eye;
use super::remote::{Remote, WATCH, fresh_path};
use super::soak::{build, machine};
use crate::common::scratch::scratch_dir;
use crate::common::spark::pyspark_home;
use crate::common::{Hdfs, SparkVersion, Turn, wait_until};

/// The rows in a sink, by query id and batch; each time that a batch was written.
type Sink = BTreeMap<String, BTreeMap<u64, Vec<Vec<u64>>>>;

/// A whole rollout on a machine that others use as well: a start of Spark, its warm-up, a drain, batches.
const ROLLOUT: Duration = Duration::from_mins(6);
/// A start of Spark, or an end of it.
const STEP: Duration = Duration::from_mins(4);

/// The driver kit, built once for all tests of this binary, where no other process replaces it under a JVM
/// that runs with it.
fn kit_jar() -> Result<&'static Path> {
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

/// How the job is to be rolled out.
#[derive(Debug, Clone, Copy)]
struct Way<'a> {
    strategy: &'a str,
    /// Where each side writes.
    sink: &'a str,
    /// Options of spark-submit.
    options: &'a [&'a str],
    /// Arguments of the job.
    arguments: &'a [&'a str],
}

impl Way<'_> {
    fn of(strategy: &str) -> Way<'_> {
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
struct Stage {
    remote: Remote,
    version: SparkVersion,
    _turn: Turn,
}

impl Stage {
    fn new(hdfs: &Hdfs, version: SparkVersion) -> Result<Self> {
        let turn = Turn::take();
        let home = pyspark_home(version)?;
        let mut env: Vec<(OsString, OsString)> = vec![
            ("HADOOP_CONF_DIR".into(), hdfs.conf_dir().into()),
            ("PYTHONPATH".into(), home.clone().into()),
            ("PYTHONDONTWRITEBYTECODE".into(), "1".into()),
            ("PYSPARK_PYTHON".into(), "python3".into()),
            ("SPARK_HOME".into(), home.join("pyspark").into()),
            ("SPARK_LOCAL_IP".into(), "127.0.0.1".into()),
        ];
        if let Some(java) = std::env::var_os("JAVA_HOME") {
            env.push(("JAVA_HOME".into(), java));
        }
        let eye = Arc::new(Eye::open(hdfs.conf_dir())?);
        let dir = fresh_path("rollout");
        eye.make_dir(&dir)?;
        eye.make_dir(&format!("{dir}/ck"))?;
        let remote = Remote::with_env(eye, &dir, hdfs.conf_dir(), "", env)?.init()?;
        Ok(Self {
            remote,
            version,
            _turn: turn,
        })
    }

    /// The words that start the job.
    fn start_words(&self, way: Way<'_>) -> Result<Vec<String>> {
        let jobs = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spark/jobs");
        let mut words = vec![
            format!("{jobs}/start.sh"),
            kit_jar()?.to_string_lossy().into_owned(),
            "--conf".into(),
            "spark.stepdown.interval=200ms".into(),
            "--conf".into(),
            format!("spark.sql.warehouse.dir={}", self.remote.text("warehouse")),
        ];
        words.extend(way.options.iter().map(|&word| word.to_owned()));
        words.push(format!("{jobs}/rows.py"));
        words.push(self.remote.text(way.sink));
        words.extend(way.arguments.iter().map(|&word| word.to_owned()));
        Ok(words)
    }

    fn configure(&self, way: Way<'_>) -> Result<()> {
        let dir = self.remote.dir();
        let jobs = format!(
            r#"
[jobs.clicks.stop]
backend = "driver"
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
two-writers = "accept"
gate-commits = 2
"#,
            strategy = way.strategy,
            start = self.start_words(way)?,
            log = self.remote.text("{slot}.log"),
        );
        self.remote.configure_with(WATCH, &jobs)
    }

    /// A rollout of `version` to its end; its record.
    fn roll_out(&self, way: Way<'_>, version: &str) -> Result<Value> {
        self.configure(way)?;
        let words = ["rollout", "start", "clicks", "--version", version].map(OsString::from);
        let name = format!("rollout-{version}");
        let mut driving = self.remote.start(&name, words, &[])?;
        let status = driving
            .await_end(ROLLOUT)
            .with_context(|| self.logs(&name))?;
        ensure!(status.success(), "{status}\n{}", self.logs(&name));
        let record = self.record()?;
        ensure!(record["outcome"] == "rolled-out", "{record:#}");
        Ok(record)
    }

    fn record(&self) -> Result<Value> {
        let (_, report) = self.remote.json(&["rollout", "status", "clicks"])?;
        Ok(report["record"].clone())
    }

    /// The ends of what the job and the rollout wrote.
    fn logs(&self, name: &str) -> String {
        let mut text = String::new();
        for log in [name, "blue", "green"] {
            let lines = self.remote.log(log);
            let lines: Vec<&str> = lines.lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            text.push_str(&["--- ", log, "\n", &tail, "\n"].concat());
        }
        text
    }

    /// What was written to a sink: by query id and batch, the rows of each time it was written.
    fn sink(&self, name: &str) -> Result<Sink> {
        let mut all: BTreeMap<String, BTreeMap<u64, Vec<Vec<u64>>>> = BTreeMap::new();
        let text = fs::read_to_string(self.remote.path(name)).unwrap_or_default();
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
    fn exactly_once(&self, name: &str) -> Result<BTreeMap<String, BTreeSet<u64>>> {
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

    /// The newest batch in a log of a slot's checkpoint.
    fn newest(&self, slot: &str, log: &str) -> Result<Option<u64>> {
        let names = self
            .remote
            .eye()
            .names(&self.remote.at(&format!("ck/{slot}/{log}")))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).max())
    }

    fn await_commits(&self, slot: &str, beyond: u64) -> Result<()> {
        wait_until(
            STEP,
            &format!("{slot} commits beyond {beyond}"),
            || matches!(self.newest(slot, "commits"), Ok(Some(batch)) if batch > beyond),
        )
        .with_context(|| self.logs("none"))
    }

    /// Removes a marker as an operator does, and waits until the process of the job is gone.
    fn stop(&self, slot: &str) -> Result<()> {
        let control = self.remote.at("control");
        let status = self
            .remote
            .eye()
            .read(&format!("{control}/status/clicks.{slot}.json"))?;
        let status: Value = serde_json::from_slice(&status)?;
        let pid = status["attempt"]["pid"].as_u64().context("no pid")?;
        self.remote
            .eye()
            .remove(&format!("{control}/markers/clicks.{slot}"))?;
        wait_until(STEP, &format!("{slot} has ended"), || !self.is_ours(pid))
            .with_context(|| self.logs("none"))
    }

    /// Whether a process of this job has this number; one that waits to be reaped has no command line.
    fn is_ours(&self, pid: u64) -> bool {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line);
        text.contains(&self.remote.text("sink")) && text.contains("rows.py")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let Ok(entries) = fs::read_dir("/proc") else {
            return;
        };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        for pid in pids.filter(|pid| self.is_ours(*pid)) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// What every rollout of a running job that went well has on record.
fn check_record(record: &Value) -> Result<f64> {
    assert_eq!(record["proof"], "clean", "{record:#}");
    seconds(&record["gap"], "old_committed_at", "new_committed_at")
}

fn seconds(gap: &Value, from: &str, to: &str) -> Result<f64> {
    let at = |key: &str| -> Result<jiff::Timestamp> {
        let text = gap[key].as_str();
        Ok(text
            .with_context(|| format!("{key} is missing: {gap}"))?
            .parse()?)
    };
    Ok(at(to)?.duration_since(at(from)?).as_secs_f64())
}

/// Blue, then green, then a while: every batch once, by one query id, nothing lost.
fn takes_over_exactly_once(version: SparkVersion, strategy: &str) -> Result<()> {
    let stage = Stage::new(Hdfs::shared()?, version)?;
    let way = Way::of(strategy);
    stage.roll_out(way, "1")?;
    stage.await_commits("blue", 2)?;
    let record = stage.roll_out(way, "2")?;
    let gap = check_record(&record)?;
    ensure!(gap > 0.0, "{record:#}");
    let own = record["base"][0]["committed"].as_u64().context("no base")?;
    assert_eq!(
        stage.newest("blue", "commits")?,
        Some(own),
        "what the old job committed last is where the new one began"
    );
    assert_eq!(stage.newest("blue", "offsets")?, Some(own));
    stage.await_commits("green", own + 2)?;
    stage.stop("green")?;
    let last = stage.newest("green", "commits")?.context("no commit")?;
    let written = stage.exactly_once("sink")?;
    let batches: Vec<_> = written.into_values().collect();
    assert_eq!(batches, [(0..=last).collect::<BTreeSet<u64>>()]);
    Ok(())
}

#[test]
fn a_spark_job_hands_over_on_hdfs() -> Result<()> {
    takes_over_exactly_once(SparkVersion::V4, "hand-over")
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_hand_over_spark_3_5() -> Result<()> {
    takes_over_exactly_once(SparkVersion::V3_5, "hand-over")
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_stop_start() -> Result<()> {
    takes_over_exactly_once(SparkVersion::V4, "stop-start")
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_stop_start_spark_3_5() -> Result<()> {
    takes_over_exactly_once(SparkVersion::V3_5, "stop-start")
}

/// Each side has a sink of its own: each is exactly once in itself, and together they have everything.
#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_parallel() -> Result<()> {
    let stage = Stage::new(Hdfs::shared()?, SparkVersion::V4)?;
    let way = Way {
        sink: "sink-{slot}",
        ..Way::of("parallel")
    };
    stage.roll_out(way, "1")?;
    stage.await_commits("blue", 2)?;
    let record = stage.roll_out(way, "2")?;
    let gap = check_record(&record)?;
    ensure!(gap < 0.0, "both ran at the same time: {record:#}");
    let old_last = stage.newest("blue", "commits")?.context("no commit")?;
    stage.await_commits("green", old_last + 2)?;
    stage.stop("green")?;
    let new_last = stage.newest("green", "commits")?.context("no commit")?;
    let (old, new) = (
        stage.exactly_once("sink-blue")?,
        stage.exactly_once("sink-green")?,
    );
    let (old_id, old) = old.first_key_value().context("nothing of blue")?;
    let (new_id, new) = new.first_key_value().context("nothing of green")?;
    assert_ne!(old_id, new_id, "the copy has an identity of its own");
    assert_eq!(*old, (0..=old_last).collect());
    let all: BTreeSet<u64> = old.union(new).copied().collect();
    assert_eq!(all, (0..=new_last).collect());
    ensure!(old.intersection(new).count() > 0, "both wrote for a while");
    Ok(())
}

/// Another number of turns than the measurement's own.
const TURNS: &str = "STEPDOWN_SOAK_TURNS";
const WARM_UP: &[&str] = &["--warm-up", "60"];

/// How the next version comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Coming {
    HeldAtACall,
    HeldAtTheStart,
    Scripted,
}

impl Coming {
    const ALL: [Coming; 3] = [
        Coming::HeldAtACall,
        Coming::Scripted,
        Coming::HeldAtTheStart,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Coming::HeldAtACall => "`hand-over`, warm-up before `awaitGo()` (`hold=call`)",
            Coming::HeldAtTheStart => {
                "`hand-over`, no change to the code (`hold=start`): the warm-up lies in the gap"
            }
            Coming::Scripted => "script: marker removed, end awaited, started again",
        }
    }

    fn way(self) -> Way<'static> {
        let (options, arguments): (&[&str], &[&str]) = match self {
            Coming::HeldAtACall => (
                &["--conf", "spark.stepdown.hold=call"],
                &["--warm-up", "60", "--call"],
            ),
            Coming::HeldAtTheStart | Coming::Scripted => (&[], WARM_UP),
        };
        Way {
            options,
            arguments,
            ..Way::of("hand-over")
        }
    }
}

/// What one coming took, in seconds; the parts are known of rollouts only.
#[derive(Debug, Clone, Copy)]
struct Gap {
    whole: f64,
    parts: Option<[f64; 3]>,
}

impl Stage {
    /// Stops the job in `slot` and starts it again there, as a script does it.
    fn stop_and_start(&self, way: Way<'_>, slot: &str) -> Result<Gap> {
        self.stop(slot)?;
        let last = self.newest(slot, "commits")?.context("no commit")?;
        let (remote, dir) = (&self.remote, self.remote.dir());
        remote
            .eye()
            .touch(&remote.at(&format!("control/markers/clicks.{slot}")))?;
        let hdfs = Hdfs::shared()?;
        let home = pyspark_home(self.version)?;
        let words = self.start_words(way)?;
        let (program, args) = words.split_first().context("no words")?;
        let log = fs::File::create(remote.path(&format!("{slot}.log")))?;
        let mut child = Command::new(program)
            .args(args)
            .env("STEPDOWN_JOB", "clicks")
            .env("STEPDOWN_SLOT", slot)
            .env("STEPDOWN_CONTROL", format!("hdfs://{dir}/control"))
            // Spark takes no checkpoint without an authority; the kit does.
            .env(
                "STEPDOWN_CHECKPOINT",
                format!("{}{dir}/ck/{slot}", hdfs.nn_uri()),
            )
            .env("HADOOP_CONF_DIR", hdfs.conf_dir())
            .env("PYTHONPATH", &home)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYSPARK_PYTHON", "python3")
            .env("SPARK_HOME", home.join("pyspark"))
            .env("SPARK_LOCAL_IP", "127.0.0.1")
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        // It is not to stay as a zombie.
        std::thread::spawn(move || child.wait());
        self.await_commits(slot, last)?;
        let at = |batch: u64| -> Result<u64> {
            let commit = remote
                .eye()
                .stat(&remote.at(&format!("ck/{slot}/commits/{batch}")))?;
            Ok(commit.context("no such commit")?.modification_time)
        };
        let whole = Duration::from_millis(at(last + 1)? - at(last)?).as_secs_f64();
        Ok(Gap { whole, parts: None })
    }

    fn hand_over(&self, way: Way<'_>, version: &str) -> Result<Gap> {
        let record = self.roll_out(way, version)?;
        let whole = check_record(&record)?;
        // The go follows on that entry by one rename.
        let path = record["path"].as_array().context("no path")?;
        let cutover = path.iter().find(|entry| entry[0] == "cutover");
        let mut gap = record["gap"].clone();
        gap["cutover_at"] = cutover.context("no cutover")?[1].clone();
        let parts = [
            seconds(&gap, "old_committed_at", "old_ended_at")?,
            seconds(&gap, "old_ended_at", "cutover_at")?,
            seconds(&gap, "cutover_at", "new_committed_at")?,
        ];
        Ok(Gap {
            whole,
            parts: Some(parts),
        })
    }
}

/// The same job, stopped and started by a script and handed over, in turn. Its warm-up is 60 s of sleep and
/// one small query, before its stream starts.
#[test]
#[ignore = "a long count: `make soak`"]
fn soak_rollouts_gap() -> Result<()> {
    let turns = std::env::var(TURNS).map_or(Ok(3), |text| text.parse())?;
    let stage = Stage::new(Hdfs::shared()?, SparkVersion::V4)?;
    stage.roll_out(Way::of("hand-over"), "first")?;
    let mut slot = "blue";
    let mut gaps: Vec<(Coming, Gap)> = Vec::new();
    for turn in 0..turns {
        let mut order = Coming::ALL;
        let shift = turn % order.len();
        order.rotate_left(shift);
        for coming in order {
            let last = stage.newest(slot, "commits")?.unwrap_or(0);
            stage.await_commits(slot, last + 2)?;
            let begun = Instant::now();
            let gap = if coming == Coming::Scripted {
                stage.stop_and_start(coming.way(), slot)?
            } else {
                slot = if slot == "blue" { "green" } else { "blue" };
                stage.hand_over(coming.way(), &format!("{turn}-{coming:?}"))?
            };
            let took = begun.elapsed().as_secs_f64();
            println!("turn {turn}: {coming:?} {gap:?}, {took:.0} s in all");
            gaps.push((coming, gap));
        }
        write_gaps(&gaps, turn + 1)?;
    }
    stage.stop(slot)?;
    let last = stage.newest(slot, "commits")?.context("no commit")?;
    let written = stage.exactly_once("sink")?;
    let batches: Vec<_> = written.into_values().collect();
    assert_eq!(batches, [(0..=last).collect::<BTreeSet<u64>>()]);
    println!("{} batches, each written once by one query id", last + 1);
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}

/// The table of `docs/benchmarks.md`.
fn write_gaps(gaps: &[(Coming, Gap)], turns: usize) -> Result<()> {
    const BEGIN: &str = "<!-- measured: rollout-gap -->\n";
    let of = |coming: Coming| -> Vec<Gap> {
        let own = gaps.iter().filter(|(of, _)| *of == coming);
        own.map(|(_, gap)| *gap).collect()
    };
    let middle = |coming| median(of(coming).iter().map(|gap| gap.whole).collect());
    let scripted = middle(Coming::Scripted);
    let mut text = format!(
        "{turns} turns, the order rotated. PySpark {spark}, one query, batches of 0.5 s and their commits.\n\n\
         | how the new job comes | gap, each turn | median | end of the job | stepdown | first batch | to the script |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        spark = SparkVersion::V4.as_str()
    );
    for coming in Coming::ALL {
        let all = of(coming);
        let each: Vec<String> = all.iter().map(|gap| format!("{:.1}", gap.whole)).collect();
        let part = |index: usize| {
            let values: Vec<f64> = all
                .iter()
                .filter_map(|gap| Some(gap.parts?[index]))
                .collect();
            if values.is_empty() {
                String::new()
            } else {
                format!("{:.2} s", median(values))
            }
        };
        let row = format!(
            "| {} | {} s | {:.1} s | {} | {} | {} | 1 : {:.1} |\n",
            coming.as_str(),
            each.join(", "),
            middle(coming),
            part(0),
            part(1),
            part(2),
            scripted / middle(coming),
        );
        text.push_str(&row);
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let foot = format!(
        "\n{}; stepdown {} ({} build); {}; load average {load} at the end.\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        env!("CARGO_PKG_VERSION"),
        build(),
        machine(),
    );
    text.push_str(&foot);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let old = fs::read_to_string(&page)?;
    let (before, rest) = old
        .split_once(BEGIN)
        .context("the page has no such block")?;
    let (_, after) = rest.split_once("<!-- end -->").context("no end")?;
    fs::write(page, format!("{before}{BEGIN}{text}<!-- end -->{after}"))?;
    Ok(())
}
