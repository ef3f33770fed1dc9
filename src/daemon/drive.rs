//! What one stop remembers while this process drives it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::moment::Timing;
use super::stopping::Early;
use crate::control::{Lease, LeaseError, LeaseWatch, Prepared};
use crate::model::Generation;
use crate::stop::Observation;
use crate::stop::decide::{Act, Look, Moment};
use crate::stop::receipt::CheckpointCopy;
use crate::stop::record::{Intent, Reason, StopRecord};

/// The memory of one stop in this process.
pub(super) struct Drive {
    pub(super) reason: Reason,
    pub(super) record: StopRecord,
    pub(super) lease: Option<Lease>,
    pub(super) lease_watch: LeaseWatch,
    pub(super) prepared: Option<Prepared<Intent>>,
    pub(super) look: Look,
    pub(super) request: Request,
    pub(super) kill: Act,
    /// Drain time from before this process took the stop up, and when it did.
    pub(super) carried: Duration,
    pub(super) asked: Option<Instant>,
    pub(super) observation: Observation,
    /// The record has to be read again before anything is decided by it.
    pub(super) is_stale: bool,
    /// Another held the lease meanwhile, so what led to this stop was seen a while ago.
    pub(super) waited: bool,
    /// The attempt was asked by a signal that was passed on.
    pub(super) signalled: bool,
    /// When the attempt was seen to be over, and how long it had drained then.
    pub(super) ended: Option<(Timestamp, Duration)>,
    /// Since when the checkpoints are being copied.
    pub(super) copying_since: Option<Instant>,
    /// The copies that are made or will not be, in the order of the checkpoints.
    pub(super) copies: Vec<CheckpointCopy>,
    /// When it can be asked, as of this step.
    pub(super) moment: Moment,
    /// How its moment is found.
    pub(super) timing: Box<Timing>,
    /// What the last observation took.
    pub(super) observed_in: Duration,
    /// The storage's time at that moment, at most.
    pub(super) clock: Option<(Timestamp, Instant)>,
}

/// State of the request in this process.
#[derive(Clone, Copy)]
pub(super) enum Request {
    None,
    Due,
    Inherited(Instant),
    Done,
}

impl Drive {
    pub(super) fn new(reason: Reason, record: StopRecord, early: Early) -> Self {
        let mut drive = Self {
            reason,
            record,
            lease: early.lease,
            lease_watch: LeaseWatch::default(),
            prepared: early.intent,
            look: Look::Unknown,
            request: Request::None,
            kill: Act::None,
            carried: Duration::ZERO,
            asked: None,
            observation: Observation::Unknown {
                why: "no look yet".to_owned(),
            },
            is_stale: false,
            waited: false,
            signalled: false,
            ended: None,
            copying_since: None,
            copies: Vec::new(),
            moment: Moment::Now,
            timing: Box::default(),
            observed_in: Duration::ZERO,
            clock: None,
        };
        drive.inherit();
        drive
    }

    /// What the marker said may not be true any more: it is looked at again before the latch.
    pub(super) fn look_again(&mut self) {
        if self.reason != Reason::Signal {
            self.look = Look::Unknown;
        }
    }

    /// Takes what is on the storage as another's acts of unknown fate.
    pub(super) fn inherit(&mut self) {
        self.request = match (self.record.steps.requesting, self.record.steps.requested) {
            (_, true) => Request::Done,
            (true, false) if self.signalled => Request::Done,
            (true, false) => Request::Inherited(Instant::now()),
            (false, false) => Request::None,
        };
        self.kill = if self.record.steps.killing {
            Act::Inherited(Duration::ZERO)
        } else {
            Act::None
        };
    }

    pub(super) fn is_asking(&self) -> bool {
        let steps = self.record.steps;
        let ours = matches!(self.request, Request::Due | Request::Done);
        steps.requesting && !steps.requested && !steps.receipt && ours
    }

    /// Someone wants the stop who need not take the marker away for it.
    pub(super) fn wanted(&mut self) {
        self.reason = Reason::Signal;
        self.look = Look::Asks;
    }

    /// The attempt was asked by a signal that was passed on: no further request is due.
    pub(super) fn signalled(&mut self) {
        self.wanted();
        if std::mem::replace(&mut self.signalled, true) {
            return;
        }
        self.asked.get_or_insert_with(Instant::now);
        if self.record.steps.requesting {
            self.request = Request::Done;
        }
    }

    pub(super) fn generation(&self) -> Generation {
        self.lease.as_ref().map_or(Generation(0), Lease::generation)
    }

    /// Makes sure that the lease is still ours right before an act that no file can take back.
    pub(super) async fn fence(
        &mut self,
        storage: &dyn crate::storage::Storage,
        ttl: Duration,
    ) -> Result<(), LeaseError> {
        match &mut self.lease {
            Some(lease) if !lease.is_sure(ttl) => lease.beat(storage).await.map(drop),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether nobody can have taken the lease over since its last beat.
    pub(super) fn is_lease_sure(&self, ttl: Duration) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.is_sure(ttl))
    }

    /// The storage's time, at most so long ago: it was not later than that at that moment.
    pub(super) async fn clock(
        &mut self,
        storage: &dyn crate::storage::Storage,
        max_age: Duration,
    ) -> Result<(Timestamp, Instant), LeaseError> {
        if let Some(known) = self.clock
            && known.1.elapsed() < max_age
        {
            return Ok(known);
        }
        let begun = Instant::now();
        let known = match &mut self.lease {
            Some(lease) => (lease.beat(storage).await?, begun),
            // Only for as long as the lease is not ours, when nothing is done by it.
            None => (Timestamp::now(), begun),
        };
        self.clock = Some(known);
        Ok(known)
    }

    /// As [`clock`](Drive::clock), as it was last asked for.
    pub(super) fn last_clock(&self) -> Option<(Timestamp, Instant)> {
        self.clock
    }

    pub(super) async fn check_lease(
        &self,
        storage: &dyn crate::storage::Storage,
    ) -> Result<(), LeaseError> {
        match &self.lease {
            Some(lease) => lease.check(storage).await,
            None => Ok(()),
        }
    }

    pub(super) fn request_act(&self) -> Act {
        match self.request {
            Request::None => Act::None,
            Request::Due => Act::Due,
            Request::Inherited(since) => Act::Inherited(since.elapsed()),
            Request::Done => Act::Done,
        }
    }

    pub(super) fn draining_for(&self) -> Duration {
        self.asked
            .map_or(Duration::ZERO, |since| self.carried + since.elapsed())
    }
}
