//! The tree behind [`MemoryStorage`](super::memory::MemoryStorage): plain calls, each atomic under the
//! storage's lock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::storage::{
    Attributes, CreateMode, Depth, DirIdentity, ErrorKind, FileKind, FileStat, Removal,
    StoragePath, Touched,
};

/// Why a call was refused.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) kind: ErrorKind,
    pub(super) detail: Option<String>,
}

impl Problem {
    pub(super) fn new(kind: ErrorKind) -> Self {
        Self { kind, detail: None }
    }

    pub(super) fn with_detail(mut self, detail: String) -> Self {
        self.detail = Some(detail);
        self
    }
}

type Outcome<T> = Result<T, Problem>;

fn refuse<T>(kind: ErrorKind) -> Outcome<T> {
    Err(Problem::new(kind))
}

/// The clock of the storage: stands still between changes, unless it runs with tokio's.
#[derive(Debug)]
pub(super) struct Clock {
    at: Timestamp,
    running_since: Option<Instant>,
}

/// What each change takes on the storage's clock.
const TICK: Duration = Duration::from_millis(1);

impl Clock {
    pub(super) fn now(&self) -> Timestamp {
        match self.running_since {
            Some(since) => later(self.at, since.elapsed()),
            None => self.at,
        }
    }

    pub(super) fn set(&mut self, now: Timestamp) {
        self.at = now;
        if self.running_since.is_some() {
            self.running_since = Some(Instant::now());
        }
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.at = later(self.at, by);
    }

    pub(super) fn run_with_tokio(&mut self) {
        self.at = self.now();
        self.running_since = Some(Instant::now());
    }

    fn tick(&mut self) -> Timestamp {
        self.advance(TICK);
        self.now()
    }
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// The bytes of a file, as they were written.
#[derive(Debug, Clone, Default)]
pub(super) struct Content(Vec<Bytes>);

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl Content {
    pub(super) fn push(&mut self, piece: Bytes) {
        self.0.push(piece);
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }

    pub(super) fn into_bytes(self) -> Bytes {
        match <[Bytes; 1]>::try_from(self.0) {
            Ok([piece]) => piece,
            Err(pieces) => pieces
                .iter()
                .fold(BytesMut::new(), |mut all, piece| {
                    all.extend_from_slice(piece);
                    all
                })
                .freeze(),
        }
    }
}

#[derive(Debug, Clone)]
enum Node {
    File(Content),
    Dir { number: u64, born_at: Timestamp },
}

#[derive(Debug, Clone)]
struct Entry {
    node: Node,
    modified_at: Timestamp,
    mode: u32,
    owner: Arc<str>,
    group: Arc<str>,
}

/// All entries by path.
#[derive(Debug)]
pub(super) struct Tree {
    entries: BTreeMap<StoragePath, Entry>,
    next_number: u64,
    pub(super) clock: Clock,
    pub(super) numbered: bool,
    pub(super) epoch: u64,
    pub(super) unreadable: BTreeSet<StoragePath>,
}

impl Tree {
    pub(super) fn new() -> Self {
        let mut tree = Self {
            entries: BTreeMap::new(),
            next_number: 1,
            clock: Clock {
                at: Timestamp::constant(1_704_067_200, 0),
                running_since: None,
            },
            numbered: true,
            epoch: 0,
            unreadable: BTreeSet::new(),
        };
        let root = tree.new_dir();
        tree.entries.insert(StoragePath::root(), root);
        tree
    }

    pub(super) fn paths(&self) -> Vec<StoragePath> {
        self.entries.keys().cloned().collect()
    }

    pub(super) fn stat(&self, path: &StoragePath) -> Outcome<FileStat> {
        Ok(file_stat(path, self.entry(path)?))
    }

    pub(super) fn identify_dir(&self, dir: &StoragePath) -> Outcome<DirIdentity> {
        let Node::Dir { number, born_at } = &self.entry(dir)?.node else {
            return refuse(ErrorKind::NotADirectory);
        };
        self.check_readable(dir)?;
        Ok(if self.numbered {
            DirIdentity::Inode {
                dev: 1,
                ino: *number,
                born_ns: i64::try_from(born_at.as_nanosecond()).ok(),
            }
        } else {
            DirIdentity::Unnumbered
        })
    }

    pub(super) fn renew_identity(&mut self, dir: &StoragePath) -> Outcome<()> {
        let renewed = self.new_dir().node;
        match self.entries.get_mut(dir) {
            Some(Entry {
                node: node @ Node::Dir { .. },
                ..
            }) => {
                *node = renewed;
                Ok(())
            }
            Some(_) => refuse(ErrorKind::NotADirectory),
            None => refuse(ErrorKind::NotFound),
        }
    }

