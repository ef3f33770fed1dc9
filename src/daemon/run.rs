//! `run`: one command under supervision, from its marker to its receipt.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Daemon;
use super::child_backend::{ChildBackend, ChildRequest, KitWord, OneRequest};
use super::crash_point::crash_point;
use super::poller::{PollPolicy, Poller, Sightings};
pub use super::run_error::RunError;
use super::sentinel_keeper::SentinelKeeper;
use super::signals::Signals;
use super::slot::{SlotEngine, SlotSpec};
use crate::control::{
    Acquired, ControlDir, DocumentError, Lease, LeaseError, LeaseOwner, LeaseScope, LeaseWatch,
    Saved, Sentinel,
};
use crate::marker::Trigger;
use crate::marker::file::{MarkerNote, create_marker, remove_own_marker};
use crate::marker::poll::{DirectoryPoll, GuardRecord, Round, Sighting, error_chain};
use crate::model::AttemptId;
use crate::process::forward::signals_to_catch;
use crate::process::restart::{
    EndCause, EndedRun, RestartCount, RestartDecision, RestartPolicy, decide_restart,
};
use crate::process::{
    Child, EndsWith, Group, ProcessState, Signal, SignalTarget, SpawnOptions, Terminal, observe,
    spawn_gated,
};
use crate::stop::Exit;
use crate::stop::command::{CommandBackend, CommandOptions};
use crate::stop::receipt::Receipt;
use crate::stop::record::{Armed, save_armed};
use crate::stop::signal::{AttemptSource, SignalBackend, SignalOptions};
use crate::stop::status::{
    Phase, RolloutTag, StatusFile, load_status, save_status, save_tagged_status,
};
use crate::storage::{DirIdentity, ErrorKind, StorageUri};

/// Pause between two tries at something that `run` cannot go on without.
const RETRY: Duration = Duration::from_millis(500);

/// Where a driver kit in the command is to write its status: the slot's own status file is `run`'s.
const KIT_STATUS: &str = "STEPDOWN_KIT_STATUS";

/// How the command is asked to stop.
#[derive(Debug, Clone)]
pub enum Ask {
    /// By a signal.
    Signal,
    /// By nothing but the absence of its marker, which it sees itself.
    Driver {
        /// After so long without a word of it a driver kit counts as gone.
        heartbeat_timeout: Duration,
    },
    /// By a program of the operator.
    Command(CommandOptions),
}

/// How to run the command.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The command and its arguments.
    pub argv: Vec<OsString>,
    /// Variables for it, over those of this process.
    pub env: Vec<(OsString, OsString)>,
    /// The rollout that has it started, if one does.
    pub rollout: Option<RolloutTag>,
    /// Whether `run` makes the marker, or waits until someone else has.
    pub create_marker: bool,
    /// Whether and when a command that failed is started again.
    pub restart: RestartPolicy,
    /// The command is killed when stepdown dies.
    pub die_with_parent: bool,
    /// How the command is asked to stop.
    pub ask: Ask,
    /// The signal that asks the command to stop, where a signal does.
    pub signal: Signal,
    /// Who gets it.
    pub target: SignalTarget,
    /// When the command counts as over.
    pub ends_with: EndsWith,
    /// How long after the command's end `run` tries to write the receipt.
    pub receipt_deadline: Duration,
    /// How polls are timed.
    pub poll: PollPolicy,
}

/// How `run` ended.
#[derive(Debug, Clone)]
pub struct RunEnd {
    /// How the command ended; unknown for one that was adopted and is not this process's child.
    pub exit: Option<Exit>,
    /// The receipt of its last attempt.
    pub receipt: Option<Box<Receipt>>,
}

/// The supervision of one command.
#[derive(Debug)]
pub struct Runner {
    daemon: Daemon,
    pub(super) spec: Arc<SlotSpec>,
    control: ControlDir,
    pub(super) options: RunOptions,
    run_id: Uuid,
    shutdown: CancellationToken,
    /// The directory in which the marker was armed for the last attempt.
    pub(super) armed_in: Option<GuardRecord>,
}

/// One attempt under supervision.
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    /// None for one that an earlier `run` started.
    pub(super) child: Option<Child>,
    /// The group that it leads, or led when it was seen first.
    pub(super) group: Option<Group>,
    /// Whether it was given the terminal: then Ctrl-C reaches it, and stepdown does not hear of it.
    pub(super) in_foreground: bool,
    pub(super) begun: Instant,
}

