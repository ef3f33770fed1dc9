//! Checkpoints that change while they are read, and storages that cannot answer.

use std::sync::Arc;

use stepdown::checkpoint::CheckpointError;
use stepdown::checkpoint::contents::Contents;
use stepdown::checkpoint::copy::{CopyRequest, Place, plan_now};
use stepdown::checkpoint::finding::Code;
use stepdown::checkpoint::inspect::{QueryState, inspect};
use stepdown::checkpoint::load::load_contents;
use stepdown::checkpoint::plan::{PlanOptions, Scope, plan_copy};
use stepdown::checkpoint::progress::load_progress;
use stepdown::checkpoint::target::At;
use stepdown::checkpoint::verify::{Thoroughness, Verdict, VerifyOptions, verify};
use stepdown::model::BatchId;
use stepdown::storage::faulty::{Fault, FaultScript, Faulty, Operation, When};
use stepdown::storage::local::LocalStorage;
use stepdown::storage::{ErrorKind, Storage, StoragePath};

use super::samples::Sample;

/// A sample behind a script of faults.
struct Scripted {
    sample: Sample,
    storage: Faulty<LocalStorage>,
    script: FaultScript,
}

impl Scripted {
    fn unpack(name: &str) -> Self {
        let sample = Sample::unpack(name);
        let script = FaultScript::new();
        Self {
            storage: Faulty::new(sample.storage.clone(), script.clone()),
            sample,
            script,
        }
    }

    fn path(&self, relative: &str) -> StoragePath {
        let parts = relative.split('/').filter(|part| !part.is_empty());
        parts.fold(self.sample.dir.clone(), |path, part| path.join(part))
    }

    /// The nth listing of `dir` does not have the batches from `from` on yet.
    fn lag(&self, dir: &str, nth: u64, from: u64) {
        let names = (from..from + 100).map(|batch| batch.to_string()).collect();
        let when = When::on(Operation::List).at(&self.path(dir)).nth(nth);
        self.script.inject(when, Fault::ListWithout(names));
    }

    async fn load(&self) -> Contents {
        load_contents(&self.storage, &self.sample.dir, At::Planned)
            .await
            .unwrap()
    }
}

fn last(contents: &Contents) -> (Option<u64>, Option<u64>) {
    let number = |batch: Option<BatchId>| batch.map(|batch| batch.0);
    (
        number(contents.offsets.newest()),
        number(contents.commits.newest()),
    )
}

#[tokio::test]
async fn batches_that_end_between_two_listings_are_seen_whole() {
    let scripted = Scripted::unpack("3.5.9-filesource-hdfs-clean");
    scripted.lag("commits", 1, 20);
    let contents = scripted.load().await;
    assert_eq!(last(&contents), (Some(24), Some(24)));
    assert_eq!(
        inspect(&contents, jiff::Timestamp::now()).state,
        QueryState::Clean
    );
}

#[tokio::test]
async fn a_query_faster_than_the_listings_is_cut_at_one_batch() {
    let scripted = Scripted::unpack("3.5.9-filesource-hdfs-clean");
    for (nth, from) in [(1, 5), (2, 9), (3, 13), (4, 17)] {
        scripted.lag("commits", nth, from);
    }
    let contents = scripted.load().await;
    // Commit 16 is the newest seen; batch 17 is taken as in flight, whatever came after.
    assert_eq!(last(&contents), (Some(17), Some(16)));
    let options = PlanOptions {
        at: At::Planned,
        scope: Scope::Minimal,
        destination: "file:/x",
        new_query_id: None,
    };
    let plan = plan_copy(&contents, &options).unwrap();
    assert_eq!(plan.target.state_version, 17);
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);
}

#[tokio::test]
async fn a_real_skew_stays_one() {
    let scripted = Scripted::unpack("3.5.9-agg-hdfs-clean");
    for batch in 5..=8 {
        std::fs::remove_file(scripted.sample.path(&format!("commits/{batch}"))).unwrap();
    }
    let contents = scripted.load().await;
    assert_eq!(last(&contents), (Some(8), Some(4)));
    let report = inspect(&contents, jiff::Timestamp::now());
    assert_eq!(report.state, QueryState::Skewed);
    assert_eq!(report.findings[0].code, Code::LogSkew);
}

#[tokio::test]
async fn a_file_that_is_purged_meanwhile_makes_verify_look_again() {
    let scripted = Scripted::unpack("3.5.9-agg-hdfs-clean");
    let delta = scripted.path("state/0/1/4.delta");
    let when = When::on(Operation::OpenRead).at(&delta).nth(1);
    scripted
        .script
        .inject(when, Fault::Refuse(ErrorKind::NotFound));
    let dir = &scripted.sample.dir;
    let verification = verify(
        &scripted.storage,
        dir,
        VerifyOptions::in_place(Thoroughness::Quick),
    )
    .await
    .unwrap();
    assert_eq!(
        verification.verdict,
        Verdict::Sound,
        "{:?}",
        verification.findings
    );
    assert_eq!(scripted.script.faults(), 1);
    assert_eq!(scripted.script.calls_at(Operation::OpenRead, &delta), 2);
}

