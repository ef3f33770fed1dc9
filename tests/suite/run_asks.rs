//! How `run` asks its command, by the backend of its job.

use std::fs;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::common::place::{Place, SOON};
use crate::common::wait_until;
use crate::sandbox::Sandbox;

/// A program that notes what it is told of the stop, and does nothing else.
fn note(place: &Place) -> String {
    let script = "echo $STEPDOWN_ATTEMPT $STEPDOWN_JOB >> \"$0\"";
    format!("[\"sh\", \"-c\", '{script}', \"{}\"]", place.text("asked"))
}

fn asked(place: &Place) -> usize {
    let text = fs::read_to_string(place.path("asked")).unwrap_or_default();
    text.lines().count()
}

/// The `stop` tables of the backends that send no signal.
fn tables(place: &Place) -> [(&'static str, String); 2] {
    let note = note(place);
    [
        ("driver", "backend = \"driver\"".to_owned()),
        (
            "command",
            format!("backend = \"command\"\nrequest = {note}\nobserve = [\"true\"]"),
        ),
    ]
}

#[test]
fn without_the_signal_backend_a_first_signal_is_kept_from_the_command() -> Result<()> {
    for backend in 0..2 {
        let place = Place::new("asks")?;
        let (name, table) = tables(&place)[backend].clone();
        place.configure(&format!("[jobs.clicks.stop]\n{table}\n"))?;
        let job = place.job("clicks")?;
        let mut run = place.run("run", &["--job", "clicks"], job.argv(&["deaf=1"]), &[])?;
        let pid = job.await_starts(1)?;
        place.await_log("run", "the command runs")?;
        run.signal(Signal::TERM)?;
        if name == "driver" {
            wait_until(SOON, "the marker goes", || !place.marker("clicks").exists())?;
        } else {
            wait_until(SOON, "the program asks", || asked(&place) > 0)?;
            assert!(place.marker("clicks").exists());
        }
        let said = if name == "driver" {
            "the marker asks"
        } else {
            "asked"
        };
        place.await_log("run", &format!("{said} the attempt to stop"))?;
        place.await_rounds("run", 5)?;
        assert_eq!(job.count("TERM"), 0, "{name}: {:?}", job.notes());
        assert!(job.runs(pid), "{name}");
        // A second one within the same request counts as one with the first.
        let mut killed = false;
        wait_until(SOON, "a second signal kills it", || {
            killed |= place.log("run").contains("killing the command");
            killed || run.signal(Signal::TERM).is_err()
        })?;
        let status = run.await_end(SOON).with_context(|| place.log("run"))?;
        assert_eq!(status.code(), Some(128 + 9), "{name}");
        assert_eq!(job.count("TERM"), 0, "{name}");
        let receipt = place.await_receipt("clicks", 1)?;
        assert_eq!(receipt["backend"], name, "{receipt:#}");
        assert_eq!(receipt["outcome"], "stopped", "{receipt:#}");
        assert_eq!(receipt["reason"], "signal", "{receipt:#}");
        assert_eq!(receipt["how"], "killed", "{receipt:#}");
        assert_eq!(asked(&place), usize::from(name == "command"));
    }
    Ok(())
}

#[test]
fn without_the_signal_backend_a_removed_marker_sends_no_signal() -> Result<()> {
    for backend in 0..2 {
        let place = Place::new("asks")?;
        let (name, table) = tables(&place)[backend].clone();
        place.configure(&format!("[jobs.clicks.stop]\n{table}\n"))?;
        let job = place.job("clicks")?;
        // Ends as a driver does that has seen its marker go.
        let script = r#"while [ -e "$0" ]; do sleep 0.05; done; exec "$@""#;
        let marker = place.marker("clicks");
        let command = ["sh", "-c", script]
            .map(Into::into)
            .into_iter()
            .chain([marker.clone().into_os_string()])
            .chain(job.argv(&["lives=1", "dies=3"]))
            .collect();
        let mut run = place.run("run", &["--job", "clicks"], command, &[])?;
        place.await_log("run", "the command runs")?;
        fs::remove_file(marker)?;
        assert_eq!(run.await_end(SOON)?.code(), Some(3), "{name}");
        assert_eq!(job.count("TERM"), 0, "{name}: {:?}", job.notes());
        let receipt = place.await_receipt("clicks", 1)?;
        assert_eq!(receipt["outcome"], "stopped", "{receipt:#}");
        assert_eq!(receipt["reason"], "marker", "{receipt:#}");
        assert_eq!(receipt["how"], "drained", "{receipt:#}");
        assert_eq!(asked(&place), usize::from(name == "command"));
    }
    Ok(())
}

#[test]
fn a_marker_without_a_directory_is_refused_in_words() {
    let sandbox = Sandbox::new();
    for dir in ["missing", "file"] {
        sandbox.write("file", "");
        let marker = sandbox.text(&format!("{dir}/m"));
        let ran = sandbox.run(&["run", "--marker", &marker, "--", "touch", "started"]);
        // 64 above that of a mistake on the command line.
        assert_eq!(ran.code, 66, "{}", ran.stderr);
        for part in [
            marker.as_str(),
            "its directory is not there",
            "nothing was started",
        ] {
            assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
        }
        assert!(!sandbox.path("started").exists());
        assert!(!sandbox.path("missing").exists());
    }
}
