//! The engine's eyes and hands.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::copies::{Copies, Order, Pair, drop_copy};
use super::follow::Followers;
use super::gate::GateTask;
use super::measure::{Measure, Query};
use super::sides::{look_at_batches, look_at_slot, own_batches, receipt_of};
use super::start::Start;
use super::{RolloutPlan, RolloutSlot};
use crate::checkpoint::copy::Place;
use crate::checkpoint::progress::Progress;
use crate::control::{Prepared, Saved, prepare_new, publish_new};
use crate::daemon::Daemon;
use crate::daemon::ask::{request_by_marker, single_poll};
use crate::marker::Trigger;
use crate::marker::poll::{Sighting, error_chain};
use crate::model::{AttemptId, BatchId, Slot};
use crate::rollout::engine::{ActError, Desk, Hands};
use crate::rollout::go::{Go, go_path, is_given, remove_go};
use crate::rollout::observation::{Copying, Gate, Known, Life, Seen, Side, Task};
use crate::rollout::record::{Base, Record};
use crate::rollout::state::{Act, State, Strategy, Transfer};
use crate::stop::record::load_armed;
use crate::stop::{Freshness, Observation};

/// Eyes and hands of one rollout in this process.
#[derive(Debug)]
pub struct RolloutHands {
    daemon: Daemon,
    plan: RolloutPlan,
    changed: Arc<Notify>,
    followers: Followers,
    copies: Copies,
    start: Start,
    restart: Start,
    gate: GateTask,
    post_gate: GateTask,
    /// What y's checkpoints held, once it is known.
    base: Option<Vec<Base>>,
    /// What was last seen of y's queries.
    batches: Vec<Option<Progress>>,
    /// The `go`, written beside its place.
    go: Option<Prepared<Go>>,
    cancels: u32,
    /// How often in a row each marker was missed, and when last.
    missed: BTreeMap<Slot, (u32, Instant)>,
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