    pub(super) fn list(&self, dir: &StoragePath, depth: Depth) -> Outcome<Vec<FileStat>> {
        let Node::Dir { .. } = self.entry(dir)?.node else {
            return refuse(ErrorKind::NotADirectory);
        };
        self.check_readable(dir)?;
        if depth == Depth::Tree
            && let Some(closed) = self.unreadable.iter().find(|closed| closed.is_below(dir))
        {
            return Err(
                Problem::new(ErrorKind::PermissionDenied).with_detail(format!("at {closed}"))
            );
        }
        Ok(self
            .below(dir)
            .filter(|(path, _)| match depth {
                Depth::Children => path.parent().as_ref() == Some(dir),
                Depth::Tree => true,
            })
            .map(|(path, entry)| file_stat(path, entry))
            .collect())
    }

    pub(super) fn read(&self, path: &StoragePath) -> Outcome<Content> {
        match &self.entry(path)?.node {
            Node::File(content) => Ok(content.clone()),
            Node::Dir { .. } => refuse(ErrorKind::IsADirectory),
        }
    }

    /// Whether a file may be made at `path`.
    pub(super) fn check_target(&self, path: &StoragePath, mode: CreateMode) -> Outcome<()> {
        self.check_parent(path)?;
        match self.entries.get(path).map(|entry| &entry.node) {
            Some(Node::Dir { .. }) => refuse(ErrorKind::IsADirectory),
            Some(Node::File(_)) if mode == CreateMode::New => refuse(ErrorKind::AlreadyExists),
            Some(Node::File(_)) | None => Ok(()),
        }
    }

    pub(super) fn put(
        &mut self,
        path: &StoragePath,
        content: Content,
        mode: CreateMode,
    ) -> Outcome<()> {
        self.check_target(path, mode)?;
        let modified_at = self.change_parent(path);
        let entry = new_entry(Node::File(content), modified_at, 0o644);
        self.entries.insert(path.clone(), entry);
        Ok(())
    }

    pub(super) fn touch(&mut self, path: &StoragePath) -> Outcome<Touched> {
        self.check_target(path, CreateMode::Replace)?;
        if self.entries.contains_key(path) {
            let now = self.clock.tick();
            if let Some(entry) = self.entries.get_mut(path) {
                entry.modified_at = now;
            }
            return Ok(Touched::Refreshed);
        }
        self.put(path, Content::default(), CreateMode::New)?;
        Ok(Touched::Created)
    }

    pub(super) fn create_dir_all(&mut self, dir: &StoragePath) -> Outcome<()> {
        match self.entry(dir) {
            Ok(Entry {
                node: Node::Dir { .. },
                ..
            }) => Ok(()),
            Ok(_) => refuse(ErrorKind::NotADirectory),
            Err(problem) if problem.kind == ErrorKind::NotFound => {
                if let Some(parent) = dir.parent() {
                    self.create_dir_all(&parent)?;
                }
                self.create_dir(dir)
            }
            Err(problem) => Err(problem),
        }
    }

    pub(super) fn create_dir(&mut self, dir: &StoragePath) -> Outcome<()> {
        self.check_parent(dir)?;
        if self.entries.contains_key(dir) {
            return refuse(ErrorKind::AlreadyExists);
        }
        self.change_parent(dir);
        let entry = self.new_dir();
        self.entries.insert(dir.clone(), entry);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &StoragePath, to: &StoragePath) -> Outcome<()> {
        self.entry(from)?;
        self.check_parent(to)?;
        if self.entries.contains_key(to) {
            return refuse(ErrorKind::AlreadyExists);
        }
        if to.is_below(from) {
            return refuse(ErrorKind::InvalidPath);
        }
        let moved: Vec<(StoragePath, StoragePath)> = self
            .below(from)
            .filter_map(|(path, _)| {
                let relative = path.relative_to(from)?;
                Some((path.clone(), to.with_suffix(&format!("/{relative}"))))
            })
            .chain([(from.clone(), to.clone())])
            .collect();
        self.change_parent(from);
        self.change_parent(to);
        for (old, new) in moved {
            if let Some(entry) = self.entries.remove(&old) {
                self.entries.insert(new, entry);
            }
        }
        Ok(())
    }

