//! Storage in memory, for tests: with a clock of its own, directories that can be replaced, and
//! directories that cannot be read.
//!
//! Clones are handles to the same storage, so a test keeps one to play the operator beside the code
//! under test. Links do not exist. Permission bits and owners are kept and not enforced; see
//! [`MemoryStorage::make_unreadable`] for refusals.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;

use super::memory_tree::{Content, Problem, Tree};
use crate::storage::{
    Attributes, Authority, ByteStream, CreateMode, Depth, DirIdentity, ErrorKind, FileStat,
    OwnedTree, Removal, Result, Span, Storage, StorageError, StoragePath, StorageUri, Touched,
    Writer,
};

/// Largest piece of a stream.
const PIECE_BYTES: usize = 1024 * 1024;

/// A storage in memory.
#[derive(Debug, Clone)]
pub struct MemoryStorage {
    authority: Authority,
    tree: Arc<Mutex<Tree>>,
}

impl MemoryStorage {
    /// An empty storage with the URI `memory://<name>/`. Its clock stands at the beginning of 2024 and
    /// advances by 1 ms with each change, so that no two changes have the same time stamp.
    pub fn new(name: &str) -> Self {
        Self {
            authority: Authority::Memory(name.to_owned()),
            tree: Arc::new(Mutex::new(Tree::new())),
        }
    }

    /// A storage that shows no identity of its directories, as HDFS.
    pub fn without_identities(name: &str) -> Self {
        let storage = Self::new(name);
        storage.tree().numbered = false;
        storage
    }

    /// The time on the storage's clock.
    pub fn now(&self) -> Timestamp {
        self.tree().clock.now()
    }

    /// Sets the storage's clock, forwards or back.
    pub fn set_clock(&self, now: Timestamp) {
        self.tree().clock.set(now);
    }

    /// Sets the storage's clock forwards.
    pub fn advance_clock(&self, by: Duration) {
        self.tree().clock.advance(by);
    }

    /// From now on the storage's clock advances as tokio's does, paused time included.
    pub fn run_clock_with_tokio(&self) {
        self.tree().clock.run_with_tokio();
    }

    /// Sets what [`Storage::epoch`] says: another server answers from now on.
    pub fn set_epoch(&self, epoch: u64) {
        self.tree().epoch = epoch;
    }

    /// Gives the directory another identity, as if it had been deleted and made again.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`.
    pub fn renew_identity(&self, dir: &StoragePath) -> Result<()> {
        let renewed = self.tree().renew_identity(dir);
        self.say("renew identity of", dir, renewed)
    }

    /// From now on every call on entries in or below `dir`, and its listing, ends with
    /// `PermissionDenied`; the entry of `dir` itself stays visible.
    pub fn make_unreadable(&self, dir: &StoragePath) {
        self.tree().unreadable.insert(dir.clone());
    }

    /// Takes [`MemoryStorage::make_unreadable`] back.
    pub fn make_readable(&self, dir: &StoragePath) {
        self.tree().unreadable.remove(dir);
    }

    /// Puts a file there at once, in place of an older one, and makes missing parents.
    ///
    /// # Errors
    /// `NotADirectory`, `IsADirectory`, `PermissionDenied`.
    pub fn put(&self, path: &StoragePath, content: impl Into<Bytes>) -> Result<()> {
        let put = {
            let mut tree = self.tree();
            let parent = path.parent().unwrap_or_else(StoragePath::root);
            tree.create_dir_all(&parent)
                .and_then(|()| tree.put(path, Content::from(content.into()), CreateMode::Replace))
        };
        self.say("put", path, put)
    }

    /// Deletes whatever stands at `path`, with all below it, at once and whatever its name.
    ///
    /// # Errors
    /// `NotADirectory`, `PermissionDenied`.
    pub fn remove(&self, path: &StoragePath) -> Result<Removal> {
        let removed = self.tree().remove_tree(path);
        self.say("remove", path, removed)
    }

    /// All paths, in the order of their bytes: what a test compares.
    pub fn paths(&self) -> Vec<StoragePath> {
        self.tree().paths()
    }