/// How one attempt ended.
pub(super) struct AttemptEnd {
    pub(super) exit: Option<Exit>,
    pub(super) receipt: Option<Box<Receipt>>,
    pub(super) on_purpose: bool,
    pub(super) ran_for: Duration,
}

impl Runner {
    /// A runner that has not begun.
    pub fn new(daemon: Daemon, spec: SlotSpec, control: ControlDir, options: RunOptions) -> Self {
        Self {
            daemon,
            spec: Arc::new(spec),
            control,
            options,
            run_id: Uuid::new_v4(),
            shutdown: CancellationToken::new(),
            armed_in: None,
        }
    }

    /// Runs the command to its end, through restarts if the policy has them.
    ///
    /// # Errors
    /// [`RunError`]; unless it is `NoReceipt` or `Unfollowed`, no command of this call is running.
    pub async fn run(mut self) -> Result<RunEnd, RunError> {
        let system = |step| move |source| RunError::System { step, source };
        let caught = signals_to_catch();
        let mut signals = Signals::catch(&caught).map_err(system("catching signals"))?;
        self.set_up().await?;
        let lease = self.take_slot(&mut signals).await?;
        let beats = self.keep_slot(lease);
        let ended = self.run_attempts(&mut signals).await;
        // Only a marker of this run is removed, and only when no attempt of it is left.
        if !matches!(
            ended,
            Err(RunError::NoReceipt { .. } | RunError::Unfollowed { .. })
        ) && let Err(error) = self.remove_marker().await
        {
            tracing::warn!("the marker was not removed: {}", error_chain(&error));
        }
        self.shutdown.cancel();
        if let Ok(Some(lease)) = beats.await
            && let Err(error) = lease.release(self.control.storage().as_ref()).await
        {
            tracing::debug!("the lease was not given back: {}", error_chain(&error));
        }
        ended
    }

    async fn set_up(&self) -> Result<(), RunError> {
        // A directory that is missing is a mistake in the marker's URI, not something to make.
        let storage = self.spec.marker_storage.as_ref();
        let identity = match self.spec.marker.path.parent() {
            Some(parent) => match storage.identify_dir(&parent).await {
                Err(source)
                    if matches!(source.kind, ErrorKind::NotFound | ErrorKind::NotADirectory) =>
                {
                    return Err(RunError::NoDirectory {
                        marker: self.spec.marker.to_string(),
                        source,
                    });
                }
                identified => identified?,
            },
            None => DirIdentity::Unnumbered,
        };
        if self.spec.sentinel_dir == *self.control.root() {
            // The state of this one marker, beside it.
            self.control.ensure().await?;
        } else {
            // One that is missing may not be mounted: another `run` may be on record in it.
            self.control.vouch().await?;
            // A local directory is known by its number, too.
            match Sentinel::ensure(storage, &self.spec.sentinel_dir).await {
                Err(error) if identity == DirIdentity::Unnumbered => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
        }
        self.control
            .ensure_job(&self.spec.job, self.spec.slot)
            .await?;
        let lease_dir = self
            .control
            .lease_dir(&self.spec.job, LeaseScope::Run(self.spec.slot));
        self.control.storage().create_dir_all(&lease_dir).await?;
        Ok(())
    }

    /// Takes the sole right to run the slot's command.
    async fn take_slot(&self, signals: &mut Signals) -> Result<Lease, RunError> {
        let dir = self
            .control
            .lease_dir(&self.spec.job, LeaseScope::Run(self.spec.slot));
        let owner = self.daemon.lease_owner(self.run_id);
        let policy = super::stopping::lease_policy(self.spec.lease_ttl);
        let mut watch = LeaseWatch::default();
        let begun = Instant::now();
        loop {
            let storage = self.control.storage().as_ref();
            let held = Lease::try_acquire(storage, &dir, &owner, policy, &mut watch).await?;
            let holder: Option<LeaseOwner> = match held {
                Acquired::Taken(lease) => return Ok(lease),
                Acquired::Held { owner, .. } => owner,
            };
            let alive = holder.as_ref().is_some_and(|holder| {
                matches!(
                    observe(&holder.process, EndsWith::Process),
                    ProcessState::Running { .. }
                )
            });
            // Of another host's holder only its silence can tell.
            if alive || begun.elapsed() > self.spec.lease_ttl + self.spec.lease_ttl / 2 {
                let holder = holder.map_or_else(
                    || "of unknown origin".to_owned(),
                    |holder| format!("process {}", holder.process),
                );
                return Err(RunError::Occupied { holder });
            }
            tokio::select! {
                signal = signals.next() => return Err(RunError::Interrupted(signal)),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// Keeps the lease alive in a task of its own; the task gives it back at the shutdown.
    fn keep_slot(&self, mut lease: Lease) -> tokio::task::JoinHandle<Option<Lease>> {
        let storage = Arc::clone(self.control.storage());
        let (ttl, shutdown) = (self.spec.lease_ttl, self.shutdown.clone());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return Some(lease),
                    () = tokio::time::sleep(ttl / 4) => {}
                }
                match lease.beat(storage.as_ref()).await {
                    Ok(_) => {}
                    Err(error @ LeaseError::Lost { .. }) => {
                        tracing::error!("{error}; the command runs on");
                        return None;
                    }
                    Err(error) => tracing::warn!("{}", error_chain(&error)),
                }
            }
        })
    }

