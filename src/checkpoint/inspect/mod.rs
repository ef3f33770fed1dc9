//! What an operator asks of a checkpoint before a deploy, as one report. Pure.

mod operators;
mod sources;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::contents::{BatchLog, Contents, Identity};
use super::finding::{Finding, Severity};
use super::layout::{DirectoryKind, MANIFEST_NAME, PathKind, classify};
use super::listing::{FileKind, Listing};
use super::log::OffsetMetadata;
use super::needs::needs;
use super::plan::{PlanOptions, Scope, Tally, plan_copy};
use super::query_id::QueryId;
use super::state_store::stores::Provider;
use super::target::{At, choose_target};
use crate::model::BatchId;

pub use operators::{OperatorReport, VersionRange};
pub use sources::SourceReport;

/// Names of a kind that a report lists; the counts are complete.
const MAX_NAMES: usize = 50;

/// A query whose files changed in this time looks live, even if its batches end more often.
const LIVE_FOR: SignedDuration = SignedDuration::from_secs(120);

/// Where a query stands between two batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueryState {
    /// The last planned batch is committed.
    Clean,
    /// One batch is planned and not committed; a restart repeats it.
    InFlight,
    /// No batch was ever planned.
    Empty,
    /// More than one batch is planned and not committed.
    Skewed,
    /// A batch is committed that is not planned.
    CommitAhead,
    /// It is no checkpoint of a streaming query.
    NotAQuery,
}

/// Everything about one checkpoint. The field names are a contract (`--json`).
#[derive(Debug, Serialize)]
pub struct Report {
    /// The checkpoint.
    pub uri: String,
    /// What the directory is.
    pub kind: DirectoryKind,
    /// Where the query stands.
    pub state: QueryState,
    /// The query id.
    pub query_id: Option<QueryId>,
    /// What is wrong with `metadata`.
    pub metadata_damage: Option<String>,
    /// Version of the offset log.
    pub offset_log_version: Option<u32>,
    /// Version of the commit log.
    pub commit_log_version: Option<u32>,
    /// 2 if commits carry the unique ids of state files, else 1.
    pub checkpoint_format: Option<u32>,
    /// The last planned batch.
    pub last_planned_batch: Option<BatchId>,
    /// The last committed batch.
    pub last_committed_batch: Option<BatchId>,
    /// The batches in `offsets/`.
    pub planned_batches: BatchRange,
    /// The batches in `commits/`.
    pub committed_batches: BatchRange,
    /// When the last commit was written.
    pub committed_at: Option<Timestamp>,
    /// How long ago that was.
    pub committed_seconds_ago: Option<i64>,
    /// When the newest file was written.
    pub changed_at: Option<Timestamp>,
    /// Whether a query seems to be running on it: only a guess, from the times of its files.
    pub looks_live: bool,
    /// The sources, in the order of the plan.
    pub sources: Vec<SourceReport>,
    /// Event-time watermark of the last planned batch, milliseconds since the epoch; 0 for none.
    pub watermark_ms: Option<i64>,
    /// Class of the state store provider.
    pub provider: Option<String>,
    /// The provider, if stepdown knows it.
    pub provider_kind: Option<Provider>,
    /// The codec of state files.
    pub codec: Option<String>,
    /// Pinned number of partitions.
    pub shuffle_partitions: Option<u32>,
    /// The whole pinned configuration.
    pub conf: BTreeMap<String, String>,
    /// The stateful operators.
    pub operators: Vec<OperatorReport>,
    /// Whether the logs have the gaps of async progress tracking.
    pub async_progress: bool,
    /// Files left by interrupted writes.
    pub temporary_files: Names,
    /// Files that stepdown does not know.
    pub foreign_files: Names,
    /// All files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether a copy can be taken.
    pub copy: CopyReport,
    /// What is wrong, as far as it shows without reading the state.
    pub findings: Vec<Finding>,
}

/// Which batches a log has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BatchRange {
    /// The oldest.
    pub first: Option<BatchId>,
    /// The newest.
    pub last: Option<BatchId>,
    /// How many.
    pub count: u64,
    /// Whether some between them are missing.
    pub has_gaps: bool,
}

/// Some names and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Names {
    /// How many there are.
    pub count: u64,
    /// Relative paths; at most 50.
    pub paths: Vec<String>,
}

/// Whether a copy can be taken, as of the last planned batch.
#[derive(Debug, Serialize)]
pub struct CopyReport {
    /// Whether it can.
    pub possible: bool,
    /// Why not.
    pub because: Vec<String>,
    /// What a minimal copy has.
    pub minimal: Tally,
    /// What a full copy has.
    pub full: Tally,
}

