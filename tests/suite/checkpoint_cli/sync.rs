//! `sync`: passes while a query runs, then the last one.

use std::fs;

use serde_json::json;

use super::{Bench, true_manifest};

/// The next batch of a stateless query.
fn run_batch(bench: &Bench, batch: u64, committed: bool) {
    let offset = format!(
        "v1\n{{\"batchWatermarkMs\":0,\"batchTimestampMs\":1,\"conf\":{{}}}}\n{}",
        (batch + 1) * 100
    );
    bench.sandbox.write(&format!("ck/offsets/{batch}"), &offset);
    if committed {
        let commit = "v1\n{\"nextBatchWatermarkMs\":0}";
        bench.sandbox.write(&format!("ck/commits/{batch}"), commit);
    }
}

fn query() -> Bench {
    let bench = Bench::empty();
    let metadata = r#"{"id":"0f6d9c33-8a7c-4d5e-9d57-4b1f0c7a7f10"}"#;
    bench.sandbox.write("ck/metadata", metadata);
    for batch in 0..3 {
        run_batch(&bench, batch, true);
    }
    bench
}

#[test]
fn passes_copy_what_is_new_and_the_last_one_lets_the_copy_appear() {
    let bench = query();
    // metadata, offsets/1, offsets/2, commits/2
    let first = bench.json(&["sync", "ck", "copy"], 0);
    assert_eq!(first["copied"]["files"], json!(4));
    assert_eq!(first["passes"], json!(1));
    assert!(!bench.has("copy"));
    assert_eq!(
        bench.json(&["sync", "ck", "copy"], 0)["copied"]["files"],
        json!(0)
    );
    run_batch(&bench, 3, true);
    let text = bench.run(&["sync", "ck", "copy"]);
    assert!(text.stdout.contains("1 pass copied 2 files"), "{text:?}");
    run_batch(&bench, 4, false);
    let last = bench.json(&["sync", "ck", "copy", "--finish"], 0);
    // The batch in flight: offsets/4; offsets/3 and commits/3 were there.
    assert_eq!(last["copied"]["files"], json!(1));
    assert_eq!(last["last_planned_batch"], json!(4));
    assert_eq!(last["last_committed_batch"], json!(3));
    assert_eq!(bench.run(&["verify", "--deep", "copy"]).code, 0);
    let manifest = true_manifest(&bench.path("copy"));
    let paths: Vec<_> = manifest["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["commits/3", "metadata", "offsets/3", "offsets/4"]);
    assert!(!bench.has(".copy.stepdown-copy"));
}

#[test]
fn the_last_pass_can_leave_the_batch_in_flight_out() {
    let bench = query();
    run_batch(&bench, 3, false);
    let args = ["sync", "--finish", "--at", "committed", "ck", "copy"];
    let last = bench.json(&args, 0);
    assert_eq!(last["last_planned_batch"], json!(2));
    assert!(!bench.has("copy/offsets/3"));
}

#[test]
fn a_file_that_was_rewritten_is_copied_again() {
    let bench = query();
    bench.json(&["sync", "ck", "copy"], 0);
    let file = bench.path("ck/commits/2");
    let text = fs::read_to_string(&file).unwrap();
    // The same length, as a batch that is run again writes it.
    let text = text.replace(":0", ":7");
    fs::write(&file, &text).unwrap();
    let pass = bench.json(&["sync", "ck", "copy"], 0);
    assert_eq!(pass["copied"]["files"], json!(1));
    bench.json(&["sync", "--finish", "ck", "copy"], 0);
    assert_eq!(
        fs::read_to_string(bench.path("copy/commits/2")).unwrap(),
        text
    );
}

#[test]
fn passes_go_on_until_the_query_has_stopped() {
    let bench = query();
    let args = [
        "sync",
        "--interval",
        "100ms",
        "--until-stopped=300ms",
        "ck",
        "copy",
    ];
    let made = bench.json(&args, 0);
    assert!(made["passes"].as_u64().unwrap() >= 3, "{made}");
    assert!(!bench.has("copy"));
    let made = bench.json(&[&args[..], &["--finish"]].concat(), 0);
    assert_eq!(made["copied"]["files"], json!(0));
    assert_eq!(made["last_committed_batch"], json!(2));
    true_manifest(&bench.path("copy"));
}
