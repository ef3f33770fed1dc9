//! `metadata`, `offsets/` and `commits/`: small files, read first.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt};

use super::{READS_AT_ONCE, Reader, batches};
use crate::checkpoint::contents::{Contents, Identity};
use crate::checkpoint::layout::batch_of_name;
use crate::checkpoint::log::{CommitLog, LogDamage, MAX_LOG_BYTES, OffsetLog};
use crate::checkpoint::query_id::{InvalidQueryId, QueryId};
use crate::checkpoint::target::At;
use crate::model::BatchId;
use crate::storage::{ErrorKind, FileStat, Storage, StorageError, StoragePath};

/// A `metadata` file has 45 bytes; anything far above is none.
const MAX_METADATA_BYTES: u64 = 64 * 1024;

/// How often the logs are listed again while batches end between two listings.
const LISTING_ROUNDS: usize = 3;

/// Older offset logs that are tried for the pinned configuration if the newest are damaged.
const OLDER_OFFSETS: usize = 3;

/// The query id in the checkpoint `dir`.
pub(in crate::checkpoint) async fn load_identity(
    storage: &dyn Storage,
    dir: &StoragePath,
) -> Result<Identity, StorageError> {
    let metadata = dir.join("metadata");
    match storage.read_small(&metadata, MAX_METADATA_BYTES).await {
        Ok(content) => Ok(match QueryId::from_metadata(&content) {
            Ok(id) => Identity::Known(id),
            Err(damage) => Identity::Damaged(damage),
        }),
        Err(e) if e.kind == ErrorKind::TooLarge => {
            let damage = InvalidQueryId::NotJson("the file is too large".to_owned());
            Ok(Identity::Damaged(damage))
        }
        Err(e) if matches!(e.kind, ErrorKind::NotFound | ErrorKind::IsADirectory) => {
            Ok(Identity::Missing)
        }
        Err(e) => Err(e),
    }
}

impl Reader<'_> {
    /// `commits/` and `offsets/`, as they were at one moment: at most one batch is in flight, unless
    /// the files really say otherwise.
    pub(super) async fn logs(&self) -> Result<(Vec<FileStat>, Vec<FileStat>), StorageError> {
        let mut commits = self.tree("commits").await?;
        for _ in 0..LISTING_ROUNDS {
            let offsets = self.tree("offsets").await?;
            let committed = batches(&commits).last().copied();
            let next = committed.map_or(0, |batch| batch.0.saturating_add(1));
            if batches(&offsets).last().is_none_or(|batch| batch.0 <= next) {
                return Ok((commits, offsets));
            }
            let again = self.tree("commits").await?;
            if batches(&again).last().copied() == committed {
                return Ok((commits, offsets));
            }
            commits = again;
        }
        // Batches end faster than directories are listed: leave out what was planned later.
        let committed = batches(&commits).last().map_or(0, |batch| batch.0);
        let mut offsets = self.tree("offsets").await?;
        offsets.retain(|entry| {
            batch_of_name(entry.path.name()).is_none_or(|batch| batch.0 <= committed + 1)
        });
        Ok((commits, offsets))
    }

    pub(super) async fn read_logs(
        &self,
        contents: &mut Contents,
        at: At,
    ) -> Result<(), StorageError> {
        let mut commits: BTreeSet<BatchId> = contents.commits.newest().into_iter().collect();
        let newest = contents.offsets.newest();
        let mut offsets: BTreeSet<BatchId> = commits.iter().copied().chain(newest).collect();
        if let At::Batch(batch) = at {
            commits.insert(batch);
            offsets.insert(batch);
        }
        let before: Vec<_> = offsets
            .iter()
            .filter_map(|batch| contents.offsets.before(*batch))
            .collect();
        offsets.extend(before);
        commits.retain(|batch| contents.commits.has(*batch));
        offsets.retain(|batch| contents.offsets.has(*batch));
        contents.commits.read = self
            .read_batches("commits", commits, CommitLog::parse)
            .await?;
        contents.offsets.read = self
            .read_batches("offsets", offsets, OffsetLog::parse)
            .await?;
        for _ in 0..OLDER_OFFSETS {
            let oldest = contents.offsets.read.keys().next().copied();
            let older = oldest.and_then(|batch| contents.offsets.before(batch));
            let Some(older) = older.filter(|_| contents.offsets.newest_content().is_none()) else {
                break;
            };
            let one = BTreeSet::from([older]);
            let read = self.read_batches("offsets", one, OffsetLog::parse).await?;
            contents.offsets.read.extend(read);
        }
        Ok(())
    }

    async fn read_batches<T>(
        &self,
        log: &str,
        batches: BTreeSet<BatchId>,
        parse: impl Fn(&[u8]) -> Result<T, LogDamage> + Copy,
    ) -> Result<BTreeMap<BatchId, Result<T, LogDamage>>, StorageError> {
        let read = |batch: BatchId| async move {
            let path = self.path(&format!("{log}/{batch}"));
            let content = self.read_log(&path, MAX_LOG_BYTES).await?;
            Ok((batch, content.and_then(|content| parse(&content))))
        };
        futures::stream::iter(batches)
            .map(read)
            .buffer_unordered(READS_AT_ONCE)
            .try_collect()
            .await
    }

    /// The content of a log; a file that vanished or is too large is damage, not an error.
    pub(super) async fn read_log(
        &self,
        path: &StoragePath,
        max_bytes: u64,
    ) -> Result<Result<bytes::Bytes, LogDamage>, StorageError> {
        match self.storage.read_small(path, max_bytes).await {
            Ok(content) => Ok(Ok(content)),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(Err(LogDamage::Vanished)),
            Err(e) if e.kind == ErrorKind::TooLarge => Ok(Err(LogDamage::TooLarge {
                len_bytes: max_bytes + 1,
            })),
            Err(e) => Err(e),
        }
    }
}
