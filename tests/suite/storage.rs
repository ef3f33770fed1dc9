//! The promises of the storage trait, for every adapter and decorator that needs no server.

use std::time::Duration;

use stepdown::storage::conformance::{
    BelowFile, Capabilities, DirRename, Identities, Report, run_all,
};
use stepdown::storage::faulty::{FaultScript, Faulty};
use stepdown::storage::local::{LocalOptions, LocalStorage};
use stepdown::storage::memory::MemoryStorage;
use stepdown::storage::timeout::WithTimeout;
use stepdown::storage::{Storage, StoragePath};

const FULL: Capabilities = Capabilities {
    identities: Identities::Tell,
    below_file: BelowFile::NotADirectory,
    dir_rename: DirRename::Atomic,
    name_bytes: 255,
};

/// Longer than any call here takes on a busy machine, and short enough to end a hung test.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

async fn conforms(storage: impl Storage, root: &str, capabilities: Capabilities) -> Report {
    let root = StoragePath::parse(root).expect("a path");
    let outcome = run_all(&storage, &root, capabilities).await;
    outcome.unwrap_or_else(|failure| panic!("{failure}: {:?}", failure.source))
}

/// The storage keeps all promises, and none was left out.
async fn keeps_all(storage: impl Storage, root: &str, capabilities: Capabilities) {
    let report = conforms(storage, root, capabilities).await;
    assert_eq!(report.promises, 40);
    assert!(report.checks > 4_500, "{report:?}");
}

async fn keeps_all_locally(storage: impl Storage) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let root = dir.path().to_str().expect("a path in UTF-8");
    keeps_all(storage, root, FULL).await;
}

fn local(fsync: bool) -> LocalStorage {
    LocalStorage::new(LocalOptions { fsync })
}

#[tokio::test]
async fn memory() {
    keeps_all(MemoryStorage::new("m"), "/some/root", FULL).await;
}

#[tokio::test]
async fn memory_without_identities() {
    let capabilities = Capabilities {
        identities: Identities::None,
        ..FULL
    };
    keeps_all(
        MemoryStorage::without_identities("m"),
        "/some/root",
        capabilities,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_with_fsync() {
    keeps_all_locally(local(true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_without_fsync() {
    keeps_all_locally(local(false)).await;
}

#[tokio::test]
async fn time_outs_around_memory() {
    let storage = WithTimeout::new(MemoryStorage::new("m"), CALL_TIMEOUT);
    keeps_all(storage, "/some/root", FULL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_outs_around_local() {
    keeps_all_locally(WithTimeout::new(local(true), CALL_TIMEOUT)).await;
}

#[tokio::test]
async fn no_faults_around_memory() {
    let storage = Faulty::new(MemoryStorage::new("m"), FaultScript::new());
    keeps_all(storage, "/some/root", FULL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_faults_around_local() {
    keeps_all_locally(Faulty::new(local(false), FaultScript::new())).await;
}