    async fn run_attempts(&mut self, signals: &mut Signals) -> Result<RunEnd, RunError> {
        let sightings = self.start_poller();
        let adopted = self.adopt_or_clear(&sightings).await?;
        let mut restarts = RestartCount::default();
        let mut terminal = Terminal::open().map_err(|source| RunError::System {
            step: "opening the terminal",
            source,
        })?;
        let mut attempt = if let Some(attempt) = adopted {
            attempt
        } else {
            self.make_marker(signals).await?;
            self.start(terminal.as_mut()).await?
        };
        loop {
            let end = self
                .supervise(attempt, &sightings, signals, terminal.as_mut())
                .await?;
            let cause = if end.on_purpose {
                EndCause::OnPurpose
            } else {
                EndCause::ByItself
            };
            let ended = EndedRun {
                cause,
                exit: end.exit.map(to_process_exit),
                ran_for: end.ran_for,
            };
            let over = RunEnd {
                exit: end.exit,
                receipt: end.receipt,
            };
            match decide_restart(&self.options.restart, restarts, ended, fastrand::f64()) {
                RestartDecision::Leave(reason) => {
                    tracing::info!("the command is not started again: {reason}");
                    return Ok(over);
                }
                RestartDecision::Restart { after, count } => {
                    restarts = count;
                    tracing::warn!(after_s = after.as_secs_f64(), "starting the command again");
                    if !self.await_restart(after, signals).await {
                        return Ok(over);
                    }
                    attempt = self.start(terminal.as_mut()).await?;
                }
            }
        }
    }

    fn start_poller(&self) -> Sightings {
        let (poller, views) = Poller::new(self.directory_poll(), self.options.poll, 1);
        let sightings = views.of(0);
        let keeper = SentinelKeeper::new(
            Arc::clone(&self.spec.marker_storage),
            self.spec.sentinel_dir.clone(),
            self.options.poll.interval,
        );
        tokio::spawn(keeper.run(poller, self.shutdown.clone()));
        sightings
    }

    pub(super) fn directory_poll(&self) -> DirectoryPoll {
        let path = &self.spec.marker.path;
        DirectoryPoll::new(
            Arc::clone(&self.spec.marker_storage),
            path.parent()
                .unwrap_or_else(crate::storage::StoragePath::root),
            &self.spec.sentinel_dir,
            vec![path.name().to_owned()],
            self.daemon.boot_id.clone(),
        )
    }

