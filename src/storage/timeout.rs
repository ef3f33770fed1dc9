//! A deadline around every storage call.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use jiff::SignedDuration;

use super::walk::walk_tree;
use super::{
    Attributes, Authority, ByteStream, CreateMode, Depth, DirIdentity, ErrorKind, FileStat,
    OwnedTree, Removal, Result, Storage, StorageError, StoragePath, StorageUri, Touched, Writer,
};

/// A storage whose calls all end within a deadline.
///
/// A read that has not ended by then is [`ErrorKind::TimedOut`]; a change is
/// [`ErrorKind::OutcomeUnknown`], since it may have happened or happen later. Each piece of a stream,
/// each write and each `finish` has a deadline of its own, and so has each directory of a tree listing:
/// the decorator walks a tree itself, so the size of a tree is no limit. (A sub-directory that someone
/// replaces by a link to a directory while the walk runs may be followed.)
///
/// The decorator has no state and holds no lock: a call that hangs blocks no other. It cannot end what
/// hangs behind it. For local file systems, where a hung call holds a thread,
/// [`LocalStorage`](super::local::LocalStorage) bounds the threads of each directory and mount (16 and
/// 64) and makes the calls beyond wait without one, here up to their deadline; a call given up while it
/// waited is never made, and one that wakes up later leaves its publishing step out. So one hung
/// directory costs at most 16 threads for as long as it hangs, however often it is polled.
#[derive(Debug, Clone)]
pub struct WithTimeout<S> {
    inner: S,
    call_timeout: Duration,
    delete_tree_timeout: Duration,
}

/// How many times longer than another call the deletion of a tree may take.
const DELETE_TREE_FACTOR: u32 = 30;

/// Whether a call only looks or changes something.
#[derive(Debug, Clone, Copy)]
enum Access {
    Read,
    Change,
}

impl<S: Storage> WithTimeout<S> {
    /// `inner` with `call_timeout` for each call, and 30 times as long for [`Storage::delete_tree`],
    /// which is many calls of the storage in one.
    pub fn new(inner: S, call_timeout: Duration) -> Self {
        Self {
            inner,
            call_timeout,
            delete_tree_timeout: call_timeout.saturating_mul(DELETE_TREE_FACTOR),
        }
    }

    /// The same with another time-out for [`Storage::delete_tree`].
    #[must_use]
    pub fn with_delete_tree_timeout(mut self, timeout: Duration) -> Self {
        self.delete_tree_timeout = timeout;
        self
    }

    fn deadline(&self, operation: &'static str, path: &StoragePath, access: Access) -> Deadline {
        Deadline {
            operation,
            uri: StorageUri::new(self.inner.authority().clone(), path.clone()),
            access,
            timeout: self.call_timeout,
        }
    }

    fn read(&self, operation: &'static str, path: &StoragePath) -> Deadline {
        self.deadline(operation, path, Access::Read)
    }

    fn change(&self, operation: &'static str, path: &StoragePath) -> Deadline {
        self.deadline(operation, path, Access::Change)
    }

    async fn list_children(&self, dir: &StoragePath) -> Result<Vec<FileStat>> {
        let listing = self.inner.list(dir, Depth::Children);
        self.read("list", dir).bound(listing).await
    }
}

/// How long one call may take, and how to report that it took longer.
#[derive(Debug)]
struct Deadline {
    operation: &'static str,
    uri: StorageUri,
    access: Access,
    timeout: Duration,
}

impl Deadline {
    async fn bound<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.passed()),
        }
    }

    fn passed(&self) -> StorageError {
        let kind = match self.access {
            Access::Read => ErrorKind::TimedOut,
            Access::Change => ErrorKind::OutcomeUnknown,
        };
        let waited = SignedDuration::try_from(self.timeout).unwrap_or(SignedDuration::MAX);
        StorageError::new(self.operation, self.uri.clone(), kind)
            .with_detail(format!("no answer after {waited:#}"))
    }
}

