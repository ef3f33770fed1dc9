//! An edge node whose control directory is on HDFS, with jobs that run here.

use std::ffi::OsString;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::eye::Eye;
use crate::common::daemon::Daemon;
use crate::common::job::BareJob;
use crate::common::place::{Place, SOON};
use crate::common::{Hdfs, Job, wait_until};

/// What is polled and waited for more quickly than by default. `confirm-spacing` is the default of the
/// network.
pub(crate) const WATCH: &str = "call-timeout = \"5s\"\ninterval = \"200ms\"";

/// What a receipt of a stop that went as it should says.
pub(crate) const STOPPED: &[(&str, &str)] = &[
    ("outcome", "stopped"),
    ("how", "drained"),
    ("reason", "marker"),
];

/// The place, and what lies on HDFS.
#[derive(Debug)]
pub(crate) struct Remote {
    place: Place,
    eye: Arc<Eye>,
    dir: String,
}

impl Deref for Remote {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.place
    }
}

/// A directory of HDFS that no other test uses; not made yet.
pub(crate) fn fresh_path(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("/{name}-at-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Remote {
    /// A place with a control directory in a directory of its own on `hdfs`.
    pub(crate) fn on(hdfs: &Hdfs, name: &str) -> Result<Self> {
        let eye = Arc::new(Eye::open(hdfs.conf_dir())?);
        Self::within(eye, &fresh_path(name), hdfs.conf_dir(), "")
    }

    /// A place with a control directory in `dir`, by the Hadoop configuration in `conf_dir` and other
    /// keys of `[hadoop]`.
    pub(crate) fn within(eye: Arc<Eye>, dir: &str, conf_dir: &Path, hadoop: &str) -> Result<Self> {
        eye.make_dir(dir)?;
        Self::beside(eye, dir, conf_dir, hadoop)?.init()
    }

    /// As [`Remote::within`], where everything is made already: another edge node.
    pub(crate) fn beside(eye: Arc<Eye>, dir: &str, conf_dir: &Path, hadoop: &str) -> Result<Self> {
        Self::with_env(eye, dir, conf_dir, hadoop, Vec::new())
    }

    /// As [`Remote::beside`], with `env` for all its processes.
    pub(crate) fn with_env(
        eye: Arc<Eye>,
        dir: &str,
        conf_dir: &Path,
        hadoop: &str,
        env: Vec<(OsString, OsString)>,
    ) -> Result<Self> {
        let hadoop = format!("conf-dir = \"{}\"\n{hadoop}", conf_dir.display());
        let control = format!("hdfs://{dir}/control");
        Ok(Self {
            place: Place::with_control("edge", &control, &hadoop, env)?,
            eye,
            dir: dir.to_owned(),
        })
    }

    /// Makes the control directory.
    pub(crate) fn init(self) -> Result<Self> {
        let Self { place, eye, dir } = self;
        let place = place.init()?;
        Ok(Self { place, eye, dir })
    }

    /// The test's own client.
    pub(crate) fn eye(&self) -> &Arc<Eye> {
        &self.eye
    }

    /// The test's directory on HDFS.
    pub(crate) fn dir(&self) -> &str {
        &self.dir
    }

    /// A path in the test's directory on HDFS.
    pub(crate) fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    /// The marker of a job's slot blue, in the control directory.
    pub(crate) fn marker(&self, job: &str) -> String {
        self.at(&format!("control/markers/{job}.blue"))
    }

    /// Makes that marker, empty.
    pub(crate) fn touch(&self, job: &str) -> Result<()> {
        self.eye.touch(&self.marker(job))
    }

    /// Removes that marker.
    pub(crate) fn remove(&self, job: &str) -> Result<()> {
        self.eye.remove(&self.marker(job))
    }

    /// All receipts of a job, the oldest first.
    pub(crate) fn receipts(&self, job: &str) -> Result<Vec<Value>> {
        let dir = self.at(&format!("control/state/{job}/receipts"));
        let mut receipts = Vec::new();
        for found in self.eye.list(&dir)? {
            let name = found.path.rsplit('/').next().unwrap_or_default();
            // What is being written has a name that begins with a dot.
            if !name.starts_with('.') {
                let content = self.eye.read(&found.path)?;
                receipts.push(serde_json::from_slice(&content).context("a receipt is no JSON")?);
            }
        }
        Ok(receipts)
    }

    /// Waits for the first receipt of a job.
    pub(crate) fn await_receipt(&self, job: &str) -> Result<Value> {
        let mut receipts = Vec::new();
        wait_until(SOON * 2, &format!("{job} has a receipt"), || {
            receipts = self.receipts(job).unwrap_or_default();
            !receipts.is_empty()
        })?;
        ensure!(receipts.len() == 1, "{receipts:#?}");
        receipts.pop().context("no receipt")
    }

    /// The names of the steps of a job's stops.
    pub(crate) fn steps(&self, job: &str) -> Result<Vec<String>> {
        self.eye
            .names(&self.at(&format!("control/state/{job}/stops")))
    }

    /// Runs a command with `--json` and returns its exit code and document.
    pub(crate) fn json(&self, args: &[&str]) -> Result<(i32, Value)> {
        let ran = self.stepdown(&[&["--json"], args].concat())?;
        let document = serde_json::from_str(&ran.stdout).with_context(|| format!("{ran:?}"))?;
        Ok((ran.status.code().unwrap_or(-1), document))
    }

    /// Starts jobs that stop when they are asked, with their pids in pid files and their markers made.
    pub(crate) fn start_jobs(&self, names: &[&str], behaviour: &[&str]) -> Result<Vec<Started>> {
        let start = |name: &&str| {
            let job = self.job(name)?;
            let bare = job.start(behaviour)?;
            self.write_pid(name, bare.pid())?;
            Ok(Started {
                name: (*name).to_owned(),
                job,
                bare,
            })
        };
        names.iter().map(start).collect()
    }

    /// Starts `watch` and waits until it says of so many slots that they are armed.
    pub(crate) fn watch_armed(&self, name: &str, slots: usize) -> Result<Daemon> {
        let watch = self.watch(name, &[])?;
        self.await_armed(name, slots)?;
        Ok(watch)
    }

    /// Waits until `watch` has said of so many slots that they are armed.
    pub(crate) fn await_armed(&self, name: &str, slots: usize) -> Result<()> {
        self.await_log_count(name, " armed ", slots)
    }

    /// Waits until a process of stepdown has logged `text` so many times.
    pub(crate) fn await_log_count(&self, name: &str, text: &str, times: usize) -> Result<()> {
        let count = || self.log(name).matches(text).count();
        wait_until(
            SOON * 2,
            &format!("{text:?} is logged {times} times"),
            || count() >= times,
        )
        .with_context(|| self.log(name))
    }

    /// How many rounds of polls could not see their directory.
    pub(crate) fn blind_rounds(&self, name: &str) -> usize {
        let log = self.log(name);
        let blind = |line: &&str| line.contains(" round ") && line.contains("known=false");
        log.lines().filter(blind).count()
    }

    /// Waits for so many more rounds that could not see their directory.
    pub(crate) fn await_blind_rounds(&self, name: &str, more: usize) -> Result<()> {
        let goal = self.blind_rounds(name) + more;
        wait_until(SOON * 4, "rounds that see nothing", || {
            self.blind_rounds(name) >= goal
        })
        .with_context(|| self.log(name))
    }
}

/// A job of a place, running by itself.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) name: String,
    pub(crate) job: Job,
    pub(crate) bare: BareJob,
}

