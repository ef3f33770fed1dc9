//! What `verify` says of the samples, and of copies of them with one disease each.

use std::fs;

use stepdown::checkpoint::finding::{Code, Severity};
use stepdown::checkpoint::verify::{Thoroughness, Verdict, Verification, VerifyOptions, verify};
use stepdown::storage::StoragePath;

use super::samples::{Sample, table};

async fn check(sample: &Sample, thoroughness: Thoroughness) -> Verification {
    verify(
        &sample.storage,
        &sample.dir,
        VerifyOptions::in_place(thoroughness),
    )
    .await
    .unwrap()
}

/// Codes and paths of what is worse than a note.
fn bad(verification: &Verification) -> Vec<(Severity, Code, &str)> {
    verification
        .findings
        .iter()
        .filter(|finding| finding.severity > Severity::Note)
        .map(|finding| (finding.severity, finding.code, finding.path.as_str()))
        .collect()
}

/// What is wrong with a sample, by its name.
fn disease(name: &str) -> Option<(Severity, Code, &'static str, &'static str)> {
    use Severity::{Damage, Warning};
    Some(match name {
        "3.5.9-agg-hdfs-damaged-missing-delta" => (
            Damage,
            Code::StateMissing,
            "state/0/1/8.delta",
            "Error reading delta file .../state/0/1/8.delta",
        ),
        "3.5.9-agg-hdfs-damaged-empty-offset" => (
            Damage,
            Code::OffsetDamaged,
            "offsets/8",
            "Incomplete log file",
        ),
        "3.5.9-agg-hdfs-damaged-gap-in-offsets" => (
            Damage,
            Code::OffsetMissing,
            "offsets/7",
            "batch 7 doesn't exist",
        ),
        "4.0.5-agg-rocksdb-damaged-missing-sst" => (
            Damage,
            Code::SstMissing,
            "state/0/1/SSTs/000059-93992473-60e7-4406-b168-0339f14226c8.sst",
            "does not exist",
        ),
        "4.3.0-agg-hdfs-damaged-no-metadata" => (
            Warning,
            Code::MetadataMissing,
            "metadata",
            "STREAMING_CHECKPOINT_MISSING_METADATA_FILE",
        ),
        // Its operator names a schema file by the path where it was made, which is gone.
        "4.0.5-tws-v2-inflight-tmp" => (
            Damage,
            Code::SchemaElsewhere,
            "state/0/_metadata/v2/0",
            "FileNotFoundException",
        ),
        _ => return None,
    })
}

#[tokio::test]
async fn the_samples_have_their_diseases_and_no_others() {
    for row in table() {
        let name = row.get("archive");
        let sample = Sample::unpack(name);
        for thoroughness in [Thoroughness::Quick, Thoroughness::Deep] {
            let verification = check(&sample, thoroughness).await;
            assert!(
                verification.not_checked.is_empty(),
                "{name}: {verification:?}"
            );
            let found = bad(&verification);
            let Some((severity, code, path, spark)) = disease(name) else {
                assert_eq!(found, [], "{name} {thoroughness:?}");
                assert_eq!(verification.verdict, Verdict::Sound, "{name}");
                continue;
            };
            assert_eq!(found, [(severity, code, path)], "{name} {thoroughness:?}");
            let said = &verification.findings[0].spark;
            assert!(said.contains(spark), "{name}: {said}");
            assert!(!verification.findings[0].expected.is_empty(), "{name}");
            assert!(!verification.findings[0].found.is_empty(), "{name}");
        }
    }
}

#[tokio::test]
async fn gaps_of_async_progress_are_a_note() {
    let sample = Sample::unpack("3.5.9-async-none-gaps");
    let verification = check(&sample, Thoroughness::Deep).await;
    let codes: Vec<_> = verification
        .findings
        .iter()
        .map(|f| (f.severity, f.code))
        .collect();
    assert_eq!(codes, [(Severity::Note, Code::AsyncProgress)]);
    assert!(
        verification.findings[0]
            .spark
            .contains("batch 36 doesn't exist")
    );
}

#[tokio::test]
async fn a_deep_check_reads_more_than_a_quick_one() {
    let sample = Sample::unpack("4.3.0-agg-v2-clean");
    let quick = check(&sample, Thoroughness::Quick).await;
    let deep = check(&sample, Thoroughness::Deep).await;
    assert!(quick.checked.files > 10, "{quick:?}");
    assert!(deep.checked.files > quick.checked.files, "{deep:?}");
    assert!(deep.checked.bytes > 40_000, "{deep:?}");
}

