//! Proves the fixtures themselves with clients that are not stepdown's: the published hdfs-native
//! crate and Hadoop's own tools.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions};
use tokio::time::timeout;

use crate::common::{HadoopVersion, Hdfs, wait_until_async};

const CALL: Duration = Duration::from_secs(5);
/// Far longer than any answer of a server that answers, short for a test.
const HUNG: Duration = Duration::from_secs(2);

/// A client that reports the first failure instead of trying for minutes.
fn connect(uri: &str) -> Result<Client> {
    Ok(ClientBuilder::new()
        .with_url(uri)
        .with_config([("dfs.client.failover.max.attempts", "0")])
        .build()?)
}

async fn write(client: &Client, path: &str, text: &'static str) -> Result<Result<(), HdfsError>> {
    let write = async {
        let mut writer = client.create(path, WriteOptions::default()).await?;
        Box::pin(writer.write_bytes(text.into())).await?;
        Box::pin(writer.close()).await
    };
    Ok(timeout(CALL, Box::pin(write)).await?)
}

/// The exception class of a call that the NameNode refused.
fn refusal<T>(result: Result<T, HdfsError>) -> Result<String> {
    match result {
        Err(HdfsError::RPCError(class, _message)) => Ok(class),
        Err(other) => Err(other).context("not refused by the server"),
        Ok(_) => anyhow::bail!("not refused"),
    }
}

#[tokio::test]
async fn the_shared_cluster_takes_files_and_gives_them_back() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = hdfs.fresh_dir("shared")?;
    let client = connect(hdfs.nn_uri())?;
    let file = format!("{dir}/a");
    write(&client, &file, "hello").await??;
    assert_eq!(hdfs.dfs(&["-cat", &file])?, "hello");
    hdfs.dfs(&["-rm", "-skipTrash", &file])?;
    let gone = timeout(CALL, client.get_file_info(&file)).await?;
    assert!(matches!(gone, Err(HdfsError::FileNotFound(_))), "{gone:?}");
    Ok(())
}

#[tokio::test]
async fn a_private_cluster_can_be_hung_killed_and_restarted() -> Result<()> {
    let start = Instant::now();
    let hdfs = Hdfs::builder().start()?;
    println!(
        "NameNode and DataNode were ready after {:?}",
        start.elapsed()
    );
    let client = connect(hdfs.nn_uri())?;
    write(&client, "/a", "hello").await??;

    hdfs.namenode().suspend()?;
    assert!(timeout(HUNG, client.get_file_info("/a")).await.is_err());
    hdfs.namenode().resume()?;
    timeout(CALL, client.get_file_info("/a")).await??;

    hdfs.namenode().kill()?;
    let refused = timeout(CALL, client.get_file_info("/a")).await?;
    assert!(matches!(refused, Err(HdfsError::IOError(_))), "{refused:?}");
    let start = Instant::now();
    hdfs.restart_namenode()?;
    println!("a NameNode was ready again after {:?}", start.elapsed());
    timeout(CALL, client.get_file_info("/a")).await??;

    hdfs.datanodes()[0].kill()?;
    let lost = write(&client, "/b", "hello").await?;
    assert!(lost.is_err());
    let start = Instant::now();
    hdfs.restart_datanode(0)?;
    println!("a DataNode was ready again after {:?}", start.elapsed());
    write(&client, "/c", "hello").await??;
    assert_eq!(hdfs.dfs(&["-cat", "/a", "/c"])?, "hellohello");
    Ok(())
}

#[tokio::test]
async fn the_oldest_hadoop_works_alike() -> Result<()> {
    let start = Instant::now();
    let hdfs = Hdfs::builder().version(HadoopVersion::V2_7).start()?;
    println!("Hadoop 2.7 was ready after {:?}", start.elapsed());
    let client = connect(hdfs.nn_uri())?;
    write(&client, "/a", "hello").await??;
    hdfs.restart_datanode(0)?;
    hdfs.restart_namenode()?;
    // The old client has not yet noticed that its connection is gone.
    let client = connect(hdfs.nn_uri())?;
    write(&client, "/b", "hello").await??;
    assert_eq!(hdfs.dfs(&["-cat", "/a", "/b"])?, "hellohello");
    let version = hdfs
        .client()
        .succeed("org.apache.hadoop.util.VersionInfo", &[])?;
    assert!(version.starts_with("Hadoop 2.7."), "{version}");
    Ok(())
}

#[tokio::test]
async fn safe_mode_quotas_and_permissions_refuse() -> Result<()> {
    let hdfs = Hdfs::builder().start()?;
    let client = connect(hdfs.nn_uri())?;

    hdfs.enter_safe_mode()?;
    let class = refusal(timeout(CALL, client.mkdirs("/x", 0o755, true)).await?)?;
    assert!(class.ends_with("SafeModeException"), "{class}");
    hdfs.leave_safe_mode()?;
    timeout(CALL, client.mkdirs("/x", 0o755, true)).await??;

    hdfs.set_name_quota("/x", 2)?;
    write(&client, "/x/1", "").await??;
    let class = refusal(write(&client, "/x/2", "").await?)?;
    assert!(class.ends_with("NSQuotaExceededException"), "{class}");
    hdfs.clear_quotas("/x")?;
    write(&client, "/x/2", "").await??;
    hdfs.set_space_quota("/x", 1_000_000)?;
    let class = refusal(write(&client, "/x/3", "text").await?)?;
    assert!(class.ends_with("DSQuotaExceededException"), "{class}");

    hdfs.dfs(&["-chmod", "700", "/x"])?;
    let denied = hdfs.try_dfs_as("alice", &["-ls", "/x"])?;
    assert!(!denied.is_ok());
    assert!(denied.stderr.contains("Permission denied"), "{denied:?}");
    hdfs.dfs(&["-chown", "alice", "/x"])?;
    assert!(hdfs.try_dfs_as("alice", &["-ls", "/x"])?.is_ok());
    Ok(())
}

#[tokio::test]
async fn waiting_ends_at_the_deadline() {
    let waited = wait_until_async(Duration::from_millis(50), "the sky falls", async || {
        std::future::pending().await
    });
    let error = waited.await.unwrap_err().to_string();
    assert!(error.contains("the sky falls"), "{error}");
}
