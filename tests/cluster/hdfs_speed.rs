//! How quick stepdown's HDFS storage is. Printed; the limits are loose, since machines are shared.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use stepdown::storage::{CreateMode, Depth, Storage, StorageError, Touched};

use crate::common::{HadoopVersion, Hdfs};
use crate::hdfs_adapter::{CALL, open, path, write};

/// Many small files at once, each read back: the end of a file is where content could get lost.
async fn small_files_are_whole(storage: &Arc<dyn Storage>, root: &str, count: usize) -> Result<()> {
    for writers in [32, 64, 128] {
        let dir = path(root).join(&format!("writers{writers}"));
        storage.create_dir_all(&dir).await?;
        let content = |i: usize| format!("{i} ").repeat(1 + i % 500);
        let start = Instant::now();
        let mut written =
            futures::stream::iter(0..count)
                .map(|i| {
                    let (storage, file) = (Arc::clone(storage), dir.join(&i.to_string()));
                    async move {
                        write(&*storage, &file, CreateMode::Scratch, content(i).as_bytes()).await
                    }
                })
                .buffer_unordered(writers);
        while let Some(result) = written.next().await {
            result?;
        }
        let took = start.elapsed();
        let rate = u32::try_from(count)? * 1000 / u32::try_from(took.as_millis())?.max(1);
        println!("{count} files, {writers} writers: {took:?}, {rate} files/s");
        let listed = storage.list(&dir, Depth::Children).await?;
        assert_eq!(listed.len(), count);
        let mut read = futures::stream::iter(0..count)
            .map(|i| {
                let (storage, file) = (Arc::clone(storage), dir.join(&i.to_string()));
                async move { (i, storage.read_small(&file, 1 << 20).await) }
            })
            .buffer_unordered(32);
        while let Some((i, found)) = read.next().await {
            assert_eq!(found?, content(i).as_bytes());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_are_whole_on_hadoop_3_4() -> Result<()> {
    let hdfs = Hdfs::builder().datanodes(2).start()?;
    small_files_are_whole(&open(hdfs.conf_dir(), CALL), "/many", 500).await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_are_whole_on_hadoop_2_7() -> Result<()> {
    let hdfs = Hdfs::builder().version(HadoopVersion::V2_7).start()?;
    small_files_are_whole(&open(hdfs.conf_dir(), CALL), "/many", 500).await
}

/// Runs a call `count` times, one after the other, and returns the median of the times it took.
async fn median<T, F>(what: &str, count: usize, call: impl Fn(usize) -> F) -> Result<Duration>
where
    F: Future<Output = Result<T, StorageError>>,
{
    let mut times = Vec::new();
    for i in 0..count {
        let start = Instant::now();
        call(i).await?;
        times.push(start.elapsed());
    }
    times.sort();
    let median = *times.get(times.len() / 2).context("no calls")?;
    println!(
        "{what}: median {median:?}, worst {:?} of {count}",
        times.last()
    );
    Ok(median)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_quick() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = &path(&hdfs.fresh_dir("quick")?);
    let start = Instant::now();
    let storage = &open(hdfs.conf_dir(), CALL);
    storage.stat(dir).await?;
    println!(
        "first stat, with opening and connecting: {:?}",
        start.elapsed()
    );

    let named = |name: &str, i: usize| dir.join(&format!("{name}{i}"));
    let small =
        |mode| move |i| async move { write(&**storage, &named("n", i), mode, &[7; 100]).await };
    let one_stat = median("stat", 500, |_| storage.stat(dir)).await?;
    median("identify_dir", 200, |_| storage.identify_dir(dir)).await?;
    median("touch, new", 100, |i| async move {
        storage.touch(&named("m", i)).await
    })
    .await?;
    median("touch, there", 100, |i| async move {
        storage.touch(&named("m", i)).await
    })
    .await?;
    let new = median("New with 100 bytes", 20, small(CreateMode::New)).await?;
    median("Replace with 100 bytes", 20, small(CreateMode::Replace)).await?;
    median("read_small of 100 bytes", 100, |i| async move {
        storage.read_small(&named("n", i % 20), 100).await
    })
    .await?;
    median("create_dir", 50, |i| async move {
        storage.create_dir(&named("d", i)).await
    })
    .await?;
    median("rename", 50, |i| async move {
        storage.rename(&named("d", i), &named("e", i)).await
    })
    .await?;
    median("delete_file", 100, |i| async move {
        storage.delete_file(&named("m", i)).await
    })
    .await?;
    assert!(one_stat < Duration::from_millis(100));
    // The client's own pause at the end of a file is 500 ms.
    assert!(new < Duration::from_millis(450));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_markers_are_one_quick_listing() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = path(&hdfs.fresh_dir("markers")?);
    let storage = open(hdfs.conf_dir(), CALL);
    let start = Instant::now();
    let made = futures::stream::iter(0..10_000).map(|i| {
        let (storage, file) = (Arc::clone(&storage), dir.join(&format!("job{i}.blue")));
        async move { storage.touch(&file).await }
    });
    let mut made = made.buffer_unordered(64);
    while let Some(touched) = made.next().await {
        assert_eq!(touched?, Touched::Created);
    }
    println!("10,000 touches, 64 at a time: {:?}", start.elapsed());
    let mut best = Duration::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        assert_eq!(storage.list(&dir, Depth::Children).await?.len(), 10_000);
        best = best.min(start.elapsed());
    }
    println!("listing of 10,000: best {best:?}");
    assert!(best < Duration::from_secs(1));
    Ok(())
}
