//! Loopback ports that stay ours, also while the server that uses one is down.

use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use anyhow::{Context, Result, bail};

/// A reserved TCP port of 127.0.0.1. No other test process takes it until this is dropped.
///
/// It lies outside the range from which the kernel hands out ports by itself, so no outgoing
/// connection and no bind to port 0 takes it between a stop and a restart; a lock file keeps other
/// test processes off it. The lock ends with the process, however it ends.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port on which nothing listens.
    ///
    /// # Errors
    /// If none is left, or the lock files cannot be written.
    pub fn reserve() -> Result<Self> {
        // Another user could not write to ours; the bind test is what keeps users apart.
        let user = rustix::process::getuid().as_raw();
        let dir = std::env::temp_dir().join(format!("stepdown-test-ports-{user}"));
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let range = candidate_range();
        let span = range.end - range.start;
        let first = fastrand::u16(0..span);
        for step in 0..span {
            let number = range.start + (first + step) % span;
            let path = dir.join(number.to_string());
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self {
                    number,
                    _lock: lock,
                });
            }
        }
        bail!("no free port in {range:?}")
    }

    /// The port number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Ports from which the kernel does not choose by itself.
fn candidate_range() -> Range<u16> {
    const PREFERRED: Range<u16> = 12_000..32_000;
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().map(str::parse::<u16>);
    let Some((Ok(low), Ok(_high))) = bounds.next().zip(bounds.next()) else {
        return PREFERRED;
    };
    if low > PREFERRED.start + 1_000 {
        PREFERRED.start..low.min(PREFERRED.end)
    } else {
        // The kernel uses nearly all ports; the bind test and the lock are what is left.
        PREFERRED
    }
}
