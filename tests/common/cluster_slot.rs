//! Bounds how many clusters run at once, across all test processes of a checkout.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::hadoop::cache_dir;
use super::wait::wait_until;

/// Private clusters that may run at the same time, beside the shared one of each test binary.
const PRIVATE_CLUSTERS: usize = 2;
/// Longer than any single test holds a cluster.
const WAIT: Duration = Duration::from_mins(15);

/// The right to run one private cluster; given back when dropped, or when the process ends.
#[derive(Debug)]
pub struct ClusterSlot {
    _lock: File,
}

impl ClusterSlot {
    /// Waits until fewer than two private clusters run.
    ///
    /// A test that needs several clusters at once takes one slot for all of them
    /// (`HdfsBuilder::within_slot_of`): two tests that each hold one and wait for another would stop.
    ///
    /// # Errors
    /// After a quarter of an hour, or if the lock files cannot be written.
    pub fn acquire() -> Result<Self> {
        let dir = cache_dir().join("slots");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let files = (0..PRIVATE_CLUSTERS)
            .map(|index| open_lock(&dir.join(index.to_string())))
            .collect::<Result<Vec<_>>>()?;
        let mut won = None;
        wait_until(
            WAIT,
            "one of the other tests gives its cluster back",
            || {
                won = files.iter().position(|file| file.try_lock().is_ok());
                won.is_some()
            },
        )?;
        let lock = won
            .and_then(|index| files.into_iter().nth(index))
            .context("no slot was won")?;
        Ok(Self { _lock: lock })
    }
}

fn open_lock(path: &Path) -> Result<File> {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}
