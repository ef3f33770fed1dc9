//! `sources/<i>/<id>` and `<id>.compact`: what a source has found so far.

use serde::Deserialize;

use super::{LogDamage, parse_object, parse_version};

/// A line is not kept beyond this length: it holds one path and some numbers.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// What a source log holds, as far as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceLogKind {
    /// Entries of a file source, one a line.
    Files,
    /// The start time of a rate source.
    StartTime,
    /// Something else behind a version line, such as Kafka's first offsets.
    Other,
}

/// Reads a source log piece by piece; a compact log can have millions of lines.
#[derive(Debug, Default)]
pub struct SourceLogScan {
    line: Vec<u8>,
    lines_done: usize,
    kind: Option<SourceLogKind>,
    damage: Option<LogDamage>,
    has_begun: bool,
}

#[derive(Deserialize)]
struct FileEntry {
    #[serde(rename = "path")]
    _path: String,
    #[serde(rename = "batchId")]
    _batch_id: i64,
}

impl SourceLogScan {
    /// Takes the next piece of the content.
    pub fn add(&mut self, mut piece: &[u8]) {
        if !self.has_begun && !piece.is_empty() {
            self.has_begun = true;
            // Kafka's first offsets may begin with a NUL, for readers before Spark 2.1.
            piece = piece.strip_prefix(&[0]).unwrap_or(piece);
        }
        while self.damage.is_none() {
            let Some(end) = piece.iter().position(|b| *b == b'\n') else {
                self.extend(piece);
                return;
            };
            let (head, rest) = piece.split_at(end);
            self.extend(head);
            self.end_line();
            piece = rest.get(1..).unwrap_or_default();
        }
    }

    /// What the log holds, now that all of it was seen.
    ///
    /// # Errors
    /// The first damage.
    pub fn finish(mut self) -> Result<SourceLogKind, LogDamage> {
        if !self.line.is_empty() {
            self.end_line();
        }
        match (self.damage, self.kind) {
            (Some(damage), _) => Err(damage),
            (None, Some(kind)) => Ok(kind),
            (None, None) if self.lines_done == 0 => Err(LogDamage::Empty),
            // A file source may log a batch without files.
            (None, None) => Ok(SourceLogKind::Files),
        }
    }

    fn extend(&mut self, part: &[u8]) {
        if self.line.len() + part.len() > MAX_LINE_BYTES {
            self.damage = Some(LogDamage::Json {
                line: self.lines_done + 1,
                why: format!("the line is longer than {MAX_LINE_BYTES} bytes"),
                is_cut: false,
            });
            return;
        }
        self.line.extend_from_slice(part);
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.lines_done += 1;
        if self.damage.is_some() {
            return;
        }
        if let Err(damage) = self.read_line(&line) {
            self.damage = Some(damage);
        }
        self.line = line;
        self.line.clear();
    }

    fn read_line(&mut self, line: &[u8]) -> Result<(), LogDamage> {
        let text = std::str::from_utf8(line).map_err(|_| LogDamage::NotText)?;
        match (self.lines_done, self.kind) {
            (1, _) => {
                parse_version(text, 2)?;
            }
            (2, None) if text.trim().parse::<i64>().is_ok() => {
                self.kind = Some(SourceLogKind::StartTime);
            }
            (2, None) if !text.contains("\"path\"") => {
                serde_json::from_str::<serde::de::IgnoredAny>(text)
                    .map_err(|e| LogDamage::json(2, &e))?;
                self.kind = Some(SourceLogKind::Other);
            }
            (_, None | Some(SourceLogKind::Files)) => {
                self.kind = Some(SourceLogKind::Files);
                parse_object::<FileEntry>(self.lines_done, text)?;
            }
            (_, Some(SourceLogKind::StartTime | SourceLogKind::Other)) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(content: &[u8], piece: usize) -> Result<SourceLogKind, LogDamage> {
        let mut scan = SourceLogScan::default();
        for piece in content.chunks(piece.max(1)) {
            scan.add(piece);
        }
        scan.finish()
    }

    const FILES: &[u8] = b"v1\n{\"path\":\"file:///a b\",\"timestamp\":1,\"batchId\":0}\n\
        {\"path\":\"file:///c\",\"timestamp\":1,\"batchId\":1}";

    #[test]
    fn logs_of_known_sources_are_told_apart() {
        for piece in [1, 2, 7, 1000] {
            for (content, kind) in [
                (FILES, SourceLogKind::Files),
                (b"v1", SourceLogKind::Files),
                (b"v1\n1795153035831", SourceLogKind::StartTime),
                (b"v1\n{\"t\":{\"0\":1}}", SourceLogKind::Other),
                (b"\0v1\n{\"t\":{\"0\":1}}", SourceLogKind::Other),
            ] {
                assert_eq!(scan(content, piece), Ok(kind), "{content:?}");
            }
        }
    }

    #[test]
    fn damage_is_named_wherever_the_pieces_end() {
        for piece in [1, 5, 1000] {
            assert_eq!(scan(b"", piece), Err(LogDamage::Empty));
            assert!(matches!(
                scan(&FILES[..FILES.len() - 9], piece),
                Err(LogDamage::Json {
                    line: 3,
                    is_cut: true,
                    ..
                })
            ));
            assert!(matches!(
                scan(b"x\n", piece),
                Err(LogDamage::NoVersion { .. })
            ));
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut scan = SourceLogScan::default();
        scan.add(b"v1\n");
        for _ in 0..400 {
            scan.add(&[b'x'; 8192]);
        }
        assert!(scan.line.len() <= MAX_LINE_BYTES);
        assert!(matches!(
            scan.finish(),
            Err(LogDamage::Json { line: 2, .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn pieces_do_not_matter(content: Vec<u8>, piece in 1_usize..20) {
            proptest::prop_assert_eq!(scan(&content, piece), scan(&content, usize::MAX));
        }
    }
}
