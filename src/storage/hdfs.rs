//! Storage on HDFS, through the published hdfs-native client.
//!
//! - The client is used as it is, behind a layer that adds what it lacks: deadlines, failover that
//!   does not wait silently, replacement of a hung connection (`hdfs_namenodes`, `hdfs_session`).
//! - Absence is exactly one thing: the NameNode's answer "no such file" to a question about that path
//!   (`hdfs_error`).
//! - A file of up to [`SMALL_BYTES`] is collected in memory and written in one go, which can be
//!   repeated when a DataNode fails; a longer one is streamed.
//! - New files and directories get the permissions that `fs.permissions.umask-mode` leaves.
//! - The calls have their own deadlines: do not put `WithTimeout` around it. Waiting for one's turn
//!   among many writers has none.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::hdfs_error::{Asked, Failure};
use super::hdfs_namenodes::NameNodes;
use super::hdfs_reach::Reach;
use super::hdfs_tried::Refusal;
use super::hdfs_write::HdfsWriter;
use super::{hdfs_change as change, hdfs_look as look, hdfs_read as read};
use crate::hadoop::credentials::Credentials;
use crate::hadoop::{HadoopConf, HadoopConfError, NameService};
use crate::storage::{
    Attributes, Authority, ByteStream, CreateMode, Depth, DirIdentity, ErrorKind, FileStat,
    OwnedTree, Removal, Result, Span, Storage, StorageError, StoragePath, StorageUri, Touched,
    Writer,
};

/// Files up to this length are small: one block, written in one go.
pub const SMALL_BYTES: usize = 1024 * 1024;

/// How HDFS is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HdfsOptions {
    /// The longest that one request may take, all NameNodes and repetitions included. Data has longer:
    /// it has to move on at least every 30 s (or this long, if that is more).
    pub call_timeout: Duration,
    /// Small files that are written at the same time. About half of them have a DataNode connection:
    /// the client spends the rest of the time waiting for the NameNode to hear of the block.
    pub small_writers: usize,
    /// Large files that are written at the same time; each takes up to some 13 MB of memory.
    pub large_writers: usize,
}

impl Default for HdfsOptions {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(10),
            small_writers: 128,
            large_writers: 8,
        }
    }
}

/// One HDFS file system. Clones are the same one.
#[derive(Debug, Clone)]
pub struct HdfsStorage {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    authority: Authority,
    pub(super) nodes: NameNodes,
    umask: u32,
    pub(super) small_writers: Arc<Semaphore>,
    pub(super) large_writers: Arc<Semaphore>,
    /// Whether this file system refuses blocks of [`SMALL_BYTES`].
    pub(super) takes_no_small_blocks: AtomicBool,
}

impl HdfsStorage {
    /// The file system that `service` serves. Nothing is connected yet.
    ///
    /// # Errors
    /// A value of the configuration that cannot be used.
    pub fn new(
        conf: &HadoopConf,
        service: &NameService,
        credentials: &Credentials,
        options: HdfsOptions,
    ) -> std::result::Result<Self, HadoopConfError> {
        let reaches = Reach::all(conf, service, credentials)?;
        Ok(Self {
            shared: Arc::new(Shared {
                authority: Authority::Hdfs(service.name.clone()),
                nodes: NameNodes::new(reaches, options.call_timeout),
                umask: conf.umask()?,
                small_writers: Arc::new(Semaphore::new(options.small_writers)),
                large_writers: Arc::new(Semaphore::new(options.large_writers)),
                takes_no_small_blocks: AtomicBool::new(false),
            }),
        })
    }
}

impl Shared {
    /// Permission bits of a new file.
    pub(super) fn file_mode(&self) -> u32 {
        0o666 & !self.umask
    }

    /// Permission bits of a new directory.
    pub(super) fn dir_mode(&self) -> u32 {
        0o777 & !self.umask
    }

    /// The longest that data may stand still.
    pub(super) fn stall_timeout(&self) -> Duration {
        self.nodes.call_timeout().max(Duration::from_secs(30))
    }

    /// An error about `path`.
    pub(super) fn error(
        &self,
        operation: &'static str,
        path: &StoragePath,
        kind: ErrorKind,
    ) -> StorageError {
        let uri = StorageUri::new(self.authority.clone(), path.clone());
        StorageError::new(operation, uri, kind)
    }

