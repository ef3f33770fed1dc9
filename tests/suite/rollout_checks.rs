//! Around rollouts: the built-in checks of a new job, what `doctor` says, what is kept and for how long,
//! and what `run` says of the rollout that has it started.

use std::fs;
use std::process::Output;

use serde_json::Value;

use super::rollouts::{Stage, set, text, wait_until};

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

/// A batch takes so long, in seconds, in the job that is started from now on.
fn batches_of(stage: &mut Stage, seconds: &str) {
    stage.job_words = vec!["--batch".into(), seconds.into()];
}

#[test]
fn a_job_that_is_behind_or_slow_does_not_take_over() {
    let mut stage = Stage::new("parallel");
    let deadlines = "gate-interval = \"200ms\"\ngate-deadline = \"4s\"\n";
    let begun = stage.roll_out(&[]);
    assert!(begun.status.success(), "{}", text(&begun));
    for (batch, check, outcome, runs) in [
        // Ten offsets a batch: it falls behind by fifty in less than half a second.
        ("0.3", "gate-max-lag = 50", "aborted", "blue"),
        ("0.02", "gate-max-lag = 50", "rolled-out", "green"),
        ("0.3", "gate-max-slowdown = 4", "aborted", "green"),
        ("0.05", "gate-max-slowdown = 20.0", "rolled-out", "blue"),
    ] {
        batches_of(&mut stage, batch);
        stage.extra = format!("{deadlines}{check}");
        stage.configure();
        let output = stage.roll_out(&[]);
        assert_eq!(stage.outcome(), outcome, "{check}: {}", text(&output));
        assert_eq!(stage.running(), set(&[runs]), "{check}");
    }
    stage.check_sink();
}

#[test]
fn doctor_shows_a_rollout_that_is_not_over() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    let check = || {
        let report = json(&stage.stepdown(&["--json", "doctor"]));
        let checks = report["checks"].as_array().unwrap().clone();
        checks
            .into_iter()
            .find(|check| check["name"] == "rollout clicks")
    };
    assert_eq!(check(), None, "it was never rolled out");
    let begun = stage.roll_out(&["--version", "1"]);
    assert!(begun.status.success(), "{}", text(&begun));
    let over = check().unwrap();
    assert_eq!(over["verdict"], "ok", "{over}");
    assert!(
        over["found"]
            .as_str()
            .unwrap()
            .contains("r-1, ended as rolled-out")
    );

    let killed = stage
        .command(&["rollout", "start", "clicks"])
        .env("STEPDOWN_CRASH_AT", "rollout-entered-held")
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "{}", text(&killed));
    let left = check().unwrap();
    assert_eq!(left["verdict"], "warn", "{left}");
    let found = left["found"].as_str().unwrap();
    assert!(
        found.contains("r-2 is at held") && found.contains("is gone"),
        "{left}"
    );
    assert!(
        left["advice"]
            .as_str()
            .unwrap()
            .contains("stepdown rollout start clicks")
    );

    let mut driving = stage.spawn(&["rollout", "start", "clicks"]);
    wait_until("somebody to drive it", || {
        check().unwrap()["verdict"] == "ok"
    });
    let asked = stage.stepdown(&["rollout", "abort", "clicks"]);
    assert!(asked.status.success(), "{}", text(&asked));
    assert_eq!(driving.wait().unwrap().code(), Some(1));
}

#[test]
fn what_was_moved_aside_goes_after_its_time() {
    let mut stage = Stage::new("stop-start");
    for _ in 0..5 {
        let output = stage.roll_out(&[]);
        assert!(output.status.success(), "{}", text(&output));
    }
    let dir = stage.path("ck");
    let aside = |of: &str| {
        let mut names: Vec<String> = fs::read_dir(&dir)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
            .filter(|name| name.starts_with(&format!("{of}.stepdown-")))
            .collect();
        names.sort();
        names
    };
    let (blue, green) = (aside("blue"), aside("green"));
    assert_eq!((blue.len(), green.len()), (2, 1), "{blue:?} {green:?}");

    let unsaid = stage.stepdown(&["rollout", "retain", "clicks"]);
    assert_eq!(unsaid.status.code(), Some(2), "{}", text(&unsaid));
    let args = ["--json", "rollout", "retain", "clicks", "--keep-for"];
    let report = json(&stage.stepdown(&[&args[..], &["0s", "--dry-run"]].concat()));
    let fates: Vec<_> = report["replaced"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["slot"].as_str().unwrap(),
                one["fate"].as_str().unwrap(),
                one["is_copy"].as_bool().unwrap(),
            )
        })
        .collect();
    let expected = [
        // The first one that ever ran: nobody copied it.
        ("blue", "remove", false),
        ("blue", "keep-newest", true),
        ("green", "keep-newest", true),
    ];
    assert_eq!(fates, expected, "{report}");
    let young = json(&stage.stepdown(&[&args[..], &["1d"]].concat()));
    assert_eq!(young["replaced"][0]["fate"], "keep-young");
    assert_eq!(
        (aside("blue"), aside("green")),
        (blue.clone(), green.clone())
    );

    stage.extra = "keep = \"1s\"".to_owned();
    stage.configure();
    let mut watch = stage.spawn(&["watch"]);
    wait_until("the old one to go", || aside("blue") == blue[1..]);
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(aside("green"), green);
    assert_eq!(stage.running(), set(&["blue"]));
    stage.check_exactly_once();
}

#[test]
fn run_says_which_rollout_has_it_started() {
    let stage = Stage::new("stop-start");
    let status = |variables: &[(&str, &str)]| {
        let mut command =
            stage.command(&["run", "--job", "clicks", "--slot", "blue", "--", "true"]);
        let ran = command.envs(variables.iter().copied()).output().unwrap();
        assert_eq!(ran.status.code(), Some(0), "{}", text(&ran));
        let file = fs::read(stage.path("c/status/clicks.blue.json")).unwrap();
        serde_json::from_slice::<Value>(&file).unwrap()
    };
    let ours = [
        ("STEPDOWN_JOB", "clicks"),
        ("STEPDOWN_SLOT", "blue"),
        ("STEPDOWN_ROLLOUT_ID", "r-3"),
        ("STEPDOWN_GENERATION", "7"),
    ];
    let tagged = status(&ours);
    assert_eq!(tagged["rollout_id"], "r-3", "{tagged}");
    assert_eq!(tagged["generation"], 7, "{tagged}");
    assert_eq!(tagged["phase"], "ended", "{tagged}");
    // It is read as every other status.
    let report = json(&stage.stepdown(&["--json", "status", "clicks"]));
    assert_eq!(report["slots"][0]["slot"], "blue", "{report}");
    // Within another job of the same rollout it says nothing of this one.
    let mut others = ours;
    others[0].1 = "views";
    assert_eq!(status(&others).get("rollout_id"), None);
    assert_eq!(status(&[]).get("rollout_id"), None);
}