impl Started {
    /// How often it was asked to stop.
    pub(crate) fn requests(&self) -> usize {
        self.job.count("TERM")
    }

    /// Checks that it runs and was never asked to stop.
    pub(crate) fn assert_untouched(&mut self) {
        assert_eq!(self.requests(), 0, "{}", self.name);
        assert!(self.bare.exit_status().is_none(), "{} ended", self.name);
    }

    /// Waits until it was asked to stop, at most `deadline`; how long that took.
    pub(crate) fn await_request(&self, deadline: Duration) -> Result<Duration> {
        let begun = Instant::now();
        self.job.await_notes("TERM", 1, deadline)?;
        Ok(begun.elapsed())
    }

    /// Waits until it is over and has its one receipt, which says what `expected` has; it was asked once.
    pub(crate) fn await_stop(
        &mut self,
        remote: &Remote,
        expected: &[(&str, &str)],
    ) -> Result<Value> {
        let receipt = remote
            .await_receipt(&self.name)
            .with_context(|| format!("{} {:?}", self.name, self.job.notes()))?;
        for (name, value) in expected {
            assert_eq!(receipt[*name], *value, "{name} of {receipt:#}");
        }
        wait_until(SOON, "the job is gone", || {
            self.bare.exit_status().is_some()
        })?;
        assert_eq!(self.requests(), 1, "{}: {:?}", self.name, self.job.notes());
        Ok(receipt)
    }
}
