//! Storage on this host's file systems, through blocking calls on threads of their own.
//!
//! - A new file is written under a temporary name `.<name>.<uuid>.stepdown-tmp` in the same directory
//!   and gets its name in one step: `RENAME_NOREPLACE` for [`CreateMode::New`], a plain rename for
//!   [`CreateMode::Replace`]. Where the file system has no `RENAME_NOREPLACE` (NFS), a hard link does the
//!   same for files; a directory is then not renamed at all.
//! - The last component of a path is not followed if it is a symbolic link, but by
//!   [`Storage::identify_dir`], [`Storage::list`] (the directory itself) and the reading calls.
//! - Owners are numeric ids.
//! - In a listing, an entry whose name is not UTF-8 has [`FileKind::Other`](crate::storage::FileKind) and
//!   a path with replacement characters; a directory of that sort is not entered.
//! - A call into a hung mount hangs as long as the mount does; see
//!   [`WithTimeout`](super::timeout::WithTimeout) for deadlines. How many threads can hang is bounded for
//!   each directory and each mount, so that others go on: 16 calls at a time in one directory, 64 in one
//!   mount.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::local_change::{self as change, Exclusive};
use super::local_errno::{Access, Refusal};
use super::local_lanes::{Abandoned, Lanes};
use super::local_look::{self as look, Reading};
use super::local_write::LocalWriter;
use crate::storage::{
    Attributes, Authority, ByteStream, CreateMode, Depth, DirIdentity, ErrorKind, FileStat,
    OwnedTree, Removal, Result, Span, Storage, StorageError, StoragePath, StorageUri, Touched,
    Writer,
};

/// How local files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalOptions {
    /// Whether files and directories are on disk when a call returns, so that they outlive a loss of
    /// power. Without it they outlive only a crash of the process.
    pub fsync: bool,
}

/// The file systems of this host. Clones share their threads' bounds.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    options: LocalOptions,
    exclusive: Exclusive,
    lanes: Arc<Lanes>,
}

/// One call: as what to report it, and in whose lane it goes.
#[derive(Debug)]
pub(super) struct Call {
    operation: &'static str,
    path: StoragePath,
    dir: StoragePath,
    access: Access,
}

impl Call {
    /// A call that looks at an entry.
    pub(super) fn look(operation: &'static str, path: &StoragePath) -> Self {
        Self {
            operation,
            path: path.clone(),
            dir: path.parent().unwrap_or_else(StoragePath::root),
            access: Access::Read,
        }
    }

    /// A call that changes an entry.
    pub(super) fn change(operation: &'static str, path: &StoragePath) -> Self {
        Self {
            access: Access::Change,
            ..Self::look(operation, path)
        }
    }

    /// A call that looks into the directory `dir`.
    fn into_dir(operation: &'static str, dir: &StoragePath) -> Self {
        Self {
            dir: dir.clone(),
            ..Self::look(operation, dir)
        }
    }
}

impl LocalStorage {
    /// The file systems of this host.
    pub fn new(options: LocalOptions) -> Self {
        Self {
            options,
            exclusive: Exclusive {
                ask_kernel: true,
                fsync: options.fsync,
            },
            lanes: Arc::new(Lanes::default()),
        }
    }

    pub(super) fn options(&self) -> LocalOptions {
        self.options
    }

    pub(super) fn exclusive(&self) -> Exclusive {
        self.exclusive
    }

