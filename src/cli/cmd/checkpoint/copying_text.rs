//! How plans and copies read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::text::{add_findings, batches, size, tally, word};
use crate::checkpoint::copy::CopyReport;
use crate::checkpoint::finding::Finding;
use crate::checkpoint::needs::Role;
use crate::checkpoint::plan::{LeftOut, Scope, Tally};
use crate::cli::output::{Look, Report, Row, Tone, plain, printable, table};
use crate::model::BatchId;
use crate::storage::StorageUri;

/// The result of `--dry-run`.
#[derive(Debug, Serialize)]
pub(super) struct PlanReport {
    pub(super) dry_run: bool,
    /// Whether what stands at the destination would be moved aside.
    pub(super) replaces: bool,
    pub(super) source: StorageUri,
    pub(super) destination: StorageUri,
    pub(super) scope: Scope,
    pub(super) query_id: Option<String>,
    pub(super) last_planned_batch: Option<BatchId>,
    pub(super) last_committed_batch: Option<BatchId>,
    pub(super) state_version: u64,
    pub(super) total: Tally,
    pub(super) files: Vec<PlannedPath>,
    pub(super) left_out: BTreeMap<LeftOut, Tally>,
    pub(super) problems: Vec<Finding>,
    pub(super) remarks: Vec<Finding>,
    /// Whether the text names every file.
    #[serde(skip)]
    pub(super) list_files: bool,
}

/// A file of a plan.
#[derive(Debug, Serialize)]
pub(super) struct PlannedPath {
    pub(super) path: String,
    pub(super) bytes: u64,
    /// What a restart needs it for; null if it does not.
    pub(super) role: Option<Role>,
}

fn role_words(role: Option<Role>) -> &'static str {
    match role {
        Some(Role::Metadata) => "metadata: the query id",
        Some(Role::Offset) => "offsets: planned batches",
        Some(Role::Commit) => "commits: committed batches",
        Some(Role::SourceLog) => "sources: what the sources have read",
        Some(Role::State) => "state: what the next batch loads",
        Some(Role::StateData) => "state: data files of RocksDB",
        Some(Role::Schema) => "state: schemas and operators",
        Some(Role::SideFile) => "checksums of the files above",
        None => "not needed by a restart",
    }
}

fn left_out_words(why: LeftOut) -> &'static str {
    match why {
        LeftOut::Temporary => "left by interrupted writes",
        LeftOut::HadoopChecksum => "checksums that Hadoop writes anew",
        LeftOut::Manifest => "the manifest of the source",
        LeftOut::OlderBatch => "logs of older batches",
        LeftOut::LaterBatch => "logs of later batches",
        LeftOut::OlderState => "state of older batches",
        LeftOut::LaterState => "state of later batches",
        LeftOut::UnusedData => "data files of other versions",
        LeftOut::CompactedLog => "entries that a compact log has",
        LeftOut::LaterSchema => "schemas of later batches",
        LeftOut::SideFile => "checksums of files left out",
        LeftOut::Misnamed => "names that break the loader",
        LeftOut::NotAFile => "links and other non-files",
    }
}

impl Report for PlanReport {
    fn text(&self, look: Look) -> String {
        let aside = if self.replaces {
            "what stands there now would be moved aside\n"
        } else {
            ""
        };
        let mut text = format!(
            "would copy {} ({}) from {} to {}\n{}\n{aside}\n",
            tally(self.total),
            word(self.scope),
            printable(&self.source.to_string()),
            printable(&self.destination.to_string()),
            batches(self.last_planned_batch, self.last_committed_batch)
        );
        let mut by_role: BTreeMap<(bool, Option<Role>), Tally> = BTreeMap::new();
        for file in &self.files {
            let sum = by_role.entry((file.role.is_none(), file.role)).or_default();
            sum.files += 1;
            sum.bytes += file.bytes;
        }
        let mut rows: Vec<Row> = Vec::new();
        let mut row = |what: &str, tone: Tone, sum: Tally, why: &str| {
            rows.push(vec![
                (what.to_owned(), tone),
                plain(sum.files.to_string()),
                plain(size(sum.bytes)),
                plain(why),
            ]);
        };
        for ((_, role), sum) in &by_role {
            row("copied", Tone::Good, *sum, role_words(*role));
        }
        for (why, sum) in &self.left_out {
            row("left out", Tone::Dim, *sum, left_out_words(*why));
        }
        text.push_str(&table(look, &["", "FILES", "SIZE", "WHAT"], &rows));
        if self.list_files {
            text.push('\n');
            for file in &self.files {
                let path = printable(&file.path);
                // Writing to a string cannot fail.
                let _infallible = write!(text, "\n{:>12}  {path}", file.bytes);
            }
        }
        if !self.problems.is_empty() {
            text.push_str("\n\nwithout --force the copy is refused:");
        }
        add_findings(&mut text, &self.problems, look);
        add_findings(&mut text, &self.remarks, look);
        text
    }
}

impl Report for CopyReport {
    fn text(&self, look: Look) -> String {
        let destination = printable(&self.destination.to_string());
        let mut text = format!(
            "{} is a copy of {}: {}",
            look.paint(Tone::Good, &destination),
            printable(&self.source.to_string()),
            tally(self.total),
        );
        if self.copied != self.total {
            let _infallible = write!(text, "; copied now: {}", tally(self.copied));
        }
        text.push('\n');
        text.push_str(&batches(self.last_planned_batch, self.last_committed_batch));
        if let Some(id) = &self.query_id {
            let _infallible = write!(text, "; query id {id}");
        }
        if let Some(aside) = &self.moved_aside {
            let aside = printable(&aside.to_string());
            let _infallible = write!(text, "\nwhat stood there is at {aside} now");
        }
        if !self.problems.is_empty() {
            text.push_str("\nforced; this is lost:");
        }
        add_findings(&mut text, &self.problems, look);
        add_findings(&mut text, &self.remarks, look);
        text
    }
}
