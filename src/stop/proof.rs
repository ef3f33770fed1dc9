//! The proof of a stop: what the checkpoints say after the attempt is over.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointError;
use crate::checkpoint::progress::{self, Progress, judge, load_progress};
use crate::model::BatchId;
use crate::storage::{Storage, StorageUri};

/// The verdict on a stop, over all checkpoints of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every query's last planned batch is committed.
    Clean,
    /// At least one query has a batch that is planned and not committed.
    Dirty,
    /// No checkpoint could tell, or none is configured.
    Unproven,
}

impl Verdict {
    /// The word of the design.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Dirty => "dirty",
            Verdict::Unproven => "unproven",
        }
    }
}

/// What one checkpoint says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointProof {
    /// The checkpoint directory.
    pub uri: StorageUri,
    /// Its verdict.
    pub verdict: Verdict,
    /// The query's id, where it can be read.
    pub query_id: Option<String>,
    /// The last planned batch.
    pub last_planned_batch: Option<BatchId>,
    /// The last committed batch.
    pub last_committed_batch: Option<BatchId>,
    /// When that was committed, by the storage's clock.
    pub committed_at: Option<Timestamp>,
    /// Why the verdict is what it is, where that is not plain.
    pub why: Option<String>,
}

/// What all checkpoints of an attempt say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Dirty if one is dirty, else unproven if one is unproven or there is none, else clean.
    pub verdict: Verdict,
    /// One entry a checkpoint.
    pub checkpoints: Vec<CheckpointProof>,
}

impl Proof {
    /// The proof over single checkpoints.
    pub fn of(checkpoints: Vec<CheckpointProof>) -> Self {
        let any = |verdict| checkpoints.iter().any(|proof| proof.verdict == verdict);
        let verdict = if any(Verdict::Dirty) {
            Verdict::Dirty
        } else if checkpoints.is_empty() || any(Verdict::Unproven) {
            Verdict::Unproven
        } else {
            Verdict::Clean
        };
        Self {
            verdict,
            checkpoints,
        }
    }
}

/// Times between the two reads of a checkpoint, and how often an unstable or unreadable one is read.
const SETTLE: Duration = Duration::from_millis(200);
const READS: u32 = 10;

/// Reads every checkpoint until two reads in a row agree, and judges it. A checkpoint that cannot be
/// read is unproven, with the reason.
pub async fn prove(checkpoints: &[(Arc<dyn Storage>, StorageUri)]) -> Proof {
    let mut proofs = Vec::with_capacity(checkpoints.len());
    for (storage, uri) in checkpoints {
        proofs.push(prove_one(storage.as_ref(), uri).await);
    }
    Proof::of(proofs)
}

/// What every checkpoint says at this moment, by one read: for a job that runs it is no proof.
pub async fn prove_once(checkpoints: &[(Arc<dyn Storage>, StorageUri)]) -> Proof {
    let mut proofs = Vec::with_capacity(checkpoints.len());
    for (storage, uri) in checkpoints {
        proofs.push(match load_progress(storage.as_ref(), &uri.path).await {
            Ok(now) => judged(uri, &now),
            Err(error) => unreadable(uri, crate::marker::poll::error_chain(&error)),
        });
    }
    Proof::of(proofs)
}

async fn prove_one(storage: &dyn Storage, uri: &StorageUri) -> CheckpointProof {
    let mut before: Option<Progress> = None;
    let mut trouble: Option<CheckpointError> = None;
    for read in 0..READS {
        if read > 0 {
            tokio::time::sleep(SETTLE).await;
        }
        match load_progress(storage, &uri.path).await {
            Ok(now) if before.as_ref() == Some(&now) => return judged(uri, &now),
            Ok(now) => before = Some(now),
            Err(error @ CheckpointError::Missing { .. }) => {
                trouble = Some(error);
                break;
            }
            Err(error) => trouble = Some(error),
        }
    }
    let why = match (trouble, before) {
        (Some(error), _) => crate::marker::poll::error_chain(&error),
        (None, _) => {
            "it still changes: a process writes to it although the attempt is over".to_owned()
        }
    };
    unreadable(uri, why)
}

fn unreadable(uri: &StorageUri, why: String) -> CheckpointProof {
    CheckpointProof {
        uri: uri.clone(),
        verdict: Verdict::Unproven,
        query_id: None,
        last_planned_batch: None,
        last_committed_batch: None,
        committed_at: None,
        why: Some(why),
    }
}

fn judged(uri: &StorageUri, now: &Progress) -> CheckpointProof {
    let (verdict, why) = match judge(now) {
        progress::Proof::Clean { .. } => (Verdict::Clean, None),
        progress::Proof::Empty => (
            Verdict::Clean,
            Some("the query never planned a batch".to_owned()),
        ),
        progress::Proof::Dirty { planned, .. } => (
            Verdict::Dirty,
            Some(format!("batch {planned} is planned and not committed")),
        ),
        progress::Proof::Unproven(why) => (Verdict::Unproven, Some(why.to_string())),
    };
    CheckpointProof {
        uri: uri.clone(),
        verdict,
        query_id: now.query_id.as_ref().map(ToString::to_string),
        last_planned_batch: now.last_planned,
        last_committed_batch: now.last_committed,
        committed_at: now.committed_at,
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dirty_checkpoint_makes_the_stop_dirty() {
        let proof = |verdict| CheckpointProof {
            uri: "/c".parse().unwrap(),
            verdict,
            query_id: None,
            last_planned_batch: None,
            last_committed_batch: None,
            committed_at: None,
            why: None,
        };
        for (parts, whole) in [
            (vec![], Verdict::Unproven),
            (vec![Verdict::Clean, Verdict::Clean], Verdict::Clean),
            (vec![Verdict::Clean, Verdict::Unproven], Verdict::Unproven),
            (
                vec![Verdict::Unproven, Verdict::Dirty, Verdict::Clean],
                Verdict::Dirty,
            ),
        ] {
            assert_eq!(
                Proof::of(parts.iter().copied().map(proof).collect()).verdict,
                whole
            );
        }
    }
}
