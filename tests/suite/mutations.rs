//! Real files of checkpoints, changed at random: no parser panics, hangs, or holds more than it may.
//!
//! What `fuzz/` does with a compiler of its own, for every change of the code. `STEPDOWN_MUTATIONS=1000000`
//! makes another number of mutants of each kind; the seed of a failed one is in its message.

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::Path;

use fastrand::Rng;
use stepdown::checkpoint::layout::{PathKind, StateFile, VersionKind, classify};
use stepdown::checkpoint::state_store::lz4::{BlockStream, Examine};

use crate::checkpoints::samples::{Sample, table};

#[path = "../../fuzz/properties.rs"]
mod properties;

/// More than any parser needs for a file of a sample.
const LARGEST_MUTANT: usize = 1 << 20;

/// Numbers that lengths, counts and versions go wrong at.
const NUMBERS: [u64; 10] = [
    0,
    1,
    0x7F,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    u64::MAX,
];

/// The same as text.
const WORDS: [&str; 9] = [
    "-1",
    "99999999999999999999",
    "null",
    "[[[[",
    "{}",
    "\"\"",
    "v9",
    "-",
    "\u{0}",
];

fn unpacked(content: &[u8]) -> Option<Vec<u8>> {
    let mut payload = Vec::new();
    let mut stream = BlockStream::new(Examine::Content);
    stream
        .add(content, &mut |block| payload.extend_from_slice(block))
        .ok()?;
    Some(payload)
}

/// The files of all samples by the parser that reads them.
fn corpus() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let mut corpus: BTreeMap<&'static str, Vec<Vec<u8>>> = BTreeMap::new();
    for row in table() {
        let sample = Sample::unpack(row.get("archive"));
        let root = sample.path("");
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    add(&mut corpus, &root, &path);
                }
            }
        }
    }
    let manifest = include_bytes!("../fixtures/manifest.json");
    corpus.insert("manifest", vec![manifest.to_vec()]);
    for files in corpus.values_mut() {
        files.sort_unstable();
        files.dedup();
    }
    corpus
}

fn add(corpus: &mut BTreeMap<&'static str, Vec<Vec<u8>>>, root: &Path, path: &Path) {
    let name = path.strip_prefix(root).unwrap().to_str().unwrap();
    let content = std::fs::read(path).unwrap();
    let mut put = |kind, content| corpus.entry(kind).or_default().push(content);
    put("layout", name.as_bytes().to_vec());
    match classify(name) {
        PathKind::Metadata | PathKind::Offset(_) => put("offset_log", content),
        PathKind::Commit(_) => put("commit_log", content),
        PathKind::SourceLog { .. } | PathKind::SourceFile { .. } => put("source_log", content),
        PathKind::OperatorMetadata { .. } => put("operator_metadata", content),
        PathKind::HadoopChecksum | PathKind::SparkChecksum => put("side_files", content),
        PathKind::State(state) => match state.file {
            StateFile::Version {
                kind: VersionKind::Zip,
                ..
            } => {
                put("rocksdb_zip", content);
            }
            StateFile::Version { .. } => {
                if let Some(payload) = unpacked(&content) {
                    put("changelog", payload);
                }
                put("lz4_stream", content);
            }
            StateFile::Sst(_)
            | StateFile::RocksLog(_)
            | StateFile::Schema
            | StateFile::Misnamed => {}
        },
        PathKind::StateSchema { .. }
        | PathKind::Temporary
        | PathKind::Manifest
        | PathKind::Foreign => {}
    }
}

fn mutate(rng: &mut Rng, content: &mut Vec<u8>, other: &[u8]) {
    let at = rng.usize(0..=content.len());
    let end = rng.usize(at..=content.len());
    match rng.u8(0..9) {
        0 if at < content.len() => content[at] ^= 1 << rng.u8(0..8),
        1 => {
            let number = NUMBERS[rng.usize(0..NUMBERS.len())];
            let (big, little) = (number.to_be_bytes(), number.to_le_bytes());
            let width = [1, 2, 4, 8][rng.usize(0..4)];
            let bytes = if rng.bool() {
                &big[8 - width..]
            } else {
                &little[..width]
            };
            for (to, from) in content[at..].iter_mut().zip(bytes) {
                *to = *from;
            }
        }
        2 => content.truncate(at),
        3 => drop(content.drain(at..end)),
        4 => {
            let again = content[at..end].to_vec();
            content.splice(at..at, again);
        }
        5 => {
            let from = rng.usize(0..=other.len());
            let to = rng.usize(from..=other.len());
            content.splice(at..end, other[from..to].iter().copied());
        }
        6 => {
            let word = WORDS[rng.usize(0..WORDS.len())];
            content.splice(at..end.min(at + 12), word.bytes());
        }
        7 => {
            let noise: Vec<u8> = (0..rng.usize(1..40)).map(|_| rng.u8(..)).collect();
            content.splice(at..at, noise);
        }
        _ => {
            // A number in a text, and the digits after it.
            let digits = content.iter().position(u8::is_ascii_digit).unwrap_or(at);
            let word = WORDS[rng.usize(0..2)];
            content.splice(digits..digits, word.bytes());
        }
    }
    content.truncate(LARGEST_MUTANT);
}

fn hold(kind: &str, piece: u8, content: &[u8], other: &[u8]) {
    match kind {
        "offset_log" => properties::offset_log(content),
        "commit_log" => properties::commit_log(content),
        "source_log" => properties::source_log(piece, content),
        "lz4_stream" => properties::lz4_stream(content),
        "changelog" => properties::changelog(piece, content),
        "rocksdb_zip" => properties::rocksdb_zip(content),
        "operator_metadata" => properties::operator_metadata(content),
        "side_files" => properties::side_files(content, other),
        "manifest" => properties::manifest(content),
        "layout" => properties::layout(&String::from_utf8_lossy(content)),
        other => panic!("no parser for {other}"),
    }
}

/// The real files as seeds for `fuzz/`, a directory for each target (`scripts/fuzz`).
fn write_seeds(dir: &Path, corpus: &BTreeMap<&'static str, Vec<Vec<u8>>>) {
    for (kind, files) in corpus {
        let dir = dir.join(kind);
        std::fs::create_dir_all(&dir).unwrap();
        for content in files {
            // Those targets read the length of the pieces first.
            let is_cut = matches!(*kind, "source_log" | "changelog");
            let seed = [if is_cut { &[7][..] } else { &[] }, content].concat();
            let name = blake3::hash(&seed).to_hex();
            std::fs::write(dir.join(name.as_str()), seed).unwrap();
        }
    }
}

#[test]
fn no_parser_panics_at_a_real_file_that_was_changed() {
    let count = std::env::var("STEPDOWN_MUTATIONS").map_or(2_000, |text| text.parse().unwrap());
    let corpus = corpus();
    assert_eq!(corpus.len(), 10, "{:?}", corpus.keys());
    if let Some(dir) = std::env::var_os("STEPDOWN_FUZZ_SEEDS") {
        write_seeds(Path::new(&dir), &corpus);
    }
    for (kind, files) in &corpus {
        for seed in 0..count {
            let mut rng = Rng::with_seed(seed);
            let mut content = files[rng.usize(0..files.len())].clone();
            let other = &files[rng.usize(0..files.len())];
            // Unchanged ones as well.
            for _ in 0..rng.u8(0..6) {
                mutate(&mut rng, &mut content, other);
            }
            let piece = rng.u8(..);
            let held = catch_unwind(|| hold(kind, piece, &content, other));
            assert!(held.is_ok(), "{kind}, seed {seed}: {content:02x?}");
        }
    }
}
