//! Which files rebuild one version of one store: the rule by which Spark loads it. Pure.

use super::payload::LineageItem;
use super::stores::{Provider, Store, VersionFile};
use crate::checkpoint::listing::{EntryId, Listing};

/// What a version of a store can be rebuilt from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    /// These files, in the order of loading: a whole state (but for chains from version 1), then the
    /// changes of each version.
    Whole(Vec<VersionFile>),
    /// The first file that Spark would not find, relative to the checkpoint.
    Missing(String),
    /// Format v2: the header of this changelog must be read before the chain is known.
    NeedsHeader(EntryId),
    /// Format v2: the lineage in this changelog leads nowhere.
    Broken {
        /// The changelog.
        entry: EntryId,
        /// What is wrong with its lineage.
        why: String,
    },
}

/// The chain to `version` in format v1: the newest whole state not above it, then the changes of
/// every version after that. Version 0 is empty and needs no file.
pub fn plain_chain(listing: &Listing, store: &Store, provider: Provider, version: u64) -> Chain {
    if version == 0 {
        return Chain::Whole(Vec::new());
    }
    let base = store
        .plain_newest_first(listing, provider.base())
        .find(|file| file.version <= version);
    let from = base.map_or(0, |file| file.version);
    let mut files: Vec<_> = base.into_iter().collect();
    for version in from + 1..=version {
        match store.file(listing, version, None, provider.step()) {
            Some(file) => files.push(file),
            None => return Chain::Missing(store.path_of(version, None, provider.step())),
        }
    }
    Chain::Whole(files)
}

