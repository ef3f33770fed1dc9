//! The loop around the decision: keeps the lease, takes requests into the record, saves what is about to
//! be done, has it done, looks again.

use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::decide::{Decision, Next, Policy, decide};
use super::journal::{Journal, JournalError};
use super::observation::{Asked, Known, Seen};
use super::record::Record;
use super::request::{Request, Verb, drop_request, list_requests, refuse_request};
use super::state::{Act, Outcome, State};
use crate::control::{ControlDir, DocumentError, Lease, LeaseError};
use crate::storage::StorageError;

/// Pause after something failed that is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why an act could not be done; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The record could not be saved in the middle of it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A message file could not be read or written.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Something else; the text says what, and what to do.
    #[error("{what}")]
    Failed {
        /// What happened.
        what: String,
    },
}

impl From<StorageError> for ActError {
    fn from(error: StorageError) -> Self {
        Self::Document(error.into())
    }
}

/// Why a rollout cannot be gone on with by this process. It stays where it is.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Another process goes on with it.
    #[error(transparent)]
    Lost(#[from] LeaseError),
    /// Another process has written its record.
    #[error(transparent)]
    Journal(JournalError),
}

/// How an engine came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The rollout is over.
    Over(Outcome),
    /// It was told to end; the rollout can be taken up again.
    Interrupted,
    /// A person has to look; nothing is done before a request comes.
    NeedsHuman,
}

/// The record with its journal, for an act that has to save in its middle.
#[derive(Debug)]
pub struct Desk<'a> {
    /// The record.
    pub record: &'a mut Record,
    journal: &'a mut Journal,
}

impl Desk<'_> {
    /// Saves the record as it is now.
    ///
    /// # Errors
    /// [`JournalError`].
    pub async fn save(&mut self) -> Result<(), JournalError> {
        self.journal.append(self.record).await
    }
}

/// Eyes and hands of a rollout.
#[async_trait]
pub trait Hands: Send {
    /// What there is to see. What cannot be told is unknown.
    async fn look(&mut self, record: &Record) -> Seen;

    /// Does `act`, or begins it where its end is observed. Repeatable: it may have been done, or begun,
    /// by a process before this one.
    ///
    /// # Errors
    /// [`ActError`]; it is called again.
    async fn perform(&mut self, act: Act, desk: &mut Desk<'_>) -> Result<(), ActError>;

    /// Fills in what is known when `record.state` is entered: bases, times, proof. Reads only what is
    /// quick.
    async fn note(&mut self, record: &mut Record);

    /// Is told that the rollout begins, by the process that has begun it.
    async fn begun(&mut self, record: &Record);

    /// Is told of every state that was entered and saved.
    async fn entered(&mut self, record: &Record);

    /// Is told of what needs a person, once for each text, and of its end with `None`. Of an alarm that is
    /// the entry into `needs-human`, `entered` tells.
    async fn alarm(&mut self, record: &Record, why: Option<&str>);

    /// Makes ready what will be needed at once when the old job has ended: called while it drains.
    async fn make_ready(&mut self, record: &Record);

    /// Waits until something may have changed, at most `at_most`.
    async fn pause(&mut self, at_most: Duration);

    /// Lets go of everything in this process; the rollout may go on elsewhere.
    async fn close(&mut self);
}

/// One rollout under way in this process.
pub struct Engine<'h> {
    control: ControlDir,
    journal: Journal,
    record: Record,
    lease: Lease,
    lease_ttl: Duration,
    policy: Policy,
    tick: Duration,
    hands: &'h mut dyn Hands,
    shutdown: CancellationToken,
    /// Storage time at a moment of this process.
    clock: (Timestamp, Instant),
    alarm: Option<String>,
    leave_at_needs_human: bool,
    /// Places at which a test has the process killed.
    crash_point: fn(&str),
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

/// What an engine is made from.
#[derive(Debug)]
pub struct EngineOptions {
    /// The control directory.
    pub control: ControlDir,
    /// The journal.
    pub journal: Journal,
    /// The record as of its last entry.
    pub record: Record,
    /// The lease of the job's rollouts, held.
    pub lease: Lease,
    /// How long it holds without a beat.
    pub lease_ttl: Duration,
    /// Deadlines and the like.
    pub policy: Policy,
    /// Longest pause between two looks.
    pub tick: Duration,
    /// Ends the engine; the rollout stays where it is.
    pub shutdown: CancellationToken,
    /// Whether the engine ends where a person has to look, and no request is there.
    pub leave_at_needs_human: bool,
    /// Called with the name of each place between two steps.
    pub crash_point: fn(&str),
}

impl<'h> Engine<'h> {
    /// An engine that has not begun.
    pub fn new(options: EngineOptions, hands: &'h mut dyn Hands) -> Self {
        let since = options.record.since;
        Self {
            control: options.control,
            journal: options.journal,
            record: options.record,
            lease: options.lease,
            lease_ttl: options.lease_ttl,
            policy: options.policy,
            tick: options.tick,
            hands,
            shutdown: options.shutdown,
            clock: (since, Instant::now()),
            alarm: None,
            leave_at_needs_human: options.leave_at_needs_human,
            crash_point: options.crash_point,
        }
    }

