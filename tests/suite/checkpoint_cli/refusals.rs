//! What a copy is refused for, with which exit code, and that nothing is changed then.

use std::fs;
use std::os::unix::fs::symlink;

use super::Bench;

#[test]
fn mistakes_on_the_command_line_are_exit_code_2() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    for args in [
        &["copy"][..],
        &["copy", "ck"],
        &["copy", "--at", "yesterday", "ck", "copy"],
        &["copy", "--at", "-1", "ck", "copy"],
        &["copy", "--full", "--minimal", "ck", "copy"],
        &["rewind", "ck", "copy"],
        &["sync", "--interval", "soon", "ck", "copy"],
        &["retain", ".", "--keep-last", "-1"],
        &["retain", ".", "--keep-for", "a while"],
        &["diff", "ck"],
        &["wibble"],
        &[],
    ] {
        bench.refused(args, 2);
    }
}

#[test]
fn an_existing_destination_is_refused_whatever_it_is() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    fs::create_dir(bench.path("dir")).unwrap();
    bench.sandbox.write("file", "mine");
    symlink("nowhere", bench.path("link")).unwrap();
    for destination in ["dir", "file", "link"] {
        for verb in ["copy", "sync"] {
            let told = bench.refused(&[verb, "ck", destination], 1);
            assert!(told.contains("exists already"), "{told}");
            assert!(told.contains("--replace"), "{told}");
            bench.refused(&[verb, "ck", destination, "--dry-run"], 1);
        }
    }
}

#[test]
fn source_and_destination_within_each_other_are_refused() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    symlink("ck", bench.path("link")).unwrap();
    for destination in [
        "ck",
        "ck/copy",
        "ck/state/0/copy",
        ".",
        "link/copy",
        "link/state/x",
    ] {
        let told = bench.refused(&["copy", "--replace", "ck", destination], 2);
        assert!(told.contains("within each other"), "{destination}: {told}");
    }
    // Nor is a copy made in another checkpoint; a copy is one.
    bench.json(&["copy", "ck", "other"], 0);
    for verb in ["copy", "sync"] {
        let told = bench.refused(&[verb, "ck", "other/copy"], 2);
        assert!(
            told.contains("other/copy and") && told.contains("within each other"),
            "{told}"
        );
    }
}

#[test]
fn a_damaged_source_is_refused_with_its_findings() {
    for (sample, path) in [
        ("3.5.9-agg-hdfs-damaged-missing-delta", "state/0/1/8.delta"),
        ("3.5.9-agg-hdfs-damaged-empty-offset", "offsets/8"),
        ("3.5.9-agg-hdfs-damaged-gap-in-offsets", "offsets/7"),
        ("4.0.5-agg-rocksdb-damaged-missing-sst", "state/0/1/SSTs/"),
        ("4.3.0-agg-hdfs-damaged-no-metadata", "metadata"),
    ] {
        let bench = Bench::with(sample);
        let told = bench.refused(&["copy", "ck", "copy"], 3);
        assert!(told.contains(path) && told.contains("--force"), "{told}");
        let error = bench.json(&["copy", "ck", "copy"], 3);
        let found = error["error"]["findings"][0]["path"].as_str().unwrap();
        assert!(found.starts_with(path), "{found}");
        let dry = bench.run(&["copy", "--dry-run", "ck", "copy"]);
        assert_eq!(dry.code, 3);
        assert!(dry.stdout.contains("without --force"), "{}", dry.stdout);
        assert!(!bench.has("copy"));

        let forced = bench.run(&["copy", "--force", "ck", "copy"]);
        assert_eq!(forced.code, 0, "{sample}: {forced:?}");
        assert!(forced.stdout.contains("this is lost"), "{}", forced.stdout);
        assert!(forced.stdout.contains(path), "{}", forced.stdout);
        let manifest = super::true_manifest(&bench.path("copy"));
        assert_eq!(manifest["forced"], true, "{sample}");
        assert!(manifest["problems"][0].as_str().unwrap().contains(path));
    }
}

#[test]
fn a_state_file_that_is_not_whole_is_refused_by_copy_and_by_the_last_pass() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    let newest = |name: &str| {
        let names = fs::read_dir(bench.path(name)).unwrap();
        let numbers = names.filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.strip_suffix(".delta")?.parse::<u64>().ok()
        });
        numbers.max().unwrap()
    };
    let delta = format!("state/0/1/{}.delta", newest("ck/state/0/1"));
    let whole = fs::read(bench.path("ck").join(&delta)).unwrap();
    fs::write(bench.path("ck").join(&delta), &whole[..whole.len() / 2]).unwrap();
    for args in [
        &["copy", "ck", "copy"][..],
        &["copy", "--full", "ck", "copy"],
        &["sync", "ck", "copy"],
        &["sync", "--finish", "ck", "copy"],
    ] {
        let ran = bench.run(args);
        assert_eq!(ran.code, 3, "{args:?}: {ran:?}");
        let told = &ran.stderr;
        assert!(
            told.contains(&delta) && told.contains("end frame"),
            "{args:?}: {told}"
        );
        assert!(!bench.has("copy"));
    }
    // What was copied before is kept, and the same command ends well once the file is mended.
    fs::write(bench.path("ck").join(&delta), &whole).unwrap();
    let done = bench.json(&["sync", "--finish", "ck", "copy"], 0);
    assert!(
        done["copied"]["files"].as_u64() < done["total"]["files"].as_u64(),
        "{done}"
    );
    assert_eq!(bench.run(&["verify", "--deep", "copy"]).code, 0);
}

