//! `offsets/<batch>`: the plan of a batch.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{LogDamage, SourceOffset, parse_object, split_version};

/// What a batch was planned with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetLog {
    /// Version of the log: 1, or 2 with source evolution.
    pub version: u32,
    /// Watermark, time and pinned configuration; `None` in logs of very old versions.
    pub metadata: Option<OffsetMetadata>,
    /// The end of the batch for each source, in the order of the plan. The name is the source's
    /// index, or in version 2 the id that stands before the colon.
    pub sources: Vec<(String, SourceOffset)>,
}

/// The second line of an offset log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffsetMetadata {
    /// Event-time watermark, milliseconds since the epoch; 0 for none.
    #[serde(default)]
    pub batch_watermark_ms: i64,
    /// Processing time of the batch, milliseconds since the epoch.
    #[serde(default)]
    pub batch_timestamp_ms: i64,
    /// The SQL configuration that is pinned for the life of the checkpoint.
    #[serde(default, deserialize_with = "texts")]
    pub conf: BTreeMap<String, String>,
}

impl OffsetMetadata {
    /// The class of the state store provider.
    pub fn provider_class(&self) -> Option<&str> {
        self.get("spark.sql.streaming.stateStore.providerClass")
    }

    /// The number of partitions of every stateful operator.
    pub fn shuffle_partitions(&self) -> Option<u32> {
        self.get("spark.sql.shuffle.partitions")?.parse().ok()
    }

    /// The codec of state files; `lz4` where nothing is recorded.
    pub fn codec(&self) -> &str {
        self.get("spark.sql.streaming.stateStore.compression.codec")
            .unwrap_or("lz4")
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.conf.get(key).map(String::as_str)
    }
}

/// Spark writes texts; anything else a hand may have written is kept as its JSON text.
fn texts<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let values = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let text = |value| match value {
        Value::String(text) => text,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    };
    Ok(values
        .into_iter()
        .map(|(key, value)| (key, text(value)))
        .collect())
}

impl OffsetLog {
    /// Reads the content of a file in `offsets/`.
    ///
    /// # Errors
    /// The first damage that makes a restart fail.
    pub fn parse(content: &[u8]) -> Result<Self, LogDamage> {
        let (version, rest) = split_version(content, 2)?;
        let mut lines = rest.ok_or(LogDamage::OnlyVersion)?.lines();
        let second = lines.next().unwrap_or_default();
        let metadata = if second.trim().is_empty() {
            None
        } else {
            Some(parse_object(2, second)?)
        };
        let sources: Vec<_> = lines
            .enumerate()
            .map(|(index, line)| match line.split_once(':') {
                Some((id, offset)) if version >= 2 => (id.to_owned(), SourceOffset::parse(offset)),
                _ => (index.to_string(), SourceOffset::parse(line)),
            })
            .collect();
        if sources.is_empty() {
            return Err(LogDamage::NoSources);
        }
        Ok(Self {
            version,
            metadata,
            sources,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = concat!(
        "v1\n",
        r#"{"batchWatermarkMs":5,"batchTimestampMs":7,"conf":{"#,
        r#""spark.sql.streaming.stateStore.providerClass":"a.B","spark.sql.shuffle.partitions":"3"}}"#,
        "\n{\"offset\":1400,\"timestamp\":1700000140000}\n-\n{\"logOffset\":13}"
    );

    #[test]
    fn a_log_of_version_1_is_read() {
        let log = OffsetLog::parse(V1.as_bytes()).unwrap();
        let metadata = log.metadata.unwrap();
        assert_eq!(metadata.provider_class(), Some("a.B"));
        assert_eq!(metadata.shuffle_partitions(), Some(3));
        assert_eq!(metadata.codec(), "lz4");
        assert_eq!(
            (metadata.batch_watermark_ms, metadata.batch_timestamp_ms),
            (5, 7)
        );
        let sources: Vec<_> = log.sources.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(sources, ["0", "1", "2"]);
        assert_eq!(log.sources[1].1, SourceOffset::None);
        assert_eq!(log.sources[2].1, SourceOffset::File { log_offset: 13 });
    }

    #[test]
    fn a_log_of_version_2_names_its_sources() {
        let log =
            OffsetLog::parse(b"v2\n{\"conf\":{\"x\":7}}\nclicks:{\"logOffset\":2}\n1:8").unwrap();
        assert_eq!(log.version, 2);
        assert_eq!(log.metadata.unwrap().conf["x"], "7");
        assert_eq!(
            log.sources,
            [
                ("clicks".to_owned(), SourceOffset::File { log_offset: 2 }),
                ("1".to_owned(), SourceOffset::Number(8)),
            ]
        );
    }

    #[test]
    fn an_old_log_may_lack_its_metadata() {
        let log = OffsetLog::parse(b"v1\n\n8").unwrap();
        assert_eq!(log.metadata, None);
        assert_eq!(log.sources, [("0".to_owned(), SourceOffset::Number(8))]);
    }

    #[test]
    fn damage_is_named() {
        for (content, damage) in [
            ("", LogDamage::Empty),
            ("v1", LogDamage::OnlyVersion),
            ("v1\n", LogDamage::OnlyVersion),
            (
                "v3\n{}\n1",
                LogDamage::UnknownVersion {
                    version: 3,
                    newest: 2,
                },
            ),
            (
                "{\"a\":1}\nx",
                LogDamage::NoVersion {
                    found: "{\"a\":1}".into(),
                },
            ),
            ("v0\n{}", LogDamage::NoVersion { found: "v0".into() }),
            ("v1\n{}", LogDamage::NoSources),
        ] {
            assert_eq!(
                OffsetLog::parse(content.as_bytes()),
                Err(damage),
                "{content:?}"
            );
        }
        for cut in 4..V1.find("}}").unwrap() {
            let damage = OffsetLog::parse(&V1.as_bytes()[..cut]).unwrap_err();
            assert!(
                matches!(
                    damage,
                    LogDamage::Json {
                        line: 2,
                        is_cut: true,
                        ..
                    }
                ),
                "{cut}"
            );
        }
        assert_eq!(OffsetLog::parse(b"v1\n\xff"), Err(LogDamage::NotText));
    }

    proptest::proptest! {
        #[test]
        fn no_content_panics(content: Vec<u8>, text in "v[12]\n[{}\":a0-9,-]{0,60}\n.{0,40}") {
            let _ = OffsetLog::parse(&content);
            let _ = OffsetLog::parse(text.as_bytes());
        }
    }
}