    fn now(&self) -> Timestamp {
        let (stamp, at) = self.clock;
        SignedDuration::try_from(at.elapsed())
            .ok()
            .and_then(|elapsed| stamp.checked_add(elapsed).ok())
            .unwrap_or(stamp)
    }

    /// Goes on with the rollout to its end. Gives the lease back.
    ///
    /// # Errors
    /// [`EngineError`]: another process goes on with it.
    pub async fn run(mut self) -> Result<(Ending, Record), EngineError> {
        let ended = self.drive().await;
        self.journal.drop_staged().await;
        self.hands.close().await;
        if !matches!(ended, Err(EngineError::Lost(LeaseError::Lost { .. })))
            && let Err(error) = self.lease.release(self.control.storage().as_ref()).await
        {
            tracing::debug!("the lease was not given back: {error}");
        }
        ended.map(|ending| (ending, self.record))
    }

    async fn drive(&mut self) -> Result<Ending, EngineError> {
        let is_new = self.journal.is_new();
        if !self.take_up().await? {
            return Ok(Ending::Interrupted);
        }
        if is_new {
            self.hands.begun(&self.record).await;
        }
        loop {
            if let (State::Ended, Some(outcome)) = (self.record.state, self.record.outcome) {
                return Ok(Ending::Over(outcome));
            }
            if self.shutdown.is_cancelled() {
                return Ok(Ending::Interrupted);
            }
            match self.step().await {
                Ok(pause) if pause.is_zero() => {}
                Ok(_) if self.record.state == State::NeedsHuman && self.leave_at_needs_human => {
                    return Ok(Ending::NeedsHuman);
                }
                Ok(pause) => self.wait(pause).await,
                Err(StepError::Lost(error)) => return Err(EngineError::Lost(error)),
                Err(StepError::Overtaken(error)) => return Err(EngineError::Journal(error)),
                Err(StepError::Again(why)) => {
                    tracing::warn!(rollout = %self.record.rollout_id, "{why}");
                    self.wait(RETRY).await;
                }
            }
        }
    }

    async fn wait(&mut self, at_most: Duration) {
        let shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.hands.pause(at_most) => {}
        }
    }

    /// Writes the first entry of this process, so that whoever had the rollout before is refused, and
    /// begins the clock of the state anew where it was staged ahead. False at the shutdown.
    async fn take_up(&mut self) -> Result<bool, EngineError> {
        loop {
            let taken = async {
                let now = self.beat().await?;
                self.record.generation = self.lease.generation();
                // The time from before does not count where it is not known.
                if self.record.since > now || self.is_staged_entry() {
                    self.record.since = now;
                }
                let record = self.record.clone();
                self.journal.append(&record).await.map_err(StepError::from)
            };
            match taken.await {
                Ok(()) => return Ok(true),
                Err(StepError::Lost(error)) => return Err(EngineError::Lost(error)),
                Err(StepError::Overtaken(error)) => return Err(EngineError::Journal(error)),
                Err(StepError::Again(why)) => tracing::warn!("{why}"),
            }
            if self.shutdown.is_cancelled() {
                return Ok(false);
            }
            self.wait(RETRY).await;
        }
    }

    /// Entries of these states were written before the state was entered.
    fn is_staged_entry(&self) -> bool {
        matches!(self.record.state, State::Stopped | State::Cutover)
    }

    async fn beat(&mut self) -> Result<Timestamp, StepError> {
        let now = self.lease.beat(self.control.storage().as_ref()).await?;
        self.clock = (now, Instant::now());
        Ok(now)
    }

