//! How the results of `stepdown checkpoint` read.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;

use crate::checkpoint::copy::CopyReport;
use crate::checkpoint::diff::Difference;
use crate::checkpoint::finding::{Finding, Severity};
use crate::checkpoint::inspect::Report as Inspection;
use crate::checkpoint::plan::{Scope, Tally};
use crate::checkpoint::retain::{Fate, FoundCopy};
use crate::checkpoint::verify::{Verdict, Verification};
use crate::cli::output::{Look, Report, Row, Tone, ago, plain, table};
use crate::model::BatchId;
use crate::storage::StorageUri;

/// The result of a plan.
#[derive(Debug, Serialize)]
pub(super) struct PlanReport {
    pub(super) source: StorageUri,
    pub(super) destination: StorageUri,
    pub(super) scope: Scope,
    pub(super) query_id: Option<String>,
    pub(super) last_planned_batch: Option<BatchId>,
    pub(super) last_committed_batch: Option<BatchId>,
    pub(super) total: Tally,
    pub(super) files: Vec<PlannedPath>,
    pub(super) problems: Vec<Finding>,
    pub(super) remarks: Vec<Finding>,
}

#[derive(Debug, Serialize)]
pub(super) struct PlannedPath {
    pub(super) path: String,
    pub(super) bytes: u64,
}

/// The word of JSON for a value that is one.
fn word(value: impl Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(ToOwned::to_owned))
        .unwrap_or_default()
}

fn batch(batch: Option<BatchId>) -> String {
    batch.map_or_else(|| "none".to_owned(), |batch| batch.to_string())
}

fn findings_text(text: &mut String, findings: &[Finding], look: Look) {
    for finding in findings {
        let tone = match finding.severity {
            Severity::Damage => Tone::Bad,
            Severity::Note | Severity::Warning => Tone::Warn,
        };
        text.push_str("\n  ");
        text.push_str(&look.paint(tone, &finding.to_string()));
        if !finding.spark.is_empty() {
            text.push_str("\n    Spark: ");
            text.push_str(&finding.spark);
        }
    }
}

impl Report for PlanReport {
    fn text(&self, look: Look) -> String {
        let mut text = format!(
            "would copy {} files, {} bytes, from {} to {}\nlast planned batch {}, last committed {}",
            self.total.files,
            self.total.bytes,
            self.source,
            self.destination,
            batch(self.last_planned_batch),
            batch(self.last_committed_batch)
        );
        for file in &self.files {
            let _ = write!(text, "\n  {:>12}  {}", file.bytes, file.path);
        }
        findings_text(&mut text, &self.problems, look);
        findings_text(&mut text, &self.remarks, look);
        text
    }
}

impl Report for CopyReport {
    fn text(&self, look: Look) -> String {
        let mut text = format!(
            "{} is a copy of {}: {} files, {} bytes; last planned batch {}, last committed {}",
            look.paint(Tone::Good, &self.destination.to_string()),
            self.source,
            self.total.files,
            self.total.bytes,
            batch(self.last_planned_batch),
            batch(self.last_committed_batch)
        );
        if let Some(aside) = &self.moved_aside {
            let _ = write!(text, "\nwhat stood there is at {aside} now");
        }
        findings_text(&mut text, &self.remarks, look);
        text
    }
}

impl Report for Inspection {
    fn text(&self, look: Look) -> String {
        let now = Timestamp::now();
        let mut rows: Vec<Row> = Vec::new();
        let mut row = |name: &str, value: String| rows.push(vec![plain(name), plain(value)]);
        row("checkpoint", self.uri.clone());
        row("state", word(self.state));
        row(
            "query id",
            self.query_id
                .map_or_else(|| "none".to_owned(), |id| id.to_string()),
        );
        row("last planned batch", batch(self.last_planned_batch));
        row("last committed batch", batch(self.last_committed_batch));
        if let Some(at) = self.committed_at {
            row("committed", format!("{at} ({} ago)", ago(at, now)));
        }
        row(
            "looks live",
            if self.looks_live { "yes" } else { "no" }.to_owned(),
        );
        if let Some(provider) = &self.provider {
            row("state store", provider.clone());
        }
        if let Some(partitions) = self.shuffle_partitions {
            row("shuffle partitions", partitions.to_string());
        }
        if let Some(watermark) = self.watermark_ms {
            row("watermark", format!("{watermark} ms"));
        }
        for source in &self.sources {
            row(
                &format!("source {} ({})", source.source, word(source.kind)),
                format!(
                    "planned {}, committed {}",
                    source.planned_offset, source.committed_offset
                ),
            );
        }
        for operator in &self.operators {
            let versions = operator
                .versions
                .map_or_else(|| "none".to_owned(), |v| format!("{}..{}", v.first, v.last));
            row(
                &format!("operator {}", operator.operator),
                format!(
                    "{}{} partitions, versions {versions}, the next batch loads {} files, {} bytes",
                    operator
                        .name
                        .as_ref()
                        .map(|name| format!("{name}, "))
                        .unwrap_or_default(),
                    operator.partitions,
                    operator.chain.files,
                    operator.chain.bytes
                ),
            );
        }
        row("files", format!("{}, {} bytes", self.files, self.bytes));
        row(
            "temporary, foreign",
            format!(
                "{}, {}",
                self.temporary_files.count, self.foreign_files.count
            ),
        );
        let copy = if self.copy.possible {
            format!(
                "yes: {} files, {} bytes; everything: {} files, {} bytes",
                self.copy.minimal.files,
                self.copy.minimal.bytes,
                self.copy.full.files,
                self.copy.full.bytes
            )
        } else {
            format!("no: {}", self.copy.because.join("; "))
        };
        row("can be copied", copy);
        let mut text = table(look, &["", ""], &rows);
        findings_text(&mut text, &self.findings, look);
        text
    }
}

