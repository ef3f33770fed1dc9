//! The applications of a job that run on this machine, as the kernel shows their processes.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::spark_job::Stage;

/// How often the processes of the machine are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// What was seen of the applications of a job, over and over again.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The most at the same time with one checkpoint.
    pub(crate) most: usize,
    /// The fewest with any.
    pub(crate) fewest: usize,
    pub(crate) looks: usize,
}

/// What `act` came to, and what was seen of the stage's applications meanwhile.
pub(crate) fn watched<T: Send>(
    stage: &Stage,
    act: impl FnOnce() -> Result<T> + Send,
) -> Result<(T, Seen)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut seen = Seen {
                most: 0,
                fewest: usize::MAX,
                looks: 0,
            };
            while !is_over.load(Ordering::SeqCst) {
                let found = applications(stage);
                seen.most = seen.most.max(found.values().copied().max().unwrap_or(0));
                seen.fewest = seen.fewest.min(found.values().sum());
                seen.looks += 1;
                thread::sleep(LOOK);
            }
            seen
        });
        let done = act();
        is_over.store(true, Ordering::SeqCst);
        let seen = looking.join().map_err(|_| anyhow!("nobody looked"))?;
        Ok((done?, seen))
    })
}

/// How many applications run with each checkpoint: by the processes of their Python, of which each has one.
fn applications(stage: &Stage) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for pid in stage.pids() {
        let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let line = read("cmdline");
        let mut words = line.split(|byte| *byte == 0);
        if !words.next().is_some_and(|word| word.ends_with(b"python3")) {
            continue;
        }
        let environ = read("environ");
        let variables = String::from_utf8_lossy(&environ);
        let named = variables
            .split('\0')
            .find_map(|variable| variable.strip_prefix("STEPDOWN_CHECKPOINT="));
        if let Some(checkpoint) = named {
            *found.entry(checkpoint.to_owned()).or_insert(0) += 1;
        }
    }
    found
}
