//! The units of `conf/` under a real systemd: started and ready, reloaded, found hung, stopped.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::common::client::run_program;
use crate::common::place::{Place, SOON};
use crate::common::{Systemd, wait_until};

const BINARY: &str = env!("CARGO_BIN_EXE_stepdown");
const WATCH: &str = "stepdown.service";
const RUN: &str = "stepdown-run@.service";

/// A unit file as it is delivered, but for the places of the programs.
fn unit(name: &str, place: &Place) -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("conf")
        .join(name);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    ensure!(
        text.contains("/usr/local/bin/stepdown "),
        "{name} starts nothing"
    );
    Ok(text
        .replace("/usr/local/bin/stepdown ", &format!("{BINARY} "))
        .replace("/opt/%i/start", &place.text("start-%i")))
}

/// What every unit of a test needs: the test's user and directory.
fn settings(place: &Place, log: &str) -> [(&'static str, String); 4] {
    let log = format!("append:{}", place.text(log));
    [
        ("User", "root".to_owned()),
        (
            "Environment",
            format!("STEPDOWN_CONFIG={}", place.text("stepdown.toml")),
        ),
        ("StandardOutput", log.clone()),
        ("StandardError", log),
    ]
}

fn install(systemd: &Systemd, place: &Place, name: &str, more: &[(&str, &str)]) -> Result<()> {
    let own = settings(place, &format!("{}.log", name.trim_end_matches(".service")));
    let own = own.iter().map(|(key, value)| (*key, value.as_str()));
    let all: Vec<_> = own.chain(more.iter().copied()).collect();
    systemd.install(name, &unit(name, place)?, &all)
}

/// The log of `watch` says this, so often at least.
fn await_said(place: &Place, text: &str, times: usize) -> Result<()> {
    wait_until(SOON, &format!("the log says {text:?}"), || {
        place.log("stepdown").matches(text).count() >= times
    })
    .with_context(|| place.log("stepdown"))
}

#[test]
fn systemd_finds_no_mistake_in_the_units() -> Result<()> {
    let place = Place::new("units")?;
    let mut args: Vec<OsString> = vec!["verify".into(), "--man=no".into()];
    for name in [WATCH, RUN] {
        let file = place.path(name);
        fs::write(&file, unit(name, &place)?)?;
        args.push(file.into());
    }
    let start = place.path("start-clicks");
    fs::write(&start, "#!/bin/sh\n")?;
    let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
    let env = || path.clone().into_iter();
    let said = run_program(Path::new("systemd-analyze"), &args, env(), SOON)?;
    ensure!(said.is_ok(), "{said:?}");
    ensure!(said.stderr.trim().is_empty(), "{said:?}");
    // That it would have found one.
    let broken = place.path("broken.service");
    fs::write(
        &broken,
        unit(WATCH, &place)?.replace("Restart=", "Restrat="),
    )?;
    let args: Vec<OsString> = vec!["verify".into(), "--man=no".into(), broken.into()];
    let said = run_program(Path::new("systemd-analyze"), &args, env(), SOON)?;
    ensure!(said.stderr.contains("Restrat"), "{said:?}");
    Ok(())
}

#[test]
fn the_watcher_is_ready_reloads_is_watched_over_and_stops() -> Result<()> {
    const JOB: &str = "job.service";
    let place = Place::new("systemd-watch")?;
    place.configure(&place.pid_file_job("clicks", "", ""))?;
    place.touch("clicks")?;
    let systemd = Systemd::start(&place.path(""))?;
    // The job has to be where the watcher sees processes.
    let job = place.job("clicks")?;
    let argv = job.argv(&[]);
    let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
    let text = format!("[Service]\nExecStart={}\n", words.join(" "));
    systemd.install(JOB, &text, &[])?;
    systemd.succeed(&["start", JOB])?;
    place.write_pid("clicks", systemd.property(JOB, "MainPID")?.parse()?)?;
    // Quicker than the unit's, or the test would take minutes.
    let quick = [("WatchdogSec", "3"), ("RestartSec", "100ms")];
    install(&systemd, &place, WATCH, &quick)?;

    // `systemctl start` returns once the watcher has said that it is ready.
    systemd.succeed(&["start", WATCH])?;
    ensure!(place.log("stepdown").contains("watching"), "not ready yet");
    await_said(&place, "armed", 1)?;
    assert_eq!(systemd.property(WATCH, "ActiveState")?, "active");
    let main = systemd.property(WATCH, "MainPID")?;

    let views = place.pid_file_job("views", "", "");
    place.configure(&format!("{}{views}", place.pid_file_job("clicks", "", "")))?;
    systemd.succeed(&["reload", WATCH])?;
    await_said(&place, "was read again", 1)?;
    place.configure("[jobs.clicks]\nnonsense = 1\n")?;
    systemd.succeed(&["reload", WATCH])?;
    await_said(&place, "was not taken over", 1)?;
    place.configure(&format!("{}{views}", place.pid_file_job("clicks", "", "")))?;
    systemd.await_property(WATCH, "ActiveState", "active")?;
    assert_eq!(systemd.property(WATCH, "MainPID")?, main);
    // Longer than the watchdog waits: it was told all the time.
    wait_until(SOON, "a while has passed", {
        let begun = std::time::Instant::now();
        move || begun.elapsed() > Duration::from_secs(5)
    })?;
    assert_eq!(systemd.property(WATCH, "NRestarts")?, "0");
    assert_eq!(systemd.property(WATCH, "MainPID")?, main);

    // One that hangs is ended and started again, and stops what it finds asked for.
    systemd.signal_main(WATCH, "STOP")?;
    place.remove("clicks")?;
    systemd.await_property(WATCH, "NRestarts", "1")?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_eq!(receipt["outcome"], "stopped");
    systemd.await_property(WATCH, "SubState", "running")?;
    assert_ne!(systemd.property(WATCH, "MainPID")?, main);

    systemd.succeed(&["stop", WATCH])?;
    assert_eq!(systemd.property(WATCH, "ActiveState")?, "inactive");
    assert_eq!(systemd.property(WATCH, "Result")?, "success");
    ensure!(
        place.log("stepdown").contains("the jobs run on"),
        "not told"
    );

    // A configuration that is wrong from the beginning starts nothing.
    place.configure("[jobs.clicks]\nnonsense = 1\n")?;
    ensure!(!systemd.systemctl(&["start", WATCH])?.is_ok());
    Ok(())
}

#[test]
fn a_job_under_run_is_drained_by_systemctl_and_outlives_its_stepdown() -> Result<()> {
    const UNIT: &str = "stepdown-run@clicks.service";
    let place = Place::new("systemd-run")?;
    place.configure("[jobs.clicks.stop]\nbackend = \"signal\"\n")?;
    let job = place.job("clicks")?;
    let argv = job.argv(&["drain=1"]);
    let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
    let start = place.path("start-clicks");
    fs::write(&start, format!("#!/bin/sh\nexec {}\n", words.join(" ")))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&start, mode)?;
    let systemd = Systemd::start(&place.path(""))?;
    install(&systemd, &place, RUN, &[])?;
    let marker = place.marker("clicks");
    let begin = |starts: usize| {
        systemd.succeed(&["start", UNIT])?;
        wait_until(SOON, "the job runs", || {
            job.starts().len() == starts && marker.exists()
        })
        .with_context(|| place.log("stepdown-run@"))
    };

    // By its marker.
    begin(1)?;
    place.remove("clicks")?;
    systemd.await_property(UNIT, "ActiveState", "inactive")?;
    assert_eq!(systemd.property(UNIT, "Result")?, "success");
    assert_eq!(place.await_receipt("clicks", 1)?["how"], "drained");

    // By systemd: the job is asked once, and has the time that it needs.
    begin(2)?;
    systemd.succeed(&["stop", UNIT])?;
    assert_eq!(systemd.property(UNIT, "Result")?, "success");
    let receipt = place.await_receipt("clicks", 2)?;
    assert_eq!(receipt["how"], "drained");
    assert_eq!(job.count("TERM"), 2, "{:?}", job.notes());

    // stepdown itself is killed: the job runs on, and the next start takes it over.
    begin(3)?;
    systemd.signal_main(UNIT, "KILL")?;
    systemd.await_property(UNIT, "ActiveState", "failed")?;
    assert_eq!(place.receipts("clicks")?.len(), 2);
    systemd.succeed(&["start", UNIT])?;
    wait_until(SOON, "the job was adopted", || {
        place.log("stepdown-run@").contains("following the attempt")
            && systemd
                .property(UNIT, "SubState")
                .is_ok_and(|state| state == "running")
    })?;
    systemd.succeed(&["stop", UNIT])?;
    assert_eq!(place.await_receipt("clicks", 3)?["how"], "drained");
    assert_eq!(job.starts().len(), 3);
    Ok(())
}
