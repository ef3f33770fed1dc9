//! Back to the version before, on its own old checkpoint: only where the loss was accepted, and after it was
//! shown.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::rollouts::{Stage, assert_ok, set, text, wait_until};

/// All files below a directory with their contents.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    all
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn last_committed(stage: &Stage, slot: &str) -> u64 {
    let names = names(&stage.path(&format!("ck/{slot}/commits")));
    names
        .iter()
        .filter_map(|name| name.parse().ok())
        .max()
        .unwrap()
}

/// Who wrote a batch, in order.
fn writers_of(stage: &Stage, batch: u64) -> Vec<String> {
    let sink = fs::read_to_string(stage.path("sink")).unwrap();
    let lines = sink.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines
        .filter(|fields| fields[1] == batch.to_string())
        .map(|fields| fields[4].to_owned())
        .collect()
}

/// Version 2 has taken over in green and committed batches of its own. The last batch of version 1.
fn rolled_out(strategy: &'static str) -> (Stage, u64) {
    let stage = Stage::new(strategy);
    assert_ok(&stage.roll_out(&["--version", "1"]));
    assert_ok(&stage.roll_out(&["--version", "2"]));
    let last = last_committed(&stage, "blue");
    wait_until("batches of version 2", || {
        last_committed(&stage, "green") > last + 5
    });
    (stage, last)
}

/// The ends of the range that is told, of a checkpoint whose source is one number.
fn told_range(text: &str) -> (u64, u64) {
    let line = text.lines().find(|line| line.contains(" to ")).unwrap();
    let range = line.rsplit_once(": ").unwrap().1;
    let (from, to) = range.split_once(" to ").unwrap();
    (from.parse().unwrap(), to.parse().unwrap())
}

#[test]
fn a_dry_run_shows_the_loss_and_changes_nothing() {
    let (stage, last) = rolled_out("hand-over");
    let before = (
        contents(&stage.path("ck/blue")),
        names(&stage.path("ck")),
        contents(&stage.path("c/state/clicks/rollouts")),
        names(&stage.path("c/markers")),
        stage.jobs(),
    );
    let from_batch = last_committed(&stage, "green");
    let args = [
        "rollout",
        "rollback",
        "clicks",
        "--accept-loss",
        "--dry-run",
    ];
    let output = stage.stepdown(&args);
    let to_batch = last_committed(&stage, "green");
    assert_ok(&output);
    let said = text(&output);
    let dir = stage.dir.path().display();
    assert!(
        said.contains(&format!(
            "clicks would start on {dir}/ck/blue, which is behind {dir}/ck/green:"
        )),
        "{said}"
    );
    // Batch n ends at offset 10 n + 10.
    let (from, to) = told_range(&said);
    assert_eq!(from, 10 * last + 10, "{said}");
    assert!(
        (10 * from_batch + 10..=10 * to_batch + 10).contains(&to),
        "{from_batch} to {to_batch}: {said}"
    );
    assert!(said.contains("That range is read again."), "{said}");
    assert!(
        said.contains("would roll clicks out by hand-over: from green to blue, version 1"),
        "{said}"
    );
    assert!(!said.contains("copy"), "nothing is copied: {said}");

    let output = stage.stepdown(&[&["--json"], &args[..]].concat());
    assert_ok(&output);
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut lines = lines.lines();
    let loss: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let range = &loss["difference"]["committed_offsets"][0];
    let (from, to) = (&range["offset"]["a"], &range["offset"]["b"]);
    assert_eq!(*from, Value::from((10 * last + 10).to_string()), "{loss}");
    let number = |value: &Value| value.as_str().unwrap().parse::<i64>().unwrap();
    assert_eq!(range["difference"], number(to) - number(from), "{loss}");
    let steps: Value = serde_json::from_str(&lines.collect::<String>()).unwrap();
    assert_eq!(steps["transfer"], "own", "{steps}");

    let after = (
        contents(&stage.path("ck/blue")),
        names(&stage.path("ck")),
        contents(&stage.path("c/state/clicks/rollouts")),
        names(&stage.path("c/markers")),
        stage.jobs(),
    );
    assert!(before == after, "something has changed");
    stage.check_exactly_once();
}

