//! A world for random histories: jobs die, platforms restart them, operators remove markers, storages say
//! nothing, and stepdown is killed between any two steps. The "Never" list is what it checks.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::tests::{attempt, policy, record};
use super::*;
use crate::model::Slot;
use crate::rollout::observation::{Asked, Copying, Gate, Known, Life, Phase, Side, StopSeen, Task};
use crate::rollout::record::Record;
use crate::rollout::state::{Strategy, Transfer};

/// One job of the world.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one fact of its own")]
struct Job {
    /// How often it was started.
    attempts: u32,
    runs: bool,
    /// Whether its queries run, or wait for their go.
    held: bool,
    go: bool,
    marker: bool,
    stop: Option<Stop>,
    planned: bool,
    committed: bool,
    /// The start command runs.
    starting: bool,
    start_failed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Latched,
    Stopped,
    Restarted,
    Died,
}

#[expect(clippy::struct_excessive_bools, reason = "each is one fact of its own")]
pub(super) struct World {
    x: Job,
    y: Job,
    /// x, started again.
    again: Job,
    silent: bool,
    /// What the process that drives it knows of the copy.
    copy: Copying,
    /// What the source held when the copy was published.
    published: Option<u32>,
    x_wrote: u32,
    gate: Gate,
    post_gate: Gate,
    asked: Asked,
    operator_stopped: bool,
    /// An operator removed x's marker before x was asked.
    stopped_before_ask: bool,
    x_died: bool,
    now: i64,
    random: fastrand::Rng,
    /// The record on the storage.
    pub(super) saved: Record,
    log: Vec<String>,
    policy: Policy,
    ended_with_alarm: bool,
    pub(super) acts: BTreeMap<Act, u64>,
    pub(super) ways: BTreeSet<(State, String)>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let strategy = Strategy::ALL[random.usize(..4)];
        let transfer = match strategy {
            Strategy::Parallel => Transfer::CopyNewId,
            Strategy::Rolling => Transfer::InPlace,
            Strategy::StopStart | Strategy::HandOver => {
                if random.bool() {
                    Transfer::Copy
                } else {
                    Transfer::InPlace
                }
            }
        };
        let same = strategy == Strategy::Rolling
            || (strategy == Strategy::StopStart && random.u8(..4) == 0);
        let transfer = if same { Transfer::InPlace } else { transfer };
        let new = if same { Slot::Blue } else { Slot::Green };
        let mut saved = record(strategy, transfer, Some(Slot::Blue), new);
        if strategy == Strategy::Rolling && random.bool() {
            saved.then = vec![Slot::Green];
        }
        let mut policy = policy();
        policy.auto_promote = random.u8(..4) != 0;
        policy.has_restart = random.u8(..4) != 0;
        if random.bool() {
            policy.gate_overdue = GateOverdue::Hold;
        }
        // Sometimes the job was stopped on purpose before.
        let runs = strategy == Strategy::Rolling || random.u8(..8) != 0;
        let x = Job {
            attempts: u32::from(runs),
            runs,
            marker: runs,
            go: runs,
            planned: true,
            committed: true,
            ..Job::default()
        };
        if !runs {
            saved.old_attempt = None;
        }
        World {
            x,
            y: Job::default(),
            again: Job::default(),
            silent: false,
            copy: Copying::Idle,
            published: None,
            x_wrote: 0,
            gate: Gate::Pending,
            post_gate: Gate::Pending,
            asked: Asked::default(),
            operator_stopped: false,
            stopped_before_ask: false,
            x_died: false,
            now: 1_000,
            random,
            saved,
            log: Vec::new(),
            policy,
            ended_with_alarm: false,
            acts: BTreeMap::new(),
            ways: BTreeSet::new(),
        }
    }

    fn say(&mut self, text: impl Into<String>) {
        let text = text.into();
        self.log.push(format!("{} {text}", self.now));
    }

    fn check(&self, holds: bool, what: &str) {
        assert!(
            holds,
            "{what}\nrecord: {:#?}\nx: {:?}\ny: {:?}\nagain: {:?}\nhistory:\n{}",
            self.saved,
            self.x,
            self.y,
            self.again,
            self.log.join("\n")
        );
    }

    fn stop_seen(job: &Job) -> StopSeen {
        match job.stop {
            None => StopSeen::None,
            Some(Stop::Latched) => StopSeen::Latched,
            Some(Stop::Stopped) => StopSeen::Stopped,
            Some(Stop::Restarted) => StopSeen::Restarted,
            Some(Stop::Died) => StopSeen::Died,
        }
    }

    fn side(job: &Job, recorded: Option<&AttemptId>, name: &str) -> Side {
        let current = attempt(&format!("{name}-{}", job.attempts));
        let is_recorded = recorded == Some(&current);
        Side {
            life: match recorded {
                None => Life::NotThere,
                Some(_) if is_recorded && job.runs => Life::Running,
                Some(_) => Life::Over,
            },
            stop: Self::stop_seen(job),
            found: (job.runs && !is_recorded).then_some(current),
            is_foreign: false,
            marker: if job.marker { Known::Yes } else { Known::No },
            phase: if !job.runs {
                Phase::Silent
            } else if job.held && !job.go {
                Phase::Held
            } else if job.stop.is_some() {
                Phase::Ending
            } else {
                Phase::Running
            },
        }
    }

    fn look(&mut self, record: &Record) -> Seen {
        let asked = std::mem::take(&mut self.asked);
        if self.silent {
            return Seen {
                asked,
                ..Seen::default()
            };
        }
        let task = |job: &Job| {
            if job.starting {
                Task::Busy
            } else if job.start_failed {
                Task::Failed
            } else if job.attempts > 0 {
                Task::Done
            } else {
                Task::Idle
            }
        };
        let same = record.is_same_slot();
        let mut old = Self::side(&self.x, record.old_attempt.as_ref(), "x");
        if same && record.begun.contains(&Act::StartNew) {
            old.found = None;
        }
        let known = |yes| if yes { Known::Yes } else { Known::No };
        let mut copy = self.copy;
        if copy == Copying::Idle && self.published.is_some() {
            copy = Copying::Published;
        }
        let is_outrun = self.published != Some(self.x_wrote);
        if copy == Copying::Published && record.is_to_hand_over() && is_outrun {
            copy = Copying::Failed;
        }
        Seen {
            old,
            new: Self::side(&self.y, record.new_attempt.as_ref(), "y"),
            again: Self::side(&self.again, record.old_again.as_ref(), "again"),
            peer: Life::Running,
            own_plan: known(self.y.planned),
            own_commit: known(self.y.committed),
            copy,
            start: task(&self.y),
            restart: task(&self.again),
            gate: self.gate,
            post_gate: self.post_gate,
            asked,
        }
    }

    /// What an act does to the world. The checks are the promises.
    fn perform(&mut self, what: Act) {
        *self.acts.entry(what).or_default() += 1;
        self.say(format!("act {what}"));
        let parallel = self.saved.strategy == Strategy::Parallel;
        match what {
            Act::PrepareNew => {
                self.check(!self.y.runs, "prepares a slot in which something runs");
                self.y.marker = true;
            }
            Act::Sync | Act::CopyCommitted => self.copy = Copying::Busy,
            Act::StartNew => {
                self.check(!self.y.starting && !self.y.runs, "starts the new job twice");
                self.check(
                    parallel || self.saved.holds() || !self.x.runs,
                    "starts the new job beside the old one",
                );
                if !self.saved.holds() {
                    self.check_handed_over();
                }
                // In its own place a slot has one marker, which went with the old job.
                if self.saved.is_same_slot() || self.saved.transfer == Transfer::InPlace {
                    self.y.marker = true;
                }
                self.y.starting = true;
                self.y.held = self.saved.holds();
                self.y.go = !self.saved.holds();
            }
            Act::AskOld | Act::AskOldAgain => {
                self.check(
                    self.saved.state == State::Stopping,
                    "asks the old job too early",
                );
                self.x.marker = false;
                if what == Act::AskOldAgain {
                    self.x.stop = None;
                    self.saved.old_attempt = Some(attempt(&format!("x-{}", self.x.attempts)));
                }
            }
            Act::FinishCopy => {
                self.check(!self.x.runs, "makes the last pass while the old job runs");
                self.copy = Copying::Busy;
            }
            Act::Go => {
                self.check(!self.x.runs, "lets the new job go beside the old one");
                self.check_handed_over();
                self.y.go = true;
            }
            Act::AskNew => {
                self.y.marker = false;
            }
            Act::CancelStart => {
                self.y.starting = false;
                self.y.start_failed = true;
            }
            Act::DropNew => {
                self.check(
                    !self.y.runs && !self.y.starting,
                    "drops the copy under a job",
                );
                self.check(
                    parallel || !self.y.planned,
                    "drops a checkpoint that the new job has planned in",
                );
                self.copy = Copying::Idle;
                self.published = None;
                self.y.marker = false;
            }
            Act::RestartOld => {
                self.check(
                    !self.y.runs && !self.y.starting,
                    "starts the old job beside the new one",
                );
                self.check(!self.y.planned, "goes back after the new job planned");
                self.check(!self.x.runs, "starts the old job beside itself");
                self.check(
                    !self.again.starting && !self.again.runs,
                    "starts the old job twice",
                );
                self.again.starting = true;
                self.again.marker = true;
            }
        }
    }

    fn check_handed_over(&self) {
        self.check(
            self.saved.transfer != Transfer::Copy || self.published == Some(self.x_wrote),
            "hands over a copy that the old job has outrun",
        );
    }

    /// One step of stepdown; `crash_at` ends it before, between or after saving and acting.
    fn step(&mut self, crash_at: u8) {
        let mut record = self.saved.clone();
        if record.state == State::Ended {
            return;
        }
        let asked = self.asked;
        let seen = self.look(&record);
        // Requests are on record before they count.
        if asked.promote && !matches!(record.state, State::NeedsHuman) {
            record.promoted = true;
        }
        if asked.abort && !matches!(record.state, State::NeedsHuman | State::Proving) {
            record.abort_asked = true;
        }
        self.saved = record.clone();
        let now = Timestamp::from_second(self.now).unwrap();
        let policy = self.policy;
        let decision = decide(&record, &seen, &policy, now);
        if crash_at == 0 {
            self.crash();
            return;
        }
        match decision.next {
            Next::Enter(state) => {
                self.say(format!("{} -> {state}: {}", record.state, decision.why));
                self.check(state != record.state, "enters the state it is in");
                // Who lets it go on from here has decided anew.
                self.stopped_before_ask &= record.state != State::NeedsHuman;
                self.ways.insert((record.state, state.to_string()));
                record.enter(state, now, &decision.why);
                self.saved = record;
                self.ended_with_alarm |= decision.alarm;
            }
            Next::AdoptNew(found) => {
                record.new_attempt = Some(found);
                self.y.stop = self.y.stop.filter(|_| self.y.attempts <= 1);
                self.saved = record;
            }
            Next::AdoptOld(found) => {
                record.old_attempt = Some(found);
                self.x.stop = None;
                self.saved = record;
            }
            Next::AdoptAgain(found) => {
                record.old_again = Some(found);
                self.saved = record;
            }
            Next::NextLeg => {
                let slot = record.then[0];
                record.next_leg(slot, now);
                record.old_attempt = Some(attempt("x-1"));
                self.saved = record;
                self.x = Job {
                    attempts: 1,
                    runs: true,
                    marker: true,
                    go: true,
                    planned: true,
                    committed: true,
                    ..Job::default()
                };
                self.y = Job::default();
                self.copy = Copying::Idle;
                self.published = None;
                self.gate = Gate::Pending;
                self.post_gate = Gate::Pending;
            }
            Next::Do(what) => {
                record.begin(what, now);
                self.saved = record.clone();
                if crash_at == 1 {
                    self.crash();
                    return;
                }
                self.perform(what);
                if crash_at == 2 {
                    self.crash();
                    return;
                }
                if !what.is_observed() {
                    self.saved.done.insert(what);
                }
            }
            Next::End(outcome) => {
                self.say(format!("ends: {outcome}, {}", decision.why));
                self.check_outcome(&record, outcome);
                self.ways.insert((record.state, format!("**{outcome}**")));
                record.end(outcome, now, &decision.why);
                self.saved = record;
            }
            Next::Wait => self.ended_with_alarm |= decision.alarm,
        }
    }

    /// What is not on the storage is forgotten.
    fn crash(&mut self) {
        self.copy = Copying::Idle;
    }

    fn check_outcome(&self, record: &Record, outcome: Outcome) {
        match outcome {
            Outcome::RolledOut => {
                self.check(
                    self.y.committed,
                    "says rolled out before a commit of its own",
                );
                self.check(!self.x.runs, "says rolled out while the old job runs");
                self.check(
                    !self.stopped_before_ask || record.promoted,
                    "says rolled out against an operator's stop",
                );
            }
            Outcome::Aborted => {
                self.check(
                    !record.begun.contains(&Act::AskOld),
                    "says aborted after it asked the old job",
                );
                self.check(
                    self.x.runs || self.x_died || record.old_attempt.is_none(),
                    "says aborted, and the old job does not run",
                );
                self.check(!self.y.runs, "says aborted, and the new job runs");
            }
            Outcome::Recovered => {
                self.check(
                    self.again.runs || self.x.runs,
                    "says recovered, and the old job does not run",
                );
                self.check(!self.y.planned, "says recovered after the new job planned");
                self.check(!self.y.runs, "says recovered, and the new job runs");
            }
            Outcome::StoppedByOperator => {
                self.check(
                    self.operator_stopped,
                    "says that an operator stopped it, and none did",
                );
            }
            Outcome::Refused => {
                self.check(record.begun.is_empty(), "says refused after it began");
            }
        }
    }

    /// A job whose marker is gone is asked, drains and ends.
    fn serve_stop(job: &mut Job, fast: bool, random: &mut fastrand::Rng) {
        if job.marker || job.attempts == 0 {
            return;
        }
        if !job.runs {
            // It saw that by itself, before anybody else did.
            job.stop = job.stop.or(Some(Stop::Stopped));
            return;
        }
        match job.stop {
            None if !fast && random.u8(..3) == 0 => job.runs = false,
            None => job.stop = Some(Stop::Latched),
            Some(Stop::Latched) if fast || random.u8(..3) == 0 => {
                job.runs = false;
                job.stop = Some(Stop::Stopped);
            }
            Some(_) => {}
        }
    }

    /// A step of the jobs and of those who serve them, without surprises.
    fn live(&mut self, fast: bool) {
        let random = &mut self.random;
        for job in [&mut self.x, &mut self.y, &mut self.again] {
            Self::serve_stop(job, fast, random);
            if job.starting && (fast || random.u8(..3) == 0) {
                job.starting = false;
                job.runs = true;
                job.attempts += 1;
            }
        }
        if self.x.runs && (fast || random.bool()) {
            self.x_wrote += 1;
        }
        if self.y.runs && self.y.go && self.y.stop.is_none() {
            let copied = !self.saved.transfer.copies() || self.published.is_some();
            if self.y.planned && (fast || random.bool()) {
                self.y.committed = true;
            }
            if copied && (fast || random.bool()) {
                self.y.planned = true;
            }
        }
        if self.copy == Copying::Busy && (fast || random.bool()) {
            let last =
                self.saved.state == State::Stopped || self.saved.strategy == Strategy::Parallel;
            self.copy = if last {
                // What was published before is not made again.
                self.published = self.published.or(Some(self.x_wrote));
                Copying::Published
            } else {
                Copying::InSync
            };
        }
        if matches!(self.saved.state, State::Held | State::Shadow) && (fast || random.u8(..4) == 0)
        {
            self.gate = Gate::Passed;
        }
        if self.y.committed && (fast || random.bool()) {
            self.post_gate = Gate::Passed;
        }
    }

    /// Something that nobody wished for.
    fn surprise(&mut self) {
        match self.random.u8(..17) {
            0 if self.x.runs => {
                self.say("x dies");
                self.x.runs = false;
                self.x_died = true;
                self.x.stop = Some(match self.x.stop {
                    Some(Stop::Latched | Stop::Restarted) => Stop::Stopped,
                    // An absence that was missed too late is one all the same.
                    None if !self.x.marker => Stop::Stopped,
                    _ => Stop::Died,
                });
            }
            1 if self.x.runs && self.x.stop == Some(Stop::Latched) => {
                self.say("x ends, and its platform starts it again");
                self.x.attempts += 1;
                self.x.stop = Some(Stop::Restarted);
                self.x.marker = true;
            }
            1 if self.x.runs && self.x.stop.is_none() => {
                self.say("x is restarted by its platform");
                self.x.attempts += 1;
            }
            2 if self.y.runs => {
                self.say("y dies");
                self.y.runs = false;
                self.y.stop = Some(match self.y.stop {
                    Some(Stop::Latched) => Stop::Stopped,
                    _ => Stop::Died,
                });
            }
            3 if self.x.marker && self.x.runs && self.saved.begun.contains(&Act::PrepareNew) => {
                self.say("an operator removes x's marker");
                self.x.marker = false;
                self.operator_stopped = true;
                self.stopped_before_ask |= self.saved.state.is_before_stop();
            }
            4 if self.y.marker => {
                self.say("an operator removes y's marker");
                self.y.marker = false;
                self.operator_stopped = true;
            }
            5 => {
                self.say("abort");
                self.asked.abort = true;
            }
            6 => {
                self.say("promote");
                self.asked.promote = true;
            }
            7 | 8 => self.silent = true,
            9 | 10 => self.silent = false,
            11 if self.copy == Copying::Busy => self.copy = Copying::Failed,
            12 if self.y.starting => {
                self.say("the start command fails");
                self.y.starting = false;
                self.y.start_failed = true;
            }
            13 => self.gate = Gate::Failed,
            14 => self.now += 150,
            15 if self.again.runs && self.random.u8(..3) == 0 => {
                self.say("an operator removes x's new marker");
                self.again.marker = false;
                self.operator_stopped = true;
            }
            16 if !self.x.runs
                && !self.saved.is_same_slot()
                && self.x.stop == Some(Stop::Stopped)
                && self.saved.begun.contains(&Act::AskOld)
                && !self.saved.begun.contains(&Act::RestartOld) =>
            {
                self.say("x is started again after its stop");
                self.x.attempts += 1;
                self.x.runs = true;
                self.x.stop = Some(Stop::Restarted);
            }
            _ => {}
        }
    }
}

