//! Rollouts of a job with several queries, each with a checkpoint of its own.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::rollouts::{Stage, assert_ok, set, text};

const STRATEGIES: [&str; 2] = ["hand-over", "stop-start"];

fn stage(strategy: &'static str) -> Stage {
    let mut stage = Stage::new(strategy);
    stage.queries = 2;
    stage.configure();
    assert_ok(&stage.roll_out(&["--version", "1"]));
    assert_eq!(stage.sink().len(), 2, "two queries run");
    stage
}

/// The query id of a checkpoint.
fn id_of(stage: &Stage, checkpoint: &str) -> String {
    let metadata = fs::read(stage.path(&format!("{checkpoint}/metadata"))).unwrap();
    let metadata: Value = serde_json::from_slice(&metadata).unwrap();
    metadata["id"].as_str().unwrap().to_owned()
}

/// Each query has all batches, each of them once.
fn check_each_query(stage: &Stage) {
    stage.check_exactly_once();
    for (id, batches) in stage.sink() {
        let last = *batches.keys().last().unwrap();
        let missing: Vec<u64> = (0..=last)
            .filter(|batch| !batches.contains_key(batch))
            .collect();
        assert!(missing.is_empty(), "query {id}: {missing:?} of {last}");
    }
}

#[test]
fn all_checkpoints_of_a_job_change_hands() {
    for strategy in STRATEGIES {
        let stage = stage(strategy);
        let ids = [id_of(&stage, "ck/blue"), id_of(&stage, "ck/blue-1")];
        assert_ne!(ids[0], ids[1]);
        for (slot, version) in [("green", "2"), ("blue", "3")] {
            let output = stage.roll_out(&["--version", version]);
            assert_ok(&output);
            let record = stage.record();
            assert_eq!(record["outcome"], "rolled-out", "{strategy}: {record}");
            assert_eq!(record["proof"], "clean", "{strategy}: {record}");
            let base = record["base"].as_array().unwrap();
            assert_eq!(base.len(), 2, "{strategy}: {record}");
            for (at, name) in [slot.to_owned(), format!("{slot}-1")].iter().enumerate() {
                let dir = stage.path(&format!("ck/{name}"));
                let said = base[at]["checkpoint"].as_str().unwrap();
                assert_eq!(said, dir.display().to_string(), "{strategy}");
                // A verified copy, of the query that it should be, as far as the record says.
                let manifest = fs::read(dir.join(".stepdown-manifest.json")).unwrap();
                let manifest: Value = serde_json::from_slice(&manifest).unwrap();
                for (of, by) in [
                    ("planned", "last_planned_batch"),
                    ("committed", "last_committed_batch"),
                ] {
                    assert!(manifest[by].is_u64(), "{strategy}: {manifest}");
                    assert_eq!(base[at][of], manifest[by], "{strategy}: {manifest}");
                }
                assert_eq!(id_of(&stage, &format!("ck/{name}")), ids[at], "{strategy}");
            }
            assert_eq!(stage.running(), set(&[slot]), "{strategy}");
            // The new job has gone on with both.
            let pid = stage.pid(slot).unwrap().to_string();
            let sink = fs::read_to_string(stage.path("sink")).unwrap();
            let lines = sink.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let by_new: BTreeSet<&str> = lines
                .filter(|fields| fields[5] == pid)
                .map(|fields| fields[0])
                .collect();
            let both = ids.iter().map(String::as_str).collect();
            assert_eq!(by_new, both, "{strategy}");
        }
        assert_eq!(stage.sink().len(), 2, "{strategy}: the query ids are kept");
        check_each_query(&stage);
    }
}

#[test]
fn one_damaged_checkpoint_keeps_all_of_them_from_changing_hands() {
    for strategy in STRATEGIES {
        let stage = stage(strategy);
        // The job has read it already, and runs on.
        let metadata = stage.path("ck/blue-1/metadata");
        let good = fs::read(&metadata).unwrap();
        fs::write(&metadata, "{\"id\":").unwrap();
        let mut driving = stage.spawn(&["rollout", "start", "clicks", "--version", "2"]);
        if strategy == "stop-start" {
            // The old one is started again, and can be.
            stage.await_state("recover-old");
            fs::write(&metadata, &good).unwrap();
        }
        let ended = driving.wait().unwrap();
        assert_eq!(ended.code(), Some(1), "{strategy}: {}", stage.log());
        let outcome = if strategy == "stop-start" {
            "recovered"
        } else {
            "aborted"
        };
        assert_eq!(stage.outcome(), outcome, "{strategy}: {}", stage.log());
        assert_eq!(stage.running(), set(&["blue"]), "{strategy}");
        for name in ["green", "green-1"] {
            assert!(!stage.path(&format!("ck/{name}")).exists(), "{strategy}");
        }
        fs::write(&metadata, &good).unwrap();
        let output = stage.roll_out(&["--version", "2"]);
        assert_ok(&output);
        assert_eq!(stage.running(), set(&["green"]), "{}", text(&output));
        check_each_query(&stage);
    }
}
