#![no_main]

#[path = "../properties.rs"]
#[expect(dead_code, reason = "each target needs one of them")]
mod properties;

libfuzzer_sys::fuzz_target!(|content: &[u8]| properties::rocksdb_zip(content));
