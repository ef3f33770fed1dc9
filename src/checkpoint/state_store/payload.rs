//! What is inside a delta, a snapshot or a changelog: an optional header, records, an end mark.

use serde::Deserialize;

use super::lz4::Lz4Damage;

/// One step of the chain that leads to a version of format v2.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LineageItem {
    /// Version of the state.
    pub version: u64,
    /// The unique id of the right files of that version.
    pub checkpoint_unique_id: String,
}

/// What the beginning of a changelog says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangelogHeader {
    /// 1 and 3: plain records; 2 and 4: records with a type.
    pub version: i16,
    /// Versions 3 and 4: the chain up to the version before this file's.
    pub lineage: Vec<LineageItem>,
}

/// Why there is no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderDamage {
    /// The block stream around it is damaged.
    #[error(transparent)]
    Lz4(#[from] Lz4Damage),
    /// It cannot be read.
    #[error(transparent)]
    Payload(#[from] PayloadDamage),
    /// The file ends before it.
    #[error("it ends before its header")]
    Short,
    /// The file is gone since it was listed.
    #[error("it vanished while the checkpoint was read")]
    Vanished,
}

/// Why a payload cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadDamage {
    /// The content ends before its end mark.
    #[error("its content ends in the middle of a record")]
    Cut,
    /// A changelog version that no Spark up to 4.3 writes.
    #[error("changelog version {version} is not known")]
    UnknownVersion {
        /// The version found.
        version: i16,
    },
    /// The lineage is not the JSON it should be.
    #[error("its lineage cannot be read: {why}")]
    Lineage {
        /// The parser's reason.
        why: String,
    },
    /// A record has an impossible length.
    #[error("a record has the length {length}")]
    Length {
        /// The length found.
        length: i32,
    },
    /// A record has an unknown type.
    #[error("a record has the type {found:#04x}")]
    RecordType {
        /// The type found.
        found: u8,
    },
}

/// Which files have a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// Delta or snapshot of the HDFS provider.
    Records,
    /// Changelog of RocksDB.
    Changelog,
}

/// More than a header can have: two texts of Java's `writeUTF`, one of them a short version.
const MAX_HEADER_BYTES: usize = 2 + 7 + 2 + u16::MAX as usize;

/// Reads a payload piece by piece. Keys and values are passed over, not kept; a header is.
#[derive(Debug)]
pub struct PayloadScan {
    /// The beginning of a changelog, while its header is not complete.
    head: Vec<u8>,
    header: Option<ChangelogHeader>,
    records: Records,
}

impl PayloadScan {
    /// Begins a payload.
    pub fn new(kind: PayloadKind) -> Self {
        let plain = ChangelogHeader {
            version: 1,
            lineage: Vec::new(),
        };
        Self {
            head: Vec::new(),
            header: (kind == PayloadKind::Records).then_some(plain),
            records: Records::new(false),
        }
    }

    /// The header, as soon as it was read.
    pub fn header(&self) -> Option<&ChangelogHeader> {
        self.header.as_ref()
    }

    /// Takes the next piece. Bytes behind the end mark are ignored, as Spark ignores them.
    ///
    /// # Errors
    /// The first damage; the payload cannot be read on.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), PayloadDamage> {
        if self.header.is_some() {
            return self.records.add(piece);
        }
        let room = MAX_HEADER_BYTES.saturating_sub(self.head.len());
        let (part, behind) = piece.split_at(room.min(piece.len()));
        self.head.extend_from_slice(part);
        let Some((header, length)) = parse_header(&self.head)? else {
            return Ok(());
        };
        self.records = Records::new(matches!(header.version, 2 | 4));
        self.header = Some(header);
        let head = std::mem::take(&mut self.head);
        self.records.add(head.get(length..).unwrap_or_default())?;
        self.records.add(behind)
    }

    /// Ends the payload; the number of records.
    ///
    /// # Errors
    /// [`PayloadDamage::Cut`] if there was no end mark.
    pub fn finish(self) -> Result<u64, PayloadDamage> {
        if self.records.step == Step::End {
            Ok(self.records.count)
        } else {
            Err(PayloadDamage::Cut)
        }
    }
}

