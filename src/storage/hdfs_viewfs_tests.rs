//! Mount tables over storages in memory.

use crate::storage::conformance::{BelowFile, Capabilities, DirRename, Identities, run_all};
use crate::storage::memory::MemoryStorage;
use std::sync::Arc;

use super::*;

fn path(text: &str) -> StoragePath {
    StoragePath::parse(text).unwrap()
}

/// `/data` and `/deep/er/user` are mounted; the rest falls back to `/all` of the first storage.
async fn view(with_fallback: bool) -> (ViewfsStorage, MemoryStorage, MemoryStorage) {
    let (one, two) = (MemoryStorage::new("one"), MemoryStorage::new("two"));
    for dir in ["/all/deep/there", "/in/put"] {
        one.create_dir_all(&path(dir)).await.unwrap();
    }
    two.create_dir_all(&path("/user")).await.unwrap();
    let mount = |at, storage: &MemoryStorage, target| Mount {
        at: path(at),
        storage: Arc::new(storage.clone()),
        target: path(target),
    };
    let mounts = vec![
        mount("/data", &one, "/in/put"),
        mount("/deep/er/user", &two, "/user"),
    ];
    let fallback = with_fallback.then(|| mount("/", &one, "/all"));
    (
        ViewfsStorage::new("c".to_owned(), mounts, fallback),
        one,
        two,
    )
}

async fn names(storage: &ViewfsStorage, dir: &str, depth: Depth) -> Vec<String> {
    let listed = storage.list(&path(dir), depth).await.unwrap();
    listed
        .into_iter()
        .map(|entry| entry.path.to_string())
        .collect()
}

#[tokio::test]
async fn paths_are_rewritten_there_and_back() {
    let (view, one, two) = view(true).await;
    view.touch(&path("/data/a b")).await.unwrap();
    view.touch(&path("/deep/er/user/u")).await.unwrap();
    view.touch(&path("/elsewhere")).await.unwrap();
    assert!(one.stat(&path("/in/put/a b")).await.is_ok());
    assert!(two.stat(&path("/user/u")).await.is_ok());
    assert!(one.stat(&path("/all/elsewhere")).await.is_ok());
    assert_eq!(
        view.stat(&path("/data/a b")).await.unwrap().path,
        path("/data/a b")
    );
    assert_eq!(names(&view, "/data", Depth::Children).await, ["/data/a b"]);
    // `/database` does not lie in `/data`.
    let error = view.stat(&path("/database")).await.unwrap_err();
    assert_eq!(
        (error.kind, error.uri.to_string().as_str()),
        (ErrorKind::NotFound, "viewfs://c/database")
    );
    let error = view.read_small(&path("/data/none"), 1).await.unwrap_err();
    assert_eq!(error.uri.to_string(), "viewfs://c/data/none");
}

#[tokio::test]
async fn mount_points_show_and_cannot_be_changed() {
    let (view, ..) = view(true).await;
    assert_eq!(names(&view, "/", Depth::Children).await, ["/data", "/deep"]);
    assert_eq!(
        names(&view, "/deep", Depth::Children).await,
        ["/deep/er", "/deep/there"]
    );
    assert_eq!(
        names(&view, "/", Depth::Tree).await,
        ["/data", "/deep", "/deep/er", "/deep/er/user", "/deep/there"]
    );
    assert_eq!(
        view.stat(&path("/deep/er")).await.unwrap().kind,
        FileKind::Dir
    );
    assert!(view.identify_dir(&path("/deep/er")).await.is_ok());
    assert!(view.identify_dir(&path("/data")).await.is_ok());
    let kind = |error: StorageError| error.kind;
    assert_eq!(
        view.touch(&path("/deep/er")).await.map_err(kind),
        Err(ErrorKind::IsADirectory)
    );
    assert_eq!(
        view.create_dir(&path("/deep")).await.map_err(kind),
        Err(ErrorKind::AlreadyExists)
    );
    assert_eq!(
        view.create_dir_all(&path("/deep/er")).await.map_err(kind),
        Ok(())
    );
    let to_other = view
        .rename(&path("/data/x"), &path("/deep/er/user/x"))
        .await;
    assert_eq!(to_other.map_err(kind), Err(ErrorKind::Unsupported));
    let mount_point = view.rename(&path("/data"), &path("/x")).await;
    assert_eq!(mount_point.map_err(kind), Err(ErrorKind::PermissionDenied));
}

#[tokio::test]
async fn without_a_fallback_there_is_nothing_else() {
    let (view, ..) = view(false).await;
    assert_eq!(names(&view, "/", Depth::Children).await, ["/data", "/deep"]);
    let error = view.stat(&path("/other")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(
        view.delete_file(&path("/other")).await.unwrap(),
        Removal::Absent
    );
    let error = view.touch(&path("/other")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_mount_keeps_all_promises() {
    let (view, one, _) = view(true).await;
    one.run_clock_with_tokio();
    let capabilities = Capabilities {
        identities: Identities::Tell,
        below_file: BelowFile::NotADirectory,
        dir_rename: DirRename::Atomic,
        name_bytes: 255,
    };
    for root in ["/data/conformance", "/conformance"] {
        let report = run_all(&view, &path(root), capabilities).await;
        let report = report.unwrap_or_else(|failure| panic!("{failure}: {:?}", failure.source));
        assert!(report.promises >= 38, "{report:?}");
    }
}

#[tokio::test]
async fn the_epoch_grows_with_each_target() {
    let (view, one, two) = view(true).await;
    let before = view.epoch();
    one.set_epoch(1);
    let between = view.epoch();
    two.set_epoch(1);
    assert!(before < between && between < view.epoch());
}
