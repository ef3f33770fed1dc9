//! Copies that are ended in the middle: by Ctrl-C, by kill -9 at any moment, by another copy.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Bench, contents, true_manifest};

/// More than one segment of the journal has, so that a cut copy has something to keep.
const FILES: usize = 2_300;

/// What a work directory is for.
const PURPOSE: &str = ".copy.stepdown-copy/purpose.json";

/// A sample with many more files in it.
fn large() -> Bench {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    let dir = bench.path("ck/more");
    fs::create_dir(&dir).unwrap();
    for number in 0..FILES {
        fs::write(dir.join(number.to_string()), format!("content {number}")).unwrap();
    }
    bench
}

fn begin_copy(bench: &Bench, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_stepdown"))
        .args(["--json", "checkpoint"])
        .args(args)
        .current_dir(bench.path(""))
        .env_clear()
        .env("HOME", bench.path("home"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(bench.path("err")).unwrap())
        .spawn()
        .unwrap()
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &pid]).status();
    assert!(sent.unwrap().success());
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(3);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 3 min: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The files that are in the work directory.
fn staged(bench: &Bench) -> usize {
    fs::read_dir(bench.path(".copy.stepdown-copy/tree/more")).map_or(0, Iterator::count)
}

/// The files that the journal of a cut copy has, and that are there.
fn journalled(bench: &Bench) -> u64 {
    let work = bench.path(".copy.stepdown-copy");
    let Ok(entries) = fs::read_dir(work.join("journal")) else {
        return 0;
    };
    let mut count = 0;
    for entry in entries {
        let Ok(path) = entry.map(|entry| entry.path()) else {
            continue;
        };
        // One that was being written has another name.
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        // The copy may be ending: its work directory goes then.
        let Ok(segment) = fs::read(&path) else {
            continue;
        };
        let segment: Value = serde_json::from_slice(&segment).unwrap();
        let files = segment["files"].as_array().unwrap();
        let is_there = |file: &&Value| {
            let path = work.join("tree").join(file["path"].as_str().unwrap());
            path.exists()
        };
        count += files.iter().filter(is_there).count() as u64;
    }
    count
}

/// The destination is absent or complete.
fn assert_whole_or_absent(bench: &Bench, source: &Path) -> bool {
    let copy = bench.path("copy");
    if !copy.exists() {
        return false;
    }
    let manifest = true_manifest(&copy);
    let more = contents(source)
        .into_keys()
        .filter(|path| path.starts_with("more/"));
    assert_eq!(
        manifest["files"].as_array().unwrap().len(),
        more.count() + 32
    );
    true
}

