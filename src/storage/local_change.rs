//! The blocking calls of the local file system that change something, but for the writing of files.
//!
//! Each takes whether to sync: then the changed directory is on disk before the call returns.

use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, Uid,
};
use rustix::io::Errno;

use super::local_errno::Refusal;
use crate::storage::{Attributes, ErrorKind, Removal, StoragePath, Touched};

/// How often a call looks again when others change the same entry at the same time.
const LOOKS: usize = 32;

/// How this file system renames without overwriting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exclusive {
    /// Whether to ask the kernel for `RENAME_NOREPLACE`. Off only in tests, to stand for a file system
    /// that does not have it, as NFS does not.
    pub(super) ask_kernel: bool,
    /// Whether directories are on disk when a call returns.
    pub(super) fsync: bool,
}

impl Exclusive {
    /// Renames without overwriting. Without `RENAME_NOREPLACE` a file is linked to its new name, which is
    /// as exclusive, and its old name deleted then.
    pub(super) fn rename(self, from: &StoragePath, to: &StoragePath) -> Result<(), Refusal> {
        if to.is_below(from) {
            rustix::fs::lstat(from.as_str()).map_err(Refusal::change)?;
            return Err(Refusal::new(
                ErrorKind::InvalidPath,
                "a directory cannot move into itself",
            ));
        }
        if !self.rename_in_kernel(from, to)? {
            link_then_unlink(from, to)?;
        }
        if self.fsync {
            sync_parent(to)?;
            if from.parent() != to.parent() {
                sync_parent(from)?;
            }
        }
        Ok(())
    }

    /// Gives the complete file `from` its name, if no one else has it.
    pub(super) fn publish(self, from: &StoragePath, to: &StoragePath) -> Result<(), Refusal> {
        if self.rename_in_kernel(from, to)? {
            return Ok(());
        }
        match link_then_unlink(from, to) {
            // Only the temporary name is left, which is no one's.
            Err(refusal) if refusal.kind == ErrorKind::OutcomeUnknown && both_names(from, to) => {
                Ok(())
            }
            linked => linked,
        }
    }

    /// False if the file system cannot do it, and nothing happened.
    fn rename_in_kernel(self, from: &StoragePath, to: &StoragePath) -> Result<bool, Refusal> {
        if !self.ask_kernel {
            return Ok(false);
        }
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(CWD, from.as_str(), CWD, to.as_str(), flags) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(Refusal::change(error)),
        }
    }
}

/// Moves a file by a second link, for file systems without `RENAME_NOREPLACE`.
fn link_then_unlink(from: &StoragePath, to: &StoragePath) -> Result<(), Refusal> {
    let before = rustix::fs::lstat(from.as_str()).map_err(Refusal::change)?;
    if FileType::from_raw_mode(before.st_mode) == FileType::Directory {
        return match rustix::fs::lstat(to.as_str()) {
            Ok(_) => Err(Refusal::change(Errno::EXIST)),
            Err(_) => Err(Refusal::new(
                ErrorKind::Unsupported,
                "this file system has no RENAME_NOREPLACE, so a directory cannot be renamed without \
                 the risk of overwriting another one",
            )),
        };
    }
    match rustix::fs::linkat(CWD, from.as_str(), CWD, to.as_str(), AtFlags::empty()) {
        Ok(()) => {}
        // NFS repeats a request whose answer was lost, and the repeated link finds the first one.
        Err(Errno::EXIST) if linked_since(&before, from, to) => {}
        Err(error @ (Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK)) => {
            return Err(Refusal::change(error)
                .with_kind(ErrorKind::Unsupported)
                .with_detail(
                    "this file system has neither RENAME_NOREPLACE nor hard links for this file",
                ));
        }
        Err(error) => return Err(Refusal::change(error)),
    }
    match rustix::fs::unlink(from.as_str()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(Refusal::change(error)
            .with_kind(ErrorKind::OutcomeUnknown)
            .with_detail("it has its new name and has kept its old one as well")),
    }
}

/// Whether both names are of one file.
fn both_names(one: &StoragePath, other: &StoragePath) -> bool {
    match (
        rustix::fs::lstat(one.as_str()),
        rustix::fs::lstat(other.as_str()),
    ) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// Whether the one link that `from` has more than `before` is `to`.
fn linked_since(before: &rustix::fs::Stat, from: &StoragePath, to: &StoragePath) -> bool {
    both_names(from, to)
        && rustix::fs::lstat(from.as_str()).is_ok_and(|now| now.st_nlink == before.st_nlink + 1)
}

/// Makes an empty file or refreshes an entry's time stamps with the file system's own clock.
pub(super) fn touch(path: &StoragePath, fsync: bool) -> Result<Touched, Refusal> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    // Both are "now": for that the right to write is enough, other times need the owner.
    let now = Timestamps {
        last_access: now,
        last_modification: now,
    };
    for _ in 0..LOOKS {
        match rustix::fs::lstat(path.as_str()) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(Refusal::change(Errno::ISDIR));
            }
            Ok(_) => {
                // The entry that `stat` shows is the one that is touched, so links are not followed.
                let nofollow = AtFlags::SYMLINK_NOFOLLOW;
                match rustix::fs::utimensat(CWD, path.as_str(), &now, nofollow) {
                    Ok(()) => return Ok(Touched::Refreshed),
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(Refusal::change(error)),
                }
            }
            Err(Errno::NOENT) => match create_empty(path) {
                Ok(()) => {
                    if fsync {
                        sync_parent(path)?;
                    }
                    return Ok(Touched::Created);
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(Refusal::change(error)),
            },
            Err(error) => return Err(Refusal::read(error)),
        }
    }
    Err(Refusal::new(
        ErrorKind::Other,
        "it comes and goes: others create and delete it all the time",
    ))
}

