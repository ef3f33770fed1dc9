//! The ways back, and the place where stepdown stands still.

use super::{Case, Decision, Next, act, enter, foreign, old_unsure, wait};
use crate::rollout::observation::{Known, Life, StopSeen, Task};
use crate::rollout::state::{Act, Outcome, State, Strategy};

/// Ends y, and what was begun to start it; `None` when it is gone for sure.
fn end_new(case: Case<'_>, late: bool) -> Option<Decision> {
    let Case { record, seen, .. } = case;
    if seen.new.is_foreign {
        return Some(foreign());
    }
    match seen.start {
        Task::Busy if record.new_attempt.is_none() && seen.new.found.is_none() => {
            return Some(act(Act::CancelStart, "the start command is ended"));
        }
        Task::Unknown if !late && record.new_attempt.is_none() => {
            return Some(wait(
                "a start command may still run, or have started the new job",
            ));
        }
        Task::Idle | Task::Busy | Task::Done | Task::Failed | Task::Unknown => {}
    }
    if let Some(found) = &seen.new.found
        && (record.new_attempt.is_none() || seen.new.life == Life::Over)
    {
        return Some(Decision::new(
            Next::AdoptNew(found.clone()),
            "the new job is there",
        ));
    }
    match seen.new.life {
        // Without its receipt another one may still be about to write what it left.
        Life::Over if record.new_attempt.is_some() && !seen.new.stop.is_confirmed() && !late => {
            Some(wait("the new job ended; its receipt is awaited"))
        }
        Life::NotThere | Life::Over => None,
        Life::Unknown if late => Some(enter(
            State::NeedsHuman,
            "it cannot be told whether the new job is gone",
        )),
        Life::Unknown => Some(wait("it cannot be told whether the new job is gone")),
        Life::Running if record.new_attempt.is_none() => {
            Some(wait("it cannot be told what runs in the new slot"))
        }
        Life::Running if !case.has_done(Act::AskNew) => {
            Some(act(Act::AskNew, "the new job is asked to stop"))
        }
        Life::Running if late => Some(enter(
            State::NeedsHuman,
            "the new job was asked to stop and does not end",
        )),
        Life::Running => Some(wait("the new job ends")),
    }
}

pub(super) fn aborting(case: Case<'_>) -> Decision {
    let Case {
        record,
        seen,
        policy,
        ..
    } = case;
    let late = case.is_late(policy.deadlines.abort);
    if !record.is_same_slot() && case.has_begun(Act::PrepareNew) {
        if let Some(more) = end_new(case, late) {
            return more;
        }
        if !case.has_done(Act::DropNew) {
            return act(Act::DropNew, "the new job is gone");
        }
    }
    if record.old.is_none() {
        return Decision::new(Next::End(Outcome::Aborted), "nothing ran before");
    }
    if case.operator_stops_old() {
        return match seen.old.stop {
            StopSeen::Stopped | StopSeen::Restarted | StopSeen::Died => Decision::new(
                Next::End(Outcome::StoppedByOperator),
                "an operator stopped the old job",
            ),
            StopSeen::None | StopSeen::Latched => wait("an operator stops the old job"),
        };
    }
    match seen.old.life {
        Life::Running => Decision::new(Next::End(Outcome::Aborted), "the old job runs on"),
        Life::Over | Life::NotThere if seen.old.found.is_some() => {
            Decision::new(Next::End(Outcome::Aborted), "the old job runs on")
        }
        Life::NotThere if record.old_attempt.is_none() => Decision::new(
            Next::End(Outcome::Aborted),
            "the old job did not run before either",
        ),
        Life::Over | Life::NotThere if seen.old.stop == StopSeen::Died => {
            let mut back = enter(State::RecoverOld, "the old job died meanwhile");
            back.alarm = true;
            back
        }
        Life::Over | Life::NotThere if late => {
            enter(State::NeedsHuman, "the old job is gone and has no receipt")
        }
        Life::Over | Life::NotThere => wait("the old job is gone; its receipt is awaited"),
        Life::Unknown if late => enter(
            State::NeedsHuman,
            "it cannot be told whether the old job runs",
        ),
        Life::Unknown => wait("it cannot be told whether the old job runs"),
    }
}

