//! Storage on this host's file systems, through blocking calls on threads of their own.
//!
//! - A new file is written under a temporary name `.<name>.<uuid>.stepdown-tmp` in the same directory
//!   and gets its name in one step: `RENAME_NOREPLACE` for [`CreateMode::New`], a plain rename for
//!   [`CreateMode::Replace`]. Where the file system has no `RENAME_NOREPLACE` (NFS), a hard link does the
//!   same for files; a directory is then not renamed at all.
//! - The last component of a path is not followed if it is a symbolic link, but by
//!   [`Storage::identify_dir`], [`Storage::list`] (the directory itself) and the reading calls.
//! - Owners are numeric ids.
//! - In a listing, an entry whose name is not UTF-8 has [`FileKind::Other`](crate::storage::FileKind) and
//!   a path with replacement characters; a directory of that sort is not entered.
//! - A call into a hung mount hangs as long as the mount does; see
//!   [`WithTimeout`](super::timeout::WithTimeout) for deadlines. How many threads can hang is bounded for
//!   each directory and each mount, so that others go on: 16 calls at a time in one directory, 64 in one
//!   mount.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::local_change::{self as change, Exclusive};
use super::local_errno::{Access, Refusal};
use super::local_lanes::{Abandoned, Lanes};
use super::local_look::{self as look, Reading};
use super::local_write::LocalWriter;
use crate::storage::{
    Attributes, Authority, ByteStream, CreateMode, Depth, DirIdentity, ErrorKind, FileStat,
    OwnedTree, Removal, Result, Storage, StorageError, StoragePath, StorageUri, Touched, Writer,
};

/// How local files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalOptions {
    /// Whether files and directories are on disk when a call returns, so that they outlive a loss of
    /// power. Without it they outlive only a crash of the process.
    pub fsync: bool,
}

/// The file systems of this host. Clones share their threads' bounds.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    options: LocalOptions,
    exclusive: Exclusive,
    lanes: Arc<Lanes>,
}

/// One call: as what to report it, and in whose lane it goes.
#[derive(Debug)]
pub(super) struct Call {
    operation: &'static str,
    path: StoragePath,
    dir: StoragePath,
    access: Access,
}

impl Call {
    /// A call that looks at an entry.
    pub(super) fn look(operation: &'static str, path: &StoragePath) -> Self {
        Self {
            operation,
            path: path.clone(),
            dir: path.parent().unwrap_or_else(StoragePath::root),
            access: Access::Read,
        }
    }

    /// A call that changes an entry.
    pub(super) fn change(operation: &'static str, path: &StoragePath) -> Self {
        Self {
            access: Access::Change,
            ..Self::look(operation, path)
        }
    }

    /// A call that looks into the directory `dir`.
    fn into_dir(operation: &'static str, dir: &StoragePath) -> Self {
        Self {
            dir: dir.clone(),
            ..Self::look(operation, dir)
        }
    }
}

impl LocalStorage {
    /// The file systems of this host.
    pub fn new(options: LocalOptions) -> Self {
        Self {
            options,
            exclusive: Exclusive {
                ask_kernel: true,
                fsync: options.fsync,
            },
            lanes: Arc::new(Lanes::default()),
        }
    }

    pub(super) fn options(&self) -> LocalOptions {
        self.options
    }

    pub(super) fn exclusive(&self) -> Exclusive {
        self.exclusive
    }

