//! Metadata of operators: after a move nothing is left to move.
#![no_main]

use stepdown::checkpoint::operator::move_schema_uris;

libfuzzer_sys::fuzz_target!(|content: &[u8]| {
    if let Ok(Some(moved)) = move_schema_uris(content, "hdfs://ns/new") {
        assert_eq!(move_schema_uris(&moved, "hdfs://ns/new"), Ok(None));
    }
});
