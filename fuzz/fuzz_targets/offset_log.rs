//! `offsets/<batch>` and the query id.
#![no_main]

use stepdown::checkpoint::QueryId;
use stepdown::checkpoint::log::OffsetLog;

libfuzzer_sys::fuzz_target!(|content: &[u8]| {
    let _ = OffsetLog::parse(content);
    if let Ok(id) = QueryId::from_metadata(content) {
        assert_eq!(QueryId::from_metadata(id.to_metadata().as_bytes()), Ok(id));
    }
});
