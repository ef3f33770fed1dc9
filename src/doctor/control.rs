//! Checks of the storages: whether they answer, and whether they do what stepdown needs, by trying it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::{Check, chain};
use crate::app::App;
use crate::config::duration;
use crate::control::{ControlDir, Sentinel};
use crate::storage::{
    CreateMode, Depth, ErrorKind, FileKind, Result, Storage, StorageError, StoragePath, StorageUri,
};

/// Whether the checks may write probe files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probes {
    /// They write and remove files below `<control>/state`.
    Write,
    /// They only look.
    LookOnly,
}

/// Every check of the storages that the configuration names.
pub async fn checks(app: &App, probes: Probes) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(uri) = &app.config().control {
        match app.control_at(uri) {
            Ok(control) => checks.extend(control_checks(app, &control, probes).await),
            Err(error) => checks.push(unusable("control-directory", &error)),
        }
    } else {
        checks.push(Check::warn(
            "control-directory",
            "none is configured",
            "write control = \"...\" into the configuration; only `run --marker` works without",
        ));
    }
    checks.extend(place_checks(app).await);
    checks
}

fn unusable(name: impl Into<String>, error: &StorageError) -> Check {
    let known = [
        (ErrorKind::NotFound, "make it, or correct the configuration"),
        (
            ErrorKind::PermissionDenied,
            "give this user the right to it",
        ),
        (
            ErrorKind::Authentication,
            "get a ticket by kinit, or configure hadoop.keytab",
        ),
        (
            ErrorKind::SafeMode,
            "wait until the NameNode has left safe mode",
        ),
        (
            ErrorKind::Config,
            "correct the Hadoop configuration; `stepdown config show --hadoop` has its origin",
        ),
    ];
    let advice = known.iter().find(|(kind, _)| *kind == error.kind);
    let advice = match advice {
        Some((_, advice)) => advice,
        None if error.kind.is_unreachable() => {
            "see whether the servers run and can be reached from here"
        }
        None => "see what the storage says",
    };
    Check::fail(name, chain(error), advice)
}

async fn control_checks(app: &App, control: &ControlDir, probes: Probes) -> Vec<Check> {
    let storage = control.storage().as_ref();
    let name = "control-directory";
    let uri = control.uri(control.root());
    let mut checks = Vec::new();
    let asked_at = Instant::now();
    match Sentinel::load(storage, control.root()).await {
        Ok(Some(sentinel)) => checks.push(Check::ok(
            name,
            format!(
                "{uri}, id {}, answers in {} ms",
                sentinel.directory_id,
                asked_at.elapsed().as_millis()
            ),
        )),
        Ok(None) => {
            let advice = format!("`stepdown init {uri}` makes it");
            checks.push(Check::fail(name, format!("{uri} has no sentinel"), advice));
            return checks;
        }
        Err(error) => {
            let check = match error {
                crate::control::DocumentError::Storage(error) => unusable(name, &error),
                malformed @ (crate::control::DocumentError::Malformed { .. }
                | crate::control::DocumentError::NoControl { .. }) => Check::fail(
                    name,
                    chain(&malformed),
                    "this is no control directory of this version of stepdown",
                ),
            };
            checks.push(check);
            return checks;
        }
    }
    for dir in [
        control.markers_dir(),
        control.requests_dir(),
        control.status_dir(),
    ] {
        if let Err(error) = storage.list(&dir, Depth::Children).await {
            checks.push(unusable(format!("folder {}", dir.name()), &error));
        }
    }
    if probes == Probes::Write {
        let dir = control.root().join("state");
        let limit = app.config().watch.max_clock_skew;
        match probe(storage, &dir, limit).await {
            Ok(found) => checks.extend(found),
            Err(error) => checks.push(unusable("write", &error)),
        }
    }
    checks
}

