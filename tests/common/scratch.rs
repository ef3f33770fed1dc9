//! Directories of this test process: scratch space that goes when it ends, and logs that stay.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// Waits for the end of its input, which is the end of the test process, then removes the directory.
/// Repeats, because a server that is just being killed may still write.
const SWEEP: &str =
    r#"read -r _; for _ in $(seq 50); do rm -rf -- "$1" && exit 0; sleep 0.1; done; exit 1"#;
/// Logs of so many earlier test processes are kept.
const KEPT_RUNS: usize = 10;

struct Base {
    scratch: PathBuf,
    logs: PathBuf,
    /// Never written to: the sweeper waits until it is closed.
    _sweeper: ChildStdin,
}

static BASE: Mutex<Option<Base>> = Mutex::new(None);
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A new empty directory whose name begins with `name`. It is removed when the test process ends,
/// however it ends.
///
/// # Errors
/// If it cannot be made.
pub fn scratch_dir(name: &str) -> Result<PathBuf> {
    new_dir(name, |base| &base.scratch)
}

/// Removes a scratch directory when dropped: one that is large goes before the process ends.
#[derive(Debug)]
pub struct RemovedOnDrop(pub PathBuf);

impl Drop for RemovedOnDrop {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the process ends.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A new directory for logs whose name begins with `name`, below the build directory. It is kept until
/// ten more test processes have run.
///
/// # Errors
/// If it cannot be made.
pub fn log_dir(name: &str) -> Result<PathBuf> {
    new_dir(name, |base| &base.logs)
}

fn new_dir(name: &str, root: impl Fn(&Base) -> &Path) -> Result<PathBuf> {
    let mut base = BASE.lock().unwrap_or_else(PoisonError::into_inner);
    let base = match base.as_mut() {
        Some(base) => base,
        None => base.insert(create_base()?),
    };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = root(base).join(format!("{name}-{number}"));
    fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

fn create_base() -> Result<Base> {
    let scratch = tempfile::Builder::new()
        .prefix("stepdown-test-")
        .tempdir()
        .context("cannot make a temporary directory")?
        .keep();
    let mut sweeper = Command::new("sh")
        .args(["-c", SWEEP, "sweep"])
        .arg(&scratch)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A Ctrl-C at the terminal ends the test, not the one that cleans up after it.
        .process_group(0)
        .spawn()
        .context("cannot start the sweeper of temporary directories")?;
    let input = sweeper.stdin.take().context("the sweeper has no input")?;
    let all_logs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("logs");
    fs::create_dir_all(&all_logs)
        .with_context(|| format!("cannot create {}", all_logs.display()))?;
    remove_old_logs(&all_logs).context("cannot remove old logs")?;
    let logs = tempfile::Builder::new()
        .prefix(
            &jiff::Timestamp::now()
                .strftime("%Y%m%dT%H%M%S-")
                .to_string(),
        )
        .tempdir_in(&all_logs)
        .context("cannot make a directory for logs")?
        .keep();
    Ok(Base {
        scratch,
        logs,
        _sweeper: input,
    })
}

/// Copies a directory tree of plain files and directories.
///
/// # Errors
/// If something cannot be read or written.
pub fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("cannot copy to {}", target.display()))?;
        }
    }
    Ok(())
}

/// Names begin with the time, so their order is their age. Two processes may do this at once.
fn remove_old_logs(all_logs: &Path) -> Result<()> {
    let mut runs = fs::read_dir(all_logs)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    runs.sort();
    for run in runs.iter().rev().skip(KEPT_RUNS) {
        if let Err(error) = fs::remove_dir_all(run)
            && run.exists()
        {
            return Err(error).with_context(|| format!("cannot remove {}", run.display()));
        }
    }
    Ok(())
}
