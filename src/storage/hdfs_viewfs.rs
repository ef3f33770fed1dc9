//! viewfs: one tree of paths over several storages, by a mount table.
//!
//! Every path is rewritten to its target and back; the targets keep the promises. Directories that
//! exist only because something is mounted below them can be looked at and not changed, as in Hadoop.

use std::collections::BTreeSet;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;

use super::hdfs_mount::{Mount, ViewWriter};
use super::walk::walk_tree;
use super::{
    Attributes, Authority, ByteStream, CreateMode, Depth, DirIdentity, ErrorKind, FileKind,
    FileStat, OwnedTree, Removal, Result, Span, Storage, StorageError, StoragePath, StorageUri,
    Touched, Writer,
};

/// A mount table as a storage.
#[derive(Debug)]
pub(super) struct ViewfsStorage {
    authority: Authority,
    mounts: Vec<Mount>,
    fallback: Option<Mount>,
}

/// Where a path leads.
enum Place<'m> {
    Mounted(&'m Mount, StoragePath),
    /// A directory with these names in it, made up of mount points only.
    Internal(BTreeSet<&'m str>),
    Nowhere,
}

impl ViewfsStorage {
    /// The tree of these mounts; `fallback` is mounted at the root.
    pub(super) fn new(name: String, mounts: Vec<Mount>, fallback: Option<Mount>) -> Self {
        Self {
            authority: Authority::Viewfs(name),
            mounts,
            fallback,
        }
    }

    fn place(&self, path: &StoragePath) -> Place<'_> {
        for mount in &self.mounts {
            if let Some(target) = mount.to_target(path) {
                return Place::Mounted(mount, target);
            }
        }
        let inner: BTreeSet<&str> = self
            .mounts
            .iter()
            .filter_map(|mount| mount.at.relative_to(path)?.split('/').next())
            .collect();
        if !inner.is_empty() {
            return Place::Internal(inner);
        }
        match &self.fallback {
            Some(fallback) => match fallback.to_target(path) {
                Some(target) => Place::Mounted(fallback, target),
                None => Place::Nowhere,
            },
            None => Place::Nowhere,
        }
    }

    fn error(&self, operation: &'static str, path: &StoragePath, kind: ErrorKind) -> StorageError {
        let uri = StorageUri::new(self.authority.clone(), path.clone());
        StorageError::new(operation, uri, kind)
    }

    /// An error of a target under the path that the caller knows.
    fn seen(
        &self,
        path: &StoragePath,
    ) -> impl Fn(StorageError) -> StorageError + Send + Sync + use<> {
        let uri = StorageUri::new(self.authority.clone(), path.clone());
        move |mut error| {
            error.uri = uri.clone();
            error
        }
    }

    fn mounted(
        &self,
        operation: &'static str,
        path: &StoragePath,
    ) -> Result<(&Mount, StoragePath)> {
        match self.place(path) {
            Place::Mounted(mount, target) => Ok((mount, target)),
            Place::Internal(_) => Err(self
                .error(operation, path, ErrorKind::PermissionDenied)
                .with_detail("it is a directory of the mount table, which cannot be changed")),
            Place::Nowhere => Err(self
                .error(operation, path, ErrorKind::NotFound)
                .with_detail("nothing is mounted there")),
        }
    }

    fn is_mount_point(&self, path: &StoragePath) -> bool {
        self.mounts.iter().any(|mount| mount.at == *path)
    }

    fn internal_dir(path: StoragePath) -> FileStat {
        FileStat {
            path,
            kind: FileKind::Dir,
            len_bytes: 0,
            modified_at: Timestamp::UNIX_EPOCH,
            mode: Some(0o555),
            owner: None,
            group: None,
        }
    }

    async fn children(&self, dir: &StoragePath) -> Result<Vec<FileStat>> {
        match self.place(dir) {
            Place::Mounted(mount, target) => {
                let listed = mount.storage.list(&target, Depth::Children).await;
                let listed = listed.map_err(self.seen(dir))?;
                Ok(listed
                    .into_iter()
                    .map(|entry| mount.entry_to_view(entry))
                    .collect())
            }
            Place::Internal(names) => {
                let made_up = |name: &&str| Self::internal_dir(dir.join(name));
                let mut entries: Vec<_> = names.iter().map(made_up).collect();
                if let Some(fallback) = &self.fallback
                    && let Some(target) = fallback.to_target(dir)
                {
                    match fallback.storage.list(&target, Depth::Children).await {
                        Ok(listed) => entries.extend(
                            listed
                                .into_iter()
                                .filter(|entry| !names.contains(entry.path.name()))
                                .map(|entry| fallback.entry_to_view(entry)),
                        ),
                        Err(error) if error.kind == ErrorKind::NotFound => {}
                        Err(error) => return Err(self.seen(dir)(error)),
                    }
                }
                entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
                Ok(entries)
            }
            Place::Nowhere => Err(self.error("list", dir, ErrorKind::NotFound)),
        }
    }
}

