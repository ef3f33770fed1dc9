//! What the single steps of a stop do.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::alarm::AlarmKind;
use super::crash_point::crash_point;
use super::drive::{Drive, Request};
use super::hooks::HookEvent;
use super::slot::SlotEngine;
use super::stopping::{Flow, StepError, StopEnd};
use crate::control::Saved;
use crate::marker::poll::{DirectoryPoll, GuardRecord, Sighting, Why, error_chain};
use crate::model::{AttemptId, Generation};
use crate::stop::decide::{Act, Look, Moment, Next, Outcome};
use crate::stop::proof::prove;
use crate::stop::receipt::{How, Receipt, load_receipt, save_receipt};
use crate::stop::record::{Reason, StopRecord};
use crate::stop::retention::{KEEP_RECEIPTS, remove_old_records};
use crate::stop::{Observation, StopOrder};
use crate::storage::StorageUri;

impl SlotEngine {
    pub(super) async fn is_protected(
        &self,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
    ) -> bool {
        self.backend.reports_running(attempt).await && self.look_now(armed_in).await != Look::Asks
    }

    /// One look at the marker, by itself.
    async fn look(&self, armed_in: Option<&GuardRecord>) -> Sighting {
        let path = &self.spec.marker.path;
        let Some(dir) = path.parent() else {
            return Sighting::Unknown(Why::NotLooked);
        };
        let mut poll = DirectoryPoll::new(
            Arc::clone(&self.spec.marker_storage),
            dir,
            &self.spec.sentinel_dir,
            vec![path.name().to_owned()],
            self.daemon.boot_id.clone(),
        );
        let trigger = self.spec.marker_policy.trigger;
        poll.poll().await.sighting(0, trigger, armed_in)
    }

    /// The look after the intent, by the server that shows the intent: one that was cut off from the
    /// others, and does not know yet that it is not the active one, does not have it.
    async fn look_after_intent(
        &self,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
    ) -> Result<Look, StepError> {
        let path = self
            .control
            .intent(&self.spec.job, &attempt.stop_id(self.spec.slot));
        let same_storage =
            self.control.storage().authority() == self.spec.marker_storage.authority();
        let epoch = self.spec.marker_storage.epoch();
        if same_storage {
            match self.spec.marker_storage.stat(&path).await {
                Ok(_) => {}
                // Also where it is only not there any more: an error has the record read again.
                Err(error) => return Err(error.into()),
            }
        }
        let sighting = self.look(armed_in).await;
        if same_storage && self.spec.marker_storage.epoch() != epoch {
            return Ok(Look::Unknown);
        }
        Ok(self.read_look(&sighting))
    }

    pub(super) async fn execute(
        &mut self,
        next: Next,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
        drive: &mut Drive,
    ) -> Result<Flow, StepError> {
        let storage = Arc::clone(self.control.storage());
        match next {
            Next::SaveIntent => self.save_intent(attempt, drive).await?,
            Next::Look => {
                drive.look = self.look_for(attempt, armed_in, drive).await?;
                crash_point("looked");
                if drive.look == Look::Unknown {
                    return Ok(Flow::Wait);
                }
            }
            Next::Withdraw => {
                drive.record.withdraw().await?;
                tracing::info!("the marker is back: the stop is withdrawn");
                return Ok(Flow::End(StopEnd::Withdrawn));
            }
            Next::Latch => {
                drive.check_lease(storage.as_ref()).await?;
                drive.record.latch().await?;
                crash_point("latched");
                tracing::info!(stop_id = %attempt.stop_id(self.spec.slot), "stopping");
            }
            Next::SaveWaiting => self.save_waiting(attempt, drive).await?,
            Next::AwaitMoment | Next::OverdueMoment => {
                if next == Next::OverdueMoment {
                    self.raise_overdue(&drive.observation);
                }
                return match drive.moment {
                    Moment::Boundary => Box::pin(self.ask_at_boundary(attempt, drive)).await,
                    Moment::Now | Moment::Listening => Ok(Flow::Wait),
                };
            }
            Next::SaveRequesting => {
                drive.check_lease(storage.as_ref()).await?;
                let asking = self.asking(attempt, drive.generation());
                drive.request = match drive.record.save_requesting(&asking).await? {
                    _ if drive.signalled => Request::Done,
                    Saved::Created => Request::Due,
                    Saved::Exists => Request::Inherited(Instant::now()),
                };
                drive.asked.get_or_insert_with(Instant::now);
                crash_point("requesting-saved");
            }
            // One whose request failed, or whose fate is not known, waits for its moment again.
            Next::Request if drive.moment == Moment::Boundary => {
                return Box::pin(self.ask_at_boundary(attempt, drive)).await;
            }
            Next::Request => {
                drive.fence(storage.as_ref(), self.spec.lease_ttl).await?;
                self.request(attempt, drive).await?;
            }
            Next::SaveRequested => {
                let mut asked = self.asking(attempt, drive.generation());
                asked.boundary.clone_from(&drive.timing.report);
                drive.record.save_requested(&asked).await?;
                crash_point("requested-saved");
            }
            Next::Observe => return Ok(Flow::Wait),
            Next::Overdue => {
                self.raise_overdue(&drive.observation);
                return Ok(Flow::Wait);
            }
            Next::SaveKilling => {
                drive.check_lease(storage.as_ref()).await?;
                drive.record.save_killing().await?;
                drive.kill = Act::Due;
                crash_point("killing-saved");
            }
            Next::Kill => {
                drive.fence(storage.as_ref(), self.spec.lease_ttl).await?;
                self.backend
                    .force(attempt, &self.order(attempt, drive.generation()))
                    .await?;
                drive.kill = Act::Done;
                crash_point("killed");
                tracing::warn!("the drain deadline has passed: the attempt was killed");
            }
            Next::Confirm(outcome) => {
                let receipt = self.confirm(outcome, attempt, armed_in, drive).await?;
                return Ok(Flow::End(StopEnd::Receipt(Box::new(receipt))));
            }
            Next::Done => return self.end_with_receipt(attempt).await,
        }
        Ok(Flow::Go)
    }

