//! Checkpoints that a copy has moved aside, and which of them may go.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::CheckpointError;
use super::copies::{remove_at_once, remove_leftovers};
use super::load::present;
use super::manifest::Manifest;
use super::retain::Fate;
use crate::storage::{Depth, ErrorKind, FileKind, Storage, StorageError, StoragePath, StorageUri};

/// In the name of a directory that was moved aside, before the time and a piece of the copy's id.
pub(super) const REPLACED: &str = ".stepdown-replaced-";

/// The form of the time.
pub(super) const STAMP: &str = "%Y%m%dT%H%M%SZ";

/// A checkpoint that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replaced {
    /// Where it is now.
    pub uri: StorageUri,
    /// When it was moved aside, by the clock of the host that did it, to the second.
    pub replaced_at: Timestamp,
    /// Whether it was a verified copy itself, by its manifest.
    pub is_copy: bool,
}

/// When a directory of this name was moved aside from `place`; `None` for all other names.
fn replaced_at(name: &str, place: &str) -> Option<Timestamp> {
    let (stamp, id) = name
        .strip_prefix(place)?
        .strip_prefix(REPLACED)?
        .split_once('-')?;
    // One whose removal has begun is another name's beginning.
    if !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let time = DateTime::strptime(STAMP, stamp).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The fate of each of those that were moved aside from one place, oldest first. Pure.
///
/// The newest stays whatever is asked, and so does the newest that was a verified copy.
pub fn decide_replaced(found: &[Replaced], keep: Duration, now: Timestamp) -> Vec<Fate> {
    let newest_copy = found.iter().rposition(|replaced| replaced.is_copy);
    let fate = |(at, replaced): (usize, &Replaced)| {
        let age = now.duration_since(replaced.replaced_at);
        if at + 1 == found.len() || Some(at) == newest_copy {
            Fate::KeepNewest
        } else if Duration::try_from(age).is_ok_and(|age| age >= keep) {
            Fate::Remove
        } else {
            Fate::KeepYoung
        }
    };
    found.iter().enumerate().map(fate).collect()
}

/// What was moved aside from `checkpoint`, oldest first.
///
/// # Errors
/// Storage errors.
pub async fn list_replaced(
    storage: &dyn Storage,
    checkpoint: &StoragePath,
) -> Result<Vec<Replaced>, CheckpointError> {
    let parent = checkpoint.parent().unwrap_or_else(StoragePath::root);
    let entries = present(storage.list(&parent, Depth::Children).await)?.unwrap_or_default();
    let mut found = Vec::new();
    for entry in entries {
        let at = replaced_at(entry.path.name(), checkpoint.name());
        let (FileKind::Dir, Some(at)) = (entry.kind, at) else {
            continue;
        };
        let is_copy = match Manifest::load(storage, &entry.path).await {
            Ok(manifest) => manifest.is_some_and(|manifest| !manifest.forced),
            Err(CheckpointError::Manifest { .. }) => false,
            Err(error) => return Err(error),
        };
        found.push(Replaced {
            uri: StorageUri::new(storage.authority().clone(), entry.path),
            replaced_at: at,
            is_copy,
        });
    }
    found.sort_by(|a, b| (a.replaced_at, &a.uri).cmp(&(b.replaced_at, &b.uri)));
    Ok(found)
}

/// Removes one of them, past any trash. One that is gone already is no error.
///
/// # Errors
/// Storage errors. It is whole then, or stands no more at its place and is partly removed: the rest goes
/// with [`remove_leftovers_beside`].
pub async fn remove_replaced(
    storage: &dyn Storage,
    replaced: &Replaced,
) -> Result<(), StorageError> {
    present(remove_at_once(storage, &replaced.uri.path).await).map(|_| ())
}

/// Removes what is left beside `checkpoint` of removals that were cut short.
///
/// # Errors
/// Storage errors.
pub async fn remove_leftovers_beside(
    storage: &dyn Storage,
    checkpoint: &StoragePath,
) -> Result<(), CheckpointError> {
    let parent = checkpoint.parent().unwrap_or_else(StoragePath::root);
    match remove_leftovers(storage, &parent).await {
        Err(CheckpointError::Storage(error)) if error.kind == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(second: i64, is_copy: bool) -> Replaced {
        Replaced {
            uri: format!("/ck/{second}").parse().unwrap(),
            replaced_at: Timestamp::from_second(second).unwrap(),
            is_copy,
        }
    }

    #[test]
    fn the_newest_the_newest_copy_and_the_young_stay() {
        let now = Timestamp::from_second(100).unwrap();
        let fates =
            |found: &[Replaced], keep| decide_replaced(found, Duration::from_secs(keep), now);
        let found = [
            replaced(10, true),
            replaced(20, true),
            replaced(30, false),
            replaced(90, false),
            replaced(95, false),
        ];
        assert_eq!(
            fates(&found, 50),
            [
                Fate::Remove,
                Fate::KeepNewest,
                Fate::Remove,
                Fate::KeepYoung,
                Fate::KeepNewest,
            ]
        );
        assert_eq!(fates(&found[..1], 0), [Fate::KeepNewest]);
        assert_eq!(fates(&[], 0), []);
        // A clock that is behind makes nothing old.
        assert_eq!(
            fates(&[replaced(200, true), replaced(201, true)], 1)[0],
            Fate::KeepYoung
        );
    }

    #[test]
    fn names_tell_when() {
        let at = |name| replaced_at(name, "clicks.blue").map(|at| at.to_string());
        assert_eq!(
            at("clicks.blue.stepdown-replaced-20261128T071500Z-0123abcd").as_deref(),
            Some("2026-11-28T07:15:00Z")
        );
        for other in [
            "clicks.blue",
            "clicks.blue2.stepdown-replaced-20261128T071500Z-0123abcd",
            "clicks.blue.stepdown-replaced-yesterday-0123abcd",
            "clicks.blue.stepdown-replaced-20261128T071500Z-01.stepdown-old-7",
            "clicks.blue.stepdown-old-20261128T071500Z-1",
        ] {
            assert_eq!(at(other), None, "{other}");
        }
    }
}
