//! Each column of the table against what `inspect` and the plan say.

use std::collections::BTreeSet;

use jiff::Timestamp;
use stepdown::checkpoint::contents::Contents;
use stepdown::checkpoint::finding::Code;
use stepdown::checkpoint::inspect::{BatchRange, QueryState, Report, inspect};
use stepdown::checkpoint::load::load_contents;
use stepdown::checkpoint::needs::Role;
use stepdown::checkpoint::plan::{LeftOut, Plan, PlanOptions, Scope, plan_copy};
use stepdown::checkpoint::progress::{Proof, judge, load_progress};
use stepdown::checkpoint::target::At;
use stepdown::model::BatchId;

use super::samples::{Row, Sample, table};

async fn load(sample: &Sample, at: At) -> Contents {
    load_contents(&sample.storage, &sample.dir, at)
        .await
        .unwrap()
}

fn minimal(contents: &Contents, at: At) -> Plan {
    let options = PlanOptions {
        at,
        scope: Scope::Minimal,
        destination: "file:/copies/new",
        new_query_id: None,
    };
    plan_copy(contents, &options).unwrap()
}

fn number(text: &str) -> BatchId {
    BatchId(text.parse().unwrap())
}

/// `5..7`, or `0,3,7`.
fn batches(text: &str) -> Vec<BatchId> {
    match text.split_once("..") {
        Some((first, last)) => (number(first).0..=number(last).0).map(BatchId).collect(),
        None => text.split(',').map(number).collect(),
    }
}

fn range(text: &str) -> BatchRange {
    let batches = batches(text);
    BatchRange {
        first: batches.first().copied(),
        last: batches.last().copied(),
        count: batches.len() as u64,
        has_gaps: !text.contains(".."),
    }
}

fn check_report(row: &Row, report: &Report, contents: &Contents) {
    let name = row.get("archive");
    if let Some(id) = report.query_id {
        assert_eq!(id.to_string(), row.get("query id"), "{name}");
    } else {
        assert!(row.get("query id").starts_with("unreadable"), "{name}");
    }
    assert_eq!(
        report.last_planned_batch,
        Some(number(row.get("L"))),
        "{name}"
    );
    assert_eq!(
        report.last_committed_batch,
        Some(number(row.get("N"))),
        "{name}"
    );
    let state = match row.get("in flight") {
        "yes" => QueryState::InFlight,
        "no" => QueryState::Clean,
        other => panic!("{other}"),
    };
    assert_eq!(report.state, state, "{name}");
    assert_eq!(
        contents.offsets.present,
        batches(row.get("offsets present")),
        "{name}"
    );
    assert_eq!(
        contents.commits.present,
        batches(row.get("commits present")),
        "{name}"
    );
    assert_eq!(
        report.planned_batches,
        range(row.get("offsets present")),
        "{name}"
    );
    assert_eq!(
        report.committed_batches,
        range(row.get("commits present")),
        "{name}"
    );
    let provider = report.provider.as_deref().unwrap();
    let provider = provider.rsplit('.').next().unwrap();
    match row.get("provider") {
        // Its newest offset log is empty; the one before says it.
        "?" => assert_eq!(provider, "HDFSBackedStateStoreProvider", "{name}"),
        expected => assert_eq!(provider, expected, "{name}"),
    }
    assert_eq!(state_layout(report), row.get("state layout"), "{name}");
    assert_eq!(file_kinds(report), row.get("state file kinds"), "{name}");
    assert_eq!(
        versions(report),
        row.get("state versions on disk (min..max)"),
        "{name}"
    );
    check_notes(row, report, contents);
}

/// `op 0: 3 partitions x 1 store(s) ['default']`; the order of stores is not the table's.
fn state_layout(report: &Report) -> String {
    let join = [
        "left-keyToNumValues",
        "left-keyWithIndexToValue",
        "right-keyToNumValues",
        "right-keyWithIndexToValue",
    ];
    let operators: Vec<_> = report
        .operators
        .iter()
        .map(|operator| {
            let mut stores: Vec<&str> = operator.stores.iter().map(String::as_str).collect();
            stores.sort_by_key(|store| join.iter().position(|name| name == store));
            format!(
                "op {}: {} partitions x {} store(s) ['{}']",
                operator.operator,
                operator.partitions,
                stores.len(),
                stores.join("', '")
            )
        })
        .collect();
    if operators.is_empty() {
        return "no state dir".to_owned();
    }
    operators.join("; ")
}

fn file_kinds(report: &Report) -> String {
    let mut kinds = BTreeSet::new();
    for operator in &report.operators {
        let suffix = if operator.has_unique_ids {
            "(uuid)"
        } else {
            ""
        };
        for kind in operator.files.keys() {
            kinds.insert(format!("{}{suffix}", kind.suffix()));
        }
    }
    if kinds.is_empty() {
        return "-".to_owned();
    }
    kinds.into_iter().collect::<Vec<_>>().join(", ")
}

fn versions(report: &Report) -> String {
    let ranges: Vec<_> = report
        .operators
        .iter()
        .filter_map(|operator| operator.versions)
        .map(|range| format!("{}..{}", range.first, range.last))
        .collect();
    if ranges.is_empty() {
        return "-".to_owned();
    }
    ranges.join(", ")
}

