//! One mount of a viewfs mount table: paths there and back, and writers of files behind it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{FileStat, Result, Storage, StorageError, StoragePath, Writer};

/// A part of the tree that lies elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Mount {
    /// The mount point; the root for what is mounted nowhere else.
    pub(super) at: StoragePath,
    /// Where its files are.
    pub(super) storage: Arc<dyn Storage>,
    /// The mount point's path there.
    pub(super) target: StoragePath,
}

impl Mount {
    /// Where `path` lies there; `None` if it is not below the mount point.
    pub(super) fn to_target(&self, path: &StoragePath) -> Option<StoragePath> {
        if *path == self.at {
            return Some(self.target.clone());
        }
        Some(below(&self.target, path.relative_to(&self.at)?))
    }

    /// Where a path of the target shows.
    fn to_view(&self, path: &StoragePath) -> StoragePath {
        match path.relative_to(&self.target) {
            Some(relative) => below(&self.at, relative),
            None => self.at.clone(),
        }
    }

    /// An entry of the target as it shows.
    pub(super) fn entry_to_view(&self, entry: FileStat) -> FileStat {
        FileStat {
            path: self.to_view(&entry.path),
            ..entry
        }
    }
}

/// `relative` may have several components.
fn below(dir: &StoragePath, relative: &str) -> StoragePath {
    relative
        .split('/')
        .fold(dir.clone(), |path, part| path.join(part))
}

/// A writer of a target, whose errors name the path that the caller knows.
pub(super) struct ViewWriter {
    pub(super) inner: Box<dyn Writer>,
    pub(super) seen: Box<dyn Fn(StorageError) -> StorageError + Send + Sync>,
}

impl fmt::Debug for ViewWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Writer for ViewWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.inner.write(data).await.map_err(&self.seen)
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.inner.finish().await.map_err(self.seen)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.inner.abort().await.map_err(self.seen)
    }
}
