//! The state stores of a checkpoint and the versions that lie in them, from the listing. Pure.

use std::collections::HashMap;

use serde::Serialize;

use crate::checkpoint::layout::{DEFAULT_STORE, PathKind, StateFile, VersionKind, classify};
use crate::checkpoint::listing::{EntryId, Listed, Listing};

/// Who wrote the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// `HDFSBackedStateStoreProvider`: deltas and snapshots.
    Hdfs,
    /// `RocksDBStateStoreProvider`: zips, SSTs and changelogs.
    Rocksdb,
}

impl Provider {
    /// The provider with this class name; `None` for one that stepdown does not know.
    pub fn of_class(class: &str) -> Option<Self> {
        match class.rsplit('.').next() {
            Some("HDFSBackedStateStoreProvider") => Some(Provider::Hdfs),
            Some("RocksDBStateStoreProvider") => Some(Provider::Rocksdb),
            _ => None,
        }
    }

    /// The provider that writes such files.
    pub fn of_kind(kind: VersionKind) -> Self {
        match kind {
            VersionKind::Delta | VersionKind::Snapshot => Provider::Hdfs,
            VersionKind::Changelog | VersionKind::Zip => Provider::Rocksdb,
        }
    }

    /// The files that hold a whole state.
    pub fn base(self) -> VersionKind {
        match self {
            Provider::Hdfs => VersionKind::Snapshot,
            Provider::Rocksdb => VersionKind::Zip,
        }
    }

    /// The files that hold the changes of one version.
    pub fn step(self) -> VersionKind {
        match self {
            Provider::Hdfs => VersionKind::Delta,
            Provider::Rocksdb => VersionKind::Changelog,
        }
    }
}

/// A file that leads to a version of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VersionFile {
    /// The version.
    pub version: u64,
    /// What it holds.
    pub kind: VersionKind,
    /// Where it stands in the listing.
    pub entry: EntryId,
}

/// One state store: of one operator, for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Operator.
    pub operator: u32,
    /// Partition.
    pub partition: u32,
    /// Name.
    pub name: String,
    /// Its files with a version, by version.
    pub files: Vec<VersionFile>,
}

impl Store {
    /// A store of which nothing is there.
    pub fn absent(operator: u32, partition: u32, name: &str) -> Self {
        Self {
            operator,
            partition,
            name: name.to_owned(),
            files: Vec::new(),
        }
    }

    /// The directory of the store, relative to the checkpoint.
    pub fn dir(&self) -> String {
        let Self {
            operator,
            partition,
            name,
            ..
        } = self;
        if name == DEFAULT_STORE {
            format!("state/{operator}/{partition}")
        } else {
            format!("state/{operator}/{partition}/{name}")
        }
    }

    /// The path that a file of this store has, whether it is there or not.
    pub fn path_of(&self, version: u64, unique_id: Option<&str>, kind: VersionKind) -> String {
        let dir = self.dir();
        let suffix = kind.suffix();
        match unique_id {
            Some(id) => format!("{dir}/{version}_{id}.{suffix}"),
            None => format!("{dir}/{version}.{suffix}"),
        }
    }

    /// The file of one version and kind with this unique id (format v2), or without any (v1).
    pub fn file(
        &self,
        listing: &Listing,
        version: u64,
        unique_id: Option<&str>,
        kind: VersionKind,
    ) -> Option<VersionFile> {
        let from = self
            .files
            .partition_point(|file| (file.version, file.kind) < (version, kind));
        self.files
            .get(from..)?
            .iter()
            .take_while(|file| (file.version, file.kind) == (version, kind))
            .find(|file| unique_id_of(listing, file.entry) == unique_id)
            .copied()
    }

    /// The files of a kind without a unique id, newest first.
    pub fn plain_newest_first<'a>(
        &'a self,
        listing: &'a Listing,
        kind: VersionKind,
    ) -> impl Iterator<Item = VersionFile> + 'a {
        self.files
            .iter()
            .rev()
            .filter(move |file| file.kind == kind)
            .filter(|file| unique_id_of(listing, file.entry).is_none())
            .copied()
    }
}

