//! stepdown's HDFS storage and a pair of NameNodes that take over from each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use stepdown::storage::{CreateMode, Depth, ErrorKind, Storage, StoragePath};
use tokio::task::JoinHandle;

use crate::common::ha::HaHdfs;
use crate::common::wait_until_async;
use crate::hdfs_adapter::{chain, kind, open, path, write};

/// Long for a busy machine, short enough to be waited for some times.
const CALL: Duration = Duration::from_secs(8);

/// What a reader saw of a file that was there all the time.
#[derive(Debug, Default)]
struct Seen {
    present: usize,
    errors: BTreeMap<String, usize>,
    longest: Duration,
    epochs: Vec<u64>,
}

/// Reads as fast as it can, in three ways, until told to stop.
struct Reader {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Seen>,
}

impl Reader {
    fn start(storage: &Arc<dyn Storage>, file: &StoragePath) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, storage, file) = (Arc::clone(&stop), Arc::clone(storage), file.clone());
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            let parent = file.parent().unwrap();
            for round in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let start = Instant::now();
                let outcome = match round % 3 {
                    0 => storage.stat(&file).await.map(drop),
                    1 => storage.read_small(&file, 100).await.map(drop),
                    _ => storage.list(&parent, Depth::Children).await.map(|entries| {
                        assert!(entries.iter().any(|entry| entry.path == file), "not listed");
                    }),
                };
                seen.longest = seen.longest.max(start.elapsed());
                match outcome {
                    Ok(()) => seen.present += 1,
                    Err(error) => {
                        *seen
                            .errors
                            .entry(format!("{:?}: {}", error.kind, chain(&error)))
                            .or_default() += 1;
                        assert_ne!(error.kind, ErrorKind::NotFound, "{error}");
                    }
                }
                let epoch = storage.epoch();
                if seen.epochs.last() != Some(&epoch) {
                    seen.epochs.push(epoch);
                }
            }
            seen
        });
        Self { stop, task }
    }

    async fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.task.await?;
        println!(
            "{} reads, longest {:?}, epochs {:?}",
            seen.present, seen.longest, seen.epochs
        );
        for (error, count) in &seen.errors {
            println!("  {count} x {error}");
        }
        assert!(seen.epochs.is_sorted(), "{:?}", seen.epochs);
        Ok(seen)
    }
}

