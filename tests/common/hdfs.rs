//! A NameNode with DataNodes on loopback ports.

use std::ffi::OsString;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow};

use super::client::{HadoopClient, ToolOutput};
use super::cluster_slot::ClusterSlot;
use super::hadoop::{Hadoop, HadoopVersion};
use super::node::{DataNode, NameNode};
use super::ports::Port;
use super::scratch::{RemovedOnDrop, copy_dir, log_dir, scratch_dir};
use super::server::ClusterSettings;
use super::site::{Site, write_conf_dir};

const HOST: &str = "127.0.0.1";

/// What a cluster is to be like.
#[derive(Debug, Clone)]
pub struct HdfsBuilder {
    version: Option<HadoopVersion>,
    datanodes: usize,
    heap_mb: u32,
    host: &'static str,
    core: Site,
    hdfs: Site,
    server_hdfs: Site,
    env: Vec<(OsString, OsString)>,
    jvm_flags: Vec<OsString>,
}

impl HdfsBuilder {
    /// Another Hadoop than the chosen one ([`HadoopVersion::chosen`]).
    #[must_use]
    pub fn version(mut self, version: HadoopVersion) -> Self {
        self.version = Some(version);
        self
    }

    /// Another number of DataNodes than 1. Replication is this number, 3 at most.
    #[must_use]
    pub fn datanodes(mut self, count: usize) -> Self {
        self.datanodes = count;
        self
    }

    /// Another heap for each server than 256 MB.
    #[must_use]
    pub fn heap_mb(mut self, heap_mb: u32) -> Self {
        self.heap_mb = heap_mb;
        self
    }

    /// Sets a property of `core-site.xml`, for servers and clients.
    #[must_use]
    pub fn core_site(mut self, key: &str, value: &str) -> Self {
        self.core.set(key, value);
        self
    }

    /// Sets a property of `hdfs-site.xml`, for servers and clients.
    #[must_use]
    pub fn hdfs_site(mut self, key: &str, value: &str) -> Self {
        self.hdfs.set(key, value);
        self
    }

    /// Sets a property of `hdfs-site.xml`, for servers only.
    #[must_use]
    pub fn server_hdfs_site(mut self, key: &str, value: &str) -> Self {
        self.server_hdfs.set(key, value);
        self
    }

    /// Another name of the loopback interface than `127.0.0.1`, for servers to listen on.
    #[must_use]
    pub fn host(mut self, host: &'static str) -> Self {
        self.host = host;
        self
    }

    /// Adds to the environment of the servers and of Hadoop's own tools.
    #[must_use]
    pub fn env(mut self, env: Vec<(OsString, OsString)>) -> Self {
        self.env.extend(env);
        self
    }

    /// Adds a JVM flag for the servers and for Hadoop's own tools.
    #[must_use]
    pub fn jvm_flag(mut self, flag: OsString) -> Self {
        self.jvm_flags.push(flag);
        self
    }

    /// `hdfs dfs -rm` moves into the trash, where files stay for this long.
    #[must_use]
    pub fn trash_minutes(self, minutes: u32) -> Self {
        self.core_site("fs.trash.interval", &minutes.to_string())
    }

    /// Starts a cluster of its own, as soon as few enough private ones run. It is ready when this
    /// returns: out of safe mode, all DataNodes usable.
    ///
    /// # Errors
    /// If the parts are missing or a server does not come up, with the end of its log.
    pub fn start(&self) -> Result<Hdfs> {
        let slot = ClusterSlot::acquire()?;
        self.start_in(Some(slot))
    }

    /// Starts a second cluster for the test that already has `first`; it counts as one with it, so
    /// `first` must outlive it.
    ///
    /// # Errors
    /// As for [`HdfsBuilder::start`].
    pub fn start_beside(&self, _first: &Hdfs) -> Result<Hdfs> {
        self.start_in(None)
    }

