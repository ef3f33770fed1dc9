//! From the moment in which x is asked to stop: forward, or back only where y has planned nothing.

use super::before::{restarted, start};
use super::{Case, Decision, Next, act, enter, foreign, old_unsure, wait};
use crate::rollout::observation::{Copying, Gate, Known, Life, StopSeen};
use crate::rollout::state::{Act, Outcome, State, Strategy};

/// Whether y was started before x was asked, so that it must still be there.
fn needs_live_new(case: Case<'_>) -> bool {
    matches!(
        case.record.strategy,
        Strategy::HandOver | Strategy::Parallel
    ) && case.record.new_attempt.is_some()
}

pub(super) fn stopping(case: Case<'_>) -> Decision {
    let Case {
        record,
        seen,
        policy,
        ..
    } = case;
    if record.old_attempt.is_none() && !case.has_begun(Act::AskOld) {
        // It did not run when this began: there is nobody to ask.
        if let Some(found) = &seen.old.found {
            return restarted(found);
        }
        if case.old_is_gone() {
            return enter(State::Stopped, "the old job does not run");
        }
        return wait("it cannot be told whether the old job runs");
    }
    if !case.has_done(Act::AskOld) {
        return act(Act::AskOld, "the old job is asked to stop");
    }
    match seen.old.stop {
        // One that came back may have ended, too.
        StopSeen::Restarted | StopSeen::Stopped | StopSeen::Died if case.old_is_gone() => {
            enter(State::Stopped, "the old job is stopped")
        }
        StopSeen::Restarted => came_back(case),
        // It shows only now.
        StopSeen::Stopped | StopSeen::Died if seen.old.found.is_some() => came_back(case),
        StopSeen::Stopped | StopSeen::Died => wait("the old job's end is not certain yet"),
        StopSeen::None | StopSeen::Latched if case.is_late(policy.deadlines.drain) => {
            Decision::alarmed(
                Next::Wait,
                "the old job drains longer than it may; it is waited for",
            )
        }
        StopSeen::None | StopSeen::Latched => wait("the old job drains"),
    }
}

/// The old job was stopped, and another attempt of it runs.
fn came_back(case: Case<'_>) -> Decision {
    if case.has_done(Act::AskOldAgain) {
        return enter(
            State::NeedsHuman,
            "the old job comes back each time that it is stopped: its platform restarts it",
        );
    }
    act(
        Act::AskOldAgain,
        "the old job was restarted by its platform: it is asked once more",
    )
}

pub(super) fn stopped(case: Case<'_>) -> Decision {
    let Case {
        record,
        seen,
        policy,
        ..
    } = case;
    if case.old_runs() {
        return enter(State::NeedsHuman, "the old job runs again after its stop");
    }
    let is_parallel = record.strategy == Strategy::Parallel && record.old.is_some();
    if is_parallel {
        return enter(State::Proving, "the new job runs already");
    }
    let late = case.is_late(policy.deadlines.copy);
    if !case.old_is_gone() {
        return old_unsure(late);
    }
    if record.abort_asked && record.old.is_some() {
        return enter(State::RecoverOld, "an operator asked to go back");
    }
    if needs_live_new(case) {
        if case.operator_stops_new() {
            return enter(State::RecoverOld, "an operator stops the new job");
        }
        if seen.new.life.is_gone() {
            return enter(State::RecoverOld, "the new job ended before its go");
        }
    }
    if !record.transfer.copies() {
        return enter(State::Cutover, "the checkpoint is at rest");
    }
    match seen.copy {
        Copying::Published => enter(State::Cutover, "the copy is verified and published"),
        Copying::Failed => enter(State::RecoverOld, "the checkpoint could not be copied"),
        Copying::Idle | Copying::InSync | Copying::Busy if late => {
            enter(State::RecoverOld, "the copy took too long")
        }
        Copying::Idle | Copying::InSync => act(Act::FinishCopy, "the last pass of the copy"),
        Copying::Busy => wait("the last pass of the copy goes on"),
    }
}

pub(super) fn cutover(case: Case<'_>) -> Decision {
    let Case {
        record,
        seen,
        policy,
        ..
    } = case;
    if seen.own_plan == Known::Yes {
        // That a go was written may have been forgotten; a start never is.
        if !record.holds() && !case.has_begun(Act::StartNew) {
            return enter(
                State::NeedsHuman,
                "batches are planned in the new job's checkpoint, and nobody has started it",
            );
        }
        return enter(State::Proving, "the new job planned a batch of its own");
    }
    if case.old_runs() {
        return enter(State::NeedsHuman, "the old job runs again after its stop");
    }
    if seen.new.is_foreign {
        return foreign();
    }
    let late = case.is_late(policy.deadlines.cutover);
    if !record.may_have_released_new() && !case.old_is_gone() {
        return old_unsure(late);
    }
    if let Some(back) = cutover_ends(case, late) {
        return back;
    }
    if record.is_to_hand_over() {
        match seen.copy {
            Copying::Published => {}
            Copying::Failed => {
                return enter(
                    State::RecoverOld,
                    "the old job has gone on since its checkpoint was copied",
                );
            }
            Copying::Idle | Copying::Busy | Copying::InSync => {
                return wait(
                    "it cannot be told whether the old job has gone on since its checkpoint was copied",
                );
            }
        }
    }
    if record.holds() {
        return match seen.new.life {
            Life::Over | Life::NotThere => ended_unplanned(case),
            Life::Unknown if !case.has_begun(Act::Go) => {
                wait("it cannot be told whether the new job waits")
            }
            Life::Running | Life::Unknown if !case.has_done(Act::Go) => {
                act(Act::Go, "the new job may start its queries")
            }
            Life::Running | Life::Unknown => wait("the new job starts its queries"),
        };
    }
    match (&record.new_attempt, &seen.new.found, seen.new.life) {
        (None, Some(found), _) => {
            Decision::new(Next::AdoptNew(found.clone()), "the new job is there")
        }
        (None, None, Life::Unknown) => wait("it cannot be told yet whether the new job runs"),
        (None, None, _) => start(
            case,
            if record.old.is_some() {
                State::RecoverOld
            } else {
                State::Aborting
            },
        ),
        (Some(_), Some(found), Life::Over) => Decision::new(
            Next::AdoptNew(found.clone()),
            "the new job was restarted by its platform",
        ),
        (Some(_), _, Life::Over | Life::NotThere) => ended_unplanned(case),
        (Some(_), _, Life::Running | Life::Unknown) => {
            wait("the new job has not planned a batch yet")
        }
    }
}