#[tokio::test]
async fn damage_seen_while_batches_end_is_looked_at_again() {
    let scripted = Scripted::unpack("3.5.9-agg-hdfs-clean");
    // The first picture: batch 7 is the newest, and purging has just taken a delta of its chain.
    scripted.lag("offsets", 1, 8);
    scripted.lag("commits", 1, 8);
    let purged = vec!["1.delta".to_owned()];
    let when = When::on(Operation::List).at(&scripted.path("state")).nth(1);
    scripted.script.inject(when, Fault::ListWithout(purged));
    let options = VerifyOptions::in_place(Thoroughness::Quick);
    let verification = verify(&scripted.storage, &scripted.sample.dir, options)
        .await
        .unwrap();
    assert_eq!(scripted.script.faults(), 3);
    assert_eq!(
        verification.verdict,
        Verdict::Sound,
        "{:?}",
        verification.findings
    );
    assert_eq!(verification.last_committed_batch, Some(BatchId(8)));
}

#[tokio::test]
async fn a_log_that_is_purged_under_the_first_plan_of_a_copy_is_no_damage() {
    for (path, at) in [
        ("offsets/8", At::Planned),
        ("commits/7", At::Batch(BatchId(7))),
    ] {
        let scripted = Scripted::unpack("3.5.9-agg-hdfs-clean");
        let log = scripted.path(path);
        let when = When::on(Operation::ReadSmall).at(&log).nth(1);
        let fault = Fault::Refuse(ErrorKind::NotFound);
        scripted.script.inject(when, fault);
        let place = |storage: Arc<dyn Storage>, path: StoragePath| Place { storage, path };
        let dir = scripted.sample.dir.clone();
        let beside = dir.with_suffix("-copy");
        let local = Arc::new(scripted.sample.storage.clone());
        let source = place(Arc::new(scripted.storage), dir);
        let request = CopyRequest::new(source, place(local, beside), at);
        let (_, plan) = plan_now(&request).await.unwrap();
        assert_eq!(plan.problems, [], "{path}");
        assert_eq!(scripted.script.faults(), 1, "{path}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_never_called_sound() {
    for path in ["state/0/1/25.snapshot", "sources/0/19.compact"] {
        let scripted = Scripted::unpack("3.5.9-filesource-hdfs-clean");
        let when = When::on(Operation::OpenRead).at(&scripted.path(path));
        scripted
            .script
            .inject(when, Fault::Refuse(ErrorKind::NotFound));
        let options = VerifyOptions::in_place(Thoroughness::Quick);
        let verification = verify(&scripted.storage, &scripted.sample.dir, options)
            .await
            .unwrap();
        assert_eq!(verification.verdict, Verdict::Damaged);
        assert_eq!(verification.findings[0].path, path);
        assert_eq!(scripted.script.faults(), 3, "it looks three times");
    }
}

#[tokio::test]
async fn a_commit_that_is_purged_meanwhile_is_a_problem_of_the_plan() {
    let scripted = Scripted::unpack("3.5.9-agg-hdfs-clean");
    let when = When::on(Operation::ReadSmall).at(&scripted.path("commits/8"));
    scripted
        .script
        .inject(when, Fault::Refuse(ErrorKind::NotFound));
    let report = inspect(&scripted.load().await, jiff::Timestamp::now());
    assert!(!report.copy.possible);
    assert!(
        report.copy.because[0].contains("vanished"),
        "{:?}",
        report.copy.because
    );
}

#[tokio::test]
async fn what_could_not_be_read_is_an_error_and_not_an_absence() {
    let reads = ["metadata", "commits/8", "offsets/8", "offsets/7"];
    let listings = ["", "commits", "offsets", "sources", "state"];
    let cases = reads
        .map(|path| (Operation::ReadSmall, path))
        .into_iter()
        .chain(listings.map(|path| (Operation::List, path)));
    for (operation, path) in cases {
        for kind in [
            ErrorKind::PermissionDenied,
            ErrorKind::TimedOut,
            ErrorKind::Standby,
        ] {
            let scripted = Scripted::unpack("3.5.9-agg-hdfs-clean");
            let when = When::on(operation).at(&scripted.path(path));
            scripted.script.inject(when, Fault::Refuse(kind));
            let dir = &scripted.sample.dir;
            let loaded = load_contents(&scripted.storage, dir, At::Planned).await;
            match loaded {
                Err(CheckpointError::Storage(e)) => assert_eq!(e.kind, kind, "{path}"),
                other => panic!("{operation:?} {path}: {:?}", other.map(|c| c.location)),
            }
            if matches!(path, "" | "metadata" | "commits" | "offsets") {
                let progress = load_progress(&scripted.storage, dir).await;
                assert!(
                    matches!(progress, Err(CheckpointError::Storage(_))),
                    "{path}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_missing_directory_is_told_from_an_empty_one() {
    let sample = Sample::unpack("3.5.9-agg-hdfs-clean");
    let missing = sample.dir.join("nothing");
    let loaded = load_contents(&sample.storage, &missing, At::Planned).await;
    assert!(matches!(loaded, Err(CheckpointError::Missing { .. })));
    let progress = load_progress(&sample.storage, &missing).await;
    assert!(matches!(progress, Err(CheckpointError::Missing { .. })));
    std::fs::create_dir(sample.path("nothing")).unwrap();
    let contents = load_contents(&sample.storage, &missing, At::Planned)
        .await
        .unwrap();
    assert_eq!(
        inspect(&contents, jiff::Timestamp::now()).state,
        QueryState::Empty
    );
}
