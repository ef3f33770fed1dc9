//! What an idle `stepdown watch` takes: CPU time and memory with ten thousand jobs.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::page::{Row, Table};
use crate::places::{Ground, Jobs, Place};
use crate::proc::{cpu_share, cpu_time, memory_kb};

const JOBS: usize = 10_000;
/// Long enough for a dozen rounds at the default interval of 5 s.
const OBSERVED: Duration = Duration::from_secs(90);
const SETTLING: Duration = Duration::from_secs(30);
/// What an idle watch takes at most while it is no longer starting, with room for what is measured.
const CALM: f64 = 0.04;
/// Longer than any start takes.
const CALM_WITHIN: Duration = Duration::from_mins(20);

pub fn measure_local() -> Result<Table> {
    measure(&Ground::Local, "on local disk (ext4)")
}

pub fn measure_hdfs() -> Result<Table> {
    measure(
        &Ground::hdfs()?,
        "in HDFS (Hadoop 3.4, one NameNode on this machine)",
    )
}

fn measure(ground: &Ground, place_text: &str) -> Result<Table> {
    let mut rows = Vec::new();
    for (jobs, text) in [(Jobs::Running, "running"), (Jobs::Waiting, "not running")] {
        let place = Place::new(ground)?;
        place.configure(JOBS, "")?;
        place.fill(JOBS, jobs)?;
        let mut watch = place.watch()?;
        let watch_pid = watch.pid();
        let begun = Instant::now();
        if jobs == Jobs::Running {
            watch.await_that("all are armed", Duration::from_mins(20), || {
                thread::sleep(Duration::from_secs(2));
                Ok(place.count_armed(JOBS)? == JOBS)
            })?;
        }
        let (start, start_cpu) = (begun.elapsed(), cpu_time(watch.pid())?);
        // Where nothing runs there is no record to tell that all were looked at.
        watch.await_that("the start is over", CALM_WITHIN, || {
            Ok(cpu_share(watch_pid, SETTLING)? < CALM)
        })?;
        let share = cpu_share(watch.pid(), OBSERVED)?;
        let (rss, peak) = (
            memory_kb(watch.pid(), "VmRSS")?,
            memory_kb(watch.pid(), "VmHWM")?,
        );
        rows.push(Row::with_target(
            &format!("CPU, {text}"),
            format!("{:.2} % of a core", share * 100.0),
            "< 2 %",
            share < 0.02,
        ));
        rows.push(Row::with_target(
            &format!("resident memory, {text}"),
            format!("{:.1} MB", to_mb(rss)),
            "< 40 MB",
            to_mb(rss) < 40.0,
        ));
        rows.push(Row::plain(
            &format!("its peak, {text}"),
            format!("{:.1} MB", to_mb(peak)),
        ));
        if jobs == Jobs::Running {
            rows.push(Row::plain(
                "from the start until all are armed",
                format!(
                    "{:.0} s, {:.1} s of CPU time",
                    start.as_secs_f64(),
                    start_cpu.as_secs_f64()
                ),
            ));
        }
    }
    Ok(Table {
        how: format!(
            "`stepdown watch` with {JOBS} jobs whose markers lie in one directory {place_text}, all \
             defaults (a round every 5 s, log level info), over {} s. \"Running\": each job has an \
             attempt on the cluster, as its status file says, and is armed.",
            OBSERVED.as_secs()
        ),
        rows,
    })
}

fn to_mb(kb: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let kb = kb as f64;
    kb / 1024.0
}