    /// Asks the attempt, by a lease that is sure.
    pub(super) async fn request(
        &self,
        attempt: &AttemptId,
        drive: &mut Drive,
    ) -> Result<(), StepError> {
        let mut order = self.order(attempt, drive.generation());
        order.instead_of_drain = drive.timing.because.is_some();
        self.backend.request_stop(attempt, &order).await?;
        drive.request = Request::Done;
        // Only now it is known to have been asked, so its time to drain begins now.
        drive.carried = Duration::ZERO;
        drive.asked = Some(Instant::now());
        self.requested.raise();
        crash_point("requested");
        if self.backend.drains_itself() && !order.instead_of_drain {
            tracing::info!(
                backend = self.backend.name(),
                "the marker asks the attempt to stop; nothing else is sent"
            );
        } else {
            tracing::info!(backend = self.backend.name(), "asked the attempt to stop");
        }
        Ok(())
    }

    /// The receipt that another wrote, as the end of the stop; waits where there is none.
    pub(super) async fn end_with_receipt(&self, attempt: &AttemptId) -> Result<Flow, StepError> {
        let stop_id = attempt.stop_id(self.spec.slot);
        Ok(
            match load_receipt(&self.control, &self.spec.job, &stop_id).await? {
                Some(receipt) => Flow::End(StopEnd::Receipt(Box::new(receipt))),
                None => Flow::Wait,
            },
        )
    }

    async fn save_intent(&self, attempt: &AttemptId, drive: &mut Drive) -> Result<(), StepError> {
        let prepared = match drive.prepared.take() {
            Some(prepared) if drive.reason == Reason::Marker => prepared,
            unfit => {
                if let Some(prepared) = unfit {
                    prepared.discard(self.control.storage().as_ref()).await;
                }
                let intent = self.intent(attempt, drive.reason, drive.generation());
                drive.record.prepare_intent(&intent).await?
            }
        };
        drive.record.save_intent(prepared).await?;
        crash_point("intent-saved");
        Ok(())
    }

    async fn look_for(
        &self,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
        drive: &Drive,
    ) -> Result<Look, StepError> {
        if drive.reason == Reason::Signal {
            return Ok(Look::Asks);
        }
        if drive.record.steps.intent {
            return self.look_after_intent(attempt, armed_in).await;
        }
        Ok(self.look_now(armed_in).await)
    }

    /// One look at the marker, as far as it bears on a stop.
    pub(super) async fn look_now(&self, armed_in: Option<&GuardRecord>) -> Look {
        self.read_look(&self.look(armed_in).await)
    }

    fn read_look(&self, sighting: &Sighting) -> Look {
        match self.spec.marker_policy.trigger.asks(sighting) {
            Some(true) => Look::Asks,
            Some(false) => Look::Withdrawn,
            None => {
                if let Sighting::Unknown(why) = sighting {
                    tracing::warn!("the marker is unknown, so nothing is stopped yet: {why}");
                }
                Look::Unknown
            }
        }
    }

    fn raise_overdue(&mut self, observation: &Observation) {
        let mut text = format!(
            "the drain deadline of {} s has passed and the attempt still runs",
            self.spec.stop_policy.drain_deadline.as_secs()
        );
        if let Observation::Unknown { why } = observation {
            text.push_str(", as far as can be told: ");
            text.push_str(why);
        }
        self.alarms
            .raise(AlarmKind::Overdue, &text, &self.spec.hooks);
    }

    fn order(&self, attempt: &AttemptId, generation: Generation) -> StopOrder {
        StopOrder {
            job: self.spec.job.clone(),
            slot: self.spec.slot,
            stop_id: attempt.stop_id(self.spec.slot),
            generation,
            marker: self.spec.marker.clone(),
            drain_deadline: self.spec.stop_policy.drain_deadline,
            instead_of_drain: false,
        }
    }