/// `... sources/1: 14 entries, compact: ['9.compact']`, `tmp: a, b`.
fn check_notes(row: &Row, report: &Report, contents: &Contents) {
    let name = row.get("archive");
    let notes = row.get("notes / damage");
    let temporary: Vec<&str> = match notes.split_once("tmp: ") {
        Some((_, names)) => names.split(", ").collect(),
        None => Vec::new(),
    };
    let mut expected: Vec<String> = temporary.iter().map(|&name| name.to_owned()).collect();
    expected.sort();
    assert_eq!(report.temporary_files.paths, expected, "{name}");
    assert_eq!(
        report.temporary_files.count,
        expected.len() as u64,
        "{name}"
    );
    assert_eq!(report.foreign_files.count, 0, "{name}");
    if let Some((_, sources)) = notes.rsplit_once("sources/") {
        let (index, rest) = sources.split_once(": ").unwrap();
        let (entries, compact) = rest.split_once(" entries, compact: ").unwrap();
        let source = report.sources.iter().find(|s| s.source == index).unwrap();
        assert_eq!(serde_json::to_value(source.kind).unwrap(), "file", "{name}");
        let found: Vec<_> = contents
            .listing
            .below(&format!("sources/{index}"))
            .map(|file| file.name())
            .filter(|name| !name.starts_with('.'))
            .collect();
        assert_eq!(found.len().to_string(), entries, "{name}");
        let mut found: Vec<_> = found.iter().filter(|n| n.ends_with(".compact")).collect();
        found.sort_by_key(|name| name.len());
        assert_eq!(format!("{found:?}").replace('"', "'"), compact, "{name}");
    }
    assert_eq!(
        report.async_progress,
        notes.contains("async progress"),
        "{name}"
    );
    let other_sources = report
        .sources
        .iter()
        .filter(|source| serde_json::to_value(source.kind).unwrap() != "file");
    for source in other_sources {
        assert_eq!(
            serde_json::to_value(source.kind).unwrap(),
            "rate-micro-batch",
            "{name}"
        );
        let is_known = source.planned_offset["offset"].is_u64();
        assert_eq!(is_known, !name.contains("empty-offset"), "{name}");
    }
    let sources = match name {
        _ if notes.contains("3 sources") => 3,
        _ if name.contains("-join-") => 2,
        _ => 1,
    };
    assert_eq!(report.sources.len(), sources, "{name}");
}

/// `... pruned plan: 56 files needed (N=14)`, or `... plan impossible: ...: missing <path>`.
///
/// The table counts every entry of a file source's log, `metadata` and offsets even where they are
/// missing, and no checksums beside state files.
fn check_plan(row: &Row, plan: &Plan, report: &Report) {
    let name = row.get("archive");
    let (_, expected) = row
        .get("expected on restart")
        .split_once("pruned plan: ")
        .unwrap();
    if let Some((_, missing)) = expected.split_once("plan impossible: ValueError: missing ") {
        let paths: Vec<_> = plan.problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, [missing], "{name}");
        assert!(!report.copy.possible, "{name}");
        return;
    }
    let (files, batch) = expected.split_once(" files needed (N=").unwrap();
    assert_eq!(
        plan.target.commit,
        Some(number(batch.trim_end_matches(')'))),
        "{name}"
    );
    let needed = plan
        .files
        .iter()
        .filter(|f| f.role() != Some(Role::SideFile))
        .count();
    let compacted = plan
        .left_out
        .get(&LeftOut::CompactedLog)
        .map_or(0, |tally| tally.files);
    let is_log = |code| matches!(code, Code::MetadataMissing | Code::OffsetMissing);
    let missing = plan.problems.iter().filter(|p| is_log(p.code)).count();
    let counted = (needed + missing) as u64 + compacted;
    assert_eq!(counted.to_string(), files, "{name}");
    assert!(plan.unknown.is_empty(), "{name}");
    let is_sound = !name.contains("damaged") || name.contains("gap-in-commits");
    assert_eq!(
        plan.problems.is_empty(),
        is_sound,
        "{name}: {:?}",
        plan.problems
    );
    assert_eq!(
        report.copy.possible, is_sound,
        "{name}: {:?}",
        report.copy.because
    );
}

#[tokio::test]
async fn every_fact_of_the_table_is_found() {
    for row in table() {
        let name = row.get("archive");
        let sample = Sample::unpack(name);
        let contents = load(&sample, At::Planned).await;
        let report = inspect(&contents, Timestamp::now());
        check_report(&row, &report, &contents);
        let committed = load(&sample, At::Committed).await;
        check_plan(&row, &minimal(&committed, At::Committed), &report);
    }
}

#[tokio::test]
async fn the_proof_of_a_stop_agrees_with_the_table() {
    for row in table() {
        let name = row.get("archive");
        let sample = Sample::unpack(name);
        let progress = load_progress(&sample.storage, &sample.dir).await.unwrap();
        let (planned, committed) = (number(row.get("L")), number(row.get("N")));
        let proof = match row.get("in flight") {
            "yes" => Proof::Dirty {
                planned,
                committed: Some(committed),
            },
            _ => Proof::Clean { batch: committed },
        };
        assert_eq!(judge(&progress), proof, "{name}");
        assert!(
            progress.committed_at.is_some() && progress.planned_at.is_some(),
            "{name}"
        );
        assert_eq!(
            progress.has_offset_gaps,
            row.get("offsets present").contains(','),
            "{name}"
        );
    }
}