/// One history: the random part, then a fair world in which it must come to rest.
pub(super) fn live_through(seed: u64) -> (World, Option<Outcome>) {
    let mut world = World::new(seed);
    let begin = format!(
        "{} {:?} to {}",
        world.saved.strategy, world.saved.transfer, world.saved.new
    );
    world.say(begin);
    let events = world.random.u32(5..60);
    for _ in 0..events {
        world.now += world.random.i64(0..8);
        if world.random.u8(..6) == 0 {
            world.surprise();
        }
        if world.saved.state == State::NeedsHuman && world.random.u8(..4) == 0 {
            world.say("somebody looks, and promotes");
            world.asked.promote = true;
        }
        world.live(false);
        let crash_at = world.random.u8(..10);
        world.step(crash_at);
    }
    world.silent = false;
    let mut quiet = 0;
    for _ in 0..400 {
        world.now += 1;
        world.live(true);
        let before = (world.saved.state, world.saved.begun.len());
        world.ended_with_alarm = false;
        world.step(9);
        if world.saved.state == State::Ended {
            let outcome = world.saved.outcome;
            return (world, outcome);
        }
        quiet = if before == (world.saved.state, world.saved.begun.len()) {
            quiet + 1
        } else {
            0
        };
        if quiet == 310 {
            break;
        }
    }
    // What waits on waits with an alarm, for a person, or because a person said so.
    let waits_for_person = world.saved.on_hold
        || (matches!(world.saved.state, State::Held | State::Shadow) && !world.policy.auto_promote);
    let rests = world.ended_with_alarm || waits_for_person;
    world.check(rests, "comes to no end, and raises no alarm");
    (world, None)
}
