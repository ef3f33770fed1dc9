//! The sources of a query and how far they came.

use serde::Serialize;
use serde_json::{Value, json};

use crate::checkpoint::contents::Contents;
use crate::checkpoint::log::{OffsetKind, OffsetLog, SourceOffset};
use crate::checkpoint::plan::Tally;
use crate::model::BatchId;

/// Offsets of unknown sources beyond this length are cut.
const MAX_TEXT_CHARS: usize = 16 * 1024;

/// One source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceReport {
    /// Index of the source in the plan, or its id with source evolution.
    pub source: String,
    /// Its kind, as its offsets show it.
    pub kind: OffsetKind,
    /// Where the last planned batch ends; null if its offsets cannot be read, or are none yet.
    pub planned_offset: Value,
    /// Where the last committed batch ends; null if its offsets are not there.
    pub committed_offset: Value,
    /// Files of its own log.
    pub log: Tally,
}

pub(super) fn report_sources(contents: &Contents) -> Vec<SourceReport> {
    let content = |batch: Option<BatchId>| contents.offsets.content(batch?);
    let planned = content(contents.offsets.newest());
    let committed = content(contents.commits.newest());
    // The newest may be damaged; an older one still tells the sources.
    let Some((_, newest)) = contents.offsets.newest_content() else {
        return Vec::new();
    };
    newest
        .sources
        .iter()
        .map(|(source, offset)| {
            let mut log = Tally::default();
            for file in contents.listing.below(&format!("sources/{source}")) {
                log.add(file.len_bytes);
            }
            SourceReport {
                source: source.clone(),
                kind: kind_of(offset, log),
                planned_offset: value_in(planned, source),
                committed_offset: value_in(committed, source),
                log,
            }
        })
        .collect()
}

/// The rate source writes a number, as others do, but keeps its start time in a log.
fn kind_of(offset: &SourceOffset, log: Tally) -> OffsetKind {
    let kind = offset.kind();
    if kind == OffsetKind::Number && log.files > 0 {
        OffsetKind::Rate
    } else {
        kind
    }
}

fn value_in(log: Option<&OffsetLog>, source: &str) -> Value {
    let offset = log.and_then(|log| log.sources.iter().find(|(id, _)| id == source));
    offset.map_or(Value::Null, |(_, offset)| value_of(offset))
}

/// An offset as JSON: as Spark wrote it, `null` for none yet.
pub(crate) fn value_of(offset: &SourceOffset) -> Value {
    match offset {
        SourceOffset::None => Value::Null,
        SourceOffset::Number(number) => json!(number),
        SourceOffset::RateMicroBatch {
            offset,
            timestamp_ms,
        } => json!({"offset": offset, "timestamp": timestamp_ms}),
        SourceOffset::File { log_offset } => json!({"logOffset": log_offset}),
        SourceOffset::Kafka(topics) => json!(topics),
        SourceOffset::Json(text) | SourceOffset::Text(text) => {
            if text.len() <= MAX_TEXT_CHARS
                && let Ok(value) = serde_json::from_str(text)
            {
                return value;
            }
            Value::from(text.chars().take(MAX_TEXT_CHARS).collect::<String>())
        }
    }
}
