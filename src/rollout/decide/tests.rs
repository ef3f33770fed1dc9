//! Decisions one by one, and over random histories of a [world](super::world).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::world::{World, live_through};
use super::*;
use crate::model::{AttemptId, Generation, Slot};
use crate::rollout::observation::{Copying, Gate, Known, Life, Phase, Side, StopSeen, Task};
use crate::rollout::record::{Direction, Gap, Record, RolloutId};
use crate::rollout::state::{Strategy, Transfer};

const HISTORIES: u64 = 100_000;

pub(super) fn policy() -> Policy {
    Policy {
        deadlines: Deadlines {
            prepare: Duration::from_secs(100),
            start: Duration::from_secs(100),
            gate: Duration::from_secs(100),
            drain: Duration::from_secs(200),
            copy: Duration::from_secs(100),
            cutover: Duration::from_secs(100),
            prove: Duration::from_secs(100),
            abort: Duration::from_secs(100),
        },
        auto_promote: true,
        gate_overdue: GateOverdue::Abort,
        hold_is_reported: true,
        has_start: true,
        has_restart: true,
    }
}

pub(super) fn attempt(name: &str) -> AttemptId {
    AttemptId::Named {
        name: name.to_owned(),
    }
}

pub(super) fn record(
    strategy: Strategy,
    transfer: Transfer,
    old: Option<Slot>,
    new: Slot,
) -> Record {
    let now = Timestamp::from_second(1_000).unwrap();
    Record {
        rollout_id: RolloutId(1),
        job: "clicks".parse().unwrap(),
        strategy,
        transfer,
        old,
        new,
        then: Vec::new(),
        exchanged: Vec::new(),
        direction: Direction::Forward,
        old_attempt: old.map(|_| attempt("x-1")),
        new_attempt: None,
        start_process: None,
        restart_process: None,
        restarting_since: None,
        old_again: None,
        new_generation: None,
        version: None,
        old_version: None,
        state: State::Preparing,
        since: now,
        reason: String::new(),
        begun_at: now,
        generation: Generation(1),
        begun: std::collections::BTreeSet::new(),
        done: std::collections::BTreeSet::new(),
        promoted: false,
        on_hold: false,
        abort_asked: false,
        base: Vec::new(),
        gap: Gap::default(),
        proof: None,
        outcome: None,
        path: Vec::new(),
    }
}

/// A record of a hand-over to `new`, for tests beside this one.
pub(in crate::rollout) fn record_of(new: Slot) -> Record {
    record(Strategy::HandOver, Transfer::Copy, Some(new.other()), new)
}

/// What many histories came to.
#[derive(Default)]
struct Count {
    ends: BTreeMap<String, u64>,
    acts: BTreeMap<Act, u64>,
    ways: BTreeSet<(State, String)>,
}

impl Count {
    fn add(&mut self, world: World, outcome: Option<Outcome>) {
        let end = outcome.map_or_else(
            || world.saved.state.to_string(),
            |outcome| outcome.to_string(),
        );
        *self.ends.entry(end).or_default() += 1;
        for (act, times) in world.acts {
            *self.acts.entry(act).or_default() += times;
        }
        self.ways.extend(world.ways);
    }

    fn join(&mut self, other: Count) {
        for (end, times) in other.ends {
            *self.ends.entry(end).or_default() += times;
        }
        for (act, times) in other.acts {
            *self.acts.entry(act).or_default() += times;
        }
        self.ways.extend(other.ways);
    }

    /// The ways as a table of the documentation.
    fn table(&self) -> String {
        let mut table = "| from | to |\n| --- | --- |\n".to_owned();
        for state in State::ALL {
            let from = self.ways.iter().filter(|(from, _)| *from == state);
            let to: Vec<&str> = from.map(|(_, to)| to.as_str()).collect();
            if !to.is_empty() {
                let row = format!("| {state} | {} |\n", to.join(", "));
                table.push_str(&row);
            }
        }
        table
    }

    /// The ways as a picture: forward in full lines, back in dotted ones, ends round.
    fn picture(&self) -> String {
        const BACK: [State; 3] = [State::Aborting, State::RecoverOld, State::NeedsHuman];
        let lines = self.ways.iter().map(|(from, to)| {
            // An end is in bold in the table.
            let end = to.trim_matches('*');
            let is_end = end != to;
            let forward = if is_end {
                end == Outcome::RolledOut.as_str()
            } else {
                !BACK.iter().any(|state| state.as_str() == end)
            };
            let arrow = if forward { "-->" } else { "-.->" };
            let (open, close) = if is_end { ("([", "])") } else { ("[", "]") };
            let (from_id, to_id) = (id_of(from.as_str()), id_of(end));
            format!("    {from_id}[{from}] {arrow} {to_id}{open}{end}{close}\n")
        });
        let lines: String = lines.collect();
        format!("```mermaid\nflowchart TD\n{lines}```\n")
    }
}

/// What a picture calls a state.
fn id_of(name: &str) -> String {
    name.replace('-', "_")
}