/// Does in `dir` what stepdown does in its state, and cleans up.
async fn probe(storage: &dyn Storage, dir: &StoragePath, limit: Duration) -> Result<Vec<Check>> {
    // By its name everyone can tell that a leftover may be removed.
    let first = dir.join(&format!(".doctor-{}.stepdown-tmp", Uuid::new_v4()));
    let second = first.with_suffix("-2");
    let found = try_all(storage, &first, &second, limit).await;
    let removed_first = storage.delete_file(&first).await;
    let removed_second = storage.delete_file(&second).await;
    let mut checks = found?;
    removed_first?;
    removed_second?;
    checks.insert(
        0,
        Check::ok("write", "files can be made, read, renamed and removed"),
    );
    Ok(checks)
}

async fn write(storage: &dyn Storage, path: &StoragePath, text: &'static str) -> Result<()> {
    let mut writer = storage.create(path, CreateMode::New).await?;
    match writer.write(Bytes::from_static(text.as_bytes())).await {
        Ok(()) => writer.finish().await,
        Err(error) => {
            // The first error says more than the one of the clean-up.
            let _cleanup = writer.abort().await;
            Err(error)
        }
    }
}

async fn try_all(
    storage: &dyn Storage,
    first: &StoragePath,
    second: &StoragePath,
    limit: Duration,
) -> Result<Vec<Check>> {
    let uri = |path: &StoragePath| StorageUri::new(storage.authority().clone(), path.clone());
    let advice = "two stepdowns could both believe that they act alone: use another file system";
    let mut checks = Vec::new();
    write(storage, first, "first").await?;
    checks.push(match write(storage, first, "again").await {
        Err(error) if error.kind == ErrorKind::AlreadyExists => {
            Check::ok("exclusive-create", "a second writer is refused")
        }
        Err(error) => unusable("exclusive-create", &error),
        Ok(()) => Check::fail("exclusive-create", "a second writer is not refused", advice),
    });
    if storage.read_small(first, 64).await?.as_ref() != b"first" {
        let error = StorageError::new("read", uri(first), ErrorKind::Other);
        return Err(error.with_detail("it is not what was written"));
    }
    write(storage, second, "second").await?;
    checks.push(match storage.rename(first, second).await {
        Err(error) if error.kind == ErrorKind::AlreadyExists => {
            Check::ok("rename", "an existing file is not overwritten")
        }
        Err(error) => unusable("rename", &error),
        Ok(()) => Check::fail("rename", "an existing file is overwritten", advice),
    });
    checks.push(clock(storage, second, limit).await?);
    Ok(checks)
}

/// The difference between the storage's clock and this host's, as far as one change can tell it.
async fn clock(storage: &dyn Storage, file: &StoragePath, limit: Duration) -> Result<Check> {
    let before = Timestamp::now();
    storage.touch(file).await?;
    let after = Timestamp::now();
    let there = storage.stat(file).await?.modified_at;
    // Anything between `before` and `after` is no difference; file systems round down their stamps.
    let rounding = SignedDuration::from_millis(20);
    let skew = if there < before {
        (before.duration_since(there) - rounding).max(SignedDuration::ZERO)
    } else {
        there.duration_since(after).max(SignedDuration::ZERO)
    };
    Ok(judge_skew(skew.unsigned_abs(), there < before, limit))
}

fn judge_skew(skew: Duration, behind: bool, limit: Duration) -> Check {
    let name = "clock-skew";
    let rounded = Duration::from_millis(u64::try_from(skew.as_millis()).unwrap_or(u64::MAX));
    let direction = if behind { "behind" } else { "ahead of" };
    let found = format!(
        "the storage's clock is {} {direction} this host's",
        duration::format(rounded)
    );
    let advice = "synchronise the clocks (chrony, ntpd)";
    if skew > limit {
        let advice = format!(
            "{advice}; above watch.max-clock-skew ({}) nothing is killed",
            duration::format(limit)
        );
        Check::fail(name, found, advice)
    } else if skew > limit / 4 {
        Check::warn(name, found, advice)
    } else if rounded.is_zero() {
        Check::ok(name, "none can be seen")
    } else {
        Check::ok(name, found)
    }
}

