//! stepdown beside the driver kit: what it reads in the kit's status, and when it signals all the same.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::common::batches::{Batches, LocalLog, Rhythm};
use crate::common::job::BareJob;
use crate::common::place::{Place, SOON};
use crate::common::{Job, wait_until};

/// The configuration of a job with batches, which go on until a signal comes.
struct Ground {
    place: Place,
    job: Job,
    _query: Batches,
}

impl Ground {
    fn new(name: &str, keys: &str, stop: &str) -> Result<Self> {
        let place = Place::new(name)?;
        let rhythm = Rhythm::new(1.6, 0.4);
        let dir = place.path("checkpoint");
        let log = LocalLog::new(&dir)?;
        let first = log.add_history(12, &rhythm)?;
        let notes: PathBuf = place.path("clicks.notes");
        let query = Batches::start(log, first, rhythm, move || {
            fs::read_to_string(&notes).is_ok_and(|text| text.contains("TERM"))
        });
        place.configure(&format!(
            "[jobs.clicks]\ncheckpoints = [\"{}\"]\n{keys}\n[jobs.clicks.stop]\nbackend = \"driver\"\n\
             boundary-reaction = \"300ms\"\n{stop}\n",
            dir.display()
        ))?;
        let job = place.job("clicks")?;
        Ok(Self {
            place,
            job,
            _query: query,
        })
    }

    /// Writes a status file as the kit of this process does, with `kit` over what it says of a healthy driver.
    fn write(&self, file: &str, pid: u32, kit: &Value) -> Result<()> {
        let attempt = stepdown::process::identify(pid)?;
        let mut status = json!({
            "format": 1, "kind": "status", "write_id": "41d1a09a-1c9a-4a0c-8c8a-9c0a5f1b7d11",
            "job": "clicks", "slot": "blue", "attempt": attempt, "phase": "running",
            "marker": self.place.text("control/markers/clicks.blue"),
            "written_at": "2026-11-20T08:09:53Z", "kit_version": "0.1.0", "kit_revision": "abc",
            "application_id": "local-1", "spark_version": "3.5.9", "can_drain": true, "armed": true,
            "sighting": "present",
            "queries": [{
                "id": "c77e8c68-28a9-4bfb-877a-e29b6987550f", "run_id": "1", "name": "q0",
                "checkpoint": "file:///ck", "last_planned": 9, "last_batch": 8
            }],
        });
        let fields = status.as_object_mut().context("an object")?;
        for (key, value) in kit.as_object().context("an object")? {
            fields.insert(key.clone(), value.clone());
        }
        let file = self.place.path("control/status").join(file);
        let temporary = file.with_extension("tmp");
        fs::write(&temporary, status.to_string())?;
        fs::rename(temporary, file)?;
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        let ran = self.place.stepdown(&["--json", "status", "clicks"])?;
        let status: Value =
            serde_json::from_str(&ran.stdout).with_context(|| format!("{ran:?}"))?;
        Ok(status["slots"][0].clone())
    }
}

/// A job with a driver kit, whose status file the test writes.
struct Driver {
    bare: BareJob,
    ground: Ground,
}

impl std::ops::Deref for Driver {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

impl Driver {
    /// A job that runs and is watched; `kit` is what its status says.
    fn start(name: &str, keys: &str, stop: &str, kit: &Value) -> Result<Self> {
        let ground = Ground::new(name, keys, stop)?;
        let bare = ground.job.start(&["drain=0.1"])?;
        let driver = Self { bare, ground };
        driver.place.touch("clicks")?;
        driver.write(kit)?;
        Ok(driver)
    }

    fn write(&self, kit: &Value) -> Result<()> {
        self.ground.write("clicks.blue.json", self.bare.pid(), kit)
    }

    fn await_step(&self, step: &str) -> Result<()> {
        wait_until(SOON, &format!("its stop is {step}"), || {
            self.status()
                .is_ok_and(|status| status["stop"]["step"] == step)
        })
    }

    fn kill(&self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.bare.pid())?).context("no pid")?;
        Ok(kill_process(pid, Signal::KILL)?)
    }
}

/// The kit lacks a field, so the driver was asked once, between two batches, and ended cleanly.
fn assert_signalled_in_a_gap(job: &Job, receipt: &Value) {
    assert_eq!(job.count("TERM"), 1);
    assert_eq!(receipt["outcome"], "stopped", "{receipt:#}");
    assert_eq!(receipt["backend"], "driver", "{receipt:#}");
    assert_eq!(receipt["proof"]["verdict"], "clean", "{receipt:#}");
    assert_eq!(receipt["boundary"]["asked"], "in-gap", "{receipt:#}");
    let why = receipt["boundary"]["why"].as_str().unwrap_or_default();
    assert!(
        why.contains("no field StreamExecution.state"),
        "{receipt:#}"
    );
}

