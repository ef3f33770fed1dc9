//! stepdown's HDFS storage while servers hang, die, come back, or lose answers.
//!
//! The proxy recognises a call by its name anywhere in a request, so no path may contain one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use stepdown::storage::{CreateMode, Depth, ErrorKind, Removal, Storage, StoragePath, Touched};

use crate::common::isolated::{isolated, set_loopback};
use crate::common::proxy::{CutProxy, Lost, Traffic};
use crate::common::{HadoopVersion, Hdfs, wait_until_async};
use crate::hdfs_adapter::{CALL, kind, open, path, write};

/// A time-out short enough to be waited for.
const SHORT: Duration = Duration::from_secs(2);
/// What a call may take beyond its time-out on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

/// The sort of a failure that comes within the call's time.
async fn kind_in_time<T: std::fmt::Debug>(
    limit: Duration,
    call: impl Future<Output = Result<T, stepdown::storage::StorageError>>,
) -> ErrorKind {
    let start = Instant::now();
    let found = kind(call.await);
    let took = start.elapsed();
    println!("    {found:?} after {took:?}");
    assert!(took < limit, "{took:?}");
    found
}

async fn answers(storage: &Arc<dyn Storage>, path: &StoragePath) -> Result<Duration> {
    let start = Instant::now();
    wait_until_async(Duration::from_mins(1), "the NameNode answers", async || {
        storage.stat(path).await.is_ok()
    })
    .await?;
    Ok(start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_namenode_times_out_and_comes_back() -> Result<()> {
    let hdfs = Hdfs::builder().start()?;
    let storage = open(hdfs.conf_dir(), SHORT);
    let (dir, file) = (path("/d"), path("/d/m"));
    storage.create_dir(&dir).await?;
    storage.touch(&file).await?;

    hdfs.namenode().suspend()?;
    for _ in 0..4 {
        assert_eq!(
            kind_in_time(SHORT + SLACK, storage.stat(&file)).await,
            ErrorKind::TimedOut
        );
        assert_eq!(
            kind_in_time(SHORT + SLACK, storage.list(&dir, Depth::Children)).await,
            ErrorKind::TimedOut
        );
        assert_eq!(
            kind_in_time(SHORT + SLACK, storage.identify_dir(&dir)).await,
            ErrorKind::TimedOut
        );
    }
    // Sent over a connection that had answered: it may have been carried out.
    let sent = kind_in_time(SHORT + SLACK, storage.create_dir_all(&path("/late"))).await;
    assert_eq!(sent, ErrorKind::OutcomeUnknown);
    // Not sent at all, since the connection did not answer any more.
    let held = kind_in_time(SHORT + SLACK, storage.create_dir_all(&path("/never"))).await;
    assert_eq!(held, ErrorKind::TimedOut);
    let epoch = storage.epoch();
    assert!(epoch > 0, "no client was replaced");

    hdfs.namenode().resume()?;
    println!("answers again after {:?}", answers(&storage, &file).await?);
    // Hadoop skips a request whose client has gone when its turn comes; both happens.
    let late = storage
        .stat(&path("/late"))
        .await
        .map_err(|error| error.kind);
    println!("what became of the late directory: {late:?}");
    assert!(matches!(late, Ok(_) | Err(ErrorKind::NotFound)), "{late:?}");
    assert_eq!(
        kind(storage.stat(&path("/never")).await),
        ErrorKind::NotFound
    );
    assert_eq!(storage.touch(&file).await?, Touched::Refreshed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namenode_that_is_restarted_is_found_again() -> Result<()> {
    let hdfs = Hdfs::builder().start()?;
    let storage = open(hdfs.conf_dir(), SHORT);
    let file = path("/m");
    storage.touch(&file).await?;

    hdfs.namenode().kill()?;
    for _ in 0..3 {
        assert_eq!(
            kind_in_time(SHORT + SLACK, storage.stat(&file)).await,
            ErrorKind::Unreachable
        );
        let changed = kind_in_time(SHORT + SLACK, storage.touch(&path("/x"))).await;
        assert_eq!(changed, ErrorKind::Unreachable);
    }
    hdfs.namenode().start()?;
    // All that it says while it starts is something else than "not there".
    let mut told = Vec::new();
    let start = Instant::now();
    wait_until_async(
        Duration::from_mins(2),
        "the NameNode answers",
        async || match storage.stat(&file).await {
            Ok(_) => true,
            Err(error) => {
                told.push(error.kind);
                false
            }
        },
    )
    .await?;
    println!(
        "answers again after {:?}; before that {told:?}",
        start.elapsed()
    );
    assert!(!told.contains(&ErrorKind::NotFound), "{told:?}");
    let mut told = Vec::new();
    wait_until_async(
        Duration::from_mins(2),
        "the NameNode takes changes",
        async || match storage.touch(&file).await {
            Ok(_) => true,
            Err(error) => {
                told.push(error.kind);
                false
            }
        },
    )
    .await?;
    println!("takes changes; before that {told:?}");
    assert!(
        told.iter().all(|kind| *kind == ErrorKind::SafeMode),
        "{told:?}"
    );
    Ok(())
}

/// What stays of a call whose answer is lost: it is unknown, it was carried out, and looking tells.
async fn lost_answers(hdfs: &Hdfs) -> Result<()> {
    let proxy = CutProxy::start(hdfs.namenode().port())?;
    let storage = open(&proxy.conf_dir(hdfs)?, SHORT);
    let root = path(&hdfs.fresh_dir("cut")?);
    let file = |name: &str| root.join(name);
    for name in ["from", "gone", "m"] {
        storage.touch(&file(name)).await?;
    }

    proxy.lose_next("mkdirs", Lost::Answer);
    let lost = kind_in_time(SHORT + SLACK, storage.create_dir_all(&file("dir"))).await;
    assert_eq!(lost, ErrorKind::OutcomeUnknown);
    assert!(storage.stat(&file("dir")).await.is_ok());

    proxy.lose_next("rename2", Lost::Answer);
    let lost = kind_in_time(SHORT + SLACK, storage.rename(&file("from"), &file("to"))).await;
    assert_eq!(lost, ErrorKind::OutcomeUnknown);
    assert!(storage.stat(&file("to")).await.is_ok());
    assert_eq!(kind(storage.stat(&file("from")).await), ErrorKind::NotFound);

    proxy.lose_next("delete", Lost::Answer);
    let lost = kind_in_time(SHORT + SLACK, storage.delete_file(&file("gone"))).await;
    assert_eq!(lost, ErrorKind::OutcomeUnknown);
    assert_eq!(kind(storage.stat(&file("gone")).await), ErrorKind::NotFound);

    proxy.lose_next("create", Lost::Answer);
    let lost = kind_in_time(SHORT + SLACK, storage.touch(&file("touched"))).await;
    assert_eq!(lost, ErrorKind::OutcomeUnknown);
    assert!(storage.stat(&file("touched")).await.is_ok());

    // A request that never arrived looks the same to the caller.
    proxy.lose_next("mkdirs", Lost::Request);
    let lost = kind_in_time(SHORT + SLACK, storage.create_dir_all(&file("never"))).await;
    assert_eq!(lost, ErrorKind::OutcomeUnknown);
    assert_eq!(
        kind(storage.stat(&file("never")).await),
        ErrorKind::NotFound
    );

    // A read is asked again and nobody notices.
    proxy.lose_next("getFileInfo", Lost::Answer);
    assert!(storage.stat(&file("m")).await.is_ok());
    proxy.lose_next("getListing", Lost::Answer);
    assert!(storage.list(&root, Depth::Tree).await.is_ok());
    assert_eq!(proxy.cuts(), 7);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_leaves_the_outcome_unknown() -> Result<()> {
    lost_answers(Hdfs::shared()?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_leaves_the_outcome_unknown_on_hadoop_2_7() -> Result<()> {
    lost_answers(&Hdfs::builder().version(HadoopVersion::V2_7).start()?).await
}

/// A file is published under a name that only its writer knows, so its writer can find out.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_finds_out_what_became_of_its_file() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let proxy = CutProxy::start(hdfs.namenode().port())?;
    let storage = open(&proxy.conf_dir(hdfs)?, CALL);
    let root = path(&hdfs.fresh_dir("published")?);
    let calls = ["create", "addBlock", "complete", "rename2"];
    for (call, lost) in calls
        .iter()
        .flat_map(|c| [(c, Lost::Answer), (c, Lost::Request)])
    {
        for mode in [CreateMode::New, CreateMode::Replace] {
            let file = root.join(&format!("{call}-{lost:?}-{mode:?}"));
            let cuts = proxy.cuts();
            proxy.lose_next(call, lost);
            let written = write(&*storage, &file, mode, b"content").await;
            assert_eq!(proxy.cuts(), cuts + 1, "{call}");
            match written {
                Ok(()) => assert_eq!(storage.read_small(&file, 100).await?, "content"),
                Err(error) => {
                    println!("  {call} {lost:?} {mode:?}: {error}");
                    assert_ne!(
                        error.kind,
                        ErrorKind::OutcomeUnknown,
                        "{call} {lost:?}: {error}"
                    );
                    assert_eq!(kind(storage.stat(&file).await), ErrorKind::NotFound);
                    write(&*storage, &file, mode, b"content").await?;
                }
            }
        }
    }
    // Directories that are made exclusively are published in the same way.
    proxy.lose_next("rename2", Lost::Answer);
    storage.create_dir(&root.join("dir")).await?;
    assert_eq!(
        kind(storage.create_dir(&root.join("dir")).await),
        ErrorKind::AlreadyExists
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_all_the_time_do_not_make_files_absent() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let proxy = CutProxy::start(hdfs.namenode().port())?;
    let storage = open(&proxy.conf_dir(hdfs)?, SHORT);
    let file = path(&hdfs.fresh_dir("broken")?).join("m");
    storage.touch(&file).await?;
    let mut seen = std::collections::BTreeMap::new();
    for round in 0..40 {
        proxy.set(match round % 4 {
            0 => Traffic::Drop,
            1 | 3 => Traffic::Pass,
            _ => Traffic::Hold,
        });
        if round % 4 == 1 {
            proxy.lose_next("getFileInfo", Lost::Answer);
        }
        let found = storage.stat(&file).await;
        let word = found.map_or_else(
            |error| format!("{:?}", error.kind),
            |_| "present".to_owned(),
        );
        *seen.entry(word).or_insert(0) += 1;
    }
    println!("{seen:?}");
    assert!(!seen.contains_key("NotFound"), "{seen:?}");
    assert!(seen["present"] >= 10, "{seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_datanode_only_content_fails() -> Result<()> {
    let hdfs = Hdfs::builder().start()?;
    let storage = open(hdfs.conf_dir(), CALL);
    write(&*storage, &path("/before"), CreateMode::New, b"before").await?;
    hdfs.datanodes()[0].kill()?;
    let limit = Duration::from_secs(40);
    for mode in [CreateMode::New, CreateMode::Replace, CreateMode::Scratch] {
        let failed = kind_in_time(limit, write(&*storage, &path("/a"), mode, b"a")).await;
        assert!(
            matches!(failed, ErrorKind::Unreachable | ErrorKind::NoSpace),
            "{failed:?}"
        );
    }
    let failed = kind_in_time(
        limit,
        write(&*storage, &path("/big"), CreateMode::New, &vec![1; 3 << 20]),
    )
    .await;
    assert!(
        matches!(failed, ErrorKind::Unreachable | ErrorKind::NoSpace),
        "{failed:?}"
    );
    let failed = kind_in_time(limit, storage.read_small(&path("/before"), 100)).await;
    assert_eq!(failed, ErrorKind::Unreachable);
    assert_eq!(storage.touch(&path("/marker")).await?, Touched::Created);
    assert_eq!(storage.touch(&path("/marker")).await?, Touched::Refreshed);
    assert!(storage.stat(&path("/before")).await.is_ok());

    hdfs.restart_datanode(0)?;
    wait_until_async(
        Duration::from_mins(1),
        "content is taken again",
        async || {
            write(&*storage, &path("/a"), CreateMode::Replace, b"after")
                .await
                .is_ok()
        },
    )
    .await?;
    assert_eq!(storage.read_small(&path("/a"), 100).await?, "after");
    assert_eq!(storage.read_small(&path("/before"), 100).await?, "before");
    let left = storage.list(&StoragePath::root(), Depth::Children).await?;
    let left: Vec<_> = left
        .iter()
        .map(|entry| entry.path.name())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_datanode_does_not_hang_a_writer() -> Result<()> {
    let hdfs = Hdfs::builder().start()?;
    let storage = open(hdfs.conf_dir(), CALL);
    write(&*storage, &path("/before"), CreateMode::New, b"before").await?;
    hdfs.datanodes()[0].suspend()?;
    let limit = Duration::from_secs(40);
    let [before, small, large] = ["/before", "/small", "/large"].map(path);
    let small = write(&*storage, &small, CreateMode::New, b"small");
    let content = vec![1; 40 << 20];
    let large = write(&*storage, &large, CreateMode::New, &content);
    let (small, large, read, ()) = tokio::join!(
        kind_in_time(limit, small),
        kind_in_time(limit, large),
        kind_in_time(CALL + SLACK, storage.read_small(&before, 100)),
        async {
            // The NameNode is fine, and so are markers.
            for i in 0..20 {
                storage.touch(&path(&format!("/m{i}"))).await.unwrap();
            }
        }
    );
    assert_eq!(
        (small, large, read),
        (
            ErrorKind::TimedOut,
            ErrorKind::TimedOut,
            ErrorKind::TimedOut
        )
    );
    hdfs.datanodes()[0].resume()?;
    wait_until_async(
        Duration::from_mins(1),
        "content is taken again",
        async || {
            write(&*storage, &path("/small"), CreateMode::Replace, b"after")
                .await
                .is_ok()
        },
    )
    .await?;
    assert_eq!(storage.read_small(&path("/small"), 100).await?, "after");
    Ok(())
}

#[test]
fn a_host_that_vanishes_is_no_absence() -> Result<()> {
    HadoopVersion::chosen()?.prepare()?;
    isolated("hdfs_outages::a_host_that_vanishes_is_no_absence", || {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let hdfs = Hdfs::builder().start()?;
            let storage = open(hdfs.conf_dir(), SHORT);
            let file = path("/m");
            storage.touch(&file).await?;
            set_loopback(false)?;
            for _ in 0..4 {
                // Packets get lost without a word: neither a reset nor a refusal.
                let found = kind_in_time(SHORT + SLACK, storage.stat(&file)).await;
                assert!(
                    matches!(found, ErrorKind::TimedOut | ErrorKind::Unreachable),
                    "{found:?}"
                );
                let found = kind_in_time(SHORT + SLACK, storage.delete_file(&file)).await;
                assert!(
                    matches!(found, ErrorKind::TimedOut | ErrorKind::Unreachable),
                    "{found:?}"
                );
            }
            set_loopback(true)?;
            println!("answers again after {:?}", answers(&storage, &file).await?);
            assert_eq!(storage.delete_file(&file).await?, Removal::Deleted);
            Ok(())
        })
    })
}

/// Connections of this machine to a port of its own.
fn connections_to(port: u16) -> Result<usize> {
    let table = std::fs::read_to_string("/proc/self/net/tcp")?;
    let remote = format!(":{port:04X}");
    let is_open = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        fields
            .next()
            .is_some_and(|address| address.ends_with(&remote))
            && fields.next() == Some("01")
    };
    Ok(table.lines().filter(is_open).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_given_up_leave_no_connection() -> Result<()> {
    let hdfs = Hdfs::builder().start()?;
    let port = hdfs.namenode().port();
    let before = connections_to(port)?;
    for round in 0..5 {
        let storage = open(hdfs.conf_dir(), SHORT);
        write(
            &*storage,
            &path(&format!("/{round}")),
            CreateMode::New,
            b"x",
        )
        .await?;
        storage.stat(&path("/")).await?;
        assert!(
            connections_to(port)? >= before + 2,
            "one to poll and one to write"
        );
    }
    wait_until_async(CALL, "the connections are closed", async || {
        connections_to(port).is_ok_and(|open| open == before)
    })
    .await?;

    // Clients that were replaced because they hung do not stay either.
    let storage = open(hdfs.conf_dir(), SHORT);
    storage.touch(&path("/m")).await?;
    hdfs.namenode().suspend()?;
    let epoch = storage.epoch();
    let start = Instant::now();
    while storage.epoch() < epoch + 4 {
        let (read, changed) = (path("/"), path("/x"));
        let _ = tokio::join!(storage.stat(&read), storage.touch(&changed));
        assert!(
            start.elapsed() < Duration::from_mins(2),
            "clients are not replaced"
        );
    }
    hdfs.namenode().resume()?;
    answers(&storage, &path("/m")).await?;
    wait_until_async(CALL, "only the newest connections are left", async || {
        connections_to(port).is_ok_and(|open| open <= before + 2)
    })
    .await?;
    Ok(())
}
