//! Rollouts in words.

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::output::{Look, Report, Tone, ago, plain, table};
use crate::config::duration;
use crate::daemon::rollout::RolloutPlan;
use crate::model::{JobName, Slot};
use crate::rollout::decide::deadline_of;
use crate::rollout::record::Record;
use crate::rollout::state::{Act, Outcome, State, Strategy, Transfer};

/// One step of a rollout that was not begun.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Step {
    state: State,
    act: Option<Act>,
    does: String,
    deadline: Option<String>,
}

/// `--dry-run`.
#[derive(Debug, Serialize)]
pub(super) struct StepsReport {
    pub(super) job: JobName,
    pub(super) strategy: Strategy,
    pub(super) old: Option<Slot>,
    pub(super) new: Slot,
    pub(super) transfer: Transfer,
    pub(super) version: Option<String>,
    pub(super) steps: Vec<Step>,
}

impl Report for StepsReport {
    fn text(&self, look: Look) -> String {
        let from = self.old.map_or("nothing", Slot::as_str);
        let version = self
            .version
            .as_ref()
            .map_or_else(String::new, |version| format!(", version {version}"));
        let mut text = format!(
            "would roll {} out by {}: from {from} to {}{version}\n",
            self.job, self.strategy, self.new
        );
        let rows: Vec<_> = self
            .steps
            .iter()
            .map(|step| {
                vec![
                    plain(step.state.to_string()),
                    plain(step.does.clone()),
                    plain(step.deadline.clone().unwrap_or_default()),
                ]
            })
            .collect();
        text.push_str(&table(
            look,
            &["STATE", "WHAT WOULD BE DONE", "AT MOST"],
            &rows,
        ));
        text
    }
}

/// The steps of a rollout that goes well.
pub(super) fn steps_of(record: &Record, plan: &RolloutPlan) -> Vec<Step> {
    let deadlines = &plan.policy.deadlines;
    let step = |state: State, act: Option<Act>, does: String| Step {
        state,
        act,
        does,
        deadline: deadline_of(state, deadlines).map(duration::format),
    };
    let of_act = |state, act: Act| step(state, Some(act), act.means().to_owned());
    let mut steps = Vec::new();
    if !record.is_same_slot() {
        steps.push(of_act(State::Preparing, Act::PrepareNew));
    }
    let runs = record.old_attempt.is_some();
    let start = plan
        .slots
        .get(&record.new)
        .and_then(|slot| slot.start.as_ref())
        .map_or_else(
            || "wait for somebody to start the new job: there is no start command".to_owned(),
            |start| format!("run {}", start.join(" ")),
        );
    let before = matches!(record.strategy, Strategy::HandOver | Strategy::Parallel);
    if before && record.transfer == Transfer::Copy {
        steps.push(of_act(State::Preparing, Act::Sync));
    }
    if record.transfer == Transfer::CopyNewId {
        steps.push(of_act(State::Preparing, Act::CopyCommitted));
    }
    if before {
        steps.push(step(State::Starting, Some(Act::StartNew), start.clone()));
        let state = if record.strategy == Strategy::Parallel {
            State::Shadow
        } else {
            State::Held
        };
        let mut checks = Vec::new();
        if state == State::Shadow {
            checks.push(format!("{} batches committed", plan.gate.commits));
        }
        if let Some(gate) = &plan.gate.argv {
            checks.push(format!("{} passes", gate.join(" ")));
        }
        if !plan.policy.auto_promote {
            checks.push("`rollout promote`".to_owned());
        }
        if record.old.is_some() {
            let what = if checks.is_empty() {
                "nothing more".to_owned()
            } else {
                checks.join(", ")
            };
            steps.push(step(state, None, format!("wait for: {what}")));
        }
    }
    if record.old.is_some() && runs {
        steps.push(of_act(State::Stopping, Act::AskOld));
    }
    if record.transfer == Transfer::Copy {
        steps.push(of_act(State::Stopped, Act::FinishCopy));
    }
    if record.holds() {
        steps.push(of_act(State::Cutover, Act::Go));
    } else if !before {
        steps.push(step(State::Cutover, Some(Act::StartNew), start));
    }
    let mut proof = "wait for the first commit of its own".to_owned();
    if let Some(gate) = &plan.post_gate.argv {
        proof += ", then for ";
        proof += &gate.join(" ");
        proof += " to pass";
    }
    steps.push(step(State::Proving, None, proof));
    for slot in &record.then {
        steps.push(step(State::Preparing, None, format!("the same for {slot}")));
    }
    steps
}