    fn pairs(&self, record: &Record) -> Vec<Pair> {
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
    async fn find_base(&mut self, record: &Record) -> Result<Option<Vec<Base>>, String> {
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

    async fn look_at_new_batches(&mut self, record: &Record) -> (Known, Known) {
        let Some(of) = self.plan.slots.get(&record.new) else {
            return (Known::Unknown, Known::Unknown);
        };
        let checkpoints = of.checkpoints.clone();
        let base = match self.find_base(record).await {
            Ok(Some(base)) => base,
            // What is not published yet, nobody can have planned in.
            Ok(None) if record.transfer.copies() && record.state != State::Proving => {
                return (Known::No, Known::No);
            }
            Ok(None) if record.state.is_before_stop() || record.state == State::Stopping => {
                return (Known::No, Known::No);
            }
            Ok(None) => return (Known::Unknown, Known::Unknown),
            Err(why) => {
                tracing::debug!("the base of the new job cannot be read: {why}");
                return (Known::Unknown, Known::Unknown);
            }
        };
        if base.is_empty() {
            // No checkpoint says anything of such a job: that it runs must do.
            let released = record.done.contains(&Act::Go) || record.new_attempt.is_some();
            let known = if released { Known::Yes } else { Known::No };
            return (known, known);
        }
        match look_at_batches(&checkpoints).await {
            Ok(now) => {
                let own = own_batches(&base, &now);
                self.batches = now;
                own
            }
            Err(error) => {
                tracing::debug!(
                    "the new job's batches cannot be read: {}",
                    error_chain(&error)
                );
                (Known::Unknown, Known::Unknown)
            }
        }
    }

    /// The checks before x is asked.
    fn look_at_gate(&mut self, record: &Record) -> Gate {
        if !matches!(record.state, State::Held | State::Shadow) {
            self.gate.reset();
            return Gate::Pending;
        }
        if record.state == State::Shadow {
            let wanted = u64::from(self.plan.gate.commits);
            let base = self.base.clone().unwrap_or_default();
            let enough = base.iter().zip(&self.batches).all(|(base, now)| {
                let first = base.committed.map_or(0, |batch| batch.0 + 1);
                let committed = now.as_ref().and_then(|now| now.last_committed);
                committed.is_some_and(|batch| (batch.0 + 1).saturating_sub(first) >= wanted)
                    || wanted == 0
            });
            if !enough {
                return Gate::Pending;
            }
        }
        let env = gate_env(record);
        let measure = self.measure(record);
        self.gate.look(&self.plan.gate, measure, env, &self.changed)
    }

    /// What is measured of a job that runs beside the old one.
    fn measure(&self, record: &Record) -> Option<Measure> {
        let (max_lag, max_slowdown) = (self.plan.gate.max_lag, self.plan.gate.max_slowdown);
        if record.state != State::Shadow || (max_lag.is_none() && max_slowdown.is_none()) {
            return None;
        }
        let base = self.base.clone().unwrap_or_default();
        let first_own = |base: &Base| base.committed.map_or(0, |batch| batch.0 + 1);
        let queries = self.pairs(record).into_iter().zip(&base);
        Some(Measure {
            queries: queries
                .map(|(pair, base)| Query {
                    old: pair.source,
                    new: pair.destination,
                    first_own: BatchId(first_own(base)),
                })
                .collect(),
            max_lag,
            max_slowdown,
        })
    }

    fn look_at_post_gate(&mut self, record: &Record, committed: Known) -> Gate {
        if record.state != State::Proving || committed != Known::Yes {
            self.post_gate.reset();
            return Gate::Pending;
        }
        let env = gate_env(record);
        self.post_gate
            .look(&self.plan.post_gate, None, env, &self.changed)
    }

    async fn look_at_peer(&self, record: &Record) -> Life {
        if record.strategy != Strategy::Rolling {
            return Life::Running;
        }
        let Some(peer) = self.plan.slots.get(&record.new.other()) else {
            return Life::NotThere;
        };
        let backend = peer.planned.backend.as_ref();
        match backend.find_attempt().await {
            Ok(Some(attempt)) => match backend.observe(&attempt, Freshness::Now).await {
                Observation::Running | Observation::Restarted { .. } => Life::Running,
                Observation::Stopping | Observation::Stopped { .. } => Life::Over,
                Observation::Unknown { .. } => Life::Unknown,
            },
            Ok(None) => Life::NotThere,
            Err(_) => Life::Unknown,
        }
    }

    /// Whether the marker of a slot is there; missed as often as a watcher has to miss it.
    async fn look_at_marker(&mut self, slot: Slot) -> Known {
        let Some(of) = self.plan.slots.get(&slot) else {
            return Known::Unknown;
        };
        let spec = &of.planned.spec;
        let mut poll = single_poll(
            &self.daemon,
            &spec.marker_storage,
            &spec.marker.path,
            &spec.sentinel_dir,
        );
        let sighting = poll.poll().await.sighting(0, Trigger::Disappears, None);
        let policy = &spec.marker_policy;
        match sighting {
            Sighting::Present(_) => {
                self.missed.remove(&slot);
                Known::Yes
            }
            Sighting::Unknown(_) => Known::Unknown,
            Sighting::Absent => {
                let (times, at) = self.missed.entry(slot).or_insert((0, Instant::now()));
                if *times == 0 || at.elapsed() >= policy.confirm_spacing {
                    *times += 1;
                    *at = Instant::now();
                }
                if *times >= policy.confirm {
                    Known::No
                } else {
                    Known::Unknown
                }
            }
        }
    }

    /// Whether x's marker is there; one that was never seen is not missed.
    async fn look_at_old_marker(&mut self, old: Slot, record: &Record) -> Known {
        let found = self.look_at_marker(old).await;
        let Some(attempt) = &record.old_attempt else {
            return Known::Yes;
        };
        if found != Known::No {
            return found;
        }
        let Some(of) = self.plan.slots.get(&old) else {
            return Known::Unknown;
        };
        let marker = &of.planned.spec.marker;
        let armed = load_armed(&self.plan.control, &self.plan.job, old, attempt, marker).await;
        match armed {
            Ok(Some(_)) => Known::No,
            Ok(None) => Known::Yes,
            Err(_) => Known::Unknown,
        }
    }

    fn follow(&mut self, slot: Slot, attempt: Option<&AttemptId>, side: &Side) {
        let (Some(attempt), Some(of)) = (attempt, self.plan.slots.get(&slot)) else {
            return;
        };
        if !side.stop.is_confirmed() {
            self.followers.follow(&of.planned, attempt);
        }
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

fn gate_env(record: &Record) -> Vec<(String, String)> {
    [
        ("STEPDOWN_JOB", record.job.to_string()),
        ("STEPDOWN_ROLLOUT_ID", record.rollout_id.to_string()),
        (
            "STEPDOWN_OLD_SLOT",
            record.old.map_or("", Slot::as_str).to_owned(),
        ),
        ("STEPDOWN_NEW_SLOT", record.new.to_string()),
        (
            "STEPDOWN_VERSION",
            record.version.clone().unwrap_or_default(),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

#[async_trait]
impl Hands for RolloutHands {
    async fn look(&mut self, record: &Record) -> Seen {
        if record.state == State::Preparing && record.base.is_empty() {
            // Of the slot before, where several are exchanged.
            self.base = None;
        }
        let plan = self.plan.clone();
        let control = &plan.control;
        let mut seen = Seen::default();
        let started = record.begun.contains(&Act::StartNew);
        if let Some(of) = record.old.and_then(|old| plan.slots.get(&old)) {
            let new = record
                .new_attempt
                .as_ref()
                .filter(|_| record.is_same_slot());
            let recorded = record.old_attempt.as_ref();
            seen.old = look_at_slot(record, control, of, recorded, new).await;
            if record.is_same_slot() && started {
                seen.old.found = None;
            }
        }
        if let Some(of) = plan.slots.get(&record.new) {
            if record.is_same_slot() && !started {
                seen.new.life = Life::NotThere;
            } else {
                let old = record
                    .old_attempt
                    .as_ref()
                    .filter(|_| record.is_same_slot());
                let recorded = record.new_attempt.as_ref();
                seen.new = look_at_slot(record, control, of, recorded, old).await;
            }
        }
        if record.begun.contains(&Act::RestartOld)
            && let Some(of) = record.old.and_then(|old| plan.slots.get(&old))
        {
            let recorded = record.old_again.as_ref();
            let old = record.old_attempt.as_ref();
            seen.again = look_at_slot(record, control, of, recorded, old).await;
        }
        if record.state.is_before_stop() {
            if let Some(old) = record.old {
                seen.old.marker = self.look_at_old_marker(old, record).await;
            }
            if record.done.contains(&Act::PrepareNew) && !record.is_same_slot() {
                seen.new.marker = self.look_at_marker(record.new).await;
            }
        }
        seen.peer = self.look_at_peer(record).await;
        (seen.own_plan, seen.own_commit) = self.look_at_new_batches(record).await;
        seen.copy = self.copies.look();
        if seen.copy == Copying::Idle && record.transfer.copies() && self.base.is_some() {
            // An earlier process has published it.
            seen.copy = Copying::Published;
        }
        seen.start = self
            .start
            .look(record.start_process.as_ref(), plan.start_is);
        seen.restart = self
            .restart
            .look(record.restart_process.as_ref(), plan.start_is);
        seen.gate = self.look_at_gate(record);
        seen.post_gate = self.look_at_post_gate(record, seen.own_commit);
        if let Some(old) = record.old {
            self.follow(old, record.old_attempt.as_ref(), &seen.old);
            self.follow(old, record.old_again.as_ref(), &seen.again);
        }
        self.follow(record.new, record.new_attempt.as_ref(), &seen.new);
        seen
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

    async fn entered(&mut self, record: &Record) {
        if let Some(told) = &self.plan.told {
            // A reader that is slow reads the record itself.
            let _full = told.try_send(record.clone());
        }
        self.plan.hooks.run(record).await;
    }

    async fn alarm(&mut self, record: &Record, why: Option<&str>) {
        if let Some(why) = why {
            self.plan.hooks.alarm(record, why);
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
    }
}

impl RolloutHands {
    /// When the last of y's queries made its first own commit, by the storage's clock.
    async fn first_commit(&self, record: &Record) -> Option<jiff::Timestamp> {
        let of = self.plan.slots.get(&record.new)?;
        let mut latest = None;
        for (place, base) in of.checkpoints.iter().zip(&record.base) {
            let first = base.committed.map_or(0, |batch| batch.0 + 1);
            let path = place.path.join("commits").join(&first.to_string());
            let stat = place.storage.stat(&path).await.ok()?;
            latest = latest.max(Some(stat.modified_at));
        }
        latest
    }
}