fn create_empty(path: &StoragePath) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(path.as_str(), flags, Mode::from_raw_mode(0o666)).map(drop)
}

/// Makes one directory, exclusively.
pub(super) fn create_dir(dir: &StoragePath, fsync: bool) -> Result<(), Refusal> {
    mkdir(dir).map_err(Refusal::change)?;
    if fsync { sync_parent(dir) } else { Ok(()) }
}

/// Makes the directory and its missing parents.
pub(super) fn create_dir_all(dir: &StoragePath, fsync: bool) -> Result<(), Refusal> {
    // From the directory upwards to the first that is there, then down again.
    let mut missing = Vec::new();
    let mut next = Some(dir.clone());
    while let Some(above) = next {
        match rustix::fs::stat(above.as_str()) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => break,
            Ok(_) => {
                return Err(
                    Refusal::change(Errno::NOTDIR).with_detail(format!("{above} is no directory"))
                );
            }
            Err(Errno::NOENT) => {
                next = above.parent();
                missing.push(above);
            }
            Err(error) => return Err(Refusal::read(error)),
        }
    }
    for dir in missing.iter().rev() {
        match mkdir(dir) {
            Ok(()) => {
                if fsync {
                    sync_parent(dir)?;
                }
            }
            Err(Errno::EXIST) if is_dir(dir) => {}
            Err(Errno::EXIST) => {
                return Err(
                    Refusal::change(Errno::NOTDIR).with_detail(format!("{dir} is no directory"))
                );
            }
            Err(error) => return Err(Refusal::change(error)),
        }
    }
    Ok(())
}

fn mkdir(dir: &StoragePath) -> Result<(), Errno> {
    rustix::fs::mkdir(dir.as_str(), Mode::from_raw_mode(0o777))
}

fn is_dir(path: &StoragePath) -> bool {
    rustix::fs::stat(path.as_str())
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Deletes one entry that is no directory.
pub(super) fn delete_file(path: &StoragePath, fsync: bool) -> Result<Removal, Refusal> {
    match rustix::fs::unlink(path.as_str()) {
        Ok(()) => {
            if fsync {
                sync_parent(path)?;
            }
            Ok(Removal::Deleted)
        }
        Err(Errno::NOENT) => Ok(Removal::Absent),
        // POSIX has EPERM for a directory, and some network file systems answer so.
        Err(Errno::PERM)
            if rustix::fs::lstat(path.as_str())
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) =>
        {
            Err(Refusal::change(Errno::ISDIR))
        }
        Err(error) => Err(Refusal::change(error)),
    }
}

/// Deletes a tree; links in it are deleted and not followed.
pub(super) fn delete_tree(root: &StoragePath, fsync: bool) -> Result<Removal, Refusal> {
    // std opens each directory relative to its parent and never through a link.
    match std::fs::remove_dir_all(root.as_str()) {
        Ok(()) => {
            if fsync {
                sync_parent(root)?;
            }
            Ok(Removal::Deleted)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Removal::Absent),
        Err(error) => Err(Refusal::change(error)),
    }
}

/// Writes all that the file system of `dir` still holds in memory: one call for any number of files.
pub(super) fn make_durable(dir: &StoragePath) -> Result<(), Refusal> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let entry = rustix::fs::open(dir.as_str(), flags, Mode::empty()).map_err(Refusal::read)?;
    rustix::fs::syncfs(&entry).map_err(Refusal::change)
}

/// Sets owners first: a change of owner clears some permission bits.
pub(super) fn set_attributes(path: &StoragePath, attributes: &Attributes) -> Result<(), Refusal> {
    let owner = numeric_id(attributes.owner.as_deref())?.map(Uid::from_raw);
    let group = numeric_id(attributes.group.as_deref())?.map(Gid::from_raw);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entry = rustix::fs::open(path.as_str(), flags, Mode::empty()).map_err(Refusal::read)?;
    let stat = rustix::fs::fstat(&entry).map_err(Refusal::read)?;
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    if is_link && attributes.mode.is_some() {
        return Err(Refusal::new(
            ErrorKind::Unsupported,
            "a symbolic link has no permission bits of its own",
        ));
    }
    if owner.is_some() || group.is_some() {
        rustix::fs::chownat(&entry, "", owner, group, AtFlags::EMPTY_PATH)
            .map_err(Refusal::change)?;
    }
    if let Some(mode) = attributes.mode {
        // chmod has no form for an `O_PATH` descriptor before Linux 6.6; its name in /proc is one, and
        // unlike the path it cannot be turned into a link meanwhile.
        let name = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&entry));
        rustix::fs::chmod(name, Mode::from_raw_mode(mode & 0o7777)).map_err(Refusal::change)?;
    }
    Ok(())
}

fn numeric_id(text: Option<&str>) -> Result<Option<u32>, Refusal> {
    text.map(|text| {
        text.parse().map_err(|_| {
            Refusal::new(
                ErrorKind::Unsupported,
                &format!("owners on local disk are numeric ids, not {text:?}"),
            )
        })
    })
    .transpose()
}

/// Brings the directory above `path` to disk.
pub(super) fn sync_parent(path: &StoragePath) -> Result<(), Refusal> {
    let parent = path.parent().unwrap_or_else(StoragePath::root);
    sync_dir(Path::new(parent.as_str())).map_err(Refusal::unknown)
}

fn sync_dir(dir: &Path) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty())?;
    match rustix::fs::fsync(fd) {
        // Some file systems (FUSE, some NFS servers) cannot sync a directory and need not.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        synced => synced,
    }
}