#[test]
fn a_killed_copy_is_absent_or_complete_and_is_completed_without_copying_twice() {
    let bench = large();
    let source = bench.path("ck");
    let begun = Instant::now();
    bench.json(&["copy", "ck", "copy"], 0);
    let whole = begun.elapsed();
    fs::remove_dir_all(bench.path("copy")).unwrap();

    let (mut cut, mut kept_some) = (0, 0);
    for kill in 0..12_u32 {
        let mut child = begin_copy(&bench, &["copy", "ck", "copy"]);
        // By the clock, by what is copied, by what is recorded; where exactly is left to chance.
        let mut ended = || child.try_wait().unwrap().is_some();
        match kill % 3 {
            0 => std::thread::sleep(whole.mul_f64(fastrand::f64() * 1.1)),
            1 => {
                let some = fastrand::usize(1..FILES);
                wait_until("files are there", || staged(&bench) >= some || ended());
            }
            _ => {
                wait_until("files are recorded", || journalled(&bench) > 0 || ended());
                // The rest of a copy takes a small share of its time.
                std::thread::sleep(whole.mul_f64(fastrand::f64() * 0.1));
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let published = assert_whole_or_absent(&bench, &source);
        let kept = journalled(&bench);
        if published && !bench.has(".copy.stepdown-copy") {
            // It had ended.
            bench.refused(&["copy", "ck", "copy"], 1);
        } else {
            cut += 1;
            let report = bench.json(&["copy", "ck", "copy"], 0);
            let total = report["total"]["files"].as_u64().unwrap();
            let copied = report["copied"]["files"].as_u64().unwrap();
            let expected = if published { 0 } else { total - kept };
            assert_eq!(copied, expected, "kill {kill}, {kept} were kept");
            kept_some += u32::from(kept > 0);
        }
        assert!(assert_whole_or_absent(&bench, &source));
        assert!(!bench.has(".copy.stepdown-copy"), "kill {kill}");
        fs::remove_dir_all(bench.path("copy")).unwrap();
    }
    assert!(
        cut >= 4 && kept_some >= 1,
        "{cut} cut, {kept_some} kept some"
    );
}

#[test]
fn a_copy_that_was_killed_right_after_it_appeared_is_done() {
    let bench = Bench::with("3.5.9-agg-hdfs-inflight");
    let cut = |args: &[&str]| {
        // What such a kill leaves: the copy, and the work directory without its tree.
        bench.json(&["sync", "ck", "copy"], 0);
        let purpose = fs::read_to_string(bench.path(PURPOSE)).unwrap();
        bench.json(args, 0);
        let manifest = true_manifest(&bench.path("copy"));
        assert!(!bench.has(PURPOSE));
        bench.sandbox.write(PURPOSE, &purpose);
        manifest["copy_id"].clone()
    };
    let copy_id = cut(&["copy", "ck", "copy"]);
    let again = bench.json(&["copy", "ck", "copy"], 0);
    assert_eq!(
        (&again["copy_id"], &again["copied"]["files"]),
        (&copy_id, &json!(0))
    );
    assert!(!bench.has(".copy.stepdown-copy"));
    bench.refused(&["copy", "ck", "copy"], 1);
    fs::remove_dir_all(bench.path("copy")).unwrap();

    // As of other batches it is not what is asked for.
    cut(&["copy", "ck", "copy"]);
    let told = bench.run(&["copy", "--at", "5", "ck", "copy"]);
    assert!(
        told.code == 1 && told.stderr.contains("exists already"),
        "{told:?}"
    );
    fs::remove_dir_all(bench.path("copy")).unwrap();
    let old = cut(&["copy", "ck", "copy"]);
    let replaced = bench.json(&["rewind", "--to", "5", "--replace", "ck", "copy"], 0);
    assert_ne!(replaced["copy_id"], old);
    assert_eq!(replaced["last_committed_batch"], json!(5));
    true_manifest(replaced["moved_aside"].as_str().unwrap().as_ref());
    true_manifest(&bench.path("copy"));
}

#[test]
fn retain_clears_what_a_kill_right_after_the_publication_left() {
    let bench = Bench::with("3.5.9-agg-hdfs-inflight");
    bench.json(&["sync", "ck", "copy"], 0);
    let purpose = fs::read_to_string(bench.path(PURPOSE)).unwrap();
    bench.json(&["copy", "ck", "copy"], 0);
    let lease = ".copy.stepdown-copy/lease";
    fs::create_dir_all(bench.path(lease)).unwrap();
    bench.sandbox.write(PURPOSE, &purpose);
    // Its removal was cut short; nothing was put into it.
    fs::create_dir_all(bench.path(".other.stepdown-copy/lease")).unwrap();
    // Unfinished, and held.
    bench.json(&["sync", "ck", "unfinished"], 0);
    let mut child = begin_copy(&bench, &["sync", "--interval", "1h", "ck", "held"]);
    let held = bench.path(".held.stepdown-copy/journal/0.json");
    wait_until("the pass is made", || held.exists());

    let left = json!([bench.path("copy"), bench.path("other")]);
    for (args, stays) in [
        (&["retain", ".", "--keep-last", "1", "--dry-run"][..], true),
        (&["retain", ".", "--keep-last", "1"], false),
    ] {
        assert_eq!(bench.json(args, 0)["leftovers_of"], left, "{args:?}");
        assert_eq!(bench.has(PURPOSE), stays, "{args:?}");
        assert_eq!(bench.has(".other.stepdown-copy"), stays, "{args:?}");
    }
    true_manifest(&bench.path("copy"));
    for name in ["unfinished", "held"] {
        assert!(bench.has(&format!(".{name}.stepdown-copy/purpose.json")));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let again = bench.json(&["retain", ".", "--keep-last", "1"], 0);
    assert_eq!(again["leftovers_of"], json!([]));
}

#[test]
fn ctrl_c_ends_soon_and_the_same_command_goes_on() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let bench = large();
        let mut child = begin_copy(&bench, &["copy", "ck", "copy"]);
        wait_until("files are copied", || staged(&bench) > 100);
        signal(&child, name);
        let asked = Instant::now();
        let status = child.wait().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(10));
        let err = fs::read_to_string(bench.path("err")).unwrap();
        assert_eq!(status.code(), Some(code), "{err}");
        assert!(err.contains("the same command goes on"), "{err}");
        assert!(
            err.lines()
                .next()
                .unwrap()
                .starts_with("{\"event\":\"planned\""),
            "{err}"
        );
        assert!(!bench.has("copy"));
        let kept = journalled(&bench);
        assert!(kept > 100, "{kept}");
        let report = bench.json(&["copy", "ck", "copy"], 0);
        let total = report["total"]["files"].as_u64().unwrap();
        assert_eq!(report["copied"]["files"], json!(total - kept));
        true_manifest(&bench.path("copy"));
    }
}

#[test]
fn ctrl_c_between_two_passes_is_the_end_of_sync() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    let child = begin_copy(&bench, &["sync", "-v", "--interval", "1h", "ck", "copy"]);
    wait_until("the pass is made", || {
        fs::read_to_string(bench.path("err")).is_ok_and(|err| err.contains("a pass is made"))
    });
    signal(&child, "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["copied"]["files"], json!(32));
    assert_eq!(
        bench.json(&["sync", "--finish", "ck", "copy"], 0)["copied"]["files"],
        json!(0)
    );
}

#[test]
fn of_two_copies_to_one_destination_the_second_is_told() {
    let bench = Bench::with("3.5.9-agg-hdfs-clean");
    let mut child = begin_copy(&bench, &["sync", "--interval", "1h", "ck", "copy"]);
    wait_until("the pass is made", || {
        bench.has(".copy.stepdown-copy/stand.json")
    });
    let told = bench.refused(&["copy", "ck", "copy"], 4);
    assert!(told.contains("another process copies to"), "{told}");
    // It is held only as long as its process lives.
    child.kill().unwrap();
    child.wait().unwrap();
    let report = bench.json(&["copy", "ck", "copy"], 0);
    assert_eq!(report["copied"]["files"], json!(0));
}
