//! The header and the records of a changelog, unpacked.
#![no_main]

use stepdown::checkpoint::state_store::payload::{PayloadKind, PayloadScan};

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (piece, content) = input;
    let scan = |piece: usize| {
        let mut scan = PayloadScan::new(PayloadKind::Changelog);
        for part in content.chunks(piece.max(1)) {
            scan.add(part)?;
        }
        let header = scan.header().cloned();
        scan.finish().map(|records| (header, records))
    };
    assert_eq!(scan(usize::from(piece)), scan(content.len()));
});
