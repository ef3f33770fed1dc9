//! The end of a file, without the client's pause.
//!
//! The client asks the NameNode to end a file as soon as the DataNodes have its last byte. Mostly they
//! have not yet told the NameNode of the block; it answers "not yet", and the client sleeps 500 ms
//! before it asks again. No setting changes that, and most of the time of a small file is spent there.
//!
//! Giving the first request up at some moment would not do: before the last byte is acknowledged the
//! file would end short. But the NameNode shows when the moment has come: the last block counts in the
//! file's length only from when the request to end the file was carried out (the block is committed
//! then, with its length). So the length is asked for meanwhile. When it is the whole length, the sleep
//! is given up and the end asked for again: that request names no block, so it can only confirm what
//! is committed, and may be given up and repeated at will. Then the length is compared once more.
//!
//! After a time-out nothing is asked for again: what was sent then is not known.

use std::time::Duration;

use hdfs_native::file::FileWriter;
use hdfs_native::{Client, HdfsError};

/// The first look at the length comes after this; each pause is twice as long as the one before.
const FIRST_LOOK: Duration = Duration::from_millis(8);
const LONGEST_PAUSE: Duration = Duration::from_millis(128);

/// Ends `file`, to which `length` bytes were written, at `path`.
pub(super) async fn close(
    client: &Client,
    file: &mut FileWriter,
    path: &str,
    length: u64,
) -> Result<(), HdfsError> {
    if length == 0 {
        return Box::pin(file.close()).await;
    }
    tokio::select! {
        biased;
        closed = Box::pin(file.close()) => return closed,
        () = await_commit(client, path, length) => {}
    }
    match confirm(file).await {
        Ok(()) => {}
        // The first request was the one that ended it, and its answer was on its way.
        Err(HdfsError::RPCError(class, _)) if class.ends_with(".LeaseExpiredException") => {}
        Err(error) => return Err(error),
    }
    let found = client.get_file_info(path).await?.length as u64;
    if found != length {
        let what = format!("{found} of {length} bytes are in the file");
        return Err(HdfsError::DataTransferError(what));
    }
    Ok(())
}

/// Asks for the end of a committed file until it is granted. Such a request changes nothing but that,
/// so each may be given up.
async fn confirm(file: &mut FileWriter) -> Result<(), HdfsError> {
    let mut pause = FIRST_LOOK * 2;
    loop {
        if let Ok(closed) = tokio::time::timeout(pause, Box::pin(file.close())).await {
            return closed;
        }
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Returns when the NameNode shows the whole length.
async fn await_commit(client: &Client, path: &str, length: u64) {
    let mut pause = FIRST_LOOK;
    loop {
        tokio::time::sleep(pause).await;
        match client.get_file_info(path).await {
            Ok(found) if found.length as u64 == length => return,
            Ok(_) => pause = LONGEST_PAUSE.min(pause * 2),
            // The end of the file will tell what is wrong.
            Err(_) => std::future::pending().await,
        }
    }
}
