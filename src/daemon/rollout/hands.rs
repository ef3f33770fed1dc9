//! The engine's hands: what a rollout does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::copies::{Copies, Order, Pair, drop_copy};
use super::follow::Followers;
use super::gate::GateTask;
use super::sides::{look_at_batches, receipt_of};
use super::start::Start;
use super::{RolloutPlan, RolloutSlot};
use crate::checkpoint::copy::Place;
use crate::checkpoint::progress::Progress;
use crate::control::{Prepared, Saved, prepare_new, publish_new};
use crate::daemon::Daemon;
use crate::daemon::ask::request_by_marker;
use crate::marker::poll::error_chain;
use crate::model::{AttemptId, Slot};
use crate::rollout::engine::{ActError, Desk, Hands};
use crate::rollout::go::{Go, go_path, is_given, remove_go};
use crate::rollout::observation::{Seen, Task};
use crate::rollout::record::{Base, Record};
use crate::rollout::state::{Act, State, Transfer};

/// Eyes and hands of one rollout in this process.
#[derive(Debug)]
pub struct RolloutHands {
    pub(super) daemon: Daemon,
    pub(super) plan: RolloutPlan,
    pub(super) changed: Arc<Notify>,
    pub(super) followers: Followers,
    pub(super) copies: Copies,
    pub(super) start: Start,
    pub(super) restart: Start,
    pub(super) gate: GateTask,
    pub(super) post_gate: GateTask,
    /// What y's checkpoints held, once it is known.
    pub(super) base: Option<Vec<Base>>,
    /// What was last seen of y's queries.
    pub(super) batches: Vec<Option<Progress>>,
    /// The `go`, written beside its place.
    go: Option<Prepared<Go>>,
    cancels: u32,
    /// Hooks that run.
    hooks: JoinSet<()>,
    shutdown: CancellationToken,
    /// How often in a row each marker was missed, and when last.
    pub(super) missed: BTreeMap<Slot, (u32, Instant)>,
}

fn failed(error: &dyn std::error::Error) -> ActError {
    ActError::Failed {
        what: error_chain(error),
    }
}

impl RolloutHands {
    /// Hands that have not begun anything.
    pub fn new(daemon: Daemon, plan: RolloutPlan, shutdown: &CancellationToken) -> Self {
        let changed = Arc::new(Notify::new());
        let copyist = daemon.copyist(plan.lease_ttl);
        Self {
            followers: Followers::new(
                daemon.clone(),
                plan.poll,
                shutdown.child_token(),
                Arc::clone(&changed),
            ),
            copies: Copies::new(copyist, plan.sync_interval, Arc::clone(&changed)),
            start: Start::default(),
            restart: Start::default(),
            gate: GateTask::default(),
            post_gate: GateTask::default(),
            base: None,
            batches: Vec::new(),
            go: None,
            cancels: 0,
            hooks: JoinSet::new(),
            shutdown: shutdown.clone(),
            missed: BTreeMap::new(),
            changed,
            plan,
            daemon,
        }
    }

    fn slot(&self, slot: Slot) -> Result<&RolloutSlot, ActError> {
        self.plan.slots.get(&slot).ok_or_else(|| ActError::Failed {
            what: format!("the job has no slot {slot} any more"),
        })
    }

    pub(super) fn pairs(&self, record: &Record) -> Vec<Pair> {
        let places = |slot: Option<Slot>| {
            let slot = slot.and_then(|slot| self.plan.slots.get(&slot));
            slot.map_or(&[][..], |slot| slot.checkpoints.as_slice())
        };
        places(record.old)
            .iter()
            .zip(places(Some(record.new)))
            .map(|(source, destination)| Pair {
                source: source.clone(),
                destination: destination.clone(),
            })
            .collect()
    }

    /// What y's checkpoints held when they became y's; `None` while that is not so, or not known.
    pub(super) async fn find_base(&mut self, record: &Record) -> Result<Option<Vec<Base>>, String> {
        if let Some(base) = &self.base {
            return Ok(Some(base.clone()));
        }
        if !record.base.is_empty() {
            self.base = Some(record.base.clone());
            return Ok(self.base.clone());
        }
        let base = match record.transfer {
            Transfer::Own => {
                let has_none = self
                    .plan
                    .slots
                    .get(&record.new)
                    .is_some_and(|of| of.checkpoints.is_empty());
                has_none.then(Vec::new)
            }
            Transfer::Copy | Transfer::CopyNewId => {
                let mut all = Vec::new();
                for pair in self.pairs(record) {
                    match pair.published(record.rollout_id).await {
                        Ok(Some(base)) => all.push(base),
                        Ok(None) => return Ok(None),
                        Err(error) => return Err(error_chain(&error)),
                    }
                }
                Some(all)
            }
            Transfer::InPlace => self.base_of_receipt(record).await?,
        };
        self.base.clone_from(&base);
        Ok(base)
    }

