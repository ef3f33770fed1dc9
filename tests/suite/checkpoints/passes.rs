//! Passes of `sync` in a storage that counts its calls and fails as it is told.

use std::sync::Arc;
use std::time::Duration;

use stepdown::checkpoint::copy::{CopyError, CopyReport, CopyRequest, Place, SyncedCopy, copy};
use stepdown::checkpoint::manifest::Manifest;
use stepdown::checkpoint::plan::{Scope, Tally};
use stepdown::checkpoint::target::At;
use stepdown::control::LeaseError;
use stepdown::model::AttemptId;
use stepdown::storage::faulty::{Fault, FaultScript, Faulty, Operation, When};
use stepdown::storage::memory::MemoryStorage;
use stepdown::storage::{CreateMode, Depth, ErrorKind, FileKind, Storage, StoragePath};
use tokio_util::sync::CancellationToken;

use crate::common::checkpoint_tree::{self as trees, Shape};
use crate::common::copyist::copyist;

const SHAPE: Shape = Shape {
    batches: 40,
    partitions: 6,
    snapshot_each: 0,
};
const TTL: Duration = Duration::from_secs(3);

fn path(text: &str) -> StoragePath {
    StoragePath::parse(text).unwrap()
}

/// A checkpoint in memory, and a place for its copy behind a script of faults.
struct Lab {
    memory: MemoryStorage,
    script: FaultScript,
    request: CopyRequest,
    batches: u64,
}

impl Lab {
    async fn new() -> Self {
        let memory = MemoryStorage::new("lab");
        let script = FaultScript::new();
        let place = |storage: Arc<dyn Storage>, at| Place {
            storage,
            path: path(at),
        };
        let source = place(Arc::new(memory.clone()), "/ck");
        let destination = place(Arc::new(Faulty::new(memory.clone(), script.clone())), "/c");
        let request = CopyRequest {
            scope: Scope::Full,
            ..CopyRequest::new(source, destination, At::Planned)
        };
        let mut lab = Self {
            memory,
            script,
            request,
            batches: 0,
        };
        lab.put("metadata", trees::metadata().1).await;
        lab.run_batches(SHAPE.batches).await;
        lab
    }

    async fn put(&self, relative: &str, content: Vec<u8>) {
        let path = path(&format!("/ck/{relative}"));
        let parent = path.parent().unwrap();
        self.memory.create_dir_all(&parent).await.unwrap();
        self.memory.put(&path, content).unwrap();
    }

    async fn run_batches(&mut self, count: u64) {
        for batch in self.batches..self.batches + count {
            for (name, content) in trees::batch_files(SHAPE, batch) {
                self.put(&name, content).await;
            }
        }
        self.batches += count;
    }

    /// As another process: nothing is known but what the work directory says.
    async fn open(&self) -> Result<SyncedCopy, CopyError> {
        SyncedCopy::open(self.request.clone(), &copyist(TTL).unwrap()).await
    }

    async fn pass(&self) -> Tally {
        let mut copy = self.open().await.unwrap();
        let copied = copy.pass(&|_| (), &CancellationToken::new()).await;
        copy.close(false).await;
        copied.unwrap().copied
    }

    async fn finish(&self) -> Tally {
        let mut copy = self.open().await.unwrap();
        let report = copy.finish(&|_| (), &CancellationToken::new()).await;
        copy.close(report.is_ok()).await;
        self.assert_whole().await;
        report.unwrap().copied
    }

    /// The copy has the files of the source with their content, and no others; its manifest says so.
    async fn assert_whole(&self) {
        let files = async |dir: &str| {
            let dir = path(dir);
            let mut files = Vec::new();
            for entry in self.memory.list(&dir, Depth::Tree).await.unwrap() {
                let relative = entry.path.relative_to(&dir).unwrap().to_owned();
                if entry.kind == FileKind::File && relative != ".stepdown-manifest.json" {
                    let content = self.memory.read_small(&entry.path, 1 << 20).await.unwrap();
                    files.push((relative, blake3::hash(&content).to_hex().to_string()));
                }
            }
            files
        };
        let copied = files("/c").await;
        assert_eq!(copied, files("/ck").await);
        let manifest = Manifest::load(&self.memory, &path("/c")).await;
        let manifest = manifest.unwrap().unwrap();
        let named: Vec<_> = manifest
            .files
            .into_iter()
            .map(|f| (f.path, f.blake3))
            .collect();
        assert_eq!(copied, named);
    }
}

const TREE: &str = "/.c.stepdown-copy/tree";

#[tokio::test]
async fn the_last_pass_does_not_look_at_what_an_earlier_one_has_seen() {
    let mut costs = Vec::new();
    for more in [0, 200] {
        let mut lab = Lab::new().await;
        lab.run_batches(more).await;
        lab.pass().await;
        lab.run_batches(1).await;
        lab.script.reset_counts();
        let copied = lab.finish().await;
        assert_eq!(copied.files, SHAPE.partitions + 2);
        let stores = (0..SHAPE.partitions).map(|p| format!("state/0/{p}"));
        for dir in stores.chain(["offsets".to_owned(), "commits".to_owned()]) {
            let dir = path(&format!("{TREE}/{dir}"));
            assert_eq!(lab.script.calls_at(Operation::List, &dir), 0, "{dir}");
        }
        assert_eq!(lab.script.calls_at(Operation::List, &path(TREE)), 1);
        costs.push(lab.script.all_calls());
    }
    assert_eq!(costs.first(), costs.last(), "calls of storage");
}