    /// As [`HdfsBuilder::start`], within a slot that the caller has, or beside the private clusters.
    ///
    /// # Errors
    /// As for [`HdfsBuilder::start`].
    pub fn start_in(&self, slot: Option<ClusterSlot>) -> Result<Hdfs> {
        let hadoop = Hadoop::of(self.version.map_or_else(HadoopVersion::chosen, Ok)?)?;
        let formatted = hadoop.formatted_name_dir()?;
        let dir = scratch_dir("hdfs")?;
        let [rpc, http] = [Port::reserve()?, Port::reserve()?];
        let host = self.host;
        let address = format!("{host}:{}", rpc.number());
        let uri = format!("hdfs://{address}");

        let mut core = Site::default();
        core.set("fs.defaultFS", &uri)
            .set("hadoop.tmp.dir", dir.join("tmp").display())
            .merge(&self.core);
        let mut client_hdfs = Site::default();
        client_hdfs
            .set("dfs.namenode.rpc-address", &address)
            .set("dfs.replication", self.datanodes.clamp(1, 3))
            .set("dfs.blocksize", BLOCK_SIZE)
            .merge(&self.hdfs);
        let conf_dir = dir.join("conf");
        write_conf_dir(&conf_dir, &core, &client_hdfs)?;

        let mut server_core = server_core_site();
        server_core.merge(&core);
        let mut server_hdfs = server_hdfs_site();
        server_hdfs.merge(&client_hdfs).merge(&self.server_hdfs);
        let settings = ClusterSettings {
            hadoop: hadoop.clone(),
            logs: log_dir("hdfs")?,
            heap_mb: self.heap_mb,
            core: server_core,
            hdfs: server_hdfs,
            env: self.env.clone(),
            jvm_flags: self.jvm_flags.clone(),
            dir: dir.clone(),
        };
        let namenode =
            NameNode::prepare(&settings, "namenode", host, [rpc, http], &Site::default())?;
        let datanodes = (0..self.datanodes)
            .map(|index| DataNode::prepare(&settings, &format!("datanode{index}"), host))
            .collect::<Result<Vec<_>>>()?;
        let hdfs = Hdfs {
            client: HadoopClient::new(hadoop, conf_dir, self.env.clone())
                .with_jvm_flags(&self.jvm_flags),
            sites: (core, client_hdfs),
            uri,
            namenode,
            datanodes,
            next_dir: AtomicU32::new(0),
            _dir: RemovedOnDrop(dir),
            _slot: slot,
        };
        copy_dir(&formatted, hdfs.namenode.name_dir())?;
        hdfs.namenode.start()?;
        for datanode in &hdfs.datanodes {
            datanode.start()?;
        }
        hdfs.await_ready()?;
        Ok(hdfs)
    }
}

/// A NameNode takes a whole block off the free space of a DataNode for each file that is being written, and
/// for ten minutes or more for each whose writer was killed. With blocks of 128 MB a few hundred of those fill
/// a disk that has 40 GB left, and no more file can be written.
pub const BLOCK_SIZE: u64 = 16 << 20;

/// Keys that only servers read.
pub fn server_core_site() -> Site {
    let mut site = Site::default();
    // A DataNode that is up before its NameNode tries again soon.
    site.set("ipc.client.connect.retry.interval", 100);
    site
}

/// Keys that only servers read, or that make a small cluster quick.
pub fn server_hdfs_site() -> Site {
    let mut site = Site::default();
    site.set("dfs.namenode.safemode.extension", 0)
        .set(
            "dfs.namenode.datanode.registration.ip-hostname-check",
            false,
        )
        // Lets tests make files of many blocks without writing much.
        .set("dfs.namenode.fs-limits.min-block-size", 4096)
        .set("dfs.heartbeat.interval", 1)
        // Hadoop 2.7's needs classes that come with no package we take it from.
        .set("dfs.webhdfs.enabled", false);
    site
}

/// A running HDFS.
#[derive(Debug)]
pub struct Hdfs {
    client: HadoopClient,
    sites: (Site, Site),
    uri: String,
    namenode: NameNode,
    datanodes: Vec<DataNode>,
    next_dir: AtomicU32,
    // After the servers: these are given back when they are gone.
    _dir: RemovedOnDrop,
    _slot: Option<ClusterSlot>,
}

impl Hdfs {
    /// One DataNode, the chosen Hadoop, defaults.
    pub fn builder() -> HdfsBuilder {
        HdfsBuilder {
            version: None,
            datanodes: 1,
            heap_mb: 256,
            host: HOST,
            core: Site::default(),
            hdfs: Site::default(),
            server_hdfs: Site::default(),
            env: Vec::new(),
            jvm_flags: Vec::new(),
        }
    }

