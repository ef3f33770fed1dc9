//! One stop from end to end on local disk: a marker goes, a real process is asked once, a receipt comes.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::common::place::{Place, SOON};
use crate::common::{Job, wait_until};

/// Checks what the receipt says under these names.
fn assert_says(receipt: &Value, expected: &[(&str, Value)]) {
    for (name, value) in expected {
        assert_eq!(&receipt[name], value, "{name} of {receipt:#}");
    }
}

/// A job under a running `watch`, armed.
struct Watched {
    place: Place,
    job: Job,
    bare: crate::common::job::BareJob,
    watch: crate::common::daemon::Daemon,
}

fn watched(name: &str, keys: &str, stop: &str, behaviour: &[&str]) -> Result<Watched> {
    let place = Place::new(name)?;
    place.configure(&place.pid_file_job("clicks", keys, stop))?;
    let job = place.job("clicks")?;
    let bare = job.start(behaviour)?;
    place.write_pid("clicks", bare.pid())?;
    place.touch("clicks")?;
    let watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    Ok(Watched {
        place,
        job,
        bare,
        watch,
    })
}

/// The ways in which operators take a marker away.
type Removal = (&'static str, fn(&Place) -> Result<()>);
const REMOVALS: &[Removal] = &[
    ("rm", |place| place.remove("clicks")),
    ("marker rm", |place| {
        let marker = place.marker("clicks");
        let ran = place.stepdown(&["marker", "rm", &marker.to_string_lossy()])?;
        ensure!(ran.is_ok(), "{ran:?}");
        Ok(())
    }),
    ("marker rm --job", |place| {
        let ran = place.stepdown(&["marker", "rm", "--job", "clicks"])?;
        ensure!(ran.is_ok(), "{ran:?}");
        Ok(())
    }),
    ("stop", |place| {
        let ran = place.stepdown(&["stop", "clicks"])?;
        ensure!(ran.is_ok(), "{ran:?}");
        ensure!(ran.stdout.contains("unproven"), "{ran:?}");
        Ok(())
    }),
    ("stop --no-wait", |place| {
        let ran = place.stepdown(&["stop", "clicks", "--no-wait"])?;
        ensure!(ran.is_ok(), "{ran:?}");
        Ok(())
    }),
    ("mv", |place| {
        let away = place.path("moved-away");
        fs::rename(place.marker("clicks"), away).context("mv")
    }),
];

#[test]
fn a_removed_marker_stops_a_watched_job_once() -> Result<()> {
    for (name, remove) in REMOVALS {
        let Watched {
            place,
            job,
            mut bare,
            watch,
        } = watched("stops", "", "", &["drain=0.2", "code=3"])?;
        remove(&place).with_context(|| (*name).to_owned())?;
        let receipt = place.await_receipt("clicks", 1)?;
        assert_says(
            &receipt,
            &[
                ("outcome", "stopped".into()),
                ("how", "drained".into()),
                ("reason", "marker".into()),
                ("start_requested", false.into()),
                ("backend", "signal".into()),
            ],
        );
        wait_until(SOON, "the process is gone", || bare.exit_status().is_some())?;
        place.await_rounds("watch", 5)?;
        assert_eq!(job.count("TERM"), 1, "{name}: {:?}", job.notes());
        assert_eq!(place.receipts("clicks")?.len(), 1, "{name}");
        assert_eq!(place.hooks(), ["on-unproven clicks unproven"], "{name}");
        assert!(watch.terminate()?.success(), "{name}");
    }
    Ok(())
}
