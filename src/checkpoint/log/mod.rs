//! The logs of a checkpoint: text files with a version line, then JSON. Pure parsers; each refuses
//! exactly what Spark refuses, and says how.

mod commits;
mod offsets;
mod source_offset;
mod sources;

pub use commits::{CommitLog, StateIds};
pub use offsets::{OffsetLog, OffsetMetadata};
pub use source_offset::{OffsetKind, SourceOffset};
pub use sources::{SourceLogKind, SourceLogScan};

/// Logs larger than this are not read. A Kafka offset of 100,000 partitions takes about 2 MB.
pub const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;

/// Why the content of a log cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogDamage {
    /// No byte, or only a line break.
    #[error("the file is empty")]
    Empty,
    /// The first line is no version.
    #[error("the first line is {found:?}, not a version such as v1")]
    NoVersion {
        /// The first line, cut to a readable length.
        found: String,
    },
    /// The version is one that no Spark up to 4.3 writes here.
    #[error("the log version is v{version}; only v1 to v{newest} are known")]
    UnknownVersion {
        /// The version found.
        version: u32,
        /// The newest known version.
        newest: u32,
    },
    /// Nothing behind the version line.
    #[error("there is nothing behind the version line")]
    OnlyVersion,
    /// A line is no JSON, or not of the expected shape.
    #[error("line {line} is not the expected JSON: {why}")]
    Json {
        /// Number of the line, from 1.
        line: usize,
        /// The parser's reason.
        why: String,
        /// Whether the text ends too early, as in a file that was cut.
        is_cut: bool,
    },
    /// An offset log without a line for any source.
    #[error("there is no line for any source")]
    NoSources,
    /// The content is not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// The file is too large to be such a log.
    #[error("it has {len_bytes} bytes, more than such a log can have")]
    TooLarge {
        /// Its length.
        len_bytes: u64,
    },
    /// The file is gone since it was listed.
    #[error("it vanished while the checkpoint was read")]
    Vanished,
}

/// Reads one line that must be a JSON object (serde would take an array for a struct as well).
pub(super) fn parse_object<'a, T: serde::Deserialize<'a>>(
    line: usize,
    text: &'a str,
) -> Result<T, LogDamage> {
    if text.trim_start().starts_with('[') {
        return Err(LogDamage::Json {
            line,
            why: "it is an array, not an object".to_owned(),
            is_cut: false,
        });
    }
    serde_json::from_str(text).map_err(|e| LogDamage::json(line, &e))
}

impl LogDamage {
    fn json(line: usize, error: &serde_json::Error) -> Self {
        LogDamage::Json {
            line,
            why: error.to_string(),
            is_cut: error.is_eof(),
        }
    }
}

/// Splits a log into its version and the text behind the version line (`None` if there is no line).
pub(super) fn split_version(content: &[u8], newest: u32) -> Result<(u32, Option<&str>), LogDamage> {
    let text = std::str::from_utf8(content).map_err(|_| LogDamage::NotText)?;
    if text.is_empty() {
        return Err(LogDamage::Empty);
    }
    let (first, rest) = match text.split_once('\n') {
        Some((first, rest)) => (first, (!rest.is_empty()).then_some(rest)),
        None => (text, None),
    };
    Ok((parse_version(first, newest)?, rest))
}

fn parse_version(line: &str, newest: u32) -> Result<u32, LogDamage> {
    let no_version = || LogDamage::NoVersion {
        found: line.chars().take(40).collect(),
    };
    let digits = line.trim().strip_prefix('v').ok_or_else(no_version)?;
    let version: u32 = digits.parse().map_err(|_| no_version())?;
    if version == 0 {
        return Err(no_version());
    }
    if version > newest {
        return Err(LogDamage::UnknownVersion { version, newest });
    }
    Ok(version)
}
