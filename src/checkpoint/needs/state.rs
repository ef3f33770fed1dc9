//! `state/`: for every store of every partition of every operator, what rebuilds the version.

use std::collections::{BTreeMap, BTreeSet};

use super::{Needs, Role, StoreNeed, Unread};
use crate::checkpoint::contents::Contents;
use crate::checkpoint::finding::{Code, Finding, Severity};
use crate::checkpoint::layout::{DEFAULT_STORE, PathKind, VersionKind, classify};
use crate::checkpoint::listing::{EntryId, Listed};
use crate::checkpoint::log::StateIds;
use crate::checkpoint::state_store::chain::{Chain, linked_chain, plain_chain};
use crate::checkpoint::state_store::rocksdb::{RocksFile, ZipDamage};
use crate::checkpoint::state_store::stores::{Provider, Store};
use crate::checkpoint::target::Target;

/// The stores of a stream-stream join, in the order of their ids in a commit of version 2.
const JOIN_STORES: [&str; 4] = [
    "left-keyToNumValues",
    "left-keyWithIndexToValue",
    "right-keyToNumValues",
    "right-keyWithIndexToValue",
];

pub(super) fn add_state(contents: &Contents, target: &Target, needs: &mut Needs) {
    if target.state_version == 0 {
        return;
    }
    let commit = target
        .commit
        .and_then(|batch| contents.commits.content(batch));
    let ids = commit.and_then(|commit| commit.state_ids.as_ref());
    if contents.is_stateless() && ids.is_none_or(|ids| ids.operators().next().is_none()) {
        return;
    }
    let Some(provider) = contents.provider() else {
        needs.findings.push(unknown_provider(contents));
        return;
    };
    super::schemas::add_schemas(contents, target, needs);
    let mut operators: BTreeMap<u32, Vec<&Store>> = BTreeMap::new();
    for store in &contents.stores {
        operators.entry(store.operator).or_default().push(store);
    }
    for operator in ids.iter().flat_map(|ids| ids.operators()) {
        operators.entry(operator).or_default();
    }
    for entry in contents.operators.keys() {
        if let PathKind::OperatorMetadata { operator, .. } =
            classify(contents.listing.get(*entry).path)
        {
            operators.entry(operator).or_default();
        }
    }
    for (operator, stores) in operators {
        let loader = Loader {
            contents,
            version: target.state_version,
            provider,
            ids,
            operator,
        };
        loader.add_operator(&stores, needs);
    }
}

fn unknown_provider(contents: &Contents) -> Finding {
    let class = contents.provider_class().unwrap_or("not recorded");
    Finding::damage(Code::ProviderUnknown, "state")
        .with_severity(Severity::Warning)
        .expected("a state store provider that stepdown knows: HDFS-backed or RocksDB")
        .found(class)
        .spark("not known: which files the provider needs was not checked")
}

struct Loader<'a> {
    contents: &'a Contents,
    version: u64,
    provider: Provider,
    ids: Option<&'a StateIds>,
    operator: u32,
}

