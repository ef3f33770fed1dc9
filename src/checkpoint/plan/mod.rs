//! Which files a copy consists of. Pure: no storage, no clock.

mod select;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::contents::{Contents, Identity};
use super::finding::{Code, Finding, Severity};
use super::layout::DirectoryKind;
use super::listing::{EntryId, FileKind, Listing};
use super::needs::{Role, needs, operator_damage};
use super::operator::{MoveRefused, move_schema_uris};
use super::query_id::QueryId;
use super::target::{At, NoTarget, Target, choose_target};

/// How much of a checkpoint is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// What a restart needs, and files that stepdown does not know.
    Minimal,
    /// Everything but temporary files, side files of Hadoop, and what lies behind the chosen batch.
    Full,
}

/// What is asked of a plan.
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions<'a> {
    /// As of which batch.
    pub at: At,
    /// How much.
    pub scope: Scope,
    /// The copy as Spark would write it into its files: `file:/a/b`, `hdfs://ns/a/b`.
    pub destination: &'a str,
    /// The identity of the copy, if it is not to keep the source's.
    pub new_query_id: Option<QueryId>,
}

/// Why there is no plan at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefused {
    /// DStreams go on writing into the original directory, wherever the copy lies.
    #[error("a DStreams checkpoint works at its own path only, so it cannot be copied to another")]
    DStreams,
    /// The directory is something else.
    #[error("the directory is not a checkpoint of a streaming query")]
    NotACheckpoint,
    /// The directory is empty: there is nothing to copy.
    #[error("the directory is empty: the query never ran")]
    Empty,
    /// The batch that was asked for is not there.
    #[error(transparent)]
    NoTarget(#[from] NoTarget),
}

/// One file of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlannedFile {
    /// The same content at the same relative path.
    Copy {
        /// The file in the source.
        entry: EntryId,
        /// What it is for; `None` for a file that no restart needs.
        role: Option<Role>,
    },
    /// Content that differs from the source's.
    Write {
        /// Relative path.
        path: String,
        /// What to write.
        content: Vec<u8>,
        /// What it is for.
        role: Role,
        /// The file in the source that it stands for, with mode and owners.
        like: Option<EntryId>,
    },
}

impl PlannedFile {
    /// The path in source and copy, relative to the checkpoint.
    pub fn path<'a>(&'a self, listing: &'a Listing) -> &'a str {
        match self {
            PlannedFile::Copy { entry, .. } => listing.get(*entry).path,
            PlannedFile::Write { path, .. } => path,
        }
    }

    /// The length of the file in the copy.
    pub fn len_bytes(&self, listing: &Listing) -> u64 {
        match self {
            PlannedFile::Copy { entry, .. } => listing.get(*entry).len_bytes,
            PlannedFile::Write { content, .. } => content.len() as u64,
        }
    }

    /// What the file is for; `None` for a file that no restart needs.
    pub fn role(&self) -> Option<Role> {
        match self {
            PlannedFile::Copy { role, .. } => *role,
            PlannedFile::Write { role, .. } => Some(*role),
        }
    }
}

/// Why a file of the source is not in the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeftOut {
    /// Left by an interrupted write.
    Temporary,
    /// Optional, and fatal if it does not match: Hadoop writes new ones.
    HadoopChecksum,
    /// The manifest of the source; the copy gets its own.
    Manifest,
    /// Logs of batches before those that a restart reads.
    OlderBatch,
    /// Logs of batches behind the chosen one.
    LaterBatch,
    /// State before the chains that a restart loads.
    OlderState,
    /// State behind the chosen version: it corrupts a query that goes on differently.
    LaterState,
    /// SSTs that no needed zip names.
    UnusedData,
    /// Entries of a source's log that a compact one contains.
    CompactedLog,
    /// Metadata of operators behind the chosen batch.
    LaterSchema,
    /// A side file whose file is left out.
    SideFile,
    /// A name that breaks the loader.
    Misnamed,
    /// A link or something else that is no file.
    NotAFile,
}

/// A number of files and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, len_bytes: u64) {
        self.files += 1;
        self.bytes += len_bytes;
    }
}

/// What a copy consists of.
#[derive(Debug)]
pub struct Plan {
    /// How much is copied.
    pub scope: Scope,
    /// The batch that a restart of the copy continues from.
    pub target: Target,
    /// The identity of the copy; `None` if the source has none.
    pub query_id: Option<QueryId>,
    /// Directories to make, parents first: relative path, and the entry to take the mode from.
    pub dirs: Vec<(String, Option<EntryId>)>,
    /// The files, logs first, by role and path.
    pub files: Vec<PlannedFile>,
    /// Files that stepdown does not know; they are among `files`.
    pub unknown: Vec<EntryId>,
    /// What is not copied, by reason.
    pub left_out: BTreeMap<LeftOut, Tally>,
    /// Why the copy would not restart, or would restart wrongly. Not empty: refuse, or say what is
    /// lost.
    pub problems: Vec<Finding>,
    /// What does no harm, or only under a condition.
    pub remarks: Vec<Finding>,
}

impl Plan {
    /// Files and bytes of the copy.
    pub fn tally(&self, listing: &Listing) -> Tally {
        let mut tally = Tally::default();
        for file in &self.files {
            tally.add(file.len_bytes(listing));
        }
        tally
    }
}