    /// The cluster that all tests of this binary share. They work in directories of their own
    /// ([`Hdfs::fresh_dir`]) and do not stop it, hang it or put it into safe mode.
    ///
    /// # Errors
    /// If it could not be started, the same for each test.
    pub fn shared() -> Result<&'static Hdfs> {
        static SHARED: OnceLock<Result<Hdfs, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                Hdfs::builder()
                    .start_in(None)
                    .map_err(|error| format!("{error:?}"))
            })
            .as_ref()
            .map_err(|error| anyhow!("the shared cluster did not start: {error}"))
    }

    /// `hdfs://127.0.0.1:<port>`.
    pub fn nn_uri(&self) -> &str {
        &self.uri
    }

    /// What clients take as `HADOOP_CONF_DIR`.
    pub fn conf_dir(&self) -> &Path {
        self.client.conf_dir()
    }

    /// Copies of the clients' `core-site.xml` and `hdfs-site.xml`, to be changed and written elsewhere.
    pub fn client_sites(&self) -> (Site, Site) {
        self.sites.clone()
    }

    /// The NameNode, to be killed, suspended, looked at.
    pub fn namenode(&self) -> &NameNode {
        &self.namenode
    }

    /// The DataNodes.
    pub fn datanodes(&self) -> &[DataNode] {
        &self.datanodes
    }

    /// Hadoop's own command line tools.
    pub fn client(&self) -> &HadoopClient {
        &self.client
    }

    /// What `hdfs dfs <args>` prints.
    ///
    /// # Errors
    /// If its exit code is not 0, with what it printed.
    pub fn dfs(&self, args: &[&str]) -> Result<String> {
        self.client.dfs(args)
    }

    /// Makes an empty directory that no other test uses, and returns its absolute path.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn fresh_dir(&self, name: &str) -> Result<String> {
        let number = self.next_dir.fetch_add(1, Ordering::Relaxed);
        let dir = format!("/{name}-{number}");
        self.dfs(&["-mkdir", &dir])?;
        Ok(dir)
    }

    /// Kills the NameNode if it runs, starts it on the same ports and waits until it is ready.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart_namenode(&self) -> Result<()> {
        self.namenode.start()?;
        self.await_ready()
    }

    /// Kills the DataNode if it runs, starts it on the same ports and waits until it can be used.
    ///
    /// # Errors
    /// If there is no such DataNode or it does not come up.
    pub fn restart_datanode(&self, index: usize) -> Result<()> {
        let datanode = self
            .datanodes
            .get(index)
            .with_context(|| format!("there is no DataNode {index}"))?;
        datanode.start()?;
        datanode.await_ready()
    }

    /// Waits until the NameNode is out of safe mode and can use all DataNodes.
    ///
    /// # Errors
    /// If a server ends, or they are not ready in time.
    pub fn await_ready(&self) -> Result<()> {
        self.namenode.await_ready(self.datanodes.len())
    }

    /// Puts the NameNode into safe mode: reads work, changes are refused.
    ///
    /// # Errors
    /// If the NameNode does not answer.
    pub fn enter_safe_mode(&self) -> Result<()> {
        self.client.dfsadmin(&["-safemode", "enter"]).map(drop)
    }

    /// Lets the NameNode leave safe mode.
    ///
    /// # Errors
    /// If the NameNode does not answer.
    pub fn leave_safe_mode(&self) -> Result<()> {
        self.client.dfsadmin(&["-safemode", "leave"]).map(drop)
    }

    /// Limits the number of names in a directory tree, the directory's own included.
    ///
    /// # Errors
    /// If the directory is missing.
    pub fn set_name_quota(&self, dir: &str, names: u64) -> Result<()> {
        self.client
            .dfsadmin(&["-setQuota", &names.to_string(), dir])
            .map(drop)
    }

    /// Limits the bytes in a directory tree, replicas counted. A block being written counts in full.
    ///
    /// # Errors
    /// If the directory is missing.
    pub fn set_space_quota(&self, dir: &str, bytes: u64) -> Result<()> {
        self.client
            .dfsadmin(&["-setSpaceQuota", &bytes.to_string(), dir])
            .map(drop)
    }

    /// Takes both quotas away.
    ///
    /// # Errors
    /// If the directory is missing.
    pub fn clear_quotas(&self, dir: &str) -> Result<()> {
        self.client.dfsadmin(&["-clrQuota", dir])?;
        self.client.dfsadmin(&["-clrSpaceQuota", dir]).map(drop)
    }

    /// Runs `hdfs dfs <args>` as `user`.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn try_dfs_as(&self, user: &str, args: &[&str]) -> Result<ToolOutput> {
        self.client.try_dfs_as(user, args)
    }

    /// The environment in which a child process finds this cluster as its default file system.
    pub fn env(&self) -> Vec<(OsString, OsString)> {
        vec![("HADOOP_CONF_DIR".into(), self.conf_dir().into())]
    }
}
