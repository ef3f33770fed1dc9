//! The two kinds of side files that hold checksums of another file.

use serde::Deserialize;

/// A side file larger than this is none of Spark's.
pub const MAX_SPARK_CHECKSUM_BYTES: u64 = 64 * 1024;

/// `<name>.crc`, JSON: length and CRC32C of `<name>`. Spark 4.3 with format v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparkChecksum {
    /// Length of the file.
    pub len_bytes: u64,
    /// CRC32C of all its bytes.
    pub crc32c: u32,
}

/// Why a side file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumDamage {
    /// It is no JSON of the expected shape.
    #[error("it is not a checksum as Spark writes it: {0}")]
    NotJson(String),
    /// Its algorithm is not known.
    #[error("its algorithm is {0:?}, not CRC32C")]
    Algorithm(String),
    /// It is no checksum file of Hadoop.
    #[error("it does not begin as a checksum file of Hadoop does")]
    NotHadoop,
    /// It has not as many checksums as the file has chunks.
    #[error("it is for a file of another length")]
    Length,
    /// The checksum of a chunk is another one.
    #[error("the checksum of the bytes from {at} on is another one")]
    Differs {
        /// Position of the chunk in the file.
        at: u64,
    },
}

impl SparkChecksum {
    /// Reads a side file.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(content: &[u8]) -> Result<Self, ChecksumDamage> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Line {
            algorithm: String,
            value: i64,
            main_file_size: u64,
        }
        let line: Line =
            serde_json::from_slice(content).map_err(|e| ChecksumDamage::NotJson(e.to_string()))?;
        if line.algorithm != "CRC32C" {
            let shown = line.algorithm.chars().take(40).collect();
            return Err(ChecksumDamage::Algorithm(shown));
        }
        // Java has no unsigned 32-bit integer.
        let crc32c = i32::try_from(line.value)
            .map(i32::cast_unsigned)
            .map_err(|_| ChecksumDamage::NotJson("its value is out of range".to_owned()))?;
        Ok(Self {
            len_bytes: line.main_file_size,
            crc32c,
        })
    }
}

/// The length of Hadoop's side file for a file of `len_bytes`, with chunks of 512 bytes.
pub fn hadoop_checksum_bytes(len_bytes: u64) -> u64 {
    8 + 4 * len_bytes.div_ceil(512)
}

/// `.<name>.crc`, from Hadoop's local file system: a CRC-32 for each chunk of `<name>`.
#[derive(Debug)]
pub struct HadoopCheck<'a> {
    expected: &'a [u8],
    chunk_bytes: u64,
    in_chunk: u64,
    at: u64,
    hasher: crc32fast::Hasher,
}

impl<'a> HadoopCheck<'a> {
    /// Begins to compare a file with its side file.
    ///
    /// # Errors
    /// [`ChecksumDamage::NotHadoop`].
    pub fn new(side_file: &'a [u8]) -> Result<Self, ChecksumDamage> {
        let (magic, rest) = side_file
            .split_first_chunk::<4>()
            .ok_or(ChecksumDamage::NotHadoop)?;
        let (chunk, expected) = rest
            .split_first_chunk::<4>()
            .ok_or(ChecksumDamage::NotHadoop)?;
        let chunk_bytes = u64::from(u32::from_be_bytes(*chunk));
        if magic != b"crc\0" || chunk_bytes == 0 {
            return Err(ChecksumDamage::NotHadoop);
        }
        Ok(Self {
            expected,
            chunk_bytes,
            in_chunk: 0,
            at: 0,
            hasher: crc32fast::Hasher::new(),
        })
    }

