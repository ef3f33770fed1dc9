//! `commits/<batch>`.
#![no_main]

use stepdown::checkpoint::log::CommitLog;

libfuzzer_sys::fuzz_target!(|content: &[u8]| {
    let _ = CommitLog::parse(content);
});
