//! `state/<operator>/_metadata/...`: name, stores and partitions of a stateful operator, and how to
//! make it valid at another place. Pure.

use serde::Deserialize;

use super::log::LogDamage;

/// Metadata of an operator larger than this are not read.
pub const MAX_OPERATOR_METADATA_BYTES: u64 = 16 * 1024 * 1024;

/// What an operator says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorMetadata {
    /// Version of the file: 1, or 2 with `stateSchemaFilePaths`.
    pub version: u32,
    /// The operator's name, such as `stateStoreSave`.
    pub name: String,
    /// Its stores.
    pub stores: Vec<OperatorStore>,
}

/// A store of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorStore {
    /// Name of the store.
    pub store_name: String,
    /// Number of partitions of the operator (an aggregation without keys uses the first only).
    pub num_partitions: u32,
    /// Version 2: absolute URIs of the files in `_stateSchema/`.
    #[serde(default)]
    pub state_schema_file_paths: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    operator_info: OperatorInfo,
    state_store_info: Vec<OperatorStore>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperatorInfo {
    operator_name: String,
}

impl OperatorMetadata {
    /// Reads `_metadata/metadata` or `_metadata/v2/<batch>`.
    ///
    /// # Errors
    /// The first damage.
    pub fn parse(content: &[u8]) -> Result<Self, LogDamage> {
        let (version, rest) = super::log::split_version(content, 2)?;
        let json = rest.ok_or(LogDamage::OnlyVersion)?;
        let line: Line = super::log::parse_object(2, json)?;
        Ok(Self {
            version,
            name: line.operator_info.operator_name,
            stores: line.state_store_info,
        })
    }

    /// All schema files that are named, as absolute URIs.
    pub fn schema_uris(&self) -> impl Iterator<Item = &str> {
        self.stores
            .iter()
            .flat_map(|store| &store.state_schema_file_paths)
            .map(String::as_str)
    }
}

/// The part of a schema file's URI that is relative to the checkpoint: `state/<op>/_stateSchema/...`;
/// `None` if the URI does not lead into such a directory.
pub fn relative_schema_path(uri: &str) -> Option<&str> {
    let (before, _) = uri.rsplit_once("/_stateSchema/")?;
    let (before, operator) = before.rsplit_once('/')?;
    let checkpoint = before.strip_suffix("/state")?;
    let is_operator = !operator.is_empty() && operator.bytes().all(|b| b.is_ascii_digit());
    is_operator
        .then(|| uri.get(checkpoint.len() + 1..))
        .flatten()
}

/// The path in a URI, without its scheme and authority.
pub fn path_of_uri(uri: &str) -> &str {
    let Some((scheme, rest)) = uri.split_once(':') else {
        return uri;
    };
    if scheme.contains('/') {
        return uri;
    }
    let path = rest
        .strip_prefix("//")
        .map(|rest| rest.find('/').and_then(|at| rest.get(at..)));
    path.map_or(rest, Option::unwrap_or_default)
}

/// The content of an operator metadata file of version 2 with every schema file's URI moved below
/// `checkpoint_uri`; all other bytes stay as they are. `None` if there is nothing to move.
///
/// # Errors
/// The damage of the content, or the URI that leads to no schema directory.
pub fn move_schema_uris(
    content: &[u8],
    checkpoint_uri: &str,
) -> Result<Option<Vec<u8>>, MoveRefused> {
    let metadata = OperatorMetadata::parse(content)?;
    let mut moved: Vec<(&str, String)> = Vec::new();
    for uri in metadata.schema_uris() {
        let relative = relative_schema_path(uri)
            .ok_or_else(|| MoveRefused::ForeignUri(uri.chars().take(200).collect()))?;
        let target = format!("{}/{relative}", checkpoint_uri.trim_end_matches('/'));
        if target != uri {
            moved.push((uri, target));
        }
    }
    if moved.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(content).map_err(|_| LogDamage::NotText)?;
    let mut result = String::with_capacity(text.len() + 256);
    let mut rest = text;
    while let Some((before, literal, behind)) = next_literal(rest) {
        result.push_str(before);
        let value: Option<String> = serde_json::from_str(literal).ok();
        let target = moved
            .iter()
            .find(|(uri, _)| Some(*uri) == value.as_deref())
            .map(|(_, target)| serde_json::Value::from(target.as_str()).to_string());
        result.push_str(target.as_deref().unwrap_or(literal));
        rest = behind;
    }
    result.push_str(rest);
    Ok(Some(result.into_bytes()))
}