#[test]
fn a_kit_that_cannot_drain_has_its_driver_signalled_between_two_batches() -> Result<()> {
    let kit = json!({"can_drain": false, "missing": "no field StreamExecution.state"});
    let driver = Driver::start("lacks", "", "", &kit)?;
    let place = &driver.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_signalled_in_a_gap(&driver.job, &receipt);
    Ok(())
}

#[test]
fn a_kit_that_lives_is_sent_nothing_whatever_it_does() -> Result<()> {
    let driver = Driver::start("lives", "drain-deadline = \"1s\"", "", &json!({}))?;
    let place = &driver.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    driver.await_step("waiting")?;
    wait_until(SOON, "the alarm", || {
        place.count_hooks("on-alarm clicks overdue") == 1
    })?;
    assert_eq!(driver.job.count("TERM"), 0);
    driver.write(&json!({"phase": "draining", "drain_reason": "marker"}))?;
    driver.await_step("asked")?;
    assert_eq!(driver.status()?["state"], "stopping");
    driver.write(&json!({"phase": "drained"}))?;
    driver.kill()?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_eq!(receipt["outcome"], "stopped", "{receipt:#}");
    assert_eq!(receipt["boundary"], Value::Null, "{receipt:#}");
    assert_eq!(driver.job.count("TERM"), 0);
    Ok(())
}

#[test]
fn a_kit_without_a_heartbeat_counts_as_gone() -> Result<()> {
    let driver = Driver::start("stale", "", "heartbeat-timeout = \"2s\"", &json!({}))?;
    let place = &driver.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    for _ in 0..3 {
        driver.write(&json!({}))?;
        place.await_rounds("watch", 3)?;
    }
    place.remove("clicks")?;
    driver.await_step("waiting")?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_eq!(driver.job.count("TERM"), 1);
    assert_eq!(receipt["proof"]["verdict"], "clean", "{receipt:#}");
    let why = receipt["boundary"]["why"].as_str().unwrap_or_default();
    assert!(
        why.contains("has not written its status for"),
        "{receipt:#}"
    );
    Ok(())
}

#[test]
fn one_that_must_not_be_signalled_raises_an_alarm() -> Result<()> {
    let kit = json!({"can_drain": false, "missing": "x"});
    let driver = Driver::start("never", "", "at-boundary = \"never\"", &kit)?;
    let place = &driver.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    wait_until(SOON, "the alarm", || {
        place.count_hooks("on-alarm clicks cannot-drain") == 1
    })?;
    place.await_rounds("watch", 5)?;
    assert_eq!(driver.job.count("TERM"), 0);
    Ok(())
}

#[test]
fn one_of_another_host_that_cannot_drain_raises_an_alarm() -> Result<()> {
    let kit = json!({
        "can_drain": false, "missing": "x",
        "attempt": {"kind": "named", "name": "application_1_2/1"},
    });
    let driver = Driver::start("far", "", "", &kit)?;
    let place = &driver.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    wait_until(SOON, "the alarm", || {
        place.count_hooks("on-alarm clicks cannot-drain") == 1
    })?;
    assert!(
        place
            .log("watch")
            .contains("no signal reaches it from here")
    );
    assert_eq!(driver.job.count("TERM"), 0);
    Ok(())
}

#[test]
fn a_driver_that_ends_without_having_drained_died() -> Result<()> {
    for (phase, outcome) in [
        ("running", "died"),
        ("draining", "died"),
        ("drained", "stopped"),
        ("ended", "stopped"),
    ] {
        let driver = Driver::start("ends", "", "", &json!({}))?;
        let place = &driver.place;
        let _watch = place.watch("watch", &[])?;
        place.await_log("watch", " armed ")?;
        place.remove("clicks")?;
        driver.await_step("waiting")?;
        if phase != "ended" {
            driver.write(&json!({"phase": phase}))?;
        }
        if phase != "running" && phase != "ended" {
            driver.await_step("asked")?;
        }
        if phase == "ended" {
            driver.write(&json!({"phase": phase, "exit": {"kind": "code", "code": 0}}))?;
        }
        driver.kill()?;
        let receipt = place.await_receipt("clicks", 1)?;
        assert_eq!(receipt["outcome"], outcome, "{phase}: {receipt:#}");
        let hook = if outcome == "died" { "on-died" } else { "on-" };
        wait_until(SOON, "the hook ran", || place.count_hooks(hook) == 1)?;
    }
    Ok(())
}

#[test]
fn a_status_of_a_lower_generation_is_refused() -> Result<()> {
    let driver = Driver::start("generations", "", "", &json!({"generation": 4}))?;
    let place = &driver.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    // A driver of before that was halted, and goes on.
    driver.write(&json!({
        "generation": 3, "phase": "ended",
        "attempt": {"kind": "named", "name": "application_1_1/1"},
    }))?;
    wait_until(SOON, "the alarm", || {
        place.count_hooks("on-alarm clicks attempt-unknown") == 1
    })?;
    assert!(place.receipts("clicks")?.is_empty());
    assert!(
        place
            .log("watch")
            .contains("of generation 3, and 4 is known")
    );
    driver.write(&json!({"generation": 4}))?;
    place.await_log("watch", "the alarm is over")?;
    Ok(())
}