    pub(super) fn delete_file(&mut self, path: &StoragePath) -> Outcome<Removal> {
        match self.entry(path) {
            Ok(Entry {
                node: Node::File(_),
                ..
            }) => self.remove_tree(path),
            Ok(_) => refuse(ErrorKind::IsADirectory),
            Err(problem) if problem.kind == ErrorKind::NotFound => Ok(Removal::Absent),
            Err(problem) => Err(problem),
        }
    }

    pub(super) fn delete_tree(&mut self, root: &StoragePath) -> Outcome<Removal> {
        match self.entry(root) {
            Ok(Entry {
                node: Node::File(_),
                ..
            }) => refuse(ErrorKind::NotADirectory),
            Ok(_) | Err(_) => self.remove_tree(root),
        }
    }

    pub(super) fn remove_tree(&mut self, root: &StoragePath) -> Outcome<Removal> {
        match self.entry(root) {
            Ok(_) => {}
            Err(problem) if problem.kind == ErrorKind::NotFound => return Ok(Removal::Absent),
            Err(problem) => return Err(problem),
        }
        self.change_parent(root);
        self.entries
            .retain(|path, _| path != root && !path.is_below(root));
        Ok(Removal::Deleted)
    }

    pub(super) fn set_attributes(
        &mut self,
        path: &StoragePath,
        attributes: &Attributes,
    ) -> Outcome<()> {
        self.entry(path)?;
        if let Some(entry) = self.entries.get_mut(path) {
            entry.mode = attributes.mode.map_or(entry.mode, |mode| mode & 0o7777);
            entry.owner = attributes.owner.clone().unwrap_or(entry.owner.clone());
            entry.group = attributes.group.clone().unwrap_or(entry.group.clone());
        }
        Ok(())
    }

    /// The entry at `path`, if all above it are directories that can be read.
    fn entry(&self, path: &StoragePath) -> Outcome<&Entry> {
        if let Some(parent) = path.parent() {
            let Node::Dir { .. } = self.entry(&parent)?.node else {
                return refuse(ErrorKind::NotADirectory);
            };
            self.check_readable(&parent)?;
        }
        self.entries
            .get(path)
            .ok_or_else(|| Problem::new(ErrorKind::NotFound))
    }

    fn check_parent(&self, path: &StoragePath) -> Outcome<()> {
        let Some(parent) = path.parent() else {
            return Ok(());
        };
        let Node::Dir { .. } = self.entry(&parent)?.node else {
            return refuse(ErrorKind::NotADirectory);
        };
        self.check_readable(&parent)
    }

    fn check_readable(&self, dir: &StoragePath) -> Outcome<()> {
        if self.unreadable.contains(dir) {
            return refuse(ErrorKind::PermissionDenied);
        }
        Ok(())
    }

    fn below<'tree>(
        &'tree self,
        dir: &StoragePath,
    ) -> impl Iterator<Item = (&'tree StoragePath, &'tree Entry)> {
        // Names such as `a-b` sort between `a` and `a/c`, so the range begins behind the slash.
        let first = if dir.parent().is_none() {
            dir.clone()
        } else {
            dir.with_suffix("/")
        };
        let dir = dir.clone();
        self.entries
            .range(first..)
            .filter({
                let dir = dir.clone();
                move |(path, _)| **path != dir
            })
            .take_while(move |(path, _)| path.is_below(&dir))
    }

    /// The time of a change of `path`, which is also one of the directory above.
    fn change_parent(&mut self, path: &StoragePath) -> Timestamp {
        let now = self.clock.tick();
        if let Some(parent) = path
            .parent()
            .and_then(|parent| self.entries.get_mut(&parent))
        {
            parent.modified_at = now;
        }
        now
    }

    fn new_dir(&mut self) -> Entry {
        let number = self.next_number;
        self.next_number += 1;
        let born_at = self.clock.now();
        new_entry(Node::Dir { number, born_at }, born_at, 0o755)
    }
}

fn new_entry(node: Node, modified_at: Timestamp, mode: u32) -> Entry {
    Entry {
        node,
        modified_at,
        mode,
        owner: Arc::from("memory"),
        group: Arc::from("memory"),
    }
}

fn file_stat(path: &StoragePath, entry: &Entry) -> FileStat {
    let (kind, len_bytes) = match &entry.node {
        Node::File(content) => (FileKind::File, content.len_bytes()),
        Node::Dir { .. } => (FileKind::Dir, 0),
    };
    FileStat {
        path: path.clone(),
        kind,
        len_bytes,
        modified_at: entry.modified_at,
        mode: Some(entry.mode),
        owner: Some(entry.owner.clone()),
        group: Some(entry.group.clone()),
    }
}
