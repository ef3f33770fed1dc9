//! Deltas and snapshots: the block stream and the records inside.
#![no_main]

use stepdown::checkpoint::state_store::lz4::{BlockStream, Examine};
use stepdown::checkpoint::state_store::payload::{PayloadKind, PayloadScan};

libfuzzer_sys::fuzz_target!(|content: &[u8]| {
    let mut frames = BlockStream::new(Examine::Frames);
    let frames = frames.add(content, &mut |_| {}).and_then(|()| frames.finish());
    let mut stream = BlockStream::new(Examine::Content);
    let mut payload = PayloadScan::new(PayloadKind::Records);
    let mut is_read = true;
    let whole = stream.add(content, &mut |block| {
        if is_read {
            is_read = payload.add(block).is_ok();
        }
    });
    // What is whole in depth is whole at a glance.
    if whole.and_then(|()| stream.finish()).is_ok() {
        assert_eq!(frames, Ok(()));
    }
    let _ = payload.finish();
});
