//! What was read of a checkpoint, and the questions that it answers by itself. Pure.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::layout::{DirectoryKind, PathKind, classify};
use super::listing::{EntryId, Listing};
use super::log::{CommitLog, LogDamage, OffsetLog};
use super::operator::OperatorMetadata;
use super::query_id::{InvalidQueryId, QueryId};
use super::state_store::payload::{ChangelogHeader, HeaderDamage};
use super::state_store::rocksdb::{RocksMetadata, ZipDamage};
use super::state_store::stores::{Provider, Store};
use crate::model::BatchId;

/// Everything that was read of one checkpoint.
#[derive(Debug)]
pub struct Contents {
    /// The checkpoint as a URI with a scheme, as Spark would write it: `file:/a/b`, `hdfs://ns/a/b`.
    pub location: String,
    /// What the directory is. Everything but the listing is empty unless it is a query's checkpoint.
    pub directory: DirectoryKind,
    /// All entries.
    pub listing: Listing,
    /// The content of `metadata`.
    pub identity: Identity,
    /// The log of planned batches.
    pub offsets: BatchLog<OffsetLog>,
    /// The log of committed batches.
    pub commits: BatchLog<CommitLog>,
    /// Metadata of the operators, as far as they were read.
    pub operators: BTreeMap<EntryId, OperatorFile>,
    /// Schema files named by operators that lie elsewhere: whether they are there (`None`: unknown).
    pub schemas_elsewhere: BTreeMap<String, Option<bool>>,
    /// The state stores.
    pub stores: Vec<Store>,
    /// Headers of changelogs, as far as they were read.
    pub headers: HashMap<EntryId, Result<ChangelogHeader, HeaderDamage>>,
    /// `metadata` of zips, as far as they were read.
    pub zips: HashMap<EntryId, Result<RocksMetadata, ZipDamage>>,
}

/// A file with metadata of an operator.
#[derive(Debug)]
pub struct OperatorFile {
    /// Its content; empty if it could not be read.
    pub content: Bytes,
    /// What it says.
    pub metadata: Result<OperatorMetadata, LogDamage>,
}

/// What `metadata` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The query id.
    Known(QueryId),
    /// There is no such file.
    Missing,
    /// The file gives no id.
    Damaged(InvalidQueryId),
}

/// `offsets/` or `commits/`: which batches are there, and the content of those that were read.
#[derive(Debug, Clone)]
pub struct BatchLog<T> {
    /// The batches, ascending.
    pub present: Vec<BatchId>,
    /// The content of some.
    pub read: BTreeMap<BatchId, Result<T, LogDamage>>,
}

impl<T> Default for BatchLog<T> {
    fn default() -> Self {
        Self {
            present: Vec::new(),
            read: BTreeMap::new(),
        }
    }
}

impl<T> BatchLog<T> {
    /// The newest batch.
    pub fn newest(&self) -> Option<BatchId> {
        self.present.last().copied()
    }

    /// The oldest batch.
    pub fn oldest(&self) -> Option<BatchId> {
        self.present.first().copied()
    }

    /// Whether the batch is there.
    pub fn has(&self, batch: BatchId) -> bool {
        self.present.binary_search(&batch).is_ok()
    }

    /// The newest batch before this one.
    pub fn before(&self, batch: BatchId) -> Option<BatchId> {
        let at = self.present.partition_point(|b| *b < batch);
        self.present.get(at.checked_sub(1)?).copied()
    }

    /// The content of a batch that was read and is sound.
    pub fn content(&self, batch: BatchId) -> Option<&T> {
        self.read.get(&batch)?.as_ref().ok()
    }

    /// The newest content that was read and is sound.
    pub fn newest_content(&self) -> Option<(BatchId, &T)> {
        self.read
            .iter()
            .rev()
            .find_map(|(batch, content)| Some((*batch, content.as_ref().ok()?)))
    }

    /// Whether batches are missing between the oldest and the newest.
    pub fn has_gaps(&self) -> bool {
        match (self.present.first(), self.present.last()) {
            (Some(first), Some(last)) => last.0 - first.0 >= self.present.len() as u64,
            _ => false,
        }
    }
}

impl Contents {
    /// Whether the query has no stateful operator, as far as the directory shows.
    pub fn is_stateless(&self) -> bool {
        self.listing.below("state").next().is_none()
    }

    /// Whether a file was listed and gone when it was read: a query is running, and purging.
    pub fn has_vanished(&self) -> bool {
        let offsets = self.offsets.read.values();
        let commits = self.commits.read.values();
        let operators = self.operators.values().map(|file| &file.metadata);
        let mut logs = offsets
            .map(|log| log.as_ref().err())
            .chain(commits.map(|log| log.as_ref().err()))
            .chain(operators.map(|log| log.as_ref().err()));
        let mut headers = self.headers.values();
        let mut zips = self.zips.values();
        logs.any(|damage| damage == Some(&LogDamage::Vanished))
            || headers.any(|header| header.as_ref().err() == Some(&HeaderDamage::Vanished))
            || zips.any(|zip| zip.as_ref().err() == Some(&ZipDamage::Vanished))
    }

    /// Whether the gaps in the logs are those of async progress tracking: no state, and the same
    /// batches missing from both logs.
    pub fn has_async_gaps(&self) -> bool {
        let both_miss = |batch: BatchId| !self.commits.has(batch);
        self.is_stateless()
            && self.offsets.has_gaps()
            && self
                .offsets
                .newest()
                .and_then(|newest| newest.0.checked_sub(1).map(BatchId))
                .is_none_or(|batch| self.offsets.has(batch) || both_miss(batch))
    }

    /// The provider that the newest readable offset log records, else the one whose files are there;
    /// `None` if neither tells, or the class is unknown.
    pub fn provider(&self) -> Option<Provider> {
        match self.provider_class() {
            Some(class) => Provider::of_class(class),
            None => self
                .stores
                .iter()
                .flat_map(|store| &store.files)
                .map(|file| Provider::of_kind(file.kind))
                .next(),
        }
    }

    /// The class of the provider in the newest readable offset log.
    pub fn provider_class(&self) -> Option<&str> {
        let (_, log) = self.offsets.newest_content()?;
        log.metadata.as_ref()?.provider_class()
    }

    /// Whether state files are packed with LZ4, the only codec that stepdown reads.
    pub fn is_lz4(&self) -> bool {
        self.codec().to_ascii_lowercase().contains("lz4")
    }

    /// The codec of state files.
    pub fn codec(&self) -> &str {
        self.offsets
            .newest_content()
            .and_then(|(_, log)| log.metadata.as_ref())
            .map_or("lz4", |metadata| metadata.codec())
    }

    /// The newest readable metadata of an operator.
    pub fn operator(&self, operator: u32) -> Option<&OperatorMetadata> {
        let of_operator = |id: EntryId| {
            let kind = classify(self.listing.get(id).path);
            if let PathKind::OperatorMetadata { operator: o, batch } = kind
                && o == operator
            {
                Some(batch)
            } else {
                None
            }
        };
        self.operators
            .iter()
            .filter_map(|(id, file)| Some((of_operator(*id)?, file.metadata.as_ref().ok()?)))
            .max_by_key(|(batch, _)| *batch)
            .map(|(_, metadata)| metadata)
    }
}
