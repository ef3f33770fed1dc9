//! The moment at which an attempt is asked to stop: at once, or between two of its batches.

use std::time::Duration;

use tokio::time::Instant;

use super::alarm::AlarmKind;
use super::crash_point::crash_point;
use super::drive::{Drive, Request};
use super::slot::{SlotEngine, SlotSpec};
use super::stopping::{Flow, StepError};
use crate::control::{Prepared, Saved};
use crate::marker::poll::error_chain;
use crate::model::AttemptId;
use crate::stop::Way;
use crate::stop::boundary::{
    BoundaryReport, Hindrance, UNKNOWN_REACTION, Verdict, learnt_reaction,
};
use crate::stop::decide::{Escalate, Moment};
use crate::stop::follow::Follower;
use crate::stop::receipt::load_newest_receipts;
use crate::stop::record::Asking;
use crate::storage::Storage;

/// How long batches are followed before the attempt itself and the lease are looked at again.
const SLICE: Duration = Duration::from_secs(1);

/// How old the storage's time may be that is held against a heartbeat.
const CLOCK_AGE: Duration = Duration::from_secs(10);

/// From so many of the slot's last stops it is learnt how long its driver goes on after a request.
const STOPS_LEARNT_FROM: usize = 10;

/// What a stop needs to ask at the right moment. Made when it is needed.
#[derive(Debug, Default)]
pub(super) struct Timing {
    follower: Option<Follower>,
    prepared: Option<Prepared<Asking>>,
    /// What the request takes, from the decision until it is out.
    send: Duration,
    /// What was told last.
    told: Option<Hindrance>,
    /// Why the driver has to be asked, although it should drain by itself.
    pub(super) because: Option<String>,
    /// How the moment was chosen.
    pub(super) report: Option<BoundaryReport>,
}

impl Timing {
    /// Takes back what was made ready.
    pub(super) async fn discard(&mut self, storage: &dyn Storage) {
        if let Some(prepared) = self.prepared.take() {
            prepared.discard(storage).await;
        }
    }
}

impl SlotEngine {
    /// When the attempt can be asked, if it was not yet.
    pub(super) async fn moment(
        &mut self,
        attempt: &AttemptId,
        drive: &mut Drive,
    ) -> Result<Moment, StepError> {
        let steps = drive.record.steps;
        if !steps.latched || steps.requested || steps.receipt || drive.signalled {
            return Ok(Moment::Now);
        }
        if !self.backend.drains_itself() {
            return Ok(match self.spec.boundary {
                Some(_) => Moment::Boundary,
                None => Moment::Now,
            });
        }
        let (stamp, at) = drive
            .clock(self.control.storage().as_ref(), CLOCK_AGE)
            .await?;
        let now = stamp.saturating_add(at.elapsed()).unwrap_or(stamp);
        let (why, reach) = match self.backend.way(attempt, now).await {
            Way::Asked | Way::Drains => {
                self.alarms.clear(AlarmKind::CannotDrain);
                return Ok(Moment::Now);
            }
            Way::Listens => {
                self.alarms.clear(AlarmKind::CannotDrain);
                drive.timing.because = None;
                return Ok(Moment::Listening);
            }
            Way::Unknown { why } => {
                tracing::debug!("it cannot be told whether the driver drains: {why}");
                return Ok(Moment::Listening);
            }
            Way::CannotDrain { why, reach } => (why, reach),
        };
        let hindrance = match (&self.spec.boundary, reach) {
            (Some(_), Ok(())) => {
                if drive.timing.because.is_none() {
                    tracing::warn!("{why}: it is signalled between two batches instead");
                }
                drive.timing.because = Some(why);
                self.alarms.clear(AlarmKind::CannotDrain);
                return Ok(Moment::Boundary);
            }
            (None, Ok(())) if self.spec.checkpoints.is_empty() => {
                "and no checkpoint is configured by which its batches could be seen".to_owned()
            }
            (None, Ok(())) => "and at-boundary = \"never\" forbids to signal it".to_owned(),
            (_, Err(far)) => {
                // A stepdown that reaches it may have the lease.
                if let Some(lease) = drive.lease.take() {
                    self.release(lease).await;
                }
                format!("and no signal reaches it from here: {far}")
            }
        };
        let text = format!("{why}, {hindrance}; end the job by hand");
        self.alarms
            .raise(AlarmKind::CannotDrain, &text, &self.spec.hooks);
        Ok(Moment::Listening)
    }

    /// Records that the moment to ask is waited for from now on.
    pub(super) async fn save_waiting(
        &self,
        attempt: &AttemptId,
        drive: &mut Drive,
    ) -> Result<(), StepError> {
        drive.check_lease(self.control.storage().as_ref()).await?;
        let asking = self.asking(attempt, drive.generation());
        drive.record.save_waiting(&asking).await?;
        drive.asked.get_or_insert_with(Instant::now);
        crash_point("waiting-saved");
        Ok(())
    }

