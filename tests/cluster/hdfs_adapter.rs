//! stepdown's HDFS storage against real NameNodes and DataNodes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use stepdown::hadoop::credentials::Login;
use stepdown::hadoop::{ConfSource, Environment};
use stepdown::storage::conformance::{
    BelowFile, Capabilities, DirRename, Identities, Report, run_all,
};
use stepdown::storage::open::{StorageOptions, Storages};
use stepdown::storage::{Authority, Storage, StoragePath};

use crate::common::{HadoopVersion, Hdfs};

/// The default file system of a configuration, as the user of this process.
fn open(conf_dir: &Path, call_timeout: Duration) -> Arc<dyn Storage> {
    open_as(conf_dir, call_timeout, None)
}

fn open_as(conf_dir: &Path, call_timeout: Duration, user: Option<&str>) -> Arc<dyn Storage> {
    let options = StorageOptions {
        call_timeout,
        hadoop_conf: ConfSource::Dir(conf_dir.to_owned()),
        login: Login {
            user: user.map(str::to_owned),
            ..Login::default()
        },
        ..StorageOptions::default()
    };
    let storages = Storages::with_environment(options, Environment::of_process());
    storages.open(&Authority::Hdfs(String::new())).unwrap()
}

fn path(text: &str) -> StoragePath {
    StoragePath::parse(text).unwrap()
}

const CALL: Duration = Duration::from_secs(10);

async fn keeps_all_promises(hdfs: &Hdfs, user: Option<&str>) -> Report {
    let capabilities = Capabilities {
        identities: Identities::None,
        below_file: BelowFile::NotADirectory,
        dir_rename: DirRename::Atomic,
        name_bytes: 255,
    };
    let storage = open_as(hdfs.conf_dir(), CALL, user);
    let start = Instant::now();
    let root = hdfs.fresh_dir("conformance").unwrap();
    if let Some(user) = user {
        hdfs.dfs(&["-chown", user, &root]).unwrap();
    }
    let root = path(&root);
    let report = run_all(&*storage, &root, capabilities).await;
    let report = report.unwrap_or_else(|failure| panic!("{failure}: {:?}", failure.source));
    println!("{report:?} in {:?}", start.elapsed());
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_all_promises_on_hadoop_3_4() -> Result<()> {
    keeps_all_promises(Hdfs::shared()?, None).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_all_promises_to_a_plain_user() -> Result<()> {
    keeps_all_promises(Hdfs::shared()?, Some("alice")).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_all_promises_on_hadoop_2_7() -> Result<()> {
    let hdfs = Hdfs::builder().version(HadoopVersion::V2_7).start()?;
    keeps_all_promises(&hdfs, None).await;
    Ok(())
}
