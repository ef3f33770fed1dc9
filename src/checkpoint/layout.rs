//! What the paths below a checkpoint mean. Pure.

use crate::model::BatchId;

/// What a directory was found to be where a checkpoint was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirectoryKind {
    /// The checkpoint of a Structured Streaming query.
    Query,
    /// The checkpoint of a DStreams application; its progress is in serialized Java objects.
    DStreams,
    /// The output of a file sink, or the log `_spark_metadata` in it.
    FileSink,
    /// Nothing but hidden files: a query that never ran, or a wrong path.
    Empty,
    /// Entries, but none that a checkpoint has.
    Foreign,
}

/// The log of a file sink, in its output directory.
pub const FILE_SINK_LOG: &str = "_spark_metadata";

/// What a directory is, by its own name and the entries at its top (name, whether a directory).
pub fn recognise(dir_name: &str, top: &[(&str, bool)]) -> DirectoryKind {
    let is_query_entry = |&(name, is_dir): &(&str, bool)| match name {
        "metadata" => !is_dir,
        "offsets" | "commits" | "sources" | "state" => is_dir,
        _ => false,
    };
    let names = || top.iter().map(|(name, _)| *name);
    if top.iter().any(is_query_entry) {
        DirectoryKind::Query
    } else if names().any(is_dstreams_checkpoint) {
        DirectoryKind::DStreams
    } else if dir_name == FILE_SINK_LOG || names().any(|name| name == FILE_SINK_LOG) {
        DirectoryKind::FileSink
    } else if names().all(|name| name.starts_with('.')) {
        DirectoryKind::Empty
    } else {
        DirectoryKind::Foreign
    }
}

/// The batch that a file in `offsets/` or `commits/` is named after: plain decimal digits within
/// Java's `long`. `None` for temporary files, side files and whatever else lies there.
pub fn batch_of_name(name: &str) -> Option<BatchId> {
    number(name).map(BatchId)
}

/// Whether a name at the top of a directory is a DStreams checkpoint: `checkpoint-<ms>`, or its
/// backup with `.bk`.
pub fn is_dstreams_checkpoint(name: &str) -> bool {
    name.strip_prefix("checkpoint-")
        .map(|rest| rest.strip_suffix(".bk").unwrap_or(rest))
        .is_some_and(|ms| !ms.is_empty() && ms.bytes().all(|b| b.is_ascii_digit()))
}

/// What a file below a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind<'a> {
    /// `metadata`: the query id.
    Metadata,
    /// `offsets/<batch>`.
    Offset(BatchId),
    /// `commits/<batch>`.
    Commit(BatchId),
    /// `sources/<source>/<id>`, or `<id>.compact`.
    SourceLog {
        /// Index of the source in the query.
        source: u32,
        /// Id of the log entry.
        id: u64,
        /// Whether the entry holds all earlier ones.
        is_compact: bool,
    },
    /// Another file in `sources/<source>/`: it belongs to that source.
    SourceFile {
        /// Index of the source in the query.
        source: u32,
    },
    /// `state/<operator>/<partition>/[<store>/]...`.
    State(StatePath<'a>),
    /// `state/<operator>/_metadata/metadata`, or `_metadata/v2/<batch>`.
    OperatorMetadata {
        /// Operator.
        operator: u32,
        /// The batch of a v2 file; `None` for v1.
        batch: Option<BatchId>,
    },
    /// `state/<operator>/_stateSchema/<store>/<batch>_<uuid>`.
    StateSchema {
        /// Operator.
        operator: u32,
        /// The first batch with this schema, where the name says it.
        batch: Option<BatchId>,
    },
    /// `.<name>.<uuid>.tmp`: left by an interrupted write; Spark ignores it.
    Temporary,
    /// `.<name>.crc`: written by Hadoop's local file system; optional.
    HadoopChecksum,
    /// `<name>.crc` beside a file that Spark wrote: size and CRC32C of that file.
    SparkChecksum,
    /// stepdown's own manifest of a copy.
    Manifest,
    /// Anything else. Spark ignores it, or is newer than stepdown.
    Foreign,
}

/// A file of a state store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatePath<'a> {
    /// Operator.
    pub operator: u32,
    /// Partition.
    pub partition: u32,
    /// Store; `default` where the path names none.
    pub store: &'a str,
    /// Which file.
    pub file: StateFile<'a>,
}

/// The name of the store that has no directory of its own.
pub const DEFAULT_STORE: &str = "default";

/// The manifest inside a copy.
pub const MANIFEST_NAME: &str = ".stepdown-manifest.json";