    /// Follows the batches for a while, and asks the attempt if the moment comes.
    pub(super) async fn ask_at_boundary(
        &mut self,
        attempt: &AttemptId,
        drive: &mut Drive,
    ) -> Result<Flow, StepError> {
        let Some(policy) = self.spec.boundary.clone() else {
            return Ok(Flow::Wait);
        };
        let storage = std::sync::Arc::clone(self.control.storage());
        // Sure enough to be so at the end of the slice as well.
        drive
            .fence(storage.as_ref(), self.spec.lease_ttl / 2)
            .await?;
        let mut follower = if let Some(follower) = drive.timing.follower.take() {
            follower
        } else {
            let reaction = match policy.reaction {
                Some(set) => set,
                None => self.learnt_reaction().await?,
            };
            let carried = drive.draining_for();
            Follower::new(&self.spec.checkpoints, *policy, reaction, carried)
        };
        if let Some((stamp, at)) = drive.last_clock() {
            follower.know_clock(storage.authority(), stamp, at);
        }
        if !drive.record.steps.requesting && drive.timing.prepared.is_none() {
            // All that can be done before the gap, so that in the gap there is one call and the request.
            let mut asking = self.asking(attempt, drive.generation());
            asking.boundary = Some(follower.report(None, drive.timing.send, None));
            let begun = Instant::now();
            drive.timing.prepared = Some(drive.record.prepare_requesting(&asking).await?);
            drive.timing.send = begun.elapsed();
        }
        let send = drive.timing.send + drive.observed_in;
        let until = Instant::now() + SLICE.min(self.spec.lease_ttl / 8);
        let verdict = if self.is_too_late(drive) {
            Verdict::SendAnyway(Hindrance::Late)
        } else {
            tokio::select! {
                () = self.shutdown.cancelled() => {
                    drive.timing.follower = Some(follower);
                    return Ok(Flow::Go);
                }
                verdict = follower.await_moment(until, send) => verdict,
            }
        };
        let flow = match &verdict {
            Verdict::Wait { hindrance, overdue } => {
                self.tell(hindrance, *overdue, drive);
                Flow::Go
            }
            Verdict::Send(_) | Verdict::SendAnyway(_) => {
                let because = drive.timing.because.as_deref();
                let report = follower.report(Some(&verdict), send, because);
                drive.timing.report = Some(report);
                self.publish_and_ask(attempt, drive).await?
            }
        };
        drive.timing.follower = Some(follower);
        Ok(flow)
    }

    /// How long the driver may plan batches after a request, as far as it was asked before.
    async fn learnt_reaction(&self) -> Result<Duration, StepError> {
        let SlotSpec { job, slot, .. } = &*self.spec;
        let stops = load_newest_receipts(&self.control, job, *slot, STOPS_LEARNT_FROM).await?;
        let stops = stops
            .iter()
            .filter_map(|receipt| Some((receipt.boundary.as_ref()?.asked, receipt.drain_seconds?)));
        Ok(learnt_reaction(stops).unwrap_or(UNKNOWN_REACTION))
    }

    async fn publish_and_ask(
        &mut self,
        attempt: &AttemptId,
        drive: &mut Drive,
    ) -> Result<Flow, StepError> {
        if !drive.is_lease_sure(self.spec.lease_ttl) {
            // This process was halted meanwhile. What follows is decided anew.
            return Ok(Flow::Go);
        }
        let prepared = drive.timing.prepared.take();
        if drive.record.steps.requesting {
            if let Some(prepared) = prepared {
                prepared.discard(self.control.storage().as_ref()).await;
            }
        } else if let Some(prepared) = prepared {
            match drive.record.publish_requesting(prepared).await? {
                Saved::Created => drive.request = Request::Due,
                Saved::Exists => {
                    drive.request = Request::Inherited(Instant::now());
                    return Ok(Flow::Go);
                }
            }
            crash_point("requesting-saved");
        }
        self.request(attempt, drive).await?;
        self.alarms.clear(AlarmKind::NoGap);
        if let Some(report) = &drive.timing.report {
            tracing::info!(
                asked = ?report.asked,
                gap_s = report.gap_seconds,
                idle_s = report.idle_seconds,
                waited_s = report.waited_seconds,
                why = report.why.as_deref(),
                "the moment of the request"
            );
        }
        Ok(Flow::Go)
    }

    /// Whether the attempt would be killed next, so that no gap is waited for any more.
    fn is_too_late(&self, drive: &Drive) -> bool {
        let policy = &self.spec.stop_policy;
        policy.escalate == Escalate::Kill && drive.draining_for() >= policy.drain_deadline
    }

    /// Says what is waited for, once for each sort of it.
    fn tell(&mut self, hindrance: &Hindrance, overdue: bool, drive: &mut Drive) {
        let told = drive.timing.told.as_ref();
        if !told.is_some_and(|told| told.is_same_sort(hindrance)) {
            if hindrance.is_passing() {
                tracing::info!("not asked yet: {hindrance}");
            } else {
                tracing::warn!("not asked yet: {hindrance}");
            }
            drive.timing.told = Some(hindrance.clone());
        }
        if overdue {
            let text = format!(
                "the attempt was not asked to stop yet, and is not before a moment between two \
                 batches comes: {hindrance}"
            );
            self.alarms.raise(AlarmKind::NoGap, &text, &self.spec.hooks);
        }
    }

    /// Whether a driver that was there to say that it had drained ended without that, and without a
    /// signal of stepdown's.
    pub(super) async fn is_undrained(&self, attempt: &AttemptId, drive: &Drive) -> bool {
        if !self.backend.drains_itself() || drive.timing.report.is_some() {
            return false;
        }
        if self.backend.has_drained(attempt).await != Some(false) {
            return false;
        }
        if !drive.record.steps.requesting {
            return true;
        }
        match drive.record.load_asking().await {
            Ok(asking) => asking.is_none_or(|asking| asking.boundary.is_none()),
            Err(error) => {
                tracing::debug!("{}", error_chain(&error));
                false
            }
        }
    }
}
