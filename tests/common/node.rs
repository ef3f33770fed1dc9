//! NameNodes, JournalNodes and DataNodes that can be stopped, killed, hung and started again in the
//! same place.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::jmx;
use super::ports::Port;
use super::server::{ClusterSettings, Server};
use super::site::Site;

/// The NameNode's main class.
pub const NAMENODE: &str = "org.apache.hadoop.hdfs.server.namenode.NameNode";
/// The DataNode's main class.
pub const DATANODE: &str = "org.apache.hadoop.hdfs.server.datanode.DataNode";

/// The JournalNode's main class.
pub const JOURNALNODE: &str = "org.apache.hadoop.hdfs.qjournal.server.JournalNode";

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

            /// The file that it logs to.
            pub fn log(&self) -> &Path {
                self.server.log()
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
        settings: &ClusterSettings,
        name: &str,
        host: &str,
        [rpc, http]: [Port; 2],
        own: &Site,
    ) -> Result<Self> {
        let name_dir = settings.dir.join(name);
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
            server: Server::new(settings.launch(name, NAMENODE, &site)?),
            conf_dir: settings.conf_dir(name),
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
    pub fn prepare(settings: &ClusterSettings, name: &str) -> Result<Self> {
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
        .set(
            "dfs.journalnode.edits.dir",
            settings.dir.join(name).display(),
        );
        Ok(Self {
            server: Server::new(settings.launch(name, JOURNALNODE, &site)?),
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
    pub fn prepare(settings: &ClusterSettings, name: &str, host: &str) -> Result<Self> {
        let [data, http, ipc] = [Port::reserve()?, Port::reserve()?, Port::reserve()?];
        let data_dir = settings.dir.join(name);
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
            server: Server::new(settings.launch(name, DATANODE, &site)?),
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
