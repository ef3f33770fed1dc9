//! The LZ4 block stream (`net.jpountz`) that wraps deltas, snapshots and changelogs.
//!
//! Each frame: `LZ4Block`, a token (high nibble 0x10 stored or 0x20 LZ4, low nibble log2 of the block
//! size minus 10), compressed and original length, checksum (xxh32 of the original bytes, seed
//! 0x9747b28c, low 28 bits), all little-endian, then the data. A finished stream ends with a frame of
//! zero lengths.

use twox_hash::XxHash32;

const MAGIC: &[u8; 8] = b"LZ4Block";
/// Length of the header of a frame, and of an end frame, which is a header alone.
pub const HEADER_BYTES: u32 = 21;
const STORED: u8 = 0x10;
const LZ4: u8 = 0x20;
const SEED: u32 = 0x9747_b28c;
const CHECKSUM_BITS: u32 = 0x0FFF_FFFF;

/// How much of a stream is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Examine {
    /// The headers of the frames and the end of the stream.
    Frames,
    /// Every byte: frames are unpacked and their checksums compared.
    Content,
}

/// Why a block stream is not whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lz4Damage {
    /// The stream ends inside a frame, or without an end frame.
    #[error("it ends after {at} bytes without an end frame")]
    Cut {
        /// Length of the stream.
        at: u64,
    },
    /// No frame begins where one should.
    #[error("no LZ4 frame begins at byte {at}")]
    NoFrame {
        /// Position of the expected frame.
        at: u64,
    },
    /// The header of a frame contradicts itself.
    #[error("the LZ4 frame at byte {at} is not sound: {why}")]
    Frame {
        /// Position of the frame.
        at: u64,
        /// The rule it breaks.
        why: &'static str,
    },
    /// The data of a frame are not what was written.
    #[error("the data of the LZ4 frame at byte {at} do not match their checksum")]
    Checksum {
        /// Position of the frame.
        at: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Header {
    at: u64,
    is_stored: bool,
    compressed_bytes: usize,
    original_bytes: usize,
    checksum: u32,
}

impl Header {
    fn is_end(self) -> bool {
        self.original_bytes == 0
    }

    fn parse(at: u64, bytes: &[u8]) -> Result<Self, Lz4Damage> {
        let refuse = |why| Lz4Damage::Frame { at, why };
        let (magic, rest) = bytes
            .split_first_chunk::<8>()
            .ok_or(Lz4Damage::NoFrame { at })?;
        if magic != MAGIC {
            return Err(Lz4Damage::NoFrame { at });
        }
        let (&token, rest) = rest.split_first().ok_or(Lz4Damage::NoFrame { at })?;
        let mut lengths = rest
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes));
        let mut next = || lengths.next().ok_or(Lz4Damage::NoFrame { at });
        let (compressed, original, checksum) = (next()?, next()?, next()?);
        let block_bytes = 1_usize << (10 + (token & 0x0F));
        let is_stored = match token & 0xF0 {
            STORED => true,
            LZ4 => false,
            _ => return Err(refuse("its token names no known method")),
        };
        let length = |value| usize::try_from(value).map_err(|_| refuse("a length is out of range"));
        let (compressed_bytes, original_bytes) = (length(compressed)?, length(original)?);
        if original_bytes > block_bytes {
            return Err(refuse("its content is larger than its block size"));
        }
        if (original_bytes == 0) != (compressed_bytes == 0) {
            return Err(refuse("one of its lengths is 0 and the other is not"));
        }
        if original_bytes == 0 && checksum != 0 {
            return Err(refuse("an end frame has a checksum"));
        }
        if is_stored && original_bytes != compressed_bytes {
            return Err(refuse("stored data have two lengths"));
        }
        // The format's own bounds: incompressible data grow by 1/255, a byte yields at most 255.
        if compressed_bytes > original_bytes + original_bytes / 255 + 16 {
            return Err(refuse("its data are longer than its content can need"));
        }
        if original_bytes > compressed_bytes.saturating_mul(255) {
            return Err(refuse("its data are too short for its content"));
        }
        Ok(Self {
            at,
            is_stored,
            compressed_bytes,
            original_bytes,
            checksum,
        })
    }
}

