//! A NameNode or DataNode that can be stopped, killed, hung and started again in the same place.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::daemon::{Daemon, Launch};
use super::hadoop::{Hadoop, java_program};
use super::jmx;
use super::ports::Port;
use super::site::{Site, write_conf_dir};

/// A start takes about 2 s on an idle machine; tests share it with others.
pub const START_DEADLINE: Duration = Duration::from_mins(2);
/// The NameNode's main class.
pub const NAMENODE: &str = "org.apache.hadoop.hdfs.server.namenode.NameNode";
/// The DataNode's main class.
pub const DATANODE: &str = "org.apache.hadoop.hdfs.server.datanode.DataNode";

/// The JournalNode's main class.
pub const JOURNALNODE: &str = "org.apache.hadoop.hdfs.qjournal.server.JournalNode";

/// What the servers of one cluster have in common.
#[derive(Debug, Clone)]
pub struct Common {
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

impl Common {
    fn conf_dir(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-conf"))
    }

    fn launch(&self, name: &str, class: &str, own: &Site) -> Result<Launch> {
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
struct Server {
    launch: Launch,
    running: Mutex<Option<Daemon>>,
}

impl Server {
    fn new(launch: Launch) -> Self {
        Self {
            launch,
            running: Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self) -> Result<()> {
        let mut running = self.lock();
        // The old process has to be gone before the new one binds its ports.
        drop(running.take());
        *running = Some(Daemon::start(&self.launch)?);
        Ok(())
    }

    fn await_ready(&self, what: &str, ready: impl FnMut() -> bool) -> Result<()> {
        let mut running = self.lock();
        self.daemon(&mut running)?
            .await_ready(START_DEADLINE, what, ready)
    }

    fn kill(&self) -> Result<()> {
        let daemon = self.lock().take();
        daemon.with_context(|| self.is_down())?.kill()
    }

    fn terminate(&self) -> Result<()> {
        let daemon = self.lock().take();
        daemon
            .with_context(|| self.is_down())?
            .terminate()
            .map(drop)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let mut running = self.lock();
        self.daemon(&mut running)?.signal(signal)
    }

    fn is_running(&self) -> bool {
        let mut running = self.lock();
        running
            .as_mut()
            .is_some_and(|daemon| daemon.exit_status().is_none())
    }

    fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Daemon::pid)
    }

    fn daemon<'a>(&self, running: &'a mut Option<Daemon>) -> Result<&'a mut Daemon> {
        running.as_mut().with_context(|| self.is_down())
    }

    fn is_down(&self) -> String {
        format!("{} is down", self.launch.name)
    }
}

macro_rules! delegate_to_server {
    ($node:ident) => {
        impl $node {
            /// Starts the server without waiting until it is ready; one that still runs is killed first.
            ///
            /// # Errors
            /// If it cannot be started.
            pub fn start(&self) -> Result<()> {
                self.server.start()
            }

            /// Kills the server (`kill -9`) and waits for its end.
            ///
            /// # Errors
            /// If it is down already.
            pub fn kill(&self) -> Result<()> {
                self.server.kill()
            }

            /// Has the server shut down (SIGTERM) and waits for its end.
            ///
            /// # Errors
            /// If it is down already, or does not end in time.
            pub fn terminate(&self) -> Result<()> {
                self.server.terminate()
            }

            /// Freezes the server (SIGSTOP): its ports accept connections and nothing answers.
            ///
            /// # Errors
            /// If it is down.
            pub fn suspend(&self) -> Result<()> {
                self.server.signal(Signal::STOP)
            }

            /// Lets a frozen server go on (SIGCONT).
            ///
            /// # Errors
            /// If it is down.
            pub fn resume(&self) -> Result<()> {
                self.server.signal(Signal::CONT)
            }

            /// Whether the server runs; also if it is frozen. It may have ended by itself.
            pub fn is_running(&self) -> bool {
                self.server.is_running()
            }

            /// The server's pid; `None` while it is down.
            pub fn pid(&self) -> Option<u32> {
                self.server.pid()
            }
        }
    };
}

/// A NameNode.
#[derive(Debug)]
pub struct NameNode {
    server: Server,
    conf_dir: PathBuf,
    name_dir: PathBuf,
    host: String,
    rpc: Port,
    http: Port,
}

delegate_to_server!(NameNode);

impl NameNode {
    /// Prepares a NameNode that listens on `host` (a name or address of the loopback interface). Its
    /// name directory has to be filled before it starts.
    ///
    /// # Errors
    /// If its configuration cannot be written.
    pub fn prepare(
        common: &Common,
        name: &str,
        host: &str,
        [rpc, http]: [Port; 2],
        own: &Site,
    ) -> Result<Self> {
        let name_dir = common.dir.join(name);
        let mut site = Site::default();
        site.set(
            "dfs.namenode.rpc-address",
            format!("{host}:{}", rpc.number()),
        )
        .set(
            "dfs.namenode.http-address",
            format!("{host}:{}", http.number()),
        )
        .set(
            "dfs.namenode.name.dir",
            format!("file://{}", name_dir.display()),
        )
        .merge(own);
        Ok(Self {
            server: Server::new(common.launch(name, NAMENODE, &site)?),
            conf_dir: common.conf_dir(name),
            name_dir,
            host: host.to_owned(),
            rpc,
            http,
        })
    }

