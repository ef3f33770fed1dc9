//! Waiting for a condition with a deadline: the only place of the tests that sleeps.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(20);

/// Returns as soon as `condition` holds.
///
/// # Errors
/// After `deadline`, naming `what` did not happen.
pub fn wait_until(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > deadline {
            bail!("waited {deadline:?} in vain until {what}");
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Returns as soon as the async `condition` holds; a check that hangs is cut off at the deadline.
///
/// # Errors
/// After `deadline`, naming `what` did not happen.
pub async fn wait_until_async(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> bool,
) -> Result<()> {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(deadline, poll).await.is_err() {
        bail!("waited {deadline:?} in vain until {what}");
    }
    Ok(())
}
