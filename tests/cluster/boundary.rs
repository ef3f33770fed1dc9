//! Requests that wait for a moment between two batches: with a checkpoint on HDFS, and of real Spark
//! drivers that know nothing of stepdown.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::eye::Eye;
use super::remote::{Remote, WATCH};
use super::soak::{Record, add_row, build, machine};
use crate::common::batches::{Batches, Log, Rhythm};
use crate::common::daemon::{leashed, spawn_leashed};
use crate::common::place::{Place, SOON, receipts_in};
use crate::common::spark::{newest_batch, pyspark_home};
use crate::common::{Hdfs, SparkVersion, wait_until};

/// A start of Spark on a machine that others use as well, and some batches.
const START: Duration = Duration::from_mins(4);
/// From the removal of the marker to the receipt.
const STOP: Duration = Duration::from_mins(3);

/// A checkpoint on HDFS.
struct HdfsLog {
    eye: Arc<Eye>,
    dir: String,
}

impl Log for HdfsLog {
    fn add(&self, log: &str, batch: u64) -> Result<()> {
        let temporary = format!("{}/{log}/.{batch}.0f0f.tmp", self.dir);
        self.eye.write(&temporary, "v1\n{}\n")?;
        self.eye
            .rename(&temporary, &format!("{}/{log}/{batch}", self.dir))
    }
}

/// Seconds between two triggers.
const EVERY: f64 = 3.5;

#[test]
fn the_gap_is_found_in_a_checkpoint_on_hdfs() -> Result<()> {
    let remote = Remote::on(Hdfs::shared()?, "boundary")?;
    let dir = remote.at("checkpoint");
    remote.eye().write_checkpoint(&dir, 0, 0)?;
    let log = HdfsLog {
        eye: Arc::clone(remote.eye()),
        dir: dir.clone(),
    };
    let notes = remote.path("clicks.notes");
    // Each of a batch's two files takes half a second more to close, and a whole one where the DataNode is busy, so
    // that of the three seconds between them a gap of one is left at least.
    let query = Batches::start(log, 1, Rhythm::new(EVERY, 0.5), move || {
        fs::read_to_string(&notes).is_ok_and(|text| text.contains("TERM"))
    });
    let stop = "at-boundary = \"require\"\nboundary-reaction = \"300ms\"";
    let keys = format!("checkpoints = [\"hdfs://{dir}\"]");
    remote.configure_with(WATCH, &remote.pid_file_job("clicks", &keys, stop))?;
    let job = remote.job("clicks")?;
    let bare = job.start(&["drain=0.2"])?;
    remote.write_pid("clicks", bare.pid())?;
    remote.touch("clicks")?;
    let _watch = remote.watch("watch", &[])?;
    remote.await_log("watch", " armed ")?;
    wait_until(SOON, "a batch", || query.committed() > 1)?;
    wait_until(SOON, "it runs a batch", || query.is_busy())?;
    remote.remove("clicks")?;
    let receipt = remote.await_receipt("clicks")?;
    assert_eq!(query.failure(), None);
    assert_eq!(job.count("TERM"), 1);
    assert_eq!(receipt["boundary"]["asked"], "in-gap", "{receipt:#}");
    assert_eq!(receipt["proof"]["verdict"], "clean", "{receipt:#}");
    let seconds = |key: &str| receipt["boundary"][key].as_f64().unwrap_or(f64::NAN);
    assert!(seconds("gap_seconds") > 0.8, "{receipt:#}");
    // The gap was not taken for longer than until the next trigger and the end of its file.
    let committed_at = &receipt["proof"]["checkpoints"][0]["committed_at"];
    let committed_at: jiff::Timestamp = committed_at.as_str().context("no commit")?.parse()?;
    let committed_at = committed_at.as_duration().as_secs_f64().rem_euclid(EVERY);
    let ends = committed_at + seconds("gap_seconds");
    assert!(ends < EVERY + 0.8, "{ends}: {receipt:#}");
    assert!(
        seconds("idle_seconds") < seconds("gap_seconds"),
        "{receipt:#}"
    );
    Ok(())
}

/// How a driver is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Launcher {
    Python,
    SparkSubmit,
}

impl Launcher {
    fn as_str(self) -> &'static str {
        match self {
            Launcher::Python => "python app.py",
            Launcher::SparkSubmit => "spark-submit app.py",
        }
    }
}

/// An unmodified job: `tests/spark/jobs/plain.py`.
struct PlainJob {
    place: Place,
    child: Child,
    checkpoint: PathBuf,
}

