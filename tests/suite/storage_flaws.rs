//! The conformance suite finds what it is there to find: storages with one flaw each, and the promise
//! that each must be caught breaking.

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use stepdown::storage::conformance::{
    BelowFile, Capabilities, DirRename, Failure, Identities, run_all,
};
use stepdown::storage::faulty::{Fault, FaultScript, Faulty, Operation, When};
use stepdown::storage::memory::MemoryStorage;
use stepdown::storage::{
    Attributes, Authority, ByteStream, CreateMode, Depth, DirIdentity, ErrorKind, FileStat,
    OwnedTree, Removal, Result, Span, Storage, StoragePath, Touched, Writer,
};

const FULL: Capabilities = Capabilities {
    identities: Identities::Tell,
    below_file: BelowFile::NotADirectory,
    dir_rename: DirRename::Atomic,
    name_bytes: 255,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    RenameOverwrites,
    RenameMovesIntoDirectories,
    RenameCopiesFirst,
    NewOverwrites,
    NewShowsEarly,
    NewMakesParents,
    ReplaceIsScratch,
    ReplaceDeletesFirst,
    AbortPublishes,
    TouchTruncates,
    TouchKeepsTheTime,
    TouchSaysCreated,
    CreateDirIsNotExclusive,
    CreateDirMakesParents,
    DeleteTakesDirectories,
    DeleteOfAbsentFails,
    DeleteAlwaysSaysDeleted,
    TreeIsLeftBehind,
    SiblingsGoWithTheTree,
    IdentityIsConstant,
    IdentityOfMissing,
    ListIsBackwards,
    ListForgetsTheLast,
    ListShowsTheDirectory,
    ListIsSortedByComponents,
    ListCutsAtThousand,
    ListOfMissingIsEmpty,
    TreeIsOnlyChildren,
    ReadIgnoresTheLimit,
    ReadTruncates,
    SpanIsAlwaysTheFirst,
    StreamComesAtOnce,
    StatOfMissingIsDenied,
    ModeIsForgotten,
}

/// A storage in memory with one flaw.
#[derive(Debug)]
struct Flawed {
    inner: MemoryStorage,
    flaw: Flaw,
}

impl Flawed {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }
}

#[derive(Debug)]
struct AbortPublishes(Box<dyn Writer>);

#[async_trait]
impl Writer for AbortPublishes {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.0.write(data).await
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.0.finish().await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        self.0.finish().await
    }
}

