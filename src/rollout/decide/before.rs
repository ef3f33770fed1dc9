//! While x has not been asked to stop: everything can be taken back.

use super::{Case, Decision, GateOverdue, Next, act, enter, foreign, wait};
use crate::model::AttemptId;
use crate::rollout::observation::{Copying, Gate, Life, Phase, Task};
use crate::rollout::state::{Act, Outcome, State, Strategy, Transfer};

/// Why a rollout waits where the end of x may be an operator's doing.
const OLD_IS_UNCLEAR: &str = "the old job's marker is not seen, or it has ended: its receipt says whether an operator asked it";

/// What takes the rollout back whatever it is doing.
fn taken_back(case: Case<'_>) -> Option<Decision> {
    if case.operator_stops_old() && !case.record.promoted {
        return Some(enter(
            State::Aborting,
            "an operator stops the old job: nothing is started against that",
        ));
    }
    if case.operator_stops_new() {
        return Some(enter(State::Aborting, "an operator stops the new job"));
    }
    if case.new_marker_is_gone() {
        return Some(enter(
            State::Aborting,
            "an operator removed the new job's marker",
        ));
    }
    if case.record.abort_asked {
        return Some(enter(State::Aborting, "an operator asked to abort"));
    }
    None
}

pub(super) fn preparing(case: Case<'_>) -> Decision {
    let Case {
        record,
        seen,
        policy,
        ..
    } = case;
    if !case.has_begun(Act::PrepareNew) && !record.is_same_slot() {
        // Until then nothing of the new slot is this rollout's: it is left as it is.
        match (seen.new.life, &seen.new.found) {
            (Life::Running, _) | (_, Some(_)) => {
                return Decision::new(
                    Next::End(Outcome::Refused),
                    "something runs in the slot that was to take over; stop it first",
                );
            }
            (Life::Over | Life::NotThere, None) => {}
            (Life::Unknown, None) => {
                if case.is_late(policy.deadlines.prepare) {
                    return Decision::new(
                        Next::End(Outcome::Refused),
                        "it could not be told whether the slot that was to take over is free",
                    );
                }
                return wait("it cannot be told yet whether the new slot is free");
            }
        }
    }
    if let Some(back) = taken_back(case) {
        return back;
    }
    if case.is_late(policy.deadlines.prepare) {
        return enter(State::Aborting, "the preparation took too long");
    }
    if let Some(found) = &seen.old.found {
        return restarted(found);
    }
    if !case.has_done(Act::PrepareNew) && !record.is_same_slot() {
        return act(Act::PrepareNew, "the new slot is free");
    }
    match record.strategy {
        Strategy::Rolling if seen.peer != Life::Running => {
            wait("the other slot must run before this one is exchanged")
        }
        Strategy::StopStart | Strategy::Rolling
            if case.old_end_is_unclear() && !record.promoted =>
        {
            wait(OLD_IS_UNCLEAR)
        }
        Strategy::StopStart | Strategy::Rolling if case.old_is_gone() => {
            enter(State::Stopped, "the old job does not run")
        }
        Strategy::StopStart | Strategy::Rolling => {
            enter(State::Stopping, "everything is ready to stop the old job")
        }
        Strategy::HandOver | Strategy::Parallel if record.old.is_none() => {
            enter(State::Starting, "nothing has to be handed over")
        }
        Strategy::HandOver if record.transfer != Transfer::Copy => {
            enter(State::Starting, "the checkpoint changes hands as it is")
        }
        Strategy::Parallel if !record.transfer.copies() => enter(
            State::Starting,
            "the new job goes on with its own checkpoint",
        ),
        Strategy::HandOver => match seen.copy {
            Copying::InSync | Copying::Published => enter(State::Starting, "the copy is in sync"),
            Copying::Idle => act(Act::Sync, "the copy is kept in sync from now on"),
            Copying::Busy => wait("the copy is brought close to the old job"),
            Copying::Failed => enter(State::Aborting, "the checkpoint cannot be copied"),
        },
        Strategy::Parallel => match seen.copy {
            Copying::Published => enter(State::Starting, "the copy is published"),
            Copying::Idle | Copying::InSync => {
                act(Act::CopyCommitted, "the new job gets its own copy")
            }
            Copying::Busy => wait("the copy goes on"),
            Copying::Failed => enter(State::Aborting, "the checkpoint cannot be copied"),
        },
    }
}

