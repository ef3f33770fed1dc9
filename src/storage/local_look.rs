//! The blocking calls of the local file system that look: stat, identity, listing, reading.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, StatxFlags};
use rustix::io::Errno;

use super::local_errno::Refusal;
use super::local_lanes::Abandoned;
use crate::storage::{Depth, DirIdentity, ErrorKind, FileKind, FileStat, Span, StoragePath};

/// Largest piece that is read or collected for writing at a time.
pub(super) const PIECE_BYTES: usize = 1024 * 1024;

/// Room for about 1,500 names between two calls of the kernel.
const NAMES_BYTES: usize = 64 * 1024;

/// The entry itself, links not followed.
pub(super) fn stat(path: &StoragePath) -> Result<FileStat, Refusal> {
    let stat = rustix::fs::lstat(path.as_str()).map_err(Refusal::read)?;
    Ok(file_stat(path.clone(), &stat, &mut Ids::default()))
}

/// Device, inode and birth of the directory that `dir` leads to.
pub(super) fn identify_dir(dir: &StoragePath) -> Result<DirIdentity, Refusal> {
    // The dot asks the kernel to search the directory, so that it refuses one that is no directory or
    // not searchable, in which every entry would seem unreachable.
    let inside = format!("{dir}/.");
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let found = rustix::fs::statx(CWD, inside, AtFlags::empty(), wanted).map_err(Refusal::read)?;
    let is_known = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let born = found.stx_btime;
    let born_ns = is_known
        .then(|| {
            let whole = born.tv_sec.checked_mul(1_000_000_000)?;
            whole.checked_add(i64::from(born.tv_nsec))
        })
        .flatten();
    Ok(DirIdentity::Inode {
        dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        born_ns,
    })
}

/// All entries below `dir`, sorted. A sub-directory whose name is not UTF-8 is shown and not entered.
pub(super) fn list(
    dir: &StoragePath,
    depth: Depth,
    abandoned: &Abandoned,
) -> Result<Vec<FileStat>, Refusal> {
    let top = open_dir(CWD, dir.as_str(), OFlags::empty()).map_err(Refusal::read)?;
    let mut walk = Walk {
        entries: Vec::new(),
        waiting: Vec::new(),
        ids: Ids::default(),
        buffer: Vec::with_capacity(NAMES_BYTES),
    };
    walk.read_dir(top, dir, depth).map_err(Refusal::read)?;
    while let Some(sub) = walk.waiting.pop() {
        if abandoned.is_set() {
            // No one takes the result; a partial one must not pass for a listing.
            return Err(Refusal::new(ErrorKind::TimedOut, "given up by the caller"));
        }
        let path = sub.stat.path.clone();
        let entries_before = walk.entries.len();
        let walked = open_dir(&sub.parent, sub.stat.path.name(), OFlags::NOFOLLOW)
            .and_then(|fd| walk.read_dir(fd, &path, depth));
        match walked {
            Ok(()) => walk.entries.push(sub.stat),
            // Deleted, or replaced by something else, since its parent was read.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                walk.entries.truncate(entries_before);
                walk.waiting
                    .retain(|waiting| !waiting.stat.path.is_below(&path));
            }
            Err(error) => return Err(Refusal::read(error).with_detail(format!("at {path}"))),
        }
    }
    let mut entries = walk.entries;
    entries.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok(entries)
}

/// A listing under way.
struct Walk {
    entries: Vec<FileStat>,
    /// Sub-directories to read; the last one first, so that few parents are open at a time.
    waiting: Vec<SubDir>,
    ids: Ids,
    buffer: Vec<u8>,
}

struct SubDir {
    parent: Arc<OwnedFd>,
    stat: FileStat,
}

impl Walk {
    /// Adds the entries of one directory; in a `Tree` walk its sub-directories wait for their turn.
    fn read_dir(&mut self, fd: OwnedFd, dir: &StoragePath, depth: Depth) -> Result<(), Errno> {
        let fd = Arc::new(fd);
        // `RawDir` and not `Dir`: the latter takes the ENOENT of a directory that was deleted meanwhile
        // for the end of a complete listing.
        let mut found = RawDir::new(fd.as_fd(), self.buffer.spare_capacity_mut());
        while let Some(entry) = found.next() {
            let entry = entry?;
            let bytes = entry.file_name().to_bytes();
            if bytes == b"." || bytes == b".." {
                continue;
            }
            let stat = match rustix::fs::statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            let name = String::from_utf8_lossy(bytes);
            let mut stat = file_stat(dir.join(&name), &stat, &mut self.ids);
            if std::str::from_utf8(bytes).is_err() {
                stat.kind = FileKind::Other;
                stat.len_bytes = 0;
            }
            if depth == Depth::Tree && stat.kind == FileKind::Dir {
                let parent = fd.clone();
                self.waiting.push(SubDir { parent, stat });
            } else {
                self.entries.push(stat);
            }
        }
        Ok(())
    }
}

