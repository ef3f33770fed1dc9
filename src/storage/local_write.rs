//! Writing of local files: a temporary file in the same directory, then one step to its name.

use std::fs::File;
use std::io::Write;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::local::{Call, LocalStorage};
use super::local_change::sync_parent;
use super::local_errno::Refusal;
use super::local_lanes::Abandoned;
use super::local_look::PIECE_BYTES;
use crate::storage::{
    Authority, CreateMode, ErrorKind, Result, StorageError, StoragePath, StorageUri, Writer,
};

/// With `fsync`, how much is written between two syncs: the last one must not take minutes.
const SYNC_EVERY_BYTES: u64 = 64 * 1024 * 1024;

/// Longest name that common file systems take.
const NAME_BYTES: usize = 255;

/// A local file being written.
#[derive(Debug)]
pub(super) struct LocalWriter {
    storage: LocalStorage,
    path: StoragePath,
    mode: CreateMode,
    /// `None` after a write that failed or was given up: what is in the file then is not known.
    open: Option<OpenFile>,
    /// The temporary file, or the file itself in mode `Scratch`.
    written_to: StoragePath,
    /// Small writes are collected, so that a file of some KiB takes one trip to a thread.
    pending: Vec<Bytes>,
    pending_bytes: usize,
    /// The sync of what was written before, which goes on beside the next writes.
    syncing: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    fsync: bool,
    /// With `fsync`, whether its end waits for the disk: not in staging, which is made durable as a whole.
    fsync_at_end: bool,
    unsynced_bytes: u64,
}

impl OpenFile {
    fn append(&mut self, pieces: &[Bytes]) -> std::result::Result<(), Refusal> {
        for piece in pieces {
            self.file.write_all(piece).map_err(Refusal::change)?;
            self.unsynced_bytes += piece.len() as u64;
        }
        Ok(())
    }

    /// The file once more, if it is time to sync what was written to it.
    fn take_unsynced(&mut self) -> std::result::Result<Option<File>, Refusal> {
        if !self.fsync || self.unsynced_bytes < SYNC_EVERY_BYTES {
            return Ok(None);
        }
        self.unsynced_bytes = 0;
        self.file.try_clone().map(Some).map_err(Refusal::change)
    }

    fn close(self) -> std::result::Result<(), Refusal> {
        if self.fsync_at_end {
            self.file.sync_all().map_err(Refusal::change)?;
        }
        Ok(())
    }
}

impl LocalWriter {
    /// Begins to write `path`.
    pub(super) async fn create(
        storage: &LocalStorage,
        path: &StoragePath,
        mode: CreateMode,
    ) -> Result<LocalWriter> {
        let written_to = match mode {
            CreateMode::New | CreateMode::Replace => temporary_path(path),
            CreateMode::Scratch => path.clone(),
        };
        let (target, written) = (path.clone(), written_to.clone());
        let file = storage
            .run(Call::change("create", path), move |abandoned| {
                let file = open_new(&target, &written, mode, abandoned)?;
                if abandoned.is_set() && written != target {
                    // A leftover is allowed, so a failure is no matter.
                    let _ = rustix::fs::unlink(written.as_str());
                }
                Ok(file)
            })
            .await?;
        Ok(Self {
            storage: storage.clone(),
            path: path.clone(),
            mode,
            open: Some(OpenFile {
                file,
                fsync: storage.options().fsync,
                fsync_at_end: storage.options().fsync && mode != CreateMode::Scratch,
                unsynced_bytes: 0,
            }),
            written_to,
            pending: Vec::new(),
            pending_bytes: 0,
            syncing: None,
        })
    }

    /// Waits for the sync that is under way.
    async fn await_sync(&mut self) -> Result<()> {
        let Some(syncing) = self.syncing.take() else {
            return Ok(());
        };
        match syncing.await {
            Ok(synced) => synced,
            Err(lost) => {
                let uri = StorageUri::new(Authority::Local, self.path.clone());
                Err(StorageError::new("write", uri, ErrorKind::OutcomeUnknown).with_source(lost))
            }
        }
    }

    /// Syncs `file` beside what is written next. One sync at a time: what is unsynced stays bounded.
    async fn begin_sync(&mut self, file: File) -> Result<()> {
        self.await_sync().await?;
        let (storage, path) = (self.storage.clone(), self.path.clone());
        self.syncing = Some(tokio::spawn(async move {
            let sync = storage.run(Call::change("write", &path), move |_| {
                file.sync_data().map_err(Refusal::change)
            });
            sync.await
        }));
        Ok(())
    }

    /// Takes the file for one call; it comes back only after success.
    fn take_open(&mut self) -> Result<OpenFile> {
        self.open.take().ok_or_else(|| {
            Refusal::new(
                ErrorKind::Other,
                "an earlier write of this file failed or was given up",
            )
            .at("write", &self.path)
        })
    }
}

