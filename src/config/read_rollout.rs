//! Reads `[jobs.<job>.rollout]`, and refuses what cannot work.

use std::collections::BTreeMap;
use std::time::Duration;

use super::key::Refusal;
use super::rollout::{Rollout, RolloutCheckpoint, RolloutHooks, Strategy, TwoWriters};
use super::schema::{Argv, JobSlot, Trigger};
use super::section::Section;
use crate::model::Slot;

fn positive(value: &Duration) -> Result<(), &'static str> {
    if value.is_zero() {
        return Err("it must be longer than nothing");
    }
    Ok(())
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "as `Section::checked` calls it"
)]
fn at_least_once(value: &u32) -> Result<(), &'static str> {
    if *value == 0 {
        Err("1 or more")
    } else {
        Ok(())
    }
}

/// The rollout of a job with its common start command; what is wrong is noted.
pub(super) fn rollout(mut section: Section<'_, '_>) -> (Option<Rollout>, Option<Argv>) {
    if !section.is_present() {
        return (None, None);
    }
    let or = Rollout::default();
    let start = section.optional("start");
    let mut rollout = Rollout {
        strategy: section.value("strategy", or.strategy),
        checkpoint: section.value("checkpoint", or.checkpoint),
        start_is: section.value("start-is", or.start_is),
        start_log: section.optional("start-log"),
        hold_by: section.value("hold-by", or.hold_by),
        promote: section.value("promote", or.promote),
        two_writers: section.value("two-writers", or.two_writers),
        gate: section.optional("gate"),
        post_gate: section.optional("post-gate"),
        gate_interval: section.checked("gate-interval", or.gate_interval, positive),
        gate_timeout: section.checked("gate-timeout", or.gate_timeout, positive),
        gate_passes: section.checked("gate-passes", or.gate_passes, at_least_once),
        gate_commits: section.value("gate-commits", or.gate_commits),
        gate_max_lag: section.optional("gate-max-lag"),
        gate_max_slowdown: section.optional("gate-max-slowdown"),
        on_gate_deadline: section.value("on-gate-deadline", or.on_gate_deadline),
        sync_interval: section.checked("sync-interval", or.sync_interval, positive),
        keep: section.optional("keep"),
        prepare_deadline: section.checked("prepare-deadline", or.prepare_deadline, positive),
        start_deadline: section.checked("start-deadline", or.start_deadline, positive),
        gate_deadline: section.checked("gate-deadline", or.gate_deadline, positive),
        cutover_deadline: section.checked("cutover-deadline", or.cutover_deadline, positive),
        prove_deadline: section.checked("prove-deadline", or.prove_deadline, positive),
        abort_deadline: section.checked("abort-deadline", or.abort_deadline, positive),
        hooks: RolloutHooks::default(),
        hook_timeout: or.hook_timeout,
    };
    if rollout
        .gate_max_slowdown
        .is_some_and(|times| !times.is_finite() || times <= 0.0)
    {
        section.problem("gate-max-slowdown", Refusal::new("a number above 0"));
    }
    let mut hooks = section.section("hooks");
    rollout.hooks = RolloutHooks {
        on_start: hooks.optional("on-start"),
        on_stopped: hooks.optional("on-stopped"),
        on_success: hooks.optional("on-success"),
        on_failure: hooks.optional("on-failure"),
        on_needs_human: hooks.optional("on-needs-human"),
    };
    rollout.hook_timeout = hooks.checked("timeout", or.hook_timeout, positive);
    hooks.finish();
    section.finish();
    (Some(rollout), start)
}

/// Notes what makes the rollout impossible with these slots.
pub(super) fn check(
    section: &Section<'_, '_>,
    rollout: &Rollout,
    trigger: Trigger,
    slots: &BTreeMap<Slot, Box<JobSlot>>,
) {
    if trigger == Trigger::Appears {
        section.problem_here(Refusal::new(
            "needs trigger = \"disappears\": a rollout makes markers and takes them away",
        ));
    }
    let (blue, green) = (slots.get(&Slot::Blue), slots.get(&Slot::Green));
    let both = match (blue, green) {
        (Some(blue), Some(green)) => Some((blue, green)),
        _ => None,
    };
    let in_place = rollout.checkpoint == RolloutCheckpoint::InPlace;
    let Some((blue, green)) = both else {
        if rollout.strategy != Strategy::StopStart {
            let message = format!("{} needs both slots", rollout.strategy);
            section.problem(
                "strategy",
                Refusal::new(message)
                    .with_help("write [jobs.<job>.slots.blue] and [jobs.<job>.slots.green]"),
            );
        } else if !in_place {
            section.problem(
                "checkpoint",
                Refusal::new("a job with one slot is exchanged in its own place")
                    .with_help("write checkpoint = \"in-place\", or add the other slot"),
            );
        }
        return;
    };
    let same = blue.checkpoints == green.checkpoints;
    let own = matches!(rollout.strategy, Strategy::Parallel | Strategy::Rolling);
    if in_place && own {
        section.problem(
            "checkpoint",
            Refusal::new(format!(
                "\"in-place\" and {} exclude each other: two jobs run at the same time",
                rollout.strategy
            )),
        );
    }
    if in_place && !own && !same {
        section.problem(
            "checkpoint",
            Refusal::new("\"in-place\" needs the same checkpoints in both slots"),
        );
    }
    if !in_place && same && !blue.checkpoints.is_empty() {
        section.problem(
            "checkpoint",
            Refusal::new("both slots name the same checkpoints, so there is no place for a copy")
                .with_help("give each slot its own, or write checkpoint = \"in-place\""),
        );
    }
    if !in_place && blue.checkpoints.len() != green.checkpoints.len() {
        section.problem(
            "checkpoint",
            Refusal::new("the slots name different numbers of checkpoints"),
        );
    }
    if blue.checkpoints.is_empty() && !in_place && rollout.strategy != Strategy::Rolling {
        section.problem(
            "checkpoint",
            Refusal::new("there are no checkpoints to hand over")
                .with_help("name them in the slots, or write checkpoint = \"in-place\""),
        );
    }
    if own && rollout.two_writers == TwoWriters::Refuse {
        section.problem(
            "two-writers",
            Refusal::new(format!("{} has two jobs write at the same time", rollout.strategy)).with_help(
                "write two-writers = \"accept\" if each slot has a sink of its own or the sink takes what \
                 comes twice",
            ),
        );
    }
    for (slot, found) in [(Slot::Blue, blue), (Slot::Green, green)] {
        let fixed = found.start.as_ref().and_then(|start| {
            start
                .words()
                .iter()
                .find(|word| word.contains("kafka.group.id"))
        });
        if let (true, Some(word)) = (own, fixed) {
            section.problem_here(Refusal::new(format!(
                "the start command of {slot} has {word:?}: two jobs with one Kafka group take each \
                 other's partitions"
            )));
        }
    }
}
