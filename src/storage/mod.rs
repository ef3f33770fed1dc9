//! One interface to every place that markers, messages and checkpoints lie in.
//!
//! [`Storage`] carries the promises; an adapter keeps them for one kind of storage
//! ([`local`], [`memory`], [`hdfs`]), a decorator adds a property to any of them ([`timeout`],
//! [`faulty`]), and [`conformance`] proves the promises against each.
//!
//! The one rule above all: **an error is never an absence**. Only [`ErrorKind::NotFound`] from
//! [`Storage::stat`], or a name missing from a complete [`Storage::list`], says that a file is not
//! there; everything else is unknown.

pub mod conformance;
mod conformance_create;
mod conformance_dirs;
mod conformance_files;
mod conformance_races;
mod conformance_renames;
mod error;
mod fault_script;
pub mod faulty;
pub mod hdfs;
mod hdfs_change;
mod hdfs_close;
mod hdfs_error;
mod hdfs_look;
mod hdfs_mount;
mod hdfs_namenodes;
mod hdfs_probe;
mod hdfs_reach;
mod hdfs_read;
mod hdfs_session;
mod hdfs_slot;
mod hdfs_tried;
mod hdfs_viewfs;
mod hdfs_write;
pub mod local;
mod local_change;
mod local_errno;
mod local_lanes;
mod local_look;
mod local_write;
pub mod memory;
mod memory_tree;
pub mod open;
pub mod timeout;
mod uri;
mod walk;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

pub use error::{ErrorKind, Result, StorageError};
pub use uri::{Authority, InvalidUri, StoragePath, StorageUri};

/// What kind of entry a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link (local only); never followed by [`Storage::stat`] or [`Storage::list`].
    Symlink,
    /// A socket, a device, a pipe, or a file whose name is not UTF-8.
    Other,
}

/// What a storage says about one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// Absolute path in its storage. Bytes that are not UTF-8 are replaced (kind is then `Other`).
    pub path: StoragePath,
    /// Kind of the entry.
    pub kind: FileKind,
    /// Length in bytes; 0 for what is not a regular file.
    pub len_bytes: u64,
    /// Last change of the content, by the storage's own clock, to the millisecond or better. Of a
    /// directory: when an entry was last created in it, renamed or deleted.
    pub modified_at: Timestamp,
    /// Permission bits (`0o7777`), where the storage has them.
    pub mode: Option<u32>,
    /// Owner's name (HDFS) or numeric id (local), where the storage has one.
    pub owner: Option<Arc<str>>,
    /// Group's name (HDFS) or numeric id (local), where the storage has one.
    pub group: Option<Arc<str>>,
}

/// What tells a directory from another one that stands at the same path later.
///
/// Two equal values mean the same directory as far as the storage can tell. HDFS shows no file id, so
/// there the value only says "a directory": the caller needs a sentinel file beside it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum DirIdentity {
    /// Local file system: device, inode, and time of birth in nanoseconds where the kernel tells it
    /// (an inode number is reused soon after a delete).
    Inode {
        /// Device id.
        dev: u64,
        /// Inode number.
        ino: u64,
        /// Birth time, nanoseconds since the epoch.
        born_ns: Option<i64>,
    },
    /// The storage has no identity to show.
    Unnumbered,
}

/// How deep a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The entries of the directory itself.
    Children,
    /// All entries below the directory, links not followed.
    Tree,
}

/// What [`Storage::create`] does about an entry that is there already, and when content shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateMode {
    /// Atomic and exclusive: the file appears whole at [`Writer::finish`], or `AlreadyExists`. Of any
    /// number of contenders exactly one succeeds.
    New,
    /// Atomic: the file appears whole at `finish`, in place of an older file.
    Replace,
    /// Neither: the content shows while it is written and an older file is lost. Only for files in a
    /// staging directory that no one else reads; saves a rename. It may be lost with the machine until
    /// [`Storage::make_durable`] was called on its directory.
    Scratch,
}

/// One end of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// Its first so many bytes.
    First(u32),
    /// Its last so many bytes.
    Last(u32),
}

impl Span {
    /// The range of the bytes in a file of this length: all of a file that has no more.
    pub(crate) fn within(self, len_bytes: u64) -> std::ops::Range<u64> {
        match self {
            Span::First(bytes) => 0..len_bytes.min(bytes.into()),
            Span::Last(bytes) => len_bytes.saturating_sub(bytes.into())..len_bytes,
        }
    }
}

/// Permission bits and owners to give to an entry; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Permission bits (`0o7777`).
    pub mode: Option<u32>,
    /// Owner, as in [`FileStat::owner`].
    pub owner: Option<Arc<str>>,
    /// Group, as in [`FileStat::group`].
    pub group: Option<Arc<str>>,
}

/// Result of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It was there and is gone.
    Deleted,
    /// It was not there.
    Absent,
}

/// Result of [`Storage::touch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    /// The file was not there and is now, empty.
    Created,
    /// The file was there; its time stamp is now, its content as it was.
    Refreshed,
}

/// A directory tree that stepdown made itself and may remove: the only thing
/// [`Storage::delete_tree`] takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedTree(StoragePath);

impl OwnedTree {
    /// The tree at `path`, if its own name carries stepdown's mark (`.stepdown` somewhere in the
    /// last component), as all staging and state directories do.
    pub fn claim(path: StoragePath) -> Option<OwnedTree> {
        path.name().contains(".stepdown").then_some(OwnedTree(path))
    }

    /// Its root.
    pub fn path(&self) -> &StoragePath {
        &self.0
    }
}

