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
    OwnedTree, Removal, Result, Span, Storage, StorageError, StoragePath, StorageUri, Touched,
    Writer,
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

/// How many time-outs of a call it may take to make a tree durable.
const DURABLE_FACTOR: u32 = 60;

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

    async fn read_span(&self, path: &StoragePath, span: Span) -> Result<Bytes> {
        let call = self.inner.read_span(path, span);
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

    async fn make_durable(&self, dir: &StoragePath) -> Result<()> {
        // A disk has to write what a whole copy left in memory.
        let mut deadline = self.change("make durable", dir);
        deadline.timeout = deadline.timeout.saturating_mul(DURABLE_FACTOR);
        deadline.bound(self.inner.make_durable(dir)).await
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

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use tokio::time::Instant;

    use super::*;
    use crate::storage::FileKind;
    use crate::storage::faulty::{Fault, FaultScript, Faulty, Operation, Signal, When};
    use crate::storage::memory::MemoryStorage;

    const SHORT: Duration = Duration::from_millis(20);
    /// Never reached: a test that waits for it has failed.
    const LONG: Duration = Duration::from_mins(5);

    struct Bench {
        memory: MemoryStorage,
        script: FaultScript,
        storage: WithTimeout<Faulty<MemoryStorage>>,
    }

    fn bench(timeout: Duration) -> Bench {
        let memory = MemoryStorage::new("m");
        let script = FaultScript::new();
        let faulty = Faulty::new(memory.clone(), script.clone());
        let storage = WithTimeout::new(faulty, timeout).with_delete_tree_timeout(timeout);
        Bench {
            memory,
            script,
            storage,
        }
    }

    fn path(text: &str) -> StoragePath {
        StoragePath::parse(text).unwrap()
    }

    fn kind<T>(outcome: Result<T>) -> ErrorKind {
        outcome.map(drop).unwrap_err().kind
    }

    async fn wait_until(what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < deadline, "in vain waited until {what}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_hung_read_times_out_and_a_hung_change_is_unknown() {
        let Bench {
            memory,
            script,
            storage,
        } = bench(SHORT);
        let (dir, file) = (path("/dir"), path("/dir/file"));
        memory.put(&file, "content").unwrap();
        let before = memory.paths();
        let tree = OwnedTree::claim(path("/dir/x.stepdown")).unwrap();
        script.inject(When::always(), Fault::Hang);
        let reads = [
            kind(storage.stat(&file).await),
            kind(storage.identify_dir(&dir).await),
            kind(storage.list(&dir, Depth::Children).await),
            kind(storage.list(&dir, Depth::Tree).await),
            kind(storage.read_small(&file, 10).await),
            kind(storage.open_read(&file).await),
        ];
        assert_eq!(reads, [ErrorKind::TimedOut; 6]);
        let changes = [
            kind(storage.create(&file, CreateMode::Replace).await),
            kind(storage.touch(&file).await),
            kind(storage.create_dir_all(&path("/dir/a")).await),
            kind(storage.create_dir(&path("/dir/a")).await),
            kind(storage.rename(&file, &path("/dir/to")).await),
            kind(storage.delete_file(&file).await),
            kind(storage.delete_tree(&tree).await),
            kind(storage.set_attributes(&file, &Attributes::default()).await),
        ];
        assert_eq!(changes, [ErrorKind::OutcomeUnknown; 8]);
        assert_eq!(memory.paths(), before);
        let error = storage.stat(&file).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot stat memory://m/dir/file: no answer in time (no answer after 20ms)"
        );
    }

    #[tokio::test]
    async fn a_hung_call_blocks_no_other() {
        let Bench {
            memory,
            script,
            storage,
        } = bench(LONG);
        let (hung, sound) = (path("/hung/file"), path("/sound/file"));
        memory.put(&hung, "").unwrap();
        memory.put(&sound, "").unwrap();
        script.inject(When::always().within(&path("/hung")), Fault::Hang);
        let mut waiting: Vec<_> = (0..100).map(|_| storage.stat(&hung)).collect();
        for call in &mut waiting {
            assert!(futures::poll!(call).is_pending());
        }
        for _ in 0..100 {
            storage.stat(&sound).await.unwrap();
            storage.touch(&sound).await.unwrap();
        }
        for call in &mut waiting {
            assert!(futures::poll!(call).is_pending());
        }
    }

    #[tokio::test]
    async fn each_piece_of_a_stream_has_its_deadline() {
        let Bench {
            memory,
            script,
            storage,
        } = bench(SHORT);
        let file = path("/file");
        memory.put(&file, vec![7; 3 * 1024 * 1024]).unwrap();
        script.inject(When::on(Operation::ReadPiece).nth(2), Fault::Hang);
        let mut pieces = storage.open_read(&file).await.unwrap();
        assert_eq!(pieces.next().await.unwrap().unwrap().len(), 1024 * 1024);
        assert_eq!(kind(pieces.next().await.unwrap()), ErrorKind::TimedOut);
        assert!(pieces.next().await.is_none(), "an error ends the stream");

        script.inject(
            When::on(Operation::ReadPiece),
            Fault::Refuse(ErrorKind::Unreachable),
        );
        let pieces: Vec<_> = storage.open_read(&file).await.unwrap().collect().await;
        assert_eq!(pieces.len(), 1, "an error ends the stream");
    }

    #[tokio::test]
    async fn a_file_with_a_hung_write_is_never_published() {
        let Bench {
            memory,
            script,
            storage,
        } = bench(SHORT);
        let file = path("/file");
        script.inject(When::on(Operation::Write).nth(2), Fault::LoseAnswer);
        script.inject(When::on(Operation::Write).nth(5), Fault::Hang);
        for mode in [CreateMode::New, CreateMode::Replace] {
            let mut writer = storage.create(&file, mode).await.unwrap();
            writer.write(Bytes::from_static(b"one ")).await.unwrap();
            let unknown = writer.write(Bytes::from_static(b"two ")).await;
            assert_eq!(kind(unknown), ErrorKind::OutcomeUnknown);
            // A caller that goes on all the same.
            let _ = writer.write(Bytes::from_static(b"three")).await;
            assert_eq!(kind(writer.finish().await), ErrorKind::Other);
            assert_eq!(memory.paths(), [path("/")]);
        }
        assert_eq!(script.faults(), 2);
    }

    #[tokio::test]
    async fn a_given_up_finish_may_happen_later() {
        let Bench {
            memory,
            script,
            storage,
        } = bench(SHORT);
        let file = path("/file");
        let signal = Signal::new();
        let late = Fault::ExecuteLate(signal.clone());
        script.inject(When::on(Operation::Finish).nth(1), late);
        let mut writer = storage.create(&file, CreateMode::New).await.unwrap();
        writer.write(Bytes::from_static(b"content")).await.unwrap();
        assert_eq!(kind(writer.finish().await), ErrorKind::OutcomeUnknown);
        assert_eq!(kind(storage.stat(&file).await), ErrorKind::NotFound);
        signal.give();
        wait_until("the file is there", || script.late_calls() == 1).await;
        assert_eq!(storage.read_small(&file, 10).await.unwrap(), "content");
        assert_eq!(memory.paths(), [path("/"), file]);
    }

    #[tokio::test]
    async fn a_deep_tree_may_take_longer_than_one_call() {
        let Bench {
            memory,
            script,
            storage,
        } = bench(Duration::from_secs(2));
        let leaf = path("/a/b/c/d/e/f/g/h/i/j/file");
        memory.put(&leaf, "").unwrap();
        let delay = Duration::from_millis(250);
        script.inject(When::on(Operation::List), Fault::Delay(delay));
        let began = Instant::now();
        let listed = storage.list(&path("/"), Depth::Tree).await.unwrap();
        assert!(began.elapsed() > Duration::from_secs(2));
        assert_eq!(listed.len(), 11);
        assert_eq!(listed.last().unwrap().path, leaf);
    }

    #[tokio::test]
    async fn a_tree_is_listed_whole_or_not_at_all() {
        let Bench {
            memory,
            script,
            storage,
        } = bench(SHORT);
        for dir in 0..40 {
            memory
                .put(&path(&format!("/d{dir:02}/s/file")), "")
                .unwrap();
        }
        let all = storage.list(&path("/"), Depth::Tree).await.unwrap();
        assert_eq!(all, memory.list(&path("/"), Depth::Tree).await.unwrap());
        assert_eq!(all.len(), 120);

        // Gone, or no directory any more, by the time of its turn.
        for error in [ErrorKind::NotFound, ErrorKind::NotADirectory] {
            let gone = When::on(Operation::List).at(&path("/d07/s"));
            script.inject(gone, Fault::Refuse(error));
            let listed = storage.list(&path("/"), Depth::Tree).await.unwrap();
            assert_eq!(listed.len(), 118);
            assert!(!listed.iter().any(|entry| entry.path == path("/d07/s")));
            script.clear();
        }
        let hung = When::on(Operation::List).at(&path("/d39/s"));
        script.inject(hung, Fault::Hang);
        let refused = storage.list(&path("/"), Depth::Tree).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TimedOut);
        assert_eq!(refused.uri.path, path("/d39/s"));
        script.clear();
        let top = When::on(Operation::List).at(&path("/d01"));
        script.inject(top, Fault::Refuse(ErrorKind::NotFound));
        let refused = storage.list(&path("/d01"), Depth::Tree).await;
        assert_eq!(kind(refused), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn deleting_a_tree_has_a_time_out_of_its_own() {
        let Bench { memory, script, .. } = bench(SHORT);
        let tree = OwnedTree::claim(path("/x.stepdown")).unwrap();
        memory.put(&path("/x.stepdown/file"), "").unwrap();
        let faulty = Faulty::new(memory, script.clone());
        let storage = WithTimeout::new(faulty, SHORT).with_delete_tree_timeout(LONG);
        let slow = When::on(Operation::DeleteTree);
        script.inject(slow, Fault::Delay(5 * SHORT));
        assert_eq!(storage.delete_tree(&tree).await.unwrap(), Removal::Deleted);
        let tree_of_files = storage.list(&path("/"), Depth::Tree).await.unwrap();
        assert!(
            !tree_of_files
                .iter()
                .any(|entry| entry.kind == FileKind::File)
        );
    }

    #[tokio::test]
    async fn what_passes_in_time_passes_unchanged() {
        let Bench {
            memory,
            script,
            storage,
        } = bench(LONG);
        let file = path("/file");
        memory.put(&file, "content").unwrap();
        memory.set_epoch(7);
        assert_eq!(storage.epoch(), 7);
        let pieces: Vec<Bytes> = storage
            .open_read(&file)
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        assert_eq!(pieces, ["content"]);
        script.inject(
            When::on(Operation::Stat),
            Fault::Refuse(ErrorKind::SafeMode),
        );
        assert_eq!(kind(storage.stat(&file).await), ErrorKind::SafeMode);
    }
}