impl PlainJob {
    /// Starts it, with its marker, and waits until it has done some batches.
    fn start(
        version: SparkVersion,
        launcher: Launcher,
        trigger: &str,
        takes: &str,
        stop: &str,
    ) -> Result<Self> {
        let place = Place::new("plain")?;
        let home = pyspark_home(version)?;
        let checkpoints = place.path("checkpoints");
        let keys = format!("checkpoints = [\"{}/0\"]", checkpoints.display());
        place.configure(&place.pid_file_job("plain", &keys, stop))?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spark/jobs/plain.py");
        let program = match launcher {
            Launcher::Python => PathBuf::from("python3"),
            Launcher::SparkSubmit => home.join("pyspark/bin/spark-submit"),
        };
        let args = [
            script.into(),
            checkpoints.clone().into(),
            trigger.into(),
            takes.into(),
        ];
        let mut command = leashed(&program, &args);
        command
            .env("PYTHONPATH", &home)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYSPARK_PYTHON", "python3")
            .env("SPARK_HOME", home.join("pyspark"))
            .env("SPARK_LOCAL_IP", "127.0.0.1")
            .current_dir(place.path("."))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(place.path("spark.log"))?);
        if let Some(java) = std::env::var_os("JAVA_HOME") {
            command.env("JAVA_HOME", java);
        }
        let child = spawn_leashed(command)?;
        place.write_pid("plain", child.id())?;
        place.touch("plain")?;
        let mut job = Self {
            place,
            child,
            checkpoint: checkpoints.join("0"),
        };
        let mut ended = None;
        wait_until(START, "the job has done some batches", || {
            ended = job.child.try_wait().ok().flatten();
            job.newest("commits").is_some_and(|batch| batch >= 3) || ended.is_some()
        })
        .with_context(|| job.log())?;
        if let Some(ended) = ended {
            bail!("the job ended: {ended}\n{}", job.log());
        }
        Ok(job)
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.place.path("spark.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn newest(&self, log: &str) -> Option<u64> {
        newest_batch(&self.checkpoint.join(log))
    }

    /// Removes the marker after a while, and returns the receipt.
    fn stop(&mut self, after: Duration) -> Result<Value> {
        let _watch = self.place.watch("watch", &[])?;
        self.place.await_log("watch", " armed ")?;
        thread::sleep(after);
        self.place.remove("plain")?;
        let control = self.place.path("control");
        let mut receipts = Vec::new();
        wait_until(STOP, "the receipt", || {
            // A child that nobody waits for would be there for ever.
            let _reaped = self.child.try_wait();
            receipts = receipts_in(&control, "plain").unwrap_or_default();
            !receipts.is_empty()
        })
        .with_context(|| self.place.log("watch"))?;
        let receipt = receipts.pop().context("no receipt")?;
        // What the receipt says is what is there when all is over.
        let (planned, committed) = (self.newest("offsets"), self.newest("commits"));
        let verdict = if planned == committed {
            "clean"
        } else {
            "dirty"
        };
        ensure!(
            receipt["proof"]["verdict"] == verdict,
            "planned {planned:?}, committed {committed:?}: {receipt:#}"
        );
        Ok(receipt)
    }
}