#[async_trait]
impl Storage for ViewfsStorage {
    fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The sum over all targets: it grows when any of theirs does.
    fn epoch(&self) -> u64 {
        let targets = self.mounts.iter().chain(&self.fallback);
        targets.map(|mount| mount.storage.epoch()).sum()
    }

    async fn stat(&self, path: &StoragePath) -> Result<FileStat> {
        match self.place(path) {
            Place::Mounted(mount, target) => {
                let found = mount.storage.stat(&target).await.map_err(self.seen(path))?;
                Ok(FileStat {
                    path: path.clone(),
                    ..found
                })
            }
            Place::Internal(_) => Ok(Self::internal_dir(path.clone())),
            Place::Nowhere => Err(self.error("stat", path, ErrorKind::NotFound)),
        }
    }

    async fn identify_dir(&self, dir: &StoragePath) -> Result<DirIdentity> {
        match self.place(dir) {
            Place::Mounted(mount, target) => mount
                .storage
                .identify_dir(&target)
                .await
                .map_err(self.seen(dir)),
            Place::Internal(_) => Ok(DirIdentity::Unnumbered),
            Place::Nowhere => Err(self.error("identify", dir, ErrorKind::NotFound)),
        }
    }

    async fn list(&self, dir: &StoragePath, depth: Depth) -> Result<Vec<FileStat>> {
        match (depth, self.place(dir)) {
            (Depth::Children, _) => self.children(dir).await,
            (Depth::Tree, Place::Mounted(mount, target)) => {
                let listed = mount.storage.list(&target, Depth::Tree).await;
                let listed = listed.map_err(self.seen(dir))?;
                Ok(listed
                    .into_iter()
                    .map(|entry| mount.entry_to_view(entry))
                    .collect())
            }
            (Depth::Tree, Place::Internal(_) | Place::Nowhere) => {
                walk_tree(dir, |dir| async move { self.children(&dir).await }).await
            }
        }
    }

    async fn read_small(&self, path: &StoragePath, max_bytes: u64) -> Result<Bytes> {
        let (mount, target) = self.mounted_file("read", path)?;
        mount
            .storage
            .read_small(&target, max_bytes)
            .await
            .map_err(self.seen(path))
    }

    async fn read_span(&self, path: &StoragePath, span: Span) -> Result<Bytes> {
        let (mount, target) = self.mounted_file("read", path)?;
        mount
            .storage
            .read_span(&target, span)
            .await
            .map_err(self.seen(path))
    }

    async fn open_read(&self, path: &StoragePath) -> Result<ByteStream> {
        let (mount, target) = self.mounted_file("read", path)?;
        let seen = self.seen(path);
        let pieces = mount.storage.open_read(&target).await.map_err(&seen)?;
        Ok(pieces.map(move |piece| piece.map_err(&seen)).boxed())
    }

    async fn create(&self, path: &StoragePath, mode: CreateMode) -> Result<Box<dyn Writer>> {
        let (mount, target) = self.mounted_file("create", path)?;
        let seen = self.seen(path);
        let inner = mount.storage.create(&target, mode).await.map_err(&seen)?;
        Ok(Box::new(ViewWriter {
            inner,
            seen: Box::new(seen),
        }))
    }