pub(super) fn recover_old(case: Case<'_>) -> Decision {
    let Case {
        record,
        seen,
        policy,
        ..
    } = case;
    let limit = policy.deadlines.abort.max(policy.deadlines.start);
    let late = case.is_late(limit);
    if !case.has_begun(Act::RestartOld) {
        if seen.own_plan == Known::Yes {
            return enter(
                State::NeedsHuman,
                "the new job planned a batch of its own: there is no way back by itself",
            );
        }
        if let Some(more) = end_new(case, late) {
            return more;
        }
        if seen.own_plan == Known::Unknown {
            return if late {
                enter(
                    State::NeedsHuman,
                    "it cannot be told whether the new job planned a batch",
                )
            } else {
                wait("it cannot be told whether the new job planned a batch")
            };
        }
        if !case.has_done(Act::DropNew) && !record.is_same_slot() {
            return act(Act::DropNew, "the new job is gone and planned nothing");
        }
        if case.old_runs() {
            return Decision::new(
                Next::End(Outcome::Recovered),
                "the old job runs again already",
            );
        }
        if !case.old_is_gone() {
            return old_unsure(late);
        }
        if record.old_attempt.is_none() {
            // Somebody had stopped it.
            return Decision::new(
                Next::End(Outcome::Aborted),
                "the old job did not run before either",
            );
        }
        if !policy.has_restart {
            return enter(
                State::NeedsHuman,
                "the old job is to be started again, and has no start command",
            );
        }
        return act(Act::RestartOld, "the old job is started again");
    }
    // To be sure of y's end may have taken all of the time: x's start has its own.
    let from = record.restarting_since.max(Some(record.since));
    let late = from.is_some_and(|from| case.is_past(from, limit));
    if seen.again.stop.is_asked() {
        return match seen.again.life {
            Life::Over | Life::NotThere => Decision::new(
                Next::End(Outcome::StoppedByOperator),
                "an operator stopped the old job",
            ),
            Life::Running | Life::Unknown => wait("an operator stops the old job"),
        };
    }
    if let (None, Some(found)) = (&record.old_again, &seen.again.found) {
        return Decision::new(
            Next::AdoptAgain(found.clone()),
            "the old job is there again",
        );
    }
    match (seen.again.life, seen.restart) {
        (Life::Running, _) => {
            Decision::new(Next::End(Outcome::Recovered), "the old job runs again")
        }
        _ if late => enter(State::NeedsHuman, "the old job did not start again in time"),
        (Life::Over, _) if record.old_again.is_some() => {
            enter(State::NeedsHuman, "the old job was started again and ended")
        }
        (_, Task::Failed) => enter(State::NeedsHuman, "the old job's start command failed"),
        (Life::NotThere, Task::Idle) => act(Act::RestartOld, "the old job is started again"),
        (_, Task::Idle | Task::Busy | Task::Done | Task::Unknown) => {
            wait("the old job starts again")
        }
    }
}

pub(super) fn needs_human(case: Case<'_>) -> Decision {
    let Case { record, seen, .. } = case;
    // Somebody has mended it and started it again: what is asked next is meant for that one.
    if let Some(found) = &seen.new.found
        && seen.new.life.is_gone()
        && !seen.new.is_foreign
        && !case.has_begun(Act::AskNew)
    {
        return Decision::new(
            Next::AdoptNew(found.clone()),
            "somebody started the new job again",
        );
    }
    if seen.asked.promote && seen.new.life == Life::Running && !case.has_begun(Act::AskNew) {
        if case.old_is_gone() {
            return match seen.own_plan {
                Known::Yes => enter(State::Proving, "an operator accepted the new job"),
                Known::No | Known::Unknown => {
                    enter(State::Stopped, "an operator accepted the new job")
                }
            };
        }
        if case.old_runs() && !case.has_begun(Act::AskOld) {
            return enter(State::Stopping, "an operator promoted the new job");
        }
    }
    if seen.asked.abort {
        // Beside x, y's own batches are in a checkpoint of its own.
        let is_beside = record.strategy == Strategy::Parallel && !case.has_begun(Act::AskOld);
        let nothing_lost = seen.own_plan == Known::No || is_beside;
        if nothing_lost && !case.has_begun(Act::AskOld) && !case.has_begun(Act::RestartOld) {
            return enter(State::Aborting, "an operator asked to go back");
        }
        if seen.own_plan == Known::No && record.old.is_some() {
            return enter(State::RecoverOld, "an operator asked to go back");
        }
    }
    Decision::alarmed(Next::Wait, record.reason.clone())
}