/// Why the schema files of an operator cannot be named at another place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveRefused {
    /// The metadata cannot be read.
    #[error(transparent)]
    Damaged(#[from] LogDamage),
    /// A URI does not lead to `state/<operator>/_stateSchema/`.
    #[error("{0:?} is no schema file of a checkpoint")]
    ForeignUri(String),
}

/// The next string literal of a JSON text with its quotes, and what stands before and behind it.
fn next_literal(text: &str) -> Option<(&str, &str, &str)> {
    let start = text.find('"')?;
    let (before, from_quote) = text.split_at(start);
    let mut is_escaped = false;
    for (at, byte) in from_quote.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => {
                let (literal, behind) = from_quote.split_at_checked(at + 1)?;
                return Some((before, literal, behind));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = concat!(
        "v2\n",
        r#"{"operatorInfo":{"operatorId":0,"operatorName":"transformWithStateInPandasExec"},"#,
        r#""stateStoreInfo":[{"storeName":"default","numColsPrefixKey":0,"numPartitions":3,"#,
        r#""stateSchemaFilePaths":["file:/data/a \"b\"/state/0/_stateSchema/default/0_u","#,
        r#""file:/data/a \"b\"/state/0/_stateSchema/default/4_v"]}],"#,
        r#""operatorPropertiesJson":"{\"outputMode\":\"Update\"}","new":[1.50, 2]}"#
    );

    #[test]
    fn both_versions_are_read() {
        let v1 = OperatorMetadata::parse(
            br#"v1
{"operatorInfo":{"operatorId":0,"operatorName":"stateStoreSave"},"stateStoreInfo":[{"storeName":"default","numColsPrefixKey":0,"numPartitions":3}]}"#,
        )
        .unwrap();
        assert_eq!(v1.name, "stateStoreSave");
        assert_eq!((v1.stores[0].num_partitions, v1.version), (3, 1));
        let v2 = OperatorMetadata::parse(V2.as_bytes()).unwrap();
        assert_eq!(v2.schema_uris().count(), 2);
    }

    #[test]
    fn schema_uris_are_moved_and_nothing_else_is_touched() {
        let moved = move_schema_uris(V2.as_bytes(), "hdfs://ns/new \"x\"/")
            .unwrap()
            .unwrap();
        let moved = String::from_utf8(moved).unwrap();
        assert_eq!(
            moved,
            V2.replace(r#"file:/data/a \"b\"/"#, r#"hdfs://ns/new \"x\"/"#)
        );
        assert_eq!(
            move_schema_uris(moved.as_bytes(), "hdfs://ns/new \"x\""),
            Ok(None)
        );
    }

    #[test]
    fn only_schema_files_of_a_checkpoint_can_be_moved() {
        for (uri, relative) in [
            (
                "file:/a/state/0/_stateSchema/default/0_u",
                Some("state/0/_stateSchema/default/0_u"),
            ),
            (
                "hdfs://ns/state/7/state/12/_stateSchema/x/1_u",
                Some("state/12/_stateSchema/x/1_u"),
            ),
            ("file:/a/state/x/_stateSchema/default/0_u", None),
            ("file:/a/_stateSchema/default/0_u", None),
            ("file:/a/state/0/other/0_u", None),
            ("", None),
        ] {
            assert_eq!(relative_schema_path(uri), relative, "{uri}");
        }
        let foreign = V2.replace("_stateSchema", "elsewhere");
        assert!(matches!(
            move_schema_uris(foreign.as_bytes(), "file:/x"),
            Err(MoveRefused::ForeignUri(_))
        ));
        assert!(matches!(
            move_schema_uris(&V2.as_bytes()[..80], "file:/x"),
            Err(MoveRefused::Damaged(_))
        ));
    }

    #[test]
    fn the_path_of_a_uri() {
        for (uri, path) in [
            ("file:/a/b", "/a/b"),
            ("file:///a", "/a"),
            ("hdfs://ns:8020/a:b", "/a:b"),
            ("hdfs://ns", ""),
            ("/a/b:c", "/a/b:c"),
        ] {
            assert_eq!(path_of_uri(uri), path, "{uri}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_content_panics(content: Vec<u8>, uri: String) {
            let _ = move_schema_uris(&content, &uri);
            let _ = relative_schema_path(&uri);
            let mut cut = V2.as_bytes().to_vec();
            cut.truncate(content.len() * 7 % V2.len());
            let _ = move_schema_uris(&cut, &uri);
        }

        #[test]
        fn literals_cover_any_text(text: String) {
            let mut rest = text.as_str();
            let mut seen = String::new();
            while let Some((before, literal, behind)) = next_literal(rest) {
                seen.push_str(before);
                seen.push_str(literal);
                rest = behind;
            }
            seen.push_str(rest);
            proptest::prop_assert_eq!(seen, text);
        }
    }
}
