//! The next step of a rollout, from what is on record and what is seen. Pure.
//!
//! One function for each state: [`before`] while x has not been asked to stop, [`across`] from there to
//! the end, [`back`] on the ways back. The strategies are paths through the same states.

mod across;
mod back;
mod before;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
#[cfg(test)]
pub(super) use tests::record_of as tests_record;

use std::borrow::Cow;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::observation::{Known, Life, Seen, StopSeen};
use super::record::Record;
use super::state::{Act, Outcome, State};
use crate::model::AttemptId;

/// How long each state may last; counted by the storage's clock from the entry into the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// `preparing`.
    pub prepare: Duration,
    /// `starting`, and a start command in `cutover` or `recover-old`.
    pub start: Duration,
    /// `held` and `shadow`.
    pub gate: Duration,
    /// `stopping`: then there is an alarm.
    pub drain: Duration,
    /// `stopped`.
    pub copy: Duration,
    /// `cutover`: until y plans a batch of its own.
    pub cutover: Duration,
    /// `proving`: then there is an alarm.
    pub prove: Duration,
    /// `aborting`.
    pub abort: Duration,
}

/// What happens when the checks of y take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateOverdue {
    /// y is taken back.
    Abort,
    /// An alarm; it waits on.
    Hold,
}

/// What the configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one fact of its own")]
pub struct Policy {
    /// How long each state may last.
    pub deadlines: Deadlines,
    /// Whether it goes on by itself when the checks have passed.
    pub auto_promote: bool,
    /// What happens when they take too long.
    pub gate_overdue: GateOverdue,
    /// Whether a held job says so in its status (driver kit); else one that runs counts as held.
    pub hold_is_reported: bool,
    /// Whether y can be started at all.
    pub has_start: bool,
    /// Whether x can be started again.
    pub has_restart: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Save the record with this state, then decide again.
    Enter(State),
    /// Put the act on record, do it, and decide again.
    Do(Act),
    /// Save y's attempt, then decide again.
    AdoptNew(AttemptId),
    /// Save x's new attempt, then decide again.
    AdoptOld(AttemptId),
    /// Save the attempt of x that was started again, then decide again.
    AdoptAgain(AttemptId),
    /// Go on with the next slot.
    NextLeg,
    /// Save the outcome; it is over.
    End(Outcome),
    /// Look again soon.
    Wait,
}

/// A decision with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub next: Next,
    /// Why, for people.
    pub why: Cow<'static, str>,
    /// Whether somebody has to look.
    pub alarm: bool,
}

impl Decision {
    fn new(next: Next, why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            next,
            why: why.into(),
            alarm: false,
        }
    }

    fn alarmed(next: Next, why: impl Into<Cow<'static, str>>) -> Self {
        Self {
            alarm: true,
            ..Self::new(next, why)
        }
    }
}

fn enter(state: State, why: &'static str) -> Decision {
    let mut decision = Decision::new(Next::Enter(state), why);
    decision.alarm = state == State::NeedsHuman;
    decision
}

/// What runs in y's slot belongs to somebody else.
fn foreign() -> Decision {
    enter(
        State::NeedsHuman,
        "the new slot runs an attempt that is not this rollout's",
    )
}

/// Nobody can say whether x is gone: waited for, and then a person has to look.
fn old_unsure(late: bool) -> Decision {
    let why = "it cannot be told whether the old job is gone";
    if late {
        enter(State::NeedsHuman, why)
    } else {
        wait(why)
    }
}

fn act(act: Act, why: &'static str) -> Decision {
    Decision::new(Next::Do(act), why)
}

fn wait(why: &'static str) -> Decision {
    Decision::new(Next::Wait, why)
}

/// All that a decision is made from.
#[derive(Debug, Clone, Copy)]
struct Case<'a> {
    record: &'a Record,
    seen: &'a Seen,
    policy: &'a Policy,
    now: Timestamp,
}

impl Case<'_> {
    fn has_begun(&self, act: Act) -> bool {
        self.record.begun.contains(&act)
    }

    fn has_done(&self, act: Act) -> bool {
        self.record.done.contains(&act)
    }

    /// Whether the state lasts longer than `limit`. A clock that ran backwards makes nothing late.
    fn is_late(&self, limit: Duration) -> bool {
        self.is_past(self.record.since, limit)
    }

    /// Whether more than `limit` has passed since `from`.
    fn is_past(&self, from: Timestamp, limit: Duration) -> bool {
        let lasted = self.now.duration_since(from);
        SignedDuration::try_from(limit).is_ok_and(|limit| lasted > limit)
    }

    /// Whether an operator stops x, and not this rollout.
    fn operator_stops_old(&self) -> bool {
        self.seen.old.stop.is_asked() && !self.has_begun(Act::AskOld)
    }

    /// Whether an operator stops y, and not this rollout.
    fn operator_stops_new(&self) -> bool {
        self.seen.new.stop.is_asked() && !self.has_begun(Act::AskNew)
    }

    /// Whether x may be about to be stopped by an operator, or has ended: which of the two it is, its
    /// receipt says.
    fn old_end_is_unclear(&self) -> bool {
        let side = &self.seen.old;
        self.record.old_attempt.is_some()
            && side.stop == StopSeen::None
            && (side.marker != Known::Yes || side.life == Life::Over)
    }

    /// Whether an operator has removed the marker that was made for y.
    fn new_marker_is_gone(&self) -> bool {
        self.seen.new.marker == Known::No
            && self.has_done(Act::PrepareNew)
            && !self.record.is_same_slot()
    }

    /// Whether nothing runs in x, for sure, and nobody writes to its checkpoint any more.
    fn old_is_gone(&self) -> bool {
        self.record.old.is_none() || (self.seen.old.life.is_gone() && self.seen.old.found.is_none())
    }

    /// Whether x is known to run, or another attempt in its place.
    fn old_runs(&self) -> bool {
        self.record.old.is_some()
            && (self.seen.old.life == Life::Running || self.seen.old.found.is_some())
    }
}

/// When a state is late, as its deadline says; `None` for states without one.
pub fn deadline_of(state: State, deadlines: &Deadlines) -> Option<Duration> {
    Some(match state {
        State::Preparing => deadlines.prepare,
        State::Starting => deadlines.start,
        State::RecoverOld => deadlines.abort.max(deadlines.start),
        State::Held | State::Shadow => deadlines.gate,
        State::Stopping => deadlines.drain,
        State::Stopped => deadlines.copy,
        State::Cutover => deadlines.cutover,
        State::Proving => deadlines.prove,
        State::Aborting => deadlines.abort,
        State::NeedsHuman | State::Ended => return None,
    })
}

/// The next step.
pub fn decide(record: &Record, seen: &Seen, policy: &Policy, now: Timestamp) -> Decision {
    let case = Case {
        record,
        seen,
        policy,
        now,
    };
    match record.state {
        State::Preparing => before::preparing(case),
        State::Starting => before::starting(case),
        State::Held | State::Shadow => before::held(case),
        State::Stopping => across::stopping(case),
        State::Stopped => across::stopped(case),
        State::Cutover => across::cutover(case),
        State::Proving => across::proving(case),
        State::Aborting => back::aborting(case),
        State::RecoverOld => back::recover_old(case),
        State::NeedsHuman => back::needs_human(case),
        State::Ended => wait("it is over"),
    }
}