/// One disease: sample, what is done to it, whether a quick check sees it, code, severity, path, and
/// a part of what Spark says.
struct Case {
    sample: &'static str,
    harm: fn(&Sample),
    is_quick: bool,
    severity: Severity,
    code: Code,
    path: &'static str,
    spark: &'static str,
}

fn cut(sample: &Sample, path: &str, by: usize) {
    let content = fs::read(sample.path(path)).unwrap();
    fs::write(sample.path(path), &content[..content.len() - by]).unwrap();
}

fn flip(sample: &Sample, path: &str, at: usize) {
    let mut content = fs::read(sample.path(path)).unwrap();
    content[at] ^= 1;
    fs::write(sample.path(path), content).unwrap();
}

fn write(sample: &Sample, path: &str, content: &str) {
    fs::write(sample.path(path), content).unwrap();
}

fn remove(sample: &Sample, path: &str) {
    fs::remove_file(sample.path(path)).unwrap();
}

const HDFS: &str = "3.5.9-agg-hdfs-clean";
const SNAPSHOTS: &str = "3.5.9-agghdfs-purged-snapshots-clean";
const FILES: &str = "3.5.9-filesource-hdfs-clean";
const ZIPS: &str = "4.0.5-agg-rocksdb-clean";
const CHANGELOG: &str = "4.0.5-agg-rocksdbcl-inflight";
const FORMAT_2: &str = "4.3.0-agg-v2-clean";
const FORMAT_2_OF_4_0: &str = "4.0.5-agg-v2-clean";
const P1_V14: &str = "state/0/1/14_6913b2ca-d591-418d-94b7-a7485b786a18.changelog";
const P0_ZIP: &str = "state/0/0/12_9b56120a-f0e7-4115-b978-db7084863a83.zip";

