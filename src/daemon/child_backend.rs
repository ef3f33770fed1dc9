//! The backend of `run`: its own child, asked as the job's backend asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::control::{ControlDir, DocumentError};
use crate::marker::poll::error_chain;
use crate::model::{AttemptId, JobName, Slot};
use crate::stop::command::CommandBackend;
use crate::stop::driver::way_of;
use crate::stop::signal::SignalBackend;
use crate::stop::status::{Phase, StatusFile, load_kit_status};
use crate::stop::{Backend, BackendError, Exit, Freshness, Observation, StopOrder, Way};

/// How long after a child is seen to be gone its exit code may take to be known.
const EXIT_TOLD: Duration = Duration::from_millis(500);

/// The right to make the one request of an attempt: its engine and a signal that is passed on may
/// come to it at the same moment, and a second signal means "abort" to many a driver.
#[derive(Debug, Clone, Default)]
pub(super) struct OneRequest(Arc<AtomicBool>);

impl OneRequest {
    /// Takes the right; false if it was taken before.
    pub(super) fn claim(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }

    /// Whether it was taken.
    pub(super) fn is_claimed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn give_back(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// Where the driver kit of the child writes its status, if there is one.
#[derive(Debug)]
pub(super) struct KitWord {
    pub(super) control: ControlDir,
    pub(super) job: JobName,
    pub(super) slot: Slot,
    pub(super) heartbeat_timeout: Duration,
}

impl KitWord {
    async fn load(&self) -> Result<Option<(StatusFile, Timestamp)>, DocumentError> {
        load_kit_status(&self.control, &self.job, self.slot).await
    }

    async fn way(&self, now: Timestamp) -> Result<Way, DocumentError> {
        let word = self.load().await?;
        let Some((phase, kit, written_at)) = word
            .as_ref()
            .and_then(|(status, at)| Some((status.phase, status.kit.as_deref()?, *at)))
        else {
            // One without a kit looks at its marker by means of its own.
            return Ok(Way::Drains);
        };
        let silence = Duration::try_from(now.duration_since(written_at)).unwrap_or_default();
        let way = way_of(phase, kit, silence, self.heartbeat_timeout);
        Ok(way.unwrap_or_else(|why| Way::CannotDrain {
            why,
            // It is this process's child.
            reach: Ok(()),
        }))
    }
}

/// How the child is asked.
#[derive(Debug)]
pub(super) enum ChildRequest {
    /// By the signal.
    Signal(OneRequest),
    /// Not at all: it sees its marker itself; by the signal if its kit says that it cannot drain.
    Driver {
        /// What the kit says.
        kit: KitWord,
        one_request: OneRequest,
    },
    /// By the operator's program.
    Command(CommandBackend),
}

/// The backend for a child of this process, which knows how it ended.
#[derive(Debug)]
pub(super) struct ChildBackend {
    /// Finds, observes and kills the child, and asks it where a signal does.
    pub(super) signal: SignalBackend,
    pub(super) exit: watch::Receiver<Option<Exit>>,
    pub(super) request: ChildRequest,
}

#[async_trait]
impl Backend for ChildBackend {
    fn name(&self) -> &'static str {
        match &self.request {
            ChildRequest::Signal(_) => self.signal.name(),
            ChildRequest::Driver { .. } => "driver",
            ChildRequest::Command(command) => command.name(),
        }
    }

    async fn find_attempt(&self) -> Result<Option<AttemptId>, BackendError> {
        self.signal.find_attempt().await
    }

    fn check_reach(&self, attempt: &AttemptId) -> Result<(), BackendError> {
        self.signal.check_reach(attempt)
    }

    async fn request_stop(
        &self,
        attempt: &AttemptId,
        order: &StopOrder,
    ) -> Result<(), BackendError> {
        match &self.request {
            ChildRequest::Driver { .. } if !order.instead_of_drain => Ok(()),
            ChildRequest::Signal(one_request) | ChildRequest::Driver { one_request, .. } => {
                if !one_request.claim() {
                    return Ok(());
                }
                let asked = self.signal.request_stop(attempt, order).await;
                if asked.is_err() {
                    one_request.give_back();
                }
                asked
            }
            ChildRequest::Command(command) => command.request_stop(attempt, order).await,
        }
    }

    async fn observe(&self, attempt: &AttemptId, freshness: Freshness) -> Observation {
        match self.signal.observe(attempt, freshness).await {
            Observation::Stopped { exit } => {
                // The parent may be about to learn the exit code.
                let mut told = self.exit.clone();
                let known = tokio::time::timeout(EXIT_TOLD, told.wait_for(Option::is_some)).await;
                let known = known.ok().and_then(Result::ok).and_then(|exit| *exit);
                Observation::Stopped {
                    exit: known.or(exit),
                }
            }
            other @ (Observation::Running
            | Observation::Stopping
            | Observation::Restarted { .. }
            | Observation::Unknown { .. }) => other,
        }
    }

    async fn await_change(&self, attempt: &AttemptId, at_most: Duration) {
        self.signal.await_change(attempt, at_most).await;
    }

    async fn await_news(&self, attempt: Option<&AttemptId>, pace: Duration) {
        self.signal.await_news(attempt, pace).await;
    }

    async fn force(&self, attempt: &AttemptId, order: &StopOrder) -> Result<(), BackendError> {
        if let ChildRequest::Command(command) = &self.request {
            match command.force(attempt, order).await {
                // Without a program for it, the child is this process's to kill.
                Err(BackendError::Unsupported { .. }) => {}
                forced => return forced,
            }
        }
        self.signal.force(attempt, order).await
    }

    fn drains_itself(&self) -> bool {
        matches!(self.request, ChildRequest::Driver { .. })
    }

    async fn way(&self, _: &AttemptId, now: Timestamp) -> Way {
        match &self.request {
            ChildRequest::Signal(_) | ChildRequest::Command(_) => Way::Asked,
            ChildRequest::Driver { kit, .. } => {
                kit.way(now).await.unwrap_or_else(|error| Way::Unknown {
                    why: error_chain(&error),
                })
            }
        }
    }

    async fn has_drained(&self, _: &AttemptId) -> Option<bool> {
        let ChildRequest::Driver { kit, .. } = &self.request else {
            return None;
        };
        let (status, _) = kit.load().await.ok()??;
        Some(matches!(status.phase, Phase::Drained | Phase::Ended))
    }

    async fn reports_running(&self, attempt: &AttemptId) -> bool {
        self.signal.reports_running(attempt).await
    }
}