    async fn touch(&self, path: &StoragePath) -> Result<Touched> {
        let (mount, target) = self.mounted_file("touch", path)?;
        mount.storage.touch(&target).await.map_err(self.seen(path))
    }

    async fn create_dir_all(&self, dir: &StoragePath) -> Result<()> {
        if let Place::Internal(_) = self.place(dir) {
            return Ok(());
        }
        let (mount, target) = self.mounted("create directory", dir)?;
        mount
            .storage
            .create_dir_all(&target)
            .await
            .map_err(self.seen(dir))
    }

    async fn create_dir(&self, dir: &StoragePath) -> Result<()> {
        if let Place::Internal(_) = self.place(dir) {
            return Err(self.error("create directory", dir, ErrorKind::AlreadyExists));
        }
        let (mount, target) = self.mounted("create directory", dir)?;
        mount
            .storage
            .create_dir(&target)
            .await
            .map_err(self.seen(dir))
    }

    async fn rename(&self, from: &StoragePath, to: &StoragePath) -> Result<()> {
        let (mount, source) = self.changeable("rename", from)?;
        let (other, target) = self.changeable("rename", to)?;
        if mount.at != other.at {
            return Err(self
                .error("rename", from, ErrorKind::Unsupported)
                .with_detail(format!("to {to}, which is in another mount")));
        }
        mount
            .storage
            .rename(&source, &target)
            .await
            .map_err(self.seen(from))
    }

    async fn delete_file(&self, path: &StoragePath) -> Result<Removal> {
        let (mount, target) = match self.place(path) {
            Place::Mounted(mount, target) => (mount, target),
            Place::Internal(_) => return Err(self.error("delete", path, ErrorKind::IsADirectory)),
            Place::Nowhere => return Ok(Removal::Absent),
        };
        mount
            .storage
            .delete_file(&target)
            .await
            .map_err(self.seen(path))
    }

    async fn delete_tree(&self, tree: &OwnedTree) -> Result<Removal> {
        let (mount, target) = self.changeable("delete tree", tree.path())?;
        let Some(owned) = OwnedTree::claim(target) else {
            return Err(self.error("delete tree", tree.path(), ErrorKind::PermissionDenied));
        };
        mount
            .storage
            .delete_tree(&owned)
            .await
            .map_err(self.seen(tree.path()))
    }

    async fn make_durable(&self, dir: &StoragePath) -> Result<()> {
        let (mount, target) = self.mounted("make durable", dir)?;
        mount
            .storage
            .make_durable(&target)
            .await
            .map_err(self.seen(dir))
    }

    async fn set_attributes(&self, path: &StoragePath, attributes: &Attributes) -> Result<()> {
        let (mount, target) = self.mounted("set attributes of", path)?;
        mount
            .storage
            .set_attributes(&target, attributes)
            .await
            .map_err(self.seen(path))
    }
}

impl ViewfsStorage {
    /// Where a file lies that is to be opened; a directory of the mount table is none.
    fn mounted_file(
        &self,
        operation: &'static str,
        path: &StoragePath,
    ) -> Result<(&Mount, StoragePath)> {
        if let Place::Internal(_) = self.place(path) {
            return Err(self.error(operation, path, ErrorKind::IsADirectory));
        }
        self.mounted(operation, path)
    }

    /// Where something lies that is to be moved or deleted as a whole; a mount point is not.
    fn changeable(
        &self,
        operation: &'static str,
        path: &StoragePath,
    ) -> Result<(&Mount, StoragePath)> {
        if self.is_mount_point(path) {
            return Err(self
                .error(operation, path, ErrorKind::PermissionDenied)
                .with_detail("it is a mount point"));
        }
        self.mounted(operation, path)
    }
}

#[cfg(test)]
#[path = "hdfs_viewfs_tests.rs"]
mod tests;
