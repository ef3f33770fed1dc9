//! Plans of copies: as of which batch, how much, and what never may be in one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use stepdown::checkpoint::QueryId;
use stepdown::checkpoint::contents::Contents;
use stepdown::checkpoint::finding::Code;
use stepdown::checkpoint::layout::{PathKind, StateFile, classify};
use stepdown::checkpoint::listing::Listed;
use stepdown::checkpoint::load::load_contents;
use stepdown::checkpoint::plan::{
    LeftOut, Plan, PlanOptions, PlanRefused, PlannedFile, Scope, plan_copy,
};
use stepdown::checkpoint::target::{At, NoTarget};
use stepdown::model::BatchId;
use stepdown::storage::StoragePath;
use stepdown::storage::memory::MemoryStorage;

use super::samples::{Sample, table};

const TO: &str = "hdfs://ns/copies/new";

async fn load(sample: &Sample, at: At) -> Contents {
    load_contents(&sample.storage, &sample.dir, at)
        .await
        .unwrap()
}

fn plan(contents: &Contents, at: At, scope: Scope) -> Plan {
    plan_copy(contents, &options(at, scope)).unwrap()
}

fn options(at: At, scope: Scope) -> PlanOptions<'static> {
    PlanOptions {
        at,
        scope,
        destination: TO,
        new_query_id: None,
    }
}

fn paths<'a>(contents: &'a Contents, plan: &'a Plan) -> BTreeSet<&'a str> {
    let paths: BTreeSet<_> = plan
        .files
        .iter()
        .map(|f| f.path(&contents.listing))
        .collect();
    assert_eq!(paths.len(), plan.files.len(), "a path twice");
    paths
}

/// What must hold for every plan, whatever was asked.
fn check_never(name: &str, contents: &Contents, plan: &Plan) {
    let version = plan.target.state_version;
    let paths = paths(contents, plan);
    for path in &paths {
        match classify(path) {
            PathKind::Offset(batch) => assert!(Some(batch) <= plan.target.offset, "{name} {path}"),
            PathKind::Commit(batch) => assert!(Some(batch) <= plan.target.commit, "{name} {path}"),
            PathKind::State(state) => {
                assert!(version > 0, "{name} {path}");
                if let StateFile::Version {
                    version: of_file, ..
                } = state.file
                {
                    assert!(of_file <= version, "{name} {path}");
                }
            }
            PathKind::Temporary | PathKind::HadoopChecksum | PathKind::Manifest => {
                panic!("{name} {path}")
            }
            PathKind::Metadata
            | PathKind::SourceLog { .. }
            | PathKind::SourceFile { .. }
            | PathKind::OperatorMetadata { .. }
            | PathKind::StateSchema { .. }
            | PathKind::SparkChecksum
            | PathKind::Foreign => {}
        }
    }
    if plan.problems.is_empty() {
        let batches = [plan.target.offset, plan.target.offset_before];
        for batch in batches.into_iter().flatten() {
            assert!(
                paths.contains(format!("offsets/{batch}").as_str()),
                "{name} {batch}"
            );
        }
        assert!(paths.contains("metadata"), "{name}");
    }
    let dirs: BTreeSet<&str> = plan.dirs.iter().map(|(dir, _)| dir.as_str()).collect();
    for path in &paths {
        if let Some((dir, _)) = path.rsplit_once('/') {
            assert!(dirs.contains(dir), "{name} {dir}");
        }
    }
    let mut made = BTreeSet::new();
    for (dir, _) in &plan.dirs {
        if let Some((parent, _)) = dir.rsplit_once('/') {
            assert!(made.contains(parent), "{name}: {dir} before {parent}");
        }
        made.insert(dir.as_str());
    }
    let left_out: u64 = plan.left_out.values().map(|tally| tally.files).sum();
    let listed = contents.listing.iter().filter(Listed::is_file).count() as u64;
    let copied = plan.files.len() as u64;
    let made = u64::from(
        !contents.listing.iter().any(|e| e.path == "metadata") && paths.contains("metadata"),
    );
    assert_eq!(
        copied + left_out - made,
        listed,
        "{name}: a file is forgotten"
    );
}