    /// What the receipt of x's stop says, once there is one.
    async fn note_old_end(&self, record: &mut Record) {
        if let (Some(old), Some(attempt)) = (record.old, &record.old_attempt)
            && let Ok(Some(receipt)) =
                receipt_of(&self.plan.control, &self.plan.job, old, attempt).await
        {
            record.proof = Some(receipt.proof.verdict.as_str().to_owned());
            record.gap.old_ended_at = Some(receipt.ended_at);
            record.gap.old_committed_at = receipt
                .proof
                .checkpoints
                .iter()
                .filter_map(|proof| proof.committed_at)
                .max();
        }
    }

    async fn base_of_receipt(&self, record: &Record) -> Result<Option<Vec<Base>>, String> {
        let (Some(old), Some(attempt)) = (record.old, &record.old_attempt) else {
            return Ok(None);
        };
        let receipt = receipt_of(&self.plan.control, &self.plan.job, old, attempt).await;
        let receipt = receipt.map_err(|error| error_chain(&error))?;
        Ok(receipt.map(|receipt| {
            let proofs = receipt.proof.checkpoints.into_iter();
            proofs
                .map(|proof| Base {
                    checkpoint: proof.uri,
                    planned: proof.last_planned_batch,
                    committed: proof.last_committed_batch,
                })
                .collect()
        }))
    }

    fn go_of(&self, record: &Record) -> Result<Go, ActError> {
        let of = self.slot(record.new)?;
        Ok(Go {
            rollout_id: record.rollout_id,
            generation: record.new_generation.ok_or_else(|| ActError::Failed {
                what: "the generation of the new job is not on record".to_owned(),
            })?,
            job: self.plan.job.clone(),
            slot: record.new,
            checkpoints: of.checkpoints.iter().map(Place::uri).collect(),
        })
    }

    async fn ask(&self, slot: Slot, attempt: &AttemptId) -> Result<(), ActError> {
        let of = self.slot(slot)?;
        request_by_marker(&self.daemon, &of.planned, attempt)
            .await
            .map_err(|error| failed(&error))
    }

    async fn make_marker(&self, slot: Slot) -> Result<(), ActError> {
        let spec = &self.slot(slot)?.planned.spec;
        spec.marker_storage.touch(&spec.marker.path).await?;
        Ok(())
    }

    async fn prepare_new(&mut self, desk: &mut Desk<'_>) -> Result<(), ActError> {
        let new = desk.record.new;
        remove_go(&self.plan.control, &self.plan.job, new).await?;
        self.make_marker(new).await?;
        if desk.record.transfer == Transfer::Own && desk.record.base.is_empty() {
            let checkpoints = self.slot(new)?.checkpoints.clone();
            let now = look_at_batches(&checkpoints)
                .await
                .map_err(|error| failed(&error))?;
            desk.record.base = checkpoints
                .iter()
                .zip(now)
                .map(|(place, now)| Base {
                    checkpoint: place.uri(),
                    planned: now.as_ref().and_then(|now| now.last_planned),
                    committed: now.as_ref().and_then(|now| now.last_committed),
                })
                .collect();
            desk.save().await?;
        }
        Ok(())
    }

    async fn write_go(&mut self, record: &Record) -> Result<(), ActError> {
        let go = self.go_of(record)?;
        if is_given(&self.plan.control, &go).await? {
            return Ok(());
        }
        let storage = Arc::clone(self.plan.control.storage());
        let path = go_path(&self.plan.control, &self.plan.job, record.new);
        let prepared = match self.go.take() {
            Some(prepared) => prepared,
            None => prepare_new(storage.as_ref(), &path, &go).await?,
        };
        match publish_new(storage.as_ref(), &path, prepared).await? {
            Saved::Created => Ok(()),
            // Another rollout's, which came late: nobody waits for it.
            Saved::Exists if is_given(&self.plan.control, &go).await? => Ok(()),
            Saved::Exists => {
                remove_go(&self.plan.control, &self.plan.job, record.new).await?;
                Err(ActError::Failed {
                    what: "a `go` of another rollout was in the way".to_owned(),
                })
            }
        }
    }

    async fn drop_new(&mut self, record: &Record) -> Result<(), ActError> {
        self.copies.close().await;
        let new = record.new;
        remove_go(&self.plan.control, &self.plan.job, new).await?;
        let spec = self.slot(new)?.planned.spec.clone();
        spec.marker_storage.delete_file(&spec.marker.path).await?;
        if record.transfer.copies() {
            for pair in self.pairs(record) {
                drop_copy(&pair, record.rollout_id)
                    .await
                    .map_err(|error| failed(&error))?;
            }
        }
        self.base = None;
        Ok(())
    }
}

#[async_trait]
impl Hands for RolloutHands {
    async fn look(&mut self, record: &Record) -> Seen {
        self.look_around(record).await
    }