#[test]
fn work_on_a_copy_of_another_source_is_not_dropped() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    let other = "4.0.5-agg-rocksdb-clean";
    super::unpack(other, &bench.path(""));
    bench.json(&["sync", "ck", "copy"], 0);
    for command in [&["copy"][..], &["sync"], &["sync", "--finish"]] {
        let ran = bench.run(&[command, &[other, "copy"]].concat());
        assert_eq!(ran.code, 1, "{command:?}: {ran:?}");
        let told = &ran.stderr;
        assert!(
            told.contains("/ck") && told.contains(".copy.stepdown-copy"),
            "{told}"
        );
    }
    let done = bench.json(&["sync", "--finish", "ck", "copy"], 0);
    assert!(
        done["copied"]["files"].as_u64() < done["total"]["files"].as_u64(),
        "{done}"
    );
    for flag in ["--dry-run", "--replace"] {
        let told = bench.refused(&["copy", flag, "ck", "/"], 2);
        assert!(told.contains("root"), "{flag}: {told}");
    }
    let told = bench.refused(&["sync", "--interval", "0s", "ck", "copy-2"], 2);
    assert!(told.contains("longer"), "{told}");
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let bench = Bench::empty();
    fs::create_dir(bench.path("new")).unwrap();
    bench
        .sandbox
        .write("dstreams/checkpoint-1700000000000", "x");
    bench.sandbox.write("foreign/readme", "x");
    bench.sandbox.write("file", "x");
    for kind in ["dstreams", "foreign"] {
        let told = bench.refused(&["diff", "new", kind], 1);
        assert!(told.contains("not the checkpoint"), "{kind}: {told}");
    }
    for (source, code, word) in [
        ("dstreams", 1, "DStreams"),
        ("foreign", 1, "not a checkpoint"),
        ("new", 1, "empty"),
        ("missing", 7, "no checkpoint directory"),
        ("file", 1, "not a directory"),
    ] {
        for force in [&[][..], &["--force"]] {
            let told = bench.refused(&[&["copy", source, "copy"], force].concat(), code);
            assert!(told.contains(word), "{source}: {told}");
        }
    }
}

#[test]
fn batches_and_parents_that_are_not_there_are_exit_code_7() {
    let bench = Bench::with("3.5.9-agg-hdfs-inflight");
    for args in [
        &["copy", "--at", "999", "ck", "copy"][..],
        // Planned, and not committed.
        &["copy", "--at", "9", "ck", "copy"],
        &["rewind", "--to", "999", "ck", "copy"],
        &["copy", "ck", "missing/copy"],
        &["ls", "missing"],
        &["retain", "missing"],
    ] {
        bench.refused(args, 7);
    }
    let told = bench.refused(&["rewind", "--to", "999", "ck", "copy"], 7);
    assert!(told.contains("are 0 to 8"), "{told}");
}

#[test]
fn passes_over_damage_say_what_would_be_lost() {
    let bench = Bench::with("3.5.9-agg-hdfs-damaged-missing-delta");
    let pass = bench.json(&["sync", "--force", "ck", "copy"], 0);
    assert_eq!(pass["problems"][0]["path"], "state/0/1/8.delta", "{pass}");
    let once = ["sync", "--force", "--quiet", "ck", "copy"];
    let told = bench.run(&once).stdout;
    assert!(
        told.contains("would be lost") && told.contains("8.delta"),
        "{told}"
    );
    let (interval, quiet) = ("--interval=50ms", "--until-stopped=200ms");
    let several = bench.run(&["sync", "--force", interval, quiet, "ck", "copy"]);
    assert_eq!(several.code, 0, "{several:?}");
    let warned = several.stderr.matches("would be lost").count();
    assert_eq!(warned, 1, "{several:?}");
}

#[test]
fn what_was_not_begun_is_not_said_to_be_cut_short() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    let no_answer = "hdfs://127.0.0.1:1/ck";
    for args in [
        &["copy", no_answer, "copy"][..],
        &["copy", "ck", no_answer],
        &["sync", "ck", no_answer],
    ] {
        let told = bench.refused(args, 5);
        assert!(told.contains("was not begun"), "{args:?}: {told}");
    }
}

#[test]
fn a_batch_whose_state_is_purged_is_no_place_to_go_back_to() {
    let bench = Bench::with("3.5.9-agghdfs-purged-snapshots-clean");
    let told = bench.refused(&["rewind", "--to", "5", "ck", "copy"], 3);
    assert!(told.contains("offsets/4"), "{told}");
}
