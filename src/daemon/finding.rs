//! Finding the attempt that a slot's engine has to follow.

use tokio::time::Instant;
use tracing::Instrument as _;

use super::alarm::AlarmKind;
use super::slot::SlotEngine;
use crate::marker::poll::error_chain;
use crate::model::AttemptId;
use crate::stop::record::load_unconfirmed;
use crate::stop::{Freshness, Observation};

/// How the wait for an attempt ends.
#[derive(Debug)]
pub(super) enum Awaited {
    /// There is one to follow.
    Attempt(AttemptId),
    /// There is none, and what would tell of one wakes the slot.
    Rest,
    /// stepdown is shutting down.
    Shutdown,
}

impl SlotEngine {
    /// Waits until there is an attempt to follow: one that runs in the slot, or one that ended while
    /// nobody looked and has no receipt yet.
    pub(super) async fn await_attempt(&mut self) -> Awaited {
        let mut failing: Option<Instant> = None;
        loop {
            let span = self.span();
            let looked = Box::pin(self.look_for_attempt(&mut failing)).instrument(span);
            if let Some(found) = looked.await {
                return Awaited::Attempt(found);
            }
            if failing.is_none() && self.rest_without_attempt() {
                return Awaited::Rest;
            }
            self.beginning = None;
            let backend = &self.backend;
            let interval = self.spec.attempt_interval;
            let news = match failing {
                None => backend.await_news(None, interval),
                Some(_) => Box::pin(tokio::time::sleep(interval)),
            };
            tokio::select! {
                () = self.shutdown.cancelled() => return Awaited::Shutdown,
                () = news => {}
            }
        }
    }

    async fn look_for_attempt(&mut self, failing: &mut Option<Instant>) -> Option<AttemptId> {
        match self.find_attempt().await {
            Ok(found) => {
                *failing = None;
                self.alarms.clear(AlarmKind::AttemptUnknown);
                found
            }
            Err(why) => {
                let since = *failing.get_or_insert_with(Instant::now);
                let text = format!("it cannot be told what runs: {why}");
                self.alarm_if_late(AlarmKind::AttemptUnknown, since, &text);
                None
            }
        }
    }

    async fn find_attempt(&mut self) -> Result<Option<AttemptId>, String> {
        if let Some(ended) = self.find_left_over().await? {
            return Ok(Some(ended));
        }
        let found = self.backend.find_attempt().await;
        let found = found.map_err(|error| error_chain(&error))?;
        Ok(match found {
            Some(attempt) if self.is_confirmed(&attempt).await => None,
            other => other,
        })
    }

    /// An attempt that was armed, has no receipt and is over: an engine before this one did not come
    /// to write it. Those of which nothing can be told here are asked for again each time.
    async fn find_left_over(&mut self) -> Result<Option<AttemptId>, String> {
        let mut left = if let Some(left) = self.left_over.take() {
            left
        } else {
            let _permit = self.daemon.writes.acquire().await;
            load_unconfirmed(&self.control, &self.spec.job, self.spec.slot)
                .await
                .map_err(|error| error_chain(&error))?
        };
        let mut still = Vec::new();
        let mut found = None;
        while let Some(attempt) = left.pop() {
            match self.backend.observe(&attempt, Freshness::Now).await {
                Observation::Stopped { .. } | Observation::Restarted { .. } => {
                    if !self.is_confirmed(&attempt).await {
                        tracing::warn!(attempt = %attempt, "an earlier attempt ended unseen");
                        found = Some(attempt);
                        break;
                    }
                }
                // It is found as the one that runs.
                Observation::Running | Observation::Stopping => {}
                Observation::Unknown { why } => {
                    tracing::debug!(attempt = %attempt, "nothing is known of it here: {why}");
                    if !self.is_confirmed(&attempt).await {
                        still.push(attempt);
                    }
                }
            }
        }
        left.extend(still);
        self.left_over = Some(left);
        Ok(found)
    }

    /// Whether the attempt has its receipt already: then what still shows it is out of date.
    async fn is_confirmed(&self, attempt: &AttemptId) -> bool {
        let path = self
            .control
            .receipt(&self.spec.job, &attempt.stop_id(self.spec.slot));
        self.control.storage().stat(&path).await.is_ok()
    }
}
