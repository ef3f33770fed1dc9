//! Rest: a slot in which nothing happens has no engine. What its engine knew is kept in a few words, and
//! one is made from them again when its marker, its directory or its status file is not as it was.
//!
//! An engine rests only where those two, the round and the listing of the status files, would tell of
//! everything that it waits for: nothing is to be repeated, no alarm is to come, no clock runs. What is
//! kept is on the storage, too (the armed record), so that a crash while a slot rests loses nothing.

use super::alarm::Alarms;
use super::following::Watched;
use super::slot::SlotEngine;
use crate::marker::GuardRecord;
use crate::model::AttemptId;

/// What is kept of an engine that rests.
#[derive(Debug)]
pub(super) struct Rested {
    /// The attempt that it follows; none where nothing runs in the slot.
    pub(super) armed: Option<RestedAttempt>,
    /// The alarms that are on.
    pub(super) alarms: Alarms,
}

/// An attempt whose marker stands as it should.
#[derive(Debug)]
pub(super) struct RestedAttempt {
    pub(super) attempt: AttemptId,
    /// The directory in which it is armed.
    pub(super) directory: GuardRecord,
}

impl SlotEngine {
    /// What is to be kept of this engine, which has come to rest.
    pub(super) fn rest(&mut self, armed: Option<RestedAttempt>) -> Rested {
        Rested {
            armed,
            alarms: std::mem::take(&mut self.alarms),
        }
    }

    /// Whether a slot in which nothing runs can rest. True means that the engine has to go: what comes
    /// from now on wakes its number.
    pub(super) fn rest_without_attempt(&self) -> bool {
        let (Some(sleeper), Some(seat)) = (&self.sleeper, self.backend.told_by(None)) else {
            return false;
        };
        if self.left_over.as_ref().is_none_or(|left| !left.is_empty()) {
            return false;
        }
        // Nothing runs that a marker could speak of.
        self.sightings.ignore();
        seat.rest(sleeper.clone())
    }

    /// As [`SlotEngine::rest_without_attempt`], for a slot whose attempt is armed and runs.
    pub(super) fn rest_on_attempt(&self, attempt: &AttemptId, watched: &Watched) -> bool {
        let Some(sleeper) = &self.sleeper else {
            return false;
        };
        if !watched.is_at_rest() || self.unguarded.is_some() {
            return false;
        }
        let Some(seat) = self.backend.told_by(Some(attempt)) else {
            return false;
        };
        if !self.sightings.fall_asleep() {
            return false;
        }
        let rests = seat.rest(sleeper.clone());
        if !rests {
            self.sightings.stay_awake();
        }
        rests
    }
}
