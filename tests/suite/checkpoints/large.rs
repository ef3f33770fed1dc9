//! State files that are too large to be read by a quick check.

use std::fs;

use stepdown::checkpoint::finding::Code;
use stepdown::checkpoint::verify::{Thoroughness, Verdict, Verification, VerifyOptions, verify};
use twox_hash::XxHash32;

use super::samples::Sample;

const DELTA: &str = "state/0/1/8.delta";
const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 21;

/// A delta of about 10 MB, as Spark writes one that does not shrink.
fn large_delta() -> Vec<u8> {
    let mut records = Vec::new();
    let mut random = fastrand::Rng::with_seed(1);
    for key in 0..10_000_u32 {
        records.extend_from_slice(&4_i32.to_be_bytes());
        records.extend_from_slice(&key.to_be_bytes());
        records.extend_from_slice(&1000_i32.to_be_bytes());
        records.extend(std::iter::repeat_with(|| random.u8(..)).take(1000));
    }
    records.extend_from_slice(&(-1_i32).to_be_bytes());
    let mut file = Vec::new();
    for block in records.chunks(BLOCK_BYTES).chain([&[][..]]) {
        let length = u32::try_from(block.len()).unwrap().to_le_bytes();
        let checksum = if block.is_empty() {
            0
        } else {
            XxHash32::oneshot(0x9747_b28c, block) & 0x0FFF_FFFF
        };
        file.extend_from_slice(b"LZ4Block\x15");
        file.extend_from_slice(&length);
        file.extend_from_slice(&length);
        file.extend_from_slice(&checksum.to_le_bytes());
        file.extend_from_slice(block);
    }
    file
}

async fn check(sample: &Sample, thoroughness: Thoroughness) -> Verification {
    let options = VerifyOptions::in_place(thoroughness);
    verify(&sample.storage, &sample.dir, options).await.unwrap()
}

#[tokio::test]
async fn of_a_large_state_file_a_quick_check_reads_the_two_ends() {
    let sample = Sample::unpack("3.5.9-agg-hdfs-clean");
    let delta = large_delta();
    assert!(delta.len() > 8 << 20);
    fs::write(sample.path(DELTA), &delta).unwrap();
    let before = check(&sample, Thoroughness::Quick).await;
    assert_eq!(before.verdict, Verdict::Sound, "{before:?}");
    assert_eq!(before.not_checked, [], "{before:?}");
    assert!(before.checked.bytes < 1 << 20, "{:?}", before.checked);
    let deep = check(&sample, Thoroughness::Deep).await;
    assert_eq!(deep.verdict, Verdict::Sound, "{deep:?}");
    assert!(deep.checked.bytes > 8 << 20, "{:?}", deep.checked);

    let middle = 280 * (HEADER_BYTES + BLOCK_BYTES);
    let mut no_frame = delta.clone();
    no_frame[0] = b'l';
    for (what, harmed) in [
        (
            "without the end frame",
            &delta[..delta.len() - HEADER_BYTES],
        ),
        ("one byte short", &delta[..delta.len() - 1]),
        ("cut between two frames", &delta[..middle]),
        ("cut after a header", &delta[..middle + HEADER_BYTES]),
        ("another format", &no_frame),
    ] {
        fs::write(sample.path(DELTA), harmed).unwrap();
        let found = check(&sample, Thoroughness::Quick).await;
        assert_eq!(found.verdict, Verdict::Damaged, "{what}: {found:?}");
        let finding = &found.findings[0];
        let told = (finding.code, finding.path.as_str());
        assert_eq!(told, (Code::StateDamaged, DELTA), "{what}");
    }

    // What lies between the ends only a deep check sees.
    let mut inside = delta;
    inside[middle + HEADER_BYTES + 5] ^= 1;
    fs::write(sample.path(DELTA), inside).unwrap();
    let quick = check(&sample, Thoroughness::Quick).await;
    assert_eq!(quick.verdict, Verdict::Sound);
    let deep = check(&sample, Thoroughness::Deep).await;
    assert_eq!(deep.verdict, Verdict::Damaged);
}