/// An operator's stop of y, an abort, or the deadline.
fn cutover_ends(case: Case<'_>, late: bool) -> Option<Decision> {
    let Case { record, seen, .. } = case;
    // An operator's stop of y: it is over with it, and nothing is recovered against it.
    if case.operator_stops_new() {
        return Some(match (seen.new.life.is_gone(), seen.own_plan) {
            (true, _) => Decision::new(
                Next::End(Outcome::StoppedByOperator),
                "an operator stopped the new job",
            ),
            (false, _) if late => enter(
                State::NeedsHuman,
                "an operator stops the new job, and it does not end",
            ),
            (false, _) => wait("an operator stops the new job"),
        });
    }
    if record.abort_asked || late {
        let why = if late {
            "the new job planned nothing in time"
        } else {
            "an operator asked to go back"
        };
        return Some(match seen.own_plan {
            Known::No if record.old.is_some() => enter(State::RecoverOld, why),
            Known::No if record.abort_asked => enter(State::Aborting, why),
            Known::No => Decision::alarmed(Next::Wait, why),
            Known::Unknown if late => enter(
                State::NeedsHuman,
                "it cannot be told whether the new job planned a batch",
            ),
            Known::Yes | Known::Unknown => {
                wait("it cannot be told whether the new job planned a batch")
            }
        });
    }
    None
}

/// What comes after an end of y in cutover.
fn ended_unplanned(case: Case<'_>) -> Decision {
    let is_confirmed = case.seen.new.stop.is_confirmed();
    if case.record.new_attempt.is_some() && !is_confirmed {
        // Whether an operator asked it, the receipt says; the deadline ends the wait.
        return wait("the new job ended; its receipt is awaited");
    }
    match case.seen.own_plan {
        Known::No if case.record.old.is_some() => {
            enter(State::RecoverOld, "the new job ended and planned nothing")
        }
        Known::No => enter(State::Aborting, "the new job ended and planned nothing"),
        Known::Yes => enter(State::Proving, "the new job planned a batch of its own"),
        Known::Unknown => wait("the new job ended; whether it planned a batch cannot be told yet"),
    }
}

pub(super) fn proving(case: Case<'_>) -> Decision {
    let Case {
        record,
        seen,
        policy,
        ..
    } = case;
    if let Some(found) = &seen.new.found
        && (record.new_attempt.is_none() || seen.new.life == Life::Over)
        && !seen.new.is_foreign
    {
        // It may have been restarted by its platform.
        return Decision::new(Next::AdoptNew(found.clone()), "the new job is there");
    }
    if case.old_runs() {
        return enter(State::NeedsHuman, "the old job runs again after its stop");
    }
    if record.new_attempt.is_none() && seen.new.life == Life::NotThere {
        if case.is_late(policy.deadlines.prove) {
            return enter(
                State::NeedsHuman,
                "the new job planned a batch of its own, and nothing of it is found",
            );
        }
        return wait("the new job planned a batch; its attempt does not show yet");
    }
    if seen.new.life.is_gone() {
        if case.operator_stops_new() {
            return Decision::new(
                Next::End(Outcome::StoppedByOperator),
                "an operator stopped the new job",
            );
        }
        if seen.new.stop == StopSeen::None {
            return wait("the new job ended; its receipt is awaited");
        }
        return enter(
            State::NeedsHuman,
            "the new job died after it had planned a batch of its own: there is no way back by itself",
        );
    }
    if case.operator_stops_new() {
        return wait("an operator stops the new job");
    }
    let late = case.is_late(policy.deadlines.prove);
    let why = match (seen.own_commit, seen.post_gate) {
        (Known::Yes, gate) if gate == Gate::Passed || seen.asked.promote => {
            if !record.then.is_empty() {
                return Decision::new(
                    Next::NextLeg,
                    "this slot is exchanged; the next one follows",
                );
            }
            let why = if gate == Gate::Passed {
                "the new job committed a batch of its own"
            } else {
                "an operator accepted the new job, whatever its last checks say"
            };
            return Decision::new(Next::End(Outcome::RolledOut), why);
        }
        (Known::Yes, Gate::Failed) => {
            return Decision::alarmed(
                Next::Wait,
                "the new job does not pass its last checks: `promote` accepts it, and `rollback` after that \
                 goes back",
            );
        }
        (Known::Yes, _) => "the new job is checked",
        (Known::No, _) => "the new job has not committed a batch of its own yet",
        (Known::Unknown, _) => "it cannot be told whether the new job committed",
    };
    if late {
        return Decision::alarmed(Next::Wait, why);
    }
    wait(why)
}
