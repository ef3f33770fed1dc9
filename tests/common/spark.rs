//! A Spark driver that runs streaming queries as it is told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::daemon::{leashed, spawn_leashed};
use super::hadoop::cache_dir;
use super::scratch::{RemovedOnDrop, log_dir, scratch_dir};
use super::wait::wait_until;

/// A start takes about 4 s on an idle machine; tests share it with others.
const START: Duration = Duration::from_mins(3);
/// The longest that the driver takes to plan a query, or to abort a batch.
const ANSWER: Duration = Duration::from_mins(2);
/// Longer than all tests together take.
const SHARED_LIFE: Duration = Duration::from_hours(2);
/// What the error of a query says that was told to fail, or to end.
pub const CHOSEN: &str = "Chosen";
/// From the first trigger to a batch's result.
const BATCH: Duration = Duration::from_mins(3);

/// A Spark that the tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SparkVersion {
    /// The last line with Scala 2.12.
    V3_5,
    /// The current line.
    V4,
}

impl SparkVersion {
    /// The release, as `fetch.py` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            SparkVersion::V3_5 => "3.5.9",
            SparkVersion::V4 => "4.3.0",
        }
    }
}

/// A streaming query to be started: see `tests/spark/jobs`.
#[derive(Debug, Clone)]
pub struct Query {
    /// By which it is stopped.
    pub name: String,
    /// A shape of `shapes.py`.
    pub shape: &'static str,
    /// A state store of `shapes.py`.
    pub provider: &'static str,
    /// Its checkpoint, a URI or a local path.
    pub checkpoint: String,
    /// Where its results go; started again, it appends.
    pub sink: PathBuf,
    /// The directory of a file source.
    pub input: PathBuf,
    /// Values in each batch.
    pub rows: i64,
    /// What a value is multiplied with.
    pub scale: i64,
    /// How it goes on.
    pub pace: QueryPace,
    /// Further settings of Spark.
    pub conf: Vec<(&'static str, String)>,
    /// Where it fails or hangs, if it does.
    pub trouble: Option<Trouble>,
}

/// When the batches of a query begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryPace {
    /// Every 200 ms.
    Steady,
    /// One run over what is there, and the end: one batch of a source that makes rows by itself.
    Once,
}

/// What happens to a batch whose results were noted and whose state was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The query fails.
    FailsAt(u64),
    /// It hangs.
    HangsAt(u64),
}

/// What a batch gave: key, sum, count.
pub type Rows = Vec<[i64; 3]>;

/// A running driver, its Java in the same process group; all is killed when this is dropped, and when
/// the test process ends.
#[derive(Debug)]
pub struct Spark {
    version: SparkVersion,
    child: Child,
    java_pid: u32,
    pipes: Mutex<Pipes>,
    log: PathBuf,
    _scratch: RemovedOnDrop,
}

/// What `session.py` takes.
#[derive(Debug, Serialize)]
#[serde(
    tag = "do",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
enum Ask<'a> {
    Start {
        name: &'a str,
        shape: &'a str,
        provider: &'a str,
        checkpoint: &'a str,
        sink: &'a Path,
        input: &'a Path,
        rows: i64,
        scale: i64,
        conf: BTreeMap<&'a str, String>,
        trigger_ms: Option<u32>,
        fail_at: Option<u64>,
        hang_at: Option<u64>,
    },
    Stop {
        name: &'a str,
    },
    Status {
        name: &'a str,
    },
}

/// What it answers to any of them, and when it is ready.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Answer {
    refused: Option<String>,
    active: bool,
    error: Option<String>,
    spark: Option<String>,
    java_pid: Option<u32>,
}

/// A line of a sink file.
#[derive(Debug, Deserialize)]
struct Note {
    batch: u64,
    rows: Rows,
}

#[derive(Debug)]
struct Pipes {
    input: ChildStdin,
    answers: mpsc::Receiver<String>,
}

