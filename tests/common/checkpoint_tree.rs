//! Checkpoints of any size, as a query with one aggregation and the HDFS-backed provider leaves them.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use twox_hash::XxHash32;

/// How large a checkpoint is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape {
    /// Batches that are there, the first of them 0.
    pub batches: u64,
    /// Partitions of the state.
    pub partitions: u64,
    /// Every so many versions a partition has a snapshot; 0 for none.
    pub snapshot_each: u64,
}

impl Shape {
    /// Number of files.
    pub fn files(self) -> u64 {
        let snapshots = self.batches.checked_div(self.snapshot_each).unwrap_or(0);
        1 + 2 * self.batches + self.partitions * (self.batches + snapshots)
    }
}

/// The size of the state files: 0.5 to 4 KB, the same for the same file.
fn state_bytes(partition: u64, version: u64) -> usize {
    let spread = (partition * 7919 + version * 104_729) % 3584;
    usize::try_from(512 + spread).unwrap_or(512)
}

/// A state file: one stored frame and the end frame.
fn state_file(seed: u64, bytes: usize) -> Vec<u8> {
    const TOKEN: u8 = 0x15;
    const FRAME_OVERHEAD: usize = 42;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut content = vec![0; bytes.saturating_sub(FRAME_OVERHEAD)];
    random.fill(&mut content);
    let mut file = Vec::with_capacity(bytes);
    for part in [content.as_slice(), &[]] {
        let length = u32::try_from(part.len()).unwrap_or(0).to_le_bytes();
        let checksum = if part.is_empty() {
            0
        } else {
            XxHash32::oneshot(0x9747_b28c, part) & 0x0FFF_FFFF
        };
        file.extend_from_slice(b"LZ4Block");
        file.push(TOKEN);
        file.extend_from_slice(&length);
        file.extend_from_slice(&length);
        file.extend_from_slice(&checksum.to_le_bytes());
        file.extend_from_slice(part);
    }
    file
}

/// The file with the query id.
pub fn metadata() -> (String, Vec<u8>) {
    let id = br#"{"id":"c77e8c68-28a9-4bfb-877a-e29b6987550f"}"#;
    ("metadata".to_owned(), id.to_vec())
}

/// The files of one batch, in the order in which a query writes them.
pub fn batch_files(shape: Shape, batch: u64) -> Vec<(String, Vec<u8>)> {
    let offset = format!(
        "v1\n{{\"batchWatermarkMs\":0,\"batchTimestampMs\":{},\"conf\":{{\
         \"spark.sql.streaming.stateStore.providerClass\":\"org.apache.spark.sql.execution.streaming.\
         state.HDFSBackedStateStoreProvider\",\"spark.sql.shuffle.partitions\":\"{}\"}}}}\n\
         {{\"offset\":{},\"timestamp\":1700000010000}}",
        1_795_153_255_117 + batch,
        shape.partitions,
        (batch + 1) * 100
    );
    let mut files = vec![(format!("offsets/{batch}"), offset.into_bytes())];
    let version = batch + 1;
    for partition in 0..shape.partitions {
        let store = format!("state/0/{partition}");
        let bytes = state_bytes(partition, version);
        let content = state_file(partition << 32 | version, bytes);
        if version.checked_rem(shape.snapshot_each) == Some(0) {
            files.push((format!("{store}/{version}.snapshot"), content.clone()));
        }
        files.push((format!("{store}/{version}.delta"), content));
    }
    let commit = "v1\n{\"nextBatchWatermarkMs\":0}";
    files.push((format!("commits/{batch}"), commit.into()));
    files
}

/// The files that a query removes with the end of `batch` if it keeps so many batches before it: the
/// oldest logs, and the state that no kept batch starts from. Needs snapshots.
pub fn purged_files(shape: Shape, batch: u64, kept: u64) -> Vec<String> {
    let Some(oldest) = batch.checked_sub(kept + 1) else {
        return Vec::new();
    };
    let mut files = vec![format!("offsets/{oldest}"), format!("commits/{oldest}")];
    let base = |version: u64| version - version.checked_rem(shape.snapshot_each).unwrap_or(version);
    for version in base(oldest)..base(oldest + 1) {
        for partition in 0..shape.partitions {
            let file = format!("state/0/{partition}/{version}");
            if version > 0 && version == base(version) {
                files.push(format!("{file}.snapshot"));
            }
            if version > 0 {
                files.push(format!("{file}.delta"));
            }
        }
    }
    files
}

/// Makes a checkpoint of this shape in `dir`.
///
/// # Errors
/// If a file cannot be written.
pub fn make(dir: &Path, shape: Shape) -> Result<()> {
    for name in ["offsets", "commits", "state/0"] {
        fs::create_dir_all(dir.join(name))?;
    }
    let (name, content) = metadata();
    fs::write(dir.join(name), content)?;
    for partition in 0..shape.partitions {
        fs::create_dir(dir.join(format!("state/0/{partition}")))?;
    }
    for batch in 0..shape.batches {
        add_batch(dir, shape, batch)?;
    }
    Ok(())
}

/// Adds the files of one batch.
///
/// # Errors
/// If a file cannot be written.
pub fn add_batch(dir: &Path, shape: Shape, batch: u64) -> Result<()> {
    for (name, content) in batch_files(shape, batch) {
        fs::write(dir.join(name), content)?;
    }
    Ok(())
}

/// Adds files that are not of Spark, with random content, `count` of `mib` MiB each.
///
/// # Errors
/// If a file cannot be written.
pub fn add_large_files(dir: &Path, count: u64, mib: u64) -> Result<()> {
    let dir = dir.join("large");
    fs::create_dir_all(&dir)?;
    let mut piece = vec![0; 1 << 20];
    for index in 0..count {
        let mut random = fastrand::Rng::with_seed(index);
        let mut file = fs::File::create(dir.join(format!("file-{index}")))?;
        for _ in 0..mib {
            random.fill(&mut piece);
            file.write_all(&piece)?;
        }
    }
    Ok(())
}