    /// Takes the next piece of the file.
    ///
    /// # Errors
    /// [`ChecksumDamage::Differs`], [`ChecksumDamage::Length`].
    pub fn add(&mut self, mut piece: &[u8]) -> Result<(), ChecksumDamage> {
        while !piece.is_empty() {
            let room = usize::try_from(self.chunk_bytes - self.in_chunk).unwrap_or(usize::MAX);
            let (part, rest) = piece.split_at(room.min(piece.len()));
            self.hasher.update(part);
            self.in_chunk += part.len() as u64;
            piece = rest;
            if self.in_chunk == self.chunk_bytes {
                self.end_chunk()?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`ChecksumDamage::Differs`], [`ChecksumDamage::Length`].
    pub fn finish(mut self) -> Result<(), ChecksumDamage> {
        if self.in_chunk > 0 {
            self.end_chunk()?;
        }
        if self.expected.is_empty() {
            Ok(())
        } else {
            Err(ChecksumDamage::Length)
        }
    }

    fn end_chunk(&mut self) -> Result<(), ChecksumDamage> {
        let found = std::mem::take(&mut self.hasher).finalize();
        let (expected, rest) = self
            .expected
            .split_first_chunk::<4>()
            .ok_or(ChecksumDamage::Length)?;
        if u32::from_be_bytes(*expected) != found {
            return Err(ChecksumDamage::Differs { at: self.at });
        }
        self.expected = rest;
        self.at += self.in_chunk;
        self.in_chunk = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparks_side_files_are_read() {
        let content = br#"{"algorithm":"CRC32C","value":-1321662619,"mainFileSize":294,"timestampMs":1,"creator":{}}"#;
        let checksum = SparkChecksum::parse(content).unwrap();
        assert_eq!(checksum.len_bytes, 294);
        assert_eq!(checksum.crc32c, 2_973_304_677);
        for bad in [
            &b""[..],
            b"{}",
            br#"{"algorithm":"MD5","value":1,"mainFileSize":1}"#,
            br#"{"algorithm":"CRC32C","value":4294967296,"mainFileSize":1}"#,
            br#"{"algorithm":"CRC32C","value":1,"mainFileSize":-1}"#,
        ] {
            assert!(SparkChecksum::parse(bad).is_err(), "{bad:?}");
        }
    }

    fn side_file(content: &[u8]) -> Vec<u8> {
        let mut bytes = b"crc\0\0\0\x02\0".to_vec();
        for chunk in content.chunks(512) {
            bytes.extend(crc32fast::hash(chunk).to_be_bytes());
        }
        bytes
    }

    fn compare(content: &[u8], side_file: &[u8], piece: usize) -> Result<(), ChecksumDamage> {
        let mut check = HadoopCheck::new(side_file)?;
        for piece in content.chunks(piece) {
            check.add(piece)?;
        }
        check.finish()
    }

    #[test]
    fn hadoops_side_files_are_compared() {
        for len in [0, 1, 511, 512, 513, 2000] {
            let content: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let side = side_file(&content);
            assert_eq!(
                side.len() as u64,
                hadoop_checksum_bytes(content.len() as u64)
            );
            for piece in [1, 100, 512, 4096] {
                assert_eq!(compare(&content, &side, piece), Ok(()), "{len} {piece}");
            }
        }
        let content = vec![7; 1000];
        let mut changed = content.clone();
        changed[600] = 8;
        let side = side_file(&content);
        assert_eq!(
            compare(&changed, &side, 99),
            Err(ChecksumDamage::Differs { at: 512 })
        );
        assert_eq!(
            compare(&content[..512], &side, 99),
            Err(ChecksumDamage::Length)
        );
        assert!(compare(&[7; 2000], &side, 99).is_err());
        assert_eq!(
            compare(&content, b"crc", 99),
            Err(ChecksumDamage::NotHadoop)
        );
        assert_eq!(
            compare(&content, b"crc\0\0\0\0\0", 99),
            Err(ChecksumDamage::NotHadoop)
        );
    }

    proptest::proptest! {
        #[test]
        fn no_content_panics(content: Vec<u8>, side: Vec<u8>) {
            let _ = SparkChecksum::parse(&side);
            let _ = compare(&content, &side, 3);
        }
    }
}
