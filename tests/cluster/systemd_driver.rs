//! A Spark driver with the kit as a service of a real systemd, by the unit that `docs/driver.md` shows.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::spark_job::{STEP, kit_jar, spark_env};
use crate::common::place::Place;
use crate::common::spark::{newest_batch, pyspark_home};
use crate::common::{SparkVersion, Systemd, Turn, wait_until};

const UNIT: &str = "clicks.service";
const JOBS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spark/jobs");
/// Of each batch; so a stop comes into one.
const BATCH_SECONDS: &str = "4";
/// Some time within a batch.
const WITHIN: Duration = Duration::from_millis(1500);

/// The unit of the page, but for the places of the programs.
fn unit_of_docs(start: &Path) -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/driver.md");
    let page = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let section = page.split_once("### systemd").context("no such section")?;
    let unit = section.1.split("```").nth(1).context("it shows no unit")?;
    for words in [
        "/opt/spark/bin/spark-submit ... app.py",
        "-/usr/local/bin/stepdown ",
    ] {
        ensure!(unit.contains(words), "the unit does not have {words:?}");
    }
    let start = start.display().to_string();
    Ok(unit
        .replace("/opt/spark/bin/spark-submit ... app.py", &start)
        .replace(
            "/usr/local/bin/stepdown ",
            &format!("{} ", env!("CARGO_BIN_EXE_stepdown")),
        ))
}

/// A script that starts the driver: `spark-submit` with the kit and a job that knows nothing of it.
fn write_start(place: &Place) -> Result<()> {
    // Below systemd /tmp is another directory.
    let jar = place.path("kit.jar");
    fs::copy(kit_jar()?, &jar)?;
    let home = pyspark_home(SparkVersion::V4)?;
    let java = std::env::var_os("JAVA_HOME").map(|java| ("JAVA_HOME".into(), java));
    let of_stepdown = [
        ("STEPDOWN_CONTROL", place.text("control")),
        ("STEPDOWN_JOB", "clicks".to_owned()),
        ("STEPDOWN_SLOT", "blue".to_owned()),
    ];
    let of_stepdown = of_stepdown.map(|(key, value)| (key.into(), value.into()));
    let environment = spark_env(&home).into_iter().chain(java).chain(of_stepdown);
    let mut lines = vec!["#!/bin/sh".to_owned()];
    lines.extend(
        environment.map(|(key, value)| format!("export {}='{}'", key.display(), value.display())),
    );
    lines.push(format!(
        "exec {JOBS}/start.sh {} --conf spark.stepdown.interval=200ms \\\n\
         {JOBS}/plain.py {} '0 seconds' {BATCH_SECONDS}\n",
        jar.display(),
        place.text("checkpoints"),
    ));
    let start = place.path("start");
    fs::write(&start, lines.join("\n"))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    Ok(fs::set_permissions(&start, mode)?)
}

#[test]
#[ignore = "three starts of Spark below systemd: `make soak`"]
fn soak_a_driver_under_systemd_ends_after_its_batch() -> Result<()> {
    let _turn = Turn::take();
    let place = Place::new("systemd-driver")?;
    let checkpoint = place.path("checkpoints/0");
    place.configure(&format!(
        "[jobs.clicks]\ncheckpoints = [\"{}\"]\n[jobs.clicks.stop]\nbackend = \"driver\"\n",
        checkpoint.display()
    ))?;
    write_start(&place)?;
    let systemd = Systemd::start(&place.path(""))?;
    let log = format!("append:{}", place.text("clicks.log"));
    let config = format!("STEPDOWN_CONFIG={}", place.text("stepdown.toml"));
    // systemd forgets a unit that has ended well.
    let note = format!("sh -c 'echo $EXIT_STATUS >>{}'", place.text("ends"));
    let settings = [
        ("ExecStopPost", note.as_str()),
        ("Environment", config.as_str()),
        ("StandardOutput", &log),
        ("StandardError", &log),
    ];
    systemd.install(UNIT, &unit_of_docs(&place.path("start"))?, &settings)?;
    let newest = |log: &str| newest_batch(&checkpoint.join(log));
    let begin = || -> Result<u64> {
        place.touch("clicks")?;
        let before = newest("commits");
        systemd.succeed(&["start", UNIT])?;
        wait_until(STEP, "a batch runs after one that was committed", || {
            newest("commits") > before && newest("offsets") > newest("commits")
        })
        .with_context(|| place.log("clicks"))?;
        std::thread::sleep(WITHIN);
        newest("offsets").context("no batch")
    };
    let ended = |running: u64, how: &str, statuses: &[&str]| -> Result<()> {
        systemd
            .await_property(UNIT, "ActiveState", "inactive")
            .with_context(|| format!("{how}: {}", place.log("clicks")))?;
        assert_eq!(systemd.property(UNIT, "Result")?, "success", "{how}");
        // One end more, and no start after it.
        let ends = fs::read_to_string(place.path("ends"))?;
        assert_eq!(ends.lines().collect::<Vec<_>>(), statuses, "{how}");
        ensure!(
            newest("offsets") == newest("commits"),
            "{how}: planned {:?}, committed {:?}",
            newest("offsets"),
            newest("commits")
        );
        ensure!(
            newest("commits") >= Some(running),
            "{how}: {running} was lost"
        );
        Ok(())
    };

    // By its marker.
    let running = begin()?;
    place.remove("clicks")?;
    ended(running, "rm", &["0"])?;

    // By systemd, which asks stepdown for it.
    let running = begin()?;
    systemd.succeed(&["stop", UNIT])?;
    ended(running, "systemctl stop", &["0", "0"])?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_eq!(receipt["proof"]["verdict"], "clean", "{receipt:#}");

    // By its signal alone.
    let no_stepdown = settings.into_iter().chain([("ExecStop", "")]);
    let no_stepdown: Vec<_> = no_stepdown.collect();
    systemd.install(UNIT, &unit_of_docs(&place.path("start"))?, &no_stepdown)?;
    let running = begin()?;
    systemd.succeed(&["stop", UNIT])?;
    ended(running, "SIGTERM", &["0", "0", "143"])?;
    Ok(())
}
