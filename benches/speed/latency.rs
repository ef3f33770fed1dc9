//! From the removal of a marker to the moment at which the job has the stop signal.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use stepdown::model::{JobName, Slot};

use crate::page::{Row, Table};
use crate::places::{Ground, Place};
use crate::sample::Sample;

/// The bench itself is the job: with this as its first argument it waits for SIGTERM and notes when.
pub const JOB_ROLE: &str = "--be-a-job";

const ARMED_WITHIN: Duration = Duration::from_mins(2);
const INTERVAL: Duration = Duration::from_secs(5);

pub fn measure_local() -> Result<Table> {
    let place = Place::new(&Ground::Local)?;
    let sample = measure(&place, 50, Duration::from_millis(400))?;
    Ok(Table {
        how: "One `stepdown watch` with 50 jobs on local disk, all defaults. Their markers are removed \
              one after the other by `unlink`; each job is a process that notes when SIGTERM came. In \
              between are the kernel's event, two sightings 20 ms apart, and the records of the stop \
              with `fsync`."
            .to_owned(),
        rows: vec![
            Row::with_target(
                "from the removal to SIGTERM",
                sample.text(),
                "< 50 ms (median)",
                sample.median() < Duration::from_millis(50),
            ),
            Row::with_target(
                "p99",
                crate::sample::millis(sample.quantile(0.99)),
                "< 50 ms",
                sample.quantile(0.99) < Duration::from_millis(50),
            ),
        ],
    })
}

pub fn measure_hdfs() -> Result<Table> {
    let ground = Ground::hdfs()?;
    let place = Place::new(&ground)?;
    let sample = measure(&place, 30, INTERVAL)?;
    let limit = INTERVAL + Duration::from_secs(1) + Duration::from_millis(500);
    Ok(Table {
        how: "One `stepdown watch` with 30 jobs on HDFS (Hadoop 3.4), all defaults: interval 5 s, two \
              sightings 1 s apart. Markers are removed one after the other, at random moments of a \
              round; each job is a process of this host that notes when SIGTERM came."
            .to_owned(),
        rows: vec![Row::with_target(
            "from the removal to SIGTERM",
            sample.text(),
            "< 6.5 s (all)",
            sample.max() < limit,
        )],
    })
}

/// A process that waits for SIGTERM; killed when dropped.
struct Probe {
    name: String,
    child: Child,
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// The system-wide monotonic clock.
fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(
        now.tv_sec.try_into().unwrap_or(0),
        now.tv_nsec.try_into().unwrap_or(0),
    )
}

fn measure(place: &Place, count: usize, spread: Duration) -> Result<Sample> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut jobs = String::new();
    let mut probes = Vec::new();
    for index in 0..count {
        let name = format!("probe{index:02}");
        let pid_file = place.path(&format!("{name}.pid"));
        write!(
            jobs,
            "[jobs.{name}.stop]\nbackend = \"signal\"\nattempt-from = \"pid-file\"\n\
             pid-file = \"{}\"\nends-with = \"process\"\n",
            pid_file.display()
        )?;
        let child = Command::new(std::env::current_exe()?)
            .arg(JOB_ROLE)
            .arg(place.path(&format!("{name}.stopped")))
            .stdin(Stdio::null())
            .spawn()?;
        fs::write(&pid_file, format!("{}\n", child.id()))?;
        let job: JobName = name.parse()?;
        let marker = place.control().marker(&job, Slot::Blue);
        runtime.block_on(place.storage().touch(&marker))?;
        probes.push(Probe { name, child });
    }
    place.configure(0, &jobs)?;
    let mut watch = place.watch()?;
    for probe in &probes {
        watch.await_that("all are armed", ARMED_WITHIN, || {
            place.is_armed(&probe.name)
        })?;
    }
    let mut sample = Sample::default();
    for probe in &probes {
        thread::sleep(spread.mul_f64(fastrand::f64()));
        let job: JobName = probe.name.parse()?;
        let marker = place.control().marker(&job, Slot::Blue);
        let removed_at = now();
        runtime.block_on(place.storage().delete_file(&marker))?;
        let noted = place.path(&format!("{}.stopped", probe.name));
        watch.await_that("the job is asked", Duration::from_mins(1), || {
            Ok(noted.exists())
        })?;
        let stopped_at: u64 = fs::read_to_string(&noted)?
            .trim()
            .parse()
            .context("the job noted nothing")?;
        sample.push(Duration::from_nanos(stopped_at).saturating_sub(removed_at));
    }
    Ok(sample)
}

/// Waits for SIGTERM, notes when it came, and ends.
pub fn be_a_job(noted: &Path) -> ExitCode {
    let waited = || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stopped_at = runtime.block_on(async {
            let kind = tokio::signal::unix::SignalKind::terminate();
            tokio::signal::unix::signal(kind)?.recv().await;
            anyhow::Ok(now())
        })?;
        let fresh = noted.with_extension("new");
        fs::write(&fresh, stopped_at.as_nanos().to_string())?;
        fs::rename(&fresh, noted)?;
        Ok(())
    };
    // A job that cannot wait is never asked, which its bench notices.
    ExitCode::from(u8::from(waited().is_err()))
}