/// To be sure that nothing of y is left may take all the time there is: x's start has its own.
#[test]
fn an_old_job_that_is_started_late_is_waited_for() {
    let at = |second: i64| Timestamp::from_second(1_000 + second).unwrap();
    let mut record = record(
        Strategy::StopStart,
        Transfer::Copy,
        Some(Slot::Blue),
        Slot::Green,
    );
    record.begun = BTreeSet::from([Act::PrepareNew, Act::AskOld, Act::StartNew]);
    record.enter(State::RecoverOld, at(0), "");
    let gone = Side {
        life: Life::NotThere,
        ..Side::default()
    };
    let mut seen = Seen {
        old: Side {
            life: Life::Over,
            stop: StopSeen::Stopped,
            ..Side::default()
        },
        new: gone.clone(),
        again: gone,
        // Another host ran y's start command.
        start: Task::Unknown,
        own_plan: Known::No,
        ..Seen::default()
    };
    let next = |record: &Record, seen: &Seen, second: i64| {
        decide(record, seen, &policy(), at(second)).next
    };
    assert_eq!(next(&record, &seen, 99), Next::Wait);
    assert_eq!(next(&record, &seen, 101), Next::Do(Act::DropNew));
    record.done.insert(Act::DropNew);
    assert_eq!(next(&record, &seen, 101), Next::Do(Act::RestartOld));
    record.begin(Act::RestartOld, at(101));
    seen.restart = Task::Busy;
    assert_eq!(next(&record, &seen, 102), Next::Wait);
    assert_eq!(next(&record, &seen, 200), Next::Wait);
    assert_eq!(next(&record, &seen, 202), Next::Enter(State::NeedsHuman));
    // Asked to go back once more, there is time once more.
    record.enter(State::RecoverOld, at(300), "");
    assert_eq!(next(&record, &seen, 301), Next::Wait);
}

/// A stepdown that takes the rollout up has kept nothing in sync.
#[test]
fn the_old_job_is_asked_once_the_copy_is_in_sync() {
    let at = |second: i64| Timestamp::from_second(1_000 + second).unwrap();
    let mut record = record_of(Slot::Green);
    record.new_attempt = Some(attempt("y-1"));
    record.enter(State::Held, at(0), "");
    let held = Side {
        life: Life::Running,
        phase: Phase::Held,
        ..Side::default()
    };
    for promoted in [false, true] {
        record.promoted = promoted;
        for (copy, second, next) in [
            (Copying::Idle, 1, Next::Do(Act::Sync)),
            (Copying::Busy, 1, Next::Wait),
            (Copying::Busy, 101, Next::Enter(State::Aborting)),
            (Copying::InSync, 1, Next::Enter(State::Stopping)),
            (Copying::Failed, 1, Next::Enter(State::Aborting)),
        ] {
            let seen = Seen {
                old: Side {
                    life: Life::Running,
                    marker: Known::Yes,
                    ..Side::default()
                },
                new: Side {
                    marker: Known::Yes,
                    ..held.clone()
                },
                copy,
                gate: Gate::Passed,
                ..Seen::default()
            };
            let decision = decide(&record, &seen, &policy(), at(second));
            assert_eq!(decision.next, next, "{copy:?} {promoted}");
        }
    }
}

#[test]
fn the_never_list_holds_over_a_hundred_thousand_histories() {
    let threads = 2_u64;
    let workers: Vec<_> = (0..threads)
        .map(|worker| {
            std::thread::spawn(move || {
                let mut count = Count::default();
                for seed in (worker..HISTORIES).step_by(usize::try_from(threads).unwrap()) {
                    let (world, outcome) = live_through(seed);
                    count.add(world, outcome);
                }
                count
            })
        })
        .collect();
    let mut count = Count::default();
    for worker in workers {
        count.join(worker.join().expect("a history broke a promise: see above"));
    }
    let Count { ends, acts, .. } = &count;
    println!("{HISTORIES} histories: {ends:?}; acts: {acts:?}");
    // Each way and each act has been seen often, or the histories prove little.
    for outcome in [
        Outcome::RolledOut,
        Outcome::Aborted,
        Outcome::Recovered,
        Outcome::StoppedByOperator,
    ] {
        let times = ends.get(outcome.as_str()).copied().unwrap_or(0);
        assert!(times > 1_000, "{outcome}: {times} of {ends:?}");
    }
    for act in Act::ALL {
        let times = acts.get(&act).copied().unwrap_or(0);
        assert!(times > 100, "{act}: {times} of {acts:?}");
    }
    check_ways(&format!("{}\n{}", count.picture(), count.table()));
}

/// The ways in the documentation are those that the histories took.
fn check_ways(table: &str) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rollouts.md");
    let text = std::fs::read_to_string(file).unwrap();
    let (head, rest) = text.split_once("<!-- generated: ways -->\n").unwrap();
    let (found, tail) = rest.split_once("<!-- end -->").unwrap();
    if std::env::var_os("STEPDOWN_UPDATE_DOCS").is_some() {
        let text = format!("{head}<!-- generated: ways -->\n{table}<!-- end -->{tail}");
        std::fs::write(file, text).unwrap();
        return;
    }
    assert_eq!(found, table, "docs/rollouts.md is not current: make docs");
}