const CASES: &[Case] = &[
    Case {
        sample: HDFS,
        harm: |s| cut(s, "state/0/2/5.delta", 1),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::StateDamaged,
        path: "state/0/2/5.delta",
        spark: "Stream ended prematurely",
    },
    Case {
        sample: HDFS,
        harm: |s| flip(s, "state/0/2/5.delta", 40),
        is_quick: false,
        severity: Severity::Damage,
        code: Code::StateDamaged,
        path: "state/0/2/5.delta",
        spark: "Stream is corrupted",
    },
    Case {
        sample: HDFS,
        harm: |s| write(s, "state/0/0/1.delta", ""),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::StateDamaged,
        path: "state/0/0/1.delta",
        spark: "Stream ended prematurely",
    },
    Case {
        sample: HDFS,
        harm: |s| fs::remove_dir_all(s.path("state/0/2")).unwrap(),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::PartitionsMissing,
        path: "state/0/2",
        spark: "1.delta",
    },
    Case {
        sample: HDFS,
        harm: |s| fs::remove_dir_all(s.path("state/0/1")).unwrap(),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::StateMissing,
        path: "state/0/1/1.delta",
        spark: "CANNOT_READ_DELTA_FILE_NOT_EXISTS",
    },
    Case {
        sample: HDFS,
        harm: |s| write(s, "offsets/8", "v1"),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::OffsetDamaged,
        path: "offsets/8",
        spark: "next on empty iterator",
    },
    Case {
        sample: HDFS,
        harm: |s| cut(s, "offsets/8", 200),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::OffsetDamaged,
        path: "offsets/8",
        spark: "Unexpected end-of-input",
    },
    Case {
        sample: HDFS,
        harm: |s| write(s, "offsets/8", "v1\n{}"),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::OffsetDamaged,
        path: "offsets/8",
        spark: "There are [0] sources",
    },
    Case {
        sample: HDFS,
        harm: |s| write(s, "offsets/2", ""),
        is_quick: false,
        severity: Severity::Warning,
        code: Code::OffsetDamaged,
        path: "offsets/2",
        spark: "a restart does not read it",
    },
    Case {
        sample: HDFS,
        harm: |s| write(s, "commits/8", ""),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::CommitDamaged,
        path: "commits/8",
        spark: "Incomplete log file in the offset commit log",
    },
    Case {
        sample: HDFS,
        harm: |s| remove(s, "offsets/8"),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::CommitAhead,
        path: "offsets/8",
        spark: "Multiple streaming jobs detected for 7",
    },
    Case {
        sample: HDFS,
        harm: |s| {
            remove(s, "commits/8");
            remove(s, "commits/7");
        },
        is_quick: true,
        severity: Severity::Warning,
        code: Code::LogSkew,
        path: "commits/7",
        spark: "runs batch 8",
    },
    Case {
        sample: FORMAT_2,
        harm: |s| {
            remove(s, "commits/13");
            remove(s, "commits/12");
        },
        is_quick: true,
        severity: Severity::Damage,
        code: Code::LogSkew,
        path: "commits/12",
        spark: "file does not exist",
    },
    Case {
        sample: HDFS,
        harm: |s| write(s, "metadata", ""),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::MetadataDamaged,
        path: "metadata",
        spark: "No content to map",
    },
    Case {
        sample: HDFS,
        harm: |s| write(s, "metadata", "{\"id\":\"x\"}"),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::MetadataDamaged,
        path: "metadata",
        spark: "Invalid UUID string: x",
    },
    Case {
        sample: SNAPSHOTS,
        // The delta that a snapshot of the same version replaces is not needed, this one is.
        harm: |s| {
            remove(s, "state/0/0/8.delta");
            remove(s, "state/0/1/7.delta");
        },
        is_quick: true,
        severity: Severity::Damage,
        code: Code::StateMissing,
        path: "state/0/1/7.delta",
        spark: "does not exist",
    },
    Case {
        sample: FILES,
        harm: |s| remove(s, "sources/0/19.compact"),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::SourceLogMissing,
        path: "sources/0/19",
        spark: "doesn't exist",
    },
    Case {
        sample: FILES,
        harm: |s| remove(s, "sources/0/24"),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::SourceLogMissing,
        path: "sources/0/24",
        spark: "batch 24 doesn't exist",
    },
    Case {
        sample: FILES,
        harm: |s| fs::remove_dir_all(s.path("sources")).unwrap(),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::SourceLogMissing,
        path: "sources/0/0",
        spark: "batch 24 doesn't exist",
    },
    Case {
        sample: FILES,
        harm: |s| cut(s, "sources/0/19.compact", 5),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::SourceLogDamaged,
        path: "sources/0/19.compact",
        spark: "Unexpected end-of-input",
    },
    Case {
        sample: ZIPS,
        harm: |s| remove(s, "state/0/2/8.zip"),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::StateMissing,
        path: "state/0/2/8.changelog",
        spark: "CANNOT_READ_STREAMING_STATE_FILE",
    },
    Case {
        sample: ZIPS,
        harm: |s| {
            remove(s, "state/0/2/.8.zip.crc");
            cut(s, "state/0/2/8.zip", 30);
        },
        is_quick: true,
        severity: Severity::Damage,
        code: Code::StateDamaged,
        path: "state/0/2/8.zip",
        spark: "ZLIB",
    },
    Case {
        sample: ZIPS,
        harm: |s| flip(s, "state/0/2/.8.zip.crc", 9),
        is_quick: false,
        severity: Severity::Damage,
        code: Code::ChecksumDiffers,
        path: "state/0/2/8.zip",
        spark: "ChecksumException",
    },
    Case {
        sample: ZIPS,
        harm: |s| cut(s, "state/0/2/.8.zip.crc", 4),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::ChecksumDiffers,
        path: "state/0/2/8.zip",
        spark: "ChecksumException",
    },
    Case {
        sample: ZIPS,
        harm: |s| {
            let sst = "SSTs/000059-7348a905-4f77-4b24-9c10-6cadd91dcd01.sst";
            remove(
                s,
                &format!("state/0/0/{}", sst.replace("SSTs/", "SSTs/.") + ".crc"),
            );
            cut(s, &format!("state/0/0/{sst}"), 1);
        },
        is_quick: true,
        severity: Severity::Damage,
        code: Code::SstLength,
        path: "state/0/0/SSTs/000059-7348a905-4f77-4b24-9c10-6cadd91dcd01.sst",
        spark: "size",
    },
    Case {
        sample: CHANGELOG,
        harm: |s| write(s, "state/0/0/old.zip", "x"),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::StateMisnamed,
        path: "state/0/0/old.zip",
        spark: "For input string: \"old\"",
    },
    Case {
        sample: FORMAT_2,
        harm: |s| remove(s, P1_V14),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::StateMissing,
        path: P1_V14,
        spark: "does not exist",
    },
    Case {
        sample: FORMAT_2,
        harm: |s| {
            remove(
                s,
                "state/0/1/13_0f6d02dc-82a0-4fbb-a31b-d20b194e8c6f.changelog",
            );
        },
        is_quick: true,
        severity: Severity::Damage,
        code: Code::StateMissing,
        path: "state/0/1/13_0f6d02dc-82a0-4fbb-a31b-d20b194e8c6f.changelog",
        spark: "does not exist",
    },
    Case {
        sample: FORMAT_2,
        harm: |s| {
            let side = format!("{P0_ZIP}.crc");
            let text = fs::read_to_string(s.path(&side)).unwrap();
            let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
            json["value"] = 7.into();
            write(s, &side, &json.to_string());
        },
        is_quick: false,
        severity: Severity::Damage,
        code: Code::ChecksumDiffers,
        path: P0_ZIP,
        spark: "CHECKPOINT_FILE_CHECKSUM_VERIFICATION_FAILED",
    },
    Case {
        sample: FORMAT_2,
        harm: |s| {
            let side = format!("{P1_V14}.crc");
            let text = fs::read_to_string(s.path(&side)).unwrap();
            write(
                s,
                &side,
                &text.replace("\"mainFileSize\":", "\"mainFileSize\":9"),
            );
        },
        is_quick: true,
        severity: Severity::Damage,
        code: Code::ChecksumDiffers,
        path: P1_V14,
        spark: "CHECKPOINT_FILE_CHECKSUM_VERIFICATION_FAILED",
    },
    Case {
        sample: FORMAT_2_OF_4_0,
        harm: |s| write(s, "state/0/_metadata/metadata", "v1\n{"),
        is_quick: true,
        severity: Severity::Damage,
        code: Code::OperatorDamaged,
        path: "state/0/_metadata/metadata",
        spark: "operator's metadata",
    },
    Case {
        sample: HDFS,
        harm: |s| {
            fs::rename(s.path("commits/8"), s.path("commits/real")).unwrap();
            std::os::unix::fs::symlink("real", s.path("commits/8")).unwrap();
        },
        is_quick: true,
        severity: Severity::Warning,
        code: Code::NotAFile,
        path: "commits/8",
        spark: "follows a link",
    },
    Case {
        sample: HDFS,
        harm: |s| {
            fs::rename(s.path("offsets"), s.path("real")).unwrap();
            fs::remove_dir_all(s.path("commits")).unwrap();
            fs::create_dir(s.path("commits")).unwrap();
            std::os::unix::fs::symlink("real", s.path("offsets")).unwrap();
        },
        is_quick: true,
        severity: Severity::Damage,
        code: Code::NotAFile,
        path: "offsets",
        spark: "not looked at",
    },
];

