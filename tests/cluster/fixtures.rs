//! Proves the fixtures themselves with clients that are not stepdown's: the published hdfs-native
//! crate and Hadoop's own tools.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions};
use tokio::time::timeout;

use crate::common::client::{ToolOutput, run_program};
use crate::common::daemon::{leashed, spawn_leashed};
use crate::common::isolated::{run_inside, set_loopback};
use crate::common::ports::Port;
use crate::common::scratch::scratch_dir;
use crate::common::{
    CutProxy, HaHdfs, HadoopVersion, Hdfs, Lost, SecureHdfs, Traffic, isolated, wait_until,
    wait_until_async,
};

/// Longer than any answer takes on a machine that is overloaded.
const CALL: Duration = Duration::from_secs(20);
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
    let args = child_args(test);
    let path = (CHILD_PATH.into(), path.into());
    run_program(
        &std::env::current_exe()?,
        &args,
        env.into_iter().chain([path]),
        CALL * 6,
    )
}

fn child_args(test: &str) -> [OsString; 4] {
    let test = format!("fixtures::{test}");
    ["--exact", &test, "--ignored", "--nocapture"].map(OsString::from)
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
    let frida = secure.kdc().add_principal("frida")?;
    let hour = Duration::from_hours(1);
    let ticket = secure.kdc().kinit(&frida, hour)?;

    let file = format!("{dir}/a");
    let tools = secure.client_with(Some(&ticket));
    tools.dfs(&["-touchz", &file])?;
    assert!(tools.dfs(&["-ls", &dir])?.contains("frida"));

    let refused = secure.client_with(None).try_dfs(&["-ls", &dir])?;
    assert!(!refused.is_ok());
    let words = refused.stderr.to_lowercase();
    assert!(words.contains("kerberos"), "{refused:?}");

    let file = format!("{dir}/native");
    let native = |ticket| run_in_child("native_client", &file, secure.env(ticket));
    assert!(native(Some(&ticket))?.is_ok());
    assert_eq!(tools.dfs(&["-cat", &file])?, "hello");
    let refused = native(None)?;
    assert!(!refused.is_ok(), "{refused:?}");

    let expired = secure.kdc().expired_ticket(&frida)?;
    let refused = secure.client_with(Some(&expired)).try_dfs(&["-ls", &dir])?;
    assert!(!refused.is_ok(), "{refused:?}");
    let refused = native(Some(&expired))?;
    assert!(!refused.is_ok(), "{refused:?}");
    secure.kdc().renew(&expired, &frida, hour)?;
    secure.client_with(Some(&expired)).dfs(&["-ls", &dir])?;

    let token = secure.fetch_delegation_token(&ticket)?;
    let with_token = vec![("HADOOP_TOKEN_FILE_LOCATION".into(), token.into())];
    let tools = secure.client_with(None).with_env(with_token);
    assert!(tools.dfs(&["-ls", &dir])?.contains("frida"));
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
    ha.make_active(0)?;
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
    wait_until(
        Duration::from_secs(30),
        "the replaced NameNode ends",
        || !ha.namenodes()[1].is_running(),
    )?;

    ha.namenodes()[0].kill()?;
    assert_eq!(ha.active(), None);
    ha.restart_namenode(1)?;
    ha.fail_over(1)?;
    assert!(!ha.client().try_dfs(&["-test", "-e", "/late"])?.is_ok());
    ha.client().dfs(&["-touchz", "/b"])?;
    Ok(())
}

#[tokio::test]
async fn a_proxy_holds_drops_and_loses_calls() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = hdfs.fresh_dir("proxy")?;
    let proxy = CutProxy::start(hdfs.namenode().port())?;
    let direct = connect(hdfs.nn_uri())?;
    let client = connect(&proxy.nn_uri())?;
    let exists = async |path: &str| match timeout(CALL, direct.get_file_info(path)).await? {
        Ok(_) => Ok(true),
        Err(HdfsError::FileNotFound(_)) => Ok(false),
        Err(other) => Err(anyhow::Error::from(other)),
    };
    timeout(CALL, client.get_file_info(&dir)).await??;

    proxy.set(Traffic::Hold);
    assert!(timeout(HUNG, client.get_file_info(&dir)).await.is_err());
    proxy.set(Traffic::Pass);
    timeout(CALL, client.get_file_info(&dir)).await??;

    proxy.set(Traffic::Drop);
    let dropped = timeout(CALL, client.get_file_info(&dir)).await?;
    assert!(matches!(dropped, Err(HdfsError::IOError(_))), "{dropped:?}");
    proxy.set(Traffic::Pass);
    timeout(CALL, client.get_file_info(&dir)).await??;

    for (lost, done) in [(Lost::Answer, true), (Lost::Request, false)] {
        let made = format!("{dir}/{lost:?}");
        proxy.lose_next("mkdirs", lost);
        timeout(CALL, client.get_file_info(&dir)).await??;
        let unknown = timeout(CALL, client.mkdirs(&made, 0o755, false)).await?;
        assert!(matches!(unknown, Err(HdfsError::IOError(_))), "{unknown:?}");
        assert_eq!(exists(&made).await?, done);
    }
    assert_eq!(proxy.cuts(), 2);

    let conf = format!("fs.defaultFS={}", proxy.nn_uri());
    hdfs.dfs(&["-D", &conf, "-test", "-d", "/"])?;
    let conf_dir = proxy.conf_dir(hdfs)?;
    let before = proxy.accepted();
    let by_conf = ClientBuilder::new()
        .with_config_dir(&*conf_dir.to_string_lossy())
        .build()?;
    timeout(CALL, by_conf.get_file_info(&dir)).await??;
    assert_eq!(proxy.accepted(), before + 1);
    Ok(())
}

