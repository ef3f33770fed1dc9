//! Whether a checkpoint restarts: everything that is wrong with it, not only the first thing.

pub(super) mod content;
mod digests;
mod files;
mod logs;

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::CheckpointError;
use super::contents::Contents;
use super::finding::{Code, Finding, Severity};
use super::layout::{DirectoryKind, PathKind, StateFile, classify};
use super::listing::{EntryId, FileKind, Listed};
use super::load::load_staged;
use super::needs::{Role, needs};
use super::plan::Tally;
use super::progress::load_progress;
use super::state_store::stores::Provider;
use super::target::{At, choose_target};
use crate::model::BatchId;
use crate::storage::{Storage, StoragePath};

/// Files that are read at the same time.
const READS_AT_ONCE: usize = 16;

/// MiB of files that are held whole at the same time.
const MIB_AT_ONCE: u32 = 64;

/// How often a checkpoint that changes while it is read is looked at again.
const ROUNDS: usize = 3;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thoroughness {
    /// Names, lengths, logs, and of the state that a restart loads: headers, ends, zips, side files.
    Quick,
    /// Every byte, checksums included, also of files that no restart needs.
    Deep,
}

/// What is asked of a verification.
#[derive(Debug, Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// How much is read.
    pub thoroughness: Thoroughness,
    /// Where the checkpoint will lie, if it is still in a staging directory: files inside name that
    /// place.
    pub published_at: Option<&'a StoragePath>,
}

impl VerifyOptions<'_> {
    /// Checks a checkpoint at its own place.
    pub fn in_place(thoroughness: Thoroughness) -> Self {
        Self {
            thoroughness,
            published_at: None,
        }
    }
}

/// The result over all findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing is wrong.
    Sound,
    /// A restart works in some versions of Spark, or only under a condition.
    Remarks,
    /// A restart fails, or gives wrong results.
    Damaged,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Verification {
    /// The checkpoint.
    pub uri: String,
    /// What the directory is.
    pub kind: DirectoryKind,
    /// How much was read.
    pub thoroughness: Thoroughness,
    /// The result.
    pub verdict: Verdict,
    /// The last planned batch.
    pub last_planned_batch: Option<BatchId>,
    /// The last committed batch.
    pub last_committed_batch: Option<BatchId>,
    /// Everything, the worst first, then by path.
    pub findings: Vec<Finding>,
    /// Files whose content was looked at.
    pub checked: Tally,
    /// What could not be looked at, and why; a verdict does not cover it.
    pub not_checked: Vec<NotChecked>,
    /// Whether a file that was listed was gone when it was read.
    #[serde(skip)]
    pub has_vanished: bool,
}

/// A gap in what was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotChecked {
    /// The file or directory, relative to the checkpoint.
    pub path: String,
    /// Why.
    pub why: String,
}

/// What one check adds.
#[derive(Debug, Default)]
struct Outcome {
    findings: Vec<Finding>,
    checked: Tally,
    not_checked: Vec<NotChecked>,
    /// A file that was listed is gone.
    vanished: bool,
}

impl Outcome {
    /// A file was listed and is gone: purged, which is a finding only where it is needed.
    fn vanished(file: &Listed<'_>, is_needed: bool) -> Self {
        let finding = Finding::damage(Code::StateMissing, file.path)
            .expected("a file that a restart reads")
            .found("it was listed, and gone when it was read")
            .spark("the query fails if the file does not come back");
        Self {
            findings: is_needed.then_some(finding).into_iter().collect(),
            vanished: is_needed,
            ..Self::default()
        }
    }

    fn add(&mut self, other: Outcome) {
        self.findings.extend(other.findings);
        self.checked.files += other.checked.files;
        self.checked.bytes += other.checked.bytes;
        self.not_checked.extend(other.not_checked);
        self.vanished |= other.vanished;
    }
}

/// Checks the checkpoint `dir` as of its last planned batch.
///
/// Of a checkpoint that a query is writing, files may go while they are read; it is then looked at
/// again, and what is still missing is a finding.
///
/// # Errors
/// [`CheckpointError::Missing`]; [`CheckpointError::Storage`].
pub async fn verify(
    storage: &dyn Storage,
    dir: &StoragePath,
    options: VerifyOptions<'_>,
) -> Result<Verification, CheckpointError> {
    let thoroughness = options.thoroughness;
    let home = options.published_at.unwrap_or(dir);
    let mut round = 1;
    loop {
        let contents = load_staged(storage, dir, home, At::Planned).await?;
        let outcome = check(storage, dir, &contents, thoroughness).await?;
        let verification = report(&contents, thoroughness, outcome);
        if verification.verdict != Verdict::Damaged || round == ROUNDS {
            return Ok(verification);
        }
        if !verification.has_vanished && !has_moved_on(storage, dir, &contents).await? {
            return Ok(verification);
        }
        round += 1;
    }
}

