//! Changes of HDFS, but for the content of files.

use hdfs_native::{Client, HdfsError, WriteOptions};
use tokio::time::Instant;
use uuid::Uuid;

use super::hdfs::Shared;
use super::hdfs_error::{Asked, Failure, is_source_missing};
use super::hdfs_look::{is_below_a_file, stat_before};
use super::hdfs_tried::Refusal;
use crate::storage::{
    Attributes, ErrorKind, FileKind, FileStat, Removal, Result, StorageError, StoragePath, Touched,
};

/// How often a call looks again when others change the same entry at the same time.
const LOOKS: usize = 8;
/// Longest name that HDFS takes (`dfs.namenode.fs-limits.max-component-length`).
const NAME_BYTES: usize = 255;
const TEMPORARY_SUFFIX: &str = ".stepdown-tmp";
/// To `setTimes`: leave this time as it is (-1 in Java).
const UNCHANGED: u64 = u64::MAX;

/// A name beside `path` that no one else uses; the path's own name is cut where both do not fit.
pub(super) fn temporary_path(path: &StoragePath) -> StoragePath {
    let unique = Uuid::new_v4().simple().to_string();
    let room = NAME_BYTES - "..".len() - unique.len() - TEMPORARY_SUFFIX.len();
    let name = path.name();
    let end = name.floor_char_boundary(room);
    let name = name.get(..end).unwrap_or_default();
    let parent = path.parent().unwrap_or_else(StoragePath::root);
    parent.join(&format!(".{name}.{unique}{TEMPORARY_SUFFIX}"))
}

/// One change of `path`, reported as `operation`.
async fn change<T, Fut>(
    shared: &Shared,
    operation: &'static str,
    path: &StoragePath,
    asked: Asked,
    call: impl Fn(Client) -> Fut,
) -> Result<T>
where
    T: Send + 'static,
    Fut: Future<Output = std::result::Result<T, HdfsError>> + Send + 'static,
{
    match shared.nodes.change(call).await {
        Ok(answer) => Ok(answer.value),
        Err(refusal) => Err(shared.refused(operation, path, asked, refusal).await),
    }
}

async fn make_dir(
    shared: &Shared,
    operation: &'static str,
    dir: &StoragePath,
    with_parents: bool,
) -> Result<()> {
    let (text, mode) = (dir.to_string(), shared.dir_mode());
    let call = |client: Client| {
        let text = text.clone();
        async move { client.mkdirs(&text, mode, with_parents).await }
    };
    change(shared, operation, dir, Asked::Mkdir, call).await
}

async fn delete(
    shared: &Shared,
    operation: &'static str,
    path: &StoragePath,
    recursive: bool,
) -> Result<Removal> {
    let text = path.to_string();
    let call = |client: Client| {
        let text = text.clone();
        async move { client.delete(&text, recursive).await }
    };
    let was_there = change(shared, operation, path, Asked::Delete, call).await?;
    Ok(if was_there {
        Removal::Deleted
    } else {
        Removal::Absent
    })
}

/// The same error about the path that the caller knows, instead of a temporary one.
fn about(mut error: StorageError, path: &StoragePath) -> StorageError {
    error.uri.path = path.clone();
    error
}

/// Deletes what a failed call left behind. What failed is more than what is left.
pub(super) async fn delete_leftover(shared: &Shared, path: &StoragePath) {
    if let Err(error) = delete(shared, "delete", path, false).await {
        tracing::debug!(%error, "a temporary file is left behind");
    }
}

/// Makes an empty file, exclusively. Two requests, no DataNode.
pub(super) async fn create_empty(
    shared: &Shared,
    operation: &'static str,
    path: &StoragePath,
) -> Result<()> {
    let text = path.to_string();
    let options = WriteOptions::default()
        .permission(shared.file_mode())
        .create_parent(false);
    let call = |client: Client| {
        let (text, options) = (text.clone(), options.clone());
        async move { Box::pin(client.create(&text, options)).await.map(Box::new) }
    };
    let answer = match shared.nodes.change(call).await {
        Ok(answer) => answer,
        Err(refusal) => {
            return Err(shared
                .refused(operation, path, Asked::Create, refusal)
                .await);
        }
    };
    let mut file = answer.value;
    let deadline = Instant::now() + shared.nodes.call_timeout();
    let closed = answer
        .session
        .run(deadline, async move { Box::pin(file.close()).await })
        .await;
    // It is there in any case, but it may still be open.
    closed.map_err(|failure| {
        shared
            .error(operation, path, ErrorKind::OutcomeUnknown)
            .with_detail("the file is there, but was not closed")
            .with_source(failure)
    })
}