#[tokio::test]
async fn no_plan_has_what_a_copy_must_not_have() {
    for row in table() {
        let name = row.get("archive");
        let sample = Sample::unpack(name);
        let at_n = BatchId(row.get("N").parse().unwrap());
        let ats = [
            At::Planned,
            At::Committed,
            At::Batch(at_n),
            At::Batch(BatchId(at_n.0 - 2)),
        ];
        for at in ats {
            let contents = load(&sample, at).await;
            for scope in [Scope::Minimal, Scope::Full] {
                match plan_copy(&contents, &options(at, scope)) {
                    Ok(plan) => check_never(&format!("{name} {at:?} {scope:?}"), &contents, &plan),
                    Err(refused) => {
                        let batch = BatchId(at_n.0 - 2);
                        let commits = &contents.commits;
                        let committed = commits.oldest().zip(commits.newest());
                        assert_eq!(
                            refused,
                            PlanRefused::NoTarget(NoTarget::NotCommitted { batch, committed })
                        );
                        assert!(!contents.commits.has(batch), "{name}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_batch_in_flight_is_kept_or_left_as_asked() {
    let sample = Sample::unpack("4.0.5-agg-rocksdbcl-inflight");
    let contents = load(&sample, At::Planned).await;
    let planned = plan(&contents, At::Planned, Scope::Minimal);
    let committed = plan(&contents, At::Committed, Scope::Minimal);
    let logs = |plan: &Plan| -> Vec<String> {
        let paths = paths(&contents, plan).into_iter();
        paths
            .filter(|p| p.starts_with("offsets") || p.starts_with("commits"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(logs(&planned), ["commits/8", "offsets/8", "offsets/9"]);
    assert_eq!(logs(&committed), ["commits/8", "offsets/7", "offsets/8"]);
    assert_eq!(planned.target.state_version, 9);
    assert_eq!(committed.target.state_version, 9);
    assert!(planned.target.is_in_flight() && !committed.target.is_in_flight());
    // The state of the batch in flight is there and is left out of both.
    for plan in [&planned, &committed] {
        assert_eq!(plan.left_out[&LeftOut::LaterState].files, 3);
        assert!(plan.problems.is_empty());
    }
}

#[tokio::test]
async fn a_rewind_leaves_out_all_that_came_later() {
    let sample = Sample::unpack("3.5.9-filesource-hdfs-clean");
    let at = At::Batch(BatchId(12));
    let contents = load(&sample, at).await;
    for scope in [Scope::Minimal, Scope::Full] {
        let plan = plan(&contents, at, scope);
        assert!(plan.problems.is_empty());
        assert_eq!(plan.left_out[&LeftOut::LaterBatch].files, 24);
        let paths = paths(&contents, &plan);
        assert!(paths.contains("state/0/0/13.delta") && !paths.contains("state/0/0/14.delta"));
        assert!(!paths.contains("state/0/0/15.snapshot"));
        assert!(paths.contains("offsets/11") && !paths.contains("offsets/13"));
        assert!(paths.contains("sources/0/19.compact"));
        assert_eq!(paths.contains("sources/0/8"), scope == Scope::Full);
    }
    let minimal = plan(&contents, at, Scope::Minimal);
    let chain: Vec<_> = paths(&contents, &minimal)
        .into_iter()
        .filter(|path| path.starts_with("state/0/2/1"))
        .collect();
    assert_eq!(
        chain,
        [
            "state/0/2/10.snapshot",
            "state/0/2/11.delta",
            "state/0/2/12.delta",
            "state/0/2/13.delta"
        ]
    );
}

#[tokio::test]
async fn schema_files_are_named_at_their_new_place() {
    let sample = Sample::unpack("4.0.5-tws-v2-inflight-tmp");
    let contents = load(&sample, At::Planned).await;
    let plan = plan(&contents, At::Planned, Scope::Minimal);
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);
    let written: BTreeMap<&str, &[u8]> = plan
        .files
        .iter()
        .filter_map(|file| match file {
            PlannedFile::Write { path, content, .. } => Some((path.as_str(), content.as_slice())),
            PlannedFile::Copy { .. } => None,
        })
        .collect();
    assert_eq!(
        written.keys().copied().collect::<Vec<_>>(),
        ["state/0/_metadata/v2/0"]
    );
    let original = fs::read_to_string(sample.path("state/0/_metadata/v2/0")).unwrap();
    let expected = original.replace("file:/data/lab/w/4.0.5/tws-v2/", "hdfs://ns/copies/new/");
    assert_ne!(original, expected);
    assert_eq!(written["state/0/_metadata/v2/0"], expected.as_bytes());

    let schema = "state/0/_stateSchema/default/0_a9bf7693-fcfd-4881-aa65-64ad74e19c7b";
    fs::remove_file(sample.path(schema)).unwrap();
    let contents = load(&sample, At::Planned).await;
    let plan = self::plan(&contents, At::Planned, Scope::Minimal);
    let problems: Vec<_> = plan
        .problems
        .iter()
        .map(|p| (p.code, p.path.as_str()))
        .collect();
    assert_eq!(problems, [(Code::SchemaMissing, schema)]);
}

#[tokio::test]
async fn a_new_identity_is_written_and_mends_a_missing_one() {
    let id: QueryId = "01234567-89ab-4def-8123-456789abcdef".parse().unwrap();
    for name in ["3.5.9-agg-hdfs-clean", "4.3.0-agg-hdfs-damaged-no-metadata"] {
        let sample = Sample::unpack(name);
        let contents = load(&sample, At::Planned).await;
        let options = PlanOptions {
            new_query_id: Some(id),
            ..options(At::Planned, Scope::Minimal)
        };
        let plan = plan_copy(&contents, &options).unwrap();
        check_never(name, &contents, &plan);
        assert!(plan.problems.is_empty(), "{name}");
        assert_eq!(plan.query_id, Some(id));
        let metadata = plan
            .files
            .iter()
            .find(|f| f.path(&contents.listing) == "metadata");
        let Some(PlannedFile::Write { content, .. }) = metadata else {
            panic!("{name}: {metadata:?}");
        };
        assert_eq!(
            content,
            b"{\"id\":\"01234567-89ab-4def-8123-456789abcdef\"}"
        );
    }
}

#[tokio::test]
async fn unknown_files_are_copied_and_told() {
    let sample = Sample::unpack("3.5.9-agg-hdfs-clean");
    fs::create_dir_all(sample.path("epochs/new")).unwrap();
    for path in [
        "README",
        "epochs/new/1",
        "state/0/0/8.future",
        "commits/8.bak",
    ] {
        fs::write(sample.path(path), "x").unwrap();
    }
    std::os::unix::fs::symlink("/etc/hostname", sample.path("link")).unwrap();
    let contents = load(&sample, At::Planned).await;
    for scope in [Scope::Minimal, Scope::Full] {
        let plan = plan(&contents, At::Planned, scope);
        check_never("unknown", &contents, &plan);
        let unknown: Vec<_> = plan
            .unknown
            .iter()
            .map(|id| contents.listing.get(*id).path)
            .collect();
        assert_eq!(
            unknown,
            [
                "README",
                "commits/8.bak",
                "epochs/new/1",
                "state/0/0/8.future"
            ]
        );
        assert_eq!(plan.left_out[&LeftOut::NotAFile].files, 1);
        assert!(plan.problems.is_empty());
    }
}

#[tokio::test]
async fn an_unknown_provider_is_copied_in_full_only() {
    let sample = Sample::unpack("3.5.9-agg-hdfs-clean");
    for batch in 0..=8 {
        let path = sample.path(&format!("offsets/{batch}"));
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            path,
            text.replace("HDFSBackedStateStoreProvider", "AcmeProvider"),
        )
        .unwrap();
    }
    let contents = load(&sample, At::Planned).await;
    let minimal = plan(&contents, At::Planned, Scope::Minimal);
    assert_eq!(minimal.problems[0].code, Code::ProviderUnknown);
    let full = plan(&contents, At::Planned, Scope::Full);
    assert!(full.problems.is_empty());
    assert!(paths(&contents, &full).contains("state/0/2/9.delta"));
}

#[tokio::test]
async fn nothing_committed_yet_is_copied_without_state() {
    let sample = Sample::unpack("3.5.9-agg-hdfs-inflight");
    fs::remove_dir_all(sample.path("commits")).unwrap();
    for batch in 1..=9 {
        fs::remove_file(sample.path(&format!("offsets/{batch}"))).unwrap();
    }
    let contents = load(&sample, At::Planned).await;
    for scope in [Scope::Minimal, Scope::Full] {
        let planned = plan(&contents, At::Planned, scope);
        check_never("batch 0", &contents, &planned);
        assert!(planned.problems.is_empty(), "{:?}", planned.problems);
        assert_eq!(
            paths(&contents, &planned).into_iter().collect::<Vec<_>>(),
            ["metadata", "offsets/0"]
        );
        let committed = plan(&contents, At::Committed, scope);
        assert_eq!(
            paths(&contents, &committed).into_iter().collect::<Vec<_>>(),
            ["metadata"]
        );
    }
}

#[tokio::test]
async fn what_is_no_checkpoint_is_refused() {
    for (files, refused) in [
        (
            &["checkpoint-1795153035000", "receivedData/0/log-1-2"][..],
            PlanRefused::DStreams,
        ),
        (
            &["part-0.parquet", "_spark_metadata/0"],
            PlanRefused::NotACheckpoint,
        ),
        (&["clicks/metadata"], PlanRefused::NotACheckpoint),
        (&[".hidden"], PlanRefused::Empty),
    ] {
        let storage = MemoryStorage::new("m");
        let dir = StoragePath::parse("/ck").unwrap();
        for file in files {
            let path = StoragePath::parse(&format!("/ck/{file}")).unwrap();
            storage.put(&path, "x").unwrap();
        }
        let contents = load_contents(&storage, &dir, At::Planned).await.unwrap();
        let plan = plan_copy(&contents, &options(At::Planned, Scope::Minimal));
        assert_eq!(plan.err(), Some(refused), "{files:?}");
    }
}
