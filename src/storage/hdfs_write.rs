//! Writing files of HDFS.
//!
//! - What fits into [`SMALL_BYTES`] is collected and written in one go at the end, which can be
//!   repeated from the start when a DataNode fails. More is streamed.
//! - A file that has to appear whole is written under a temporary name and renamed. Every attempt has
//!   a name of its own: a request of an attempt that was given up may still be carried out.
//! - An end of file that gets no answer is never asked for twice: the second one might cut it short.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hdfs_native::file::FileWriter;
use hdfs_native::{Client, WriteOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::hdfs::{SMALL_BYTES, Shared};
use super::hdfs_change::{
    Overwrite, create_empty, delete_leftover, is_worth_repeating, publish, temporary_path,
};
use super::hdfs_close::close;
use super::hdfs_error::{Asked, Failure, is_block_too_small};
use super::hdfs_look::stat_before;
use super::hdfs_namenodes::Answer;
use super::hdfs_session::Session;
use super::hdfs_tried::Refusal;
use crate::storage::{CreateMode, ErrorKind, FileKind, Result, StorageError, StoragePath, Writer};

/// How often a small file is written from the start.
const ATTEMPTS: u32 = 3;
/// The pause before the second attempt; the next one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// A file of HDFS being written.
pub(super) struct HdfsWriter {
    shared: Arc<Shared>,
    path: StoragePath,
    mode: CreateMode,
    state: State,
    /// What to delete if the file is not finished.
    leftover: Option<StoragePath>,
}

enum State {
    /// Not on HDFS yet.
    Collecting(Vec<Bytes>, usize),
    /// On HDFS, being appended to.
    Streaming(Open),
    /// A write failed or was given up: what is in the file then is not known.
    Failed,
}

struct Open {
    file: Box<FileWriter>,
    length: u64,
    session: Arc<Session>,
    written_to: StoragePath,
    turn: OwnedSemaphorePermit,
}

impl fmt::Debug for HdfsWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HdfsWriter")
            .field("path", &self.path)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl HdfsWriter {
    /// Begins to write `path`. Nothing is on HDFS before the first MiB, or before the end.
    pub(super) async fn create(
        shared: &Arc<Shared>,
        path: &StoragePath,
        mode: CreateMode,
    ) -> Result<HdfsWriter> {
        let refuse = |kind| Err(shared.error("create", path, kind));
        let Some(parent) = path.parent() else {
            return refuse(ErrorKind::IsADirectory);
        };
        let (found, above) = tokio::join!(
            stat_before(shared, "create", path),
            stat_before(shared, "create", &parent)
        );
        match found? {
            Some(found) if found.kind == FileKind::Dir => return refuse(ErrorKind::IsADirectory),
            Some(_) if mode == CreateMode::New => return refuse(ErrorKind::AlreadyExists),
            Some(_) => {}
            None => match above? {
                Some(above) if above.kind == FileKind::Dir => {}
                Some(_) => return refuse(ErrorKind::NotADirectory),
                None => return refuse(ErrorKind::NotFound),
            },
        }
        Ok(Self {
            shared: Arc::clone(shared),
            path: path.clone(),
            mode,
            state: State::Collecting(Vec::new(), 0),
            leftover: None,
        })
    }

    /// Where to write to: a new name each time, unless the file may show half written.
    fn next_name(&mut self) -> StoragePath {
        let name = match self.mode {
            CreateMode::New | CreateMode::Replace => temporary_path(&self.path),
            CreateMode::Scratch => self.path.clone(),
        };
        self.leftover = Some(name.clone());
        name
    }

    async fn turn(&self, turns: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit> {
        // Nobody closes the semaphores.
        let turn = Arc::clone(turns).acquire_owned().await;
        turn.map_err(|closed| {
            self.shared
                .error("write", &self.path, ErrorKind::Other)
                .with_source(closed)
        })
    }

    /// The error for a file that could not be begun.
    async fn not_begun(&self, refusal: Refusal) -> StorageError {
        let error = self
            .shared
            .refused("write", &self.path, Asked::Create, refusal)
            .await;
        if self.mode != CreateMode::Scratch && error.kind == ErrorKind::OutcomeUnknown {
            // Only a temporary name may be there.
            return error.with_kind(ErrorKind::TimedOut);
        }
        error
    }

    /// Opens the file on HDFS and writes what was collected so far.
    async fn begin_stream(&mut self, collected: Vec<Bytes>) -> Result<Open> {
        let turn = self.turn(&self.shared.large_writers).await?;
        let written_to = self.next_name();
        let begun = begin(&self.shared, &written_to, None).await;
        let Answer {
            value: file,
            session,
        } = match begun {
            Ok(answer) => answer,
            Err(refusal) => return Err(self.not_begun(refusal).await),
        };
        let mut open = Open {
            file,
            length: 0,
            session,
            written_to,
            turn,
        };
        for piece in collected {
            open = self.append(open, piece).await?;
        }
        Ok(open)
    }

    async fn append(&self, open: Open, mut data: Bytes) -> Result<Open> {
        let Open {
            mut file,
            mut length,
            session,
            written_to,
            turn,
        } = open;
        while !data.is_empty() {
            // Each piece has time of its own.
            let piece = data.split_to(data.len().min(SMALL_BYTES));
            length += piece.len() as u64;
            let deadline = Instant::now() + self.shared.stall_timeout();
            let write = async move { Box::pin(file.write_bytes(piece)).await.map(|_| file) };
            let written = session.run(deadline, write).await;
            file = written.map_err(|failure| {
                self.shared
                    .failed("write", &self.path, Asked::Write, failure)
            })?;
        }
        Ok(Open {
            file,
            length,
            session,
            written_to,
            turn,
        })
    }

    /// Writes a small file and returns the name it has.
    async fn write_small(&mut self, content: &[Bytes]) -> Result<StoragePath> {
        let _turn = self.turn(&self.shared.small_writers).await?;
        let start = Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let written_to = self.next_name();
            let failure = match self.write_once(&written_to, content).await {
                Ok(()) => return Ok(written_to),
                Err(Small::Refused(error)) => return Err(error),
                Err(Small::Repeat) => continue,
                Err(Small::Failed(failure)) => failure,
            };
            if written_to != self.path && !matches!(failure, Failure::TimedOut) {
                delete_leftover(&self.shared, &written_to).await;
            }
            let is_last = attempt >= ATTEMPTS || start.elapsed() >= self.shared.stall_timeout();
            if is_last || !is_worth_repeating(&failure) {
                return Err(self
                    .shared
                    .failed("write", &self.path, Asked::Write, failure));
            }
            tracing::debug!(path = %self.path, %failure, "a small file is written once more");
            tokio::time::sleep(PAUSE * attempt).await;
        }
    }

    async fn write_once(
        &self,
        written_to: &StoragePath,
        content: &[Bytes],
    ) -> std::result::Result<(), Small> {
        let takes_no_small_blocks = &self.shared.takes_no_small_blocks;
        let block = (!takes_no_small_blocks.load(Ordering::Relaxed)).then_some(SMALL_BYTES as u64);
        let Answer {
            value: mut file,
            session,
        } = match begin(&self.shared, written_to, block).await {
            Ok(answer) => answer,
            Err(refusal) if block.is_some() && is_block_too_small(&refusal.failure) => {
                takes_no_small_blocks.store(true, Ordering::Relaxed);
                return Err(Small::Repeat);
            }
            Err(refusal) => return Err(Small::Refused(self.not_begun(refusal).await)),
        };
        let content = content.to_vec();
        let length = content.iter().map(|piece| piece.len() as u64).sum();
        let (client, text) = (session.client(), written_to.to_string());
        let deadline = Instant::now() + self.shared.stall_timeout();
        let write = async move {
            for piece in content {
                Box::pin(file.write_bytes(piece)).await?;
            }
            close(&client, &mut file, &text, length).await
        };
        session.run(deadline, write).await.map_err(Small::Failed)
    }

    /// Ends the file under the name it was written to.
    async fn end(&mut self) -> Result<StoragePath> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Collecting(content, _) => self.write_small(&content).await,
            State::Streaming(Open {
                mut file,
                length,
                session,
                written_to,
                turn,
            }) => {
                let (client, text) = (session.client(), written_to.to_string());
                // The client still holds up to 13 MB that no DataNode has acknowledged.
                let deadline = Instant::now() + self.shared.stall_timeout() * 3;
                let end = async move { close(&client, &mut file, &text, length).await };
                let closed = session.run(deadline, end).await;
                drop(turn);
                closed.map_err(|failure| {
                    self.shared
                        .failed("finish", &self.path, Asked::Write, failure)
                })?;
                Ok(written_to)
            }
            State::Failed => Err(self.already_failed("finish")),
        }
    }

    fn already_failed(&self, operation: &'static str) -> StorageError {
        self.shared
            .error(operation, &self.path, ErrorKind::Other)
            .with_detail("an earlier write of this file failed or was given up")
    }
}