/// [`Storage::touch`](crate::storage::Storage::touch).
pub(super) async fn touch(shared: &Shared, path: &StoragePath) -> Result<Touched> {
    for _ in 0..LOOKS {
        match stat_before(shared, "touch", path).await? {
            Some(found) if found.kind == FileKind::Dir => {
                return Err(shared.error("touch", path, ErrorKind::IsADirectory));
            }
            Some(_) => match refresh(shared, path).await {
                Ok(()) => return Ok(Touched::Refreshed),
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            },
            None => match create_empty(shared, "touch", path).await {
                Ok(()) => return Ok(Touched::Created),
                Err(error) if error.kind == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            },
        }
    }
    Err(shared
        .error("touch", path, ErrorKind::Other)
        .with_detail("it comes and goes: others create and delete it all the time"))
}

/// Gives a file the NameNode's current time.
///
/// HDFS can only be told a time, and this host's clock may be wrong. So the NameNode makes a directory
/// beside the file, whose time is the NameNode's, and the file gets that. Its content is not touched:
/// writing the file anew could lose what another one just wrote.
async fn refresh(shared: &Shared, path: &StoragePath) -> Result<()> {
    let beside = temporary_path(path);
    make_dir(shared, "touch", &beside, false)
        .await
        .map_err(|error| {
            // About the file itself nothing is unknown.
            let kind = if error.kind == ErrorKind::OutcomeUnknown {
                ErrorKind::TimedOut
            } else if error.kind == ErrorKind::NotFound {
                ErrorKind::Other
            } else {
                error.kind
            };
            about(error.with_kind(kind), path)
        })?;
    let made = stat_before(shared, "touch", &beside)
        .await
        .map_err(|error| about(error, path));
    let refreshed = match made {
        Ok(Some(FileStat { modified_at, .. })) => set_modified(shared, path, modified_at).await,
        Ok(None) => Err(shared
            .error("touch", path, ErrorKind::Other)
            .with_detail(format!("{} vanished", beside.name()))),
        Err(error) => Err(error),
    };
    delete_leftover(shared, &beside).await;
    refreshed
}

async fn set_modified(shared: &Shared, path: &StoragePath, at: jiff::Timestamp) -> Result<()> {
    let (text, millis) = (path.to_string(), at.as_millisecond().cast_unsigned());
    let call = |client: Client| {
        let text = text.clone();
        async move { client.set_times(&text, millis, UNCHANGED).await }
    };
    change(shared, "touch", path, Asked::Attributes, call).await
}

/// [`Storage::create_dir_all`](crate::storage::Storage::create_dir_all).
pub(super) async fn create_dir_all(shared: &Shared, dir: &StoragePath) -> Result<()> {
    make_dir(shared, "create directory", dir, true).await
}

/// [`Storage::create_dir`](crate::storage::Storage::create_dir).
///
/// HDFS says nothing when a directory is there already. A rename does: so the directory is made under
/// a name of its own first.
pub(super) async fn create_dir(shared: &Shared, dir: &StoragePath) -> Result<()> {
    const OPERATION: &str = "create directory";
    if stat_before(shared, OPERATION, dir).await?.is_some() {
        return Err(shared.error(OPERATION, dir, ErrorKind::AlreadyExists));
    }
    let beside = temporary_path(dir);
    let made = make_dir(shared, OPERATION, &beside, false).await;
    made.map_err(|error| about(error, dir))?;
    let published = publish(shared, OPERATION, &beside, dir, Overwrite::No).await;
    if published.is_err() {
        delete_leftover(shared, &beside).await;
    }
    published
}

/// Whether a rename replaces what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overwrite {
    /// It is an error.
    No,
    /// A file, or an empty directory, is replaced.
    Yes,
}

async fn rename_once(
    shared: &Shared,
    from: &StoragePath,
    to: &StoragePath,
    overwrite: Overwrite,
) -> std::result::Result<(), Refusal> {
    let (source, target) = (from.to_string(), to.to_string());
    let call = |client: Client| {
        let (source, target) = (source.clone(), target.clone());
        async move {
            client
                .rename(&source, &target, overwrite == Overwrite::Yes)
                .await
        }
    };
    shared.nodes.change(call).await.map(drop)
}

