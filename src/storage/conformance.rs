//! Proof that a storage keeps the promises of [`Storage`]: plain functions, run by the tests of every
//! adapter and decorator against the real thing.
//!
//! What a storage lacks is a parameter ([`Capabilities`]), so that the other promise is checked instead
//! of none. Nothing here knows a kind of storage, and no check depends on how fast it answers: a storage
//! that needs half a second to close a file that is not empty takes about half a minute for all.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::StreamExt;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    CreateMode, ErrorKind, FileStat, Result as StorageResult, Storage, StorageError, StoragePath,
};
use super::{
    conformance_create, conformance_dirs, conformance_files, conformance_races, conformance_renames,
};

/// What [`Storage::identify_dir`] can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identities {
    /// A directory that was deleted and made again has another identity.
    Tell,
    /// [`DirIdentity::Unnumbered`](super::DirIdentity) for every directory.
    None,
}

/// What the storage says about an entry whose parent is a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BelowFile {
    /// `NotADirectory`.
    NotADirectory,
    /// The same as about any entry that is not there.
    ReadsAsAbsent,
}

/// Whether directories can be renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirRename {
    /// Atomically and without overwriting.
    Atomic,
    /// `Unsupported`.
    Unsupported,
}

/// In what the storages that keep the promises differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// What directories are told apart by.
    pub identities: Identities,
    /// What is said about an entry below a file.
    pub below_file: BelowFile,
    /// Whether directories can be renamed.
    pub dir_rename: DirRename,
    /// Longest name of one entry, in bytes of UTF-8.
    pub name_bytes: usize,
}

/// What was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many promises were checked.
    pub promises: usize,
    /// How many single expectations were met.
    pub checks: u64,
}

/// A promise that is not kept.
#[derive(Debug, thiserror::Error)]
#[error("{promise}: {what}")]
pub struct Failure {
    /// The promise.
    pub promise: &'static str,
    /// What was done, expected and found.
    pub what: String,
    /// The storage's error, where one was not expected or was of another kind.
    #[source]
    pub source: Option<Box<StorageError>>,
}

/// Result of one check.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

/// The check of one promise.
pub(super) type Check = for<'trial> fn(&'trial Trial<'trial>) -> BoxFuture<'trial, Outcome>;

/// Checks every promise on `storage`, each in a directory of its own below `root`, which is made if it is
/// missing. What the checks make is left there.
///
/// # Errors
/// The first promise that is not kept.
pub async fn run_all(
    storage: &dyn Storage,
    root: &StoragePath,
    capabilities: Capabilities,
) -> Result<Report, Failure> {
    let checks = AtomicU64::new(0);
    let mut promises = 0;
    let all = [
        conformance_files::CHECKS,
        conformance_dirs::CHECKS,
        conformance_create::CHECKS,
        conformance_renames::CHECKS,
        conformance_races::CHECKS,
        conformance_files::LAST,
    ];
    for (promise, check) in all.into_iter().flatten().copied() {
        let trial = Trial {
            storage,
            dir: root.join(&promise.replace(' ', "-")),
            capabilities,
            promise,
            checks: &checks,
        };
        trial.ok(
            storage.create_dir_all(&trial.dir).await,
            "make a directory for the check",
        )?;
        check(&trial).await?;
        promises += 1;
    }
    Ok(Report {
        promises,
        checks: checks.into_inner(),
    })
}

/// One promise under check.
pub(super) struct Trial<'run> {
    pub(super) storage: &'run dyn Storage,
    /// Empty at the beginning.
    pub(super) dir: StoragePath,
    pub(super) capabilities: Capabilities,
    promise: &'static str,
    checks: &'run AtomicU64,
}

/// How long a storage's clock may stand still.
const CLOCK_DEADLINE: Duration = Duration::from_secs(30);

