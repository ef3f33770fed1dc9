//! What one pass over the bytes of a state file tells.

use crate::checkpoint::finding::{Code, Finding};
use crate::checkpoint::layout::{PathKind, StateFile, VersionKind, classify};
use crate::checkpoint::state_store::checksum::{ChecksumDamage, HadoopCheck};
use crate::checkpoint::state_store::lz4::{BlockStream, Examine, Lz4Damage};
use crate::checkpoint::state_store::payload::{PayloadDamage, PayloadKind, PayloadScan};
use crate::checkpoint::state_store::schema::{SchemaDamage, check_schema};

/// The last bytes of an SST: the magic number of a block-based table.
const SST_END: [u8; 8] = [0xf7, 0xcf, 0xf4, 0x85, 0xb7, 0x41, 0xe2, 0x88];

/// Why the content of a state file is not whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ContentDamage {
    #[error(transparent)]
    Schema(#[from] SchemaDamage),
    #[error(transparent)]
    Lz4(#[from] Lz4Damage),
    #[error(transparent)]
    Payload(#[from] PayloadDamage),
    #[error("it does not end as an SST does")]
    SstEnd,
}

/// More than this no schema has.
const MAX_SCHEMA_BYTES: usize = 16 << 20;

/// Compares the bytes of one file with all that is known about them.
#[derive(Debug)]
pub(in crate::checkpoint) struct ContentScan<'a> {
    /// The content of a schema.
    schema: Option<Vec<u8>>,
    stream: Option<(BlockStream, PayloadScan)>,
    /// Payloads are read only with [`Examine::Content`].
    reads_payload: bool,
    is_sst: bool,
    last: Vec<u8>,
    hadoop: Option<HadoopCheck<'a>>,
    hadoop_damage: Option<ChecksumDamage>,
    damage: Option<ContentDamage>,
    crc32c: u32,
    len_bytes: u64,
}

/// What is known after the last byte.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) damage: Option<ContentDamage>,
    pub(super) hadoop_damage: Option<ChecksumDamage>,
    pub(super) crc32c: u32,
    pub(super) len_bytes: u64,
}

impl<'a> ContentScan<'a> {
    /// Begins a file that is only read and summed up.
    pub(super) fn new() -> Self {
        Self {
            schema: None,
            stream: None,
            reads_payload: false,
            is_sst: false,
            last: Vec::new(),
            hadoop: None,
            hadoop_damage: None,
            damage: None,
            crc32c: 0,
            len_bytes: 0,
        }
    }

    /// The file is a delta, a snapshot or a changelog.
    pub(super) fn with_records(mut self, kind: VersionKind, examine: Examine) -> Self {
        let payload = match kind {
            VersionKind::Delta | VersionKind::Snapshot => PayloadKind::Records,
            VersionKind::Changelog | VersionKind::Zip => PayloadKind::Changelog,
        };
        self.stream = Some((BlockStream::new(examine), PayloadScan::new(payload)));
        self.reads_payload = examine == Examine::Content;
        self
    }

    /// The file has the schemas of a store.
    pub(super) fn with_schema(mut self) -> Self {
        self.schema = Some(Vec::new());
        self
    }