/// Gives what was written under a temporary name its own name.
///
/// No one else knows the temporary name, so where an answer is lost the rename can be sent again: if
/// its source is gone, the first one was done.
pub(super) async fn publish(
    shared: &Shared,
    operation: &'static str,
    from: &StoragePath,
    to: &StoragePath,
    overwrite: Overwrite,
) -> Result<()> {
    let start = Instant::now();
    let mut may_be_done = false;
    loop {
        let refusal = match rename_once(shared, from, to, overwrite).await {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        if may_be_done && is_source_missing(&refusal.failure) {
            return Ok(());
        }
        let is_last = start.elapsed() >= shared.nodes.call_timeout();
        if refusal.outcome_is_unknown && !is_last {
            may_be_done = true;
            continue;
        }
        let error = shared.refused(operation, to, Asked::Rename, refusal).await;
        // The NameNode looks for the source first, so this one tells that nothing was done before.
        return Err(match (error.kind == ErrorKind::AlreadyExists, overwrite) {
            // Only a directory is not replaced.
            (true, Overwrite::Yes) => error.with_kind(ErrorKind::IsADirectory),
            (false, _) if may_be_done => error.with_kind(ErrorKind::OutcomeUnknown),
            (true | false, _) => error,
        });
    }
}

/// [`Storage::rename`](crate::storage::Storage::rename).
pub(super) async fn rename(shared: &Shared, from: &StoragePath, to: &StoragePath) -> Result<()> {
    let about = format!("to {to}");
    if to.is_below(from) {
        let kind = match stat_before(shared, "rename", from).await? {
            Some(_) => ErrorKind::InvalidPath,
            None => ErrorKind::NotFound,
        };
        return Err(shared.error("rename", from, kind).with_detail(about));
    }
    match rename_once(shared, from, to, Overwrite::No).await {
        Ok(()) => Ok(()),
        Err(refusal) if refusal.tried.is_empty() => {
            let error = shared.refused("rename", from, Asked::Rename, refusal).await;
            Err(if error.kind == ErrorKind::Authentication {
                error
            } else {
                error.with_detail(about)
            })
        }
        Err(refusal) => Err(shared.refused("rename", from, Asked::Rename, refusal).await),
    }
}

/// [`Storage::delete_file`](crate::storage::Storage::delete_file).
pub(super) async fn delete_file(shared: &Shared, path: &StoragePath) -> Result<Removal> {
    // HDFS would delete an empty directory just as well.
    match stat_before(shared, "delete", path).await? {
        None if is_below_a_file(shared, path).await => {
            Err(shared.error("delete", path, ErrorKind::NotADirectory))
        }
        None => Ok(Removal::Absent),
        Some(found) if found.kind == FileKind::Dir => {
            Err(shared.error("delete", path, ErrorKind::IsADirectory))
        }
        Some(_) => delete(shared, "delete", path, false).await,
    }
}

/// [`Storage::delete_tree`](crate::storage::Storage::delete_tree).
pub(super) async fn delete_tree(shared: &Shared, root: &StoragePath) -> Result<Removal> {
    delete(shared, "delete tree", root, true).await
}

/// [`Storage::set_attributes`](crate::storage::Storage::set_attributes).
pub(super) async fn set_attributes(
    shared: &Shared,
    path: &StoragePath,
    attributes: &Attributes,
) -> Result<()> {
    const OPERATION: &str = "set attributes of";
    let Some(found) = stat_before(shared, OPERATION, path).await? else {
        return Err(shared.error(OPERATION, path, ErrorKind::NotFound));
    };
    let Attributes { mode, owner, group } = attributes.clone();
    // Only the superuser may set an owner, even to the one it has.
    let owner = owner.filter(|_| attributes.owner != found.owner);
    let group = group.filter(|_| attributes.group != found.group);
    let text = path.to_string();
    if owner.is_some() || group.is_some() {
        let call = |client: Client| {
            let (text, owner, group) = (text.clone(), owner.clone(), group.clone());
            async move {
                client
                    .set_owner(&text, owner.as_deref(), group.as_deref())
                    .await
            }
        };
        change(shared, OPERATION, path, Asked::Attributes, call).await?;
    }
    if let Some(mode) = mode {
        let call = |client: Client| {
            let text = text.clone();
            async move { client.set_permission(&text, mode & 0o7777).await }
        };
        change(shared, OPERATION, path, Asked::Attributes, call).await?;
    }
    Ok(())
}

/// Whether writing the same content again may help.
pub(super) fn is_worth_repeating(failure: &Failure) -> bool {
    match failure {
        Failure::Client(HdfsError::RPCError(..)) => {
            failure.kind(Asked::Write) == ErrorKind::NoSpace
        }
        Failure::Client(_) | Failure::Closed => true,
        Failure::TimedOut | Failure::Panicked(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_fit_and_are_hidden() {
        let parse = |text: &str| StoragePath::parse(text).unwrap();
        for name in ["m".to_owned(), "ä".repeat(127), "x".repeat(255)] {
            let beside = temporary_path(&parse(&format!("/d/{name}")));
            assert!(beside.name().len() <= NAME_BYTES);
            assert!(beside.name().starts_with('.') && beside.name().ends_with(".stepdown-tmp"));
            assert_eq!(beside.parent(), Some(parse("/d")));
        }
    }
}