    /// One look, one decision, one deed. Says how long to wait before the next.
    async fn step(&mut self) -> Result<Duration, StepError> {
        if self.lease.is_beat_due(self.lease_ttl) {
            self.beat().await?;
        }
        let mut seen = self.hands.look(&self.record).await;
        let now = self.now();
        // What is asked for is meant for what runs now: that is on record first.
        let adopts = matches!(
            decide(&self.record, &seen, &self.policy, now).next,
            Next::AdoptNew(_) | Next::AdoptOld(_) | Next::AdoptAgain(_)
        );
        if !adopts {
            seen.asked = self.take_requests(seen.own_commit).await?;
        }
        let decision = decide(&self.record, &seen, &self.policy, now);
        tracing::debug!(state = %self.record.state, ?seen, ?decision, "decided");
        self.tell_alarm(&decision).await;
        match decision.next {
            Next::Wait => {
                if self.record.state == State::Stopping && !self.journal.has_staged() {
                    self.get_ready(now).await;
                }
                return Ok(self.tick);
            }
            Next::Enter(state) => self.enter(state, &decision.why).await?,
            Next::AdoptNew(attempt) => {
                self.record.new_attempt = Some(attempt);
                self.save().await?;
            }
            Next::AdoptOld(attempt) => {
                self.record.old_attempt = Some(attempt);
                self.save().await?;
            }
            Next::AdoptAgain(attempt) => {
                self.record.old_again = Some(attempt);
                self.record.gap.resumed_at = Some(now);
                self.save().await?;
            }
            Next::NextLeg => {
                if let Some(slot) = self.record.then.first().copied() {
                    self.hands.note(&mut self.record).await;
                    self.record.next_leg(slot, now);
                }
                self.save().await?;
                self.hands.entered(&self.record).await;
            }
            Next::Do(act) => self.perform(act, &decision.why).await?,
            Next::End(outcome) => {
                self.hands.note(&mut self.record).await;
                self.record.end(outcome, now, &decision.why);
                self.save().await?;
                tracing::info!(rollout = %self.record.rollout_id, %outcome, "{}", decision.why);
                self.hands.entered(&self.record).await;
            }
        }
        Ok(Duration::ZERO)
    }

    /// The sole right is made sure of right before anything that no file can take back.
    async fn fence(&mut self) -> Result<(), StepError> {
        if !self.lease.is_sure(self.lease_ttl) {
            self.beat().await?;
        }
        Ok(())
    }

    async fn save(&mut self) -> Result<(), StepError> {
        self.fence().await?;
        self.record.generation = self.lease.generation();
        let record = self.record.clone();
        Ok(self.journal.append(&record).await?)
    }

    async fn enter(&mut self, state: State, why: &str) -> Result<(), StepError> {
        self.fence().await?;
        let before = self.record.clone();
        self.record.enter(state, self.now(), why);
        self.hands.note(&mut self.record).await;
        (self.crash_point)(&format!("rollout-enter-{state}"));
        let record = self.record.clone();
        if let Err(error) = self.journal.append(&record).await {
            // What is not saved was not entered.
            self.record = before;
            return Err(error.into());
        }
        (self.crash_point)(&format!("rollout-entered-{state}"));
        tracing::info!(rollout = %self.record.rollout_id, job = %self.record.job, %state, "{why}");
        self.hands.entered(&self.record).await;
        Ok(())
    }

    async fn perform(&mut self, act: Act, why: &str) -> Result<(), StepError> {
        // Acts that are found again without a note need none, and save a write in the gap.
        let needs_note = !matches!(
            act,
            Act::Sync | Act::CopyCommitted | Act::FinishCopy | Act::Go
        );
        let now = self.now();
        if self.record.begin(act, now) && needs_note {
            (self.crash_point)(&format!("rollout-{act}-unsaved"));
            if let Err(error) = self.save().await {
                self.record.begun.remove(&act);
                return Err(error);
            }
        } else {
            self.fence().await?;
        }
        (self.crash_point)(&format!("rollout-{act}-begun"));
        tracing::info!(rollout = %self.record.rollout_id, job = %self.record.job, %act, "{why}");
        let mut desk = Desk {
            record: &mut self.record,
            journal: &mut self.journal,
        };
        match self.hands.perform(act, &mut desk).await {
            Ok(()) => {}
            Err(ActError::Journal(error)) => return Err(error.into()),
            Err(error) => {
                let what = format!("{act} failed and is tried again: {}", chain(&error));
                return Err(StepError::Again(what));
            }
        }
        (self.crash_point)(&format!("rollout-{act}-done"));
        if !act.is_observed() {
            self.record.done.insert(act);
        }
        Ok(())
    }

