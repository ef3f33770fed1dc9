//! `sources/<i>/<id>`: the result does not depend on how the content is cut into pieces.
#![no_main]

use stepdown::checkpoint::log::SourceLogScan;

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (piece, content) = input;
    let mut whole = SourceLogScan::default();
    whole.add(content);
    let mut parts = SourceLogScan::default();
    for part in content.chunks(usize::from(piece).max(1)) {
        parts.add(part);
    }
    assert_eq!(whole.finish(), parts.finish());
});
