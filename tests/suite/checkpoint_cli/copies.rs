//! `copy`, `rewind`, `ls`, `retain` where all goes well.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::{Value, json};

use super::{Bench, contents, picture, true_manifest};

#[test]
fn a_copy_is_whole_has_its_manifest_and_leaves_its_source_alone() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    let source = picture(&bench.path("ck"));
    let report = bench.json(&["copy", "--verify", "ck", "copy"], 0);
    let manifest = true_manifest(&bench.path("copy"));
    assert_eq!(picture(&bench.path("ck")), source);
    assert_eq!(report["copy_id"], manifest["copy_id"]);
    assert_eq!(report["last_committed_batch"], json!(8));
    assert_eq!(report["total"]["files"], json!(32));
    assert_eq!(report["copied"], report["total"]);
    assert_eq!(manifest["source"]["uri"], json!(bench.sandbox.text("ck")));
    assert_eq!(manifest["stepdown_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(bench.run(&["verify", "--deep", "copy"]).code, 0);
    assert_eq!(bench.json(&["inspect", "copy"], 0)["looks_live"], false);
    let quiet = bench.run(&["copy", "-q", "ck", "quiet"]);
    assert_eq!(
        (quiet.code, quiet.stdout + &quiet.stderr),
        (0, String::new())
    );
    fs::remove_dir_all(bench.path("quiet")).unwrap();
    // Nothing but the source and the copy is left.
    assert_eq!(names(&bench), ["ck", "copy", "home"]);
}

fn names(bench: &Bench) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(bench.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_copy_is_as_of_the_batch_that_was_asked_for() {
    let bench = Bench::with("3.5.9-agg-hdfs-inflight");
    for (args, planned, committed, there, gone) in [
        (&["copy"][..], 9, 8, "offsets/9", "state/0/0/10.delta"),
        (&["copy", "--at", "planned"], 9, 8, "offsets/9", "offsets/7"),
        (
            &["copy", "--at", "committed"],
            8,
            8,
            "offsets/7",
            "offsets/9",
        ),
        (
            &["copy", "--at", "5"],
            5,
            5,
            "state/0/0/6.delta",
            "state/0/0/7.delta",
        ),
        (&["rewind", "--to", "5"], 5, 5, "commits/5", "commits/6"),
        (&["copy", "--full"], 9, 8, "offsets/0", "state/0/0/10.delta"),
        (
            &["copy", "--full", "--at", "5"],
            5,
            5,
            "offsets/0",
            "state/0/0/7.delta",
        ),
        (&["copy", "--minimal"], 9, 8, "offsets/8", "offsets/0"),
    ] {
        let report = bench.json(&[args, &["ck", "copy"]].concat(), 0);
        assert_eq!(report["last_planned_batch"], json!(planned), "{args:?}");
        assert_eq!(report["last_committed_batch"], json!(committed), "{args:?}");
        assert!(bench.has(&format!("copy/{there}")), "{args:?}: {there}");
        assert!(!bench.has(&format!("copy/{gone}")), "{args:?}: {gone}");
        assert_eq!(bench.run(&["verify", "--deep", "copy"]).code, 0, "{args:?}");
        true_manifest(&bench.path("copy"));
        fs::remove_dir_all(bench.path("copy")).unwrap();
    }
}

#[test]
fn the_query_id_is_kept_unless_a_new_one_is_asked_for() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    let id = |dir: &str| bench.json(&["inspect", dir], 0)["query_id"].clone();
    bench.json(&["copy", "ck", "same"], 0);
    assert_eq!(id("same"), id("ck"));
    let report = bench.json(&["copy", "--new-query-id", "ck", "other"], 0);
    assert_ne!(id("other"), id("ck"));
    assert_eq!(report["query_id"], id("other"));
    let manifest = true_manifest(&bench.path("other"));
    assert_eq!(manifest["source"]["query_id"], id("ck"));
    // A copy of a copy knows where it comes from.
    bench.json(&["copy", "other", "third"], 0);
    let third = true_manifest(&bench.path("third"));
    assert_eq!(third["source"]["copy_id"], manifest["copy_id"]);
}

#[test]
fn what_stands_there_is_moved_aside_by_replace() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    bench.sandbox.write("copy/mine", "precious");
    let text = bench.run(&["copy", "--replace", "ck", "copy"]);
    assert_eq!(text.code, 0, "{text:?}");
    let report = bench.json(&["copy", "--replace", "ck", "copy"], 0);
    let aside = report["moved_aside"].as_str().unwrap();
    true_manifest(aside.as_ref());
    true_manifest(&bench.path("copy"));
    let kept = names(&bench)
        .into_iter()
        .find(|name| bench.has(&format!("{name}/mine")))
        .unwrap();
    assert!(text.stdout.contains(&kept), "{text:?}");
}