    /// The attempt that an earlier `run` left running; or none, with its receipt written if it ended
    /// meanwhile.
    async fn adopt_or_clear(&mut self, sightings: &Sightings) -> Result<Option<Attempt>, RunError> {
        let Some(status) = load_status(&self.control, &self.spec.job, self.spec.slot).await? else {
            return Ok(None);
        };
        if let Some(run_id) = status.run_id {
            // The marker that the earlier one made is this one's now.
            self.run_id = run_id;
        }
        if status.phase == Phase::Ended {
            return Ok(None);
        }
        let attempt = Attempt {
            id: status.attempt.clone(),
            child: None,
            group: Group::of(&status.attempt).ok(),
            in_foreground: false,
            begun: Instant::now(),
        };
        match observe(&status.attempt, self.options.ends_with) {
            ProcessState::Running { .. } => {
                tracing::warn!(attempt = %attempt.id, "adopted the command that runs already");
                Ok(Some(attempt))
            }
            ProcessState::Stopped { .. } => {
                tracing::warn!(attempt = %attempt.id, "an earlier attempt ended unseen");
                let end = self.supervise_unattended(attempt, sightings).await?;
                self.save_phase(&status.attempt, Phase::Ended, end.exit)
                    .await?;
                Ok(None)
            }
            ProcessState::Unknown { why } => {
                let path = self.control.status(&self.spec.job, self.spec.slot);
                let status_uri = self.control.uri(&path).to_string();
                Err(RunError::AttemptUnknown {
                    attempt: attempt.id,
                    why,
                    status: status_uri,
                })
            }
        }
    }

    async fn make_marker(&self, signals: &mut Signals) -> Result<(), RunError> {
        let storage = self.spec.marker_storage.as_ref();
        if self.options.create_marker {
            let note = MarkerNote {
                run_id: self.run_id,
                job: self.spec.job.clone(),
                slot: self.spec.slot,
                created_at: Timestamp::now(),
            };
            match create_marker(storage, &self.spec.marker.path, &note).await? {
                Saved::Created => tracing::info!(marker = %self.spec.marker, "made the marker"),
                Saved::Exists => {
                    tracing::info!(marker = %self.spec.marker, "the marker is there already");
                }
            }
            crash_point("marker-made");
            return Ok(());
        }
        tracing::info!(marker = %self.spec.marker, "waiting for the marker");
        let mut poll = self.directory_poll();
        loop {
            if let Sighting::Present(_) = poll.poll().await.sighting(0, Trigger::Disappears, None) {
                return Ok(());
            }
            tokio::select! {
                signal = signals.next() => return Err(RunError::Interrupted(signal)),
                () = tokio::time::sleep(self.options.poll.interval) => {}
            }
        }
    }

    async fn remove_marker(&self) -> Result<(), DocumentError> {
        let storage = self.spec.marker_storage.as_ref();
        remove_own_marker(storage, &self.spec.marker.path, self.run_id).await?;
        Ok(())
    }

    /// Starts the command: on record and armed before it runs.
    async fn start(&mut self, terminal: Option<&mut Terminal>) -> Result<Attempt, RunError> {
        let mut options = SpawnOptions::new(self.options.argv.iter().cloned());
        options.on_parent_death = self.options.die_with_parent.then_some(Signal::KILL);
        let own = [
            ("STEPDOWN_JOB", self.spec.job.to_string()),
            ("STEPDOWN_SLOT", self.spec.slot.to_string()),
            ("STEPDOWN_MARKER", self.spec.marker.to_string()),
            ("STEPDOWN_RUN_ID", self.run_id.to_string()),
        ];
        let kit_status = self.clear_kit_status().await?;
        let given = self.options.env.iter().cloned();
        options.env = own
            .into_iter()
            .chain(kit_status.map(|uri| (KIT_STATUS, uri.to_string())))
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .chain(given)
            .map(|(name, value)| (name, Some(value)))
            .collect();
        let gated = spawn_gated(options).await?;
        let id = gated.attempt().clone();
        crash_point("gated");
        match self.put_on_record(&id).await {
            Ok(directory) => self.armed_in = Some(directory),
            Err(error) => {
                if let Err(lost) = gated.cancel().await {
                    tracing::warn!("{}", error_chain(&lost));
                }
                self.forget(&id).await;
                return Err(error);
            }
        }
        crash_point("recorded");
        let group = gated.group().cloned();
        let in_foreground = match (terminal, &group) {
            (Some(terminal), Some(group)) => terminal.lend_to(group),
            _ => false,
        };
        match gated.release().await {
            Ok(child) => {
                crash_point("released");
                tracing::info!(attempt = %id, "the command runs");
                Ok(Attempt {
                    id,
                    child: Some(child),
                    group,
                    in_foreground,
                    begun: Instant::now(),
                })
            }
            Err(error) => {
                self.forget(&id).await;
                Err(error.into())
            }
        }
    }