    async fn confirm(
        &mut self,
        outcome: Outcome,
        attempt: &AttemptId,
        armed_in: Option<&GuardRecord>,
        drive: &mut Drive,
    ) -> Result<Receipt, StepError> {
        // Of the first time: a receipt that can only be written later does not make the drain longer.
        let draining_for = drive.draining_for();
        let (ended_at, drained_for) = *drive
            .ended
            .get_or_insert_with(|| (Timestamp::now(), draining_for));
        let stop_id = attempt.stop_id(self.spec.slot);
        // Once more from the storage, for the time stamps of what this process wrote.
        drive.record = StopRecord::load(&self.control, &self.spec.job, &stop_id).await?;
        let steps = drive.record.steps;
        let intent = if steps.intent {
            drive.record.load_intent().await?
        } else {
            None
        };
        let signalled = drive.signalled;
        let boundary = if steps.requesting && self.spec.boundary.is_some() {
            let asked = drive.record.load_asked().await?;
            let asked = asked.and_then(|asked| asked.boundary);
            match asked.or_else(|| drive.timing.report.clone()) {
                Some(report) => Some(report),
                None => drive
                    .record
                    .load_asking()
                    .await?
                    .and_then(|asking| asking.boundary),
            }
        } else {
            None
        };
        let start_requested = steps.latched
            && drive.reason != Reason::Signal
            && self.look_now(armed_in).await == Look::Withdrawn;
        if start_requested {
            let request = self.control.start_request(&self.spec.job, &stop_id);
            self.control.storage().touch(&request).await?;
        }
        let proof = prove(&self.spec.checkpoints).await;
        crash_point("proved");
        if outcome == Outcome::Stopped {
            Box::pin(self.copy_checkpoints(&stop_id, drive)).await?;
        }
        let (exit, restarted_as) = match &drive.observation {
            Observation::Stopped { exit } => (*exit, None),
            Observation::Restarted { attempt } => (None, Some(attempt.clone())),
            Observation::Running | Observation::Stopping | Observation::Unknown { .. } => {
                (None, None)
            }
        };
        let receipt = Receipt {
            stop_id: stop_id.clone(),
            job: self.spec.job.clone(),
            slot: self.spec.slot,
            attempt: attempt.clone(),
            marker: self.spec.marker.clone(),
            outcome,
            restarted_as,
            reason: match (outcome, intent) {
                (_, Some(intent)) => intent.reason,
                (Outcome::Stopped | Outcome::Restarted, None) => drive.reason,
                (Outcome::Died, None) => Reason::None,
            },
            how: match outcome {
                _ if steps.killing || self.aborted.is_raised() => How::Killed,
                Outcome::Died => How::ByItself,
                _ if !steps.requesting && !signalled && !self.backend.drains_itself() => {
                    How::ByItself
                }
                _ if drained_for > self.spec.stop_policy.drain_deadline => How::DrainedLate,
                Outcome::Stopped | Outcome::Restarted => How::Drained,
            },
            exit,
            boundary,
            proof,
            copies: std::mem::take(&mut drive.copies),
            start_requested,
            latched_at: drive.record.latched_at,
            ended_at,
            drain_seconds: (steps.requesting
                || signalled
                || (steps.waiting && self.backend.drains_itself()))
            .then_some(drained_for.as_secs_f64()),
            generation: drive.generation(),
            backend: self.backend.name().to_owned(),
            host: self.daemon.host.clone(),
            stepdown_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let saved = save_receipt(&self.control, &receipt).await?;
        crash_point("receipt-saved");
        let path = self.control.receipt(&self.spec.job, &stop_id);
        if saved == Saved::Exists {
            let first = load_receipt(&self.control, &self.spec.job, &stop_id).await?;
            return Ok(first.unwrap_or(receipt));
        }
        self.announce(&receipt, &self.control.uri(&path)).await;
        self.remove_old_records().await;
        Ok(receipt)
    }

    /// A stop that is over does not fail because older ones could not be tidied away.
    async fn remove_old_records(&self) {
        let spec = &self.spec;
        match remove_old_records(&self.control, &spec.job, spec.slot, KEEP_RECEIPTS).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed the records of old stops"),
            Err(error) => {
                tracing::warn!("the records of old stops stay: {}", error_chain(&error));
            }
        }
    }

    async fn announce(&mut self, receipt: &Receipt, uri: &StorageUri) {
        tracing::info!(
            outcome = ?receipt.outcome,
            proof = receipt.proof.verdict.as_str(),
            receipt = %uri,
            "the stop is confirmed"
        );
        self.spec
            .hooks
            .run(HookEvent::Receipt { receipt, uri })
            .await;
        if let (Outcome::Restarted, Some(new)) = (receipt.outcome, &receipt.restarted_as) {
            self.alarms.clear(AlarmKind::Restarted);
            let text = format!(
                "attempt {} is over, but {new} runs in its place",
                receipt.attempt
            );
            self.alarms
                .raise(AlarmKind::Restarted, &text, &self.spec.hooks);
        }
    }
}
