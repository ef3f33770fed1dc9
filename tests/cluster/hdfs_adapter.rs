//! stepdown's HDFS storage against real NameNodes and DataNodes: its promises, its refusals.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt;
use stepdown::hadoop::credentials::Login;
use stepdown::hadoop::{ConfSource, Environment};
use stepdown::storage::conformance::{
    BelowFile, Capabilities, DirRename, Identities, Report, run_all,
};
use stepdown::storage::open::{StorageOptions, Storages};
use stepdown::storage::{
    Attributes, Authority, CreateMode, Depth, ErrorKind, FileKind, Storage, StorageError,
    StoragePath, Touched,
};

use crate::common::{HadoopVersion, Hdfs};

/// The default file system of a configuration, as the user of this process.
pub(crate) fn open(conf_dir: &Path, call_timeout: Duration) -> Arc<dyn Storage> {
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

pub(crate) fn path(text: &str) -> StoragePath {
    StoragePath::parse(text).unwrap()
}

/// Writes a whole file.
pub(crate) async fn write(
    storage: &dyn Storage,
    path: &StoragePath,
    mode: CreateMode,
    content: &[u8],
) -> Result<(), StorageError> {
    let mut writer = storage.create(path, mode).await?;
    for piece in content.chunks(256 * 1024) {
        if let Err(error) = writer.write(Bytes::copy_from_slice(piece)).await {
            writer.abort().await?;
            return Err(error);
        }
    }
    writer.finish().await
}

/// The sort of a failure; panics on success.
pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T, StorageError>) -> ErrorKind {
    let error = result.unwrap_err();
    println!("  {}", chain(&error));
    error.kind
}