#[async_trait]
impl<S: Storage> Storage for WithTimeout<S> {
    fn authority(&self) -> &Authority {
        self.inner.authority()
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    async fn stat(&self, path: &StoragePath) -> Result<FileStat> {
        let call = self.inner.stat(path);
        self.read("stat", path).bound(call).await
    }

    async fn identify_dir(&self, dir: &StoragePath) -> Result<DirIdentity> {
        let call = self.inner.identify_dir(dir);
        self.read("identify", dir).bound(call).await
    }

    async fn list(&self, dir: &StoragePath, depth: Depth) -> Result<Vec<FileStat>> {
        match depth {
            Depth::Children => self.list_children(dir).await,
            Depth::Tree => {
                walk_tree(dir, |sub| async move { self.list_children(&sub).await }).await
            }
        }
    }

    async fn read_small(&self, path: &StoragePath, max_bytes: u64) -> Result<Bytes> {
        let call = self.inner.read_small(path, max_bytes);
        self.read("read", path).bound(call).await
    }

    async fn open_read(&self, path: &StoragePath) -> Result<ByteStream> {
        let deadline = self.read("read", path);
        let pieces = deadline.bound(self.inner.open_read(path)).await?;
        let bounded = stream::unfold(Some(pieces), move |pieces| {
            let passed = deadline.passed();
            let timeout = deadline.timeout;
            async move {
                let mut pieces = pieces?;
                match tokio::time::timeout(timeout, pieces.next()).await {
                    Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
                    Ok(Some(Err(error))) => Some((Err(error), None)),
                    Ok(None) => None,
                    Err(_) => Some((Err(passed), None)),
                }
            }
        });
        Ok(bounded.boxed())
    }

    async fn create(&self, path: &StoragePath, mode: CreateMode) -> Result<Box<dyn Writer>> {
        let call = self.inner.create(path, mode);
        let inner = self.change("create", path).bound(call).await?;
        Ok(Box::new(BoundedWriter {
            inner,
            write: self.change("write", path),
            finish: self.change("finish", path),
            abort: self.change("abort", path),
            failed: false,
        }))
    }

    async fn touch(&self, path: &StoragePath) -> Result<Touched> {
        let call = self.inner.touch(path);
        self.change("touch", path).bound(call).await
    }

    async fn create_dir_all(&self, dir: &StoragePath) -> Result<()> {
        let call = self.inner.create_dir_all(dir);
        self.change("create directory", dir).bound(call).await
    }

    async fn create_dir(&self, dir: &StoragePath) -> Result<()> {
        let call = self.inner.create_dir(dir);
        self.change("create directory", dir).bound(call).await
    }

    async fn rename(&self, from: &StoragePath, to: &StoragePath) -> Result<()> {
        let call = self.inner.rename(from, to);
        self.change("rename", from).bound(call).await
    }

    async fn delete_file(&self, path: &StoragePath) -> Result<Removal> {
        let call = self.inner.delete_file(path);
        self.change("delete", path).bound(call).await
    }

    async fn delete_tree(&self, tree: &OwnedTree) -> Result<Removal> {
        let deadline = Deadline {
            timeout: self.delete_tree_timeout,
            ..self.change("delete tree", tree.path())
        };
        deadline.bound(self.inner.delete_tree(tree)).await
    }

    async fn set_attributes(&self, path: &StoragePath, attributes: &Attributes) -> Result<()> {
        let call = self.inner.set_attributes(path, attributes);
        self.change("set attributes of", path).bound(call).await
    }
}

#[derive(Debug)]
struct BoundedWriter {
    inner: Box<dyn Writer>,
    write: Deadline,
    finish: Deadline,
    abort: Deadline,
    /// A write failed or was given up, so the content has a hole that must not be published.
    failed: bool,
}

#[async_trait]
impl Writer for BoundedWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        // Also where this future is dropped before the write ends.
        let failed_before = std::mem::replace(&mut self.failed, true);
        self.write.bound(self.inner.write(data)).await?;
        self.failed = failed_before;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        if self.failed {
            let uri = self.finish.uri.clone();
            self.abort.bound(self.inner.abort()).await?;
            return Err(StorageError::new("finish", uri, ErrorKind::Other)
                .with_detail("an earlier write of this file failed or was given up"));
        }
        self.finish.bound(self.inner.finish()).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.abort.bound(self.inner.abort()).await
    }
}
