//! What a restart reads: the files, and what is wrong with them. The one place that knows; `verify`,
//! `inspect` and `plan` ask here. Pure.

mod logs;
mod schemas;
mod sources;
mod state;

pub(super) use logs::{commit_damage, log_damage_in_spark, offset_damage};
pub(super) use schemas::operator_damage;
pub(super) use state::zip_damage;

use super::contents::Contents;
use super::finding::{Code, Finding, Severity};
use super::listing::{EntryId, FileKind};
use super::target::Target;

/// What a file is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The query id.
    Metadata,
    /// The log of planned batches.
    Offset,
    /// The log of committed batches.
    Commit,
    /// The log of a source.
    SourceLog,
    /// A delta, snapshot, changelog or zip of a chain.
    State,
    /// An SST or a log that a zip names.
    StateData,
    /// A schema, or metadata of an operator.
    Schema,
    /// A checksum beside one of the files above; not needed, but checked if it is there.
    SideFile,
}

/// A file that a restart reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeededFile {
    /// What for.
    pub role: Role,
    /// Which.
    pub entry: EntryId,
}

/// The state of one store that a restart loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreNeed {
    /// Operator.
    pub operator: u32,
    /// Partition.
    pub partition: u32,
    /// Name of the store.
    pub name: String,
    /// The files of the chain, in the order of loading; empty if it is not whole.
    pub chain: Vec<EntryId>,
    /// SSTs and logs that the zip of the chain names, as far as they are there.
    pub data: Vec<EntryId>,
}

/// What must still be read before the needs are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unread {
    /// The header of a changelog.
    Header(EntryId),
    /// A zip.
    Zip(EntryId),
}

/// What a restart reads, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Needs {
    /// The files, without repetition, by role and path.
    pub files: Vec<NeededFile>,
    /// The stores that are loaded.
    pub stores: Vec<StoreNeed>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What must be read first; if not empty, the rest is incomplete.
    pub unread: Vec<Unread>,
}

impl Needs {
    fn add(&mut self, role: Role, entry: EntryId) {
        self.files.push(NeededFile { role, entry });
    }
}

/// What a restart of `contents` as of `target` reads.
pub fn needs(contents: &Contents, target: &Target) -> Needs {
    let mut needs = Needs::default();
    logs::add_logs(contents, target, &mut needs);
    sources::add_sources(contents, target, &mut needs);
    state::add_state(contents, target, &mut needs);
    needs.files.sort_unstable();
    needs.files.dedup();
    add_links(contents, &mut needs);
    needs
}

/// Links are not followed: what they lead to is neither checked nor copied.
fn add_links(contents: &Contents, needs: &mut Needs) {
    let listing = &contents.listing;
    let dirs = ["offsets", "commits", "sources", "state"];
    let dirs = dirs.iter().filter_map(|name| listing.find(name));
    for entry in dirs.filter(|entry| entry.kind != FileKind::Dir) {
        needs.findings.push(
            Finding::damage(Code::NotAFile, entry.path)
                .expected("a directory")
                .found(kind_word(entry.kind))
                .spark("Spark follows a link; what lies behind it was not looked at"),
        );
    }
    for file in &needs.files {
        let entry = listing.get(file.entry);
        if entry.kind != FileKind::File {
            needs.findings.push(
                Finding::damage(Code::NotAFile, entry.path)
                    .with_severity(Severity::Warning)
                    .expected("a file")
                    .found(kind_word(entry.kind))
                    .spark("Spark follows a link; a copy does not"),
            );
        }
    }
}

fn kind_word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "a file",
        FileKind::Dir => "a directory",
        FileKind::Symlink => "a symbolic link",
        FileKind::Other => "neither a file nor a directory",
    }
}