/// Content of a file as it is read: pieces of at most some MiB, in order.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// A file being written. Dropping a writer neither publishes the file nor cleans up: call
/// [`Writer::finish`] or [`Writer::abort`].
#[async_trait]
pub trait Writer: Debug + Send {
    /// Appends `data`. After an error only `abort` makes sense.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// Makes the file visible, and durable, as its [`CreateMode`] promises.
    ///
    /// # Errors
    /// `AlreadyExists` in mode `New`; `OutcomeUnknown` if the publishing step may or may not have
    /// happened (look again before anything else).
    async fn finish(self: Box<Self>) -> Result<()>;

    /// Drops what was written; best effort, a leftover has a name that starts with `.` and ends in
    /// `.stepdown-tmp`.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// A place for files. All paths are absolute within it; all calls are cancel-safe in memory, but a
/// cancelled mutation may still happen.
///
/// Errors of mutations come in two sorts: [`ErrorKind::OutcomeUnknown`] (it may have happened) and
/// all others (refused: nothing changed). Only idempotent calls are retried inside.
#[async_trait]
pub trait Storage: Debug + Send + Sync {
    /// Scheme and authority: what to put before a path to make its URI.
    fn authority(&self) -> &Authority;

    /// Grows each time that another server may answer than before (a failover, a rebuilt client).
    /// A write and a later read with the same epoch were answered by the same server.
    fn epoch(&self) -> u64;

    /// The entry at `path`; a symbolic link itself, not its target.
    ///
    /// # Errors
    /// `NotFound` only where the storage said that there is no such entry. A parent that is missing
    /// or is no directory may also read as `NotFound`: see [`Storage::identify_dir`].
    async fn stat(&self, path: &StoragePath) -> Result<FileStat>;

    /// The identity of the directory `dir`, links followed.
    ///
    /// # Errors
    /// `NotFound`; `NotADirectory`; `PermissionDenied` also where the directory cannot be searched.
    async fn identify_dir(&self, dir: &StoragePath) -> Result<DirIdentity>;

    /// All entries below `dir`, without `dir` itself, sorted by the bytes of their paths. Complete or
    /// an error: entries that were there during the whole call are in it. No snapshot: entries that
    /// come or go meanwhile may or may not be, and on some file systems one that is replaced by a rename
    /// meanwhile may be missing, so ask [`Storage::stat`] before acting on an absence. A sub-directory
    /// that vanishes in a `Tree` walk is left out.
    ///
    /// # Errors
    /// `NotFound`; `NotADirectory` if `dir` is something else.
    async fn list(&self, dir: &StoragePath, depth: Depth) -> Result<Vec<FileStat>>;

    /// The whole content of a file of at most `max_bytes`.
    ///
    /// # Errors
    /// `NotFound`; `IsADirectory`; `TooLarge`, with nothing read beyond the limit.
    async fn read_small(&self, path: &StoragePath, max_bytes: u64) -> Result<Bytes>;

    /// One end of a file of any length; the whole file if it has no more bytes. Takes no longer for a
    /// long file than for a short one.
    ///
    /// # Errors
    /// `NotFound`; `IsADirectory`.
    async fn read_span(&self, path: &StoragePath, span: Span) -> Result<Bytes>;

    /// The content of a file from its beginning, in bounded memory. A file that another writer has
    /// not closed may end early: compare with [`FileStat::len_bytes`].
    ///
    /// # Errors
    /// `NotFound`; `IsADirectory`; any later error comes as an item and ends the stream.
    async fn open_read(&self, path: &StoragePath) -> Result<ByteStream>;

    /// Begins to write a file; its parent must exist.
    ///
    /// # Errors
    /// `NotFound` if the parent is missing; `NotADirectory` if it is something else; `IsADirectory` if a
    /// directory stands at `path`, in every mode; `AlreadyExists` if anything else does in mode `New`
    /// (here or at `finish`).
    async fn create(&self, path: &StoragePath, mode: CreateMode) -> Result<Box<dyn Writer>>;

    /// Makes an empty file or gives an existing one the storage's current time; the content stays.
    ///
    /// The new time stamp is the storage's, not this host's, so that it can be compared with others.
    ///
    /// # Errors
    /// `NotFound` if the parent is missing; `NotADirectory` if it is something else; `IsADirectory`.
    async fn touch(&self, path: &StoragePath) -> Result<Touched>;

    /// Makes the directory and its missing parents; no error if it is there.
    ///
    /// # Errors
    /// `NotADirectory` if something else stands in the way.
    async fn create_dir_all(&self, dir: &StoragePath) -> Result<()>;

    /// Makes one directory, exclusively.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` if the parent is missing; `NotADirectory` if it is something else.
    async fn create_dir(&self, dir: &StoragePath) -> Result<()>;

    /// Renames a file or a directory, atomically; never overwrites, never moves into a directory.
    ///
    /// # Errors
    /// `AlreadyExists` if anything stands at `to`; `NotFound` if `from` or the parent of `to` is
    /// missing; `Unsupported` across file systems, or where the file system cannot promise it.
    async fn rename(&self, from: &StoragePath, to: &StoragePath) -> Result<()>;

    /// Deletes one file or link; past any trash.
    ///
    /// # Errors
    /// `IsADirectory`. A missing parent reads as `Absent`.
    async fn delete_file(&self, path: &StoragePath) -> Result<Removal>;

    /// Deletes a whole tree that stepdown made. Not atomic: what is left after an error can be
    /// deleted by the same call again.
    async fn delete_tree(&self, tree: &OwnedTree) -> Result<Removal>;

    /// Makes everything below `dir` durable, whatever mode it was written in.
    ///
    /// # Errors
    /// `NotFound`; where the storage could not promise it.
    async fn make_durable(&self, dir: &StoragePath) -> Result<()>;

    /// Sets permission bits and owners.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` (changing an owner often needs more rights than writing).
    async fn set_attributes(&self, path: &StoragePath, attributes: &Attributes) -> Result<()>;
}
