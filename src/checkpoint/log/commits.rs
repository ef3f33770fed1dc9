//! `commits/<batch>`: the end of a batch.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{LogDamage, parse_object, split_version};

/// What a finished batch left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitLog {
    /// Version of the log; 2 carries the unique ids of the state.
    pub version: u32,
    /// The watermark of the next batch, milliseconds since the epoch; 0 for none.
    pub next_batch_watermark_ms: i64,
    /// Format v2: which of the state files of the batch are the right ones.
    pub state_ids: Option<StateIds>,
}

/// The unique ids of one version of all state stores: operator, then partition, then store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct StateIds(BTreeMap<u32, Vec<Vec<String>>>);

impl StateIds {
    /// The number of partitions of an operator, if it is named.
    pub fn partitions(&self, operator: u32) -> Option<usize> {
        self.0.get(&operator).map(Vec::len)
    }

    /// The operators that are named.
    pub fn operators(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    /// The ids of one partition, one for each store.
    pub fn stores(&self, operator: u32, partition: u32) -> Option<&[String]> {
        let partition = usize::try_from(partition).ok()?;
        Some(self.0.get(&operator)?.get(partition)?.as_slice())
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(default)]
    next_batch_watermark_ms: i64,
    state_unique_ids: Option<StateIds>,
}

impl CommitLog {
    /// Reads the content of a file in `commits/`. Version 1 without a second line is whole.
    ///
    /// # Errors
    /// The first damage that makes a restart fail.
    pub fn parse(content: &[u8]) -> Result<Self, LogDamage> {
        let (version, rest) = split_version(content, 2)?;
        let line = match rest.and_then(|rest| rest.lines().next()) {
            Some(line) => parse_object(2, line)?,
            None if version == 1 => Line::default(),
            None => return Err(LogDamage::OnlyVersion),
        };
        Ok(Self {
            version,
            next_batch_watermark_ms: line.next_batch_watermark_ms,
            state_ids: line.state_unique_ids,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read() {
        let v1 = CommitLog::parse(b"v1\n{\"nextBatchWatermarkMs\":1767225710000}").unwrap();
        assert_eq!(v1.next_batch_watermark_ms, 1_767_225_710_000);
        assert_eq!(v1.state_ids, None);
        assert_eq!(CommitLog::parse(b"v1").unwrap().next_batch_watermark_ms, 0);

        let v2 = CommitLog::parse(
            br#"v2
{"nextBatchWatermarkMs":0,"stateUniqueIds":{"0":[["a"],["b"]],"1":[["c","d","e","f"]]}}"#,
        )
        .unwrap();
        let ids = v2.state_ids.unwrap();
        assert_eq!(ids.partitions(0), Some(2));
        assert_eq!(ids.operators().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(ids.stores(0, 1), Some(&["b".to_owned()][..]));
        assert_eq!(ids.stores(1, 0).map(<[String]>::len), Some(4));
        assert_eq!(ids.stores(0, 2), None);
        assert_eq!(ids.stores(2, 0), None);
    }

    #[test]
    fn damage_is_named() {
        assert_eq!(CommitLog::parse(b""), Err(LogDamage::Empty));
        assert_eq!(CommitLog::parse(b"v2"), Err(LogDamage::OnlyVersion));
        assert!(matches!(
            CommitLog::parse(b"v1\n{\"nextBatch"),
            Err(LogDamage::Json {
                line: 2,
                is_cut: true,
                ..
            })
        ));
        assert!(matches!(
            CommitLog::parse(b"v2\n{\"stateUniqueIds\":{\"0\":[\"a\"]}}"),
            Err(LogDamage::Json {
                line: 2,
                is_cut: false,
                ..
            })
        ));
        assert!(matches!(
            CommitLog::parse(b"v9\n{}"),
            Err(LogDamage::UnknownVersion { version: 9, .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_content_panics(content: Vec<u8>, text in "v[12]\n[{}\\[\\]\":a0-9,-]{0,60}") {
            let _ = CommitLog::parse(&content);
            let _ = CommitLog::parse(text.as_bytes());
        }
    }
}