#[test]
fn status_shows_what_the_kit_says() -> Result<()> {
    let driver = Driver::start("shown", "", "", &json!({}))?;
    let place = &driver.place;
    let shown = driver.status()?;
    let kit = &shown["driver"];
    assert_eq!(kit["phase"], "running", "{shown:#}");
    assert_eq!(kit["kit_version"], "0.1.0", "{shown:#}");
    assert_eq!(kit["can_drain"], true, "{shown:#}");
    assert_eq!(kit["queries"][0]["last_planned"], 9, "{shown:#}");
    assert_eq!(kit["queries"][0]["last_batch"], 8, "{shown:#}");
    let age = kit["heartbeat_age_seconds"].as_f64().unwrap_or(-1.0);
    assert!((0.0..60.0).contains(&age), "{shown:#}");
    let text = place.stepdown(&["status", "clicks"])?.stdout;
    for part in [
        "driver kit 0.1.0, Spark 3.5.9, local-1: running",
        "heartbeat",
        "query q0, as of that heartbeat: last planned batch 9, last committed 8",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    driver.write(&json!({"can_drain": false, "missing": "no field x"}))?;
    let text = place.stepdown(&["status"])?.stdout;
    assert!(
        text.contains("CANNOT DRAIN, this Spark lacks something: no field x"),
        "{text}"
    );
    Ok(())
}

#[test]
fn follow_shows_the_drain_going_on() -> Result<()> {
    let driver = Driver::start("followed", "", "", &json!({}))?;
    let place = &driver.place;
    let args = [
        "--json",
        "status",
        "clicks",
        "--follow",
        "--interval",
        "100ms",
    ];
    let mut follow = place.start("follow", args.map(Into::into), &[])?;
    place.await_log("follow", "\"phase\":\"running\"")?;
    for (batch, phase) in [(9, "draining"), (9, "drained")] {
        driver.write(&json!({
            "phase": phase,
            "queries": [{"id": "c77e8c68", "last_planned": 9, "last_batch": batch}],
        }))?;
        place.await_log("follow", &format!("\"phase\":\"{phase}\""))?;
    }
    follow.signal(Signal::INT)?;
    assert_eq!(follow.await_end(Duration::from_secs(20))?.code(), Some(130));
    Ok(())
}

#[test]
fn below_run_a_kit_that_cannot_drain_has_its_driver_signalled_between_two_batches() -> Result<()> {
    let ground = Ground::new("run-lacks", "", "")?;
    let (place, job) = (&ground.place, &ground.job);
    place.stepdown(&["init", &place.text("control")])?;
    // What the kit of an earlier command said is nothing to this one.
    ground.write("clicks.blue.kit.json", std::process::id(), &json!({}))?;
    let noted = place.text("environment");
    let script = r#"test ! -e "$STEPDOWN_KIT_STATUS" && env > "$0"; exec "$@""#;
    let command = ["sh", "-c", script, &noted]
        .map(Into::into)
        .into_iter()
        .chain(job.argv(&["drain=0.1"]));
    let mut run = place.run("run", &["--job", "clicks"], command.collect(), &[])?;
    let pid = job.await_starts(1)?;
    let environment = fs::read_to_string(noted).context("the old word of a kit is there")?;
    let own = place.text("control/status/clicks.blue.kit.json");
    assert!(
        environment.contains(&format!("STEPDOWN_KIT_STATUS={own}\n")),
        "{environment}"
    );
    let kit = json!({"can_drain": false, "missing": "no field StreamExecution.state"});
    ground.write("clicks.blue.kit.json", pid, &kit)?;
    let shown = ground.status()?;
    assert_eq!(shown["driver"]["can_drain"], false, "{shown:#}");
    place.remove("clicks")?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert!(run.await_end(SOON).is_ok());
    assert_signalled_in_a_gap(job, &receipt);
    Ok(())
}

#[test]
fn below_run_a_driver_with_a_kit_that_ends_without_having_drained_died() -> Result<()> {
    for (phase, outcome) in [("running", "died"), ("drained", "stopped")] {
        let ground = Ground::new("run-ends", "", "")?;
        let (place, job) = (&ground.place, &ground.job);
        let behaviour = ["lives=4", "dies=0"];
        let mut run = place.run("run", &["--job", "clicks"], job.argv(&behaviour), &[])?;
        let pid = job.await_starts(1)?;
        ground.write("clicks.blue.kit.json", pid, &json!({}))?;
        place.remove("clicks")?;
        ground.write("clicks.blue.kit.json", pid, &json!({"phase": phase}))?;
        let receipt = place.await_receipt("clicks", 1)?;
        assert_eq!(receipt["outcome"], outcome, "{phase}: {receipt:#}");
        assert_eq!(run.await_end(SOON)?.code(), Some(0), "{phase}");
        assert_eq!(job.count("TERM"), 0, "{phase}");
    }
    Ok(())
}
