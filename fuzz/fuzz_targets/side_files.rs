//! Checksum files of Spark and of Hadoop.
#![no_main]

use stepdown::checkpoint::state_store::checksum::{HadoopCheck, SparkChecksum};

libfuzzer_sys::fuzz_target!(|input: (&[u8], &[u8])| {
    let (side_file, content) = input;
    let _ = SparkChecksum::parse(side_file);
    if let Ok(mut check) = HadoopCheck::new(side_file) {
        let _ = check.add(content).and_then(|()| check.finish());
    }
});