    /// For the bytes of the file with this relative path, which a restart reads, while they are copied:
    /// its form, as a quick check looks at it. `None` for files whose bytes alone tell nothing, or that
    /// were read when the checkpoint was loaded.
    pub(in crate::checkpoint) fn in_passing(
        path: &str,
        is_lz4: bool,
    ) -> Option<ContentScan<'static>> {
        let PathKind::State(state) = classify(path) else {
            return None;
        };
        match state.file {
            StateFile::Version { kind, .. } => (is_lz4 && kind != VersionKind::Zip)
                .then(|| ContentScan::new().with_records(kind, Examine::Frames)),
            StateFile::Sst(_) => Some(ContentScan::new().with_sst_end()),
            StateFile::Schema => Some(ContentScan::new().with_schema()),
            StateFile::RocksLog(_) | StateFile::Misnamed => None,
        }
    }

    /// Ends the file; what a restart from it would meet.
    pub(in crate::checkpoint) fn finding(self, path: &str) -> Option<Finding> {
        let damage = self.finish().damage?;
        Some(content_damage(path, &damage))
    }

    /// The file is an SST.
    pub(super) fn with_sst_end(mut self) -> Self {
        self.is_sst = true;
        self
    }

    /// There is a side file of Hadoop.
    pub(super) fn with_hadoop(mut self, side_file: &'a [u8]) -> Self {
        match HadoopCheck::new(side_file) {
            Ok(check) => self.hadoop = Some(check),
            Err(damage) => self.hadoop_damage = Some(damage),
        }
        self
    }

    /// Takes the next piece.
    pub(in crate::checkpoint) fn add(&mut self, piece: &[u8]) {
        self.len_bytes += piece.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, piece);
        if let Some(schema) = &mut self.schema
            && schema.len() < MAX_SCHEMA_BYTES
        {
            schema.extend_from_slice(piece);
        }
        if self.is_sst {
            self.last.extend_from_slice(piece);
            let surplus = self.last.len().saturating_sub(SST_END.len());
            self.last.drain(..surplus);
        }
        if let Some(check) = &mut self.hadoop
            && self.hadoop_damage.is_none()
        {
            self.hadoop_damage = check.add(piece).err();
        }
        if let Some((stream, payload)) = &mut self.stream
            && self.damage.is_none()
        {
            let mut payload_damage = None;
            let read = stream.add(piece, &mut |block| {
                if payload_damage.is_none() {
                    payload_damage = payload.add(block).err();
                }
            });
            self.damage = match (read, payload_damage) {
                (Err(damage), _) => Some(damage.into()),
                (Ok(()), Some(damage)) => Some(damage.into()),
                (Ok(()), None) => None,
            };
        }
    }

    /// Ends the file.
    pub(super) fn finish(self) -> Scanned {
        let mut damage = self.damage;
        if let Some((stream, payload)) = self.stream
            && damage.is_none()
        {
            damage = match stream.finish() {
                Err(cut) => Some(cut.into()),
                Ok(()) if self.reads_payload => payload.finish().err().map(Into::into),
                Ok(()) => None,
            };
        }
        if let Some(schema) = self.schema {
            damage = check_schema(&schema).err().map(Into::into);
        }
        if self.is_sst && self.last != SST_END {
            damage = Some(ContentDamage::SstEnd);
        }
        let hadoop_damage = match (self.hadoop_damage, self.hadoop) {
            (Some(damage), _) => Some(damage),
            (None, Some(check)) => check.finish().err(),
            (None, None) => None,
        };
        Scanned {
            damage,
            hadoop_damage,
            crc32c: self.crc32c,
            len_bytes: self.len_bytes,
        }
    }
}

impl ContentDamage {
    /// What Spark says.
    pub(super) fn in_spark(&self) -> &'static str {
        match self {
            ContentDamage::Schema(_) => {
                "the query fails when it compares the schemas: EOFException, or a JSON error"
            }
            ContentDamage::Lz4(Lz4Damage::Cut { .. })
            | ContentDamage::Payload(PayloadDamage::Cut) => {
                "the query fails: EOFException: Stream ended prematurely (4.x: \
                 CANNOT_LOAD_STATE_STORE.UNCATEGORIZED)"
            }
            ContentDamage::Lz4(
                Lz4Damage::NoFrame { .. } | Lz4Damage::Frame { .. } | Lz4Damage::Checksum { .. },
            ) => {
                "the query fails: IOException: Stream is corrupted (4.x: \
                 CANNOT_LOAD_STATE_STORE.UNCATEGORIZED)"
            }
            ContentDamage::Payload(
                PayloadDamage::UnknownVersion { .. }
                | PayloadDamage::Lineage { .. }
                | PayloadDamage::Length { .. }
                | PayloadDamage::RecordType { .. },
            ) => "the query fails when it reads the records (4.x: CANNOT_LOAD_STATE_STORE)",
            ContentDamage::SstEnd => {
                "the query fails when RocksDB opens the file: Corruption: Bad table magic number"
            }
        }
    }
}

pub(super) fn content_damage(path: &str, damage: &ContentDamage) -> Finding {
    Finding::damage(Code::StateDamaged, path)
        .expected("a whole file")
        .found(damage.to_string())
        .spark(damage.in_spark())
}
