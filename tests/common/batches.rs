//! The batches of a query as its checkpoint shows them: `offsets/N` when batch N is planned, `commits/N`
//! when it is committed, in the rhythm of Spark's triggers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

const ID: &str = "{\"id\":\"c77e8c68-28a9-4bfb-877a-e29b6987550f\"}";
const TICK: Duration = Duration::from_millis(4);

/// Where a checkpoint is written.
pub trait Log: Send + 'static {
    /// Makes `<log>/<batch>` show up whole, as Spark does.
    ///
    /// # Errors
    /// If it cannot.
    fn add(&self, log: &str, batch: u64) -> Result<()>;
}

/// A checkpoint on local disk.
#[derive(Debug, Clone)]
pub struct LocalLog(PathBuf);

impl LocalLog {
    /// A checkpoint without batches.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(dir: &Path) -> Result<Self> {
        for log in ["offsets", "commits"] {
            fs::create_dir_all(dir.join(log))?;
        }
        fs::write(dir.join("metadata"), ID)?;
        Ok(Self(dir.to_owned()))
    }

    /// Adds batches 0 to `count` - 1 as they would have come until now; the number of the next one.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn add_history(&self, count: u64, rhythm: &Rhythm) -> Result<u64> {
        let mut at = rhythm.trigger_before(SystemTime::now());
        for batch in (0..count).rev() {
            let takes = rhythm.takes(batch);
            let step = if rhythm.every == 0.0 {
                takes + 0.01
            } else {
                rhythm.every
            };
            at -= Duration::from_secs_f64(step);
            for (log, time) in [
                ("offsets", at),
                ("commits", at + Duration::from_secs_f64(takes)),
            ] {
                self.add(log, batch)?;
                let file = fs::File::options()
                    .write(true)
                    .open(self.path(log, batch))?;
                file.set_modified(time)?;
            }
        }
        Ok(count)
    }

    fn path(&self, log: &str, batch: u64) -> PathBuf {
        self.0.join(log).join(batch.to_string())
    }
}

impl Log for LocalLog {
    fn add(&self, log: &str, batch: u64) -> Result<()> {
        let temporary = self.0.join(log).join(format!(".{batch}.0f0f.tmp"));
        fs::write(&temporary, "v1\n{}\n")?;
        fs::rename(temporary, self.path(log, batch)).context("a batch's file")
    }
}

/// When batches begin and how long they take, in seconds.
#[derive(Debug, Clone)]
pub struct Rhythm {
    /// Between two triggers, which come at multiples of it; 0 is back to back.
    pub every: f64,
    /// How much later than that.
    pub shift: f64,
    /// Of the batches in turn.
    pub takes: Vec<f64>,
}

impl Rhythm {
    /// A trigger every so many seconds, and batches that take so long.
    pub fn new(every: f64, takes: f64) -> Self {
        Self {
            every,
            shift: 0.0,
            takes: vec![takes],
        }
    }

    fn takes(&self, batch: u64) -> f64 {
        let turn = usize::try_from(batch).unwrap_or_default() % self.takes.len().max(1);
        self.takes.get(turn).copied().unwrap_or_default()
    }

    fn trigger_before(&self, at: SystemTime) -> SystemTime {
        if self.every == 0.0 {
            return at;
        }
        let now = at
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64();
        let over = (now - self.shift).rem_euclid(self.every);
        at - Duration::from_secs_f64(over)
    }
}

#[derive(Debug)]
struct Shared {
    rhythm: Mutex<Rhythm>,
    ends: AtomicBool,
    is_busy: AtomicBool,
    committed: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// A query that runs.
#[derive(Debug)]
pub struct Batches {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Batches {
    /// Goes on with batch `first`, until this is dropped or `ends` says so: a batch that runs then is
    /// cut.
    pub fn start(
        log: impl Log,
        first: u64,
        rhythm: Rhythm,
        ends: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            rhythm: Mutex::new(rhythm),
            ends: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            committed: AtomicU64::new(first),
            failure: Mutex::new(None),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            if let Err(error) = theirs.run(&log, first, &ends) {
                *lock(&theirs.failure) = Some(format!("{error:?}"));
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Has the batches come in another rhythm.
    pub fn change(&self, rhythm: Rhythm) {
        *lock(&self.shared.rhythm) = rhythm;
    }

    /// Whether a batch is planned and not committed.
    pub fn is_busy(&self) -> bool {
        self.shared.is_busy.load(Ordering::SeqCst)
    }

    /// How many batches are committed.
    pub fn committed(&self) -> u64 {
        self.shared.committed.load(Ordering::SeqCst)
    }

    /// Why it ended before it was to.
    pub fn failure(&self) -> Option<String> {
        lock(&self.shared.failure).clone()
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, log: &impl Log, first: u64, ends: &dyn Fn() -> bool) -> Result<()> {
        // As Spark's loop: the next trigger is fixed before the batch runs.
        let begin = lock(&self.rhythm).clone();
        let mut due =
            begin.trigger_before(SystemTime::now()) + Duration::from_secs_f64(begin.every);
        for batch in first.. {
            let rhythm = lock(&self.rhythm).clone();
            while rhythm.every > 0.0 && SystemTime::now() < due {
                if self.is_over(ends) {
                    return Ok(());
                }
                thread::sleep(TICK);
            }
            if self.is_over(ends) {
                return Ok(());
            }
            due = rhythm.trigger_before(SystemTime::now()) + Duration::from_secs_f64(rhythm.every);
            self.is_busy.store(true, Ordering::SeqCst);
            log.add("offsets", batch)?;
            let until = Instant::now() + Duration::from_secs_f64(rhythm.takes(batch));
            while Instant::now() < until {
                if self.is_over(ends) {
                    return Ok(());
                }
                thread::sleep(TICK);
            }
            log.add("commits", batch)?;
            self.is_busy.store(false, Ordering::SeqCst);
            self.committed.store(batch + 1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn is_over(&self, ends: &dyn Fn() -> bool) -> bool {
        self.ends.load(Ordering::SeqCst) || ends()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