/// Looks at the two ends of a stream alone: its first [`HEADER_BYTES`] and its last ones, of a file of
/// `len_bytes`.
///
/// # Errors
/// What is wrong with them. What lies between is not known.
pub fn check_ends(first: &[u8], last: &[u8], len_bytes: u64) -> Result<(), Lz4Damage> {
    let cut = Lz4Damage::Cut { at: len_bytes };
    if last.len() < HEADER_BYTES as usize {
        return Err(cut);
    }
    Header::parse(0, first)?;
    match Header::parse(len_bytes.saturating_sub(HEADER_BYTES.into()), last) {
        Ok(header) if header.is_end() => Ok(()),
        // Where no header ends the file, it ends anywhere in a frame.
        Ok(_) | Err(_) => Err(cut),
    }
}

/// Reads a block stream piece by piece; holds one frame at most (32 MiB and its unpacked data in the
/// worst case, 64 KiB in what Spark writes).
#[derive(Debug)]
pub struct BlockStream {
    examine: Examine,
    at: u64,
    /// The header or the data that are being collected.
    pending: Vec<u8>,
    /// Bytes of a frame's data still to be passed over.
    to_skip: usize,
    frame: Option<Header>,
    is_ended: bool,
    block: Vec<u8>,
}

impl BlockStream {
    /// Begins a stream.
    pub fn new(examine: Examine) -> Self {
        Self {
            examine,
            at: 0,
            pending: Vec::new(),
            to_skip: 0,
            frame: None,
            is_ended: false,
            block: Vec::new(),
        }
    }