#[test]
fn the_old_version_starts_on_its_old_checkpoint_where_the_loss_is_accepted() {
    for strategy in ["hand-over", "stop-start", "parallel"] {
        let (stage, last) = rolled_out(strategy);
        let before = contents(&stage.path("ck/blue"));
        let output = stage.stepdown(&["rollout", "rollback", "clicks", "--accept-loss"]);
        assert_ok(&output);
        let said = text(&output);
        let (from, to) = told_range(&said);
        assert_eq!(from, 10 * last + 10, "{strategy}: {said}");
        assert!(to > from, "{strategy}: {said}");
        let record = stage.record();
        assert_eq!(record["outcome"], "rolled-out", "{strategy}: {record}");
        assert_eq!(record["transfer"], "own", "{strategy}");
        assert_eq!(record["version"], "1", "{strategy}");
        assert_eq!(record["old_version"], "2", "{strategy}");
        assert_eq!(record["base"][0]["committed"], last, "{strategy}: {record}");
        assert_eq!(stage.running(), set(&["blue"]), "{strategy}");
        // The directory is the one that blue left, and nothing else.
        let after = contents(&stage.path("ck/blue"));
        for (name, bytes) in before {
            assert!(after.get(&name) == Some(&bytes), "{strategy}: {name}");
        }
        assert_eq!(names(&stage.path("ck"))[..2], [".blue.lock", ".green.lock"]);
        let visible = names(&stage.path("ck"));
        let visible: Vec<_> = visible
            .iter()
            .filter(|name| !name.starts_with('.'))
            .collect();
        assert_eq!(visible, ["blue", "green"], "{strategy}");
        // What green had done is done again, from the first batch on.
        if strategy != "parallel" {
            // There the copy began at the last batch that was committed, while blue went on.
            assert_eq!(writers_of(&stage, last), ["blue"], "{strategy}");
        }
        assert_eq!(
            writers_of(&stage, last + 1),
            ["green", "blue"],
            "{strategy}"
        );
        stage.check_sink();
    }
}

#[test]
fn without_it_the_old_checkpoint_is_left_alone() {
    let (stage, last) = rolled_out("hand-over");
    // It belongs to `rollback` alone.
    for args in [
        ["rollout", "start", "clicks", "--accept-loss"],
        ["rollout", "abort", "clicks", "--accept-loss"],
    ] {
        let output = stage.stepdown(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
    }
    let old = contents(&stage.path("ck/blue"));
    assert_ok(&stage.stepdown(&["rollout", "rollback", "clicks"]));
    assert_eq!(stage.running(), set(&["blue"]));
    assert_eq!(stage.record()["transfer"], "copy");
    assert_eq!(writers_of(&stage, last + 1), ["green"]);
    // It was moved aside, as it was.
    let aside = names(&stage.path("ck"));
    let aside = aside
        .iter()
        .find(|name| name.starts_with("blue.stepdown-replaced-"));
    assert!(contents(&stage.path("ck").join(aside.unwrap())) == old);
    stage.check_exactly_once();
}

#[test]
fn where_there_is_no_old_checkpoint_nothing_is_gone_back_to() {
    // Green has never run: it would begin with nothing.
    let stage = Stage::new("hand-over");
    assert_ok(&stage.roll_out(&["--version", "1"]));
    for more in [&[][..], &["--accept-loss"], &["--accept-loss", "--dry-run"]] {
        let args = [&["rollout", "rollback", "clicks"], more].concat();
        let output = stage.stepdown(&args);
        assert_eq!(output.status.code(), Some(7), "{more:?}: {}", text(&output));
        assert_eq!(stage.record()["rollout_id"], "r-1", "{more:?}");
    }
    assert_eq!(stage.running(), set(&["blue"]));
    assert!(!stage.path("ck/green").exists());
    // The same directories were gone on with by version 2.
    let stage = Stage::new("in-place");
    for version in ["1", "2"] {
        assert_ok(&stage.roll_out(&["--version", version]));
    }
    let output = stage.stepdown(&["rollout", "rollback", "clicks", "--accept-loss"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert_eq!(stage.record()["rollout_id"], "r-2");
    assert_eq!(stage.running(), set(&["green"]));
    stage.check_exactly_once();
}
