//! What the kernel says of a running process.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// CPU time that the process has taken, user and system.
///
/// # Errors
/// If it does not run any more.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    let (_, fields) = stat.rsplit_once(')').context("no stat")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(ticks * 1000 / per_second))
}

/// Share of one core that the process takes over `time`.
///
/// # Errors
/// If it ends meanwhile.
pub fn cpu_share(pid: u32, time: Duration) -> Result<f64> {
    let (begun, before) = (Instant::now(), cpu_time(pid)?);
    thread::sleep(time);
    let taken = cpu_time(pid)?.saturating_sub(before);
    Ok(taken.as_secs_f64() / begun.elapsed().as_secs_f64())
}

/// A memory figure of `/proc/<pid>/status` in kB: `VmRSS`, `VmHWM`, `RssAnon`.
///
/// # Errors
/// If the process does not run any more.
pub fn memory_kb(pid: u32, figure: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("it has ended")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no {figure} in /proc/{pid}/status"))
}
