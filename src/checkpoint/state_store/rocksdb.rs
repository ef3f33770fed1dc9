//! `<version>.zip` of RocksDB: the small files of one version, and `metadata`, which names the SSTs.

use std::io::{Cursor, Read};

use serde::Deserialize;
use zip::ZipArchive;
use zip::result::ZipError;

use super::lz4::Examine;

/// Zips larger than this are not read; Spark's have some KiB, with huge manifests some MiB.
pub const MAX_ZIP_BYTES: u64 = 32 * 1024 * 1024;

const MAX_ENTRIES: u16 = 10_000;
const MAX_METADATA_BYTES: u64 = 16 * 1024 * 1024;
const MAX_UNPACKED_BYTES: u64 = 1 << 30;
const END_BYTES: usize = 22;
const LOCATOR_BYTES: usize = 20;

/// A file that a zip refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RocksFile {
    /// Its name in `SSTs/` or `logs/`.
    pub name: String,
    /// Its length, which Spark checks when it loads.
    pub len_bytes: u64,
}

/// What the `metadata` in a zip says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RocksMetadata {
    /// Files in `SSTs/`.
    pub ssts: Vec<RocksFile>,
    /// Files in `logs/`.
    pub logs: Vec<RocksFile>,
    /// Number of keys, where it is counted.
    pub keys: Option<i64>,
}

