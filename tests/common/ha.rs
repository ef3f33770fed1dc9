//! Two NameNodes that share their edits through a JournalNode, with manual failover.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};

use super::client::HadoopClient;
use super::cluster_slot::ClusterSlot;
use super::hadoop::{Hadoop, HadoopVersion};
use super::hdfs::{BLOCK_SIZE, server_core_site, server_hdfs_site};
use super::node::{DataNode, JournalNode, NAMENODE, NameNode};
use super::ports::Port;
use super::scratch::{RemovedOnDrop, copy_dir, log_dir, scratch_dir};
use super::server::ClusterSettings;
use super::site::{Site, write_conf_dir};

/// The nameservice of every such cluster.
pub const NAMESERVICE: &str = "ns";
const IDS: [&str; 2] = ["nn1", "nn2"];
const HOST: &str = "127.0.0.1";
const HEAP_MB: u32 = 256;
const HA_ADMIN: &str = "org.apache.hadoop.hdfs.tools.DFSHAAdmin";

/// A nameservice of two NameNodes, one DataNode and one JournalNode.
///
/// NameNode 0 is active at first. The JournalNode keeps an active one that was replaced from writing:
/// it ends at its first edit. Until then it goes on answering reads, as on a real cluster without
/// fencing.
#[derive(Debug)]
pub struct HaHdfs {
    client: HadoopClient,
    namenodes: [NameNode; 2],
    datanode: DataNode,
    journal: JournalNode,
    // After the servers: these are given back when they are gone.
    _dir: RemovedOnDrop,
    _slot: ClusterSlot,
}

impl HaHdfs {
    /// Starts a private one, with NameNode 0 active.
    ///
    /// # Errors
    /// If the parts are missing or a server does not come up, with the end of its log.
    pub fn start() -> Result<Self> {
        let slot = ClusterSlot::acquire()?;
        let hadoop = Hadoop::of(HadoopVersion::chosen()?)?;
        let formatted = hadoop.formatted_name_dir()?;
        let dir = scratch_dir("ha")?;
        let ports = [
            [Port::reserve()?, Port::reserve()?],
            [Port::reserve()?, Port::reserve()?],
        ];
        let mut core = Site::default();
        core.set("fs.defaultFS", format!("hdfs://{NAMESERVICE}"))
            .set("hadoop.tmp.dir", dir.join("tmp").display());
        let client_hdfs = nameservice_site(&ports);
        let conf_dir = dir.join("conf");
        write_conf_dir(&conf_dir, &core, &client_hdfs)?;

        let mut server_core = server_core_site();
        server_core.merge(&core);
        let mut server_hdfs = server_hdfs_site();
        server_hdfs.merge(&client_hdfs);
        let mut settings = ClusterSettings {
            hadoop: hadoop.clone(),
            logs: log_dir("ha")?,
            heap_mb: HEAP_MB,
            core: server_core,
            hdfs: server_hdfs,
            env: Vec::new(),
            jvm_flags: Vec::new(),
            dir: dir.clone(),
        };
        let journal = JournalNode::prepare(&settings, "journalnode")?;
        journal.start()?;
        let journal_uri = format!("qjournal://{HOST}:{}/{NAMESERVICE}", journal.port());
        settings
            .hdfs
            .set("dfs.namenode.shared.edits.dir", journal_uri);
        let [ports1, ports2] = ports;
        let namenodes = [
            prepare_namenode(&settings, IDS[0], ports1)?,
            prepare_namenode(&settings, IDS[1], ports2)?,
        ];
        let datanode = DataNode::prepare(&settings, "datanode", HOST)?;
        for namenode in &namenodes {
            copy_dir(&formatted, namenode.name_dir())?;
        }
        journal.await_ready()?;
        // Formats the journal and gives it the edits of the name directory.
        HadoopClient::new(
            hadoop.clone(),
            namenodes[0].conf_dir().to_owned(),
            Vec::new(),
        )
        .succeed(NAMENODE, &["-initializeSharedEdits", "-nonInteractive"])?;
        let ha = Self {
            client: HadoopClient::new(hadoop, conf_dir, Vec::new()),
            namenodes,
            datanode,
            journal,
            _dir: RemovedOnDrop(dir),
            _slot: slot,
        };
        for namenode in &ha.namenodes {
            namenode.start()?;
        }
        ha.datanode.start()?;
        for namenode in &ha.namenodes {
            namenode.await_state("the NameNode answers", |_state| true)?;
        }
        ha.make_active(0)?;
        ha.namenodes[0].await_ready(1)?;
        ha.namenodes[1].await_ready(1)?;
        Ok(ha)
    }

    /// `hdfs://ns`.
    pub fn uri(&self) -> String {
        format!("hdfs://{NAMESERVICE}")
    }

    /// What clients take as `HADOOP_CONF_DIR`.
    pub fn conf_dir(&self) -> &Path {
        self.client.conf_dir()
    }