#[test]
fn a_dry_run_says_what_and_why_and_writes_nothing() {
    let bench = Bench::with("4.0.5-tws-v2-inflight-tmp");
    let before = picture(&bench.path(""));
    let plan = bench.json(&["copy", "--dry-run", "ck", "copy"], 0);
    assert_eq!(plan["dry_run"], json!(true));
    assert_eq!(plan["last_planned_batch"], json!(13));
    assert_eq!(plan["total"]["files"], json!(15));
    assert_eq!(plan["files"].as_array().unwrap().len(), 15);
    assert_eq!(plan["files"][0]["role"], "metadata");
    assert_eq!(plan["left_out"]["temporary"]["files"], json!(1));
    for args in [
        &["copy", "--dry-run", "ck", "copy"][..],
        &["sync", "--dry-run", "--finish", "ck", "copy"],
        &["rewind", "--dry-run", "--to", "12", "ck", "copy"],
    ] {
        let text = bench.run(args);
        assert_eq!(text.code, 0, "{text:?}");
        assert!(text.stdout.contains("would copy"), "{text:?}");
        assert!(text.stdout.contains("state of older batches"), "{text:?}");
    }
    let listed = bench.run(&["copy", "-v", "--dry-run", "ck", "copy"]);
    assert!(listed.stdout.contains("offsets/13"), "{listed:?}");
    let nowhere = bench.run(&["copy", "--dry-run", "ck", "missing/copy"]);
    assert_eq!(nowhere.code, 7, "{nowhere:?}");
    let why = "the directory in which the copy is to lie must exist";
    assert!(nowhere.stderr.contains(why), "{nowhere:?}");
    let replace = ["copy", "--dry-run", "--replace", "ck"];
    for (destination, replaces) in [("copy", false), ("home", true)] {
        let args = [&replace[..], &[destination]].concat();
        assert_eq!(bench.json(&args, 0)["replaces"], json!(replaces));
        let text = bench.run(&args).stdout;
        assert_eq!(text.contains("would be moved aside"), replaces, "{text}");
    }
    assert_eq!(picture(&bench.path("")), before);
}

#[test]
fn odd_files_are_copied_or_told() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    bench.sandbox.write("ck/größe mit blank/ß ☃", "kept");
    bench.sandbox.write("ck/empty", "");
    bench.sandbox.write("secret", "outside");
    symlink(bench.path("secret"), bench.path("ck/link")).unwrap();
    symlink(bench.path("home"), bench.path("ck/dir-link")).unwrap();
    fs::set_permissions(
        bench.path("ck/commits/8"),
        fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    let report = bench.json(&["copy", "--verify", "ck", "copy"], 0);
    let copied = contents(&bench.path("copy"));
    assert_eq!(copied["größe mit blank/ß ☃"], b"kept");
    assert_eq!(copied["empty"], b"");
    assert!(!bench.has("copy/link") && !bench.has("copy/dir-link"));
    let mode = fs::metadata(bench.path("copy/commits/8")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o640);
    assert_eq!(report["total"]["files"], json!(34));
    let plan = bench.json(&["copy", "--dry-run", "ck", "second"], 0);
    assert_eq!(plan["left_out"]["not-a-file"]["files"], json!(2));
}

#[test]
fn a_read_only_source_is_copied_and_the_copy_can_be_written() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    let chmod = |dir_mode: &str| {
        let mut command = std::process::Command::new("chmod");
        let done = command.args(["-R", dir_mode]).arg(bench.path("ck"));
        assert!(done.status().unwrap().success());
    };
    chmod("a-w");
    let ran = bench.run(&["copy", "--verify", "ck", "copy"]);
    chmod("u+w");
    assert_eq!(ran.code, 0, "{ran:?}");
    true_manifest(&bench.path("copy"));
}