/// Why a small file was not written.
enum Small {
    /// For good.
    Refused(StorageError),
    /// It has to be begun differently.
    Repeat,
    /// While content was written.
    Failed(Failure),
}

/// Opens a new file in place of whatever is at `path`.
///
/// Never by overwriting: a request to overwrite that is given up and carried out late would empty the
/// file that was written since. A late request for a file that is there already does nothing.
async fn begin(
    shared: &Shared,
    path: &StoragePath,
    block_bytes: Option<u64>,
) -> std::result::Result<Answer<Box<FileWriter>>, Refusal> {
    let text = path.to_string();
    let mut options = WriteOptions::default()
        .permission(shared.file_mode())
        .create_parent(false);
    options.block_size = block_bytes;
    let create = |client: Client| {
        let (text, options) = (text.clone(), options.clone());
        async move { Box::pin(client.create(&text, options)).await.map(Box::new) }
    };
    match shared.nodes.change(create).await {
        Err(refusal)
            if !refusal.outcome_is_unknown
                && refusal.failure.kind(Asked::Create) == ErrorKind::AlreadyExists =>
        {
            let delete = |client: Client| {
                let text = text.clone();
                async move { client.delete(&text, false).await }
            };
            shared.nodes.change(delete).await?;
            shared.nodes.change(create).await
        }
        begun => begun,
    }
}

