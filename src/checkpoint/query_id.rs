//! The identity of a query, as it stands in the file `metadata`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text or a `metadata` file gives no query id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQueryId {
    /// The file holds no text; Spark refuses to start.
    #[error("the file is empty")]
    Empty,
    /// The file is no JSON object with a text field `id`.
    #[error("it is not a JSON object with an id: {0}")]
    NotJson(String),
    /// The id is no UUID as Java reads one.
    #[error("{0:?} is not a UUID")]
    NotUuid(String),
}

/// The id of a streaming query: it stays over restarts, and idempotent sinks know the query by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueryId(Uuid);

impl QueryId {
    /// A new random id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id in the content of a `metadata` file.
    ///
    /// # Errors
    /// What is wrong with the content; Spark would not start on it either.
    pub fn from_metadata(content: &[u8]) -> Result<Self, InvalidQueryId> {
        #[derive(Deserialize)]
        struct Metadata {
            id: String,
        }
        if content.iter().all(u8::is_ascii_whitespace) {
            return Err(InvalidQueryId::Empty);
        }
        let metadata: Metadata =
            serde_json::from_slice(content).map_err(|e| InvalidQueryId::NotJson(e.to_string()))?;
        metadata.id.parse()
    }

    /// The content of a `metadata` file with this id, byte for byte as Spark writes it.
    pub fn to_metadata(self) -> String {
        format!("{{\"id\":\"{self}\"}}")
    }
}

impl FromStr for QueryId {
    type Err = InvalidQueryId;

    /// Reads what `java.util.UUID.fromString` reads: five groups of hexadecimal digits, of which
    /// leading zeros may be missing.
    fn from_str(text: &str) -> Result<Self, InvalidQueryId> {
        let refuse = || InvalidQueryId::NotUuid(text.chars().take(64).collect());
        let mut groups = text.split('-');
        let mut value: u128 = 0;
        for digits in [8_u32, 4, 4, 4, 12] {
            let group = groups.next().ok_or_else(refuse)?;
            let fits = !group.is_empty() && group.len() <= digits as usize;
            if !fits || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(refuse());
            }
            let bits = u128::from_str_radix(group, 16).map_err(|_| refuse())?;
            value = (value << (4 * digits)) | bits;
        }
        if groups.next().is_some() {
            return Err(refuse());
        }
        Ok(Self(Uuid::from_u128(value)))
    }
}

impl TryFrom<String> for QueryId {
    type Error = InvalidQueryId;
    fn try_from(text: String) -> Result<Self, InvalidQueryId> {
        text.parse()
    }
}

impl From<QueryId> for String {
    fn from(id: QueryId) -> String {
        id.to_string()
    }
}

impl fmt::Display for QueryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_and_written_as_spark_does() {
        let content = br#"{"id":"c77e8c68-28a9-4bfb-877a-e29b6987550f"}"#;
        let id = QueryId::from_metadata(content).unwrap();
        assert_eq!(id.to_string(), "c77e8c68-28a9-4bfb-877a-e29b6987550f");
        assert_eq!(id.to_metadata().as_bytes(), content);
        let short: QueryId = "1-2-3-4-5".parse().unwrap();
        assert_eq!(short.to_string(), "00000001-0002-0003-0004-000000000005");
    }

    #[test]
    fn damaged_metadata_is_told_apart() {
        assert_eq!(QueryId::from_metadata(b" \n"), Err(InvalidQueryId::Empty));
        for bad in [&b"{\"id\":"[..], b"x", b"{}", b"{\"id\":7}", b"\xff\xfe"] {
            assert!(
                matches!(QueryId::from_metadata(bad), Err(InvalidQueryId::NotJson(_))),
                "{bad:?}"
            );
        }
        for bad in ["", "x", "1-2-3-4", "1-2-3-4-5-6", "+1-2-3-4-5", "1--3-4-5"] {
            let content = format!("{{\"id\":\"{bad}\"}}");
            assert!(
                matches!(
                    QueryId::from_metadata(content.as_bytes()),
                    Err(InvalidQueryId::NotUuid(_))
                ),
                "{bad:?}"
            );
        }
    }
}