fn open_dir(parent: impl AsFd, name: &str, extra: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | extra;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// The whole content of a file of at most `max_bytes`.
pub(super) fn read_small(path: &StoragePath, max_bytes: u64) -> Result<Bytes, Refusal> {
    let (file, len_bytes) = open_file(path)?;
    let too_large = || Refusal::new(ErrorKind::TooLarge, &format!("more than {max_bytes} bytes"));
    if len_bytes > max_bytes {
        return Err(too_large());
    }
    // One byte more than allowed, to see a file that has grown since, or that does not tell its length.
    let limit = usize::try_from(max_bytes).map_or(usize::MAX, |max| max.saturating_add(1));
    let mut content = Vec::with_capacity(usize::try_from(len_bytes).unwrap_or(0) + 1);
    while content.len() < limit && !read_to_capacity(&file, &mut content)? {
        content.reserve_exact(PIECE_BYTES.min(limit.saturating_sub(content.len())));
    }
    if content.len() >= limit {
        return Err(too_large());
    }
    Ok(Bytes::from(content))
}

/// Fills the spare room of `content`; true at the end of the file.
fn read_to_capacity(file: &OwnedFd, content: &mut Vec<u8>) -> Result<bool, Refusal> {
    while content.len() < content.capacity() {
        let read = rustix::io::retry_on_intr(|| {
            rustix::io::read(file, rustix::buffer::spare_capacity(content))
        });
        if read.map_err(Refusal::read)? == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One end of a file.
pub(super) fn read_span(path: &StoragePath, span: Span) -> Result<Bytes, Refusal> {
    let (file, len_bytes) = open_file(path)?;
    let range = span.within(len_bytes);
    let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let mut content = Vec::with_capacity(wanted);
    while content.len() < wanted {
        let at = range.start + content.len() as u64;
        let read = rustix::io::retry_on_intr(|| {
            rustix::io::pread(&file, rustix::buffer::spare_capacity(&mut content), at)
        });
        if read.map_err(Refusal::read)? == 0 {
            break;
        }
    }
    // There may have been more room than was asked for.
    content.truncate(wanted);
    Ok(Bytes::from(content))
}

/// A file that is read piece by piece.
#[derive(Debug)]
pub(super) struct Reading {
    file: OwnedFd,
    /// What is left by the length at the open; only a guess of how much room to make.
    expected_bytes: u64,
}

impl Reading {
    /// Opens the file; links are followed.
    pub(super) fn open(path: &StoragePath) -> Result<Reading, Refusal> {
        let (file, expected_bytes) = open_file(path)?;
        Ok(Reading {
            file,
            expected_bytes,
        })
    }

    /// The next piece, and whether more may follow.
    pub(super) fn next_piece(&mut self) -> Result<(Bytes, bool), Refusal> {
        let room = usize::try_from(self.expected_bytes).map_or(PIECE_BYTES, |expected| {
            expected.saturating_add(1).min(PIECE_BYTES)
        });
        let mut piece = Vec::with_capacity(room);
        let ended = read_to_capacity(&self.file, &mut piece)?;
        self.expected_bytes = self.expected_bytes.saturating_sub(piece.len() as u64);
        Ok((Bytes::from(piece), !ended))
    }
}

/// Opens a regular file for reading and tells its length. Never waits, as the open of a pipe would.
fn open_file(path: &StoragePath) -> Result<(OwnedFd, u64), Refusal> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path.as_str(), flags, Mode::empty()).map_err(Refusal::read)?;
    let stat = rustix::fs::fstat(&fd).map_err(Refusal::read)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((fd, u64::try_from(stat.st_size).unwrap_or(0))),
        FileType::Directory => Err(Refusal::read(Errno::ISDIR)),
        FileType::Symlink
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => Err(Refusal::new(
            ErrorKind::Unsupported,
            "it is no regular file",
        )),
    }
}

/// Ids as text, made once for the run of entries that share them.
#[derive(Default)]
struct Ids {
    owner: Option<(u32, Arc<str>)>,
    group: Option<(u32, Arc<str>)>,
}

fn name_of(id: u32, last: &mut Option<(u32, Arc<str>)>) -> Arc<str> {
    match last {
        Some((known, name)) if *known == id => name.clone(),
        _ => {
            let name: Arc<str> = id.to_string().into();
            *last = Some((id, name.clone()));
            name
        }
    }
}

fn file_stat(path: StoragePath, stat: &Stat, ids: &mut Ids) -> FileStat {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Dir,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => FileKind::Other,
    };
    let len_bytes = match kind {
        FileKind::File => u64::try_from(stat.st_size).unwrap_or(0),
        FileKind::Dir | FileKind::Symlink | FileKind::Other => 0,
    };
    FileStat {
        path,
        kind,
        len_bytes,
        modified_at: timestamp(stat),
        mode: Some(stat.st_mode & 0o7777),
        owner: Some(name_of(stat.st_uid, &mut ids.owner)),
        group: Some(name_of(stat.st_gid, &mut ids.group)),
    }
}

/// The time of the last change of content; the nearest one that can be told for a file from beyond the
/// year 9999.
fn timestamp(stat: &Stat) -> Timestamp {
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    Timestamp::new(stat.st_mtime, nanoseconds).unwrap_or(if stat.st_mtime < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}