/// The chain to `version` in format v2, whose right files carry `unique_id`. `lineage` is what the
/// changelog of that version says, once it was read.
pub fn linked_chain(
    listing: &Listing,
    store: &Store,
    version: u64,
    unique_id: &str,
    lineage: Option<&[LineageItem]>,
) -> Chain {
    let provider = Provider::Rocksdb;
    let find = |version, id: &str, kind| store.file(listing, version, Some(id), kind);
    if let Some(zip) = find(version, unique_id, provider.base()) {
        return Chain::Whole(vec![zip]);
    }
    let Some(last) = find(version, unique_id, provider.step()) else {
        return Chain::Missing(store.path_of(version, Some(unique_id), provider.step()));
    };
    let Some(lineage) = lineage else {
        return Chain::NeedsHeader(last.entry);
    };
    let broken = |why: String| Chain::Broken {
        entry: last.entry,
        why,
    };
    let leads_here = match lineage.last() {
        Some(item) => item.version.checked_add(1) == Some(version),
        None => version == 1,
    };
    if !leads_here || lineage.first().is_some_and(|item| item.version == 0) {
        return broken(format!("its lineage does not lead to version {version}"));
    }
    let mut pairs = lineage.iter().zip(lineage.iter().skip(1));
    if !pairs.all(|(a, b)| a.version.checked_add(1) == Some(b.version)) {
        return broken("its lineage has a gap".to_owned());
    }
    let base = lineage.iter().enumerate().rev().find_map(|(at, item)| {
        let zip = find(item.version, &item.checkpoint_unique_id, provider.base())?;
        Some((at + 1, zip))
    });
    if base.is_none()
        && let Some(item) = lineage.first()
        && item.version > 1
    {
        let id = Some(item.checkpoint_unique_id.as_str());
        return Chain::Missing(store.path_of(item.version, id, provider.base()));
    }
    let (from, mut files) = base.map_or((0, Vec::new()), |(from, zip)| (from, vec![zip]));
    for item in lineage.get(from..).unwrap_or_default() {
        let id = item.checkpoint_unique_id.as_str();
        match find(item.version, id, provider.step()) {
            Some(file) => files.push(file),
            None => return Chain::Missing(store.path_of(item.version, Some(id), provider.step())),
        }
    }
    files.push(last);
    Chain::Whole(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::listing::tests::listing_of;
    use crate::checkpoint::state_store::stores::stores;

    /// The names of the chain, or `-` and the missing one.
    fn plain(files: &[&str], provider: Provider, version: u64) -> Vec<String> {
        let paths: Vec<_> = files.iter().map(|f| format!("state/0/0/{f}")).collect();
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        let listing = listing_of(&paths);
        let stores = stores(&listing);
        let absent = Store::absent(0, 0, "default");
        let store = stores.first().unwrap_or(&absent);
        names(&listing, plain_chain(&listing, store, provider, version))
    }

    fn names(listing: &Listing, chain: Chain) -> Vec<String> {
        let short = |path: &str| path.trim_start_matches("state/0/0/").to_owned();
        match chain {
            Chain::Whole(files) => files
                .iter()
                .map(|file| short(listing.get(file.entry).path))
                .collect(),
            Chain::Missing(path) => vec!["-".to_owned(), short(&path)],
            Chain::NeedsHeader(entry) => vec!["?".to_owned(), short(listing.get(entry).path)],
            Chain::Broken { why, .. } => vec!["!".to_owned(), why],
        }
    }

    #[test]
    fn chains_of_format_v1() {
        use Provider::{Hdfs, Rocksdb};
        for (files, provider, version, chain) in [
            (
                &["1.delta", "2.delta"][..],
                Hdfs,
                2,
                &["1.delta", "2.delta"][..],
            ),
            (&[], Hdfs, 0, &[]),
            (&[], Hdfs, 3, &["-", "1.delta"]),
            (&[], Rocksdb, 3, &["-", "1.changelog"]),
            // An orphan delta below the snapshot, and a newer snapshot above the version.
            (
                &[
                    "9.delta",
                    "13.delta",
                    "13.snapshot",
                    "14.delta",
                    "15.delta",
                    "15.snapshot",
                ],
                Hdfs,
                14,
                &["13.snapshot", "14.delta"],
            ),
            (&["8.snapshot", "10.delta"], Hdfs, 10, &["-", "9.delta"]),
            (&["7.zip", "8.zip"], Rocksdb, 8, &["8.zip"]),
            // Plain and changelog mode mixed in one store.
            (
                &["4.zip", "5.changelog", "6.changelog"],
                Rocksdb,
                6,
                &["4.zip", "5.changelog", "6.changelog"],
            ),
            // A missing zip of the plain mode is reported as a missing changelog.
            (&["7.zip"], Rocksdb, 8, &["-", "8.changelog"]),
            // Files of the other provider or with unique ids are not used.
            (&["8.zip", "8_u.zip"], Hdfs, 8, &["-", "1.delta"]),
            (
                &["8_u.zip", "8_u.changelog"],
                Rocksdb,
                8,
                &["-", "1.changelog"],
            ),
        ] {
            assert_eq!(
                plain(files, provider, version),
                chain,
                "{files:?} {version}"
            );
        }
        assert_eq!(plain(&[], Hdfs, u64::MAX), ["-", "1.delta"]);
    }

    fn linked(
        files: &[&str],
        version: u64,
        id: &str,
        lineage: Option<&[(u64, &str)]>,
    ) -> Vec<String> {
        let paths: Vec<_> = files.iter().map(|f| format!("state/0/0/{f}")).collect();
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        let listing = listing_of(&paths);
        let lineage: Option<Vec<_>> = lineage.map(|items| {
            items
                .iter()
                .map(|(version, id)| LineageItem {
                    version: *version,
                    checkpoint_unique_id: (*id).to_owned(),
                })
                .collect()
        });
        let chain = linked_chain(
            &listing,
            &stores(&listing)[0],
            version,
            id,
            lineage.as_deref(),
        );
        names(&listing, chain)
    }

    #[test]
    fn chains_of_format_v2() {
        let files = &[
            "1_a.changelog",
            "2_b.changelog",
            "2_b.zip",
            "2_x.zip",
            "3_c.changelog",
            "3_y.changelog",
            "4_d.changelog",
            "5_e.zip",
        ];
        let to_3: &[_] = &[(1, "a"), (2, "b"), (3, "c")];
        for (version, id, lineage, chain) in [
            (5, "e", None, &["5_e.zip"][..]),
            (4, "d", None, &["?", "4_d.changelog"]),
            (
                4,
                "d",
                Some(to_3),
                &["2_b.zip", "3_c.changelog", "4_d.changelog"],
            ),
            (4, "z", Some(to_3), &["-", "4_z.changelog"]),
            (1, "a", Some(&[]), &["1_a.changelog"]),
            (3, "y", Some(&[(1, "a"), (2, "q")]), &["-", "2_q.changelog"]),
            (4, "d", Some(&[(2, "q"), (3, "c")]), &["-", "2_q.zip"]),
            (
                4,
                "d",
                Some(&[(1, "a"), (3, "c")]),
                &["!", "its lineage has a gap"],
            ),
            (
                4,
                "d",
                Some(&[(1, "a"), (2, "b")]),
                &["!", "its lineage does not lead to version 4"],
            ),
            (
                4,
                "d",
                Some(&[(0, "a"), (3, "c")]),
                &["!", "its lineage does not lead to version 4"],
            ),
        ] {
            assert_eq!(linked(files, version, id, lineage), chain, "{version} {id}");
        }
        let huge = [(u64::MAX, "a"), (u64::MAX, "b")];
        assert!(linked(files, 4, "d", Some(&huge))[0] == "!");
    }

    #[test]
    fn a_first_version_without_lineage_needs_nothing_else() {
        assert_eq!(
            linked(&["1_a.changelog"], 1, "a", Some(&[])),
            ["1_a.changelog"]
        );
        assert_eq!(linked(&["9_e.changelog"], 9, "e", Some(&[]))[0], "!");
    }
}
