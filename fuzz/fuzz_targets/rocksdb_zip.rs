//! `<version>.zip`, and the text of its `metadata`.
#![no_main]

use stepdown::checkpoint::state_store::lz4::Examine;
use stepdown::checkpoint::state_store::rocksdb::RocksMetadata;

libfuzzer_sys::fuzz_target!(|content: &[u8]| {
    let _ = RocksMetadata::from_zip(content, Examine::Content);
    if let Ok(text) = std::str::from_utf8(content) {
        let _ = RocksMetadata::parse(text);
    }
});
