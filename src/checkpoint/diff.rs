//! What differs between two checkpoints: batches, offset ranges, confs, state. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::inspect::Report;
use super::log::SourceOffset;
use crate::model::BatchId;

/// The two sides of one value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sides<T> {
    /// In the first checkpoint.
    pub a: T,
    /// In the second.
    pub b: T,
}

impl<T: PartialEq> Sides<T> {
    fn of(a: T, b: T) -> Option<Self> {
        (a != b).then_some(Self { a, b })
    }
}

/// One partition of a source, or the whole of a source that shows none.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OffsetRange {
    /// Index or id of the source.
    pub source: String,
    /// `<topic>/<partition>`, or empty.
    pub partition: String,
    /// The offsets, as text.
    pub offset: Sides<Option<String>>,
    /// How many more the second has, where the offsets are numbers; what lies between is read by one
    /// of the two and not by the other.
    pub difference: Option<i128>,
}

/// What differs. Empty where nothing does.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Whether there is none.
    pub same: bool,
    /// The query ids.
    pub query_id: Option<Sides<Option<String>>>,
    /// The last planned batches.
    pub last_planned_batch: Option<Sides<Option<BatchId>>>,
    /// The last committed batches.
    pub last_committed_batch: Option<Sides<Option<BatchId>>>,
    /// Ends of the last planned batch, by source and partition, where they differ.
    pub planned_offsets: Vec<OffsetRange>,
    /// Ends of the last committed batch, likewise.
    pub committed_offsets: Vec<OffsetRange>,
    /// The watermarks, milliseconds since the epoch.
    pub watermark_ms: Option<Sides<Option<i64>>>,
    /// Pinned confs that differ.
    pub conf: BTreeMap<String, Sides<Option<String>>>,
    /// The newest versions of the state on disk, by operator.
    pub state_versions: BTreeMap<u32, Sides<Option<u64>>>,
}

/// What differs between the checkpoints of two reports.
pub fn diff(a: &Report, b: &Report) -> Difference {
    let id = |report: &Report| report.query_id.map(|id| id.to_string());
    let mut difference = Difference {
        same: false,
        query_id: Sides::of(id(a), id(b)),
        last_planned_batch: Sides::of(a.last_planned_batch, b.last_planned_batch),
        last_committed_batch: Sides::of(a.last_committed_batch, b.last_committed_batch),
        planned_offsets: diff_offsets(a, b, |source| &source.planned_offset),
        committed_offsets: diff_offsets(a, b, |source| &source.committed_offset),
        watermark_ms: Sides::of(a.watermark_ms, b.watermark_ms),
        conf: diff_maps(&a.conf, &b.conf),
        state_versions: diff_maps(&versions(a), &versions(b)),
    };
    difference.same = difference.query_id.is_none()
        && difference.last_planned_batch.is_none()
        && difference.last_committed_batch.is_none()
        && difference.planned_offsets.is_empty()
        && difference.committed_offsets.is_empty()
        && difference.watermark_ms.is_none()
        && difference.conf.is_empty()
        && difference.state_versions.is_empty();
    difference
}

fn versions(report: &Report) -> BTreeMap<u32, u64> {
    report
        .operators
        .iter()
        .filter_map(|operator| Some((operator.operator, operator.versions?.last)))
        .collect()
}

fn diff_maps<K: Ord + Clone, V: PartialEq + Clone>(
    a: &BTreeMap<K, V>,
    b: &BTreeMap<K, V>,
) -> BTreeMap<K, Sides<Option<V>>> {
    let keys: BTreeSet<&K> = a.keys().chain(b.keys()).collect();
    keys.into_iter()
        .filter_map(|key| {
            Some((
                key.clone(),
                Sides::of(a.get(key).cloned(), b.get(key).cloned())?,
            ))
        })
        .collect()
}

type Positions = BTreeMap<(String, String), String>;

fn positions(
    report: &Report,
    offset: impl Fn(&super::inspect::SourceReport) -> &Value,
) -> Positions {
    let mut positions = Positions::new();
    for source in &report.sources {
        let value = offset(source);
        if value.is_null() {
            continue;
        }
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), ToOwned::to_owned);
        match SourceOffset::parse(&text) {
            SourceOffset::Kafka(topics) => {
                for (topic, partitions) in topics {
                    for (partition, next) in partitions {
                        let name = format!("{topic}/{partition}");
                        positions.insert((source.source.clone(), name), next.to_string());
                    }
                }
            }
            SourceOffset::Number(number) => {
                positions.insert((source.source.clone(), String::new()), number.to_string());
            }
            SourceOffset::RateMicroBatch { offset, .. } => {
                positions.insert((source.source.clone(), String::new()), offset.to_string());
            }
            SourceOffset::File { log_offset } => {
                positions.insert(
                    (source.source.clone(), String::new()),
                    log_offset.to_string(),
                );
            }
            SourceOffset::None | SourceOffset::Json(_) | SourceOffset::Text(_) => {
                positions.insert((source.source.clone(), String::new()), text);
            }
        }
    }
    positions
}

fn diff_offsets(
    a: &Report,
    b: &Report,
    offset: impl Fn(&super::inspect::SourceReport) -> &Value + Copy,
) -> Vec<OffsetRange> {
    diff_maps(&positions(a, offset), &positions(b, offset))
        .into_iter()
        .map(|((source, partition), offset)| {
            let number = |side: &Option<String>| side.as_ref()?.parse::<i128>().ok();
            let difference = match (number(&offset.a), number(&offset.b)) {
                (Some(a), Some(b)) => Some(b - a),
                _ => None,
            };
            OffsetRange {
                source,
                partition,
                offset,
                difference,
            }
        })
        .collect()
}