#[async_trait]
impl Writer for LocalWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.pending_bytes += data.len();
        self.pending.push(data);
        if self.pending_bytes < PIECE_BYTES && self.open.is_some() {
            return Ok(());
        }
        let mut open = self.take_open()?;
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let (written, unsynced) = self
            .storage
            .run(Call::change("write", &self.path), move |_| {
                open.append(&pending)?;
                let unsynced = open.take_unsynced()?;
                Ok((open, unsynced))
            })
            .await?;
        if let Some(file) = unsynced {
            self.begin_sync(file).await?;
        }
        self.open = Some(written);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let open = self.take_open();
        if let Err(error) = self.await_sync().await {
            // The caller has no writer left to abort. What failed is more than what is left.
            let _cleanup = self.abort().await;
            return Err(error);
        }
        let (path, written_to, mode) = (self.path.clone(), self.written_to.clone(), self.mode);
        let pending = std::mem::take(&mut self.pending);
        let storage = self.storage.clone();
        let open = open?;
        self.storage
            .run(Call::change("finish", &self.path), move |abandoned| {
                let fsync_at_end = open.fsync_at_end;
                let ended = write_out(open, &pending)
                    .and_then(|()| publish(&storage, &written_to, &path, mode, abandoned));
                if ended.is_err() {
                    // The caller has no writer left to abort. What failed is more than what is left.
                    let _ = rustix::fs::unlink(written_to.as_str());
                    return ended;
                }
                if fsync_at_end {
                    sync_parent(&path)?;
                }
                Ok(())
            })
            .await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.open = None;
        let written_to = self.written_to.clone();
        self.storage
            .run(
                Call::change("abort", &self.path),
                move |_| match rustix::fs::unlink(written_to.as_str()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(()),
                    Err(error) => Err(Refusal::change(error)),
                },
            )
            .await
    }
}

fn open_new(
    path: &StoragePath,
    written_to: &StoragePath,
    mode: CreateMode,
    abandoned: &Abandoned,
) -> std::result::Result<File, Refusal> {
    match rustix::fs::lstat(path.as_str()) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            return Err(Refusal::change(Errno::ISDIR));
        }
        Ok(_) if mode == CreateMode::New => return Err(Refusal::change(Errno::EXIST)),
        Ok(_) | Err(Errno::NOENT) => {}
        Err(error) => return Err(Refusal::read(error)),
    }
    refuse_abandoned(abandoned)?;
    if mode == CreateMode::Scratch {
        // A file of its own and not the old one made empty: a writer that was given up and wakes up late
        // then writes into a file that has no name any more.
        match rustix::fs::unlink(path.as_str()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(Refusal::change(error)),
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = rustix::fs::open(written_to.as_str(), flags, Mode::from_raw_mode(0o666))
        .map_err(Refusal::change)?;
    Ok(File::from(fd))
}

/// Keeps a call that hung from changing anything after its caller has gone.
fn refuse_abandoned(abandoned: &Abandoned) -> std::result::Result<(), Refusal> {
    if abandoned.is_set() {
        return Err(Refusal::new(
            ErrorKind::OutcomeUnknown,
            "given up by the caller before it was done",
        ));
    }
    Ok(())
}

fn write_out(mut open: OpenFile, pending: &[Bytes]) -> std::result::Result<(), Refusal> {
    open.append(pending)?;
    open.close()
}

fn publish(
    storage: &LocalStorage,
    written_to: &StoragePath,
    path: &StoragePath,
    mode: CreateMode,
    abandoned: &Abandoned,
) -> std::result::Result<(), Refusal> {
    refuse_abandoned(abandoned)?;
    match mode {
        CreateMode::New => storage.exclusive().publish(written_to, path),
        CreateMode::Replace => {
            rustix::fs::rename(written_to.as_str(), path.as_str()).map_err(Refusal::change)
        }
        CreateMode::Scratch => Ok(()),
    }
}

/// A name beside `path` that no one else uses; the file's own name is cut where both do not fit.
fn temporary_path(path: &StoragePath) -> StoragePath {
    let unique = Uuid::new_v4().simple().to_string();
    let room = NAME_BYTES - ".".len() - ".".len() - unique.len() - TEMPORARY_SUFFIX.len();
    let name = path.name();
    let mut end = name.len().min(room);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let name = name.get(..end).unwrap_or_default();
    let parent = path.parent().unwrap_or_else(StoragePath::root);
    parent.join(&format!(".{name}.{unique}{TEMPORARY_SUFFIX}"))
}

const TEMPORARY_SUFFIX: &str = ".stepdown-tmp";