impl Report for Verification {
    fn text(&self, look: Look) -> String {
        let (word, tone) = match self.verdict {
            Verdict::Sound => ("sound", Tone::Good),
            Verdict::Remarks => ("usable, with remarks", Tone::Warn),
            Verdict::Damaged => ("damaged", Tone::Bad),
        };
        let mut text = format!(
            "{}: {}, {} files looked at",
            self.uri,
            look.paint(tone, word),
            self.checked.files
        );
        findings_text(&mut text, &self.findings, look);
        for gap in &self.not_checked {
            let _ = write!(text, "\n  not checked: {}: {}", gap.path, gap.why);
        }
        text
    }
}

impl Report for Difference {
    fn text(&self, _look: Look) -> String {
        if self.same {
            return "no difference".to_owned();
        }
        let mut lines = Vec::new();
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        if let Some(id) = &self.query_id {
            lines.push(format!("query id: {} -> {}", show(&id.a), show(&id.b)));
        }
        for (name, sides) in [
            ("last planned batch", &self.last_planned_batch),
            ("last committed batch", &self.last_committed_batch),
        ] {
            if let Some(sides) = sides {
                lines.push(format!("{name}: {} -> {}", batch(sides.a), batch(sides.b)));
            }
        }
        for (name, ranges) in [
            ("planned", &self.planned_offsets),
            ("committed", &self.committed_offsets),
        ] {
            for range in ranges {
                let more = range
                    .difference
                    .map(|more| format!(" ({more:+})"))
                    .unwrap_or_default();
                lines.push(format!(
                    "source {} {} {name} offset: {} -> {}{more}",
                    range.source,
                    range.partition,
                    show(&range.offset.a),
                    show(&range.offset.b)
                ));
            }
        }
        if let Some(watermark) = &self.watermark_ms {
            let ms = |value: Option<i64>| value.map_or("none".to_owned(), |ms| format!("{ms} ms"));
            lines.push(format!(
                "watermark: {} -> {}",
                ms(watermark.a),
                ms(watermark.b)
            ));
        }
        for (key, sides) in &self.conf {
            lines.push(format!(
                "conf {key}: {} -> {}",
                show(&sides.a),
                show(&sides.b)
            ));
        }
        for (operator, sides) in &self.state_versions {
            let version = |v: Option<u64>| v.map_or("none".to_owned(), |v| v.to_string());
            lines.push(format!(
                "operator {operator} state version: {} -> {}",
                version(sides.a),
                version(sides.b)
            ));
        }
        lines.join("\n")
    }
}

/// The result of `sync` before its end.
#[derive(Debug, Serialize)]
pub(super) struct Synced {
    pub(super) destination: String,
}

impl Report for Synced {
    fn text(&self, _look: Look) -> String {
        format!(
            "what {} will be made of is up to date; --finish makes the last pass and lets it appear",
            self.destination
        )
    }
}

/// The result of `ls`.
#[derive(Debug, Serialize)]
pub(super) struct Copies {
    pub(super) copies: Vec<FoundCopy>,
}

fn copy_row(copy: &FoundCopy) -> Row {
    vec![
        plain(copy.uri.to_string()),
        plain(batch(copy.last_committed_batch)),
        plain(ago(copy.created_at, Timestamp::now())),
        plain(copy.files.to_string()),
        plain(copy.bytes.to_string()),
        plain(if copy.in_use { "yes" } else { "no" }),
        plain(copy.source.to_string()),
    ]
}

impl Report for Copies {
    fn text(&self, look: Look) -> String {
        let rows: Vec<Row> = self.copies.iter().map(copy_row).collect();
        let head = [
            "COPY",
            "COMMITTED",
            "AGE",
            "FILES",
            "BYTES",
            "USED",
            "SOURCE",
        ];
        table(look, &head, &rows)
    }
}

/// The result of `retain`.
#[derive(Debug, Serialize)]
pub(super) struct Retained {
    pub(super) dry_run: bool,
    pub(super) copies: Vec<RetainedCopy>,
}

#[derive(Debug, Serialize)]
pub(super) struct RetainedCopy {
    #[serde(flatten)]
    pub(super) copy: FoundCopy,
    pub(super) fate: Fate,
}

impl Report for Retained {
    fn text(&self, look: Look) -> String {
        let rows: Vec<Row> = self
            .copies
            .iter()
            .map(|one| {
                let fate = match (one.fate, self.dry_run) {
                    (Fate::Remove, true) => ("would go", Tone::Warn),
                    (Fate::Remove, false) => ("removed", Tone::Warn),
                    (Fate::KeepNewest, _) => ("stays: the newest", Tone::Plain),
                    (Fate::KeepLast, _) => ("stays: among the last", Tone::Plain),
                    (Fate::KeepYoung, _) => ("stays: young", Tone::Plain),
                    (Fate::KeepInUse, _) => ("stays: in use", Tone::Plain),
                };
                vec![
                    plain(one.copy.uri.to_string()),
                    plain(ago(one.copy.created_at, Timestamp::now())),
                    (fate.0.to_owned(), fate.1),
                ]
            })
            .collect();
        table(look, &["COPY", "AGE", ""], &rows)
    }
}