    /// The result of the blocking `run`, made in its lane.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: Call,
        run: impl FnOnce(&Abandoned) -> std::result::Result<T, Refusal> + Send + 'static,
    ) -> Result<T> {
        match self.lanes.run(&call.dir, run).await {
            Ok(outcome) => outcome.map_err(|refusal| refusal.at(call.operation, &call.path)),
            Err(lost) => {
                let kind = match call.access {
                    Access::Read => ErrorKind::Other,
                    Access::Change => ErrorKind::OutcomeUnknown,
                };
                let uri = StorageUri::new(Authority::Local, call.path);
                Err(StorageError::new(call.operation, uri, kind).with_source(lost))
            }
        }
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn authority(&self) -> &Authority {
        &Authority::Local
    }

    fn epoch(&self) -> u64 {
        0
    }

    async fn stat(&self, path: &StoragePath) -> Result<FileStat> {
        let entry = path.clone();
        self.run(Call::look("stat", path), move |_| look::stat(&entry))
            .await
    }

    async fn identify_dir(&self, dir: &StoragePath) -> Result<DirIdentity> {
        let entry = dir.clone();
        self.run(Call::into_dir("identify", dir), move |_| {
            look::identify_dir(&entry)
        })
        .await
    }

    async fn list(&self, dir: &StoragePath, depth: Depth) -> Result<Vec<FileStat>> {
        let top = dir.clone();
        self.run(Call::into_dir("list", dir), move |abandoned| {
            look::list(&top, depth, abandoned)
        })
        .await
    }

    async fn read_small(&self, path: &StoragePath, max_bytes: u64) -> Result<Bytes> {
        let file = path.clone();
        self.run(Call::look("read", path), move |_| {
            look::read_small(&file, max_bytes)
        })
        .await
    }

    async fn read_span(&self, path: &StoragePath, span: Span) -> Result<Bytes> {
        let file = path.clone();
        self.run(Call::look("read", path), move |_| {
            look::read_span(&file, span)
        })
        .await
    }

    async fn open_read(&self, path: &StoragePath) -> Result<ByteStream> {
        let file = path.clone();
        // The first piece comes with the open, so that a small file takes one trip to a thread.
        let first = self
            .run(Call::look("read", path), move |_| {
                let mut reading = Reading::open(&file)?;
                let (piece, more) = reading.next_piece()?;
                Ok((piece, more.then_some(reading)))
            })
            .await?;
        let (storage, path) = (self.clone(), path.clone());
        let (piece, rest) = first;
        let rest = stream::try_unfold(rest, move |reading| {
            let (storage, path) = (storage.clone(), path.clone());
            async move {
                let Some(mut reading) = reading else {
                    return Ok(None);
                };
                let next = storage.run(Call::look("read", &path), move |_| {
                    let (piece, more) = reading.next_piece()?;
                    Ok((piece, more.then_some(reading)))
                });
                next.await.map(Some)
            }
        });
        let pieces = stream::once(async { Ok(piece) }).chain(rest);
        Ok(pieces
            .filter(|piece| {
                let empty = matches!(piece, Ok(bytes) if bytes.is_empty());
                async move { !empty }
            })
            .boxed())
    }

    async fn create(&self, path: &StoragePath, mode: CreateMode) -> Result<Box<dyn Writer>> {
        Ok(Box::new(LocalWriter::create(self, path, mode).await?))
    }

    async fn touch(&self, path: &StoragePath) -> Result<Touched> {
        let (entry, fsync) = (path.clone(), self.options.fsync);
        self.run(Call::change("touch", path), move |_| {
            change::touch(&entry, fsync)
        })
        .await
    }

    async fn create_dir_all(&self, dir: &StoragePath) -> Result<()> {
        let (entry, fsync) = (dir.clone(), self.options.fsync);
        self.run(Call::change("create directory", dir), move |_| {
            change::create_dir_all(&entry, fsync)
        })
        .await
    }

    async fn create_dir(&self, dir: &StoragePath) -> Result<()> {
        let (entry, fsync) = (dir.clone(), self.options.fsync);
        self.run(Call::change("create directory", dir), move |_| {
            change::create_dir(&entry, fsync)
        })
        .await
    }

    async fn rename(&self, from: &StoragePath, to: &StoragePath) -> Result<()> {
        let (source, target, exclusive) = (from.clone(), to.clone(), self.exclusive);
        self.run(Call::change("rename", from), move |_| {
            exclusive
                .rename(&source, &target)
                .map_err(|refusal| refusal.about(&format!("to {target}")))
        })
        .await
    }

    async fn delete_file(&self, path: &StoragePath) -> Result<Removal> {
        let (entry, fsync) = (path.clone(), self.options.fsync);
        self.run(Call::change("delete", path), move |_| {
            change::delete_file(&entry, fsync)
        })
        .await
    }

    async fn delete_tree(&self, tree: &OwnedTree) -> Result<Removal> {
        let (root, fsync) = (tree.path().clone(), self.options.fsync);
        self.run(Call::change("delete tree", tree.path()), move |_| {
            change::delete_tree(&root, fsync)
        })
        .await
    }

    async fn make_durable(&self, dir: &StoragePath) -> Result<()> {
        let tree = dir.clone();
        self.run(Call::change("make durable", dir), move |_| {
            change::make_durable(&tree)
        })
        .await
    }

    async fn set_attributes(&self, path: &StoragePath, attributes: &Attributes) -> Result<()> {
        let (entry, attributes) = (path.clone(), attributes.clone());
        self.run(Call::change("set attributes of", path), move |_| {
            change::set_attributes(&entry, &attributes)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;
    use std::time::Duration;

    use futures::TryStreamExt;
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use tempfile::TempDir;

    use super::*;
    use crate::storage::conformance::{BelowFile, Capabilities, DirRename, Identities, run_all};
    use crate::storage::{FileKind, local_lanes};

    struct Place {
        dir: TempDir,
        storage: LocalStorage,
    }

    impl Place {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                storage: LocalStorage::new(LocalOptions { fsync: false }),
            }
        }

        fn real(&self, name: &str) -> std::path::PathBuf {
            self.dir.path().join(name)
        }

        fn path(&self, name: &str) -> StoragePath {
            StoragePath::parse(self.real(name).to_str().unwrap()).unwrap()
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        }

        async fn write(&self, name: &str, content: &'static str, mode: CreateMode) -> Result<()> {
            let mut writer = self.storage.create(&self.path(name), mode).await?;
            writer.write(Bytes::from_static(content.as_bytes())).await?;
            writer.finish().await
        }
    }

    fn kind<T: std::fmt::Debug>(outcome: Result<T>) -> ErrorKind {
        outcome.unwrap_err().kind
    }

    /// What `look` says to a user who has no rights beyond the permission bits, as root has.
    fn without_privileges<T: Send>(look: impl FnOnce() -> T + Send) -> T {
        let unprivileged = || {
            let mut sets = capabilities(None).unwrap();
            sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
            // Capabilities belong to a thread, so this one ends with the call.
            set_capabilities(None, sets).unwrap();
            look()
        };
        std::thread::scope(|scope| scope.spawn(unprivileged).join().unwrap())
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_system_without_noreplace_keeps_all_promises_but_renames_of_directories() {
        for fsync in [false, true] {
            let mut place = Place::new();
            place.storage = LocalStorage::new(LocalOptions { fsync });
            place.storage.exclusive.ask_kernel = false;
            let capabilities = Capabilities {
                identities: Identities::Tell,
                below_file: BelowFile::NotADirectory,
                dir_rename: DirRename::Unsupported,
                name_bytes: 255,
            };
            let outcome = run_all(&place.storage, &place.path("root"), capabilities).await;
            outcome.unwrap_or_else(|failure| panic!("{failure}: {:?}", failure.source));
        }
    }

    #[tokio::test]
    async fn a_file_that_is_synced_while_it_is_written_is_whole() {
        let mut place = Place::new();
        place.storage = LocalStorage::new(LocalOptions { fsync: true });
        let path = place.path("large");
        let mut writer = place
            .storage
            .create(&path, CreateMode::Scratch)
            .await
            .unwrap();
        let (mut written, mut piece) = (blake3::Hasher::new(), vec![0; 1 << 20]);
        for _ in 0..150 {
            fastrand::Rng::with_seed(written.count()).fill(&mut piece);
            written.update(&piece);
            writer.write(Bytes::from(piece.clone())).await.unwrap();
        }
        writer.finish().await.unwrap();
        let mut read = blake3::Hasher::new();
        read.update_reader(fs::File::open(place.real("large")).unwrap())
            .unwrap();
        assert_eq!(read.count(), written.count());
        assert_eq!(read.finalize(), written.finalize());
    }

    #[tokio::test]
    async fn a_link_is_shown_touched_and_deleted_and_its_target_left_alone() {
        let place = Place::new();
        let storage = &place.storage;
        fs::create_dir(place.real("target")).unwrap();
        fs::write(place.real("target/file"), "content").unwrap();
        symlink("target", place.real("link")).unwrap();
        symlink("nowhere", place.real("dangling")).unwrap();
        let (link, dangling) = (place.path("link"), place.path("dangling"));

        let shown = storage.stat(&link).await.unwrap();
        assert_eq!((shown.kind, shown.len_bytes), (FileKind::Symlink, 0));
        assert_eq!(
            storage.stat(&dangling).await.unwrap().kind,
            FileKind::Symlink
        );

        let tree = storage.list(&place.path(""), Depth::Tree).await.unwrap();
        let paths: Vec<_> = tree.into_iter().map(|entry| entry.path).collect();
        let expected = ["dangling", "link", "target", "target/file"].map(|name| place.path(name));
        assert_eq!(paths, expected);

        assert_eq!(
            storage.identify_dir(&link).await.unwrap(),
            storage.identify_dir(&place.path("target")).await.unwrap()
        );
        assert_eq!(
            kind(storage.identify_dir(&dangling).await),
            ErrorKind::NotFound
        );
        let through = storage.list(&link, Depth::Children).await.unwrap();
        assert_eq!(through[0].path, place.path("link/file"));

        let target_time = fs::metadata(place.real("target")).unwrap().mtime_nsec();
        assert_eq!(storage.touch(&dangling).await.unwrap(), Touched::Refreshed);
        assert!(!place.real("nowhere").exists(), "touch made the target");
        assert_eq!(storage.touch(&link).await.unwrap(), Touched::Refreshed);
        let target_time_after = fs::metadata(place.real("target")).unwrap().mtime_nsec();
        assert_eq!(target_time_after, target_time);

        assert_eq!(
            kind(place.write("dangling", "x", CreateMode::New).await),
            ErrorKind::AlreadyExists
        );
        assert_eq!(
            kind(storage.rename(&place.path("target"), &dangling).await),
            ErrorKind::AlreadyExists
        );
        for mode in [CreateMode::Replace, CreateMode::Scratch] {
            fs::remove_file(place.real("dangling")).unwrap();
            symlink(place.real("outside"), place.real("dangling")).unwrap();
            place
                .write("dangling", "in place of the link", mode)
                .await
                .unwrap();
            assert!(
                !place.real("outside").exists(),
                "{mode:?} wrote through a link"
            );
        }
        let wanted = Attributes {
            mode: Some(0o600),
            ..Attributes::default()
        };
        let refused = storage.set_attributes(&link, &wanted).await;
        assert_eq!(kind(refused), ErrorKind::Unsupported);

        assert_eq!(storage.delete_file(&link).await.unwrap(), Removal::Deleted);
        assert!(place.real("target/file").exists());
    }

    #[tokio::test]
    async fn delete_tree_never_leaves_its_tree_through_a_link() {
        let place = Place::new();
        fs::create_dir(place.real("outside")).unwrap();
        fs::write(place.real("outside/file"), "content").unwrap();
        fs::create_dir_all(place.real("x.stepdown/sub")).unwrap();
        symlink("../outside", place.real("x.stepdown/link")).unwrap();
        symlink("../../outside/file", place.real("x.stepdown/sub/link")).unwrap();
        symlink("outside", place.real("root.stepdown")).unwrap();
        for root in ["x.stepdown", "root.stepdown"] {
            let owned = OwnedTree::claim(place.path(root)).unwrap();
            let removal = place.storage.delete_tree(&owned).await.unwrap();
            assert_eq!(removal, Removal::Deleted);
        }
        assert_eq!(place.names(), ["outside"]);
        assert_eq!(
            fs::read_to_string(place.real("outside/file")).unwrap(),
            "content"
        );
        let file = OwnedTree::claim(place.path("file.stepdown")).unwrap();
        fs::write(place.real("file.stepdown"), "").unwrap();
        let refused = place.storage.delete_tree(&file).await;
        assert_eq!(kind(refused), ErrorKind::NotADirectory);
    }

    #[tokio::test]
    async fn names_that_are_no_utf8_are_shown_as_other_and_not_entered() {
        let place = Place::new();
        let root = place.dir.path();
        fs::write(root.join(OsStr::from_bytes(b"bad-\xff")), "12").unwrap();
        fs::create_dir(root.join(OsStr::from_bytes(b"dir-\xfe"))).unwrap();
        fs::write(root.join(OsStr::from_bytes(b"dir-\xfe/in")), "12").unwrap();
        let listed = place
            .storage
            .list(&place.path(""), Depth::Tree)
            .await
            .unwrap();
        let shown: Vec<_> = listed
            .iter()
            .map(|entry| (entry.path.name(), entry.kind, entry.len_bytes))
            .collect();
        let expected = [
            ("bad-\u{fffd}", FileKind::Other, 0),
            ("dir-\u{fffd}", FileKind::Other, 0),
        ];
        assert_eq!(shown, expected);
    }

    #[tokio::test]
    async fn a_pipe_hangs_no_call() {
        let place = Place::new();
        let pipe = place.path("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, pipe.as_str(), 0o600.into()).unwrap();
        let all = async {
            let storage = &place.storage;
            assert_eq!(storage.stat(&pipe).await.unwrap().kind, FileKind::Other);
            let read = storage.read_small(&pipe, 10).await;
            assert_eq!(kind(read), ErrorKind::Unsupported);
            let read = storage.open_read(&pipe).await.map(drop);
            assert_eq!(kind(read), ErrorKind::Unsupported);
            assert_eq!(storage.touch(&pipe).await.unwrap(), Touched::Refreshed);
            place
                .write("pipe", "now a file", CreateMode::Scratch)
                .await
                .unwrap();
            storage.read_small(&pipe, 10).await.unwrap()
        };
        let content = tokio::time::timeout(Duration::from_secs(30), all).await;
        assert_eq!(content.unwrap(), "now a file");
    }

    #[tokio::test]
    async fn a_file_is_written_under_a_temporary_name_beside_it() {
        let place = Place::new();
        let long = "ä".repeat(127);
        for name in ["file", &long] {
            let mut writer = place
                .storage
                .create(&place.path(name), CreateMode::New)
                .await
                .unwrap();
            // More than is collected before it goes to the disk.
            writer
                .write(Bytes::from(vec![7; 3 * look::PIECE_BYTES]))
                .await
                .unwrap();
            let names = place.names();
            assert_eq!(names.len(), 1, "{names:?}");
            let start = format!(".{}", name.chars().take(4).collect::<String>());
            assert!(names[0].starts_with(&start), "{names:?}");
            assert!(names[0].ends_with(".stepdown-tmp"), "{names:?}");
            assert_eq!(fs::metadata(place.real(&names[0])).unwrap().len(), 3 << 20);
            writer.abort().await.unwrap();
            assert!(place.names().is_empty());
        }
    }

    #[tokio::test]
    async fn a_refused_finish_leaves_nothing_behind() {
        let place = Place::new();
        let target = place.path("file");
        let mut writer = place
            .storage
            .create(&target, CreateMode::New)
            .await
            .unwrap();
        writer.write(Bytes::from_static(b"late")).await.unwrap();
        fs::create_dir(place.real("file")).unwrap();
        assert_eq!(kind(writer.finish().await), ErrorKind::AlreadyExists);
        assert_eq!(place.names(), ["file"]);
        let writer = place
            .storage
            .create(&place.path("other"), CreateMode::Replace)
            .await;
        fs::create_dir(place.real("other")).unwrap();
        assert_eq!(
            kind(writer.unwrap().finish().await),
            ErrorKind::IsADirectory
        );
        assert_eq!(place.names(), ["file", "other"]);
    }

    #[tokio::test]
    async fn a_file_with_a_hole_is_never_published() {
        let place = Place::new();
        let target = place.path("file");
        let mut writer = place
            .storage
            .create(&target, CreateMode::New)
            .await
            .unwrap();
        let large = Bytes::from(vec![1; 2 * look::PIECE_BYTES]);
        {
            // The directory is busy, so the write waits, and is given up while it does.
            let (release, busy) = std::sync::mpsc::channel::<()>();
            let busy = Arc::new(std::sync::Mutex::new(busy));
            let calls = (0..local_lanes::PER_DIRECTORY).map(|_| {
                let busy = busy.clone();
                place.storage.run(Call::look("hang", &target), move |_| {
                    // Ends when the other side is dropped.
                    let _ = busy.lock().unwrap().recv();
                    Ok(())
                })
            });
            let mut calls = futures::future::join_all(calls);
            assert!(futures::poll!(&mut calls).is_pending());
            let write = writer.write(large.clone());
            futures::pin_mut!(write);
            assert!(futures::poll!(&mut write).is_pending());
            drop(release);
        }
        assert_eq!(kind(writer.write(large).await), ErrorKind::Other);
        assert_eq!(kind(writer.finish().await), ErrorKind::Other);
        assert_eq!(kind(place.storage.stat(&target).await), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn replaced_files_keep_nothing_of_the_old() {
        let place = Place::new();
        fs::write(place.real("file"), "a long old content").unwrap();
        chmod(&place.real("file"), 0o4700);
        for mode in [CreateMode::Replace, CreateMode::Scratch] {
            let open = fs::File::open(place.real("file")).unwrap();
            let old = open.metadata().unwrap();
            place.write("file", "new", mode).await.unwrap();
            let new = fs::metadata(place.real("file")).unwrap();
            assert_eq!(new.mode() & 0o7111, 0, "{mode:?}");
            assert_ne!(new.ino(), old.ino(), "{mode:?}");
            assert!(
                open.metadata().unwrap().len() > 0,
                "a reader of the old one is cut off"
            );
        }
    }

    #[tokio::test]
    async fn a_file_that_grows_while_it_is_read_is_read_to_its_end() {
        let place = Place::new();
        let path = place.path("file");
        let piece = vec![1_u8; look::PIECE_BYTES];
        fs::write(place.real("file"), &piece).unwrap();
        let mut pieces = place.storage.open_read(&path).await.unwrap();
        let first = pieces.try_next().await.unwrap().unwrap();
        assert_eq!(first.len(), piece.len());
        let mut file = fs::File::options()
            .append(true)
            .open(place.real("file"))
            .unwrap();
        std::io::Write::write_all(&mut file, &piece[..1_000]).unwrap();
        let rest: Vec<Bytes> = pieces.try_collect().await.unwrap();
        assert_eq!(rest.iter().map(Bytes::len).sum::<usize>(), 1_000);
        // Files of /proc tell a length of 0 and have content all the same.
        let version = StoragePath::parse("/proc/version").unwrap();
        assert!(
            !place
                .storage
                .read_small(&version, 4_096)
                .await
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            kind(place.storage.read_small(&version, 5).await),
            ErrorKind::TooLarge
        );
    }

    #[test]
    fn a_directory_without_rights_is_refused_and_never_reads_as_absent() {
        let place = Place::new();
        fs::create_dir_all(place.real("closed/sub")).unwrap();
        fs::write(place.real("closed/file"), "content").unwrap();
        let (dir, file) = (place.path("closed"), place.path("closed/file"));
        let missing = place.path("closed/missing");
        let abandoned = Abandoned::default();

        // Neither readable nor searchable.
        chmod(&place.real("closed"), 0);
        without_privileges(|| {
            for entry in [&file, &missing] {
                let kinds = [
                    look::stat(entry).unwrap_err().kind,
                    look::read_small(entry, 10).unwrap_err().kind,
                    Reading::open(entry).unwrap_err().kind,
                    change::touch(entry, false).unwrap_err().kind,
                    change::delete_file(entry, false).unwrap_err().kind,
                    change::create_dir(entry, false).unwrap_err().kind,
                    change::create_dir_all(&entry.join("deep"), false)
                        .unwrap_err()
                        .kind,
                ];
                assert_eq!(kinds, [ErrorKind::PermissionDenied; 7], "{entry}");
            }
            let identity = look::identify_dir(&dir).unwrap_err();
            assert_eq!(identity.kind, ErrorKind::PermissionDenied);
            let listing = look::list(&dir, Depth::Children, &abandoned).unwrap_err();
            assert_eq!(listing.kind, ErrorKind::PermissionDenied);
            // A tree with a part that cannot be listed has no listing.
            let listing = look::list(&place.path(""), Depth::Tree, &abandoned).unwrap_err();
            let shown = listing.at("list", &dir).to_string();
            assert!(shown.contains("permission denied"), "{shown}");
            assert!(shown.contains("closed"), "{shown}");
        });

        // Readable: names can be seen, what they are cannot, so that is no listing either.
        chmod(&place.real("closed"), 0o444);
        without_privileges(|| {
            let listing = look::list(&dir, Depth::Children, &abandoned).unwrap_err();
            assert_eq!(listing.kind, ErrorKind::PermissionDenied);
            let identity = look::identify_dir(&dir).unwrap_err();
            assert_eq!(identity.kind, ErrorKind::PermissionDenied);
        });

        // Searchable: entries can be asked for by name.
        chmod(&place.real("closed"), 0o111);
        without_privileges(|| {
            assert!(look::identify_dir(&dir).is_ok());
            assert!(look::stat(&file).is_ok());
            assert_eq!(look::stat(&missing).unwrap_err().kind, ErrorKind::NotFound);
            let listing = look::list(&dir, Depth::Children, &abandoned).unwrap_err();
            assert_eq!(listing.kind, ErrorKind::PermissionDenied);
        });
        chmod(&place.real("closed"), 0o755);
    }

    #[tokio::test]
    async fn a_rename_across_file_systems_is_refused() {
        let place = Place::new();
        fs::write(place.real("file"), "content").unwrap();
        // /proc is another file system on every Linux.
        let to = StoragePath::parse("/proc/self/task/stepdown").unwrap();
        let refused = place.storage.rename(&place.path("file"), &to).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unsupported, "{refused}");
        assert!(
            refused.to_string().contains("different file systems"),
            "{refused}"
        );
        assert!(refused.to_string().contains(to.as_str()), "{refused}");
        assert!(place.real("file").exists());
    }

    #[tokio::test]
    async fn owners_are_numbers() {
        let place = Place::new();
        fs::write(place.real("file"), "").unwrap();
        let own = fs::metadata(place.real("file")).unwrap();
        let file = place.path("file");
        let shown = place.storage.stat(&file).await.unwrap();
        assert_eq!(shown.owner.as_deref(), Some(own.uid().to_string().as_str()));
        let named = Attributes {
            owner: Some("hdfs".into()),
            mode: Some(0o600),
            ..Attributes::default()
        };
        let refused = place.storage.set_attributes(&file, &named).await;
        assert_eq!(kind(refused), ErrorKind::Unsupported);
        assert_eq!(place.storage.stat(&file).await.unwrap().mode, shown.mode);
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_no_absence() {
        let place = Place::new();
        let name = "x".repeat(256);
        let refused = place.storage.stat(&place.path(&name)).await;
        assert_eq!(kind(refused), ErrorKind::InvalidPath);
        let deep = place.path(&format!("{}x", "d/".repeat(3_000)));
        assert_eq!(
            kind(place.storage.stat(&deep).await),
            ErrorKind::InvalidPath
        );
        symlink("circle", place.real("circle")).unwrap();
        let circle = place.storage.stat(&place.path("circle/file")).await;
        assert_eq!(kind(circle), ErrorKind::InvalidPath);
    }
}
