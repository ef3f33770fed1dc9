//! How values, findings, verifications and differences read.

use std::fmt::Write as _;

use indicatif::HumanBytes;
use serde::Serialize;

use crate::checkpoint::diff::{Difference, OffsetRange};
use crate::checkpoint::finding::{Finding, Severity};
use crate::checkpoint::plan::Tally;
use crate::checkpoint::verify::{Verdict, Verification};
use crate::cli::output::{Look, Report, Tone, printable};
use crate::model::BatchId;

/// The word of JSON for a value that is one.
pub(super) fn word(value: impl Serialize) -> String {
    serde_json::to_value(value)
        .ok()
        .and_then(|value| value.as_str().map(ToOwned::to_owned))
        .unwrap_or_default()
}

pub(super) fn batch(batch: Option<BatchId>) -> String {
    batch.map_or_else(|| "none".to_owned(), |batch| batch.to_string())
}

pub(super) fn size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// `1 file, 45 B`
pub(super) fn tally(tally: Tally) -> String {
    format!("{}, {}", files(tally.files), size(tally.bytes))
}

pub(super) fn files(count: u64) -> String {
    format!("{count} {}", if count == 1 { "file" } else { "files" })
}

/// The batches of a copy, and what a restart does.
pub(super) fn batches(planned: Option<BatchId>, committed: Option<BatchId>) -> String {
    match (planned, committed) {
        (None, None) => "no batch was planned yet".to_owned(),
        (planned, committed) if planned == committed => {
            format!("batch {} is planned and committed", batch(planned))
        }
        (planned, committed) => format!(
            "batch {} is planned and not committed (last committed: {}); a restart repeats it",
            batch(planned),
            batch(committed)
        ),
    }
}

pub(super) fn add_findings(text: &mut String, findings: &[Finding], look: Look) {
    for finding in findings {
        let (name, tone) = match finding.severity {
            Severity::Damage => ("damage ", Tone::Bad),
            Severity::Warning => ("warning", Tone::Warn),
            Severity::Note => ("note   ", Tone::Dim),
        };
        let path = match finding.path.as_str() {
            "" => "the directory",
            path => path,
        };
        // Writing to a string cannot fail.
        let _infallible = write!(text, "\n{}  {}", look.paint(tone, name), printable(path));
        for (label, value) in [
            ("found:   ", &finding.found),
            ("expected:", &finding.expected),
            ("Spark:   ", &finding.spark),
        ] {
            if !value.is_empty() {
                let _infallible = write!(text, "\n         {label} {}", printable(value));
            }
        }
    }
}

impl Report for Verification {
    fn text(&self, look: Look) -> String {
        let (name, tone) = match self.verdict {
            Verdict::Sound if !self.not_checked.is_empty() => ("not all could be read", Tone::Warn),
            Verdict::Sound => ("sound", Tone::Good),
            Verdict::Remarks => ("usable, with remarks", Tone::Warn),
            Verdict::Damaged => ("damaged", Tone::Bad),
        };
        let mut text = format!(
            "{}: {}; {}; {} read",
            printable(&self.uri),
            look.paint(tone, name),
            batches(self.last_planned_batch, self.last_committed_batch),
            files(self.checked.files)
        );
        add_findings(&mut text, &self.findings, look);
        for gap in &self.not_checked {
            let label = look.paint(Tone::Warn, "not read");
            let (path, why) = (printable(&gap.path), printable(&gap.why));
            let _infallible = write!(text, "\n{label} {path}: {why}");
        }
        text
    }
}

fn or_none(value: Option<&String>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| printable(value))
}

fn add_ranges(lines: &mut Vec<String>, what: &str, ranges: &[OffsetRange]) {
    for range in ranges {
        let partition = match range.partition.as_str() {
            "" => String::new(),
            partition => format!(" {}", printable(partition)),
        };
        let more = range
            .difference
            .map(|more| format!(" ({more:+})"))
            .unwrap_or_default();
        lines.push(format!(
            "source {}{partition}, {what}: {} -> {}{more}",
            printable(&range.source),
            or_none(range.offset.a.as_ref()),
            or_none(range.offset.b.as_ref())
        ));
    }
}

impl Report for Difference {
    fn text(&self, _look: Look) -> String {
        if self.same {
            return "no difference".to_owned();
        }
        let mut lines = Vec::new();
        if let Some(id) = &self.query_id {
            let (a, b) = (or_none(id.a.as_ref()), or_none(id.b.as_ref()));
            lines.push(format!("query id: {a} -> {b}"));
        }
        for (name, sides) in [
            ("last planned batch", &self.last_planned_batch),
            ("last committed batch", &self.last_committed_batch),
        ] {
            if let Some(sides) = sides {
                lines.push(format!("{name}: {} -> {}", batch(sides.a), batch(sides.b)));
            }
        }
        add_ranges(&mut lines, "planned", &self.planned_offsets);
        add_ranges(&mut lines, "committed", &self.committed_offsets);
        if let Some(watermark) = &self.watermark_ms {
            let ms = |value: Option<i64>| value.map_or("none".to_owned(), |ms| format!("{ms} ms"));
            let (a, b) = (ms(watermark.a), ms(watermark.b));
            lines.push(format!("watermark: {a} -> {b}"));
        }
        for (key, sides) in &self.conf {
            let (a, b) = (or_none(sides.a.as_ref()), or_none(sides.b.as_ref()));
            lines.push(format!("conf {}: {a} -> {b}", printable(key)));
        }
        for (operator, sides) in &self.state_versions {
            let version = |v: Option<u64>| v.map_or("none".to_owned(), |v| v.to_string());
            let (a, b) = (version(sides.a), version(sides.b));
            lines.push(format!("operator {operator}, newest state: {a} -> {b}"));
        }
        lines.join("\n")
    }
}