/// The directories of markers outside the control directory, and the checkpoints.
async fn place_checks(app: &App) -> Vec<Check> {
    let slots = || {
        app.config()
            .jobs
            .values()
            .flat_map(|job| job.slots.values())
    };
    let control = app.config().control.as_ref();
    let in_control = |uri: &StorageUri| {
        control.is_some_and(|dir| dir.authority == uri.authority && uri.path.is_below(&dir.path))
    };
    let marker_dirs: BTreeSet<StorageUri> = slots()
        .map(|slot| &slot.marker)
        .filter(|marker| !in_control(marker))
        .filter_map(|marker| {
            Some(StorageUri::new(
                marker.authority.clone(),
                marker.path.parent()?,
            ))
        })
        .collect();
    let checkpoints: BTreeSet<&StorageUri> = slots().flat_map(|slot| &slot.checkpoints).collect();
    let mut checks = Vec::new();
    for dir in &marker_dirs {
        checks.push(marker_dir(app, dir).await);
    }
    for dir in checkpoints {
        checks.push(checkpoint(app, dir).await);
    }
    checks
}

async fn marker_dir(app: &App, dir: &StorageUri) -> Check {
    let name = format!("marker-directory {dir}");
    let look = async {
        let storage = app.storage(&dir.authority)?;
        storage.identify_dir(&dir.path).await?;
        storage.list(&dir.path, Depth::Children).await
    };
    match look.await {
        Ok(entries) => Check::ok(name, format!("readable, {} entries", entries.len())),
        Err(error) => unusable(name, &error),
    }
}

async fn checkpoint(app: &App, dir: &StorageUri) -> Check {
    let name = format!("checkpoint {dir}");
    let look = async {
        let storage = app.storage(&dir.authority)?;
        let found = storage.stat(&dir.path).await?;
        if found.kind == FileKind::File {
            return Err(StorageError::new(
                "list",
                dir.clone(),
                ErrorKind::NotADirectory,
            ));
        }
        storage.list(&dir.path, Depth::Children).await
    };
    match look.await {
        Ok(entries) if entries.iter().any(|entry| entry.path.name() == "offsets") => {
            Check::ok(name, "readable, with an offset log")
        }
        Ok(_) => Check::warn(
            name,
            "readable, without an offset log",
            "nothing if the job has not run yet; else name the directory of one query",
        ),
        Err(error) if error.kind == ErrorKind::NotFound => Check::warn(
            name,
            "does not exist",
            "nothing if the job has not run yet; else correct the configuration",
        ),
        Err(error) => unusable(name, &error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn clocks_are_judged_by_the_limit() {
        let verdict = |seconds| {
            let skew = Duration::from_secs(seconds);
            judge_skew(skew, false, Duration::from_mins(1)).verdict
        };
        assert_eq!(verdict(0), Verdict::Ok);
        assert_eq!(verdict(15), Verdict::Ok);
        assert_eq!(verdict(16), Verdict::Warn);
        assert_eq!(verdict(60), Verdict::Warn);
        assert_eq!(verdict(61), Verdict::Fail);
    }

    #[tokio::test]
    async fn the_probe_tries_everything_and_leaves_nothing() {
        let storage = MemoryStorage::new("m");
        let dir = StoragePath::parse("/c/state").unwrap();
        storage.create_dir_all(&dir).await.unwrap();
        storage.set_clock(Timestamp::now() - SignedDuration::from_mins(5));
        let checks = probe(&storage, &dir, Duration::from_mins(1)).await.unwrap();
        let names: Vec<_> = checks
            .iter()
            .map(|check| (check.name.as_str(), check.verdict))
            .collect();
        assert_eq!(
            names,
            [
                ("write", Verdict::Ok),
                ("exclusive-create", Verdict::Ok),
                ("rename", Verdict::Ok),
                ("clock-skew", Verdict::Fail),
            ]
        );
        assert!(
            checks[3].found.starts_with("the storage's clock is 4m 59s"),
            "{checks:?}"
        );
        assert_eq!(storage.list(&dir, Depth::Tree).await.unwrap(), []);
    }
}