#[async_trait]
impl Writer for HdfsWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        // Whatever ends this call early leaves the writer failed.
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Collecting(mut pieces, bytes) => {
                let bytes = bytes + data.len();
                pieces.push(data);
                self.state = if bytes <= SMALL_BYTES {
                    State::Collecting(pieces, bytes)
                } else {
                    State::Streaming(self.begin_stream(pieces).await?)
                };
            }
            State::Streaming(open) => {
                self.state = State::Streaming(self.append(open, data).await?);
            }
            State::Failed => return Err(self.already_failed("write")),
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        if self.mode == CreateMode::New
            && matches!(&self.state, State::Collecting(pieces, _) if pieces.is_empty())
        {
            return create_empty(&self.shared, "finish", &self.path).await;
        }
        let written_to = self.end().await;
        let published = match (written_to, self.mode) {
            (Ok(_), CreateMode::Scratch) => return Ok(()),
            (Ok(from), CreateMode::New) => {
                publish(&self.shared, "finish", &from, &self.path, Overwrite::No).await
            }
            (Ok(from), CreateMode::Replace) => {
                publish(&self.shared, "finish", &from, &self.path, Overwrite::Yes).await
            }
            (Err(error), _) => Err(error),
        };
        match &published {
            Ok(()) => {}
            // Either it is published, or a late request still may.
            Err(error) if error.kind == ErrorKind::OutcomeUnknown => {}
            Err(_) => self.clean_up().await,
        }
        published
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        self.state = State::Failed;
        self.clean_up().await;
        Ok(())
    }
}

impl HdfsWriter {
    async fn clean_up(&mut self) {
        if let Some(leftover) = self.leftover.take() {
            delete_leftover(&self.shared, &leftover).await;
        }
    }
}