/// A file in the directory of a state store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFile<'a> {
    /// `<version>[_<unique id>].<suffix>`.
    Version {
        /// Version of the state that it leads to.
        version: u64,
        /// Format v2: the unique id of the version.
        unique_id: Option<&'a str>,
        /// What it holds.
        kind: VersionKind,
    },
    /// `SSTs/<name>`: data that zips refer to.
    Sst(&'a str),
    /// `logs/<name>`: write-ahead logs that zips refer to.
    RocksLog(&'a str),
    /// `_metadata/schema`.
    Schema,
    /// A `.zip` or `.changelog` without a version in its name: RocksDB's loader fails on it.
    Misnamed,
}

/// What a state file with a version holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VersionKind {
    /// HDFS provider: changes from the version before.
    Delta,
    /// HDFS provider: the whole state.
    Snapshot,
    /// RocksDB: changes from the version before.
    Changelog,
    /// RocksDB: the whole state, together with the SSTs that it names.
    Zip,
}

impl VersionKind {
    /// The suffix of such files, without the dot.
    pub fn suffix(self) -> &'static str {
        match self {
            VersionKind::Delta => "delta",
            VersionKind::Snapshot => "snapshot",
            VersionKind::Changelog => "changelog",
            VersionKind::Zip => "zip",
        }
    }

    /// Whether it holds the whole state, so that a chain can begin with it.
    pub fn is_base(self) -> bool {
        matches!(self, VersionKind::Snapshot | VersionKind::Zip)
    }
}

/// What the file with this relative path is.
pub fn classify(path: &str) -> PathKind<'_> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    if dir.is_empty() && name == MANIFEST_NAME {
        return PathKind::Manifest;
    }
    if name.starts_with('.') {
        return match name.rsplit_once('.') {
            Some((_, "tmp" | "stepdown-tmp")) => PathKind::Temporary,
            Some((_, "crc")) => PathKind::HadoopChecksum,
            _ => PathKind::Foreign,
        };
    }
    let kind = classify_visible(dir, name);
    if kind == PathKind::Foreign || matches!(kind, PathKind::SourceFile { .. }) {
        let beside = name
            .strip_suffix(".crc")
            .map(|name| classify_visible(dir, name));
        if matches!(
            beside,
            Some(
                PathKind::State(_)
                    | PathKind::OperatorMetadata { .. }
                    | PathKind::StateSchema { .. }
            )
        ) {
            return PathKind::SparkChecksum;
        }
    }
    kind
}

fn classify_visible<'a>(dir: &'a str, name: &'a str) -> PathKind<'a> {
    let kind = match dir {
        "" => (name == "metadata").then_some(PathKind::Metadata),
        "offsets" => batch_of_name(name).map(PathKind::Offset),
        "commits" => batch_of_name(name).map(PathKind::Commit),
        _ => {
            if let Some(source) = dir.strip_prefix("sources/") {
                classify_source(source, name)
            } else if let Some(rest) = dir.strip_prefix("state/") {
                classify_state(rest, name)
            } else {
                None
            }
        }
    };
    kind.unwrap_or(PathKind::Foreign)
}

fn classify_source<'a>(dir: &str, name: &str) -> Option<PathKind<'a>> {
    // A source may keep directories of its own.
    let source = index(dir.split('/').next()?)?;
    let (id, is_compact) = match name.strip_suffix(".compact") {
        Some(id) => (id, true),
        None => (name, false),
    };
    Some(match number(id) {
        Some(id) if !dir.contains('/') => PathKind::SourceLog {
            source,
            id,
            is_compact,
        },
        _ => PathKind::SourceFile { source },
    })
}

fn classify_state<'a>(dir: &'a str, name: &'a str) -> Option<PathKind<'a>> {
    let mut parts = dir.split('/');
    let operator = index(parts.next()?)?;
    let second = parts.next()?;
    let rest = (parts.next(), parts.next(), parts.next());
    if second == "_metadata" {
        let batch = match rest {
            (None, ..) if name == "metadata" => None,
            (Some("v2"), None, _) => Some(batch_of_name(name)?),
            _ => return None,
        };
        return Some(PathKind::OperatorMetadata { operator, batch });
    }
    if second == "_stateSchema" {
        let (Some(_store), None, _) = rest else {
            return None;
        };
        let batch = name.split('_').next().and_then(batch_of_name);
        return Some(PathKind::StateSchema { operator, batch });
    }
    let partition = index(second)?;
    let (store, inner) = match rest {
        (None, ..) => (DEFAULT_STORE, None),
        (Some(inner @ ("_metadata" | "SSTs" | "logs")), None, _) => (DEFAULT_STORE, Some(inner)),
        (Some(store), inner, None) if store != DEFAULT_STORE => (store, inner),
        _ => return None,
    };
    let file = match inner {
        None => classify_version(name)?,
        Some("_metadata") if name == "schema" => StateFile::Schema,
        Some("SSTs") => StateFile::Sst(name),
        Some("logs") => StateFile::RocksLog(name),
        Some(_) => return None,
    };
    Some(PathKind::State(StatePath {
        operator,
        partition,
        store,
        file,
    }))
}