/// The unique id in the name of a state file.
pub fn unique_id_of(listing: &Listing, entry: EntryId) -> Option<&str> {
    if let PathKind::State(path) = classify(listing.get(entry).path)
        && let StateFile::Version { unique_id, .. } = path.file
    {
        unique_id
    } else {
        None
    }
}

/// All stores that a listing shows, by operator, partition and name.
pub fn stores(listing: &Listing) -> Vec<Store> {
    let mut stores: Vec<Store> = Vec::new();
    let mut known: HashMap<(u32, u32, &str), usize> = HashMap::new();
    for entry in listing.below("state").filter(Listed::is_file) {
        let PathKind::State(path) = classify(entry.path) else {
            continue;
        };
        let (operator, partition, name) = (path.operator, path.partition, path.store);
        let at = *known.entry((operator, partition, name)).or_insert_with(|| {
            stores.push(Store::absent(operator, partition, name));
            stores.len() - 1
        });
        if let StateFile::Version { version, kind, .. } = path.file
            && let Some(store) = stores.get_mut(at)
        {
            store.files.push(VersionFile {
                version,
                kind,
                entry: entry.id,
            });
        }
    }
    for store in &mut stores {
        store.files.sort_unstable();
        store.files.shrink_to_fit();
    }
    stores.sort_by(|a, b| {
        (a.operator, a.partition, &a.name).cmp(&(b.operator, b.partition, &b.name))
    });
    stores
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::listing::tests::listing_of;

    #[test]
    fn providers_are_known_by_class_and_by_files() {
        for (class, provider) in [
            (
                "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider",
                Some(Provider::Hdfs),
            ),
            ("x.RocksDBStateStoreProvider", Some(Provider::Rocksdb)),
            ("com.acme.OwnProvider", None),
            ("", None),
        ] {
            assert_eq!(Provider::of_class(class), provider, "{class}");
        }
        assert_eq!(Provider::of_kind(VersionKind::Zip), Provider::Rocksdb);
    }

    #[test]
    fn stores_are_found_with_their_versions_in_order() {
        let listing = listing_of(&[
            "state/0/10/8.delta",
            "state/0/2/10.delta",
            "state/0/2/9.delta",
            "state/0/2/9.snapshot",
            "state/0/2/_metadata/schema",
            "state/0/2/README",
            "state/1/0/left/1_a.changelog",
            "state/1/0/left/1_b.changelog",
            "state/1/0/2.delta",
            "state/1/0/x.delta/",
            "offsets/3",
        ]);
        let stores = stores(&listing);
        let names: Vec<_> = stores
            .iter()
            .map(|s| (s.operator, s.partition, s.name.as_str(), s.files.len()))
            .collect();
        assert_eq!(
            names,
            [
                (0, 2, "default", 3),
                (0, 10, "default", 1),
                (1, 0, "default", 1),
                (1, 0, "left", 2)
            ]
        );
        let versions: Vec<_> = stores[0].files.iter().map(|f| f.version).collect();
        assert_eq!(versions, [9, 9, 10]);
        let left = &stores[3];
        assert!(
            left.file(&listing, 1, Some("b"), VersionKind::Changelog)
                .is_some()
        );
        assert!(
            left.file(&listing, 1, Some("c"), VersionKind::Changelog)
                .is_none()
        );
        assert!(
            left.file(&listing, 1, None, VersionKind::Changelog)
                .is_none()
        );
        assert_eq!(
            left.path_of(2, Some("u"), VersionKind::Zip),
            "state/1/0/left/2_u.zip"
        );
        assert_eq!(
            stores[0].path_of(2, None, VersionKind::Delta),
            "state/0/2/2.delta"
        );
    }
}