    /// The environment in which a child process finds this cluster as its default file system.
    pub fn env(&self) -> Vec<(OsString, OsString)> {
        vec![("HADOOP_CONF_DIR".into(), self.conf_dir().into())]
    }

    /// The NameNodes, to be killed, suspended, looked at.
    pub fn namenodes(&self) -> &[NameNode; 2] {
        &self.namenodes
    }

    /// The DataNode.
    pub fn datanode(&self) -> &DataNode {
        &self.datanode
    }

    /// The JournalNode: an active NameNode ends at the next change without it.
    pub fn journal(&self) -> &JournalNode {
        &self.journal
    }

    /// Hadoop's own command line tools.
    pub fn client(&self) -> &HadoopClient {
        &self.client
    }

    /// Which NameNode says that it is active; `None` if none does. One that hangs says nothing.
    pub fn active(&self) -> Option<usize> {
        self.namenodes.iter().position(is_active)
    }

    /// Makes NameNode `to` active and the other one standby (`haadmin -failover`). Works while the
    /// other one hangs or is down: it counts as fenced then, and ends as soon as it goes on.
    ///
    /// # Errors
    /// If `to` does not become active.
    pub fn fail_over(&self, to: usize) -> Result<()> {
        let to_id = id(to)?;
        let from_id = id(usize::from(to == 0))?;
        self.client
            .succeed(HA_ADMIN, &["-ns", NAMESERVICE, "-failover", from_id, to_id])?;
        self.await_active(to)
    }

    /// Makes a NameNode active without a word to the other one
    /// (`haadmin -transitionToActive --forceactive`), which does not learn of it before it writes.
    ///
    /// # Errors
    /// If it does not become active.
    pub fn make_active(&self, index: usize) -> Result<()> {
        let force = "--forceactive";
        let args = ["-ns", NAMESERVICE, "-transitionToActive", force, id(index)?];
        self.client.succeed(HA_ADMIN, &args)?;
        self.await_active(index)
    }

    /// Makes a NameNode standby, so that no one is active until another command.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn make_standby(&self, index: usize) -> Result<()> {
        let args = ["-ns", NAMESERVICE, "-transitionToStandby", id(index)?];
        self.client.succeed(HA_ADMIN, &args).map(drop)
    }

    /// Kills a NameNode if it runs, starts it on the same ports and waits until it answers, as standby.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart_namenode(&self, index: usize) -> Result<()> {
        let namenode = self
            .namenodes
            .get(index)
            .with_context(|| format!("there is no NameNode {index}"))?;
        namenode.start()?;
        namenode.await_state("the NameNode is in standby", |state| {
            state.ha_state == "standby"
        })
    }

    fn await_active(&self, index: usize) -> Result<()> {
        let namenode = self
            .namenodes
            .get(index)
            .with_context(|| format!("there is no NameNode {index}"))?;
        namenode.await_state("the NameNode is active and out of safe mode", |state| {
            state.ha_state == "active" && !state.safe_mode
        })
    }
}

fn id(index: usize) -> Result<&'static str> {
    IDS.get(index)
        .copied()
        .with_context(|| format!("there is no NameNode {index}"))
}

fn is_active(namenode: &NameNode) -> bool {
    namenode
        .state()
        .is_some_and(|state| state.ha_state == "active")
}

fn prepare_namenode(settings: &ClusterSettings, id: &str, ports: [Port; 2]) -> Result<NameNode> {
    let mut own = Site::default();
    own.set("dfs.ha.namenode.id", id);
    NameNode::prepare(settings, id, HOST, ports, &own)
}

fn nameservice_site(ports: &[[Port; 2]; 2]) -> Site {
    let mut site = Site::default();
    site.set("dfs.nameservices", NAMESERVICE)
        .set(format!("dfs.ha.namenodes.{NAMESERVICE}"), IDS.join(","))
        .set(
            format!("dfs.client.failover.proxy.provider.{NAMESERVICE}"),
            "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider",
        )
        .set("dfs.replication", 1)
        .set("dfs.blocksize", BLOCK_SIZE)
        // A replaced NameNode is not killed; the JournalNode refuses its edits.
        .set("dfs.ha.fencing.methods", "shell(/bin/true)")
        // A failover gives a hung NameNode so long before it counts as fenced.
        .set(
            "ha.failover-controller.graceful-fence.rpc-timeout.ms",
            2_000,
        )
        // Nothing but a client has the active one write: a replaced one then lives until a client does.
        .set("dfs.ha.log-roll.period", -1)
        .set("dfs.ha.standby.checkpoints", false);
    for (id, [rpc, http]) in IDS.iter().zip(ports) {
        site.set(
            format!("dfs.namenode.rpc-address.{NAMESERVICE}.{id}"),
            format!("{HOST}:{}", rpc.number()),
        )
        .set(
            format!("dfs.namenode.http-address.{NAMESERVICE}.{id}"),
            format!("{HOST}:{}", http.number()),
        );
    }
    site
}