#[tokio::test]
async fn what_is_taken_from_the_tree_between_two_passes_is_copied_again() {
    let mut lab = Lab::new().await;
    lab.pass().await;
    let taken = path(&format!("{TREE}/state/0/3/7.delta"));
    lab.memory.remove(&taken).unwrap();
    let foreign = path(&format!("{TREE}/state/0/4/foreign"));
    lab.memory.put(&foreign, "x").unwrap();
    lab.run_batches(1).await;
    assert_eq!(lab.finish().await.files, SHAPE.partitions + 2 + 1);
}

#[tokio::test]
async fn a_file_that_leaves_the_plan_and_comes_back_is_copied_again() {
    let lab = Lab::new().await;
    lab.put("foreign/file", b"as it was".to_vec()).await;
    let before = lab.memory.stat(&path("/ck/foreign/file")).await.unwrap();
    lab.pass().await;
    let aside = path("/aside");
    lab.memory
        .rename(&path("/ck/foreign/file"), &aside)
        .await
        .unwrap();
    assert_eq!(lab.pass().await, Tally::default());
    // With the very time stamp that the journal knows.
    lab.memory
        .rename(&aside, &path("/ck/foreign/file"))
        .await
        .unwrap();
    let after = lab.memory.stat(&path("/ck/foreign/file")).await.unwrap();
    assert_eq!(after, before);
    assert_eq!(lab.finish().await.files, 1);
}

#[tokio::test]
async fn a_pass_that_was_cut_short_leaves_nothing_unseen() {
    for last in 0..60 {
        let mut lab = Lab::new().await;
        lab.pass().await;
        lab.run_batches(1).await;
        // A batch that was run again: same names, other content.
        lab.put(
            "state/0/2/40.delta",
            trees::batch_files(SHAPE, 99)[3].1.clone(),
        )
        .await;
        let mut copy = lab.open().await.unwrap();
        let when = When::always().after(last);
        lab.script
            .inject(when, Fault::Refuse(ErrorKind::PermissionDenied));
        let passed = copy.pass(&|_| (), &CancellationToken::new()).await;
        lab.script.clear();
        copy.close(false).await;
        let again = lab.finish().await;
        assert!(again.files <= SHAPE.partitions + 3, "{last}: {again:?}");
        if passed.is_ok() {
            assert_eq!(again, Tally::default());
            return;
        }
    }
    panic!("the pass never came to its end");
}

async fn copy_now(request: &CopyRequest) -> Result<CopyReport, CopyError> {
    let (copyist, never) = (copyist(TTL).unwrap(), CancellationToken::new());
    copy(request, &copyist, &|_| (), &never).await
}

/// A copy that takes longer than its lease lasts, its request, and the beats of the lease.
async fn slow_copy() -> (Lab, CopyRequest, When) {
    let lab = Lab::new().await;
    lab.memory.run_clock_with_tokio();
    let tree = When::on(Operation::Create).within(&path(TREE));
    lab.script
        .inject(tree, Fault::Delay(Duration::from_secs(2)));
    let beats = When::on(Operation::Touch).within(&path("/.c.stepdown-copy/lease"));
    let mut request = lab.request.clone();
    request.pace.small_at_once = 16;
    (lab, request, beats)
}

#[tokio::test(start_paused = true)]
async fn a_beat_that_comes_late_does_not_end_a_copy() {
    let (lab, request, beats) = slow_copy().await;
    // Touches time out for three times as long as the lease lasts.
    let slow = Fault::Delay(Duration::from_secs(1));
    lab.script.inject(beats.clone().times(1), slow);
    lab.script
        .inject(beats.times(9), Fault::Refuse(ErrorKind::TimedOut));
    let report = copy_now(&request).await;
    report.unwrap();
    lab.assert_whole().await;
    assert!(lab.script.calls(Operation::Touch) > 10, "the beats failed");
}

#[tokio::test(start_paused = true)]
async fn a_copy_whose_lease_was_taken_meanwhile_writes_nothing_more() {
    let (lab, request, beats) = slow_copy().await;
    lab.script
        .inject(beats.times(9), Fault::Refuse(ErrorKind::TimedOut));
    let memory = lab.memory.clone();
    let other = tokio::spawn(async move {
        // By then the lease has been silent for its time to live.
        tokio::time::sleep(TTL + Duration::from_secs(1)).await;
        let next = path("/.c.stepdown-copy/lease/2");
        let writer = memory.create(&next, CreateMode::New).await.unwrap();
        writer.finish().await.unwrap();
        memory.list(&path(TREE), Depth::Tree).await.unwrap().len()
    });
    let report = copy_now(&request).await;
    assert!(
        matches!(report, Err(CopyError::Lease(LeaseError::Lost { .. }))),
        "{report:?}"
    );
    let then = other.await.unwrap();
    let now = lab
        .memory
        .list(&path(TREE), Depth::Tree)
        .await
        .unwrap()
        .len();
    assert_eq!(now, then);
    assert!(lab.memory.stat(&path("/c")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_never_answers_again_ends_a_copy() {
    let (lab, request, beats) = slow_copy().await;
    lab.script.inject(beats, Fault::Refuse(ErrorKind::TimedOut));
    let begun = tokio::time::Instant::now();
    let report = copy_now(&request).await;
    assert!(
        matches!(report, Err(CopyError::CutShort { .. })),
        "{report:?}"
    );
    assert!(begun.elapsed() < TTL * 20, "{:?}", begun.elapsed());
    // Its lease could not be given back; its process has ended, and another goes on.
    lab.script.clear();
    let mut next = copyist(TTL).unwrap();
    next.policy.owner_has_ended = |_: &AttemptId| true;
    let report = copy(&request, &next, &|_| (), &CancellationToken::new()).await;
    report.unwrap();
    lab.assert_whole().await;
}