fn tone_of(record: &Record) -> Tone {
    match (record.state, record.outcome) {
        (State::Ended, Some(Outcome::RolledOut)) => Tone::Good,
        (State::Ended | State::NeedsHuman, _) => Tone::Bad,
        (State::Aborting | State::RecoverOld, _) => Tone::Warn,
        _ => Tone::Plain,
    }
}

/// One line for a state that was entered.
pub(super) fn entered_text(record: &Record, look: Look) -> String {
    let what = match record.outcome {
        Some(outcome) => outcome.to_string(),
        None => record.state.to_string(),
    };
    let mut text = format!(
        "{} {}  {}: {}",
        record.job,
        record.rollout_id,
        look.paint(tone_of(record), &what),
        record.reason
    );
    if record.outcome.is_none() {
        return text;
    }
    if record.exchanged.is_empty() {
        if let Some(seconds) = record.gap.seconds() {
            text += "; gap ";
            text += &gap_text(seconds);
        }
    } else {
        for (slot, gap) in gaps_of(record) {
            let one = format!("; gap of {slot} {gap}");
            text += &one;
        }
    }
    if let Some(own) = record.gap.own_seconds() {
        let own = format!(" ({own:.2} s of it between the old job's end and the go)");
        text += &own;
    }
    text
}

/// The gap of every slot that was exchanged, in words.
fn gaps_of(record: &Record) -> impl Iterator<Item = (Slot, String)> {
    let earlier = record.exchanged.iter().map(|one| (one.slot, one.gap));
    let all = earlier.chain([(record.new, record.gap)]);
    all.filter_map(|(slot, gap)| Some((slot, gap_text(gap.seconds()?))))
}

/// A gap in words.
pub(super) fn gap_text(seconds: f64) -> String {
    if seconds < 0.0 {
        return format!("none (both ran for {:.1} s)", -seconds);
    }
    format!("{seconds:.1} s")
}

/// One rollout in a list.
pub(super) fn row_of(record: &Record, now: Timestamp) -> Vec<(String, Tone)> {
    let what = record
        .outcome
        .map_or_else(|| record.state.to_string(), |outcome| outcome.to_string());
    let gaps: Vec<String> = gaps_of(record).map(|(_, gap)| gap).collect();
    let gap = match gaps.as_slice() {
        [] => "-".to_owned(),
        all => all.join(", "),
    };
    vec![
        plain(record.rollout_id.to_string()),
        plain(record.strategy.to_string()),
        plain(slots_text(record)),
        plain(record.version.clone().unwrap_or_else(|| "-".to_owned())),
        (what, tone_of(record)),
        plain(gap),
        plain(record.proof.clone().unwrap_or_else(|| "-".to_owned())),
        plain(ago(record.begun_at, now)),
    ]
}

/// Which slot takes over from which; those that go on in their own place, in their order.
pub(super) fn slots_text(record: &Record) -> String {
    if !record.is_same_slot() {
        let old = record.old.map_or("nothing", Slot::as_str);
        return format!("{old} to {}", record.new);
    }
    let exchanged = record.exchanged.iter().map(|one| one.slot);
    let all = exchanged
        .chain([record.new])
        .chain(record.then.iter().copied());
    all.map(Slot::as_str).collect::<Vec<_>>().join(", ")
}

/// Why a rollout did not come to its end, or not yet; for below the list.
pub(super) fn why_of(record: &Record) -> Option<String> {
    if record.outcome == Some(Outcome::RolledOut) {
        return None;
    }
    Some(format!("{}: {}", record.rollout_id, record.reason))
}
