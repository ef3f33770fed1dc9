//! One source's position in an offset log; its shape tells the source.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A source's position at the end of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceOffset {
    /// `-`: the source has given nothing yet.
    None,
    /// A plain number: the rate source, a socket, a memory stream.
    Number(i64),
    /// The rate-micro-batch source.
    RateMicroBatch {
        /// Rows so far.
        offset: i64,
        /// Event time so far, milliseconds since the epoch.
        timestamp_ms: i64,
    },
    /// A file source: the id of its newest log entry.
    File {
        /// Id in `sources/<i>/`.
        log_offset: i64,
    },
    /// Kafka: the next offset for each partition of each topic.
    Kafka(BTreeMap<String, BTreeMap<u32, i64>>),
    /// JSON of another source.
    Json(String),
    /// Text that is no JSON.
    Text(String),
}

/// The kind of a source as its offset shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OffsetKind {
    /// Nothing yet, so nothing is known.
    None,
    /// A plain number: the rate source, a socket, a memory stream.
    Number,
    /// The rate source: a plain number, and a start time in its log.
    Rate,
    /// The rate-micro-batch source.
    RateMicroBatch,
    /// A file source.
    File,
    /// Kafka, or another source that writes offsets by topic and partition.
    Kafka,
    /// JSON of another source.
    Json,
    /// Text that is no JSON.
    Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateMicroBatch {
    offset: i64,
    timestamp: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    log_offset: i64,
}

impl SourceOffset {
    /// Reads one line. Every text is an offset of some kind.
    pub fn parse(line: &str) -> Self {
        let line = line.trim();
        if line == "-" {
            return SourceOffset::None;
        }
        if let Ok(number) = line.parse() {
            return SourceOffset::Number(number);
        }
        if line.starts_with('{')
            && let Some(offset) = Self::parse_known(line)
        {
            return offset;
        }
        if serde_json::from_str::<&RawValue>(line).is_ok() {
            return SourceOffset::Json(line.to_owned());
        }
        SourceOffset::Text(line.to_owned())
    }

    fn parse_known(object: &str) -> Option<Self> {
        if let Ok(RateMicroBatch { offset, timestamp }) = serde_json::from_str(object) {
            return Some(SourceOffset::RateMicroBatch {
                offset,
                timestamp_ms: timestamp,
            });
        }
        if let Ok(File { log_offset }) = serde_json::from_str(object) {
            return Some(SourceOffset::File { log_offset });
        }
        let topics: BTreeMap<String, BTreeMap<u32, i64>> = serde_json::from_str(object).ok()?;
        (!topics.is_empty()).then_some(SourceOffset::Kafka(topics))
    }

    /// The kind of source that writes such offsets.
    pub fn kind(&self) -> OffsetKind {
        match self {
            SourceOffset::None => OffsetKind::None,
            SourceOffset::Number(_) => OffsetKind::Number,
            SourceOffset::RateMicroBatch { .. } => OffsetKind::RateMicroBatch,
            SourceOffset::File { .. } => OffsetKind::File,
            SourceOffset::Kafka(_) => OffsetKind::Kafka,
            SourceOffset::Json(_) => OffsetKind::Json,
            SourceOffset::Text(_) => OffsetKind::Text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_tells_the_source() {
        for (line, kind) in [
            ("-", OffsetKind::None),
            ("8", OffsetKind::Number),
            (
                r#"{"offset":1400,"timestamp":1700000140000}"#,
                OffsetKind::RateMicroBatch,
            ),
            (r#"{"logOffset":13}"#, OffsetKind::File),
            (r#"{"clicks":{"0":123,"11":-1},"b":{}}"#, OffsetKind::Kafka),
            (r#"{"sourceVersion":1,"reservoirId":"x"}"#, OffsetKind::Json),
            ("{}", OffsetKind::Json),
            (r#"{"logOffset":13,"more":1}"#, OffsetKind::Json),
            (r#"{"clicks":{"x":123}}"#, OffsetKind::Json),
            ("[1]", OffsetKind::Json),
            ("{\"a\":", OffsetKind::Text),
            ("", OffsetKind::Text),
        ] {
            assert_eq!(SourceOffset::parse(line).kind(), kind, "{line}");
        }
        let SourceOffset::Kafka(topics) = SourceOffset::parse(r#"{"clicks":{"0":123,"11":4}}"#)
        else {
            panic!("not recognised");
        };
        assert_eq!(topics["clicks"][&11], 4);
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = "[".repeat(100_000);
        assert_eq!(SourceOffset::parse(&deep).kind(), OffsetKind::Text);
    }
}