async fn present(storage: &Arc<dyn Storage>, file: &StoragePath) -> Result<Duration> {
    let start = Instant::now();
    wait_until_async(Duration::from_mins(1), "an answer comes", async || {
        storage.stat(file).await.is_ok()
    })
    .await?;
    Ok(start.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_followed_and_no_file_goes_missing() -> Result<()> {
    let ha = HaHdfs::start()?;
    let storage = open(ha.conf_dir(), CALL);
    let file = path("/markers/m");
    storage.create_dir(&path("/markers")).await?;
    write(&*storage, &file, CreateMode::New, b"{}").await?;
    let other = open(ha.conf_dir(), CALL);

    println!("by command, there and back:");
    let reader = Reader::start(&storage, &file);
    for to in [1, 0, 1] {
        tokio::task::block_in_place(|| ha.fail_over(to))?;
        storage
            .touch(&path(&format!("/markers/after-{to}")))
            .await?;
    }
    let seen = reader.stop().await?;
    assert!(seen.errors.is_empty() && seen.epochs.len() >= 3, "{seen:?}");

    println!("the active one is killed:");
    let reader = Reader::start(&storage, &file);
    ha.namenodes()[1].kill()?;
    tokio::task::block_in_place(|| ha.make_active(0))?;
    println!(
        "answers {:?} after the other one is active",
        present(&storage, &file).await?
    );
    storage.touch(&path("/markers/after-kill")).await?;
    reader.stop().await?;
    tokio::task::block_in_place(|| ha.restart_namenode(1))?;

    println!("the active one hangs:");
    let reader = Reader::start(&storage, &file);
    ha.namenodes()[0].suspend()?;
    let start = Instant::now();
    let unanswered = storage.stat(&file).await.map_err(|error| error.kind);
    println!(
        "{unanswered:?} after {:?} while no other one is active",
        start.elapsed()
    );
    assert!(start.elapsed() < CALL * 2);
    tokio::task::block_in_place(|| ha.fail_over(1))?;
    println!(
        "answers {:?} after the other one is active",
        present(&storage, &file).await?
    );
    storage.touch(&path("/markers/after-hang")).await?;
    reader.stop().await?;

    // A client that comes new, and one that slept through all of it.
    let new = open(ha.conf_dir(), CALL);
    for storage in [&new, &other] {
        println!(
            "a new client answers after {:?}",
            present(storage, &file).await?
        );
        assert_eq!(
            storage
                .list(&path("/markers"), Depth::Children)
                .await?
                .len(),
            5
        );
        assert_eq!(
            kind(storage.create_dir(&path("/markers")).await),
            ErrorKind::AlreadyExists
        );
    }
    ha.namenodes()[0].resume()?;
    Ok(())
}

/// A replaced NameNode that does not know it answers reads from the past. Who was on the new one stays
/// there; and who changes something through the old one learns that it is not the active one.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_namenode_that_does_not_know_it_is_left_at_the_first_change() -> Result<()> {
    let ha = HaHdfs::start()?;
    let old = open(ha.conf_dir(), CALL);
    let file = path("/m");
    old.touch(&file).await?;
    let before = old.epoch();
    ha.namenodes()[0].suspend()?;
    let new = open(ha.conf_dir(), CALL);
    tokio::task::block_in_place(|| ha.fail_over(1))?;
    new.touch(&path("/since")).await?;
    let epoch = new.epoch();
    ha.namenodes()[0].resume()?;

    // It answers again, as if it were active; who has moved on does not go back.
    for _ in 0..100 {
        assert!(new.stat(&path("/since")).await.is_ok());
    }
    assert_eq!(new.epoch(), epoch);

    // The other client may still ask the old one, which does not know the new file.
    println!(
        "the old one says: {:?}",
        old.stat(&path("/since")).await.map_err(|error| error.kind)
    );
    // A change cannot be made there: either it is known not to be done, or it is unknown.
    let changed = old.create_dir(&path("/proof")).await;
    println!("a change there: {:?}", changed.as_ref().map_err(chain));
    wait_until_async(
        Duration::from_mins(1),
        "the client is on the new one",
        async || old.stat(&path("/since")).await.is_ok(),
    )
    .await?;
    assert!(
        old.epoch() > before,
        "the epoch tells that another one answers"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_active_namenode_everything_is_unknown() -> Result<()> {
    let ha = HaHdfs::start()?;
    let storage = open(ha.conf_dir(), CALL);
    let file = path("/m");
    storage.touch(&file).await?;
    tokio::task::block_in_place(|| ha.make_standby(0))?;
    let start = Instant::now();
    assert_eq!(kind(storage.stat(&file).await), ErrorKind::Standby);
    assert_eq!(kind(storage.touch(&path("/x")).await), ErrorKind::Standby);
    assert_eq!(
        kind(storage.list(&StoragePath::root(), Depth::Tree).await),
        ErrorKind::Standby
    );
    println!("three calls took {:?}", start.elapsed());
    assert!(start.elapsed() < CALL * 4);
    ha.namenodes()[0].kill()?;
    assert_eq!(kind(storage.stat(&file).await), ErrorKind::Unreachable);
    // A call that waits long enough gets through on the way.
    let waiting = {
        let (storage, file) = (open(ha.conf_dir(), Duration::from_mins(1)), file.clone());
        tokio::spawn(async move { storage.touch(&file).await })
    };
    tokio::task::block_in_place(|| ha.make_active(1))?;
    assert!(waiting.await?.is_ok());
    assert!(storage.stat(&file).await.is_ok());
    Ok(())
}
