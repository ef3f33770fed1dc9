//! The `driver` backend: nothing is sent. The driver sees its marker itself; stepdown follows its
//! status file and waits for its end.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::status::{Phase, StatusBoard, StatusFile};
use super::{
    Backend, BackendError, Freshness, Observation, StopOrder, await_process, await_status_news,
};
use crate::model::{AttemptId, JobName, Slot};
use crate::process;

/// Follows a driver by its status file.
#[derive(Debug)]
pub struct DriverBackend {
    board: Arc<StatusBoard>,
    job: JobName,
    slot: Slot,
}

impl DriverBackend {
    /// The backend of one slot.
    pub fn new(board: Arc<StatusBoard>, job: JobName, slot: Slot) -> Self {
        Self { board, job, slot }
    }

    async fn load(&self) -> Result<Option<Arc<StatusFile>>, BackendError> {
        Ok(self.board.load(&self.job, self.slot).await?)
    }
}

/// What a status file says of `attempt`, taken together with what this host knows of its process.
pub(super) fn observe_status(status: Option<&StatusFile>, attempt: &AttemptId) -> Observation {
    let process = match attempt {
        AttemptId::Process { .. } => process::observe(attempt, process::EndsWith::Process),
        AttemptId::Named { .. } => process::ProcessState::Unknown {
            why: "it is not a process of this host".to_owned(),
        },
    };
    match (status, process) {
        (_, process::ProcessState::Stopped { .. }) => ended_or_restarted(status, attempt),
        (Some(status), _) if status.attempt == *attempt => match status.phase {
            Phase::Ended => Observation::Stopped { exit: status.exit },
            Phase::Draining | Phase::Drained => Observation::Stopping,
            Phase::Starting | Phase::Held | Phase::Running => Observation::Running,
        },
        (_, process::ProcessState::Running { .. }) => Observation::Running,
        // A slot has one status file, and an attempt writes it for as long as it runs.
        (Some(status), process::ProcessState::Unknown { .. }) => Observation::Restarted {
            attempt: status.attempt.clone(),
        },
        (None, process::ProcessState::Unknown { why }) => Observation::Unknown { why },
    }
}

fn ended_or_restarted(status: Option<&StatusFile>, attempt: &AttemptId) -> Observation {
    match status {
        Some(status) if status.attempt == *attempt => Observation::Stopped { exit: status.exit },
        Some(status) if status.phase != Phase::Ended => Observation::Restarted {
            attempt: status.attempt.clone(),
        },
        _ => Observation::Stopped { exit: None },
    }
}

#[async_trait]
impl Backend for DriverBackend {
    fn name(&self) -> &'static str {
        "driver"
    }

    async fn find_attempt(&self) -> Result<Option<AttemptId>, BackendError> {
        let status = self.load().await?;
        Ok(status
            .filter(|status| status.phase != Phase::Ended)
            .map(|status| status.attempt.clone()))
    }

    fn check_reach(&self, _: &AttemptId) -> Result<(), BackendError> {
        Ok(())
    }

    async fn request_stop(&self, _: &AttemptId, _: &StopOrder) -> Result<(), BackendError> {
        Ok(())
    }

    async fn observe(&self, attempt: &AttemptId, freshness: Freshness) -> Observation {
        match self.board.load_as(&self.job, self.slot, freshness).await {
            Ok(status) => observe_status(status.as_deref(), attempt),
            Err(error) => Observation::Unknown {
                why: error.to_string(),
            },
        }
    }

    async fn await_change(&self, attempt: &AttemptId, at_most: Duration) {
        await_process(attempt, process::EndsWith::Process, at_most).await;
    }

    async fn await_news(&self, attempt: Option<&AttemptId>, pace: Duration) {
        let ends_with = process::EndsWith::Process;
        await_status_news(&self.board, &self.job, self.slot, attempt, ends_with, pace).await;
    }

    async fn force(&self, _: &AttemptId, _: &StopOrder) -> Result<(), BackendError> {
        Err(BackendError::Unsupported {
            backend: "driver",
            action: "kill an attempt",
        })
    }

    fn drains_itself(&self) -> bool {
        true
    }

    async fn reports_running(&self, attempt: &AttemptId) -> bool {
        self.load().await.is_ok_and(|status| {
            status
                .is_some_and(|status| status.attempt == *attempt && status.phase == Phase::Running)
        })
    }
}