pub(super) fn starting(case: Case<'_>) -> Decision {
    let Case {
        record,
        seen,
        policy,
        ..
    } = case;
    if let Some(back) = taken_back(case) {
        return back;
    }
    if case.is_late(policy.deadlines.start) {
        return enter(State::Aborting, "the new job did not start in time");
    }
    if seen.new.is_foreign {
        return foreign();
    }
    if record.new_attempt.is_none() {
        return match (&seen.new.found, seen.new.life) {
            (Some(found), _) => {
                Decision::new(Next::AdoptNew(found.clone()), "the new job is there")
            }
            (None, Life::Unknown) => wait("it cannot be told yet whether the new job runs"),
            (None, _) => start(case, State::Aborting),
        };
    }
    match (seen.new.life, seen.new.phase) {
        (Life::Over | Life::NotThere, _) => {
            enter(State::Aborting, "the new job ended before it was let go")
        }
        (Life::Unknown, _) => wait("it cannot be told whether the new job runs"),
        (Life::Running, phase) => match phase {
            Phase::Ending => enter(State::Aborting, "the new job ends before it was let go"),
            Phase::Held if record.holds() => enter(State::Held, "the new job waits for its go"),
            Phase::Running if record.holds() && policy.hold_is_reported => enter(
                State::Aborting,
                "the new job did not wait for its go: is spark.stepdown.go set?",
            ),
            Phase::Running | Phase::Silent | Phase::Held
                if record.holds() && !policy.hold_is_reported =>
            {
                enter(State::Held, "the new job runs and is taken to wait")
            }
            Phase::Running if record.old.is_none() => enter(State::Cutover, "the new job runs"),
            Phase::Running if record.strategy == Strategy::Parallel => {
                enter(State::Shadow, "the new job runs beside the old one")
            }
            // A job without the kit says nothing of its queries.
            Phase::Silent if !policy.hold_is_reported && !record.holds() => {
                if record.old.is_none() {
                    enter(State::Cutover, "the new job runs")
                } else {
                    enter(State::Shadow, "the new job runs beside the old one")
                }
            }
            Phase::Silent | Phase::Held | Phase::Running => {
                wait("the new job has not come to its queries yet")
            }
        },
    }
}

pub(super) fn restarted(found: &AttemptId) -> Decision {
    Decision::new(
        Next::AdoptOld(found.clone()),
        "the old job was restarted by its platform",
    )
}

/// Runs y's start command, or waits for what it began.
pub(super) fn start(case: Case<'_>, on_failure: State) -> Decision {
    if !case.policy.has_start {
        return wait("no start command is configured: somebody has to start the new job");
    }
    match case.seen.start {
        Task::Idle => act(Act::StartNew, "the new job is started"),
        Task::Busy => wait("the start command runs"),
        Task::Done => wait("the start command has ended; the new job does not show yet"),
        Task::Unknown => wait("a start command may still run, or have started the new job"),
        Task::Failed => enter(on_failure, "the start command failed"),
    }
}

pub(super) fn held(case: Case<'_>) -> Decision {
    let Case {
        record,
        seen,
        policy,
        ..
    } = case;
    if let Some(back) = taken_back(case) {
        return back;
    }
    if seen.new.is_foreign {
        return foreign();
    }
    let is_held = record.state == State::Held;
    match seen.new.life {
        Life::Over | Life::NotThere => {
            return enter(
                State::Aborting,
                "the new job ended before the old one was asked",
            );
        }
        Life::Unknown => return wait("it cannot be told whether the new job runs"),
        Life::Running => {}
    }
    if is_held && policy.hold_is_reported && seen.new.phase == Phase::Running {
        return enter(
            State::Aborting,
            "the new job started its queries without its go",
        );
    }
    if seen.new.phase == Phase::Ending {
        return enter(
            State::Aborting,
            "the new job ends before the old one was asked",
        );
    }
    if let Some(found) = &seen.old.found {
        return restarted(found);
    }
    if case.old_is_gone() && seen.old.stop.is_confirmed() {
        let mut on = enter(
            State::Stopped,
            "the old job ended by itself: the new one takes over",
        );
        on.alarm = true;
        return on;
    }
    if record.promoted {
        return ask_old(case, "an operator promoted the new job");
    }
    if seen.gate == Gate::Failed {
        return enter(State::Aborting, "the new job did not pass its checks");
    }
    if record.on_hold {
        return wait("an operator put it on hold; `promote` goes on");
    }
    let is_unclear = case.old_end_is_unclear();
    if seen.gate == Gate::Passed && policy.auto_promote && !is_unclear {
        return ask_old(case, "the new job passed its checks");
    }
    let why = if is_unclear {
        OLD_IS_UNCLEAR
    } else if seen.gate == Gate::Passed {
        "the checks passed; it waits for `promote`"
    } else {
        "the new job is checked"
    };
    wait_in_gate(case, why)
}

/// Waits in `held` or `shadow`, until that is overdue.
fn wait_in_gate(case: Case<'_>, why: &'static str) -> Decision {
    let policy = case.policy;
    match (case.is_late(policy.deadlines.gate), policy.gate_overdue) {
        (true, GateOverdue::Abort) => {
            enter(State::Aborting, "the checks or the promotion took too long")
        }
        (true, GateOverdue::Hold) => Decision::alarmed(Next::Wait, why),
        (false, _) => wait(why),
    }
}

/// Has the old job asked, once the copy of its checkpoint is in sync: what is behind is copied in the gap.
/// A stepdown that takes the rollout up begins with a copy that nobody has kept in sync meanwhile.
fn ask_old(case: Case<'_>, why: &'static str) -> Decision {
    let record = case.record;
    if record.strategy != Strategy::HandOver || record.transfer != Transfer::Copy {
        return enter(State::Stopping, why);
    }
    match case.seen.copy {
        Copying::InSync | Copying::Published => enter(State::Stopping, why),
        Copying::Idle => act(Act::Sync, "the copy is kept in sync again"),
        Copying::Busy => wait_in_gate(case, "the copy is behind the old job"),
        Copying::Failed => enter(State::Aborting, "the checkpoint cannot be copied"),
    }
}
