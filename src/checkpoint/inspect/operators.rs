//! The stateful operators of a query and their files.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::checkpoint::contents::Contents;
use crate::checkpoint::layout::{PathKind, StateFile, VersionKind, classify};
use crate::checkpoint::listing::Listed;
use crate::checkpoint::needs::Needs;
use crate::checkpoint::plan::Tally;
use crate::checkpoint::state_store::stores::unique_id_of;

/// One stateful operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorReport {
    /// Number of the operator.
    pub operator: u32,
    /// Its name, where its metadata say it (4.0 and later).
    pub name: Option<String>,
    /// Partitions that are there.
    pub partitions: u32,
    /// Partitions that its metadata, or the pinned configuration, name.
    pub expected_partitions: Option<u32>,
    /// Names of its stores.
    pub stores: Vec<String>,
    /// Files by kind.
    pub files: BTreeMap<VersionKind, Tally>,
    /// SSTs and logs of RocksDB.
    pub data: Tally,
    /// Whether the files carry unique ids (format v2).
    pub has_unique_ids: bool,
    /// The versions on disk.
    pub versions: Option<VersionRange>,
    /// What the next batch loads; nothing if a chain is not whole.
    pub chain: Tally,
    /// The longest chain of one store, in files.
    pub longest_chain: u64,
    /// Stores whose chain is not whole.
    pub broken_stores: u64,
}

/// The oldest and the newest version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VersionRange {
    /// The oldest.
    pub first: u64,
    /// The newest.
    pub last: u64,
}

pub(super) fn report_operators(contents: &Contents, needs: &Needs) -> Vec<OperatorReport> {
    let mut operators: BTreeSet<u32> = contents.stores.iter().map(|s| s.operator).collect();
    operators.extend(needs.stores.iter().map(|s| s.operator));
    operators
        .into_iter()
        .map(|operator| report_operator(contents, needs, operator))
        .collect()
}

fn report_operator(contents: &Contents, needs: &Needs, operator: u32) -> OperatorReport {
    let listing = &contents.listing;
    let metadata = contents.operator(operator);
    let by_conf = || {
        let (_, log) = contents.offsets.newest_content()?;
        log.metadata.as_ref()?.shuffle_partitions()
    };
    let mut report = OperatorReport {
        operator,
        name: metadata.map(|metadata| metadata.name.clone()),
        partitions: 0,
        expected_partitions: metadata
            .and_then(|metadata| Some(metadata.stores.first()?.num_partitions))
            .or_else(by_conf),
        stores: Vec::new(),
        files: BTreeMap::new(),
        data: Tally::default(),
        has_unique_ids: false,
        versions: None,
        chain: Tally::default(),
        longest_chain: 0,
        broken_stores: 0,
    };
    let mut partitions = BTreeSet::new();
    let mut names = BTreeSet::new();
    for store in contents.stores.iter().filter(|s| s.operator == operator) {
        partitions.insert(store.partition);
        names.insert(store.name.as_str());
        for file in &store.files {
            let len_bytes = listing.get(file.entry).len_bytes;
            report.files.entry(file.kind).or_default().add(len_bytes);
            report.has_unique_ids |= unique_id_of(listing, file.entry).is_some();
            let range = report.versions.get_or_insert(VersionRange {
                first: file.version,
                last: file.version,
            });
            range.first = range.first.min(file.version);
            range.last = range.last.max(file.version);
        }
    }
    for file in listing
        .below(&format!("state/{operator}"))
        .filter(Listed::is_file)
    {
        if let PathKind::State(path) = classify(file.path)
            && let StateFile::Sst(_) | StateFile::RocksLog(_) = path.file
        {
            report.data.add(file.len_bytes);
        }
    }
    for store in needs.stores.iter().filter(|s| s.operator == operator) {
        if store.chain.is_empty() {
            report.broken_stores += 1;
        }
        report.longest_chain = report.longest_chain.max(store.chain.len() as u64);
        for entry in store.chain.iter().chain(&store.data) {
            report.chain.add(listing.get(*entry).len_bytes);
        }
    }
    report.partitions = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
    report.stores = names.into_iter().map(str::to_owned).collect();
    report
}
