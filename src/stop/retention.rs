//! Old records of stops: how many are kept, and the removal of the others.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::control::ControlDir;
use crate::model::{JobName, Slot};
use crate::storage::{self, Depth, ErrorKind, FileStat};

/// How many receipts of a slot are kept.
pub const KEEP_RECEIPTS: usize = 100;

/// The stops whose records may go: all but the newest `keep` receipts of the slot. Pure.
///
/// Only stops that have a receipt are named: what is not over is never touched.
fn plan_removal(receipts: &[FileStat], slot: Slot, keep: usize) -> Vec<String> {
    let prefix = format!("{slot}-");
    let mut by_age: BTreeSet<(Timestamp, &str)> = BTreeSet::new();
    for entry in receipts {
        if let Some(id) = entry.path.name().strip_suffix(".json")
            && id.starts_with(&prefix)
        {
            by_age.insert((entry.modified_at, id));
        }
    }
    let surplus = by_age.len().saturating_sub(keep);
    by_age
        .into_iter()
        .take(surplus)
        .map(|(_, id)| id.to_owned())
        .collect()
}

/// Removes the records of stops that are over, but for the newest `keep` of the slot. The receipt of
/// a stop goes last, so that a removal that was cut short is taken up by the next one. To be called
/// by the holder of the slot's lease.
///
/// # Errors
/// Storage errors; what is left then is removed the next time.
pub async fn remove_old_records(
    control: &ControlDir,
    job: &JobName,
    slot: Slot,
    keep: usize,
) -> storage::Result<usize> {
    let storage = control.storage();
    let receipts = storage
        .list(&control.receipts_dir(job), Depth::Children)
        .await?;
    let old = plan_removal(&receipts, slot, keep);
    if old.is_empty() {
        return Ok(0);
    }
    let mut steps: BTreeMap<&str, Vec<&FileStat>> = BTreeMap::new();
    let found = match storage.list(&control.stops_dir(job), Depth::Children).await {
        Ok(found) => found,
        Err(error) if error.kind == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    for entry in &found {
        if let Some((id, _)) = entry.path.name().split_once('.') {
            steps.entry(id).or_default().push(entry);
        }
    }
    for id in &old {
        for step in steps.get(id.as_str()).into_iter().flatten() {
            storage.delete_file(&step.path).await?;
        }
        storage
            .delete_file(&control.armed_dir(job).join(&format!("{id}.json")))
            .await?;
        storage
            .delete_file(&control.receipts_dir(job).join(&format!("{id}.json")))
            .await?;
    }
    Ok(old.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{FileKind, StoragePath};

    fn receipt(name: &str, second: i64) -> FileStat {
        FileStat {
            path: StoragePath::root().join(name),
            kind: FileKind::File,
            len_bytes: 1,
            modified_at: Timestamp::from_second(second).unwrap(),
            mode: None,
            owner: None,
            group: None,
        }
    }

    #[test]
    fn the_newest_of_the_slot_stay() {
        let receipts = [
            receipt("blue-c.json", 3),
            receipt("blue-a.json", 1),
            receipt("blue-b.json", 2),
            receipt("green-a.json", 0),
            receipt(".blue-x.json.stepdown-tmp", 0),
        ];
        assert_eq!(plan_removal(&receipts, Slot::Blue, 2), ["blue-a"]);
        assert_eq!(plan_removal(&receipts, Slot::Blue, 3), Vec::<String>::new());
        assert_eq!(
            plan_removal(&receipts, Slot::Blue, 0),
            ["blue-a", "blue-b", "blue-c"]
        );
    }
}