impl Spark {
    /// Starts a driver that ends by itself after `most`.
    ///
    /// # Errors
    /// If Spark cannot be fetched or does not come up.
    pub fn start(version: SparkVersion, most: Duration) -> Result<Self> {
        let home = pyspark_home(version)?;
        let scratch = RemovedOnDrop(scratch_dir("spark")?);
        let log = log_dir("spark")?.join(format!("{}.log", version.as_str()));
        let jobs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spark/jobs");
        let args = [
            jobs.join("session.py").into(),
            scratch.0.clone().into(),
            most.as_secs().to_string().into(),
        ];
        let mut command = leashed(Path::new("python3"), &args);
        command
            // Python processes that Spark starts import from the jobs as well.
            .env("PYTHONPATH", std::env::join_paths([&home, &jobs])?)
            .env("PYTHONPYCACHEPREFIX", cache_dir().join("pycache"))
            .env("SPARK_LOCAL_IP", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).context("cannot open a log file")?);
        if let Some(java) = std::env::var_os("JAVA_HOME") {
            command.env("JAVA_HOME", java);
        }
        let mut child = spawn_leashed(command).context("cannot start Spark")?;
        let input = child.stdin.take().context("no input")?;
        let output = child.stdout.take().context("no output")?;
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut spark = Self {
            version,
            child,
            java_pid: 0,
            pipes: Mutex::new(Pipes { input, answers }),
            log,
            _scratch: scratch,
        };
        let ready = spark.receive(&spark.lock(), START)?;
        ensure!(
            ready.spark.as_deref() == Some(version.as_str()),
            "{ready:?}"
        );
        spark.java_pid = ready.java_pid.context("no pid of Java")?;
        Ok(spark)
    }

    /// The driver that all tests of this binary share. They give their queries names and checkpoints
    /// of their own, and do not kill it.
    ///
    /// # Errors
    /// If it could not be started, the same for each test.
    pub fn shared(version: SparkVersion) -> Result<&'static Spark> {
        static V3_5: OnceLock<Result<Spark, String>> = OnceLock::new();
        static V4: OnceLock<Result<Spark, String>> = OnceLock::new();
        let shared = match version {
            SparkVersion::V3_5 => &V3_5,
            SparkVersion::V4 => &V4,
        };
        shared
            .get_or_init(|| {
                Spark::start(version, SHARED_LIFE).map_err(|error| format!("{error:?}"))
            })
            .as_ref()
            .map_err(|error| anyhow!("the shared Spark did not start: {error}"))
    }

    /// Which it is.
    pub fn version(&self) -> SparkVersion {
        self.version
    }

    /// Starts a query.
    ///
    /// # Errors
    /// If Spark refuses it.
    pub fn run(&self, query: &Query) -> Result<()> {
        let (fail_at, hang_at) = match query.trouble {
            Some(Trouble::FailsAt(batch)) => (Some(batch), None),
            Some(Trouble::HangsAt(batch)) => (None, Some(batch)),
            None => (None, None),
        };
        let ask = Ask::Start {
            name: &query.name,
            shape: query.shape,
            provider: query.provider,
            checkpoint: &query.checkpoint,
            sink: &query.sink,
            input: &query.input,
            rows: query.rows,
            scale: query.scale,
            conf: query.conf.iter().cloned().collect(),
            trigger_ms: (query.pace == QueryPace::Steady).then_some(200),
            fail_at,
            hang_at,
        };
        self.ask(&ask).map(drop)
    }

    /// Ends a query before its next batch, which is planned then. What it has noted is committed.
    ///
    /// # Errors
    /// If it does not end, or fails otherwise.
    pub fn stop(&self, query: &Query) -> Result<()> {
        self.ask(&Ask::Stop { name: &query.name })?;
        let error = self.await_end(query)?.unwrap_or_default();
        ensure!(error.contains(CHOSEN), "{error}{}", self.log_tail());
        Ok(())
    }

    /// Whether the query runs.
    ///
    /// # Errors
    /// If it has failed, with its error.
    pub fn is_running(&self, query: &Query) -> Result<bool> {
        let status = self.ask(&Ask::Status { name: &query.name })?;
        match status.error {
            None => Ok(status.active),
            Some(error) => bail!("{} failed: {error}", query.name),
        }
    }

    /// Waits until the query has noted the results of `batch`. It may not be committed yet, but all
    /// before it are.
    ///
    /// # Errors
    /// If the query ends before, or in vain.
    pub fn await_batch(&self, query: &Query, batch: u64) -> Result<()> {
        let mut ended = Ok(true);
        let what = format!("{} has done batch {batch}", query.name);
        let is_done = || {
            let notes = query.notes().unwrap_or_default();
            notes.iter().any(|(done, _)| *done >= batch)
        };
        let mut rounds = 0_u32;
        wait_until(BATCH, &what, || {
            rounds += 1;
            if is_done() {
                return true;
            }
            // The driver is asked more rarely than the file is read.
            if rounds.is_multiple_of(25) {
                ended = self.is_running(query);
            }
            !matches!(ended, Ok(true))
        })
        .with_context(|| self.log_tail())?;
        ensure!(ended? || is_done(), "{what}: it ended before");
        Ok(())
    }

    /// Waits until the query has ended; the error with which it did.
    ///
    /// # Errors
    /// If it does not end.
    pub fn await_end(&self, query: &Query) -> Result<Option<String>> {
        let mut answer = Ok(true);
        wait_until(BATCH, &format!("{} ends", query.name), || {
            answer = self.is_running(query);
            !matches!(answer, Ok(true))
        })?;
        Ok(answer.err().map(|error| error.to_string()))
    }

    /// Kills driver and Java (`kill -9`) and waits until both are gone.
    ///
    /// # Errors
    /// If they do not end.
    pub fn kill(mut self) -> Result<()> {
        self.kill_group();
        // Java is not a child of this process; one that is dead has no command line.
        let command_line = PathBuf::from(format!("/proc/{}/cmdline", self.java_pid));
        wait_until(ANSWER, "the JVM is gone", || {
            fs::read(&command_line).unwrap_or_default().is_empty()
        })
    }

    /// The end of the driver's log, as an appendix to an error message.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let (_, tail) = lines.split_at(lines.len().saturating_sub(60));
        let tail = tail.join("\n");
        format!("\n--- end of {} ---\n{tail}", self.log.display())
    }

    fn ask(&self, ask: &Ask<'_>) -> Result<Answer> {
        let line = serde_json::to_string(ask)?;
        let mut pipes = self.lock();
        writeln!(pipes.input, "{line}")
            .and_then(|()| pipes.input.flush())
            .with_context(|| format!("the driver has ended{}", self.log_tail()))?;
        let answer = self.receive(&pipes, ANSWER)?;
        match answer.refused {
            None => Ok(answer),
            Some(refused) => bail!("{line}: {refused}"),
        }
    }

    fn receive(&self, pipes: &Pipes, deadline: Duration) -> Result<Answer> {
        let line = pipes.answers.recv_timeout(deadline);
        let line = line.with_context(|| format!("no answer of Spark{}", self.log_tail()))?;
        serde_json::from_str(&line).with_context(|| format!("no answer: {line}"))
    }

    fn lock(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill_group(&mut self) {
        // It was not waited for, so the number is its own, and the group's.
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Spark {
    fn drop(&mut self) {
        self.kill_group();
    }
}

impl Query {
    /// The results that it noted so far, in order; a batch that was repeated is there again.
    ///
    /// # Errors
    /// If the file cannot be read, or has something else in it.
    pub fn notes(&self) -> Result<Vec<(u64, Rows)>> {
        let text = match fs::read_to_string(&self.sink) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context("no results"),
        };
        // A line without its end is being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| {
                let note: Note = serde_json::from_str(line).context("no result")?;
                Ok((note.batch, note.rows))
            })
            .collect()
    }
}

/// The newest batch in `offsets/` or `commits/` of a checkpoint on local disk; nothing if there is none.
pub fn newest_batch(log: &Path) -> Option<u64> {
    let entries = fs::read_dir(log).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).max()
}

/// Where PySpark is, as a `PYTHONPATH`; fetched where it is not there yet.
///
/// # Errors
/// If it cannot be fetched.
pub fn pyspark_home(version: SparkVersion) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spark/fetch.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(version.as_str())
        .arg(cache_dir())
        .stdin(Stdio::null())
        .output()
        .context("cannot run python3")?;
    if !output.status.success() {
        bail!(
            "Spark {} is missing: {}",
            version.as_str(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let home = String::from_utf8(output.stdout).context("fetch.py printed no path")?;
    Ok(PathBuf::from(home.trim()))
}
