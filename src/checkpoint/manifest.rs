//! The manifest of a copy: what it was made from, and the digest of every file.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::CheckpointError;
use super::plan::Scope;
use super::target::Target;
use crate::model::BatchId;
use crate::storage::{ErrorKind, Storage, StoragePath, StorageUri};

/// Name of the manifest inside a copy. Spark ignores it.
pub const MANIFEST: &str = ".stepdown-manifest.json";

/// The format version that this stepdown writes, and the only one it reads.
const FORMAT: u32 = 1;

/// A manifest of 100,000 files has about 20 MB; more than this is none.
const MAX_BYTES: u64 = 256 << 20;

/// One file of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Path relative to the copy.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 digest of the content, 64 hexadecimal digits.
    pub blake3: String,
}

/// Where a copy was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The source directory.
    pub uri: StorageUri,
    /// The query id of the source, where it has one.
    pub query_id: Option<String>,
    /// The copy that the source itself was, where it was one: lineage from copy to copy.
    pub copy_id: Option<Uuid>,
}

/// What is known of a copy. Written last, into the copy, before it becomes visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// `checkpoint-copy`.
    pub kind: String,
    /// Names this copy.
    pub copy_id: Uuid,
    /// What it was made from.
    pub source: Origin,
    /// The query id in its `metadata`.
    pub query_id: Option<String>,
    /// The last planned batch in it.
    pub last_planned_batch: Option<BatchId>,
    /// The last committed batch in it.
    pub last_committed_batch: Option<BatchId>,
    /// The version of the state in it.
    pub state_version: u64,
    /// How much was copied.
    pub scope: Scope,
    /// Whether it was made although something was found; what is lost is in `problems`.
    pub forced: bool,
    /// What was found and overruled.
    pub problems: Vec<String>,
    /// When it was finished, by the clock of the host that made it.
    pub created_at: Timestamp,
    /// Host that made it.
    pub host: String,
    /// Version of stepdown that made it.
    pub stepdown_version: String,
    /// Every file of the copy but the manifest itself, sorted by path.
    pub files: Vec<ManifestFile>,
}

impl Manifest {
    /// The kind of a manifest.
    pub const KIND: &'static str = "checkpoint-copy";

    /// The format of a manifest that is written now.
    pub const FORMAT: u32 = FORMAT;

    /// Sets the batches as `target` has them.
    pub(super) fn set_target(&mut self, target: &Target) {
        self.last_planned_batch = target.offset;
        self.last_committed_batch = target.commit;
        self.state_version = target.state_version;
    }

    /// Number of bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |sum, file| sum.saturating_add(file.bytes))
    }

    /// The manifest as it is written.
    ///
    /// # Errors
    /// None that a manifest can cause.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// Why it is none that this stepdown knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Head {
            format: Option<u32>,
            kind: Option<String>,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if head.kind.as_deref() != Some(Self::KIND) {
            return Err("it is no manifest of a checkpoint copy".to_owned());
        }
        if head.format != Some(FORMAT) {
            return Err(format!(
                "its format version is {}, this stepdown knows {FORMAT}; use the version that wrote it",
                head.format
                    .map_or_else(|| "missing".to_owned(), |format| format.to_string())
            ));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }

    /// The manifest in the directory `dir`, or `None` if it has none.
    ///
    /// # Errors
    /// [`CheckpointError::Storage`]; [`CheckpointError::Manifest`] for one that cannot be used.
    pub async fn load(
        storage: &dyn Storage,
        dir: &StoragePath,
    ) -> Result<Option<Self>, CheckpointError> {
        let path = dir.join(MANIFEST);
        match storage.stat(&path).await {
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let bytes = storage.read_small(&path, MAX_BYTES).await?;
        Self::decode(&bytes)
            .map(Some)
            .map_err(|why| CheckpointError::Manifest {
                uri: StorageUri::new(storage.authority().clone(), path),
                why,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: FORMAT,
            kind: Manifest::KIND.to_owned(),
            copy_id: Uuid::nil(),
            source: Origin {
                uri: "/a".parse().unwrap(),
                query_id: None,
                copy_id: None,
            },
            query_id: None,
            last_planned_batch: Some(BatchId(4)),
            last_committed_batch: Some(BatchId(4)),
            state_version: 5,
            scope: Scope::Minimal,
            forced: false,
            problems: Vec::new(),
            created_at: Timestamp::UNIX_EPOCH,
            host: "h".to_owned(),
            stepdown_version: "0".to_owned(),
            files: vec![ManifestFile {
                path: "metadata".into(),
                bytes: 45,
                blake3: "0".repeat(64),
            }],
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let written = manifest().encode().unwrap();
        assert_eq!(Manifest::decode(&written).unwrap(), manifest());
    }

    #[test]
    fn other_kinds_and_versions_are_refused() {
        for (from, to) in [
            ("\"format\":1", "\"format\":2"),
            (Manifest::KIND, "receipt"),
            ("{", ""),
        ] {
            let text = String::from_utf8(manifest().encode().unwrap()).unwrap();
            assert!(
                Manifest::decode(text.replacen(from, to, 1).as_bytes()).is_err(),
                "{to}"
            );
        }
    }
}