impl Trial<'_> {
    pub(super) fn path(&self, name: &str) -> StoragePath {
        self.dir.join(name)
    }

    /// A path of several components below the trial's directory.
    pub(super) fn path_of(&self, relative: &str) -> StoragePath {
        self.dir.with_suffix(&format!("/{relative}"))
    }

    fn failure(&self, what: impl Into<String>, source: Option<StorageError>) -> Failure {
        Failure {
            promise: self.promise,
            what: what.into(),
            source: source.map(Box::new),
        }
    }

    /// Counts an expectation that is met.
    pub(super) fn expect(&self, met: bool, what: impl FnOnce() -> String) -> Outcome {
        if !met {
            return Err(self.failure(what(), None));
        }
        self.checks.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn same<T: PartialEq + Debug>(
        &self,
        found: &T,
        expected: &T,
        what: &str,
    ) -> Outcome {
        self.expect(found == expected, || {
            format!("{what}: expected {expected:?}, found {found:?}")
        })
    }

    /// The value of a call that must succeed.
    pub(super) fn ok<T>(&self, outcome: StorageResult<T>, what: &str) -> Outcome<T> {
        let value = outcome.map_err(|error| self.failure(format!("{what} failed"), Some(error)))?;
        self.checks.fetch_add(1, Ordering::Relaxed);
        Ok(value)
    }

    /// A call that must fail with `kind`.
    pub(super) fn refused<T: Debug>(
        &self,
        outcome: StorageResult<T>,
        kind: ErrorKind,
        what: &str,
    ) -> Outcome {
        match outcome {
            Err(error) if error.kind == kind => self.expect(true, String::new),
            Err(error) => Err(self.failure(
                format!("{what}: expected {kind:?}, found {:?}", error.kind),
                Some(error),
            )),
            Ok(value) => Err(self.failure(
                format!("{what}: expected {kind:?}, but it succeeded with {value:?}"),
                None,
            )),
        }
    }

    /// The kind of error that a call on an entry below a file ends with, if its absence would be one.
    pub(super) fn below_file(&self) -> ErrorKind {
        match self.capabilities.below_file {
            BelowFile::NotADirectory => ErrorKind::NotADirectory,
            BelowFile::ReadsAsAbsent => ErrorKind::NotFound,
        }
    }

    /// Writes a file, to its end.
    pub(super) async fn write(
        &self,
        path: &StoragePath,
        content: &[u8],
        mode: CreateMode,
    ) -> StorageResult<()> {
        let mut writer = self.storage.create(path, mode).await?;
        if !content.is_empty() {
            let written = writer.write(Bytes::copy_from_slice(content)).await;
            if let Err(error) = written {
                // The first error is the one to show.
                let _ = writer.abort().await;
                return Err(error);
            }
        }
        writer.finish().await
    }

    pub(super) async fn put(&self, path: &StoragePath, content: &[u8]) -> Outcome {
        let written = self.write(path, content, CreateMode::New).await;
        self.ok(written, &format!("write {path}"))
    }

    pub(super) async fn put_empty(&self, path: &StoragePath) -> Outcome {
        let touched = self.storage.touch(path).await;
        self.ok(touched, &format!("touch {path}")).map(drop)
    }

    pub(super) async fn make_dir(&self, name: &str) -> Outcome<StoragePath> {
        let dir = self.path(name);
        self.ok(self.storage.create_dir(&dir).await, &format!("make {dir}"))?;
        Ok(dir)
    }

    pub(super) async fn stat(&self, path: &StoragePath) -> Outcome<FileStat> {
        self.ok(self.storage.stat(path).await, &format!("stat {path}"))
    }

    pub(super) async fn absent(&self, path: &StoragePath, what: &str) -> Outcome {
        let found = self.storage.stat(path).await;
        self.refused(found, ErrorKind::NotFound, &format!("stat {path}, {what}"))
    }

    /// The file has exactly this content, by both ways of reading and by its length.
    pub(super) async fn content(&self, path: &StoragePath, expected: &[u8], what: &str) -> Outcome {
        let max_bytes = expected.len() as u64;
        let small = self.storage.read_small(path, max_bytes).await;
        let small = self.ok(small, &format!("read {path}, {what}"))?;
        self.expect(small == expected, || {
            format!(
                "{path}, {what}: {} bytes read, {max_bytes} expected, or others",
                small.len()
            )
        })?;
        let streamed = self.ok(self.collect(path).await, &format!("stream {path}, {what}"))?;
        self.expect(streamed == expected, || {
            format!("{path}, {what}: the stream differs")
        })?;
        self.same(&self.stat(path).await?.len_bytes, &max_bytes, "length")
    }

    pub(super) async fn collect(&self, path: &StoragePath) -> StorageResult<Vec<u8>> {
        let mut pieces = self.storage.open_read(path).await?;
        let mut content = Vec::new();
        while let Some(piece) = pieces.next().await {
            content.extend_from_slice(&piece?);
        }
        Ok(content)
    }

    /// Waits until the storage gives a later time stamp than `earlier`.
    pub(super) async fn await_later(&self, earlier: Timestamp) -> Outcome {
        let file = self.path("clock");
        let deadline = Instant::now() + CLOCK_DEADLINE;
        loop {
            self.put_empty(&file).await?;
            if self.stat(&file).await?.modified_at > earlier {
                return Ok(());
            }
            let waiting = Instant::now() < deadline;
            self.expect(waiting, || {
                format!("touch gives no later time than {earlier}")
            })?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
