//! Reading files of HDFS.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream;
use hdfs_native::file::FileReader;
use hdfs_native::{Client, HdfsError};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::hdfs::Shared;
use super::hdfs_error::{Asked, Failure};
use super::hdfs_namenodes::{Answer, Lane};
use crate::storage::{ByteStream, ErrorKind, Result, Span, StoragePath};

/// Pieces that are read ahead; the client itself keeps up to 6 MB beside them.
const PIECES_AHEAD: usize = 4;
/// How often a small file is read when its DataNodes fail.
const ATTEMPTS: u32 = 2;

async fn open(shared: &Shared, lane: Lane, path: &StoragePath) -> Result<Answer<FileReader>> {
    let text = path.to_string();
    let ask = |client: Client| {
        let text = text.clone();
        async move { client.read(&text).await }
    };
    match shared.nodes.read(lane, ask).await {
        Ok(answer) => Ok(answer),
        Err(refusal) => Err(shared.refused("read", path, Asked::Read, refusal).await),
    }
}

fn ended_early(expected: u64, got: u64) -> HdfsError {
    HdfsError::DataTransferError(format!("the file ended after {got} of {expected} bytes"))
}

/// [`Storage::read_small`](crate::storage::Storage::read_small).
pub(super) async fn read_small(
    shared: &Shared,
    path: &StoragePath,
    max_bytes: u64,
) -> Result<Bytes> {
    let choose = |length: u64| {
        if length <= max_bytes {
            return Ok(0..length);
        }
        let limit = format!("{length} bytes, the limit is {max_bytes}");
        Err(shared
            .error("read", path, ErrorKind::TooLarge)
            .with_detail(limit))
    };
    read_range(shared, path, choose).await
}

/// [`Storage::read_span`](crate::storage::Storage::read_span).
pub(super) async fn read_span(shared: &Shared, path: &StoragePath, span: Span) -> Result<Bytes> {
    read_range(shared, path, |length| Ok(span.within(length))).await
}

/// The range of the file that `choose` makes of its length.
async fn read_range(
    shared: &Shared,
    path: &StoragePath,
    choose: impl Fn(u64) -> Result<Range<u64>>,
) -> Result<Bytes> {
    let deadline = Instant::now() + shared.nodes.call_timeout();
    let mut attempt = 1;
    loop {
        let Answer {
            value: reader,
            session,
        } = open(shared, Lane::Poll, path).await?;
        let range = choose(reader.file_length() as u64)?;
        // The file has so many bytes, and its length came as a `usize`.
        let at = |byte| usize::try_from(byte).unwrap_or(usize::MAX);
        let (start, length) = (at(range.start), at(range.end - range.start));
        if length == 0 {
            return Ok(Bytes::new());
        }
        let read = session.run(deadline, async move {
            let mut pieces = reader.read_range_stream(start, length).boxed();
            let mut content = BytesMut::with_capacity(length);
            while let Some(piece) = pieces.next().await {
                content.extend_from_slice(&piece?);
            }
            if content.len() != length {
                return Err(ended_early(length as u64, content.len() as u64));
            }
            Ok(content.freeze())
        });
        match read.await {
            Ok(content) => return Ok(content),
            Err(Failure::Client(_) | Failure::Panicked(_) | Failure::Closed)
                if attempt < ATTEMPTS && Instant::now() < deadline =>
            {
                attempt += 1;
            }
            Err(failure) => return Err(shared.failed("read", path, Asked::Read, failure)),
        }
    }
}

/// [`Storage::open_read`](crate::storage::Storage::open_read).
pub(super) async fn open_read(shared: &Shared, path: &StoragePath) -> Result<ByteStream> {
    let Answer {
        value: reader,
        session,
    } = open(shared, Lane::Bulk, path).await?;
    let length = reader.file_length();
    let stall = shared.stall_timeout();
    let (pieces, received) = mpsc::channel(PIECES_AHEAD);
    let pump = session.spawn(async move {
        let mut source = reader.read_range_stream(0, length).boxed();
        let mut got = 0;
        loop {
            let piece = match next_piece(&mut source, stall).await {
                Ok(Some(piece)) => piece,
                Ok(None) if got == length as u64 => return,
                Ok(None) => {
                    let _ = pieces
                        .send(Err(Failure::Client(ended_early(length as u64, got))))
                        .await;
                    return;
                }
                Err(failure) => {
                    let _ = pieces.send(Err(failure)).await;
                    return;
                }
            };
            got += piece.len() as u64;
            if pieces.send(Ok(piece)).await.is_err() {
                return;
            }
        }
    });
    let failed = {
        let (at, authority) = (
            path.clone(),
            shared.error("read", path, ErrorKind::Other).uri.authority,
        );
        move |failure: Failure| {
            let uri = crate::storage::StorageUri::new(authority.clone(), at.clone());
            crate::storage::StorageError::new("read", uri, failure.kind(Asked::Read))
                .with_source(failure)
        }
    };
    // The task behind the pieces lives as long as the stream, and its session with it.
    let state = Reading {
        received,
        left: length as u64,
        is_over: false,
        _pump: pump,
        _session: session,
    };
    let read = stream::unfold((state, failed), move |(mut state, failed)| async move {
        if state.is_over {
            return None;
        }
        let piece = match timeout(stall * 2, state.received.recv()).await {
            Ok(Some(Ok(piece))) => Ok(piece),
            Ok(Some(Err(failure))) => Err(failure),
            Ok(None) if state.left == 0 => return None,
            // The task ended without a word: it panicked, or its session was closed.
            Ok(None) => Err(Failure::Closed),
            Err(_) => Err(Failure::TimedOut),
        };
        match &piece {
            Ok(piece) => state.left = state.left.saturating_sub(piece.len() as u64),
            Err(_) => state.is_over = true,
        }
        Some((piece.map_err(&failed), (state, failed)))
    });
    Ok(read.boxed())
}

struct Reading {
    received: mpsc::Receiver<std::result::Result<Bytes, Failure>>,
    left: u64,
    is_over: bool,
    _pump: tokio_util::task::AbortOnDropHandle<()>,
    _session: std::sync::Arc<super::hdfs_session::Session>,
}

async fn next_piece(
    source: &mut (impl futures::Stream<Item = std::result::Result<Bytes, HdfsError>> + Unpin),
    stall: Duration,
) -> std::result::Result<Option<Bytes>, Failure> {
    match timeout(stall, source.next()).await {
        Ok(Some(piece)) => piece.map(Some).map_err(Failure::Client),
        Ok(None) => Ok(None),
        Err(_) => Err(Failure::TimedOut),
    }
}
