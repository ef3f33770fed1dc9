//! Which copies of a checkpoint may go. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::plan::Scope;
use crate::model::BatchId;
use crate::storage::StorageUri;

/// A copy, as its manifest shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundCopy {
    /// The directory.
    pub uri: StorageUri,
    /// Its id.
    pub copy_id: Uuid,
    /// What it was made from.
    pub source: StorageUri,
    /// The copy that its source was.
    pub parent: Option<Uuid>,
    /// Its query id.
    pub query_id: Option<String>,
    /// The last planned batch in it.
    pub last_planned_batch: Option<BatchId>,
    /// The last committed batch in it.
    pub last_committed_batch: Option<BatchId>,
    /// How much of its source it has.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether it was made of a damaged source all the same: then it may not restart.
    pub forced: bool,
    /// Whether a query has planned batches in it since: then it is a checkpoint in use.
    pub in_use: bool,
}

/// Which copies stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetainPolicy {
    /// The newest so many stay.
    pub keep_last: usize,
    /// Those that are younger stay.
    pub keep_for: Duration,
}

/// Why a copy stays, or that it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It goes.
    Remove,
    /// It is the newest, or the newest that is sound, and stays whatever is asked.
    KeepNewest,
    /// It is among the newest that are kept.
    KeepLast,
    /// It is young enough.
    KeepYoung,
    /// A query uses it, or used it.
    KeepInUse,
}

/// The fate of each copy, in their order. Pure.
///
/// Copies of different sources do not count for each other. `now` and the copies' times are of the
/// hosts that made them, so an age may be wrong by the difference of their clocks.
pub fn decide_fates(copies: &[FoundCopy], policy: RetainPolicy, now: Timestamp) -> Vec<Fate> {
    copies
        .iter()
        .map(|copy| {
            // Copies of the same source that are newer, those of the same moment in a fixed order.
            let newer = copies
                .iter()
                .filter(|other| {
                    other.source == copy.source
                        && (other.created_at, other.copy_id) > (copy.created_at, copy.copy_id)
                })
                .count();
            let newest_sound = !copy.forced
                && !copies.iter().any(|other| {
                    !other.forced
                        && other.source == copy.source
                        && (other.created_at, other.copy_id) > (copy.created_at, copy.copy_id)
                });
            let age = now.duration_since(copy.created_at);
            if copy.in_use {
                Fate::KeepInUse
            } else if newer == 0 || newest_sound {
                Fate::KeepNewest
            } else if newer < policy.keep_last {
                Fate::KeepLast
            } else if Duration::try_from(age).is_ok_and(|age| age >= policy.keep_for) {
                Fate::Remove
            } else {
                Fate::KeepYoung
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(source: &str, second: i64, in_use: bool) -> FoundCopy {
        FoundCopy {
            uri: format!("/copies/{second}").parse().unwrap(),
            copy_id: Uuid::from_u128(second.unsigned_abs().into()),
            source: source.parse().unwrap(),
            parent: None,
            query_id: None,
            last_planned_batch: None,
            last_committed_batch: None,
            scope: Scope::Minimal,
            created_at: Timestamp::from_second(second).unwrap(),
            files: 1,
            bytes: 1,
            forced: false,
            in_use,
        }
    }

    #[test]
    fn the_newest_the_last_the_young_and_the_used_stay() {
        let copies = [
            copy("/a", 10, false),
            copy("/a", 20, true),
            copy("/a", 30, false),
            copy("/a", 40, false),
            copy("/a", 95, false),
            copy("/b", 5, false),
        ];
        let now = Timestamp::from_second(100).unwrap();
        let policy = RetainPolicy {
            keep_last: 2,
            keep_for: Duration::from_secs(65),
        };
        assert_eq!(
            decide_fates(&copies, policy, now),
            [
                Fate::Remove,
                Fate::KeepInUse,
                Fate::Remove,
                Fate::KeepLast,
                Fate::KeepNewest,
                Fate::KeepNewest
            ]
        );
        let none = RetainPolicy {
            keep_last: 0,
            keep_for: Duration::ZERO,
        };
        assert_eq!(decide_fates(&copies, none, now)[4], Fate::KeepNewest);
        let young = RetainPolicy {
            keep_last: 0,
            keep_for: Duration::from_secs(75),
        };
        assert_eq!(decide_fates(&copies, young, now)[2], Fate::KeepYoung);
    }
}
