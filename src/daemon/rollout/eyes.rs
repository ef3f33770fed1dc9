//! The engine's eyes: what is seen of the jobs, their markers, their batches and the tasks of a rollout.

use tokio::time::Instant;

use super::hands::RolloutHands;
use super::measure::{Measure, Query};
use super::sides::{find_outrun, look_at_batches, look_at_slot, own_batches};
use crate::daemon::ask::single_poll;
use crate::marker::Trigger;
use crate::marker::poll::{Sighting, error_chain};
use crate::model::{AttemptId, BatchId, Slot};
use crate::rollout::observation::{Copying, Gate, Known, Life, Seen, Side};
use crate::rollout::record::{Base, Record};
use crate::rollout::state::{Act, State, Strategy};
use crate::stop::record::load_armed;
use crate::stop::{Freshness, Observation};

impl RolloutHands {
    /// All that a decision goes by.
    pub(super) async fn look_around(&mut self, record: &Record) -> Seen {
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
        if seen.copy == Copying::Published && record.is_to_hand_over() {
            seen.copy = self.look_at_published(record).await;
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

    /// The published copies, if they may still be handed over: the old job may have run again since.
    async fn look_at_published(&mut self, record: &Record) -> Copying {
        let old = record.old.and_then(|old| self.plan.slots.get(&old));
        let checkpoints = old.map(|of| of.checkpoints.clone()).unwrap_or_default();
        let found = match self.find_base(record).await {
            Ok(base) => base,
            Err(why) => {
                tracing::debug!("the published copy cannot be read: {why}");
                return Copying::Busy;
            }
        };
        match look_at_batches(&checkpoints).await {
            Ok(now) => match find_outrun(&found.unwrap_or_default(), &now) {
                None => Copying::Published,
                Some(base) => {
                    tracing::warn!(
                        "the old job has gone on since {} was published: it is not handed over",
                        base.checkpoint
                    );
                    Copying::Failed
                }
            },
            Err(error) => {
                tracing::debug!(
                    "the old job's batches cannot be read: {}",
                    error_chain(&error)
                );
                Copying::Busy
            }
        }
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

    /// When the last of y's queries made its first own commit, by the storage's clock.
    pub(super) async fn first_commit(&self, record: &Record) -> Option<jiff::Timestamp> {
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