#[test]
fn an_isolated_test_has_a_network_and_mounts_to_lose() -> Result<()> {
    isolated(
        "fixtures::an_isolated_test_has_a_network_and_mounts_to_lose",
        || {
            let dir = scratch_dir("mount")?;
            let dir_name = dir.to_str().context("not UTF-8")?;
            run_inside("mount", &["-t", "tmpfs", "tmpfs", dir_name])?;
            std::fs::write(dir.join("marker"), "")?;
            run_inside("umount", &[dir_name])?;
            assert!(!dir.join("marker").exists());

            let server = TcpListener::bind("127.0.0.1:0")?;
            let address = server.local_addr()?;
            let connect = || TcpStream::connect_timeout(&address, HUNG);
            connect()?;
            set_loopback(false)?;
            assert_eq!(connect().unwrap_err().kind(), ErrorKind::TimedOut);
            set_loopback(true)?;
            connect()?;
            Ok(())
        },
    )
}

#[test]
fn a_cluster_in_isolation_loses_its_network() -> Result<()> {
    HadoopVersion::chosen()?.prepare()?;
    isolated("fixtures::a_cluster_in_isolation_loses_its_network", || {
        let hdfs = Hdfs::builder().start()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let client = connect(hdfs.nn_uri())?;
            timeout(CALL, client.get_file_info("/")).await??;
            set_loopback(false)?;
            assert!(timeout(HUNG, client.get_file_info("/")).await.is_err());
            set_loopback(true)?;
            // TCP itself tries again after some seconds.
            timeout(CALL * 3, client.get_file_info("/")).await??;
            Ok(())
        })
    })
}

#[test]
fn removed_files_go_into_the_trash_where_there_is_one() -> Result<()> {
    let hdfs = Hdfs::builder().trash_minutes(60).start()?;
    hdfs.client().write_file("/marker", b"{}")?;
    hdfs.dfs(&["-rm", "/marker"])?;
    assert!(!hdfs.client().try_dfs(&["-test", "-e", "/marker"])?.is_ok());
    assert!(
        hdfs.dfs(&["-ls", "-R", "/user"])?
            .contains("/.Trash/Current/marker")
    );
    hdfs.client().write_file("/marker", b"{}")?;
    hdfs.dfs(&["-rm", "-skipTrash", "/marker"])?;
    assert_eq!(
        hdfs.dfs(&["-ls", "-R", "/user"])?
            .matches("/marker")
            .count(),
        1
    );
    Ok(())
}

#[test]
fn a_server_that_does_not_come_up_shows_its_log() {
    let broken = Hdfs::builder().server_hdfs_site("dfs.namenode.handler.count", "many");
    let error = format!("{:?}", broken.start().unwrap_err());
    assert!(error.contains("namenode ended with"), "{error}");
    assert!(error.contains("NumberFormatException"), "{error}");
}

#[test]
fn servers_and_their_files_go_when_the_test_process_is_killed() -> Result<()> {
    HadoopVersion::chosen()?.prepare()?;
    let report = scratch_dir("report")?.join("report");
    let mut command = leashed(
        &std::env::current_exe()?,
        &child_args("a_process_that_is_killed"),
    );
    command.env(CHILD_PATH, &report).stdout(Stdio::null());
    let mut child = spawn_leashed(command)?;
    let told = wait_until(CALL * 6, "the child has started a cluster", || {
        report.exists()
    });
    child.kill()?;
    child.wait()?;
    told?;
    let report = std::fs::read_to_string(report)?;
    let mut left: Vec<_> = report.lines().map(PathBuf::from).collect();
    assert_eq!(left.len(), 3, "two processes and a directory: {report}");
    wait_until(CALL * 6, "what the child started is gone", || {
        left.retain(|path| path.exists());
        left.is_empty()
    })
}

#[test]
#[ignore = "run by the test above as its child"]
fn a_process_that_is_killed() -> Result<()> {
    let hdfs = Hdfs::builder().start()?;
    let dir = hdfs.conf_dir().parent().context("no parent")?;
    let pids = [hdfs.namenode().pid(), hdfs.datanodes()[0].pid()];
    let [namenode, datanode] = pids.map(|pid| format!("/proc/{}", pid.unwrap_or_default()));
    let report = PathBuf::from(std::env::var(CHILD_PATH)?);
    let partial = report.with_extension("partial");
    std::fs::write(
        &partial,
        format!("{namenode}\n{datanode}\n{}\n", dir.display()),
    )?;
    std::fs::rename(partial, report)?;
    loop {
        std::thread::park();
    }
}

#[test]
fn reserved_ports_are_distinct_and_can_be_bound() -> Result<()> {
    let ports = (0..50)
        .map(|_| Port::reserve())
        .collect::<Result<Vec<_>>>()?;
    let mut numbers: Vec<_> = ports.iter().map(Port::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 50);
    for number in numbers {
        TcpListener::bind(("127.0.0.1", number))?;
    }
    Ok(())
}

#[test]
fn distcp_runs_in_local_mode() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = hdfs.fresh_dir("distcp")?;
    let [from, to] = ["from", "to"].map(|name| format!("{dir}/{name}"));
    hdfs.client().write_file(&from, b"text")?;
    let start = Instant::now();
    hdfs.client().distcp(&[&from, &to])?;
    println!("distcp took {:?}", start.elapsed());
    assert_eq!(hdfs.dfs(&["-cat", &to])?, "text");
    Ok(())
}
