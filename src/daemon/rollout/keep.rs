//! What rollouts have moved aside, and its end.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::RolloutPlan;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::replaced::{
    Replaced, decide_replaced, list_replaced, remove_leftovers_beside, remove_replaced,
};
use crate::checkpoint::retain::Fate;
use crate::model::Slot;

/// One checkpoint that was moved aside, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptReplaced {
    /// The slot that it was of.
    pub slot: Slot,
    /// What it is.
    #[serde(flatten)]
    pub replaced: Replaced,
    /// What becomes of it.
    pub fate: Fate,
}

impl RolloutPlan {
    /// What was moved aside, each with its fate after `keep`. Nothing is changed.
    ///
    /// # Errors
    /// Storage errors.
    pub async fn judge_replaced(
        &self,
        keep: Duration,
    ) -> Result<Vec<KeptReplaced>, CheckpointError> {
        let mut judged: Vec<KeptReplaced> = Vec::new();
        for (slot, of) in &self.slots {
            for place in &of.checkpoints {
                let found = list_replaced(place.storage.as_ref(), &place.path).await?;
                let fates = decide_replaced(&found, keep, Timestamp::now());
                for (replaced, fate) in found.into_iter().zip(fates) {
                    // Where both slots have the same directories.
                    if judged
                        .iter()
                        .any(|other| other.replaced.uri == replaced.uri)
                    {
                        continue;
                    }
                    judged.push(KeptReplaced {
                        slot: *slot,
                        replaced,
                        fate,
                    });
                }
            }
        }
        Ok(judged)
    }

    /// Removes what was moved aside longer than `keep` ago. Says what there was, and what went.
    ///
    /// # Errors
    /// Storage errors; it can be called again.
    pub async fn remove_old_replaced(
        &self,
        keep: Duration,
    ) -> Result<Vec<KeptReplaced>, CheckpointError> {
        let judged = self.judge_replaced(keep).await?;
        for of in self.slots.values() {
            for place in &of.checkpoints {
                let storage = place.storage.as_ref();
                remove_leftovers_beside(storage, &place.path).await?;
                let here = |one: &&KeptReplaced| {
                    one.fate == Fate::Remove
                        && one.replaced.uri.authority == *storage.authority()
                        && one.replaced.uri.path.parent() == place.path.parent()
                };
                for one in judged.iter().filter(here) {
                    remove_replaced(storage, &one.replaced).await?;
                    tracing::info!(job = %self.job, uri = %one.replaced.uri, "removed: it was kept long enough");
                }
            }
        }
        Ok(judged)
    }
}
