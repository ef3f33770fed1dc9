//! Copies of all samples: whole, sound, with a manifest that is true, made once.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stepdown::checkpoint::copy::{
    Check, CopyError, CopyReport, CopyRequest, Damage, Existing, Place, copy,
};
use stepdown::checkpoint::finding::Finding;
use stepdown::checkpoint::manifest::Manifest;
use stepdown::checkpoint::target::At;
use stepdown::checkpoint::verify::{Thoroughness, Verdict, VerifyOptions, verify};
use stepdown::model::BatchId;
use stepdown::storage::StoragePath;
use stepdown::storage::local::{LocalOptions, LocalStorage};
use stepdown::storage::memory::MemoryStorage;
use tokio_util::sync::CancellationToken;

use super::samples::{Sample, table};
use crate::common::copyist::copyist;

fn place(path: &Path) -> Place {
    Place {
        storage: Arc::new(LocalStorage::new(LocalOptions { fsync: false })),
        path: StoragePath::parse(path.to_str().unwrap()).unwrap(),
    }
}

fn request(from: &Path, to: &Path) -> CopyRequest {
    CopyRequest {
        check: Check::ReadBack,
        ..CopyRequest::new(place(from), place(to), At::Planned)
    }
}

const TTL: Duration = Duration::from_secs(5);

async fn run(request: &CopyRequest) -> Result<CopyReport, CopyError> {
    copy(
        request,
        &copyist(TTL).unwrap(),
        &|_| (),
        &CancellationToken::new(),
    )
    .await
}

/// All files below `dir/below`, relative to `dir`.
fn files_in(dir: &Path, below: &str) -> Vec<String> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.join(below)];
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else {
                let relative = entry.path().strip_prefix(dir).unwrap().to_owned();
                files.push(relative.into_os_string().into_string().unwrap());
            }
        }
    }
    files.sort();
    files
}

