//! Proves the fixtures themselves with clients that are not stepdown's: the published hdfs-native
//! crate and Hadoop's own tools.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions};
use tokio::time::timeout;

use crate::common::client::{ToolOutput, run_program};
use crate::common::{HaHdfs, HadoopVersion, Hdfs, SecureHdfs, wait_until_async};

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

/// The variable with which a test hands a path to its child process.
const CHILD_PATH: &str = "STEPDOWN_TEST_CHILD_PATH";

/// Runs one of the ignored tests below in a process of its own: libraries read Kerberos' settings from
/// the environment, which tests of one process share.
fn run_in_child(test: &str, path: &str, env: Vec<(OsString, OsString)>) -> Result<ToolOutput> {
    let test = format!("fixtures::{test}");
    let args = ["--exact", &test, "--ignored", "--nocapture"].map(OsString::from);
    let path = (CHILD_PATH.into(), path.into());
    run_program(
        &std::env::current_exe()?,
        &args,
        env.into_iter().chain([path]),
    )
}

#[tokio::test]
#[ignore = "run by the Kerberos test as its child"]
async fn native_client() -> Result<()> {
    let path = std::env::var(CHILD_PATH)?;
    let client = ClientBuilder::new()
        .with_config([("dfs.client.failover.max.attempts", "0")])
        .build()?;
    Ok(write(&client, &path, "hello").await??)
}

#[test]
fn a_kerberos_cluster_takes_tickets_and_tokens_and_nothing_else() -> Result<()> {
    let start = Instant::now();
    let secure = SecureHdfs::shared()?;
    println!("the secure cluster was ready after {:?}", start.elapsed());
    let dir = secure.hdfs().fresh_dir("secure")?;
    secure.hdfs().dfs(&["-chmod", "777", &dir])?;
    let alice = secure.kdc().add_principal("alice")?;
    let hour = Duration::from_hours(1);
    let ticket = secure.kdc().kinit(&alice, hour)?;

    let file = format!("{dir}/a");
    let tools = secure.client_with(Some(&ticket));
    tools.dfs(&["-touchz", &file])?;
    assert!(tools.dfs(&["-ls", &dir])?.contains("alice"));

    let refused = secure.client_with(None).try_dfs(&["-ls", &dir])?;
    assert!(!refused.is_ok());
    assert!(refused.stderr.contains("KERBEROS"), "{refused:?}");

    let file = format!("{dir}/native");
    let native = |ticket| run_in_child("native_client", &file, secure.env(ticket));
    assert!(native(Some(&ticket))?.is_ok());
    assert_eq!(tools.dfs(&["-cat", &file])?, "hello");
    let refused = native(None)?;
    assert!(!refused.is_ok(), "{refused:?}");

    let expired = secure.kdc().expired_ticket(&alice)?;
    let refused = secure.client_with(Some(&expired)).try_dfs(&["-ls", &dir])?;
    assert!(!refused.is_ok(), "{refused:?}");
    secure.kdc().renew(&expired, &alice, hour)?;
    secure.client_with(Some(&expired)).dfs(&["-ls", &dir])?;

    let token = secure.fetch_delegation_token(&ticket)?;
    let with_token = vec![("HADOOP_TOKEN_FILE_LOCATION".into(), token.into())];
    let tools = secure.client_with(None).with_env(with_token);
    assert!(tools.dfs(&["-ls", &dir])?.contains("alice"));
    Ok(())
}

#[tokio::test]
async fn a_nameservice_fails_over() -> Result<()> {
    let start = Instant::now();
    let ha = HaHdfs::start()?;
    println!("two NameNodes were ready after {:?}", start.elapsed());
    assert_eq!(ha.active(), Some(0));
    ha.client().dfs(&["-touchz", "/a"])?;

    let start = Instant::now();
    ha.fail_over(1)?;
    println!("a failover took {:?}", start.elapsed());
    assert_eq!(ha.active(), Some(1));
    let one = |index: usize| connect(&format!("hdfs://{}", ha.namenodes()[index].address()));
    let class = refusal(timeout(CALL, one(0)?.get_file_info("/a")).await?)?;
    assert!(class.ends_with("StandbyException"), "{class}");
    timeout(CALL, one(1)?.get_file_info("/a")).await??;

    // The active one hangs and is replaced; when it goes on, it still answers reads.
    ha.namenodes()[1].suspend()?;
    let start = Instant::now();
    ha.fail_over(0)?;
    println!("a failover from a hung NameNode took {:?}", start.elapsed());
    timeout(CALL, one(0)?.delete("/a", false)).await??;
    ha.namenodes()[1].resume()?;
    timeout(CALL, one(1)?.get_file_info("/a")).await??;
    let gone = timeout(CALL, one(0)?.get_file_info("/a")).await?;
    assert!(matches!(gone, Err(HdfsError::FileNotFound(_))), "{gone:?}");
    // Its first edit is refused by the journal, and it ends.
    let late = timeout(
        Duration::from_secs(30),
        one(1)?.mkdirs("/late", 0o755, true),
    )
    .await?;
    assert!(late.is_err(), "{late:?}");

    ha.namenodes()[0].kill()?;
    assert_eq!(ha.active(), None);
    ha.restart_namenode(1)?;
    ha.make_active(1)?;
    assert!(!ha.client().try_dfs(&["-test", "-e", "/late"])?.is_ok());
    ha.client().dfs(&["-touchz", "/b"])?;
    Ok(())
}
