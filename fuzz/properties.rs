//! What must hold for any bytes, by the parser that reads them. For the fuzz targets, and for the tests,
//! which change real files at random (`tests/suite/mutations.rs`).

use stepdown::checkpoint::QueryId;
use stepdown::checkpoint::layout::classify;
use stepdown::checkpoint::log::{CommitLog, OffsetLog, SourceLogScan, SourceOffset};
use stepdown::checkpoint::manifest::Manifest;
use stepdown::checkpoint::operator::{OperatorMetadata, move_schema_uris};
use stepdown::checkpoint::state_store::checksum::{HadoopCheck, SparkChecksum};
use stepdown::checkpoint::state_store::lz4::{BlockStream, Examine, HEADER_BYTES, check_ends};
use stepdown::checkpoint::state_store::payload::{PayloadKind, PayloadScan};
use stepdown::checkpoint::state_store::rocksdb::RocksMetadata;

/// `offsets/<batch>` and the query id.
pub(crate) fn offset_log(content: &[u8]) {
    let _ = OffsetLog::parse(content);
    if let Ok(id) = QueryId::from_metadata(content) {
        assert_eq!(QueryId::from_metadata(id.to_metadata().as_bytes()), Ok(id));
    }
}

/// `commits/<batch>`.
pub(crate) fn commit_log(content: &[u8]) {
    let _ = CommitLog::parse(content);
}

/// `sources/<i>/<id>`: the result does not depend on how the content is cut into pieces.
pub(crate) fn source_log(piece: u8, content: &[u8]) {
    let mut whole = SourceLogScan::default();
    whole.add(content);
    let mut parts = SourceLogScan::default();
    for part in content.chunks(usize::from(piece).max(1)) {
        parts.add(part);
    }
    assert_eq!(whole.finish(), parts.finish());
}

/// Deltas and snapshots: the block stream and the records inside.
pub(crate) fn lz4_stream(content: &[u8]) {
    let mut frames = BlockStream::new(Examine::Frames);
    let frames = frames
        .add(content, &mut |_| {})
        .and_then(|()| frames.finish());
    let mut stream = BlockStream::new(Examine::Content);
    let mut payload = PayloadScan::new(PayloadKind::Records);
    let mut is_read = true;
    let whole = stream.add(content, &mut |block| {
        if is_read {
            is_read = payload.add(block).is_ok();
        }
    });
    let bytes = content.len().min(HEADER_BYTES as usize);
    let (first, last) = (&content[..bytes], &content[content.len() - bytes..]);
    let ends = check_ends(first, last, content.len() as u64);
    // What is whole in depth is whole at a glance, and so are its ends; nothing at all is no stream.
    if whole.and_then(|()| stream.finish()).is_ok() {
        assert_eq!(frames, Ok(()));
        assert_eq!(ends, Ok(()));
    }
    let _ = payload.finish();
}

/// The header and the records of a changelog, unpacked.
pub(crate) fn changelog(piece: u8, content: &[u8]) {
    let scan = |piece: usize| {
        let mut scan = PayloadScan::new(PayloadKind::Changelog);
        for part in content.chunks(piece.max(1)) {
            scan.add(part)?;
        }
        let header = scan.header().cloned();
        scan.finish().map(|records| (header, records))
    };
    assert_eq!(scan(usize::from(piece)), scan(content.len()));
}

/// `<version>.zip`, and the text of its `metadata`.
pub(crate) fn rocksdb_zip(content: &[u8]) {
    let _ = RocksMetadata::from_zip(content, Examine::Frames);
    let _ = RocksMetadata::from_zip(content, Examine::Content);
    if let Ok(text) = std::str::from_utf8(content) {
        let _ = RocksMetadata::parse(text);
    }
}

/// Metadata of operators: after a move nothing is left to move.
pub(crate) fn operator_metadata(content: &[u8]) {
    let _ = OperatorMetadata::parse(content);
    if let Ok(Some(moved)) = move_schema_uris(content, "hdfs://ns/new") {
        assert_eq!(move_schema_uris(&moved, "hdfs://ns/new"), Ok(None));
    }
}

/// Checksum files of Spark and of Hadoop.
pub(crate) fn side_files(side_file: &[u8], content: &[u8]) {
    let _ = SparkChecksum::parse(side_file);
    if let Ok(mut check) = HadoopCheck::new(side_file) {
        let _ = check.add(content).and_then(|()| check.finish());
    }
}

/// Manifests of copies: what is read is written and read again the same.
pub(crate) fn manifest(content: &[u8]) {
    if let Ok(manifest) = Manifest::decode(content) {
        let written = manifest.encode().expect("what was read can be written");
        assert_eq!(Manifest::decode(&written), Ok(manifest));
    }
}

/// Paths below a checkpoint, and offsets of sources.
pub(crate) fn layout(text: &str) {
    let _ = classify(text);
    let _ = SourceOffset::parse(text).kind();
}