impl Loader<'_> {
    fn add_operator(&self, stores: &[&Store], needs: &mut Needs) {
        let metadata = self.contents.operator(self.operator);
        let mut names: BTreeSet<&str> = stores.iter().map(|store| store.name.as_str()).collect();
        if names.is_empty() {
            let recorded = metadata.into_iter().flat_map(|m| &m.stores);
            names.extend(recorded.map(|store| store.store_name.as_str()));
        }
        if names.is_empty() {
            names.insert(DEFAULT_STORE);
        }
        let there = stores.iter().map(|store| store.partition);
        let there = there.max().map_or(0, |last| last.saturating_add(1));
        let expected = self.partitions(stores, there, needs);
        if expected > there {
            needs
                .findings
                .push(self.missing_partitions(there, expected, &names));
        }
        let mut at = stores.iter().peekable();
        for partition in 0..expected.min(there) {
            for name in &names {
                // Both go by partition and name.
                let found = at.next_if(|s| (s.partition, s.name.as_str()) == (partition, name));
                let absent = Store::absent(self.operator, partition, name);
                self.add_store(found.copied().unwrap_or(&absent), &names, needs);
            }
        }
    }

    /// The number of partitions that a restart loads.
    fn partitions(&self, stores: &[&Store], there: u32, needs: &mut Needs) -> u32 {
        let by_ids = self.ids.map(|ids| ids.partitions(self.operator));
        if let Some(of_operator) = by_ids {
            return of_operator.map_or(there, |count| u32::try_from(count).unwrap_or(u32::MAX));
        }
        let metadata = self.contents.operator(self.operator);
        let by_metadata = metadata
            .and_then(|m| m.stores.first())
            .map(|s| s.num_partitions);
        let by_conf = || {
            let (_, log) = self.contents.offsets.newest_content()?;
            log.metadata.as_ref()?.shuffle_partitions()
        };
        let Some(expected) = by_metadata.or_else(by_conf) else {
            return there;
        };
        let has_only_first = !stores.is_empty() && stores.iter().all(|s| s.partition == 0);
        if has_only_first && expected > 1 {
            let path = format!("state/{}", self.operator);
            needs.findings.push(
                Finding::damage(Code::SinglePartition, path)
                    .with_severity(Severity::Note)
                    .expected(format!(
                        "{expected} partitions, or one for an aggregation without keys"
                    ))
                    .found("partition 0 only")
                    .spark("an aggregation without keys starts; any other operator fails"),
            );
            return 1;
        }
        expected
    }

    fn missing_partitions(&self, there: u32, expected: u32, names: &BTreeSet<&str>) -> Finding {
        let operator = self.operator;
        let name = names.first().copied().unwrap_or(DEFAULT_STORE);
        let first = Store::absent(operator, there, name);
        let path = first.path_of(1, None, self.provider.step());
        Finding::damage(Code::PartitionsMissing, format!("state/{operator}/{there}"))
            .expected(format!(
                "partitions 0 to {} of operator {operator}",
                expected - 1
            ))
            .found(match there {
                0 => "no partition".to_owned(),
                _ => format!("partitions 0 to {}", there - 1),
            })
            .spark(match there {
                0 => format!(
                    "the query fails: {}; 4.3: STREAMING_STATEFUL_OPERATOR_MISSING_STATE_DIRECTORY",
                    missing_in_spark(&path, self.provider)
                ),
                _ => format!(
                    "the query fails: {}",
                    missing_in_spark(&path, self.provider)
                ),
            })
    }

    fn add_store(&self, store: &Store, names: &BTreeSet<&str>, needs: &mut Needs) {
        let listing = &self.contents.listing;
        let chain = match self.ids {
            None => plain_chain(listing, store, self.provider, self.version),
            Some(ids) => match unique_id(ids, store, names) {
                Ok(id) => self.linked(store, id),
                Err(found) => {
                    needs.findings.push(no_id(store, &found));
                    return;
                }
            },
        };
        let mut need = StoreNeed {
            operator: store.operator,
            partition: store.partition,
            name: store.name.clone(),
            chain: Vec::new(),
            data: Vec::new(),
        };
        match chain {
            Chain::Whole(files) => {
                for file in &files {
                    needs.add(Role::State, file.entry);
                    need.chain.push(file.entry);
                }
                if let Some(zip) = files.first().filter(|file| file.kind == VersionKind::Zip) {
                    need.data = self.add_zip(store, zip.entry, needs);
                }
            }
            Chain::Missing(path) => {
                let spark = format!(
                    "the query fails: {}",
                    missing_in_spark(&path, self.provider)
                );
                needs.findings.push(
                    Finding::damage(Code::StateMissing, path)
                        .expected(format!(
                            "a file that rebuilds version {} of the state",
                            self.version
                        ))
                        .found("no such file")
                        .spark(spark),
                );
            }
            Chain::NeedsHeader(entry) if self.contents.is_lz4() => {
                needs.unread.push(Unread::Header(entry));
            }
            Chain::NeedsHeader(entry) => {
                let codec = self.contents.codec();
                needs.add(Role::State, entry);
                needs.findings.push(
                    Finding::damage(Code::CodecUnknown, listing.get(entry).path)
                        .with_severity(Severity::Warning)
                        .expected("lz4, the codec that stepdown reads")
                        .found(codec)
                        .spark("not known: which files the version needs was not checked"),
                );
            }
            Chain::Broken { entry, why } => {
                let path = listing.get(entry).path;
                needs.findings.push(state_damage(path, &why));
            }
        }
        needs.stores.push(need);
    }

    fn linked(&self, store: &Store, id: &str) -> Chain {
        let listing = &self.contents.listing;
        let chain = linked_chain(listing, store, self.version, id, None);
        let Chain::NeedsHeader(entry) = chain else {
            return chain;
        };
        match self.contents.headers.get(&entry) {
            None => chain,
            Some(Ok(header)) => {
                linked_chain(listing, store, self.version, id, Some(&header.lineage))
            }
            Some(Err(why)) => Chain::Broken {
                entry,
                why: why.to_string(),
            },
        }
    }

    /// The files that a zip names.
    fn add_zip(&self, store: &Store, zip: EntryId, needs: &mut Needs) -> Vec<EntryId> {
        let path = self.contents.listing.get(zip).path;
        let metadata = match self.contents.zips.get(&zip) {
            None => {
                needs.unread.push(Unread::Zip(zip));
                return Vec::new();
            }
            Some(Err(damage @ ZipDamage::TooLarge { .. })) => {
                needs.findings.push(
                    Finding::damage(Code::StateUnread, path)
                        .with_severity(Severity::Warning)
                        .expected("a zip of some KiB")
                        .found(damage.to_string())
                        .spark("not known: which SSTs it names was not checked"),
                );
                return Vec::new();
            }
            Some(Err(damage)) => {
                needs.findings.push(zip_damage(path, damage));
                return Vec::new();
            }
            Some(Ok(metadata)) => metadata,
        };
        let dir = store.dir();
        let ssts = metadata.ssts.iter().map(|file| ("SSTs", file));
        let logs = metadata.logs.iter().map(|file| ("logs", file));
        let mut data = Vec::new();
        for (below, file) in ssts.chain(logs) {
            let data_path = format!("{dir}/{below}/{}", file.name);
            match self.contents.listing.find(&data_path) {
                None => needs.findings.push(missing_data(&data_path, path, file)),
                Some(found) => {
                    needs.add(Role::StateData, found.id);
                    data.push(found.id);
                    if found.len_bytes != file.len_bytes {
                        needs.findings.push(wrong_length(&found, path, file));
                    }
                }
            }
        }
        data
    }
}

