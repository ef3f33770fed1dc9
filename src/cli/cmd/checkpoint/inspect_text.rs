//! How `inspect` reads.

use jiff::Timestamp;
use serde_json::Value;

use super::text::{add_findings, batch, files, size, tally, word};
use crate::checkpoint::inspect::{
    BatchRange, Names, OperatorReport, QueryState, Report as Inspection, SourceReport,
};
use crate::checkpoint::layout::DirectoryKind;
use crate::cli::output::{Look, Report, Row, Tone, ago, plain, printable, table};

/// An offset that is longer is cut; `--json` has all of it.
const MAX_OFFSET_CHARS: usize = 160;

/// So many names of odd files are shown.
const MAX_NAMES: usize = 5;

fn state_words(report: &Inspection) -> (String, Tone) {
    match report.state {
        QueryState::Clean => (
            "clean: the last planned batch is committed".into(),
            Tone::Good,
        ),
        QueryState::InFlight => (
            "in flight: a batch is planned and not committed; a restart repeats it".into(),
            Tone::Warn,
        ),
        QueryState::Empty => ("empty: no batch was planned yet".into(), Tone::Plain),
        QueryState::Skewed => (
            "skewed: several batches are planned and not committed".into(),
            Tone::Bad,
        ),
        QueryState::CommitAhead => (
            "commit ahead: a batch is committed that is not planned".into(),
            Tone::Bad,
        ),
        QueryState::NotAQuery => {
            let what = match report.kind {
                DirectoryKind::DStreams => "a DStreams checkpoint",
                DirectoryKind::FileSink => "the log of a file sink (_spark_metadata or its output)",
                DirectoryKind::Empty => "an empty directory",
                DirectoryKind::Query | DirectoryKind::Foreign => "something else",
            };
            (
                format!("not the checkpoint of a streaming query: {what}"),
                Tone::Bad,
            )
        }
    }
}

fn range_words(last: String, range: &BatchRange) -> String {
    let (Some(first), Some(newest)) = (range.first, range.last) else {
        return last;
    };
    let gaps = if range.has_gaps { ", with gaps" } else { "" };
    format!(
        "{last} ({} on disk, {first} to {newest}{gaps})",
        range.count
    )
}

fn names_words(names: &Names) -> String {
    let mut shown: Vec<String> = names
        .paths
        .iter()
        .take(MAX_NAMES)
        .map(|path| printable(path))
        .collect();
    if names.count > shown.len() as u64 {
        shown.push("...".to_owned());
    }
    match names.count {
        0 => "none".to_owned(),
        count => format!("{count}: {}", shown.join(", ")),
    }
}

fn copy_words(report: &Inspection) -> (String, Tone) {
    let copy = &report.copy;
    if copy.possible {
        let (minimal, full) = (tally(copy.minimal), tally(copy.full));
        let hot = if report.looks_live {
            "; the query seems to run"
        } else {
            ""
        };
        (
            format!("yes: {minimal}; with --full {full}{hot}"),
            Tone::Good,
        )
    } else {
        (format!("no: {}", copy.because.join("; ")), Tone::Bad)
    }
}