    /// A panic of one test leaves the tree between two whole changes, so poison is no reason to stop.
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say<T>(
        &self,
        operation: &'static str,
        path: &StoragePath,
        outcome: std::result::Result<T, Problem>,
    ) -> Result<T> {
        outcome.map_err(|Problem { kind, detail }| {
            let uri = StorageUri::new(self.authority.clone(), path.clone());
            let error = StorageError::new(operation, uri, kind);
            match detail {
                Some(detail) => error.with_detail(detail),
                None => error,
            }
        })
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn authority(&self) -> &Authority {
        &self.authority
    }

    fn epoch(&self) -> u64 {
        self.tree().epoch
    }

    async fn stat(&self, path: &StoragePath) -> Result<FileStat> {
        let found = self.tree().stat(path);
        self.say("stat", path, found)
    }

    async fn identify_dir(&self, dir: &StoragePath) -> Result<DirIdentity> {
        let found = self.tree().identify_dir(dir);
        self.say("identify", dir, found)
    }

    async fn list(&self, dir: &StoragePath, depth: Depth) -> Result<Vec<FileStat>> {
        let found = self.tree().list(dir, depth);
        self.say("list", dir, found)
    }

    async fn read_small(&self, path: &StoragePath, max_bytes: u64) -> Result<Bytes> {
        let found = self.tree().read(path).and_then(|content| {
            if content.len_bytes() > max_bytes {
                let detail = format!("more than {max_bytes} bytes");
                return Err(Problem::new(ErrorKind::TooLarge).with_detail(detail));
            }
            Ok(content.into_bytes())
        });
        self.say("read", path, found)
    }

    async fn read_span(&self, path: &StoragePath, span: Span) -> Result<Bytes> {
        let found = self.tree().read(path).map(Content::into_bytes);
        let content = self.say("read", path, found)?;
        let range = span.within(content.len() as u64);
        let at = |byte| usize::try_from(byte).unwrap_or(usize::MAX);
        Ok(content.slice(at(range.start)..at(range.end)))
    }

    async fn open_read(&self, path: &StoragePath) -> Result<ByteStream> {
        let found = self.tree().read(path);
        let mut rest = self.say("read", path, found)?.into_bytes();
        let pieces = std::iter::from_fn(move || {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            (!piece.is_empty()).then_some(Ok(piece))
        });
        Ok(stream::iter(pieces).boxed())
    }

    async fn create(&self, path: &StoragePath, mode: CreateMode) -> Result<Box<dyn Writer>> {
        let begun = {
            let mut tree = self.tree();
            match mode {
                CreateMode::New | CreateMode::Replace => tree.check_target(path, mode),
                CreateMode::Scratch => tree.put(path, Content::default(), mode),
            }
        };
        self.say("create", path, begun)?;
        Ok(Box::new(MemoryWriter {
            storage: self.clone(),
            path: path.clone(),
            mode,
            content: Content::default(),
        }))
    }

    async fn touch(&self, path: &StoragePath) -> Result<Touched> {
        let touched = self.tree().touch(path);
        self.say("touch", path, touched)
    }

    async fn create_dir_all(&self, dir: &StoragePath) -> Result<()> {
        let made = self.tree().create_dir_all(dir);
        self.say("create directory", dir, made)
    }

    async fn create_dir(&self, dir: &StoragePath) -> Result<()> {
        let made = self.tree().create_dir(dir);
        self.say("create directory", dir, made)
    }

    async fn rename(&self, from: &StoragePath, to: &StoragePath) -> Result<()> {
        let renamed = self.tree().rename(from, to);
        self.say("rename", from, renamed)
    }

    async fn delete_file(&self, path: &StoragePath) -> Result<Removal> {
        let deleted = self.tree().delete_file(path);
        self.say("delete", path, deleted)
    }

    async fn delete_tree(&self, tree: &OwnedTree) -> Result<Removal> {
        let deleted = self.tree().delete_tree(tree.path());
        self.say("delete tree", tree.path(), deleted)
    }

    async fn make_durable(&self, dir: &StoragePath) -> Result<()> {
        let there = self.tree().identify_dir(dir).map(|_| ());
        self.say("make durable", dir, there)
    }

    async fn set_attributes(&self, path: &StoragePath, attributes: &Attributes) -> Result<()> {
        let set = self.tree().set_attributes(path, attributes);
        self.say("set attributes of", path, set)
    }
}

/// A file being written; only a `Scratch` file shows before it is finished.
#[derive(Debug)]
struct MemoryWriter {
    storage: MemoryStorage,
    path: StoragePath,
    mode: CreateMode,
    content: Content,
}

#[async_trait]
impl Writer for MemoryWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.content.push(data);
        if self.mode == CreateMode::Scratch {
            let mut tree = self.storage.tree();
            let put = tree.put(&self.path, self.content.clone(), self.mode);
            drop(tree);
            return self.storage.say("write", &self.path, put);
        }
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        let content = self.content.clone();
        let finished = self.storage.tree().put(&self.path, content, self.mode);
        self.storage.say("finish", &self.path, finished)
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        if self.mode != CreateMode::Scratch {
            return Ok(());
        }
        let deleted = self.storage.tree().delete_file(&self.path);
        self.storage.say("abort", &self.path, deleted).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> StoragePath {
        StoragePath::parse(text).unwrap()
    }

