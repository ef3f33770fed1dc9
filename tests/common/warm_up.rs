//! Makes Hadoop's programs start in half the time: class archives and a formatted name directory,
//! made once per Hadoop and Java.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::client::{DFS_ADMIN, FS_SHELL, HadoopClient};
use super::hadoop::{Hadoop, cache_dir};
use super::hdfs::{server_core_site, server_hdfs_site};
use super::node::{DATANODE, DataNode, NAMENODE, NameNode};
use super::ports::Port;
use super::scratch::{copy_dir, scratch_dir};
use super::server::ClusterSettings;
use super::site::Site;
use super::wait::wait_until;

/// Longer than another test process needs for the same.
const LOCK_WAIT: Duration = Duration::from_mins(5);
const HOST: &str = "127.0.0.1";

/// The archives and the name directory for `cold`, which has none yet, in a directory that is complete
/// if it is there.
///
/// # Errors
/// If a server does not come up, with the end of its log.
pub fn warm_up(cold: &Hadoop, into: &Path) -> Result<()> {
    let lock = File::create(cache_dir().join("warm-up.lock")).context("cannot make a lock file")?;
    wait_until(
        LOCK_WAIT,
        "another test process is done with Hadoop",
        || lock.try_lock().is_ok(),
    )?;
    if into.exists() {
        return Ok(());
    }
    let parent = into.parent().context("the cache is the root directory")?;
    let work = tempfile::Builder::new()
        .prefix("warm-up-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    run_each_program(cold, work.path())?;
    fs::rename(work.keep(), into).with_context(|| format!("cannot make {}", into.display()))
}

/// The archive that serves `class` best, in the directory made by [`warm_up`]: its own, or the one of
/// a tool that loads much the same.
pub fn archive_for(warm: &Path, class: &str) -> Option<PathBuf> {
    [class, FS_SHELL]
        .into_iter()
        .map(|class| archive_path(warm, class))
        .find(|path| path.exists())
}

fn archive_path(warm: &Path, class: &str) -> PathBuf {
    let name = class.rsplit('.').next().unwrap_or(class);
    warm.join(format!("{name}.jsa"))
}

/// The formatted name directory, in the directory made by [`warm_up`].
pub fn formatted_path(warm: &Path) -> PathBuf {
    warm.join("formatted")
}

fn run_each_program(cold: &Hadoop, into: &Path) -> Result<()> {
    let dir = scratch_dir("warm-up")?;
    let dump = |class| {
        let mut flag = OsString::from("-XX:ArchiveClassesAtExit=");
        flag.push(archive_path(into, class));
        flag
    };
    let [rpc, http] = [Port::reserve()?, Port::reserve()?];
    let mut core = server_core_site();
    core.set("fs.defaultFS", format!("hdfs://{HOST}:{}", rpc.number()))
        .set("hadoop.tmp.dir", dir.join("tmp").display());
    let servers = |class| ClusterSettings {
        hadoop: cold.clone(),
        logs: dir.clone(),
        heap_mb: 256,
        core: core.clone(),
        hdfs: server_hdfs_site(),
        env: Vec::new(),
        jvm_flags: vec![dump(class)],
        dir: dir.clone(),
    };
    let own = Site::default();
    let namenode = NameNode::prepare(&servers(NAMENODE), "namenode", HOST, [rpc, http], &own)?;
    let datanode = DataNode::prepare(&servers(DATANODE), "datanode", HOST)?;
    let tools = HadoopClient::new(cold.clone(), namenode.conf_dir().to_owned(), Vec::new());
    tools.succeed(NAMENODE, &["-format", "-nonInteractive"])?;
    copy_dir(namenode.name_dir(), &formatted_path(into))?;

    namenode.start()?;
    datanode.start()?;
    namenode.await_ready(1)?;
    tools.write_file("/file", b"text")?;
    tools
        .with_jvm_flags(&[dump(FS_SHELL)])
        .dfs(&["-cat", "/file"])?;
    tools
        .with_jvm_flags(&[dump(DFS_ADMIN)])
        .dfsadmin(&["-report"])?;
    datanode.terminate()?;
    namenode.terminate()
}