    async fn perform(&mut self, act: Act, desk: &mut Desk<'_>) -> Result<(), ActError> {
        let record = desk.record.clone();
        match act {
            Act::PrepareNew => self.prepare_new(desk).await?,
            Act::Sync => {
                let pairs = self.pairs(&record);
                self.copies.order(pairs, record.rollout_id, Order::Sync);
            }
            Act::CopyCommitted => {
                let pairs = self.pairs(&record);
                self.copies
                    .order(pairs, record.rollout_id, Order::Committed);
            }
            Act::FinishCopy => {
                let pairs = self.pairs(&record);
                self.copies.order(pairs, record.rollout_id, Order::Finish);
            }
            Act::StartNew => {
                if record.is_same_slot() || record.transfer == Transfer::InPlace {
                    self.make_marker(record.new).await?;
                }
                let plan = self.plan.clone();
                let changed = Arc::clone(&self.changed);
                self.start.run(&plan, record.new, desk, &changed).await?;
            }
            Act::RestartOld => {
                let old = record.old.unwrap_or(record.new);
                self.make_marker(old).await?;
                let plan = self.plan.clone();
                let changed = Arc::clone(&self.changed);
                self.restart.run(&plan, old, desk, &changed).await?;
            }
            Act::AskOld => {
                if let (Some(old), Some(attempt)) = (record.old, &record.old_attempt) {
                    self.ask(old, attempt).await?;
                }
            }
            Act::AskOldAgain => {
                let old = record.old.unwrap_or(record.new);
                let again = self.slot(old)?.planned.backend.find_attempt().await;
                if let Some(attempt) = again.map_err(|error| failed(&error))? {
                    desk.record.old_attempt = Some(attempt.clone());
                    desk.save().await?;
                    self.ask(old, &attempt).await?;
                }
            }
            Act::AskNew => {
                if let Some(attempt) = &record.new_attempt {
                    self.ask(record.new, attempt).await?;
                }
            }
            Act::CancelStart => {
                Start::cancel(record.start_process.as_ref(), self.cancels > 0);
                self.cancels += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Act::Go => {
                self.write_go(&record).await?;
                // The file may be older: it was written ahead.
                let gap = &mut desk.record.gap;
                gap.go_at = gap.go_at.or(Some(jiff::Timestamp::now()));
            }
            Act::DropNew => self.drop_new(&record).await?,
        }
        Ok(())
    }

    async fn note(&mut self, record: &mut Record) {
        match record.state {
            State::Proving | State::NeedsHuman | State::Ended => {}
            State::Aborting | State::RecoverOld => {
                let task = self
                    .start
                    .look(record.start_process.as_ref(), self.plan.start_is);
                if !matches!(task, Task::Busy | Task::Unknown) {
                    // It is over, which another host could not see.
                    record.start_process = None;
                }
                if record.state == State::RecoverOld {
                    self.note_old_end(record).await;
                }
                return;
            }
            State::Preparing
            | State::Starting
            | State::Held
            | State::Shadow
            | State::Stopping
            | State::Stopped
            | State::Cutover => return,
        }
        if record.base.is_empty()
            && let Ok(Some(base)) = self.find_base(record).await
        {
            record.base = base;
        }
        self.note_old_end(record).await;
        let path = go_path(&self.plan.control, &self.plan.job, record.new);
        if record.holds()
            && record.gap.go_at.is_none()
            && let Ok(stat) = self.plan.control.storage().stat(&path).await
        {
            // Given by a stepdown that ended before it saved when: the file's own time may be that of its
            // writing ahead, which is before the old job's end.
            record.gap.go_at = Some(stat.modified_at).max(record.gap.old_ended_at);
        }
        if record.gap.new_committed_at.is_none() {
            record.gap.new_committed_at = self.first_commit(record).await;
        }
    }

    async fn begun(&mut self, record: &Record) {
        self.plan.hooks.run(record, &mut self.hooks);
    }

    async fn entered(&mut self, record: &Record) {
        if let Some(told) = &self.plan.told {
            // A reader that is slow reads the record itself.
            let _full = told.try_send(record.clone());
        }
        self.plan.hooks.run(record, &mut self.hooks);
    }

    async fn alarm(&mut self, record: &Record, why: Option<&str>) {
        if let Some(why) = why {
            self.plan.hooks.alarm(record, why, &mut self.hooks);
        }
    }

    async fn make_ready(&mut self, record: &Record) {
        if !record.holds() || self.go.is_some() {
            return;
        }
        let Ok(go) = self.go_of(record) else {
            return;
        };
        let path = go_path(&self.plan.control, &self.plan.job, record.new);
        let storage = self.plan.control.storage();
        self.go = prepare_new(storage.as_ref(), &path, &go).await.ok();
    }

    async fn pause(&mut self, at_most: Duration) {
        tokio::select! {
            () = self.changed.notified() => {}
            () = tokio::time::sleep(at_most) => {}
        }
    }

    async fn close(&mut self) {
        self.gate.reset();
        self.post_gate.reset();
        self.copies.close().await;
        self.followers.close().await;
        if let Some(go) = self.go.take() {
            go.discard(self.plan.control.storage().as_ref()).await;
        }
        // The process may end after this, and would take them with it. Each has its time-out.
        let hooks = std::mem::take(&mut self.hooks);
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            _ended = hooks.join_all() => {}
        }
    }
}