    /// Removes what the kit of an earlier command has said, and says where the next one's may write.
    async fn clear_kit_status(&self) -> Result<Option<StorageUri>, RunError> {
        if !matches!(self.options.ask, Ask::Driver { .. }) {
            return Ok(None);
        }
        let path = self.control.kit_status(&self.spec.job, self.spec.slot);
        self.control.storage().delete_file(&path).await?;
        Ok(Some(self.control.uri(&path)))
    }

    /// Takes an attempt that never ran off the record.
    async fn forget(&self, attempt: &AttemptId) {
        if let Err(error) = self.save_phase(attempt, Phase::Ended, None).await {
            tracing::warn!("{}", error_chain(&error));
        }
    }

    async fn put_on_record(&self, attempt: &AttemptId) -> Result<GuardRecord, RunError> {
        self.save_phase(attempt, Phase::Running, None).await?;
        let round = self.directory_poll().poll().await;
        let directory = self.protecting_directory(&round)?;
        let armed = Armed {
            attempt: attempt.clone(),
            marker: self.spec.marker.clone(),
            directory: directory.clone(),
            armed_at: Timestamp::now(),
        };
        save_armed(&self.control, &self.spec.job, self.spec.slot, &armed).await?;
        Ok(directory)
    }

    fn protecting_directory(&self, round: &Round) -> Result<GuardRecord, RunError> {
        let unknown = |why: String| RunError::MarkerUnknown {
            marker: self.spec.marker.to_string(),
            why,
        };
        match (round.sighting(0, Trigger::Disappears, None), &round.guard) {
            (Sighting::Present(_), Ok(directory)) => Ok(directory.clone()),
            (Sighting::Present(_), Err(why)) => Err(unknown(why.to_string())),
            (Sighting::Unknown(why), _) => Err(unknown(why.to_string())),
            (Sighting::Absent, _) => Err(unknown(
                "it was removed before the command was started".to_owned(),
            )),
        }
    }

    pub(super) async fn save_phase(
        &self,
        attempt: &AttemptId,
        phase: Phase,
        exit: Option<Exit>,
    ) -> Result<(), DocumentError> {
        let status = StatusFile {
            job: self.spec.job.clone(),
            slot: self.spec.slot,
            attempt: attempt.clone(),
            run_id: Some(self.run_id),
            phase,
            marker: Some(self.spec.marker.clone()),
            exit,
            written_at: Timestamp::now(),
            kit: None,
        };
        match self.options.rollout.clone() {
            Some(tag) => save_tagged_status(&self.control, status, tag).await,
            None => save_status(&self.control, &status).await,
        }
    }

    pub(super) fn engine(
        &self,
        attempt: &Attempt,
        sightings: &Sightings,
        exit: watch::Receiver<Option<Exit>>,
        one_request: OneRequest,
    ) -> SlotEngine {
        let signal = SignalBackend::new(SignalOptions {
            source: AttemptSource::Known(attempt.id.clone()),
            signal: self.options.signal,
            target: self.options.target,
            ends_with: self.options.ends_with,
        });
        if let Some(group) = &attempt.group {
            signal.remember(group.clone());
        }
        let request = match &self.options.ask {
            Ask::Signal => ChildRequest::Signal(one_request),
            Ask::Driver { heartbeat_timeout } => ChildRequest::Driver {
                kit: KitWord {
                    control: self.control.clone(),
                    job: self.spec.job.clone(),
                    slot: self.spec.slot,
                    heartbeat_timeout: *heartbeat_timeout,
                },
                one_request,
            },
            Ask::Command(options) => ChildRequest::Command(CommandBackend::new(
                options.clone(),
                self.spec.job.clone(),
                self.spec.slot,
                self.spec.marker.clone(),
            )),
        };
        SlotEngine::new(
            self.daemon.clone(),
            Arc::clone(&self.spec),
            self.control.clone(),
            Arc::new(ChildBackend {
                signal,
                exit,
                request,
            }),
            sightings.clone(),
            self.shutdown.child_token(),
        )
    }
}

fn to_process_exit(exit: Exit) -> crate::process::Exit {
    match exit {
        Exit::Code { code } => crate::process::Exit::Code(code),
        Exit::Signal { signal } => crate::process::Exit::Signal {
            number: signal,
            core_dumped: false,
        },
    }
}