/// Every file of the manifest is there with its digest, and no other but the manifest.
fn assert_manifest_is_true(dir: &Path, manifest: &Manifest) {
    let found = files_in(dir, "").len();
    assert_eq!(found, manifest.files.len() + 1, "{}", dir.display());
    for file in &manifest.files {
        let content = std::fs::read(dir.join(&file.path)).unwrap();
        assert_eq!(content.len() as u64, file.bytes, "{}", file.path);
        assert_eq!(
            blake3::hash(&content).to_hex().as_str(),
            file.blake3,
            "{}",
            file.path
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_is_copied_whole_or_refused_with_its_findings() {
    let (mut copied, mut refused) = (0, 0);
    for row in table() {
        let name = row.get("archive");
        let sample = Sample::unpack(name);
        let target = tempfile::tempdir().unwrap();
        let destination = target.path().join("copy");
        let request = request(&sample.path(""), &destination);
        match run(&request).await {
            Ok(report) => {
                copied += 1;
                let manifest = Manifest::load(
                    request.destination.storage.as_ref(),
                    &request.destination.path,
                );
                let manifest = manifest.await.unwrap().unwrap();
                assert_eq!(manifest.copy_id, report.copy_id);
                assert_manifest_is_true(&destination, &manifest);
                // The work directory is gone, and a second copy is refused.
                assert_eq!(
                    std::fs::read_dir(target.path()).unwrap().count(),
                    1,
                    "{name}"
                );
                assert!(
                    matches!(run(&request).await, Err(CopyError::Exists { .. })),
                    "{name}"
                );
            }
            Err(CopyError::Damaged { findings, .. }) => {
                refused += 1;
                assert!(!findings.is_empty());
                assert!(name.contains("damaged"), "{name}: {findings:?}");
                assert!(!destination.exists(), "{name}");
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    assert_eq!(
        (copied + refused, copied > 15, refused > 2),
        (22, true, true),
        "{copied} {refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_file_that_was_cut_is_never_copied_as_a_sound_one() {
    let (mut copied, mut refused, mut forced) = (0, 0, 0);
    for name in [
        "3.5.9-agg-hdfs-clean",
        "3.3.4-join-hdfs-clean",
        "4.0.5-agg-rocksdbcl-inflight",
        "4.0.5-agg-rocksdb-clean",
        "4.0.5-agg-v2-clean",
    ] {
        let sample = Sample::unpack(name);
        let source = sample.path("");
        for file in files_in(&source, "state") {
            let path = source.join(&file);
            let whole = std::fs::read(&path).unwrap();
            for len in [5, whole.len().saturating_sub(1)] {
                std::fs::write(&path, &whole[..len.min(whole.len())]).unwrap();
                let mut request = request(&source, Path::new("/copy"));
                // Several hundred copies: what is looked at is what is read, not where it goes.
                request.destination.storage = Arc::new(MemoryStorage::new("m"));
                let options = VerifyOptions::in_place(Thoroughness::Quick);
                let storage = Arc::clone(&request.destination.storage);
                let at = request.destination.path.clone();
                match run(&request).await {
                    Ok(_) => {
                        copied += 1;
                        let verified = verify(storage.as_ref(), &at, options).await.unwrap();
                        let verdict = verified.verdict;
                        assert_ne!(
                            verdict,
                            Verdict::Damaged,
                            "{name} {file} {len}: {verified:?}"
                        );
                    }
                    Err(CopyError::Damaged { findings, .. }) => {
                        refused += 1;
                        let shown = request.destination.exists().await.unwrap();
                        assert!(!shown, "{name} {file} {len}");
                        // Overruled it is said, and kept in the manifest.
                        request.damage = Damage::Accept;
                        let report = run(&request).await.unwrap();
                        let is_told = |found: &Finding| report.problems.contains(found);
                        assert!(
                            findings.iter().all(is_told),
                            "{name} {file} {len}: {report:?}"
                        );
                        let manifest = Manifest::load(storage.as_ref(), &at).await;
                        let manifest = manifest.unwrap().unwrap();
                        assert!(manifest.forced && !manifest.problems.is_empty());
                        forced += 1;
                    }
                    Err(error) => panic!("{name} {file} {len}: {error}"),
                }
            }
            std::fs::write(&path, &whole).unwrap();
        }
    }
    println!("{copied} sound copies, {refused} refused, {forced} of them forced");
    assert!(
        refused > 100 && copied > 20 && forced == refused,
        "{copied} {refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_cut_short_goes_on_where_it_was() {
    let sample = Sample::unpack("3.5.9-agg-hdfs-clean");
    let target = tempfile::tempdir().unwrap();
    let destination = target.path().join("copy");
    let request = request(&sample.path(""), &destination);
    let stopped = CancellationToken::new();
    stopped.cancel();
    let cut = copy(&request, &copyist(TTL).unwrap(), &|_| (), &stopped).await;
    assert!(matches!(cut, Err(CopyError::Interrupted { .. })), "{cut:?}");
    assert!(!destination.exists());
    let report = run(&request).await.unwrap();
    assert_eq!(report.copied.files, report.total.files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_the_id_of_a_copy_that_stands_clears_what_was_left_beside_it() {
    let sample = Sample::unpack("3.5.9-agg-hdfs-clean");
    let target = tempfile::tempdir().unwrap();
    let destination = target.path().join("copy");
    let purpose = target.path().join(".copy.stepdown-copy/purpose.json");
    let mut request = request(&sample.path(""), &destination);
    request.copy_id = Some(uuid::Uuid::new_v4());
    let kept = std::sync::Mutex::new(Vec::new());
    let events = |_| {
        if let Ok(content) = std::fs::read(&purpose) {
            *kept.lock().unwrap() = content;
        }
    };
    let made = copy(
        &request,
        &copyist(TTL).unwrap(),
        &events,
        &CancellationToken::new(),
    )
    .await;
    let made = made.unwrap();
    std::fs::create_dir_all(purpose.parent().unwrap()).unwrap();
    std::fs::write(&purpose, &*kept.lock().unwrap()).unwrap();
    let again = run(&request).await.unwrap();
    assert_eq!((again.copy_id, again.copied.files), (made.copy_id, 0));
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewound_copy_ends_at_its_batch() {
    let sample = Sample::unpack("3.5.9-agg-hdfs-inflight");
    let target = tempfile::tempdir().unwrap();
    let destination = target.path().join("copy");
    let mut request = request(&sample.path(""), &destination);
    request.at = At::Batch(BatchId(5));
    let report = run(&request).await.unwrap();
    assert_eq!(report.last_committed_batch, Some(BatchId(5)));
    for (path, there) in [
        ("offsets/5", true),
        ("offsets/6", false),
        ("commits/6", false),
        ("state/0/0/6.delta", true),
        ("state/0/0/7.delta", false),
    ] {
        assert_eq!(destination.join(path).exists(), there, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_at_the_destination_is_moved_aside() {
    let sample = Sample::unpack("3.5.9-agg-hdfs-clean");
    let target = tempfile::tempdir().unwrap();
    let destination = target.path().join("copy");
    std::fs::create_dir(&destination).unwrap();
    std::fs::write(destination.join("mine"), "x").unwrap();
    let mut request = request(&sample.path(""), &destination);
    request.existing = Existing::MoveAside;
    let report = run(&request).await.unwrap();
    let aside = report.moved_aside.unwrap();
    assert!(Path::new(aside.path.as_str()).join("mine").exists());
    assert!(destination.join("metadata").exists());
}