/// An error with its causes, as people see it.
pub(crate) fn chain(error: &StorageError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

pub(crate) const CALL: Duration = Duration::from_secs(10);

async fn keeps_all_promises(storage: &dyn Storage, root: &str) -> Report {
    let capabilities = Capabilities {
        identities: Identities::None,
        below_file: BelowFile::NotADirectory,
        dir_rename: DirRename::Atomic,
        name_bytes: 255,
    };
    let start = Instant::now();
    let report = run_all(storage, &path(root), capabilities).await;
    let report = report.unwrap_or_else(|failure| panic!("{failure}: {:?}", failure.source));
    println!("{report:?} in {:?}", start.elapsed());
    assert!(report.promises >= 38 && report.checks > 4_500, "{report:?}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_all_promises_on_hadoop_3_4() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let storage = open(hdfs.conf_dir(), CALL);
    keeps_all_promises(&*storage, &hdfs.fresh_dir("conformance")?).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_all_promises_to_a_plain_user() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = hdfs.fresh_dir("conformance")?;
    hdfs.dfs(&["-chown", "alice", &dir])?;
    let storage = open_as(hdfs.conf_dir(), CALL, Some("alice"));
    keeps_all_promises(&*storage, &dir).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_all_promises_on_hadoop_2_7() -> Result<()> {
    let hdfs = Hdfs::builder().version(HadoopVersion::V2_7).start()?;
    let storage = open(hdfs.conf_dir(), CALL);
    keeps_all_promises(&*storage, "/conformance").await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_all_promises_behind_a_mount_table() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = hdfs.fresh_dir("mounted")?;
    let target = format!("{}{dir}", hdfs.nn_uri());
    let options = StorageOptions {
        hadoop_conf: ConfSource::Dir(hdfs.conf_dir().to_owned()),
        hadoop_overrides: [("fs.viewfs.mounttable.c.link./mnt/data".to_owned(), target)].into(),
        ..StorageOptions::default()
    };
    let view = Storages::new(options).open(&Authority::Viewfs("c".to_owned()))?;
    keeps_all_promises(&*view, "/mnt/data/conformance").await;
    let listed = view.list(&path("/mnt"), Depth::Children).await?;
    assert_eq!(listed[0].path, path("/mnt/data"));
    assert!(hdfs.dfs(&["-ls", &dir])?.contains("conformance"));
    Ok(())
}

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn files_of_all_sizes_come_back_as_they_went() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = path(&hdfs.fresh_dir("sizes")?);
    let storage = open(hdfs.conf_dir(), CALL);
    for size in [1, 511, 512, 64 * 1024, MIB - 1, MIB, MIB + 1, 5 * MIB + 7] {
        let content: Vec<u8> = (0..size).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for mode in [CreateMode::New, CreateMode::Replace, CreateMode::Scratch] {
            let file = dir.join(&format!("{size}"));
            let start = Instant::now();
            write(&*storage, &file, mode, &content).await?;
            let took = start.elapsed();
            let mut read = Vec::new();
            let mut pieces = storage.open_read(&file).await?;
            while let Some(piece) = pieces.next().await {
                read.extend_from_slice(&piece?);
            }
            assert_eq!(read, content);
            let small = storage.read_small(&file, content.len() as u64).await?;
            assert_eq!(small, content);
            println!("{size:>8} bytes {mode:?}: {took:?}");
        }
    }
    // Nothing temporary is left.
    let left = storage.list(&dir, Depth::Tree).await?;
    assert_eq!(left.len(), 8, "{left:?}");
    // Hadoop's own tool reads the same.
    let digest = hdfs.dfs(&["-cat", dir.join("511").as_str()])?;
    assert_eq!(
        digest.len(),
        String::from_utf8_lossy(
            &(0..511)
                .map(|i| u8::try_from(i % 251).unwrap())
                .collect::<Vec<_>>()
        )
        .len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_umask_of_the_configuration_counts() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = path(&hdfs.fresh_dir("umask")?);
    for (umask, file_mode, dir_mode) in [
        ("022", 0o644, 0o755),
        ("u=rwx,g=rx,o=", 0o640, 0o750),
        ("077", 0o600, 0o700),
    ] {
        let options = StorageOptions {
            hadoop_conf: ConfSource::Dir(hdfs.conf_dir().to_owned()),
            hadoop_overrides: [("dfs.umaskmode".to_owned(), umask.to_owned())].into(),
            ..StorageOptions::default()
        };
        let storage = Storages::new(options).open(&Authority::Hdfs(String::new()))?;
        let made = dir.join(&format!("{dir_mode:o}"));
        storage.create_dir(&made).await?;
        storage.create_dir_all(&made.join("a").join("b")).await?;
        storage.touch(&made.join("touched")).await?;
        write(&*storage, &made.join("written"), CreateMode::New, b"x").await?;
        for entry in storage.list(&made, Depth::Tree).await? {
            let expected = if entry.kind == FileKind::Dir {
                dir_mode
            } else {
                file_mode
            };
            assert_eq!(entry.mode, Some(expected), "{umask}: {entry:?}");
        }
        assert_eq!(storage.stat(&made).await?.mode, Some(dir_mode));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_quotas_and_safe_mode_are_told_apart() -> Result<()> {
    let hdfs = Hdfs::builder().start()?;
    let storage = open(hdfs.conf_dir(), CALL);
    let closed = path("/closed");
    storage.create_dir(&closed).await?;
    storage.touch(&closed.join("m")).await?;
    let mode = Attributes {
        mode: Some(0o700),
        ..Attributes::default()
    };
    storage.set_attributes(&closed, &mode).await?;

    println!("permissions:");
    let alice = open_as(hdfs.conf_dir(), CALL, Some("alice"));
    for name in ["m", "absent"] {
        let file = closed.join(name);
        assert_eq!(kind(alice.stat(&file).await), ErrorKind::PermissionDenied);
        assert_eq!(
            kind(alice.delete_file(&file).await),
            ErrorKind::PermissionDenied
        );
        assert_eq!(kind(alice.touch(&file).await), ErrorKind::PermissionDenied);
    }
    assert_eq!(
        kind(alice.identify_dir(&closed).await),
        ErrorKind::PermissionDenied
    );
    assert_eq!(
        kind(alice.list(&closed, Depth::Children).await),
        ErrorKind::PermissionDenied
    );
    assert_eq!(
        kind(alice.create_dir(&path("/x")).await),
        ErrorKind::PermissionDenied
    );
    assert_eq!(
        kind(alice.rename(&closed, &path("/y")).await),
        ErrorKind::PermissionDenied
    );

    println!("quotas:");
    let small = path("/small");
    storage.create_dir(&small).await?;
    hdfs.set_name_quota("/small", 2)?;
    storage.touch(&small.join("1")).await?;
    assert_eq!(
        kind(storage.touch(&small.join("2")).await),
        ErrorKind::QuotaExceeded
    );
    assert_eq!(
        kind(write(&*storage, &small.join("2"), CreateMode::New, b"x").await),
        ErrorKind::QuotaExceeded
    );
    hdfs.clear_quotas("/small")?;
    hdfs.set_space_quota("/small", 1_000_000)?;
    for mode in [CreateMode::New, CreateMode::Replace] {
        assert_eq!(
            kind(write(&*storage, &small.join("3"), mode, b"x").await),
            ErrorKind::QuotaExceeded
        );
    }
    hdfs.clear_quotas("/small")?;
    let left = storage.list(&small, Depth::Children).await?;
    assert_eq!(left.len(), 1, "{left:?}");

    println!("safe mode:");
    hdfs.enter_safe_mode()?;
    let file = path("/small/1");
    assert_eq!(storage.stat(&file).await?.kind, FileKind::File);
    assert_eq!(
        kind(storage.stat(&path("/small/none")).await),
        ErrorKind::NotFound
    );
    assert_eq!(kind(storage.touch(&file).await), ErrorKind::SafeMode);
    assert_eq!(
        kind(storage.touch(&path("/small/none")).await),
        ErrorKind::SafeMode
    );
    assert_eq!(kind(storage.delete_file(&file).await), ErrorKind::SafeMode);
    assert_eq!(
        kind(storage.create_dir(&path("/z")).await),
        ErrorKind::SafeMode
    );
    assert_eq!(
        kind(storage.rename(&file, &path("/z")).await),
        ErrorKind::SafeMode
    );
    assert_eq!(
        kind(write(&*storage, &path("/z"), CreateMode::New, b"x").await),
        ErrorKind::SafeMode
    );
    hdfs.leave_safe_mode()?;
    assert_eq!(storage.touch(&file).await?, Touched::Refreshed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_touch_has_the_time_of_the_namenode_and_keeps_the_content() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = path(&hdfs.fresh_dir("touch")?);
    let storage = open(hdfs.conf_dir(), CALL);
    for content in [&b""[..], b"{}"] {
        let file = dir.join(&format!("m{}", content.len()));
        write(&*storage, &file, CreateMode::New, content).await?;
        hdfs.dfs(&["-touch", "-m", "-t", "20200101:000000", file.as_str()])?;
        assert!(storage.stat(&file).await?.modified_at < "2021-01-01T00:00:00Z".parse()?);
        assert_eq!(storage.touch(&file).await?, Touched::Refreshed);
        let touched = storage.stat(&file).await?;
        // The NameNode's clock is this host's here.
        let age = jiff::Timestamp::now().duration_since(touched.modified_at);
        assert!(age.abs() < jiff::SignedDuration::from_secs(10), "{age:?}");
        assert_eq!(storage.read_small(&file, 10).await?, content);
    }
    assert_eq!(storage.list(&dir, Depth::Children).await?.len(), 2);
    Ok(())
}