    fn kind<T>(outcome: Result<T>) -> ErrorKind {
        outcome.map(drop).unwrap_err().kind
    }

    #[tokio::test]
    async fn its_clock_is_the_tests() {
        let storage = MemoryStorage::new("m");
        let file = path("/file");
        let modified_at = async || storage.stat(&file).await.unwrap().modified_at;
        storage.touch(&file).await.unwrap();
        let first = modified_at().await;
        assert_eq!(first, storage.now());
        storage.touch(&file).await.unwrap();
        assert_eq!(modified_at().await.duration_since(first).as_millis(), 1);
        storage.advance_clock(Duration::from_mins(5));
        assert_eq!(modified_at().await.duration_since(first).as_millis(), 1);
        storage.touch(&file).await.unwrap();
        assert_eq!(modified_at().await.duration_since(first).as_secs(), 300);
        storage.set_clock(first);
        storage.touch(&file).await.unwrap();
        assert_eq!(modified_at().await.duration_since(first).as_millis(), 1);

        storage.run_clock_with_tokio();
        let started_at = storage.now();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(storage.now().duration_since(started_at).as_millis() >= 20);
    }

    #[tokio::test]
    async fn directories_can_be_replaced_under_the_code() {
        let storage = MemoryStorage::new("m");
        let (dir, file) = (path("/dir"), path("/dir/file"));
        storage.put(&file, "content").unwrap();
        let first = storage.identify_dir(&dir).await.unwrap();
        storage.renew_identity(&dir).unwrap();
        let second = storage.identify_dir(&dir).await.unwrap();
        assert_ne!(first, second);
        assert_eq!(storage.read_small(&file, 10).await.unwrap(), "content");
        assert_eq!(storage.remove(&dir).unwrap(), Removal::Deleted);
        assert_eq!(storage.paths(), [path("/")]);
        storage.create_dir(&dir).await.unwrap();
        assert_ne!(storage.identify_dir(&dir).await.unwrap(), second);
        assert_eq!(kind(storage.renew_identity(&file)), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn an_unreadable_directory_refuses_everything_inside() {
        let storage = MemoryStorage::new("m");
        let (dir, file) = (path("/dir"), path("/dir/sub/file"));
        storage.put(&file, "content").unwrap();
        storage.make_unreadable(&dir);
        let refused = [
            kind(storage.stat(&file).await),
            kind(storage.stat(&path("/dir/missing")).await),
            kind(storage.identify_dir(&dir).await),
            kind(storage.list(&dir, Depth::Children).await),
            kind(storage.list(&path("/"), Depth::Tree).await),
            kind(storage.read_small(&file, 10).await),
            kind(storage.touch(&file).await),
            kind(storage.delete_file(&file).await),
            kind(storage.rename(&file, &path("/file")).await),
            kind(storage.create_dir(&path("/dir/new")).await),
        ];
        assert_eq!(refused, [ErrorKind::PermissionDenied; 10]);
        assert!(storage.stat(&dir).await.is_ok());
        storage.make_readable(&dir);
        assert!(storage.stat(&file).await.is_ok());
    }

    #[tokio::test]
    async fn a_scratch_file_shows_while_it_is_written() {
        let storage = MemoryStorage::new("m");
        let file = path("/file");
        let mut writer = storage.create(&file, CreateMode::Scratch).await.unwrap();
        assert_eq!(storage.read_small(&file, 10).await.unwrap(), "");
        writer.write(Bytes::from_static(b"one")).await.unwrap();
        assert_eq!(storage.read_small(&file, 10).await.unwrap(), "one");
        writer.abort().await.unwrap();
        assert_eq!(kind(storage.stat(&file).await), ErrorKind::NotFound);
    }
}