fn classify_version(name: &str) -> Option<StateFile<'_>> {
    let (stem, suffix) = name.rsplit_once('.')?;
    let kind = match suffix {
        "delta" => VersionKind::Delta,
        "snapshot" => VersionKind::Snapshot,
        "changelog" => VersionKind::Changelog,
        "zip" => VersionKind::Zip,
        _ => return None,
    };
    let (version, unique_id) = match stem.split_once('_') {
        Some((version, id)) => (version, Some(id)),
        None => (stem, None),
    };
    let id_is_sound = unique_id.is_none_or(|id| !id.is_empty() && !id.contains('_'));
    match number(version) {
        Some(version) if id_is_sound => Some(StateFile::Version {
            version,
            unique_id,
            kind,
        }),
        _ if matches!(kind, VersionKind::Zip | VersionKind::Changelog) => Some(StateFile::Misnamed),
        _ => None,
    }
}

/// A number as Java's `Long.toString` writes it, at most `i64::MAX`.
fn number(text: &str) -> Option<u64> {
    let is_plain = text == "0" || !text.starts_with('0');
    if !is_plain || text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    u64::try_from(text.parse::<i64>().ok()?).ok()
}

fn index(text: &str) -> Option<u32> {
    u32::try_from(number(text)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state<'a>(
        operator: u32,
        partition: u32,
        store: &'a str,
        file: StateFile<'a>,
    ) -> PathKind<'a> {
        PathKind::State(StatePath {
            operator,
            partition,
            store,
            file,
        })
    }

    fn version(version: u64, unique_id: Option<&str>, kind: VersionKind) -> StateFile<'_> {
        StateFile::Version {
            version,
            unique_id,
            kind,
        }
    }

    #[test]
    fn only_plain_numbers_name_a_batch() {
        for (name, batch) in [
            ("0", Some(0)),
            ("37", Some(37)),
            ("9223372036854775807", Some(i64::MAX.unsigned_abs())),
            ("9223372036854775808", None),
            ("007", None),
            ("+7", None),
            ("-7", None),
            ("", None),
            ("9.compact", None),
            (".9.crc", None),
            (".9.0f0f0f0f-1111-2222-3333-444444444444.tmp", None),
            ("9.bak", None),
            ("٣", None),
        ] {
            assert_eq!(batch_of_name(name), batch.map(BatchId), "{name:?}");
        }
    }

    #[test]
    fn dstreams_names() {
        for (name, is) in [
            ("checkpoint-1795153035000", true),
            ("checkpoint-1795153035000.bk", true),
            ("checkpoint-", false),
            ("checkpoint-.bk", false),
            ("checkpoint-17x", false),
            ("checkpoints", false),
        ] {
            assert_eq!(is_dstreams_checkpoint(name), is, "{name:?}");
        }
    }

    #[test]
    fn directories_are_recognised_by_their_top() {
        for (dir_name, names, kind) in [
            ("ck", &[][..], DirectoryKind::Empty),
            ("ck", &[".metadata.crc"], DirectoryKind::Empty),
            ("ck", &["metadata"], DirectoryKind::Query),
            ("ck", &["README", "offsets/"], DirectoryKind::Query),
            ("ck", &["metadata/", "data/"], DirectoryKind::Foreign),
            (
                "ck",
                &["checkpoint-1795153035000", "temp"],
                DirectoryKind::DStreams,
            ),
            (
                "out",
                &["part-0.parquet", "_spark_metadata/"],
                DirectoryKind::FileSink,
            ),
            (
                "_spark_metadata",
                &["0", "9.compact"],
                DirectoryKind::FileSink,
            ),
            ("base", &["clicks/", "views/"], DirectoryKind::Foreign),
        ] {
            let top: Vec<_> = names
                .iter()
                .map(|name| (name.trim_end_matches('/'), name.ends_with('/')))
                .collect();
            assert_eq!(recognise(dir_name, &top), kind, "{names:?}");
        }
    }

    #[test]
    fn every_path_below_a_checkpoint_has_a_kind() {
        use StateFile::{Misnamed, RocksLog, Schema, Sst};
        use VersionKind::{Changelog, Delta, Snapshot, Zip};
        let b = BatchId;
        let metadata = |operator, batch: Option<u64>| PathKind::OperatorMetadata {
            operator,
            batch: batch.map(b),
        };
        let log = |source, id, is_compact| PathKind::SourceLog {
            source,
            id,
            is_compact,
        };
        for (path, kind) in [
            ("metadata", PathKind::Metadata),
            ("offsets/13", PathKind::Offset(b(13))),
            ("commits/0", PathKind::Commit(b(0))),
            ("sources/1/13", log(1, 13, false)),
            ("sources/1/9.compact", log(1, 9, true)),
            ("sources/1/x", PathKind::SourceFile { source: 1 }),
            ("sources/1/x/3", PathKind::SourceFile { source: 1 }),
            (
                "state/0/2/8.delta",
                state(0, 2, "default", version(8, None, Delta)),
            ),
            (
                "state/0/2/8.snapshot",
                state(0, 2, "default", version(8, None, Snapshot)),
            ),
            (
                "state/1/0/left-keyToNumValues/8.delta",
                state(1, 0, "left-keyToNumValues", version(8, None, Delta)),
            ),
            (
                "state/0/0/9_9cca8e61-6054.changelog",
                state(
                    0,
                    0,
                    "default",
                    version(9, Some("9cca8e61-6054"), Changelog),
                ),
            ),
            (
                "state/0/0/s/9_u.zip",
                state(0, 0, "s", version(9, Some("u"), Zip)),
            ),
            (
                "state/0/0/SSTs/000008-u.sst",
                state(0, 0, "default", Sst("000008-u.sst")),
            ),
            ("state/0/0/s/SSTs/1.sst", state(0, 0, "s", Sst("1.sst"))),
            (
                "state/0/0/logs/1.log",
                state(0, 0, "default", RocksLog("1.log")),
            ),
            ("state/0/0/_metadata/schema", state(0, 0, "default", Schema)),
            ("state/0/0/s/_metadata/schema", state(0, 0, "s", Schema)),
            ("state/0/0/old.zip", state(0, 0, "default", Misnamed)),
            (
                "state/0/0/1_a_b.changelog",
                state(0, 0, "default", Misnamed),
            ),
            ("state/0/_metadata/metadata", metadata(0, None)),
            ("state/0/_metadata/v2/4", metadata(0, Some(4))),
            (
                "state/0/_stateSchema/default/0_a9bf7693",
                PathKind::StateSchema {
                    operator: 0,
                    batch: Some(b(0)),
                },
            ),
            ("offsets/.9.0f0f-1.tmp", PathKind::Temporary),
            ("state/0/0/.10.delta.0f0f.TID7.tmp", PathKind::Temporary),
            ("state/0/0/.9.zip.crc", PathKind::HadoopChecksum),
            ("state/0/0/.9_u.zip.crc.crc", PathKind::HadoopChecksum),
            (".metadata.crc", PathKind::HadoopChecksum),
            ("state/0/0/9_u.zip.crc", PathKind::SparkChecksum),
            ("state/0/_metadata/v2/4.crc", PathKind::SparkChecksum),
            (".stepdown-manifest.json", PathKind::Manifest),
            ("README", PathKind::Foreign),
            ("commits/9.bak", PathKind::Foreign),
            ("offsets/007", PathKind::Foreign),
            ("offsets/1.crc", PathKind::Foreign),
            ("state/0/0/README.txt", PathKind::Foreign),
            ("state/0/0/x.delta", PathKind::Foreign),
            ("state/0/0/8.delta.bak", PathKind::Foreign),
            ("state/x/0/8.delta", PathKind::Foreign),
            ("state/0/x/8.delta", PathKind::Foreign),
            ("state/0/8.delta", PathKind::Foreign),
            ("state/0/0/s/t/8.delta", PathKind::Foreign),
            ("state/0/0/default/8.delta", PathKind::Foreign),
            ("a/.stepdown-manifest.json", PathKind::Foreign),
            (".hidden", PathKind::Foreign),
        ] {
            assert_eq!(classify(path), kind, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_classified(path in "[a-z0-9_./]{0,40}") {
            let _ = classify(&path);
        }
    }
}