    /// `host:port` of its RPC server.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.rpc.number())
    }

    /// The port of its RPC server.
    pub fn port(&self) -> u16 {
        self.rpc.number()
    }

    /// The port of its HTTP server.
    pub fn http_port(&self) -> u16 {
        self.http.number()
    }

    /// The configuration directory of the NameNode itself.
    pub fn conf_dir(&self) -> &Path {
        &self.conf_dir
    }

    /// Where it keeps its image and edits.
    pub fn name_dir(&self) -> &Path {
        &self.name_dir
    }

    /// What it says about itself; `None` while it does not answer.
    pub fn state(&self) -> Option<jmx::NameNodeState> {
        jmx::namenode_state(self.http.number())
    }

    /// Waits until it is out of safe mode and can use this many DataNodes.
    ///
    /// # Errors
    /// If it ends, or is not ready in time; with the end of its log.
    pub fn await_ready(&self, datanodes: usize) -> Result<()> {
        let what = format!("the NameNode is out of safe mode and can use {datanodes} DataNodes");
        self.await_state(&what, |state| {
            !state.safe_mode && state.usable_datanodes >= datanodes
        })
    }

    /// Waits until it says what `condition` asks for; `what` names that in errors.
    ///
    /// # Errors
    /// If it ends, or does not say so in time; with the end of its log.
    pub fn await_state(
        &self,
        what: &str,
        condition: impl Fn(&jmx::NameNodeState) -> bool,
    ) -> Result<()> {
        self.server
            .await_ready(what, || self.state().as_ref().is_some_and(&condition))
    }
}

/// A JournalNode: keeps the edits that two NameNodes share.
#[derive(Debug)]
pub struct JournalNode {
    server: Server,
    rpc: Port,
    _http: Port,
}

delegate_to_server!(JournalNode);

impl JournalNode {
    /// Prepares a JournalNode that listens on 127.0.0.1.
    ///
    /// # Errors
    /// If its configuration cannot be written.
    pub fn prepare(common: &Common, name: &str) -> Result<Self> {
        let [rpc, http] = [Port::reserve()?, Port::reserve()?];
        let mut site = Site::default();
        site.set(
            "dfs.journalnode.rpc-address",
            format!("127.0.0.1:{}", rpc.number()),
        )
        .set(
            "dfs.journalnode.http-address",
            format!("127.0.0.1:{}", http.number()),
        )
        .set("dfs.journalnode.edits.dir", common.dir.join(name).display());
        Ok(Self {
            server: Server::new(common.launch(name, JOURNALNODE, &site)?),
            rpc,
            _http: http,
        })
    }

    /// The port on which NameNodes write edits.
    pub fn port(&self) -> u16 {
        self.rpc.number()
    }

    /// Waits until it takes connections.
    ///
    /// # Errors
    /// If it ends, or is not ready in time; with the end of its log.
    pub fn await_ready(&self) -> Result<()> {
        self.server
            .await_ready("the JournalNode takes connections", || {
                TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).is_ok()
            })
    }
}

/// A DataNode.
#[derive(Debug)]
pub struct DataNode {
    server: Server,
    data_dir: PathBuf,
    data: Port,
    http: Port,
    _ipc: Port,
}

delegate_to_server!(DataNode);

impl DataNode {
    /// Prepares a DataNode that listens on `host`.
    ///
    /// # Errors
    /// If its configuration cannot be written.
    pub fn prepare(common: &Common, name: &str, host: &str) -> Result<Self> {
        let [data, http, ipc] = [Port::reserve()?, Port::reserve()?, Port::reserve()?];
        let data_dir = common.dir.join(name);
        fs::create_dir_all(&data_dir)
            .with_context(|| format!("cannot create {}", data_dir.display()))?;
        let mut site = Site::default();
        site.set("dfs.datanode.address", format!("{host}:{}", data.number()))
            .set(
                "dfs.datanode.http.address",
                format!("{host}:{}", http.number()),
            )
            .set(
                "dfs.datanode.ipc.address",
                format!("{host}:{}", ipc.number()),
            )
            .set(
                "dfs.datanode.data.dir",
                format!("file://{}", data_dir.display()),
            );
        Ok(Self {
            server: Server::new(common.launch(name, DATANODE, &site)?),
            data_dir,
            data,
            http,
            _ipc: ipc,
        })
    }

    /// The port on which it takes and gives blocks.
    pub fn port(&self) -> u16 {
        self.data.number()
    }

    /// Where it keeps its blocks.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Waits until its NameNode has its block report, and so uses it.
    ///
    /// # Errors
    /// If it ends, or is not ready in time; with the end of its log.
    pub fn await_ready(&self) -> Result<()> {
        self.server
            .await_ready("a NameNode has the DataNode's report", || {
                jmx::datanode_has_reported(self.http.number())
            })
    }
}