fn unique_id<'a>(
    ids: &'a StateIds,
    store: &Store,
    names: &BTreeSet<&str>,
) -> Result<&'a str, String> {
    let of_stores = ids
        .stores(store.operator, store.partition)
        .ok_or_else(|| "no id for this partition".to_owned())?;
    let at = match (of_stores.len(), names.len()) {
        (1, 1) => Some(0),
        (4, _) => JOIN_STORES.iter().position(|name| *name == store.name),
        _ => None,
    };
    let id = at.and_then(|at| of_stores.get(at));
    id.map(String::as_str)
        .ok_or_else(|| format!("{} ids for {} stores", of_stores.len(), names.len()))
}

fn no_id(store: &Store, found: &str) -> Finding {
    Finding::damage(Code::CommitDamaged, store.dir())
        .expected("one id for each store in stateUniqueIds of the newest commit")
        .found(found)
        .spark("the query fails: the state files of the version are not found")
}

fn state_damage(path: &str, why: &str) -> Finding {
    Finding::damage(Code::StateDamaged, path)
        .expected("a whole state file")
        .found(why)
        .spark(
            "the query fails when it loads the partition (4.x: \
             CANNOT_LOAD_STATE_STORE.UNCATEGORIZED)",
        )
}

/// The finding for a damaged zip.
pub(crate) fn zip_damage(path: &str, damage: &ZipDamage) -> Finding {
    state_damage(path, &damage.to_string())
        .expected("a zip with CURRENT, MANIFEST, OPTIONS and metadata")
        .spark(
            "the query fails: Unexpected end of ZLIB input stream, or a ZipException (4.x: \
             CANNOT_LOAD_STATE_STORE.UNCATEGORIZED)",
        )
}

fn missing_in_spark(path: &str, provider: Provider) -> String {
    match provider {
        Provider::Hdfs => format!(
            "Error reading delta file .../{path} ... does not exist (4.x: \
             CANNOT_LOAD_STATE_STORE.CANNOT_READ_DELTA_FILE_NOT_EXISTS)"
        ),
        Provider::Rocksdb => format!(
            "Error reading streaming state file of .../{path} does not exist (4.x: \
             CANNOT_LOAD_STATE_STORE.CANNOT_READ_STREAMING_STATE_FILE)"
        ),
    }
}

fn missing_data(path: &str, zip: &str, file: &RocksFile) -> Finding {
    Finding::damage(Code::SstMissing, path)
        .expected(format!(
            "a file of {} bytes, which {zip} names",
            file.len_bytes
        ))
        .found("no such file")
        .spark(format!(
            "the query fails: FileNotFoundException: File .../{path} does not exist"
        ))
}

fn wrong_length(found: &Listed<'_>, zip: &str, file: &RocksFile) -> Finding {
    Finding::damage(Code::SstLength, found.path)
        .expected(format!("{} bytes, as {zip} says", file.len_bytes))
        .found(format!("{} bytes", found.len_bytes))
        .spark("the query fails: the copied file has another size than its metadata say")
}
