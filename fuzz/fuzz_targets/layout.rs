//! Paths below a checkpoint, and offsets of sources.
#![no_main]

use stepdown::checkpoint::layout::classify;
use stepdown::checkpoint::log::SourceOffset;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = classify(text);
    let _ = SourceOffset::parse(text).kind();
});