/// What a copy of `contents` consists of. `contents` must have been loaded for the same batch.
///
/// # Errors
/// [`PlanRefused`] where there is nothing to plan. A source that lacks something gives a plan with
/// problems.
pub fn plan_copy(contents: &Contents, options: &PlanOptions<'_>) -> Result<Plan, PlanRefused> {
    match contents.directory {
        DirectoryKind::Query => {}
        DirectoryKind::DStreams => return Err(PlanRefused::DStreams),
        DirectoryKind::Empty => return Err(PlanRefused::Empty),
        DirectoryKind::FileSink | DirectoryKind::Foreign => {
            return Err(PlanRefused::NotACheckpoint);
        }
    }
    let target = choose_target(contents, options.at)?;
    let needs = needs(contents, &target);
    let mut plan = Plan {
        scope: options.scope,
        target,
        query_id: options.new_query_id.or(match contents.identity {
            Identity::Known(id) => Some(id),
            Identity::Missing | Identity::Damaged(_) => None,
        }),
        dirs: Vec::new(),
        files: Vec::new(),
        unknown: Vec::new(),
        left_out: BTreeMap::new(),
        problems: Vec::new(),
        remarks: Vec::new(),
    };
    select::select_files(contents, &needs, &mut plan);
    write_metadata(contents, options.new_query_id, &mut plan);
    write_operators(contents, options.destination, &mut plan);
    let listing = &contents.listing;
    plan.files.sort_by(|a, b| {
        let key = |file: &PlannedFile| (file.role().is_none(), file.role());
        (key(a), a.path(listing)).cmp(&(key(b), b.path(listing)))
    });
    plan.dirs = dirs_of(contents, &plan);
    for finding in needs.findings {
        if is_problem(&finding, options) {
            plan.problems.push(finding);
        } else if !is_solved(&finding, options) {
            plan.remarks.push(finding);
        }
    }
    Ok(plan)
}

/// What is wrong with the source and right in the copy.
fn is_solved(finding: &Finding, options: &PlanOptions<'_>) -> bool {
    let is_identity = matches!(finding.code, Code::MetadataMissing | Code::MetadataDamaged);
    (is_identity && options.new_query_id.is_some()) || finding.code == Code::SchemaElsewhere
}

/// What makes the copy worse than its source, or as bad.
fn is_problem(finding: &Finding, options: &PlanOptions<'_>) -> bool {
    let is_never_copied = matches!(
        finding.code,
        Code::MetadataMissing | Code::NotAFile | Code::SchemaMissing
    );
    // What is needed is not known, so nothing less than everything will do.
    let is_unknown = matches!(
        finding.code,
        Code::ProviderUnknown | Code::CodecUnknown | Code::StateUnread
    );
    !is_solved(finding, options)
        && (finding.severity == Severity::Damage
            || is_never_copied
            || (is_unknown && options.scope == Scope::Minimal))
}

/// A new identity replaces the file `metadata`.
fn write_metadata(contents: &Contents, new_query_id: Option<QueryId>, plan: &mut Plan) {
    let Some(id) = new_query_id else {
        return;
    };
    plan.files
        .retain(|file| file.role() != Some(Role::Metadata));
    plan.files.push(PlannedFile::Write {
        path: "metadata".to_owned(),
        content: id.to_metadata().into_bytes(),
        role: Role::Metadata,
        like: contents.listing.find("metadata").map(|file| file.id),
    });
}

/// Metadata of operators name their schema files by absolute URIs.
fn write_operators(contents: &Contents, destination: &str, plan: &mut Plan) {
    let listing = &contents.listing;
    let mut problems = Vec::new();
    for file in &mut plan.files {
        let PlannedFile::Copy { entry, .. } = *file else {
            continue;
        };
        let Some(operator) = contents.operators.get(&entry) else {
            continue;
        };
        let path = listing.get(entry).path;
        match move_schema_uris(&operator.content, destination) {
            Ok(Some(content)) => {
                *file = PlannedFile::Write {
                    path: path.to_owned(),
                    content,
                    role: Role::Schema,
                    like: Some(entry),
                };
            }
            // Damage was said already by the needs of the checkpoint.
            Ok(None) | Err(MoveRefused::Damaged(_)) => {}
            Err(refused @ MoveRefused::ForeignUri(_)) => {
                problems.push(operator_damage(path, &refused));
            }
        }
    }
    plan.problems.extend(problems);
}

/// The directories of the planned files, and those that Spark makes at the start of a query.
fn dirs_of(contents: &Contents, plan: &Plan) -> Vec<(String, Option<EntryId>)> {
    let listing = &contents.listing;
    let mut dirs: BTreeSet<&str> = BTreeSet::new();
    for file in &plan.files {
        let mut path = file.path(listing);
        while let Some((dir, _)) = path.rsplit_once('/') {
            if !dirs.insert(dir) {
                break;
            }
            path = dir;
        }
    }
    let has_state = plan.target.state_version > 0;
    for entry in listing.iter().filter(|e| e.kind == FileKind::Dir) {
        let mut parts = entry.path.split('/');
        let top = parts.next().unwrap_or_default();
        let is_kept = match top {
            "offsets" | "commits" | "sources" => parts.count() <= 1 || plan.scope == Scope::Full,
            "state" => has_state && plan.scope == Scope::Full,
            _ => plan.scope == Scope::Full,
        };
        if is_kept {
            dirs.insert(entry.path);
        }
    }
    dirs.into_iter()
        .map(|dir| (dir.to_owned(), listing.find(dir).map(|entry| entry.id)))
        .collect()
}