#[tokio::test]
async fn every_disease_is_found_where_it_is() {
    for case in CASES {
        let sample = Sample::unpack(case.sample);
        (case.harm)(&sample);
        for thoroughness in [Thoroughness::Quick, Thoroughness::Deep] {
            let verification = check(&sample, thoroughness).await;
            let label = format!(
                "{} {:?} {} {thoroughness:?}",
                case.sample, case.code, case.path
            );
            let found: Vec<_> = verification
                .findings
                .iter()
                .filter(|f| {
                    (f.severity, f.code, f.path.as_str()) == (case.severity, case.code, case.path)
                })
                .collect();
            if thoroughness == Thoroughness::Quick && !case.is_quick {
                assert_eq!(bad(&verification), [], "{label}");
                continue;
            }
            assert_eq!(found.len(), 1, "{label}: {:#?}", verification.findings);
            assert!(
                found[0].spark.contains(case.spark),
                "{label}: {}",
                found[0].spark
            );
            let worse = bad(&verification)
                .into_iter()
                .filter(|(s, ..)| *s > case.severity);
            assert_eq!(worse.count(), 0, "{label}: {:#?}", verification.findings);
        }
    }
}

#[tokio::test]
async fn normal_leftovers_are_no_findings() {
    // Orphan deltas, temporary files, foreign files, an aborted attempt of format v2, an SST without
    // a zip, and no side files at all.
    let sample = Sample::unpack(SNAPSHOTS);
    write(&sample, "state/0/0/2.delta", "orphan, never read");
    write(&sample, "README", "x");
    write(&sample, "commits/7.bak", "x");
    write(&sample, "state/0/0/README.txt", "x");
    write(
        &sample,
        "offsets/.8.0f0f0f0f-1111-2222-3333-444444444444.tmp",
        "",
    );
    let quick = check(&sample, Thoroughness::Quick).await;
    assert_eq!(bad(&quick), []);

    let sample = Sample::unpack(FORMAT_2);
    let aborted = "state/0/0/14_00000000-0000-4000-8000-000000000000.changelog";
    fs::copy(sample.path(P1_V14), sample.path(aborted)).unwrap();
    write(
        &sample,
        "state/0/0/SSTs/000099-00000000-0000-4000-8000-000000000000.sst",
        "half",
    );
    write(&sample, "state/0/0/old.zip", "harmless in format v2");
    for thoroughness in [Thoroughness::Quick, Thoroughness::Deep] {
        assert_eq!(
            bad(&check(&sample, thoroughness).await),
            [],
            "{thoroughness:?}"
        );
    }
}

