//! What the tests of copies share: places, requests, restarts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use stepdown::checkpoint::copy::{Check, CopyReport, CopyRequest, Event, Place, SyncedCopy, copy};
use stepdown::checkpoint::target::At;
use stepdown::storage::faulty::{Fault, FaultScript, Faulty, Operation, When};
use stepdown::storage::local::{LocalOptions, LocalStorage};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::super::hdfs_adapter::path;
use super::sums::{Feed, check};
use crate::common::copyist::copyist;
use crate::common::scratch::scratch_dir;
use crate::common::spark::{QueryPace, Rows};
use crate::common::{Query, Spark, SparkVersion, Turn};

/// Files that the file source finds: more than any test lives to see.
const FILES: i64 = 400;
/// Batches that a restarted copy has to do.
pub(crate) const MORE: u64 = 3;

/// A Spark, and a directory for one test.
pub(crate) struct Lab {
    pub(crate) spark: &'static Spark,
    pub(crate) dir: PathBuf,
    runtime: Runtime,
    replans: AtomicU64,
    _turn: Turn,
}

impl Lab {
    /// Works with the Spark that all tests share.
    pub(crate) fn new(name: &str, version: SparkVersion) -> Result<Self> {
        let turn = Turn::take();
        Ok(Self {
            spark: Spark::shared(version)?,
            dir: scratch_dir(name)?.canonicalize()?,
            runtime: Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?,
            replans: AtomicU64::new(0),
            _turn: turn,
        })
    }

    /// A query with a checkpoint of its own in the directory.
    pub(crate) fn query(&self, shape: &'static str, provider: &'static str) -> Query {
        let name = format!("{shape}-{provider}-{}", self.spark.version().as_str());
        let checkpoint = self.dir.join(&name).to_string_lossy().into_owned();
        Query {
            sink: self.dir.join(format!("{name}.jsonl")),
            input: self.dir.join("input"),
            // Other tests have queries of this kind in the same driver.
            name: checkpoint.clone(),
            checkpoint,
            shape,
            provider,
            rows: 100,
            scale: 1,
            pace: QueryPace::Steady,
            conf: Vec::new(),
            trouble: None,
        }
    }

    /// The same query on another checkpoint, with results of its own.
    pub(crate) fn moved(&self, query: &Query, checkpoint: &str) -> Query {
        let name = format!("{} now at {checkpoint}", query.name);
        let sink = checkpoint.replace([':', '/'], "_");
        Query {
            checkpoint: checkpoint.to_owned(),
            sink: self.dir.join(format!("{sink}.jsonl")),
            name,
            trouble: None,
            ..query.clone()
        }
    }

    /// Files for the shape `files`, each of them a second younger than the one before.
    pub(crate) fn make_input(&self) -> Result<()> {
        let dir = self.dir.join("input");
        fs::create_dir(&dir)?;
        for number in 0..FILES {
            let values = number * 100..(number + 1) * 100;
            let lines: Vec<String> = values.map(|value| value.to_string()).collect();
            let path = dir.join(format!("{number:05}.csv"));
            fs::write(&path, lines.join("\n"))?;
            let age = Duration::from_secs(u64::try_from(FILES - number)?);
            let time = std::time::SystemTime::now() - age;
            fs::File::options()
                .write(true)
                .open(&path)?
                .set_modified(time)?;
        }
        Ok(())
    }

    /// Copies on the local disk.
    pub(crate) fn copy(&self, from: &str, to: &str, at: At) -> Result<CopyReport> {
        self.copy_request(&request(local(from), local(to), at))
    }

    /// Copies as asked.
    pub(crate) fn copy_request(&self, request: &CopyRequest) -> Result<CopyReport> {
        let events = |event| {
            if matches!(event, Event::Replanned { .. }) {
                self.replans.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (copyist, never) = (copyist(TTL)?, CancellationToken::new());
        let copied = copy(request, &copyist, &events, &never);
        self.runtime
            .block_on(copied)
            .with_context(|| format!("{} to {}", request.source.uri(), request.destination.uri()))
    }

    /// How often a copy was planned anew because files vanished under it.
    pub(crate) fn replans(&self) -> u64 {
        self.replans.load(Ordering::Relaxed)
    }

    /// Runs what is async.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Opens a copy in several passes.
    pub(crate) fn sync(&self, request: CopyRequest) -> Result<SyncedCopy> {
        Ok(self.block_on(SyncedCopy::open(request, &copyist(TTL)?))?)
    }

    /// Restarts the queries at their checkpoints together, lets each do some batches, checks all that
    /// they gave. Each is said to go on with the batch beside it.
    pub(crate) fn restart(&self, queries: &[(Query, u64)], feed: &Feed) -> Result<()> {
        for (query, _) in queries {
            self.spark.run(query)?;
        }
        for (query, first) in queries {
            self.spark.await_batch(query, first + MORE - 1)?;
        }
        for (query, first) in queries {
            self.spark.stop(query)?;
            check(query, feed, *first)?;
        }
        Ok(())
    }

    /// Starts queries and waits until each has done `batches`.
    pub(crate) fn start(&self, queries: &[Query], batches: u64) -> Result<()> {
        for query in queries {
            self.spark.run(query)?;
        }
        for query in queries {
            self.spark.await_batch(query, batches - 1)?;
        }
        Ok(())
    }
}

/// The batch that a restart of the copy goes on with.
pub(crate) fn next_batch(report: &CopyReport) -> u64 {
    report.last_committed_batch.map_or(0, |batch| batch.0 + 1)
}

/// The last result of each batch that was noted.
pub(crate) fn last_batch(query: &Query) -> Result<(u64, Rows)> {
    query.notes()?.pop().context("no batch was noted")
}

/// A directory on the local disk.
pub(crate) fn local(dir: &str) -> Place {
    Place {
        storage: Arc::new(LocalStorage::new(LocalOptions { fsync: false })),
        path: path(dir),
    }
}

/// The same, with every listing and every read taking so much longer.
pub(crate) fn slow(dir: &str, delay: Duration) -> Place {
    let script = FaultScript::new();
    for operation in [Operation::List, Operation::ReadSmall, Operation::OpenRead] {
        script.inject(When::on(operation), Fault::Delay(delay));
    }
    let inner = LocalStorage::new(LocalOptions { fsync: false });
    Place {
        storage: Arc::new(Faulty::new(inner, script)),
        path: path(dir),
    }
}

/// A minimal copy.
pub(crate) fn request(source: Place, destination: Place, at: At) -> CopyRequest {
    CopyRequest {
        check: Check::ReadBack,
        ..CopyRequest::new(source, destination, at)
    }
}

const TTL: Duration = Duration::from_secs(5);

/// All files below `dir`, by relative path, with their content.
pub(crate) fn contents(dir: &Path) -> Result<std::collections::BTreeMap<String, Vec<u8>>> {
    let mut found = std::collections::BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else {
                let name = entry
                    .path()
                    .strip_prefix(dir)?
                    .to_string_lossy()
                    .into_owned();
                found.insert(name, fs::read(entry.path())?);
            }
        }
    }
    Ok(found)
}
