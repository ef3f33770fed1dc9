//! Ten thousand markers in one directory, polled every second.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::eye::Eye;
use super::remote::{Remote, STOPPED, fresh_path};
use crate::common::jmx::rpc_calls;
use crate::common::place::SOON;
use crate::common::{Hdfs, wait_until};

const MARKERS: usize = 10_000;
/// So many of the jobs run, and are armed one by one: what that takes is the DataNode's time.
const RUNNING: usize = 1_000;
/// The one whose marker is removed; the others that run share a process, which is deaf.
const CHOSEN: usize = 500;
/// Rounds over which requests are counted.
const ROUNDS: usize = 20;
/// All that run have to be armed in this time.
const ARMED: Duration = Duration::from_mins(3);

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one server, one trouble after the other"
)]
fn ten_thousand_markers_cost_a_dozen_requests_a_round() -> Result<()> {
    let hdfs = Hdfs::builder()
        .heap_mb(512)
        // A file need not wait until the DataNode has told the NameNode of its block.
        .server_hdfs_site("dfs.namenode.file.close.num-committed-allowed", "1")
        .start()?;
    let eye = Arc::new(Eye::open(hdfs.conf_dir())?);
    let remote = Remote::within(eye, &fresh_path("scale"), hdfs.conf_dir(), "")?;
    let names: Vec<String> = (0..MARKERS).map(|number| format!("job{number}")).collect();
    let chosen = names[CHOSEN].as_str();
    let tables: String = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let pid_file = match index {
                CHOSEN => "chosen",
                0..RUNNING => "others",
                _ => "nobody",
            };
            format!(
                "[jobs.{name}.stop]\nbackend = \"signal\"\nattempt-from = \"pid-file\"\n\
                 pid-file = \"{}\"\n",
                remote.text(&format!("{pid_file}.pid"))
            )
        })
        .collect::<Vec<_>>()
        .concat();
    remote.configure_with(
        "interval = \"1s\"\nattempt-interval = \"1m\"\ncall-timeout = \"20s\"\nalarm-after = \"1m\"",
        &tables,
    )?;
    let mut jobs = remote.start_jobs(&["chosen"], &["drain=0.2", "most=900"])?;
    let mut others = remote.start_jobs(&["others"], &["deaf=1", "most=900"])?;
    let begun = Instant::now();
    let markers: Vec<String> = names.iter().map(|name| remote.marker(name)).collect();
    remote.eye().touch_all(&markers)?;
    println!("{MARKERS} markers were made in {:?}", begun.elapsed());

    let begun = Instant::now();
    let watch = remote.watch("watch", &[])?;
    let armed = || remote.log("watch").matches(" armed ").count();
    let mut looked = Instant::now();
    wait_until(ARMED, "all are armed", || {
        if looked.elapsed() < Duration::from_secs(2) {
            return false;
        }
        looked = Instant::now();
        armed() == RUNNING
    })
    .with_context(|| format!("{} are", armed()))?;
    println!("{RUNNING} were armed after {:?}", begun.elapsed());

    let calls =
        || rpc_calls(hdfs.namenode().http_port(), hdfs.namenode().port()).context("no figures");
    let cpu = |pid: u32| -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks = |at: usize| after_name.split_whitespace().nth(at)?.parse::<f64>().ok();
        let used = ticks(11).zip(ticks(12)).context("no times")?;
        Ok((used.0 + used.1) / 100.0)
    };
    remote.await_rounds("watch", 3)?;
    let (before, from, cpu_before, begun) = (
        calls()?,
        remote.rounds("watch"),
        cpu(watch.pid())?,
        Instant::now(),
    );
    wait_until(SOON * 4, "rounds go by", || {
        remote.rounds("watch") >= from + ROUNDS
    })?;
    let (after, rounds) = (calls()?, remote.rounds("watch") - from);
    let counted = |name: &str| {
        let count = |calls: &std::collections::BTreeMap<String, u64>| {
            calls.get(name).copied().unwrap_or_default()
        };
        count(&after) - count(&before)
    };
    let (listings, looks) = (counted("GetListing"), counted("GetFileInfo"));
    let all: u64 = after.keys().map(|name| counted(name)).sum();
    let made: Vec<(&String, u64)> = after
        .keys()
        .map(|name| (name, counted(name)))
        .filter(|(_, count)| *count > 0)
        .collect();
    println!("requests in {rounds} rounds: {made:?}");
    let each = |count: u64| {
        f64::from(u32::try_from(count).unwrap_or(u32::MAX))
            / f64::from(u32::try_from(rounds).unwrap_or(1))
    };
    println!(
        "a round over {MARKERS} markers: {:.1} listings, {:.1} looks, {:.1} requests in all; \
         {:.1} % of a core (not optimised)",
        each(listings),
        each(looks),
        each(all),
        (cpu(watch.pid())? - cpu_before) / begun.elapsed().as_secs_f64() * 100.0
    );
    let status = fs::read_to_string(format!("/proc/{}/status", watch.pid()))?;
    let resident = status.lines().find(|line| line.starts_with("VmRSS"));
    println!("resident: {}", resident.unwrap_or_default());
    assert!((9.5..=11.5).contains(&each(listings)), "{after:?}");
    assert!(each(listings) + each(looks) <= 14.0, "{after:?}");

    let last = u32::try_from(remote.rounds("watch"))?;
    remote.remove(chosen)?;
    let took = jobs[0].await_request(SOON * 2)?;
    println!("from the removal to the signal: {took:?}");
    jobs[0].name = chosen.to_owned();
    jobs[0].await_stop(&remote, STOPPED)?;
    let more = remote.await_rounds("watch", 5)?;
    others[0].assert_untouched();
    let log = remote.log("watch");
    let alarms: Vec<&str> = log
        .lines()
        .filter(|line| line.contains(" alarm="))
        .collect();
    ensure!(
        remote.count_hooks("on-") == 1,
        "{:?} {alarms:#?}",
        remote.hooks()
    );
    println!("{last} rounds and {more} after the removal: one stop");
    assert!(watch.terminate()?.success());
    Ok(())
}