/// Makes `name` a copy that is so many hours older.
fn aged(bench: &Bench, name: &str, hours: i64) {
    bench.json(&["copy", "ck", name], 0);
    let file = bench.path(&format!("{name}/.stepdown-manifest.json"));
    let mut manifest: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let at = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
    manifest["created_at"] = json!(at.to_string());
    fs::write(&file, manifest.to_string()).unwrap();
}

#[test]
fn old_copies_go_and_never_the_newest_sound_one_nor_one_in_use() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    fs::create_dir(bench.path("copies")).unwrap();
    for (name, hours) in [
        ("a", 50),
        ("b", 40),
        ("c", 30),
        ("d", 20),
        ("e", 10),
        ("f", 5),
    ] {
        aged(&bench, &format!("copies/{name}"), hours);
    }
    bench.sandbox.write("copies/stranger/file", "mine");
    let half_removed = "copies/z.stepdown-old-5d1c/metadata";
    bench.sandbox.write(half_removed, "left");
    // A query planned a batch in this one, and that one is a job's.
    bench.sandbox.write("copies/a/offsets/9", "v1\n{}\n1");
    let config = bench.sandbox.write(
        "stepdown.toml",
        &format!(
            "control = {:?}\n[jobs.clicks]\ncheckpoints = [{:?}]\nstop.backend = \"driver\"\n",
            bench.sandbox.text("control"),
            bench.sandbox.text("copies/b"),
        ),
    );
    // The newest is a forced one.
    let newest = bench.path("copies/f/.stepdown-manifest.json");
    let text = fs::read_to_string(&newest).unwrap();
    fs::write(&newest, text.replace("\"forced\":false", "\"forced\":true")).unwrap();

    let listed = bench.json(&["--config", &config, "ls", "copies"], 0);
    let listed = listed["copies"].as_array().unwrap();
    let in_use: Vec<_> = listed
        .iter()
        .map(|c| c["in_use"].as_bool().unwrap())
        .collect();
    assert_eq!(in_use, [true, true, false, false, false, false]);
    let text = bench.run(&["ls", "copies"]).stdout;
    assert!(text.contains("forced") && text.contains("in use"), "{text}");
    assert!(text.contains("SCOPE") && text.contains("minimal"), "{text}");
    assert!(!text.contains("stranger"), "{text}");

    let fates = |args: &[&str]| -> Vec<String> {
        let base = ["--config", &config, "retain", "copies"];
        let report = bench.json(&[&base, args].concat(), 0);
        let copies = report["copies"].as_array().unwrap();
        copies
            .iter()
            .map(|copy| copy["fate"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = picture(&bench.path(""));
    let all = ["--keep-last", "0", "--keep-for", "0s", "--dry-run"];
    assert_eq!(
        fates(&all),
        [
            "keep-in-use",
            "keep-in-use",
            "remove",
            "remove",
            "keep-newest",
            "keep-newest"
        ]
    );
    let last = ["--keep-last", "4", "--keep-for", "0s", "--dry-run"];
    assert_eq!(
        fates(&last),
        [
            "keep-in-use",
            "keep-in-use",
            "keep-last",
            "keep-last",
            "keep-newest",
            "keep-newest"
        ]
    );
    let young = ["--keep-last", "0", "--keep-for", "25h", "--dry-run"];
    assert_eq!(
        fates(&young),
        [
            "keep-in-use",
            "keep-in-use",
            "remove",
            "keep-young",
            "keep-newest",
            "keep-newest"
        ]
    );
    assert_eq!(picture(&bench.path("")), before);
    assert_eq!(
        fates(&["--keep-last", "0", "--keep-for", "25h"])[2],
        "remove"
    );
    for (name, stays) in [
        ("a", true),
        ("b", true),
        ("c", false),
        ("d", true),
        ("stranger", true),
    ] {
        assert_eq!(bench.has(&format!("copies/{name}")), stays, "{name}");
    }
    assert_eq!(fs::read_dir(bench.path("copies")).unwrap().count(), 6);
    assert!(!bench.has(half_removed));
}
