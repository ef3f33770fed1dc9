//! Looking at HDFS: the status of one path, the entries of a directory or of a tree.

use std::sync::Arc;

use hdfs_native::client::FileStatus;
use hdfs_native::{Client, HdfsError};
use jiff::Timestamp;

use super::hdfs::Shared;
use super::hdfs_error::Asked;
use super::hdfs_namenodes::Lane;
use super::hdfs_session::Progress;
use super::hdfs_tried::Refusal;
use super::walk::walk_tree;
use crate::storage::{DirIdentity, ErrorKind, FileKind, FileStat, Result, StoragePath};

/// Entries between two signs of life of a listing; a NameNode sends up to 1000 at once.
const ENTRIES_PER_SIGN: usize = 500;
/// Asked for within a directory to see whether the directory can be searched. There is no such file.
const SEARCHED_FOR: &str = ".stepdown-search";

/// Owner and group names, each kept once for a whole listing.
#[derive(Debug, Default)]
struct Names {
    owner: Option<Arc<str>>,
    group: Option<Arc<str>>,
}

fn shared_name(last: &mut Option<Arc<str>>, name: &str) -> Arc<str> {
    match last {
        Some(last) if **last == *name => Arc::clone(last),
        _ => Arc::clone(last.insert(Arc::from(name))),
    }
}

fn entry(path: StoragePath, status: &FileStatus, names: &mut Names) -> FileStat {
    let modified = i64::try_from(status.modification_time).ok();
    FileStat {
        path,
        kind: if status.isdir {
            FileKind::Dir
        } else {
            FileKind::File
        },
        len_bytes: if status.isdir {
            0
        } else {
            status.length as u64
        },
        modified_at: modified
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH),
        // Above these bits HDFS keeps flags of its own (ACL, encryption).
        mode: Some(u32::from(status.permission) & 0o7777),
        owner: Some(shared_name(&mut names.owner, &status.owner)),
        group: Some(shared_name(&mut names.group, &status.group)),
    }
}

async fn status(
    shared: &Shared,
    lane: Lane,
    path: &StoragePath,
) -> std::result::Result<FileStat, Refusal> {
    let text = path.to_string();
    let ask = |client: Client| {
        let text = text.clone();
        async move { client.get_file_info(&text).await }
    };
    let answer = shared.nodes.read(lane, ask).await?;
    Ok(entry(path.clone(), &answer.value, &mut Names::default()))
}

/// [`Storage::stat`](crate::storage::Storage::stat).
pub(super) async fn stat(shared: &Shared, path: &StoragePath) -> Result<FileStat> {
    match status(shared, Lane::Poll, path).await {
        Ok(found) => Ok(found),
        Err(refusal) => Err(shared.refused("stat", path, Asked::Stat, refusal).await),
    }
}

/// The status of `path` for a change of it; `None` if it is not there.
pub(super) async fn stat_before(
    shared: &Shared,
    operation: &'static str,
    path: &StoragePath,
) -> Result<Option<FileStat>> {
    match status(shared, Lane::Bulk, path).await {
        Ok(found) => Ok(Some(found)),
        Err(refusal) if refusal.failure.kind(Asked::Stat) == ErrorKind::NotFound => Ok(None),
        Err(refusal) => Err(shared.refused(operation, path, Asked::Stat, refusal).await),
    }
}

/// Whether a file stands where `path` has a directory. To the superuser, and in Hadoop 2 to all, what is
/// below a file just is not there.
pub(super) async fn is_below_a_file(shared: &Shared, path: &StoragePath) -> bool {
    let mut above = path.parent();
    while let Some(dir) = above {
        match status(shared, Lane::Poll, &dir).await {
            Ok(found) => return found.kind != FileKind::Dir,
            Err(refusal) if refusal.failure.kind(Asked::Stat) == ErrorKind::NotFound => {
                above = dir.parent();
            }
            Err(refusal) => {
                return refusal.failure.kind(Asked::Stat) == ErrorKind::NotADirectory;
            }
        }
    }
    false
}

/// [`Storage::identify_dir`](crate::storage::Storage::identify_dir).
pub(super) async fn identify_dir(shared: &Shared, dir: &StoragePath) -> Result<DirIdentity> {
    let (text, inside) = (dir.to_string(), dir.join(SEARCHED_FOR).to_string());
    let ask = |client: Client| {
        let (text, inside) = (text.clone(), inside.clone());
        async move {
            let (found, searched) =
                tokio::join!(client.get_file_info(&text), client.get_file_info(&inside));
            let is_dir = found?.isdir;
            match searched {
                Ok(_) | Err(HdfsError::FileNotFound(_)) => Ok(is_dir),
                Err(_) if !is_dir => Ok(false),
                Err(error) => Err(error),
            }
        }
    };
    match shared.nodes.read(Lane::Poll, ask).await {
        Ok(answer) if answer.value => Ok(DirIdentity::Unnumbered),
        Ok(_) => Err(shared.error("identify", dir, ErrorKind::NotADirectory)),
        Err(refusal) => Err(shared.refused("identify", dir, Asked::Stat, refusal).await),
    }
}

/// The entries of `dir`, sorted; `None` if it is a file.
async fn children(
    client: Client,
    progress: Progress,
    dir: StoragePath,
) -> std::result::Result<Option<Vec<FileStat>>, HdfsError> {
    let iterator = client.list_status_iter(dir.as_str(), false);
    let mut entries = Vec::new();
    let mut names = Names::default();
    while let Some(status) = iterator.next().await {
        let status = status?;
        // A listing of a file is the file itself, under the path that was asked for.
        let Some(name) = status
            .path
            .rsplit('/')
            .next()
            .filter(|_| status.path != dir.as_str())
        else {
            return Ok(None);
        };
        entries.push(entry(dir.join(name), &status, &mut names));
        if entries.len() % ENTRIES_PER_SIGN == 0 {
            progress.advance();
        }
    }
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(entries))
}

async fn list(shared: &Shared, lane: Lane, dir: &StoragePath) -> Result<Vec<FileStat>> {
    let ask = |client, progress| children(client, progress, dir.clone());
    match shared.nodes.read_long(lane, ask).await {
        Ok(answer) => answer
            .value
            .ok_or_else(|| shared.error("list", dir, ErrorKind::NotADirectory)),
        Err(refusal) => Err(shared.refused("list", dir, Asked::List, refusal).await),
    }
}

/// [`Storage::list`](crate::storage::Storage::list) of the directory itself.
pub(super) async fn list_children(shared: &Shared, dir: &StoragePath) -> Result<Vec<FileStat>> {
    list(shared, Lane::Poll, dir).await
}

/// [`Storage::list`](crate::storage::Storage::list) of all that is below.
pub(super) async fn list_tree(shared: &Shared, top: &StoragePath) -> Result<Vec<FileStat>> {
    walk_tree(
        top,
        |dir| async move { list(shared, Lane::Bulk, &dir).await },
    )
    .await
}