impl Drop for PlainJob {
    fn drop(&mut self) {
        // The JVM is in the group of its Python. Its number is not given to others as long as it was
        // not waited for, or while a process of the group is left.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// What came of one stop.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Trial {
    set: usize,
    number: u64,
    /// As in the receipt; nothing where no moment was waited for.
    asked: Option<String>,
    verdict: String,
    waited_seconds: f64,
    idle_seconds: f64,
}

fn trial(set: usize, number: u64) -> Result<Trial> {
    let Set {
        version,
        launcher,
        trigger,
        takes,
        at_boundary,
    } = SETS[set];
    let stop = format!("{at_boundary}\nboundary-patience = \"1m\"");
    let mut job = PlainJob::start(version, launcher, trigger, takes, &stop)?;
    let mut rng = fastrand::Rng::with_seed(number);
    let receipt = job.stop(Duration::from_secs_f64(rng.f64() * 2.0))?;
    let boundary = &receipt["boundary"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(Trial {
        set,
        number,
        asked: text(&boundary["asked"]),
        verdict: text(&receipt["proof"]["verdict"]).context("no verdict")?,
        waited_seconds: boundary["waited_seconds"].as_f64().unwrap_or_default(),
        idle_seconds: boundary["idle_seconds"].as_f64().unwrap_or_default(),
    })
}

/// A sort of stops.
#[derive(Debug, Clone, Copy)]
struct Set {
    version: SparkVersion,
    launcher: Launcher,
    trigger: &'static str,
    takes: &'static str,
    at_boundary: &'static str,
}

const fn set(
    version: SparkVersion,
    launcher: Launcher,
    trigger: &'static str,
    takes: &'static str,
    at_boundary: &'static str,
) -> Set {
    Set {
        version,
        launcher,
        trigger,
        takes,
        at_boundary,
    }
}

/// A JVM that shares its cores with others takes longer to end than the default has it.
const WAITS: &str = "at-boundary = \"require\"\nboundary-reaction = \"6s\"";

/// Short batches with a trigger, asked in a gap; the same asked at once; and a job without gaps.
const SETS: [Set; 7] = [
    set(
        SparkVersion::V3_5,
        Launcher::Python,
        "10 seconds",
        "0.3",
        WAITS,
    ),
    set(
        SparkVersion::V4,
        Launcher::SparkSubmit,
        "10 seconds",
        "0.3",
        WAITS,
    ),
    set(
        SparkVersion::V3_5,
        Launcher::SparkSubmit,
        "10 seconds",
        "0.3",
        WAITS,
    ),
    set(
        SparkVersion::V4,
        Launcher::Python,
        "10 seconds",
        "0.3",
        WAITS,
    ),
    set(
        SparkVersion::V3_5,
        Launcher::Python,
        "2 seconds",
        "0.3",
        "at-boundary = \"prefer\"",
    ),
    set(
        SparkVersion::V3_5,
        Launcher::Python,
        "0 seconds",
        "0.5",
        "at-boundary = \"prefer\"",
    ),
    set(
        SparkVersion::V3_5,
        Launcher::Python,
        "2 seconds",
        "0.3",
        "at-boundary = \"never\"",
    ),
];

#[test]
#[ignore = "needs a quiet machine: make soak"]
fn soak_sample_of_drivers_that_know_nothing_stopped_between_two_batches() -> Result<()> {
    thread::scope(|scope| {
        let trials: Vec<_> = (0..2)
            .map(|at| (at, scope.spawn(move || trial(at, 0))))
            .collect();
        for (at, running) in trials {
            let set = SETS.get(at).context("no set")?;
            let found = running
                .join()
                .unwrap()
                .with_context(|| format!("{set:?}"))?;
            let told = format!("{set:?} {found:?}");
            assert_eq!(found.asked.as_deref(), Some("in-gap"), "{told}");
            assert_eq!(found.verdict, "clean", "{told}");
        }
        Ok(())
    })
}

#[test]
fn a_driver_without_gaps_is_asked_all_the_same_and_that_is_said() -> Result<()> {
    let set = SETS[5];
    let stop = "at-boundary = \"prefer\"\nboundary-patience = \"3s\"";
    let mut job = PlainJob::start(set.version, set.launcher, set.trigger, set.takes, stop)?;
    // The receipt is held against the checkpoint, whatever it says.
    let receipt = job.stop(Duration::ZERO)?;
    assert_eq!(receipt["boundary"]["asked"], "without-gap", "{receipt:#}");
    let why = receipt["boundary"]["why"].as_str().unwrap_or_default();
    assert!(why.contains("no gap"), "{receipt:#}");
    assert!(job.place.log("watch").contains("not asked yet: no gap"));
    Ok(())
}

/// Another number of stops of each set than the test's own.
const STOPS: &str = "STEPDOWN_SOAK_STOPS";

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_stops_between_two_batches_of_spark() -> Result<()> {
    let count = match std::env::var(STOPS) {
        Ok(text) => text.parse().context(STOPS)?,
        Err(_) => 25,
    };
    for (index, set) in SETS.iter().enumerate() {
        let record: Record<Trial> = Record::open(&format!("boundary-{index}"))?;
        let done: Vec<u64> = record.done.iter().map(|trial| trial.number).collect();
        for number in (0..count).filter(|number| !done.contains(number)) {
            let begun = Instant::now();
            let found = trial(index, number).with_context(|| format!("{set:?}, stop {number}"))?;
            println!("{:.0} s {set:?} {found:?}", begun.elapsed().as_secs_f64());
            record.add(&found)?;
        }
        let all = Record::<Trial>::open(&format!("boundary-{index}"))?.done;
        let of = |is: &dyn Fn(&Trial) -> bool| all.iter().filter(|trial| is(trial)).count();
        let asked = |word: &str| of(&|trial| trial.asked.as_deref() == Some(word));
        let longest = all
            .iter()
            .map(|trial| trial.waited_seconds)
            .fold(0.0, f64::max);
        let row = format!(
            "| {} | {}, {} | {} | {} s | {} | {} | {} | {} | {} | {} | {longest:.1} |\n",
            jiff::Zoned::now().date(),
            machine(),
            build(),
            set.version.as_str(),
            set.takes,
            set.trigger,
            set.launcher.as_str(),
            set.at_boundary.replace('\n', ", "),
            all.len(),
            asked("in-gap"),
            of(&|trial| trial.verdict == "clean"),
        );
        print!("{row}");
        add_row(&row, "<!-- end of boundaries -->")?;
        record.close()?;
        let in_gap_and_dirty =
            of(&|trial| trial.asked.as_deref() == Some("in-gap") && trial.verdict != "clean");
        ensure!(in_gap_and_dirty == 0, "{row}");
    }
    Ok(())
}