#[tokio::test]
async fn an_aggregation_without_keys_has_one_partition() {
    let sample = Sample::unpack(HDFS);
    fs::remove_dir_all(sample.path("state/0/1")).unwrap();
    fs::remove_dir_all(sample.path("state/0/2")).unwrap();
    let verification = check(&sample, Thoroughness::Quick).await;
    let found: Vec<_> = verification
        .findings
        .iter()
        .map(|f| (f.severity, f.code))
        .collect();
    assert_eq!(found, [(Severity::Note, Code::SinglePartition)]);
}

#[tokio::test]
async fn another_codec_is_not_judged() {
    let sample = Sample::unpack(HDFS);
    for batch in 0..=8 {
        let path = format!("offsets/{batch}");
        let text = fs::read_to_string(sample.path(&path)).unwrap();
        write(&sample, &path, &text.replace("\"lz4\"", "\"zstd\""));
    }
    let verification = check(&sample, Thoroughness::Deep).await;
    assert_eq!(bad(&verification), []);
    assert_eq!(verification.not_checked.len(), 27);
    assert!(verification.not_checked[0].why.contains("zstd"));
}

#[tokio::test]
async fn format_v2_in_another_codec_is_not_called_damaged() {
    let sample = Sample::unpack(FORMAT_2);
    for batch in 11..=13 {
        let path = format!("offsets/{batch}");
        let text = fs::read_to_string(sample.path(&path)).unwrap();
        write(&sample, &path, &text.replace("\"lz4\"", "\"zstd\""));
    }
    let verification = check(&sample, Thoroughness::Deep).await;
    let codes: Vec<_> = bad(&verification)
        .iter()
        .map(|(s, c, _)| (*s, *c))
        .collect();
    assert_eq!(codes, [(Severity::Warning, Code::CodecUnknown); 3]);
    assert_eq!(verification.verdict, Verdict::Remarks);
}

#[tokio::test]
async fn a_copy_in_staging_is_checked_for_its_later_place() {
    let sample = Sample::unpack("4.0.5-tws-v2-inflight-tmp");
    let home = StoragePath::parse("/data/lab/w/4.0.5/tws-v2").unwrap();
    let options = VerifyOptions {
        thoroughness: Thoroughness::Deep,
        published_at: Some(&home),
    };
    let verification = verify(&sample.storage, &sample.dir, options).await.unwrap();
    assert_eq!(
        verification.verdict,
        Verdict::Sound,
        "{:?}",
        verification.findings
    );
    fs::remove_dir_all(sample.path("state/0/_stateSchema")).unwrap();
    let verification = verify(&sample.storage, &sample.dir, options).await.unwrap();
    assert_eq!(verification.verdict, Verdict::Damaged);
    assert_eq!(verification.findings[0].code, Code::SchemaMissing);
}

#[tokio::test]
async fn a_directory_that_is_no_checkpoint_is_not_sound() {
    for (files, verdict) in [
        (&[][..], Verdict::Remarks),
        (&["checkpoint-1795153035000"], Verdict::Remarks),
        (&["part-0.parquet"], Verdict::Damaged),
    ] {
        let sample = Sample::unpack(HDFS);
        fs::remove_dir_all(sample.dir.as_str()).unwrap();
        fs::create_dir(sample.dir.as_str()).unwrap();
        for file in files {
            write(&sample, file, "x");
        }
        let verification = check(&sample, Thoroughness::Quick).await;
        assert_eq!(verification.verdict, verdict, "{files:?}");
        assert_eq!(verification.findings[0].code, Code::NotACheckpoint);
    }
}
