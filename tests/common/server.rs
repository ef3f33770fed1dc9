//! One server of a cluster, which may be down, and what it shares with the others.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::daemon::{Daemon, Launch};
use super::hadoop::{Hadoop, java_program};
use super::site::{Site, write_conf_dir};

/// A start takes about 2 s on an idle machine; tests share it with others.
const START_DEADLINE: Duration = Duration::from_mins(2);

/// What the servers of one cluster have in common.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// The Hadoop they are of.
    pub hadoop: Hadoop,
    /// Where they keep their data and configuration.
    pub dir: PathBuf,
    /// Where they log.
    pub logs: PathBuf,
    /// `-Xmx` of each.
    pub heap_mb: u32,
    /// `core-site.xml` of each.
    pub core: Site,
    /// `hdfs-site.xml` of each, but for what is the server's own.
    pub hdfs: Site,
    /// Added to the environment of each.
    pub env: Vec<(OsString, OsString)>,
    /// Added to the JVM flags of each.
    pub jvm_flags: Vec<OsString>,
}

impl ClusterSettings {
    /// The configuration directory of the server itself.
    pub fn conf_dir(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-conf"))
    }

    /// Writes the server's configuration and says how to start it.
    ///
    /// # Errors
    /// If the configuration cannot be written.
    pub fn launch(&self, name: &str, class: &str, own: &Site) -> Result<Launch> {
        let conf_dir = self.conf_dir(name);
        let mut hdfs = self.hdfs.clone();
        hdfs.merge(own);
        write_conf_dir(&conf_dir, &self.core, &hdfs)?;
        let mut args = self.jvm_flags.clone();
        args.extend(self.hadoop.java_args(&conf_dir, self.heap_mb, class));
        Ok(Launch {
            name: name.to_owned(),
            program: java_program(),
            args,
            env: self.env.clone(),
            log: self.logs.join(format!("{name}.log")),
        })
    }
}

/// A server that may be down.
#[derive(Debug)]
pub struct Server {
    launch: Launch,
    running: Mutex<Option<Daemon>>,
}

impl Server {
    /// A server that is not started yet.
    pub fn new(launch: Launch) -> Self {
        Self {
            launch,
            running: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it without waiting until it is ready; one that still runs is killed first.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self) -> Result<()> {
        let mut running = self.lock();
        // The old process has to be gone before the new one binds its ports.
        drop(running.take());
        *running = Some(Daemon::start(&self.launch)?);
        Ok(())
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    /// As soon as it ends, or after two minutes; with the end of its log.
    pub fn await_ready(&self, what: &str, ready: impl FnMut() -> bool) -> Result<()> {
        let mut running = self.lock();
        self.daemon(&mut running)?
            .await_ready(START_DEADLINE, what, ready)
    }

    /// Kills it (`kill -9`) and waits for its end.
    ///
    /// # Errors
    /// If it is down already.
    pub fn kill(&self) -> Result<()> {
        let daemon = self.lock().take();
        daemon.with_context(|| self.is_down())?.kill()
    }

    /// Has it shut down (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// If it is down already, or does not end in time.
    pub fn terminate(&self) -> Result<()> {
        let daemon = self.lock().take();
        daemon
            .with_context(|| self.is_down())?
            .terminate()
            .map(drop)
    }

    /// Sends a signal to it.
    ///
    /// # Errors
    /// If it is down.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut running = self.lock();
        self.daemon(&mut running)?.signal(signal)
    }

    /// Whether it runs; also if it is frozen. It may have ended by itself.
    pub fn is_running(&self) -> bool {
        let mut running = self.lock();
        running
            .as_mut()
            .is_some_and(|daemon| daemon.exit_status().is_none())
    }

    /// The file that it logs to.
    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// Its pid; `None` if it was not started, or was stopped.
    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Daemon::pid)
    }

    fn daemon<'a>(&self, running: &'a mut Option<Daemon>) -> Result<&'a mut Daemon> {
        running.as_mut().with_context(|| self.is_down())
    }

    fn is_down(&self) -> String {
        format!("{} is down", self.launch.name)
    }
}
