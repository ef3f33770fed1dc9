//! What `inspect` reports as JSON, and of directories that are something else.

use jiff::Timestamp;
use serde_json::{Value, json};
use stepdown::checkpoint::inspect::{QueryState, Report, inspect};
use stepdown::checkpoint::layout::DirectoryKind;
use stepdown::checkpoint::load::load_contents;
use stepdown::checkpoint::target::At;
use stepdown::storage::StoragePath;
use stepdown::storage::memory::MemoryStorage;

use super::samples::Sample;

async fn report_of(files: &[(&str, &str)]) -> Report {
    let storage = MemoryStorage::new("m");
    storage.set_clock("2026-11-20T10:00:00Z".parse().unwrap());
    for (path, content) in files {
        let path = StoragePath::parse(&format!("/ck/{path}")).unwrap();
        storage.put(&path, (*content).to_owned()).unwrap();
    }
    let dir = StoragePath::parse("/ck").unwrap();
    let contents = load_contents(&storage, &dir, At::Planned).await.unwrap();
    inspect(&contents, "2026-11-20T10:30:00Z".parse().unwrap())
}

/// The JSON of a sample, without what differs from run to run.
async fn json_of(name: &str) -> Value {
    let sample = Sample::unpack(name);
    let contents = load_contents(&sample.storage, &sample.dir, At::Planned)
        .await
        .unwrap();
    let report = inspect(&contents, Timestamp::now());
    let mut json = serde_json::to_value(&report).unwrap();
    for field in [
        "uri",
        "committed_at",
        "committed_seconds_ago",
        "changed_at",
        "looks_live",
    ] {
        assert!(!json[field].is_null(), "{field}");
        json[field] = Value::from("...");
    }
    json
}

#[tokio::test]
async fn the_json_of_inspect_is_a_contract() {
    let clean = json_of("4.3.0-agg-v2-clean").await;
    insta::assert_snapshot!(
        "inspect-clean",
        serde_json::to_string_pretty(&clean).unwrap()
    );
    let damaged = json_of("3.5.9-agg-hdfs-damaged-missing-delta").await;
    insta::assert_snapshot!(
        "inspect-damaged",
        serde_json::to_string_pretty(&damaged).unwrap()
    );
}

const OFFSETS: &str = concat!(
    "v1\n{\"batchWatermarkMs\":1767225710000,\"batchTimestampMs\":1,\"conf\":{}}\n",
    "{\"clicks\":{\"0\":123,\"1\":456}}\n-\n8\n{\"reservoirId\":\"x\",\"index\":-1}"
);

#[tokio::test]
async fn sources_are_told_apart_by_their_offsets_and_logs() {
    let report = report_of(&[
        (
            "metadata",
            "{\"id\":\"c77e8c68-28a9-4bfb-877a-e29b6987550f\"}",
        ),
        ("offsets/0", OFFSETS),
        ("offsets/1", &OFFSETS.replace("456", "999")),
        ("commits/0", "v1\n{\"nextBatchWatermarkMs\":0}"),
        ("sources/0/0", "\0v1\n{\"clicks\":{\"0\":0,\"1\":0}}"),
        ("sources/2/0", "v1\n1795153035831"),
    ])
    .await;
    assert_eq!(report.state, QueryState::InFlight);
    assert_eq!(report.watermark_ms, Some(1_767_225_710_000));
    let kinds: Vec<_> = report
        .sources
        .iter()
        .map(|source| serde_json::to_value(source.kind).unwrap())
        .collect();
    assert_eq!(kinds, ["kafka", "none", "rate", "json"]);
    let kafka = &report.sources[0];
    assert_eq!(
        kafka.planned_offset,
        json!({"clicks": {"0": 123, "1": 999}})
    );
    assert_eq!(
        kafka.committed_offset,
        json!({"clicks": {"0": 123, "1": 456}})
    );
    assert_eq!(report.sources[1].planned_offset, Value::Null);
    assert!(report.copy.possible, "{:?}", report.copy.because);
    assert_eq!(report.copy.minimal.files, 6);
    let ago = report.committed_seconds_ago.unwrap();
    assert!((1790..=1800).contains(&ago), "{ago}");
    assert!(!report.looks_live);
}

#[tokio::test]
async fn other_directories_are_recognised() {
    for (files, kind, state, possible) in [
        (
            &[
                ("checkpoint-1795153035000", "x"),
                ("receivedData/0/log-1-2", "x"),
            ][..],
            DirectoryKind::DStreams,
            QueryState::NotAQuery,
            "DStreams",
        ),
        (
            &[("part-0.parquet", "x"), ("_spark_metadata/0", "v1")],
            DirectoryKind::FileSink,
            QueryState::NotAQuery,
            "not a checkpoint",
        ),
        (
            &[("clicks/metadata", "x")],
            DirectoryKind::Foreign,
            QueryState::NotAQuery,
            "not a checkpoint",
        ),
        (
            &[(".hidden", "x")],
            DirectoryKind::Empty,
            QueryState::Empty,
            "never ran",
        ),
    ] {
        let report = report_of(files).await;
        assert_eq!((report.kind, report.state), (kind, state));
        assert!(!report.copy.possible);
        assert!(
            report.copy.because[0].contains(possible),
            "{:?}",
            report.copy.because
        );
        assert_eq!(report.files, files.len() as u64);
        assert_eq!(report.findings, []);
    }
}

#[tokio::test]
async fn a_new_checkpoint_is_empty_and_can_be_copied() {
    let report = report_of(&[(
        "metadata",
        "{\"id\":\"c77e8c68-28a9-4bfb-877a-e29b6987550f\"}",
    )])
    .await;
    assert_eq!(report.state, QueryState::Empty);
    assert_eq!(report.findings, []);
    assert!(report.copy.possible);
    assert_eq!(report.copy.minimal.files, 1);
}