/// Whether files went while these contents were read, or a batch was planned or ended since: then purging
/// may have taken files from the picture.
pub(super) async fn has_moved_on(
    storage: &dyn Storage,
    dir: &StoragePath,
    contents: &Contents,
) -> Result<bool, CheckpointError> {
    if contents.directory != DirectoryKind::Query {
        return Ok(false);
    }
    if contents.has_vanished() {
        return Ok(true);
    }
    let now = load_progress(storage, dir).await?;
    let then = (contents.offsets.newest(), contents.commits.newest());
    Ok((now.last_planned, now.last_committed) != then)
}

fn report(contents: &Contents, thoroughness: Thoroughness, outcome: Outcome) -> Verification {
    let mut findings = outcome.findings;
    findings.sort_by(|a, b| (b.severity, &a.path, a.code).cmp(&(a.severity, &b.path, b.code)));
    findings.dedup();
    let verdict = match findings.first().map(|finding| finding.severity) {
        Some(Severity::Damage) => Verdict::Damaged,
        Some(Severity::Warning) => Verdict::Remarks,
        Some(Severity::Note) | None => Verdict::Sound,
    };
    Verification {
        uri: contents.location.clone(),
        kind: contents.directory,
        thoroughness,
        verdict,
        last_planned_batch: contents.offsets.newest(),
        last_committed_batch: contents.commits.newest(),
        findings,
        checked: outcome.checked,
        not_checked: outcome.not_checked,
        has_vanished: outcome.vanished,
    }
}

/// What is wrong with these contents of `dir`, as a quick check sees it.
pub(super) async fn find_damage(
    storage: &dyn Storage,
    dir: &StoragePath,
    contents: &Contents,
) -> Result<Vec<Finding>, CheckpointError> {
    let outcome = check(storage, dir, contents, Thoroughness::Quick).await?;
    Ok(outcome.findings)
}

async fn check(
    storage: &dyn Storage,
    dir: &StoragePath,
    contents: &Contents,
    thoroughness: Thoroughness,
) -> Result<Outcome, CheckpointError> {
    let mut outcome = Outcome::default();
    if contents.directory != DirectoryKind::Query {
        outcome.findings.push(not_a_checkpoint(contents.directory));
        return Ok(outcome);
    }
    let Ok(target) = choose_target(contents, At::Planned) else {
        return Ok(outcome);
    };
    let mut needs = needs(contents, &target);
    outcome.findings.append(&mut needs.findings);
    check_names(contents, &mut outcome);
    let checker = Checker {
        storage,
        dir,
        contents,
        thoroughness,
        needed: needs
            .files
            .iter()
            .map(|file| (file.entry, file.role))
            .collect(),
        room: Semaphore::new(MIB_AT_ONCE as usize),
    };
    let listing = &contents.listing;
    let files: Vec<EntryId> = listing
        .iter()
        .filter(|entry| entry.kind == FileKind::File)
        .map(|entry| entry.id)
        .filter(|entry| thoroughness == Thoroughness::Deep || checker.needed.contains_key(entry))
        .collect();
    let mut checks = futures::stream::iter(files)
        .map(|entry| checker.check_file(entry))
        .buffer_unordered(READS_AT_ONCE);
    while let Some(one) = checks.try_next().await? {
        outcome.add(one);
    }
    drop(checks);
    if thoroughness == Thoroughness::Deep {
        outcome.add(digests::check_digests(storage, dir).await?);
    }
    Ok(outcome)
}

fn not_a_checkpoint(directory: DirectoryKind) -> Finding {
    let finding =
        Finding::damage(Code::NotACheckpoint, "").expected("the checkpoint of a streaming query");
    let from_batch_0 = "the query starts at batch 0, without any state";
    match directory {
        DirectoryKind::Query | DirectoryKind::Empty => finding
            .with_severity(Severity::Warning)
            .found("an empty directory")
            .spark(from_batch_0),
        DirectoryKind::DStreams => finding
            .with_severity(Severity::Warning)
            .found("a DStreams checkpoint, which stepdown cannot check")
            .spark("not known"),
        DirectoryKind::FileSink => finding.found("output of a file sink").spark(from_batch_0),
        DirectoryKind::Foreign => finding.found("other files").spark(from_batch_0),
    }
}

/// What all checks of single files share.
struct Checker<'a> {
    storage: &'a dyn Storage,
    dir: &'a StoragePath,
    contents: &'a Contents,
    thoroughness: Thoroughness,
    needed: HashMap<EntryId, Role>,
    room: Semaphore,
}

/// Names that break RocksDB's loader, which reads versions from all of them.
fn check_names(contents: &Contents, outcome: &mut Outcome) {
    if contents.provider() != Some(Provider::Rocksdb) {
        return;
    }
    let has_ids = contents
        .commits
        .newest_content()
        .is_some_and(|(_, commit)| commit.state_ids.is_some());
    for file in contents.listing.below("state") {
        if let PathKind::State(path) = classify(file.path)
            && path.file == StateFile::Misnamed
            && !has_ids
        {
            let name = file.name().split('.').next().unwrap_or_default();
            outcome.findings.push(
                Finding::damage(Code::StateMisnamed, file.path)
                    .expected("a name that begins with a version")
                    .found(file.name())
                    .spark(format!(
                        "the query fails: NumberFormatException: For input string: \"{name}\" \
                         (changelog mode; 4.3 also without)"
                    )),
            );
        }
    }
}
