//! Large files, and many files, pass through little memory.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Yard;
use crate::common::checkpoint_tree::{self, Shape};
use crate::common::{Hdfs, wait_until};
use crate::soak::{add_row, build, machine};

const SHAPE: Shape = Shape {
    batches: 4,
    partitions: 2,
    snapshot_each: 0,
};
const LIMIT_KB: u64 = 150 * 1024;
const LARGE: &str = "large/file-0";

fn peak_kb(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn digest(file: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(file)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// A copy; its peak of memory in KB, and how long it took.
fn copy(yard: &Yard, name: &str, from: &str, to: &str, limit: Duration) -> Result<(u64, Duration)> {
    let begun = Instant::now();
    let mut copying = yard.begin(name, &[from, to])?;
    let pid = copying.daemon.pid();
    let mut peak = 0;
    wait_until(limit, "it is copied", || {
        // Between its last sign and its end it has no memory any more.
        peak = peak.max(peak_kb(pid).unwrap_or(0));
        copying.has_ended()
    })
    .with_context(|| copying.log())?;
    let took = begun.elapsed();
    let (code, _, log) = copying.end(limit)?;
    ensure!(code == 0, "{log}");
    println!("{from} to {to}: {} MB at most, {took:?}", peak / 1024);
    ensure!(peak > 1024 && peak < LIMIT_KB, "{peak} KB");
    Ok((peak, took))
}

/// Up to HDFS and down again.
fn there_and_back(mib: u64, limit: Duration) -> Result<[(u64, Duration); 2]> {
    let yard = Yard::on(Hdfs::shared()?, "large")?;
    let source = yard.tree("ck", SHAPE)?;
    checkpoint_tree::add_large_files(Path::new(&source), 1, mib)?;
    let expected = digest(&Path::new(&source).join(LARGE))?;
    let (up, down) = (yard.uri("up"), yard.text("down"));
    let first = copy(&yard, "up", &source, &up, limit)?;
    fs::remove_dir_all(&source)?;
    let second = copy(&yard, "down", &up, &down, limit)?;
    yard.eye().remove(&yard.at("up"))?;
    let arrived = Path::new(&down).join(LARGE);
    ensure!(fs::metadata(&arrived)?.len() == mib << 20);
    ensure!(digest(&arrived)? == expected, "another content came back");
    fs::remove_dir_all(&down)?;
    Ok([first, second])
}

#[test]
fn a_large_file_goes_up_and_down_in_little_memory() -> Result<()> {
    there_and_back(256, Duration::from_mins(3)).map(drop)
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_a_file_of_5_gb() -> Result<()> {
    let found = there_and_back(5 * 1024, Duration::from_mins(30))?;
    for ((peak, took), direction) in found.into_iter().zip(["local to HDFS", "HDFS to local"]) {
        let row = format!(
            "| {} | {} | {} | 5 GiB | {direction} | {:.0} | {} MB |\n",
            jiff::Zoned::now().date(),
            machine(),
            build(),
            took.as_secs_f64(),
            peak / 1024
        );
        print!("{row}");
        add_row(&row, "<!-- end of large files -->")?;
    }
    Ok(())
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_a_hundred_thousand_files_in_little_memory() -> Result<()> {
    const MANY: Shape = Shape {
        batches: 1000,
        partitions: 100,
        snapshot_each: 0,
    };
    let yard = Yard::on(Hdfs::shared()?, "many")?;
    let (source, to) = (yard.tree("ck", MANY)?, yard.text("copy"));
    copy(&yard, "many", &source, &to, Duration::from_mins(10))?;
    // Without a snapshot a restart reads every delta.
    let mut deltas = 0;
    for partition in 0..MANY.partitions {
        let dir = Path::new(&to).join(format!("state/0/{partition}"));
        deltas += fs::read_dir(dir)?.count();
    }
    ensure!(deltas >= 100_000, "{deltas} files of state came");
    fs::remove_dir_all(&source)?;
    fs::remove_dir_all(&to)?;
    Ok(())
}