/// The header at the beginning of a changelog and its length; `None` if `head` is too short to say.
///
/// Version 1 writes no version: its first bytes are the length of a key, or the end mark.
fn parse_header(head: &[u8]) -> Result<Option<(ChangelogHeader, usize)>, PayloadDamage> {
    let plain = ChangelogHeader {
        version: 1,
        lineage: Vec::new(),
    };
    let Some((length, rest)) = head.split_first_chunk::<2>() else {
        return Ok(None);
    };
    // `v` and a Java short.
    let length = usize::from(u16::from_be_bytes(*length));
    if !(2..=7).contains(&length) {
        return Ok(Some((plain, 0)));
    }
    let Some((text, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let version = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.strip_prefix('v')?.parse::<i16>().ok());
    match version {
        // Spark reads "v1" again from its first byte, as a length.
        None | Some(1) => Ok(Some((plain, 0))),
        Some(version @ 2) => Ok(Some((ChangelogHeader { version, ..plain }, 2 + length))),
        Some(version @ (3 | 4)) => {
            let Some((json_length, rest)) = rest.split_first_chunk::<2>() else {
                return Ok(None);
            };
            let json_length = usize::from(u16::from_be_bytes(*json_length));
            let Some(json) = rest.get(..json_length) else {
                return Ok(None);
            };
            let lineage = serde_json::from_slice(json)
                .map_err(|e| PayloadDamage::Lineage { why: e.to_string() })?;
            let header = ChangelogHeader { version, lineage };
            Ok(Some((header, 2 + length + 2 + json_length)))
        }
        Some(version) => Err(PayloadDamage::UnknownVersion { version }),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Type,
    KeyLength,
    Key,
    ValueLength,
    Value,
    End,
}

#[derive(Debug)]
struct Records {
    has_types: bool,
    step: Step,
    length: Vec<u8>,
    to_skip: usize,
    count: u64,
}

impl Records {
    fn new(has_types: bool) -> Self {
        Self {
            has_types,
            step: Self::first_step(has_types),
            length: Vec::with_capacity(4),
            to_skip: 0,
            count: 0,
        }
    }

    fn first_step(has_types: bool) -> Step {
        if has_types {
            Step::Type
        } else {
            Step::KeyLength
        }
    }

    fn add(&mut self, mut rest: &[u8]) -> Result<(), PayloadDamage> {
        loop {
            match self.step {
                Step::End => return Ok(()),
                Step::Type => {
                    let Some((found, behind)) = rest.split_first() else {
                        return Ok(());
                    };
                    rest = behind;
                    self.step = match found {
                        0x00 => Step::End,
                        // put, delete (a value of length -1), merge
                        0x01 | 0x10 | 0x11 => Step::KeyLength,
                        found => return Err(PayloadDamage::RecordType { found: *found }),
                    };
                }
                Step::KeyLength | Step::ValueLength => {
                    let missing = 4 - self.length.len();
                    let (part, behind) = rest.split_at(missing.min(rest.len()));
                    self.length.extend_from_slice(part);
                    rest = behind;
                    let Some(length) = self.length.first_chunk::<4>() else {
                        return Ok(());
                    };
                    let length = i32::from_be_bytes(*length);
                    self.length.clear();
                    self.end_length(length)?;
                }
                Step::Key | Step::Value => {
                    let (part, behind) = rest.split_at(self.to_skip.min(rest.len()));
                    self.to_skip -= part.len();
                    rest = behind;
                    if self.to_skip > 0 {
                        return Ok(());
                    }
                    self.end_bytes();
                }
            }
        }
    }

    fn end_length(&mut self, length: i32) -> Result<(), PayloadDamage> {
        let is_key = self.step == Step::KeyLength;
        match usize::try_from(length) {
            Ok(length) => {
                self.to_skip = length;
                self.step = if is_key { Step::Key } else { Step::Value };
            }
            Err(_) if length != -1 => return Err(PayloadDamage::Length { length }),
            Err(_) if is_key && self.has_types => return Err(PayloadDamage::Length { length }),
            Err(_) if is_key => self.step = Step::End,
            // A delete has no value.
            Err(_) => self.end_record(),
        }
        Ok(())
    }

    fn end_bytes(&mut self) {
        if self.step == Step::Key {
            self.step = Step::ValueLength;
        } else {
            self.end_record();
        }
    }

    fn end_record(&mut self) {
        self.count += 1;
        self.step = Self::first_step(self.has_types);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINEAGE: &str =
        r#"[{"version":4,"checkpointUniqueId":"a"},{"version":5,"checkpointUniqueId":"b"}]"#;

    fn utf(text: &str) -> Vec<u8> {
        let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    }

    fn int(value: i32) -> [u8; 4] {
        value.to_be_bytes()
    }

    /// A put, a delete and the end mark, for one version of the format.
    fn payload(version: i16) -> Vec<u8> {
        let mut bytes = Vec::new();
        if version > 1 {
            bytes.extend(utf(&format!("v{version}")));
        }
        if version > 2 {
            bytes.extend(utf(LINEAGE));
        }
        let has_types = matches!(version, 2 | 4);
        for (kind, value) in [(0x01, Some("value")), (0x10, None), (0x01, Some(""))] {
            if has_types {
                bytes.push(kind);
            }
            bytes.extend(int(3));
            bytes.extend(b"key");
            match value {
                Some(value) => {
                    bytes.extend(int(i32::try_from(value.len()).unwrap()));
                    bytes.extend(value.as_bytes());
                }
                None => bytes.extend(int(-1)),
            }
        }
        if has_types {
            bytes.push(0);
        } else {
            bytes.extend(int(-1));
        }
        bytes
    }

    fn scan(bytes: &[u8], piece: usize) -> Result<(Option<ChangelogHeader>, u64), PayloadDamage> {
        let mut scan = PayloadScan::new(PayloadKind::Changelog);
        for piece in bytes.chunks(piece) {
            scan.add(piece)?;
        }
        let header = scan.header().cloned();
        Ok((header, scan.finish()?))
    }

    #[test]
    fn every_version_is_read_whatever_the_pieces() {
        for version in 1..=4 {
            for piece in [1, 2, 3, 5, 1000] {
                let (header, records) = scan(&payload(version), piece).unwrap();
                let header = header.unwrap();
                assert_eq!((header.version, records), (version, 3));
                assert_eq!(header.lineage.len(), if version > 2 { 2 } else { 0 });
            }
        }
        let (header, _) = scan(&payload(3), 4).unwrap();
        assert_eq!(header.unwrap().lineage[1].checkpoint_unique_id, "b");
    }

    #[test]
    fn an_empty_changelog_of_version_1_is_only_its_end_mark() {
        assert_eq!(scan(&int(-1), 9).unwrap().1, 0);
    }

    #[test]
    fn a_cut_is_seen_at_every_byte() {
        for version in 1..=4 {
            let whole = payload(version);
            for cut in 0..whole.len() {
                assert_eq!(
                    scan(&whole[..cut], 7).err(),
                    Some(PayloadDamage::Cut),
                    "version {version}, {cut} bytes"
                );
            }
        }
    }

    #[test]
    fn impossible_content_is_refused() {
        let mut unknown = utf("v5");
        unknown.extend(int(-1));
        assert_eq!(
            scan(&unknown, 9).err(),
            Some(PayloadDamage::UnknownVersion { version: 5 })
        );
        let mut lineage = utf("v3");
        lineage.extend(utf("[{]"));
        assert!(matches!(
            scan(&lineage, 9),
            Err(PayloadDamage::Lineage { .. })
        ));
        assert_eq!(
            scan(&int(-7), 9).err(),
            Some(PayloadDamage::Length { length: -7 })
        );
        let mut kind = utf("v2");
        kind.push(0x07);
        assert_eq!(
            scan(&kind, 9).err(),
            Some(PayloadDamage::RecordType { found: 7 })
        );
        // A key of 2 GB that is not there holds nothing and ends early.
        assert_eq!(scan(&int(i32::MAX), 9).err(), Some(PayloadDamage::Cut));
    }

    proptest::proptest! {
        #[test]
        fn pieces_do_not_matter(tail: Vec<u8>, version in 1_i16..=4, piece in 1_usize..9) {
            let mut bytes = payload(version);
            bytes.truncate(bytes.len() / 2);
            bytes.extend(tail);
            proptest::prop_assert_eq!(scan(&bytes, piece), scan(&bytes, bytes.len()));
        }
    }
}