/// Why a zip cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZipDamage {
    /// The file does not end as a zip does: it was cut, or is none.
    #[error("it does not end with the directory of a zip")]
    NoDirectory,
    /// The directory or an entry is not sound.
    #[error("it is not a sound zip: {0}")]
    NotSound(String),
    /// A file that every version has is missing.
    #[error("the zip has no file {0}")]
    MissingEntry(&'static str),
    /// The `metadata` inside cannot be read.
    #[error("its metadata cannot be read: {0}")]
    Metadata(String),
    /// The file is too large to be read.
    #[error("it has {len_bytes} bytes, more than such a zip can have")]
    TooLarge {
        /// Its length.
        len_bytes: u64,
    },
    /// The file is gone since it was listed.
    #[error("it vanished while the checkpoint was read")]
    Vanished,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    sst_files: Vec<SstFile>,
    #[serde(default)]
    log_files: Option<Vec<LogFile>>,
    num_keys: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SstFile {
    dfs_sst_file_name: String,
    size_bytes: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogFile {
    dfs_log_file_name: String,
    size_bytes: u64,
}

impl RocksMetadata {
    /// Reads a whole zip; with [`Examine::Content`] unpacks every entry and compares its checksum.
    ///
    /// # Errors
    /// The first damage.
    pub fn from_zip(content: &[u8], examine: Examine) -> Result<Self, ZipDamage> {
        check_directory(content)?;
        let mut zip = ZipArchive::new(Cursor::new(content)).map_err(|e| not_sound(&e))?;
        let metadata = match zip.by_name("metadata") {
            Ok(entry) => read_text(entry)?,
            Err(ZipError::FileNotFound) => return Err(ZipDamage::MissingEntry("metadata")),
            Err(e) => return Err(not_sound(&e)),
        };
        for (prefix, name) in [
            ("CURRENT", "CURRENT"),
            ("MANIFEST-", "MANIFEST-..."),
            ("OPTIONS-", "OPTIONS-..."),
        ] {
            if !zip
                .file_names_raw()
                .any(|n| n.starts_with(prefix.as_bytes()))
            {
                return Err(ZipDamage::MissingEntry(name));
            }
        }
        if examine == Examine::Content {
            unpack_all(&mut zip)?;
        }
        Self::parse(&metadata)
    }

    /// Reads the text of the `metadata` in a zip.
    ///
    /// # Errors
    /// [`ZipDamage::Metadata`].
    pub fn parse(text: &str) -> Result<Self, ZipDamage> {
        let refuse = |why: String| ZipDamage::Metadata(why);
        let (version, json) = text.split_once('\n').unwrap_or((text, ""));
        if version.trim() != "v1" {
            let shown: String = version.chars().take(20).collect();
            return Err(refuse(format!("its version is {shown:?}, not v1")));
        }
        let metadata: Metadata = serde_json::from_str(json).map_err(|e| refuse(e.to_string()))?;
        let file = |name: String, len_bytes| {
            // A name is put behind a directory: it must not lead elsewhere.
            if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
                let shown: String = name.chars().take(40).collect();
                return Err(refuse(format!("{shown:?} is not a file name")));
            }
            Ok(RocksFile { name, len_bytes })
        };
        Ok(Self {
            ssts: metadata
                .sst_files
                .into_iter()
                .map(|sst| file(sst.dfs_sst_file_name, sst.size_bytes))
                .collect::<Result<_, _>>()?,
            logs: metadata
                .log_files
                .unwrap_or_default()
                .into_iter()
                .map(|log| file(log.dfs_log_file_name, log.size_bytes))
                .collect::<Result<_, _>>()?,
            keys: metadata.num_keys,
        })
    }
}

/// Makes sure that the file ends with a directory as Java writes it, small and without the extension
/// to 64 bits, before anything is allocated by what a directory claims.
fn check_directory(content: &[u8]) -> Result<(), ZipDamage> {
    let end = content
        .len()
        .checked_sub(END_BYTES)
        .and_then(|at| content.get(at..))
        .filter(|end| end.starts_with(b"PK\x05\x06"))
        .ok_or(ZipDamage::NoDirectory)?;
    let entries = end.get(10..12).and_then(|b| b.first_chunk::<2>());
    let entries = entries.map_or(0, |bytes| u16::from_le_bytes(*bytes));
    if entries > MAX_ENTRIES {
        return Err(ZipDamage::NotSound(format!("it claims {entries} entries")));
    }
    let has_64_bits = content
        .windows(LOCATOR_BYTES + 4)
        .any(|w| w.starts_with(b"PK\x06\x07") && w.ends_with(b"PK\x05\x06"));
    if has_64_bits {
        return Err(ZipDamage::NotSound(
            "it uses the extension to 64 bits".to_owned(),
        ));
    }
    Ok(())
}

fn not_sound(error: &ZipError) -> ZipDamage {
    ZipDamage::NotSound(error.to_string())
}

fn read_text(entry: impl Read) -> Result<String, ZipDamage> {
    let mut text = String::new();
    let length = entry
        .take(MAX_METADATA_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| ZipDamage::NotSound(format!("metadata: {e}")))?;
    if length as u64 >= MAX_METADATA_BYTES {
        return Err(ZipDamage::Metadata("it is too large".to_owned()));
    }
    Ok(text)
}

fn unpack_all(zip: &mut ZipArchive<Cursor<&[u8]>>) -> Result<(), ZipDamage> {
    let mut room = MAX_UNPACKED_BYTES;
    for index in 0..zip.len() {
        let entry = zip.by_index(index).map_err(|e| not_sound(&e))?;
        let unpacked = std::io::copy(&mut entry.take(room), &mut std::io::sink())
            .map_err(|e| ZipDamage::NotSound(format!("entry {index}: {e}")))?;
        room -= unpacked;
        if room == 0 {
            return Err(ZipDamage::NotSound(
                "it unpacks to more than 1 GiB".to_owned(),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    const METADATA: &str = concat!(
        "v1\n",
        r#"{"sstFiles":[{"localFileName":"000059.sst","dfsSstFileName":"000059-u.sst","sizeBytes":1229}],"#,
        r#""logFiles":[{"localFileName":"1.log","dfsLogFileName":"1-u.log","sizeBytes":7}],"numKeys":5}"#
    );

    /// A zip as Spark writes it, with this `metadata`.
    pub(crate) fn zip_with(metadata: &str) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in [
            ("CURRENT", "MANIFEST-000004\n"),
            ("MANIFEST-000004", "manifest"),
            ("OPTIONS-000007", "options"),
            ("metadata", metadata),
        ] {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(content.as_bytes()).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn the_files_of_a_version_are_read() {
        let zip = zip_with(METADATA);
        for examine in [Examine::Frames, Examine::Content] {
            let metadata = RocksMetadata::from_zip(&zip, examine).unwrap();
            assert_eq!(metadata.ssts.len(), 1);
            assert_eq!(metadata.ssts[0].name, "000059-u.sst");
            assert_eq!(metadata.ssts[0].len_bytes, 1229);
            assert_eq!(metadata.logs[0].name, "1-u.log");
            assert_eq!(metadata.keys, Some(5));
        }
    }

    #[test]
    fn a_cut_is_seen_at_every_byte() {
        let zip = zip_with(METADATA);
        for cut in 0..zip.len() {
            let damage = RocksMetadata::from_zip(&zip[..cut], Examine::Frames);
            assert_eq!(damage, Err(ZipDamage::NoDirectory), "{cut}");
        }
    }

    #[test]
    fn a_changed_byte_in_the_data_is_seen_in_depth() {
        let zip = zip_with(METADATA);
        let at = zip.windows(8).position(|w| w == b"manifest").map_or_else(
            || {
                zip.windows(15)
                    .position(|w| w == b"MANIFEST-000004")
                    .unwrap()
                    + 16
            },
            |at| at + 2,
        );
        let mut changed = zip;
        changed[at] ^= 1;
        assert!(RocksMetadata::from_zip(&changed, Examine::Content).is_err());
    }

    #[test]
    fn names_must_stay_in_their_directory() {
        for name in ["", "../x.sst", "a/b", ".hidden"] {
            let text = METADATA.replace("000059-u.sst", name);
            assert!(
                matches!(RocksMetadata::parse(&text), Err(ZipDamage::Metadata(_))),
                "{name}"
            );
        }
        for text in [
            "",
            "v2\n{}",
            "v1",
            "v1\n[",
            "v1\n{\"sstFiles\":[{\"sizeBytes\":-1}]}",
        ] {
            assert!(RocksMetadata::parse(text).is_err(), "{text}");
        }
        assert_eq!(RocksMetadata::parse("v1\n{}"), Ok(RocksMetadata::default()));
    }

    #[test]
    fn a_directory_that_claims_too_much_is_refused() {
        let mut zip = zip_with(METADATA);
        let end = zip.len() - END_BYTES;
        zip[end + 8..end + 12].copy_from_slice(&[0xFF; 4]);
        assert!(matches!(
            RocksMetadata::from_zip(&zip, Examine::Frames),
            Err(ZipDamage::NotSound(_))
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_content_panics(content: Vec<u8>, at: usize, byte: u8, text: String) {
            let _ = RocksMetadata::from_zip(&content, Examine::Content);
            let mut changed = zip_with(METADATA);
            let at = at % changed.len();
            changed[at] = byte;
            let _ = RocksMetadata::from_zip(&changed, Examine::Content);
            let _ = RocksMetadata::parse(&text);
        }
    }
}