#[async_trait]
impl Storage for Flawed {
    fn authority(&self) -> &Authority {
        self.inner.authority()
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    async fn stat(&self, path: &StoragePath) -> Result<FileStat> {
        self.inner.stat(path).await.map_err(|error| {
            if self.is(Flaw::StatOfMissingIsDenied) {
                return error.with_kind(ErrorKind::PermissionDenied);
            }
            error
        })
    }

    async fn identify_dir(&self, dir: &StoragePath) -> Result<DirIdentity> {
        let constant = DirIdentity::Inode {
            dev: 1,
            ino: 1,
            born_ns: None,
        };
        match self.inner.identify_dir(dir).await {
            Ok(_) if self.is(Flaw::IdentityIsConstant) => Ok(constant),
            Err(_) if self.is(Flaw::IdentityOfMissing) => Ok(constant),
            identified => identified,
        }
    }

    async fn list(&self, dir: &StoragePath, depth: Depth) -> Result<Vec<FileStat>> {
        let only_children = self.is(Flaw::TreeIsOnlyChildren);
        let depth = if only_children {
            Depth::Children
        } else {
            depth
        };
        let mut entries = match self.inner.list(dir, depth).await {
            Err(error)
                if error.kind == ErrorKind::NotFound && self.is(Flaw::ListOfMissingIsEmpty) =>
            {
                Vec::new()
            }
            listed => listed?,
        };
        if self.is(Flaw::ListIsBackwards) {
            entries.reverse();
        }
        if self.is(Flaw::ListForgetsTheLast) {
            entries.pop();
        }
        if self.is(Flaw::ListShowsTheDirectory) {
            entries.insert(0, self.inner.stat(dir).await?);
        }
        if self.is(Flaw::ListIsSortedByComponents) {
            entries.sort_by_key(|entry| entry.path.as_str().replace('/', "\0"));
        }
        if self.is(Flaw::ListCutsAtThousand) {
            entries.truncate(1_000);
        }
        Ok(entries)
    }

    async fn read_small(&self, path: &StoragePath, max_bytes: u64) -> Result<Bytes> {
        if self.is(Flaw::ReadIgnoresTheLimit) {
            return self.inner.read_small(path, u64::MAX).await;
        }
        if self.is(Flaw::ReadTruncates) {
            let mut content = self.inner.read_small(path, u64::MAX).await?;
            content.truncate(usize::try_from(max_bytes).unwrap_or(usize::MAX));
            return Ok(content);
        }
        self.inner.read_small(path, max_bytes).await
    }

    async fn read_span(&self, path: &StoragePath, span: Span) -> Result<Bytes> {
        let span = match span {
            Span::Last(bytes) if self.is(Flaw::SpanIsAlwaysTheFirst) => Span::First(bytes),
            Span::First(_) | Span::Last(_) => span,
        };
        self.inner.read_span(path, span).await
    }

    async fn open_read(&self, path: &StoragePath) -> Result<ByteStream> {
        if self.is(Flaw::StreamComesAtOnce) {
            let content = self.inner.read_small(path, u64::MAX).await;
            return Ok(futures::stream::iter([content]).boxed());
        }
        self.inner.open_read(path).await
    }

    async fn create(&self, path: &StoragePath, mode: CreateMode) -> Result<Box<dyn Writer>> {
        if self.is(Flaw::NewMakesParents)
            && let Some(parent) = path.parent()
        {
            self.inner.create_dir_all(&parent).await?;
        }
        if self.is(Flaw::ReplaceDeletesFirst) && mode == CreateMode::Replace {
            self.inner.delete_file(path).await?;
        }
        let mode = match (self.flaw, mode) {
            (Flaw::NewOverwrites, CreateMode::New) => CreateMode::Replace,
            (Flaw::NewShowsEarly, CreateMode::New)
            | (Flaw::ReplaceIsScratch, CreateMode::Replace) => CreateMode::Scratch,
            (_, mode) => mode,
        };
        let writer = self.inner.create(path, mode).await?;
        if self.is(Flaw::AbortPublishes) {
            return Ok(Box::new(AbortPublishes(writer)));
        }
        Ok(writer)
    }

    async fn touch(&self, path: &StoragePath) -> Result<Touched> {
        let before = self.inner.stat(path).await;
        if self.is(Flaw::TouchTruncates) && before.is_ok() {
            self.inner.put(path, Bytes::new())?;
        }
        if self.is(Flaw::TouchKeepsTheTime) && before.is_ok() {
            return Ok(Touched::Refreshed);
        }
        let touched = self.inner.touch(path).await?;
        Ok(if self.is(Flaw::TouchSaysCreated) {
            Touched::Created
        } else {
            touched
        })
    }

    async fn create_dir_all(&self, dir: &StoragePath) -> Result<()> {
        self.inner.create_dir_all(dir).await
    }

    async fn create_dir(&self, dir: &StoragePath) -> Result<()> {
        if self.is(Flaw::CreateDirMakesParents) && self.inner.stat(dir).await.is_err() {
            return self.inner.create_dir_all(dir).await;
        }
        let made = self.inner.create_dir(dir).await;
        match made {
            Err(error)
                if error.kind == ErrorKind::AlreadyExists
                    && self.is(Flaw::CreateDirIsNotExclusive) =>
            {
                Ok(())
            }
            made => made,
        }
    }

    async fn rename(&self, from: &StoragePath, to: &StoragePath) -> Result<()> {
        let taken = self.inner.stat(to).await.is_ok();
        if self.is(Flaw::RenameOverwrites) && taken {
            self.inner.remove(to)?;
        }
        if self.is(Flaw::RenameMovesIntoDirectories) && self.inner.identify_dir(to).await.is_ok() {
            return self.inner.rename(from, &to.join(from.name())).await;
        }
        if self.is(Flaw::RenameCopiesFirst)
            && !taken
            && let Ok(content) = self.inner.read_small(from, u64::MAX).await
        {
            self.inner.put(to, content)?;
            return self.inner.delete_file(from).await.map(drop);
        }
        self.inner.rename(from, to).await
    }

    async fn delete_file(&self, path: &StoragePath) -> Result<Removal> {
        if self.is(Flaw::DeleteTakesDirectories) {
            return self.inner.remove(path);
        }
        let removal = self.inner.delete_file(path).await?;
        if self.is(Flaw::DeleteOfAbsentFails) && removal == Removal::Absent {
            return self.inner.stat(path).await.map(|_| removal);
        }
        Ok(if self.is(Flaw::DeleteAlwaysSaysDeleted) {
            Removal::Deleted
        } else {
            removal
        })
    }

    async fn delete_tree(&self, tree: &OwnedTree) -> Result<Removal> {
        if self.is(Flaw::TreeIsLeftBehind) {
            return Ok(Removal::Deleted);
        }
        if self.is(Flaw::SiblingsGoWithTheTree)
            && let Some(parent) = tree.path().parent()
        {
            for entry in self.inner.list(&parent, Depth::Children).await? {
                if entry.path.as_str().starts_with(tree.path().as_str()) {
                    self.inner.remove(&entry.path)?;
                }
            }
            return Ok(Removal::Deleted);
        }
        self.inner.delete_tree(tree).await
    }

    async fn make_durable(&self, dir: &StoragePath) -> Result<()> {
        self.inner.make_durable(dir).await
    }

    async fn set_attributes(&self, path: &StoragePath, attributes: &Attributes) -> Result<()> {
        let mut attributes = attributes.clone();
        if self.is(Flaw::ModeIsForgotten) {
            attributes.mode = None;
        }
        self.inner.set_attributes(path, &attributes).await
    }
}

async fn failure_of(storage: impl Storage, capabilities: Capabilities) -> Failure {
    let root = StoragePath::parse("/root").unwrap();
    let what = format!("{storage:?} with {capabilities:?}");
    match run_all(&storage, &root, capabilities).await {
        Ok(report) => panic!("not found in {report:?}: {what}"),
        Err(failure) => failure,
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of flaws")]
async fn every_flaw_is_found_under_the_promise_that_it_breaks() {
    let inner = || MemoryStorage::new("flawed");
    for (flaw, promise) in [
        (Flaw::RenameOverwrites, "rename never overwrites"),
        (Flaw::RenameMovesIntoDirectories, "rename never overwrites"),
        (Flaw::RenameCopiesFirst, "a file is renamed"),
        (
            Flaw::NewOverwrites,
            "new appears whole at finish and never overwrites",
        ),
        (
            Flaw::NewShowsEarly,
            "new appears whole at finish and never overwrites",
        ),
        (
            Flaw::NewMakesParents,
            "create needs a parent and no directory",
        ),
        (
            Flaw::ReplaceIsScratch,
            "replace appears whole in place of the old",
        ),
        (
            Flaw::ReplaceDeletesFirst,
            "replace appears whole in place of the old",
        ),
        (Flaw::AbortPublishes, "abort leaves nothing visible"),
        (
            Flaw::TouchTruncates,
            "touch keeps the content and tells storage time",
        ),
        (
            Flaw::TouchKeepsTheTime,
            "touch keeps the content and tells storage time",
        ),
        (
            Flaw::TouchSaysCreated,
            "touch keeps the content and tells storage time",
        ),
        (Flaw::CreateDirIsNotExclusive, "create dir is exclusive"),
        (Flaw::CreateDirMakesParents, "create dir is exclusive"),
        (
            Flaw::DeleteTakesDirectories,
            "delete says deleted or absent",
        ),
        (Flaw::DeleteOfAbsentFails, "delete says deleted or absent"),
        (
            Flaw::DeleteAlwaysSaysDeleted,
            "delete says deleted or absent",
        ),
        (
            Flaw::TreeIsLeftBehind,
            "delete tree takes only marked trees",
        ),
        (
            Flaw::SiblingsGoWithTheTree,
            "delete tree takes only marked trees",
        ),
        (
            Flaw::IdentityIsConstant,
            "a directory has an identity of its own",
        ),
        (
            Flaw::IdentityOfMissing,
            "identify refuses what is no directory",
        ),
        (Flaw::ListIsBackwards, "children are listed sorted"),
        (Flaw::ListForgetsTheLast, "children are listed sorted"),
        (Flaw::ListShowsTheDirectory, "children are listed sorted"),
        (Flaw::ListIsSortedByComponents, "a tree is listed sorted"),
        (
            Flaw::ListCutsAtThousand,
            "a large directory is listed whole",
        ),
        (
            Flaw::ListOfMissingIsEmpty,
            "list refuses what is no directory",
        ),
        (Flaw::TreeIsOnlyChildren, "a tree is listed sorted"),
        (
            Flaw::ReadIgnoresTheLimit,
            "read small takes no more than it may",
        ),
        (Flaw::ReadTruncates, "read small takes no more than it may"),
        (Flaw::SpanIsAlwaysTheFirst, "a span is one end of a file"),
        (
            Flaw::StreamComesAtOnce,
            "a stream gives the whole content in pieces",
        ),
        (
            Flaw::StatOfMissingIsDenied,
            "stat shows an entry or not found",
        ),
        (Flaw::ModeIsForgotten, "attributes are set as asked"),
    ] {
        let storage = Flawed {
            inner: inner(),
            flaw,
        };
        let failure = failure_of(storage, FULL).await;
        assert_eq!(failure.promise, promise, "{flaw:?}: {failure}");
    }
}

#[tokio::test]
async fn every_lost_or_short_answer_is_found() {
    let short_list = Fault::ListWithout(vec!["a.b".to_owned()]);
    for (operation, fault) in [
        (Operation::Stat, Fault::Refuse(ErrorKind::NotFound)),
        (Operation::List, short_list),
        (Operation::ReadSmall, Fault::EndEarly(3)),
        (Operation::OpenRead, Fault::EndEarly(3)),
        (Operation::ReadPiece, Fault::Refuse(ErrorKind::Unreachable)),
        (Operation::Create, Fault::LoseAnswer),
        (Operation::Write, Fault::LoseAnswer),
        (Operation::Finish, Fault::LoseAnswer),
        (Operation::Abort, Fault::LoseAnswer),
        (Operation::Touch, Fault::LoseAnswer),
        (Operation::CreateDirAll, Fault::LoseAnswer),
        (Operation::CreateDir, Fault::LoseAnswer),
        (Operation::Rename, Fault::LoseAnswer),
        (Operation::DeleteFile, Fault::LoseAnswer),
        (Operation::DeleteTree, Fault::LoseAnswer),
        (Operation::SetAttributes, Fault::LoseAnswer),
        (Operation::IdentifyDir, Fault::LoseAnswer),
    ] {
        let script = FaultScript::new();
        script.inject(When::on(operation), fault);
        failure_of(Faulty::new(MemoryStorage::new("m"), script.clone()), FULL).await;
        assert!(script.faults() > 0, "{operation:?} met no fault");
    }
}

#[tokio::test]
async fn capabilities_are_checked_and_not_believed() {
    for wrong in [
        Capabilities {
            identities: Identities::None,
            ..FULL
        },
        Capabilities {
            below_file: BelowFile::ReadsAsAbsent,
            ..FULL
        },
        Capabilities {
            dir_rename: DirRename::Unsupported,
            ..FULL
        },
    ] {
        failure_of(MemoryStorage::new("m"), wrong).await;
    }
    failure_of(MemoryStorage::without_identities("m"), FULL).await;
}