    /// Takes the next piece; gives unpacked data to `out` (only with [`Examine::Content`]).
    ///
    /// # Errors
    /// The first damage; the stream cannot be read on.
    pub fn add(&mut self, mut piece: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), Lz4Damage> {
        while !piece.is_empty() {
            let wanted = match self.frame {
                None => HEADER_BYTES as usize - self.pending.len(),
                Some(_) if self.examine == Examine::Frames => self.to_skip,
                Some(frame) => frame.compressed_bytes - self.pending.len(),
            };
            let (part, rest) = piece.split_at(wanted.min(piece.len()));
            piece = rest;
            self.at += part.len() as u64;
            match self.frame {
                Some(_) if self.examine == Examine::Frames => {
                    self.to_skip -= part.len();
                    if self.to_skip == 0 {
                        self.frame = None;
                    }
                }
                _ => {
                    self.pending.extend_from_slice(part);
                    if part.len() == wanted {
                        self.end_part(out)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// [`Lz4Damage::Cut`] if it is not finished.
    pub fn finish(self) -> Result<(), Lz4Damage> {
        if self.is_ended && self.pending.is_empty() && self.frame.is_none() {
            Ok(())
        } else {
            Err(Lz4Damage::Cut { at: self.at })
        }
    }

    fn end_part(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), Lz4Damage> {
        let Some(frame) = self.frame.take() else {
            let begins_at = self.at - u64::from(HEADER_BYTES);
            let header = Header::parse(begins_at, &self.pending)?;
            self.pending.clear();
            // Streams may follow each other; the last frame of all must be an end.
            self.is_ended = header.is_end();
            if !header.is_end() {
                self.to_skip = header.compressed_bytes;
                self.frame = Some(header);
            }
            return Ok(());
        };
        let refuse = Lz4Damage::Checksum { at: frame.at };
        let data: &[u8] = if frame.is_stored {
            &self.pending
        } else {
            self.block.resize(frame.original_bytes, 0);
            match lz4_flex::block::decompress_into(&self.pending, &mut self.block) {
                Ok(length) if length == frame.original_bytes => &self.block,
                _ => return Err(refuse),
            }
        };
        if XxHash32::oneshot(SEED, data) & CHECKSUM_BITS != frame.checksum {
            return Err(refuse);
        }
        out(data);
        self.pending.clear();
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A finished stream, as Spark writes it, in blocks of 1 KiB.
    pub(crate) fn pack(content: &[u8]) -> Vec<u8> {
        let mut stream = Vec::new();
        for block in content.chunks(1024) {
            let packed = lz4_flex::block::compress(block);
            let (method, data) = if packed.len() < block.len() {
                (LZ4, packed.as_slice())
            } else {
                (STORED, block)
            };
            let checksum = XxHash32::oneshot(SEED, block) & CHECKSUM_BITS;
            frame(&mut stream, method, data.len(), block.len(), checksum);
            stream.extend_from_slice(data);
        }
        frame(&mut stream, STORED, 0, 0, 0);
        stream
    }

    fn frame(stream: &mut Vec<u8>, method: u8, packed: usize, original: usize, checksum: u32) {
        stream.extend_from_slice(MAGIC);
        stream.push(method);
        for value in [packed, original] {
            stream.extend_from_slice(&u32::try_from(value).unwrap().to_le_bytes());
        }
        stream.extend_from_slice(&checksum.to_le_bytes());
    }

    fn read(stream: &[u8], examine: Examine, piece: usize) -> Result<Vec<u8>, Lz4Damage> {
        let mut reader = BlockStream::new(examine);
        let mut content = Vec::new();
        for piece in stream.chunks(piece) {
            reader.add(piece, &mut |block| content.extend_from_slice(block))?;
        }
        reader.finish()?;
        Ok(content)
    }

    fn sample() -> Vec<u8> {
        let mut content = b"state ".repeat(500);
        content.extend((0..3000_u32).map(|i| u8::try_from(i * i % 251).unwrap()));
        content
    }

    #[test]
    fn what_was_packed_is_read_back_whatever_the_pieces() {
        let stream = pack(&sample());
        for piece in [1, 20, 21, 22, 4096, stream.len()] {
            assert_eq!(read(&stream, Examine::Content, piece), Ok(sample()));
            assert_eq!(read(&stream, Examine::Frames, piece), Ok(Vec::new()));
        }
    }

    #[test]
    fn a_cut_is_seen_at_every_byte() {
        let stream = pack(&sample());
        for cut in 0..stream.len() {
            for examine in [Examine::Content, Examine::Frames] {
                assert_eq!(
                    read(&stream[..cut], examine, 4096),
                    Err(Lz4Damage::Cut { at: cut as u64 })
                );
            }
        }
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let stream = pack(&sample());
        for at in 0..stream.len() {
            let mut changed = stream.clone();
            changed[at] ^= 0x40;
            let result = read(&changed, Examine::Content, 4096);
            // A larger block size in a token changes nothing that is read.
            let is_token = stream[..at].ends_with(MAGIC);
            assert!(is_token || result.is_err(), "byte {at}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_held() {
        for (packed, original, why) in [
            (0x7FFF_FFFF, 0x7FFF_FFFF, "larger than its block size"),
            (0xFFFF_FFFF, 10, "longer than its content"),
            (1, 1024, "too short"),
            (0, 5, "one of its lengths"),
        ] {
            let mut stream = Vec::new();
            frame(&mut stream, LZ4, packed, original, 0);
            let damage = read(&stream, Examine::Frames, 64).unwrap_err();
            assert!(damage.to_string().contains(why), "{damage}");
        }
    }

    #[test]
    fn the_ends_alone_tell_a_cut_and_another_format() {
        let stream = pack(&sample());
        let ends = |stream: &[u8]| {
            let bytes = (HEADER_BYTES as usize).min(stream.len());
            let (first, last) = (&stream[..bytes], &stream[stream.len() - bytes..]);
            check_ends(first, last, stream.len() as u64)
        };
        assert_eq!(ends(&stream), Ok(()));
        assert_eq!(ends(&pack(b"")), Ok(()));
        for length in 0..stream.len() {
            let at = length as u64;
            assert_eq!(ends(&stream[..length]), Err(Lz4Damage::Cut { at }));
        }
        // Magic and method of the first frame, and all of the last one.
        let end = stream.len() - HEADER_BYTES as usize;
        for byte in (0..9).chain(end..stream.len()) {
            let mut changed = stream.clone();
            changed[byte] ^= 0x80;
            assert!(ends(&changed).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn streams_may_follow_each_other() {
        let mut stream = pack(b"one");
        stream.extend(pack(b"two"));
        assert_eq!(read(&stream, Examine::Content, 9), Ok(b"onetwo".to_vec()));
        stream.extend(b"rest");
        assert!(read(&stream, Examine::Content, 9).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_content_panics(content: Vec<u8>, tail: Vec<u8>) {
            let mut stream = pack(&content);
            stream.truncate(stream.len() - 21);
            stream.extend(tail);
            let _ = read(&stream, Examine::Content, 100);
            let _ = read(&content, Examine::Content, 100);
        }
    }
}