    /// The result of the blocking `run`, made in its lane.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: Call,
        run: impl FnOnce(&Abandoned) -> std::result::Result<T, Refusal> + Send + 'static,
    ) -> Result<T> {
        match self.lanes.run(&call.dir, run).await {
            Ok(outcome) => outcome.map_err(|refusal| refusal.at(call.operation, &call.path)),
            Err(lost) => {
                let kind = match call.access {
                    Access::Read => ErrorKind::Other,
                    Access::Change => ErrorKind::OutcomeUnknown,
                };
                let uri = StorageUri::new(Authority::Local, call.path);
                Err(StorageError::new(call.operation, uri, kind).with_source(lost))
            }
        }
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn authority(&self) -> &Authority {
        &Authority::Local
    }

    fn epoch(&self) -> u64 {
        0
    }

    async fn stat(&self, path: &StoragePath) -> Result<FileStat> {
        let entry = path.clone();
        self.run(Call::look("stat", path), move |_| look::stat(&entry))
            .await
    }

    async fn identify_dir(&self, dir: &StoragePath) -> Result<DirIdentity> {
        let entry = dir.clone();
        self.run(Call::into_dir("identify", dir), move |_| {
            look::identify_dir(&entry)
        })
        .await
    }

    async fn list(&self, dir: &StoragePath, depth: Depth) -> Result<Vec<FileStat>> {
        let top = dir.clone();
        self.run(Call::into_dir("list", dir), move |abandoned| {
            look::list(&top, depth, abandoned)
        })
        .await
    }

    async fn read_small(&self, path: &StoragePath, max_bytes: u64) -> Result<Bytes> {
        let file = path.clone();
        self.run(Call::look("read", path), move |_| {
            look::read_small(&file, max_bytes)
        })
        .await
    }

    async fn open_read(&self, path: &StoragePath) -> Result<ByteStream> {
        let file = path.clone();
        // The first piece comes with the open, so that a small file takes one trip to a thread.
        let first = self
            .run(Call::look("read", path), move |_| {
                let mut reading = Reading::open(&file)?;
                let (piece, more) = reading.next_piece()?;
                Ok((piece, more.then_some(reading)))
            })
            .await?;
        let (storage, path) = (self.clone(), path.clone());
        let (piece, rest) = first;
        let rest = stream::try_unfold(rest, move |reading| {
            let (storage, path) = (storage.clone(), path.clone());
            async move {
                let Some(mut reading) = reading else {
                    return Ok(None);
                };
                let next = storage.run(Call::look("read", &path), move |_| {
                    let (piece, more) = reading.next_piece()?;
                    Ok((piece, more.then_some(reading)))
                });
                next.await.map(Some)
            }
        });
        let pieces = stream::once(async { Ok(piece) }).chain(rest);
        Ok(pieces
            .filter(|piece| {
                let empty = matches!(piece, Ok(bytes) if bytes.is_empty());
                async move { !empty }
            })
            .boxed())
    }

    async fn create(&self, path: &StoragePath, mode: CreateMode) -> Result<Box<dyn Writer>> {
        Ok(Box::new(LocalWriter::create(self, path, mode).await?))
    }

    async fn touch(&self, path: &StoragePath) -> Result<Touched> {
        let (entry, fsync) = (path.clone(), self.options.fsync);
        self.run(Call::change("touch", path), move |_| {
            change::touch(&entry, fsync)
        })
        .await
    }

    async fn create_dir_all(&self, dir: &StoragePath) -> Result<()> {
        let (entry, fsync) = (dir.clone(), self.options.fsync);
        self.run(Call::change("create directory", dir), move |_| {
            change::create_dir_all(&entry, fsync)
        })
        .await
    }

    async fn create_dir(&self, dir: &StoragePath) -> Result<()> {
        let (entry, fsync) = (dir.clone(), self.options.fsync);
        self.run(Call::change("create directory", dir), move |_| {
            change::create_dir(&entry, fsync)
        })
        .await
    }

    async fn rename(&self, from: &StoragePath, to: &StoragePath) -> Result<()> {
        let (source, target, exclusive) = (from.clone(), to.clone(), self.exclusive);
        self.run(Call::change("rename", from), move |_| {
            exclusive
                .rename(&source, &target)
                .map_err(|refusal| refusal.about(&format!("to {target}")))
        })
        .await
    }

    async fn delete_file(&self, path: &StoragePath) -> Result<Removal> {
        let (entry, fsync) = (path.clone(), self.options.fsync);
        self.run(Call::change("delete", path), move |_| {
            change::delete_file(&entry, fsync)
        })
        .await
    }

    async fn delete_tree(&self, tree: &OwnedTree) -> Result<Removal> {
        let (root, fsync) = (tree.path().clone(), self.options.fsync);
        self.run(Call::change("delete tree", tree.path()), move |_| {
            change::delete_tree(&root, fsync)
        })
        .await
    }

    async fn set_attributes(&self, path: &StoragePath, attributes: &Attributes) -> Result<()> {
        let (entry, attributes) = (path.clone(), attributes.clone());
        self.run(Call::change("set attributes of", path), move |_| {
            change::set_attributes(&entry, &attributes)
        })
        .await
    }
}