/// A name and its value.
type Fact = (&'static str, (String, Tone));

fn facts(report: &Inspection) -> Vec<Fact> {
    let now = Timestamp::now();
    let mut rows: Vec<Fact> = Vec::new();
    let mut row = |name: &'static str, value: String| rows.push((name, plain(value)));
    let some = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let (state, tone) = state_words(report);
    row("checkpoint", report.uri.clone());
    if report.state == QueryState::NotAQuery {
        rows.push(("state", (state, tone)));
        let all = format!("{}, {}", files(report.files), size(report.bytes));
        rows.push(("files", plain(all)));
        rows.push(("can be copied", copy_words(report)));
        return rows;
    }
    row("query id", some(report.query_id.map(|id| id.to_string())));
    if let Some(damage) = &report.metadata_damage {
        row("metadata", damage.clone());
    }
    rows.push(("state", (state, tone)));
    let mut row = |name: &'static str, value: String| rows.push((name, plain(value)));
    row(
        "last planned batch",
        range_words(batch(report.last_planned_batch), &report.planned_batches),
    );
    row(
        "last committed batch",
        range_words(
            batch(report.last_committed_batch),
            &report.committed_batches,
        ),
    );
    if let Some(at) = report.committed_at {
        let at_words = at.strftime("%Y-%m-%d %H:%M:%SZ");
        row("committed", format!("{at_words}, {}", ago(at, now)));
    }
    let live = if report.looks_live { "yes" } else { "no" };
    row("looks live", format!("{live} (by the times of its files)"));
    if let Some(watermark) = report.watermark_ms.filter(|ms| *ms != 0) {
        let at = Timestamp::from_millisecond(watermark)
            .map(|at| format!(", {}", at.strftime("%Y-%m-%d %H:%M:%S%.3fZ")));
        row(
            "watermark",
            format!("{watermark} ms{}", at.unwrap_or_default()),
        );
    }
    let version = |version: Option<u32>| version.map_or("?".to_owned(), |v| format!("v{v}"));
    row(
        "formats",
        format!(
            "offsets {}, commits {}, checkpoint {}",
            version(report.offset_log_version),
            version(report.commit_log_version),
            version(report.checkpoint_format)
        ),
    );
    if report.async_progress {
        row(
            "async progress",
            "yes: gaps in the logs are normal; a restart needs asyncProgressTrackingEnabled".into(),
        );
    }
    if let Some(provider) = &report.provider {
        let short = provider.rsplit('.').next().unwrap_or(provider);
        let codec = report.codec.as_deref().unwrap_or("?");
        row("state store", format!("{short}, {codec}"));
    }
    if let Some(partitions) = report.shuffle_partitions {
        row("shuffle partitions", partitions.to_string());
    }
    row(
        "files",
        format!("{}, {}", files(report.files), size(report.bytes)),
    );
    row("temporary files", names_words(&report.temporary_files));
    row("foreign files", names_words(&report.foreign_files));
    rows.push(("can be copied", copy_words(report)));
    rows
}

fn offset_words(offset: &Value) -> String {
    if offset.is_null() {
        return "none".to_owned();
    }
    let text = offset
        .as_str()
        .map_or_else(|| offset.to_string(), ToOwned::to_owned);
    if text.chars().count() <= MAX_OFFSET_CHARS {
        return text;
    }
    let cut: String = text.chars().take(MAX_OFFSET_CHARS).collect();
    format!("{cut}...")
}

fn source_row(source: &SourceReport) -> Row {
    let log = match source.log.files {
        0 => String::new(),
        _ => tally(source.log),
    };
    vec![
        plain(source.source.clone()),
        plain(word(source.kind)),
        plain(offset_words(&source.committed_offset)),
        plain(offset_words(&source.planned_offset)),
        plain(log),
    ]
}

fn operator_row(operator: &OperatorReport) -> Row {
    let partitions = match operator.expected_partitions {
        Some(expected) if expected != operator.partitions => {
            (format!("{} of {expected}", operator.partitions), Tone::Warn)
        }
        _ => plain(operator.partitions.to_string()),
    };
    let mut kinds: Vec<String> = operator
        .files
        .iter()
        .map(|(kind, tally)| format!("{} {}", tally.files, word(kind)))
        .collect();
    if operator.data.files > 0 {
        kinds.push(format!("{} data", operator.data.files));
    }
    let chain = if operator.broken_stores > 0 {
        let broken = operator.broken_stores;
        (format!("{broken} stores cannot be loaded"), Tone::Bad)
    } else {
        plain(tally(operator.chain))
    };
    vec![
        plain(operator.operator.to_string()),
        plain(operator.name.clone().unwrap_or_else(|| "?".to_owned())),
        partitions,
        plain(operator.stores.join(" ")),
        plain(operator.versions.map_or_else(
            || "none".to_owned(),
            |v| format!("{} to {}", v.first, v.last),
        )),
        plain(kinds.join(", ")),
        chain,
    ]
}

impl Report for Inspection {
    fn text(&self, look: Look) -> String {
        let lines: Vec<String> = facts(self)
            .into_iter()
            .map(|(name, (value, tone))| {
                format!("{name:<22}{}", look.paint(tone, &printable(&value)))
            })
            .collect();
        let mut text = lines.join("\n");
        if !self.sources.is_empty() {
            let rows: Vec<Row> = self.sources.iter().map(source_row).collect();
            let head = ["SOURCE", "KIND", "COMMITTED", "PLANNED", "ITS LOG"];
            text.push_str("\n\n");
            text.push_str(&table(look, &head, &rows));
        }
        if !self.operators.is_empty() {
            let rows: Vec<Row> = self.operators.iter().map(operator_row).collect();
            let head = [
                "OPERATOR",
                "NAME",
                "PARTITIONS",
                "STORES",
                "VERSIONS",
                "FILES",
                "NEXT BATCH LOADS",
            ];
            text.push_str("\n\n");
            text.push_str(&table(look, &head, &rows));
        }
        if !self.findings.is_empty() {
            text.push('\n');
            add_findings(&mut text, &self.findings, look);
        }
        text
    }
}
