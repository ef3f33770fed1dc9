//! Control directories with thousands of jobs, on local disk and on HDFS.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use stepdown::control::ControlDir;
use stepdown::hadoop::{ConfSource, Environment};
use stepdown::model::{AttemptId, JobName, Slot};
use stepdown::stop::status::{Phase, StatusFile, save_status};
use stepdown::storage::open::{StorageOptions, Storages};
use stepdown::storage::{Depth, ErrorKind, Storage, StorageUri};
use tempfile::TempDir;

use crate::common::Hdfs;

/// The binary that is measured: the one of this build.
pub const STEPDOWN: &str = env!("CARGO_BIN_EXE_stepdown");

/// How many files are made at once.
const AT_ONCE: usize = 64;

/// Where markers and messages lie.
#[derive(Debug)]
pub enum Ground {
    /// A directory on local disk.
    Local,
    /// A cluster of its own.
    Hdfs(Box<Hdfs>),
}

impl Ground {
    /// A NameNode and a DataNode, on free ports.
    ///
    /// # Errors
    /// If they do not start.
    pub fn hdfs() -> Result<Self> {
        Ok(Self::Hdfs(Box::new(Hdfs::builder().heap_mb(1024).start()?)))
    }
}

/// A control directory with jobs, and a configuration for it.
#[derive(Debug)]
pub struct Place {
    dir: TempDir,
    storage: Arc<dyn Storage>,
    control: StorageUri,
    env: Vec<(String, String)>,
}

/// What the jobs of a place are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jobs {
    /// Each has an attempt somewhere on the cluster, as its status file says.
    Running,
    /// Each has its marker, and nothing runs.
    Waiting,
}

impl Place {
    /// An empty one, made by `stepdown init`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(ground: &Ground) -> Result<Self> {
        // On the disk of the build, not in a temporary directory that may be in memory.
        let dir = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let (control, env) = match ground {
            Ground::Local => (format!("{}/control", dir.path().display()), Vec::new()),
            Ground::Hdfs(hdfs) => (
                format!("{}/stepdown", hdfs.nn_uri()),
                vec![(
                    "HADOOP_CONF_DIR".to_owned(),
                    hdfs.conf_dir().display().to_string(),
                )],
            ),
        };
        let control: StorageUri = control.parse()?;
        let mut options = StorageOptions {
            // What is made here is thrown away.
            fsync: false,
            call_timeout: Duration::from_mins(1),
            ..StorageOptions::default()
        };
        if let Ground::Hdfs(hdfs) = ground {
            options.hadoop_conf = ConfSource::Dir(hdfs.conf_dir().to_owned());
        }
        let storages = Storages::with_environment(options, Environment::of_process());
        let place = Self {
            storage: storages.open(&control.authority)?,
            dir,
            control,
            env,
        };
        place.configure(0, "")?;
        ensure!(place.stepdown(&["init"])?.success(), "init failed");
        Ok(place)
    }

    /// Its storage.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Its control directory.
    pub fn control(&self) -> ControlDir {
        ControlDir::new(Arc::clone(&self.storage), self.control.path.clone())
    }

    /// The path of `name` in the local directory of this place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn job_name(index: usize) -> String {
        format!("job{index:05}")
    }

    /// Writes a configuration with `count` jobs of the cluster, and `more` at its end.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&self, count: usize, more: &str) -> Result<()> {
        let mut text = format!("control = \"{}\"\n", self.control);
        for index in 0..count {
            let job = Self::job_name(index);
            write!(
                text,
                "[jobs.{job}]\ncheckpoints = [\"{}/checkpoints/{job}\"]\n\
                 [jobs.{job}.stop]\nbackend = \"driver\"\n",
                self.control
            )?;
        }
        text.push_str(more);
        fs::write(self.path("stepdown.toml"), text).context("no configuration")
    }

    /// Makes the markers of `count` jobs and, if they run, their status files.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn fill(&self, count: usize, jobs: Jobs) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let control = self.control();
        runtime.block_on(
            stream::iter((0..count).map(Ok))
                .try_for_each_concurrent(AT_ONCE, |index| make_job(&control, index, jobs)),
        )
    }

    /// How many of the jobs have an armed attempt.
    ///
    /// # Errors
    /// If that cannot be seen.
    pub fn count_armed(&self, count: usize) -> Result<usize> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let control = self.control();
        let counts = stream::iter(0..count).map(|index| is_armed(&control, Self::job_name(index)));
        let counts = counts.buffer_unordered(AT_ONCE);
        runtime.block_on(counts.try_fold(0, async |sum, armed| Ok(sum + usize::from(armed))))
    }

    /// Whether the attempt of a job is armed.
    ///
    /// # Errors
    /// If that cannot be seen.
    pub fn is_armed(&self, job: &str) -> Result<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(is_armed(&self.control(), job.to_owned()))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(STEPDOWN);
        command
            .args(args)
            .env("STEPDOWN_CONFIG", self.path("stepdown.toml"))
            .env_remove("STEPDOWN_CONTROL")
            .env_remove("STEPDOWN_LOG")
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn stepdown(&self, args: &[&str]) -> Result<std::process::ExitStatus> {
        let mut command = self.command(args);
        command.stdout(Stdio::null());
        command.status().context("stepdown cannot be run")
    }

    /// Starts `stepdown watch`; its log goes to `watch.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn watch(&self) -> Result<Watch> {
        let log = fs::File::create(self.path("watch.log"))?;
        let mut command = self.command(&["watch"]);
        command.stdout(Stdio::null()).stderr(log);
        Ok(Watch {
            child: command.spawn().context("stepdown cannot be run")?,
            log: self.path("watch.log"),
        })
    }
}

async fn is_armed(control: &ControlDir, job: String) -> Result<bool> {
    let dir = control.armed_dir(&job.parse()?);
    match control.storage().list(&dir, Depth::Children).await {
        Ok(entries) => Ok(!entries.is_empty()),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn make_job(control: &ControlDir, index: usize, jobs: Jobs) -> Result<()> {
    let job: JobName = Place::job_name(index).parse()?;
    let marker = control.marker(&job, Slot::Blue);
    control.storage().touch(&marker).await?;
    if jobs == Jobs::Running {
        let status = StatusFile {
            job,
            slot: Slot::Blue,
            attempt: AttemptId::Named {
                name: format!("application_1795153035831_{index:05}/1"),
            },
            run_id: None,
            phase: Phase::Running,
            marker: Some(control.uri(&marker)),
            exit: None,
            written_at: Timestamp::now(),
            kit: None,
        };
        save_status(control, &status).await?;
    }
    Ok(())
}

/// A running `stepdown watch`; ended when dropped.
#[derive(Debug)]
pub struct Watch {
    child: Child,
    log: PathBuf,
}

impl Watch {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `so`.
    ///
    /// # Errors
    /// If that takes longer than `deadline`, or the watch ends.
    pub fn await_that(
        &mut self,
        what: &str,
        deadline: Duration,
        mut so: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let begun = Instant::now();
        while !so()? {
            if let Some(status) = self.child.try_wait()? {
                bail!("the watch ended with {status}: {}", self.log());
            }
            ensure!(begun.elapsed() < deadline, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Whatever it is doing: what it did is thrown away.
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}