    /// The error for a failure of something that certainly changed nothing, or is known to the caller.
    pub(super) fn failed(
        &self,
        operation: &'static str,
        path: &StoragePath,
        asked: Asked,
        failure: Failure,
    ) -> StorageError {
        self.error(operation, path, failure.kind(asked))
            .with_source(failure)
    }

    /// The error for a call that no NameNode answered, or that one refused.
    pub(super) async fn refused(
        &self,
        operation: &'static str,
        path: &StoragePath,
        asked: Asked,
        refusal: Refusal,
    ) -> StorageError {
        let reason = match self.nodes.reach(refusal.node) {
            Some(reach) => reach.explain(&refusal.failure).await,
            None => None,
        };
        // A change whose answer was lost stays unknown, whatever may have been the reason.
        let kind = if refusal.outcome_is_unknown {
            ErrorKind::OutcomeUnknown
        } else if reason.is_some() {
            ErrorKind::Authentication
        } else {
            let kind = refusal.failure.kind(asked);
            if kind == ErrorKind::NotFound && look::is_below_a_file(self, path).await {
                ErrorKind::NotADirectory
            } else {
                kind
            }
        };
        let error = self.error(operation, path, kind);
        match reason {
            Some(reason) => error.with_detail(reason).with_source(refusal.failure),
            None if refusal.tried.is_empty() => error.with_source(refusal.failure),
            None => error.with_detail(refusal.tried),
        }
    }
}

#[async_trait]
impl Storage for HdfsStorage {
    fn authority(&self) -> &Authority {
        &self.shared.authority
    }

    fn epoch(&self) -> u64 {
        self.shared.nodes.epoch()
    }

    async fn stat(&self, path: &StoragePath) -> Result<FileStat> {
        look::stat(&self.shared, path).await
    }

    async fn identify_dir(&self, dir: &StoragePath) -> Result<DirIdentity> {
        look::identify_dir(&self.shared, dir).await
    }

    async fn list(&self, dir: &StoragePath, depth: Depth) -> Result<Vec<FileStat>> {
        match depth {
            Depth::Children => look::list_children(&self.shared, dir).await,
            Depth::Tree => look::list_tree(&self.shared, dir).await,
        }
    }

    async fn read_small(&self, path: &StoragePath, max_bytes: u64) -> Result<Bytes> {
        read::read_small(&self.shared, path, max_bytes).await
    }

    async fn read_span(&self, path: &StoragePath, span: Span) -> Result<Bytes> {
        read::read_span(&self.shared, path, span).await
    }

    async fn open_read(&self, path: &StoragePath) -> Result<ByteStream> {
        read::open_read(&self.shared, path).await
    }

    async fn create(&self, path: &StoragePath, mode: CreateMode) -> Result<Box<dyn Writer>> {
        Ok(Box::new(
            HdfsWriter::create(&self.shared, path, mode).await?,
        ))
    }

    async fn touch(&self, path: &StoragePath) -> Result<Touched> {
        change::touch(&self.shared, path).await
    }

    async fn create_dir_all(&self, dir: &StoragePath) -> Result<()> {
        change::create_dir_all(&self.shared, dir).await
    }

    async fn create_dir(&self, dir: &StoragePath) -> Result<()> {
        change::create_dir(&self.shared, dir).await
    }

    async fn rename(&self, from: &StoragePath, to: &StoragePath) -> Result<()> {
        change::rename(&self.shared, from, to).await
    }

    async fn delete_file(&self, path: &StoragePath) -> Result<Removal> {
        change::delete_file(&self.shared, path).await
    }

    async fn delete_tree(&self, tree: &OwnedTree) -> Result<Removal> {
        change::delete_tree(&self.shared, tree.path()).await
    }

    async fn make_durable(&self, dir: &StoragePath) -> Result<()> {
        // A closed block was written to the disks of its DataNodes with its last packet.
        self.identify_dir(dir).await.map(|_| ())
    }

    async fn set_attributes(&self, path: &StoragePath, attributes: &Attributes) -> Result<()> {
        change::set_attributes(&self.shared, path, attributes).await
    }
}