    /// Writes the entries of the gap ahead, so that to enter their states is a rename each.
    async fn get_ready(&mut self, now: Timestamp) {
        let mut ahead = self.record.clone();
        ahead.enter(State::Stopped, now, "the old job is stopped");
        if self.journal.stage(&ahead).await.is_err() {
            return;
        }
        ahead.enter(State::Cutover, now, "the checkpoint is handed over");
        if self.journal.stage(&ahead).await.is_ok() {
            self.hands.make_ready(&self.record).await;
        }
    }

    async fn tell_alarm(&mut self, decision: &Decision) {
        let now = (decision.alarm && !matches!(decision.next, Next::Do(_)))
            .then(|| decision.why.to_string());
        if now == self.alarm {
            return;
        }
        // An alarm that belongs to an entry stays on until the next decision.
        if let Some(why) = &now {
            tracing::error!(rollout = %self.record.rollout_id, job = %self.record.job, "{why}");
        }
        if decision.next != Next::Enter(State::NeedsHuman) {
            self.hands.alarm(&self.record, now.as_deref()).await;
        }
        self.alarm = now;
    }

    /// Takes what operators ask for into the record; what only counts in this moment is returned.
    /// Whether y has committed a batch of its own says what can be met.
    async fn take_requests(&mut self, own_commit: Known) -> Result<Asked, StepError> {
        let mut asked = Asked::default();
        let requests = match list_requests(&self.control, &self.record.job).await {
            Ok(requests) => requests,
            Err(error) => {
                // They stay where they are.
                tracing::debug!("the requests cannot be read: {}", chain(&error));
                return Ok(asked);
            }
        };
        for request in requests {
            if request.verb == Verb::Start {
                // One that begins while a rollout is under way is harmless.
                drop_request(&self.control, &request).await?;
                continue;
            }
            let is_ours = request
                .rollout_id
                .is_none_or(|id| id == self.record.rollout_id);
            if !is_ours || !self.take_request(&request, own_commit, &mut asked) {
                let why = if is_ours {
                    format!(
                        "rollout {} is at {}: this cannot be done now",
                        self.record.rollout_id, self.record.state
                    )
                } else {
                    format!("rollout {} is under way", self.record.rollout_id)
                };
                refuse_request(&self.control, &self.record.job, &request.path, &why).await?;
                continue;
            }
            tracing::info!(request = request.path.name(), "an operator asks for it");
            // On record before the file goes.
            self.save().await?;
            drop_request(&self.control, &request).await?;
        }
        Ok(asked)
    }

    fn take_request(&mut self, request: &Request, own_commit: Known, asked: &mut Asked) -> bool {
        let state = self.record.state;
        let record = &mut self.record;
        match (request.verb, state) {
            (Verb::Promote, State::NeedsHuman) => asked.promote = true,
            // Its last checks say no.
            (Verb::Promote, State::Proving) if own_commit == Known::Yes => asked.promote = true,
            (Verb::Abort, State::NeedsHuman) => asked.abort = true,
            (Verb::Promote, state) if state.is_before_stop() => {
                record.promoted = true;
                record.on_hold = false;
            }
            (Verb::Hold, state) if state.is_before_stop() => {
                record.on_hold = true;
                record.promoted = false;
            }
            (Verb::Abort, State::Proving | State::Aborting | State::RecoverOld | State::Ended) => {
                return false;
            }
            (Verb::Abort, _) => record.abort_asked = true,
            (Verb::Promote | Verb::Hold | Verb::Rollback | Verb::Start, _) => return false,
        }
        true
    }
}

/// What keeps one step from being taken.
enum StepError {
    Lost(LeaseError),
    Overtaken(JournalError),
    Again(String),
}

impl From<LeaseError> for StepError {
    fn from(error: LeaseError) -> Self {
        match error {
            LeaseError::Lost { .. } => StepError::Lost(error),
            LeaseError::Storage(_) | LeaseError::Document(_) => StepError::Again(chain(&error)),
        }
    }
}

impl From<JournalError> for StepError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Overtaken { .. } => StepError::Overtaken(error),
            JournalError::Document(_) => StepError::Again(chain(&error)),
        }
    }
}

impl From<DocumentError> for StepError {
    fn from(error: DocumentError) -> Self {
        StepError::Again(chain(&error))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    crate::marker::poll::error_chain(error)
}