/// The report on `contents`, which must have been loaded as of [`At::Planned`]. `now` is the time of
/// the storage, as near as it is known.
pub fn inspect(contents: &Contents, now: Timestamp) -> Report {
    let planned = contents.offsets.newest();
    let committed = contents.commits.newest();
    let newest = contents.offsets.newest_content().map(|(_, log)| log);
    let metadata = newest.and_then(|log| log.metadata.as_ref());
    let commit = committed.and_then(|batch| contents.commits.content(batch));
    let committed_at = committed
        .and_then(|batch| contents.listing.find(&format!("commits/{batch}")))
        .map(|file| file.modified_at);
    let needs = choose_target(contents, At::Planned)
        .ok()
        .filter(|_| contents.directory == DirectoryKind::Query)
        .map(|target| needs(contents, &target))
        .unwrap_or_default();
    let (files, bytes) = totals(&contents.listing);
    let changed_at = contents.listing.iter().map(|entry| entry.modified_at).max();
    Report {
        uri: contents.location.clone(),
        kind: contents.directory,
        state: state_of(contents),
        query_id: match contents.identity {
            Identity::Known(id) => Some(id),
            Identity::Missing | Identity::Damaged(_) => None,
        },
        metadata_damage: match &contents.identity {
            Identity::Damaged(why) => Some(why.to_string()),
            Identity::Missing | Identity::Known(_) => None,
        },
        offset_log_version: newest.map(|log| log.version),
        commit_log_version: commit.map(|commit| commit.version),
        checkpoint_format: commit.map(|commit| if commit.state_ids.is_some() { 2 } else { 1 }),
        last_planned_batch: planned,
        last_committed_batch: committed,
        planned_batches: range_of(&contents.offsets),
        committed_batches: range_of(&contents.commits),
        committed_at,
        committed_seconds_ago: committed_at.map(|at| now.duration_since(at).as_secs()),
        changed_at,
        looks_live: looks_live(contents, now),
        sources: sources::report_sources(contents),
        watermark_ms: metadata.map(|metadata| metadata.batch_watermark_ms),
        provider: contents.provider_class().map(str::to_owned),
        provider_kind: contents.provider(),
        codec: metadata.map(|metadata| metadata.codec().to_owned()),
        shuffle_partitions: metadata.and_then(OffsetMetadata::shuffle_partitions),
        conf: metadata
            .map(|metadata| metadata.conf.clone())
            .unwrap_or_default(),
        operators: operators::report_operators(contents, &needs),
        async_progress: contents.has_async_gaps(),
        temporary_files: names(&contents.listing, &PathKind::Temporary),
        foreign_files: names(&contents.listing, &PathKind::Foreign),
        files,
        bytes,
        copy: report_copy(contents),
        findings: needs.findings,
    }
}

fn state_of(contents: &Contents) -> QueryState {
    if !matches!(
        contents.directory,
        DirectoryKind::Query | DirectoryKind::Empty
    ) {
        return QueryState::NotAQuery;
    }
    match (contents.offsets.newest(), contents.commits.newest()) {
        (None, None) => QueryState::Empty,
        (planned, committed) if planned == committed => QueryState::Clean,
        (planned, committed) if planned < committed => QueryState::CommitAhead,
        (planned, committed) => {
            let next = committed.map_or(0, |batch| batch.0.saturating_add(1));
            if planned.is_some_and(|batch| batch.0 == next) || contents.has_async_gaps() {
                QueryState::InFlight
            } else {
                QueryState::Skewed
            }
        }
    }
}

fn range_of<T>(log: &BatchLog<T>) -> BatchRange {
    BatchRange {
        first: log.present.first().copied(),
        last: log.present.last().copied(),
        count: log.present.len() as u64,
        has_gaps: log.has_gaps(),
    }
}

fn totals(listing: &Listing) -> (u64, u64) {
    let mut tally = Tally::default();
    for entry in listing.iter().filter(|entry| entry.kind != FileKind::Dir) {
        tally.add(entry.len_bytes);
    }
    (tally.files, tally.bytes)
}

fn names(listing: &Listing, kind: &PathKind<'_>) -> Names {
    let mut names = Names::default();
    for entry in listing.iter().filter(|entry| entry.kind != FileKind::Dir) {
        if classify(entry.path) == *kind {
            names.count += 1;
            if names.paths.len() < MAX_NAMES {
                names.paths.push(entry.path.to_owned());
            }
        }
    }
    names
}

/// Whether the logs changed lately, measured by how often they changed before.
fn looks_live(contents: &Contents, now: Timestamp) -> bool {
    let at = |dir: &'static str, batch: BatchId| {
        let path = format!("{dir}/{batch}");
        contents.listing.find(&path).map(|file| file.modified_at)
    };
    let commits = contents.commits.present.iter().rev().take(5);
    let times: Vec<_> = commits.filter_map(|batch| at("commits", *batch)).collect();
    let gaps = times.iter().zip(times.iter().skip(1));
    let longest = gaps
        .map(|(later, earlier)| later.duration_since(*earlier))
        .max();
    let planned = contents
        .offsets
        .newest()
        .and_then(|batch| at("offsets", batch));
    let Some(newest) = planned.max(times.first().copied()) else {
        return false;
    };
    // A copy in which no query has run is as new as its manifest.
    let manifest = contents.listing.find(MANIFEST_NAME);
    if manifest.is_some_and(|manifest| newest <= manifest.modified_at) {
        return false;
    }
    let wait = longest
        .and_then(|gap| gap.checked_mul(3))
        .map_or(LIVE_FOR, |wait| wait.max(LIVE_FOR));
    now.duration_since(newest) < wait
}

fn report_copy(contents: &Contents) -> CopyReport {
    let options = |scope| PlanOptions {
        at: At::Planned,
        scope,
        destination: &contents.location,
        new_query_id: None,
    };
    let (because, minimal): (Vec<String>, _) = match plan_copy(contents, &options(Scope::Minimal)) {
        Ok(plan) => {
            let problems = plan.problems.iter().take(MAX_NAMES);
            let because = problems.map(|problem| format!("{}: {}", problem.path, problem.found));
            (because.collect(), plan.tally(&contents.listing))
        }
        Err(refused) => (vec![refused.to_string()], Tally::default()),
    };
    let full = plan_copy(contents, &options(Scope::Full));
    CopyReport {
        possible: because.is_empty(),
        because,
        minimal,
        full: full.map_or_else(|_| Tally::default(), |plan| plan.tally(&contents.listing)),
    }
}

impl Report {
    /// Whether something makes a restart fail.
    pub fn has_damage(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.severity == Severity::Damage)
    }
}
