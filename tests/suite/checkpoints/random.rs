//! Plans of random checkpoints of format v1, against the rules said as plainly as possible.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use stepdown::checkpoint::contents::Contents;
use stepdown::checkpoint::finding::Severity;
use stepdown::checkpoint::load::load_contents;
use stepdown::checkpoint::plan::{PlanOptions, Scope, plan_copy};
use stepdown::checkpoint::target::At;
use stepdown::model::BatchId;
use stepdown::storage::StoragePath;
use stepdown::storage::memory::MemoryStorage;

const OFFSET: &str = concat!(
    "v1\n",
    r#"{"batchWatermarkMs":0,"batchTimestampMs":1,"conf":{"#,
    r#""spark.sql.streaming.stateStore.providerClass":"x.HDFSBackedStateStoreProvider","#,
    r#""spark.sql.shuffle.partitions":"2"}}"#,
    "\n7"
);

/// Which files there are; version and batch numbers below 8.
#[derive(Debug, Clone)]
struct Files {
    offsets: BTreeSet<u64>,
    commits: BTreeSet<u64>,
    deltas: [BTreeSet<u64>; 2],
    snapshots: [BTreeSet<u64>; 2],
}

fn files() -> impl Strategy<Value = Files> {
    let some = || proptest::collection::btree_set(0_u64..8, 0..8);
    let many = || proptest::collection::btree_set(1_u64..9, 5..9);
    let few = || proptest::collection::btree_set(1_u64..9, 0..3);
    (some(), some(), many(), many(), few(), few()).prop_map(|(offsets, commits, a, b, c, d)| {
        Files {
            offsets,
            commits,
            deltas: [a, b],
            snapshots: [c, d],
        }
    })
}

fn at() -> impl Strategy<Value = At> {
    prop_oneof![
        Just(At::Planned),
        Just(At::Committed),
        (0_u64..8).prop_map(|batch| At::Batch(BatchId(batch))),
    ]
}

async fn load(files: &Files, at: At) -> Contents {
    let storage = MemoryStorage::new("m");
    let put = |path: String, content: &'static str| {
        storage
            .put(&StoragePath::parse(&path).unwrap(), content)
            .unwrap();
    };
    put(
        "/c/metadata".into(),
        r#"{"id":"c77e8c68-28a9-4bfb-877a-e29b6987550f"}"#,
    );
    for batch in &files.offsets {
        put(format!("/c/offsets/{batch}"), OFFSET);
    }
    for batch in &files.commits {
        put(
            format!("/c/commits/{batch}"),
            "v1\n{\"nextBatchWatermarkMs\":0}",
        );
    }
    for partition in 0..2 {
        put(format!("/c/state/0/{partition}/_metadata/schema"), "x");
        for version in &files.deltas[partition] {
            put(format!("/c/state/0/{partition}/{version}.delta"), "x");
        }
        for version in &files.snapshots[partition] {
            put(format!("/c/state/0/{partition}/{version}.snapshot"), "x");
        }
    }
    load_contents(&storage, &StoragePath::parse("/c").unwrap(), at)
        .await
        .unwrap()
}

/// The rule of the design, by counting: the state that a restart loads.
fn version(files: &Files, at: At) -> Option<u64> {
    let planned = files.offsets.last().copied();
    let committed = files.commits.last().copied();
    match at {
        At::Planned if planned > committed => planned,
        At::Planned | At::Committed => Some(committed.map_or(0, |batch| batch + 1)),
        At::Batch(batch) => files.commits.contains(&batch.0).then_some(batch.0 + 1),
    }
}

/// The files of a chain, if it is whole.
fn chain(files: &Files, partition: usize, version: u64) -> Option<BTreeSet<String>> {
    let snapshots = &files.snapshots[partition];
    let base = (1..=version).rev().find(|v| snapshots.contains(v));
    let mut chain = BTreeSet::new();
    if let Some(base) = base {
        chain.insert(format!("state/0/{partition}/{base}.snapshot"));
    }
    for version in base.unwrap_or(0) + 1..=version {
        if !files.deltas[partition].contains(&version) {
            return None;
        }
        chain.insert(format!("state/0/{partition}/{version}.delta"));
    }
    Some(chain)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_plan_has_the_chains_and_nothing_behind_them(files in files(), at in at()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let contents = runtime.block_on(load(&files, at));
        for scope in [Scope::Minimal, Scope::Full] {
            let options = PlanOptions { at, scope, destination: "file:/x", new_query_id: None };
            let plan = match plan_copy(&contents, &options) {
                Ok(plan) => plan,
                Err(refused) => {
                    prop_assert_eq!(version(&files, at), None, "{}", refused);
                    continue;
                }
            };
            let version = version(&files, at).unwrap();
            prop_assert_eq!(plan.target.state_version, version);
            let paths: BTreeSet<&str> =
                plan.files.iter().map(|f| f.path(&contents.listing)).collect();
            let versions: BTreeMap<&str, u64> = paths
                .iter()
                .filter_map(|path| {
                    let name = path.strip_prefix("state/")?.rsplit('/').next()?;
                    Some((*path, name.split('.').next()?.parse().ok()?))
                })
                .collect();
            prop_assert!(versions.values().all(|of_file| *of_file <= version), "{:?}", paths);
            let chains: Vec<_> = (0..2).map(|p| chain(&files, p, version)).collect();
            let damaged = plan.problems.iter().any(|p| {
                p.severity == Severity::Damage && p.path.starts_with("state/")
            });
            prop_assert_eq!(damaged, chains.iter().any(Option::is_none), "{:?}", plan.problems);
            let needed: BTreeSet<String> = chains.into_iter().flatten().flatten().collect();
            for path in &needed {
                prop_assert!(paths.contains(path.as_str()), "{} is missing", path);
            }
            if scope == Scope::Minimal && !damaged {
                let state: BTreeSet<String> = versions.keys().map(|p| (*p).to_owned()).collect();
                prop_assert_eq!(state, needed);
            }
            let newest = plan.target.offset.map(|batch| batch.0);
            let expected_logs: BTreeSet<u64> = newest
                .into_iter()
                .chain(newest.and_then(|batch| batch.checked_sub(1)))
                .filter(|batch| files.offsets.contains(batch))
                .collect();
            let has = |batch: &u64| paths.contains(format!("offsets/{batch}").as_str());
            prop_assert!(expected_logs.iter().all(has), "{:?}", paths);
            let later = files.offsets.iter().filter(|batch| Some(**batch) > newest);
            prop_assert!(!later.clone().any(has), "{:?}", paths);
            let is_whole = newest.is_none_or(|batch| {
                files.offsets.contains(&batch)
                    && (batch == 0 || files.offsets.contains(&(batch - 1)))
            });
            // N above L is a problem of the whole checkpoint only where N is what is copied.
            if !is_whole {
                prop_assert!(!plan.problems.is_empty(), "{:?}", files);
            }
        }
    }
}
