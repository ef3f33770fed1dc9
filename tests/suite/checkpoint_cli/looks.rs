//! `inspect`, `verify`, `diff`.

use std::fs;

use serde_json::json;

use super::{Bench, unpack};

#[test]
fn inspect_tells_what_is_asked_before_a_deploy() {
    let bench = Bench::with("4.0.5-tws-v2-inflight-tmp");
    let found = bench.json(&["inspect", "ck"], 0);
    for (field, value) in [
        ("/uri", json!(bench.sandbox.text("ck"))),
        ("/query_id", json!("862043a9-1bb7-4362-bd59-139918442c04")),
        ("/last_planned_batch", json!(13)),
        ("/last_committed_batch", json!(12)),
        ("/state", json!("in-flight")),
        ("/sources/0/kind", json!("rate-micro-batch")),
        ("/sources/0/planned_offset/offset", json!(1400)),
        ("/operators/0/partitions", json!(3)),
        ("/operators/0/name", json!("transformWithStateInPandasExec")),
        ("/temporary_files/count", json!(1)),
        ("/copy/possible", json!(true)),
        ("/shuffle_partitions", json!(3)),
    ] {
        assert_eq!(found.pointer(field), Some(&value), "{field}");
    }
    let provider = found["provider"].as_str().unwrap();
    assert!(
        provider.ends_with(".RocksDBStateStoreProvider"),
        "{provider}"
    );
    let text = bench.run(&["inspect", "ck"]).stdout;
    for word in [
        "862043a9-1bb7-4362-bd59-139918442c04",
        "in flight",
        "13 (3 on disk, 11 to 13)",
        "RocksDBStateStoreProvider",
        "transformWithStateInPandasExec",
        "commits/.13.",
        "yes: 15 files",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn inspect_says_what_is_no_checkpoint() {
    let bench = Bench::empty();
    fs::create_dir(bench.path("new")).unwrap();
    bench
        .sandbox
        .write("dstreams/checkpoint-1700000000000", "x");
    bench.sandbox.write("out/_spark_metadata/0", "v1");
    bench.sandbox.write("foreign/readme", "x");
    for (dir, state, kind) in [
        ("new", "empty", "empty"),
        ("dstreams", "not-a-query", "d-streams"),
        ("out/_spark_metadata", "not-a-query", "file-sink"),
        ("foreign", "not-a-query", "foreign"),
    ] {
        let found = bench.json(&["inspect", dir], 0);
        assert_eq!(
            (&found["state"], &found["kind"]),
            (&json!(state), &json!(kind)),
            "{dir}"
        );
        assert!(
            bench
                .run(&["inspect", dir])
                .stdout
                .contains("can be copied         no")
        );
    }
    for verb in ["inspect", "verify"] {
        let error = bench.json(&[verb, "missing"], 7);
        assert_eq!(error["error"]["exit"], "not-found");
    }
    assert_eq!(bench.run(&["inspect", "s3://b/k"]).code, 2);
}

#[test]
fn verify_calls_every_sample_by_its_name() {
    let bench = Bench::empty();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/checkpoints");
    let (mut sound, mut damaged) = (0, 0);
    for entry in fs::read_dir(fixtures).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = file.strip_suffix(".tar.gz") else {
            continue;
        };
        unpack(name, &bench.path(""));
        // The schema files of this one are named by the place where it was made, which is gone; a gap
        // in commits is harmless.
        let moved = name.contains("tws");
        let harmless = name.contains("gap-in-commits");
        let expected = (name.contains("damaged") && !harmless) || moved;
        for deep in [false, true] {
            let args = ["verify", name, "--deep"];
            let args = if deep { &args[..] } else { &args[..2] };
            let found = bench.json(args, if expected { 3 } else { 0 });
            let findings = found["findings"].as_array().unwrap();
            assert_eq!(
                expected,
                findings.iter().any(|f| f["severity"] != "note"),
                "{name}"
            );
            assert_eq!(found["not_checked"], json!([]), "{name}");
        }
        if expected {
            damaged += 1;
            let text = bench.run(&["verify", name]).stdout;
            assert!(text.contains("Spark:"), "{name}: {text}");
        } else {
            sound += 1;
        }
    }
    assert_eq!(sound + damaged, 22);
    assert!(damaged >= 5, "{damaged}");
}

#[test]
fn verify_deep_reads_what_the_manifest_of_a_copy_says() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    bench.json(&["copy", "ck", "copy"], 0);
    assert_eq!(bench.run(&["verify", "--deep", "copy"]).code, 0);
    // Still a sound log for Spark, and not what was copied.
    let metadata = r#"{"id":"00000000-0000-0000-0000-000000000001"}"#;
    fs::write(bench.path("copy/metadata"), metadata).unwrap();
    assert_eq!(bench.run(&["verify", "copy"]).code, 0);
    let found = bench.json(&["verify", "--deep", "copy"], 3);
    assert_eq!(found["findings"][0]["path"], "metadata");
    assert_eq!(found["findings"][0]["code"], "digest-differs");
}

#[test]
fn diff_tells_by_how_much_two_checkpoints_differ() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    bench.json(&["copy", "ck", "same"], 0);
    let same = bench.run(&["diff", "ck", "same"]);
    assert_eq!((same.code, same.stdout.as_str()), (0, "no difference\n"));
    bench.json(&["rewind", "--to", "5", "ck", "old"], 0);
    let found = bench.json(&["diff", "ck", "old"], 3);
    assert_eq!(found["last_committed_batch"], json!({"a": 8, "b": 5}));
    assert_eq!(found["planned_offsets"][0]["difference"], json!(-300));
    let text = bench.run(&["diff", "ck", "old"]).stdout;
    assert!(
        text.contains("source 0, committed: 900 -> 600 (-300)"),
        "{text}"
    );
    assert_eq!(bench.run(&["diff", "ck", "missing"]).code, 7);
}
