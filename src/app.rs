//! The wiring: from the configuration to the parts. The only file that knows every part.

mod slots;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::checkpoint::copy::{Existing, Place};
use crate::config::{self, AttemptFrom, Config, Job, JobSlot, Loaded, Rollout, SignalStop, Stop};
use crate::control::ControlDir;
use crate::daemon::Daemon;
use crate::daemon::copying::{CopyOrders, Destination};
use crate::daemon::hooks::{HookPrograms, Hooks};
use crate::daemon::poller::PollPolicy;
use crate::daemon::rollout::{GateOptions, RolloutHookPrograms, RolloutPlan, RolloutSlot, StartIs};
use crate::daemon::slot::SlotSpec;
use crate::daemon::watch::{Fingerprint, PlannedSlot};
use crate::hadoop::credentials::Login;
use crate::hadoop::{ConfSource, HadoopConf, HadoopConfError};
use crate::marker::{MarkerPolicy, Trigger};
use crate::model::Slot;
use crate::process::{EndsWith, IdentityError, Signal, SignalTarget, identify, this_host};
use crate::rollout::decide::{Deadlines, GateOverdue, Policy};
use crate::rollout::state::Strategy;
use crate::stop::Backend;
use crate::stop::boundary::{AtBoundary, BoundaryPolicy};
use crate::stop::command::{CommandBackend, CommandOptions};
use crate::stop::decide::{Escalate, StopPolicy};
use crate::stop::driver::DriverBackend;
use crate::stop::signal::{AttemptSource, SignalBackend, SignalOptions};
use crate::stop::status::StatusBoard;
use crate::storage::open::{StorageOptions, Storages};
use crate::storage::{Authority, ErrorKind, Storage, StorageError, StoragePath, StorageUri};

pub use slots::ConfiguredSlots;

/// The parts, made from one configuration.
#[derive(Debug)]
pub struct App {
    loaded: Loaded,
    storages: Storages,
    /// The hooks of all jobs that name none of their own.
    programs: Arc<HookPrograms>,
}

impl App {
    /// The parts as `loaded` says; nothing is connected or opened yet.
    pub fn new(loaded: Loaded) -> Self {
        let storages = Storages::new(storage_options(&loaded.config));
        let programs = hook_programs(&loaded.config.hooks);
        Self {
            loaded,
            storages,
            programs,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// The configuration with its account.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The storage that `authority` names, every call of it bounded by `watch.call-timeout`.
    ///
    /// # Errors
    /// `Config` where it cannot be set up from the configuration.
    pub fn storage(&self, authority: &Authority) -> Result<Arc<dyn Storage>, StorageError> {
        self.storages.open(authority)
    }

    /// The Hadoop configuration, read when it is first asked for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn hadoop_conf(&self) -> Result<&HadoopConf, HadoopConfError> {
        self.storages.hadoop_conf()
    }

    /// The control directory at `uri`; nothing is read or made.
    ///
    /// # Errors
    /// As [`App::storage`].
    pub fn control_at(&self, uri: &StorageUri) -> Result<ControlDir, StorageError> {
        Ok(ControlDir::new(
            self.storage(&uri.authority)?,
            uri.path.clone(),
        ))
    }
}

impl App {
    /// What all engines of this process share.
    ///
    /// # Errors
    /// Where this host or process cannot be told from others.
    pub fn daemon(&self) -> Result<Daemon, IdentityError> {
        let host = this_host()?;
        let process = identify(std::process::id())?;
        Ok(Daemon::new(host.name, host.boot_id, process))
    }

    /// How polls are timed.
    pub fn poll_policy(&self) -> PollPolicy {
        let watch = &self.config().watch;
        PollPolicy {
            interval: watch.interval,
            jitter: watch.jitter,
        }
    }

    /// The configured control directory.
    ///
    /// # Errors
    /// As [`App::storage`]; `Config` if none is configured.
    pub fn control(&self) -> Result<ControlDir, StorageError> {
        if let Some(uri) = &self.config().control {
            return self.control_at(uri);
        }
        let uri = StorageUri::new(Authority::Local, StoragePath::root());
        Err(StorageError::new("open", uri, ErrorKind::Config)
            .with_detail("no control directory is configured"))
    }

    /// One slot of a job, ready for an engine.
    ///
    /// # Errors
    /// As [`App::storage`].
    pub fn plan_slot(
        &self,
        job: &Job,
        slot: Slot,
        of: &JobSlot,
        board: &Arc<StatusBoard>,
    ) -> Result<PlannedSlot, StorageError> {
        let control = board.control().clone();
        let spec = self.slot_spec(job, slot, of, None)?;
        let backend = backend(job, slot, of, board);
        let config = self.config();
        let fingerprint = Fingerprint::of(format_args!(
            "{:?} {:?} {:?} {slot} {:?} {:?}",
            config.control, config.hadoop, config.watch, job, of
        ));
        Ok(PlannedSlot {
            spec: Arc::new(spec),
            control,
            backend,
            fingerprint,
        })
    }

    /// The status files of the control directory.
    ///
    /// # Errors
    /// As [`App::control`].
    pub fn board(&self) -> Result<Arc<StatusBoard>, StorageError> {
        let max_age = self.config().watch.attempt_interval / 2;
        Ok(Arc::new(StatusBoard::new(self.control()?, max_age)))
    }

    /// What an engine has to know of a slot. `sentinel_dir` is the directory that vouches for the
    /// marker's one, if it is not that directory itself.
    ///
    /// # Errors
    /// As [`App::storage`].
    pub fn slot_spec(
        &self,
        job: &Job,
        slot: Slot,
        of: &JobSlot,
        sentinel_dir: Option<StoragePath>,
    ) -> Result<SlotSpec, StorageError> {
        let watch = &self.config().watch;
        let mut checkpoints = Vec::with_capacity(of.checkpoints.len());
        for uri in &of.checkpoints {
            checkpoints.push((self.storage(&uri.authority)?, uri.clone()));
        }
        let resend_after = match &of.stop {
            Stop::Signal(signal) => signal.resend_after,
            Stop::Command(_) | Stop::Driver(_) => SignalStop::default().resend_after,
        };
        let parent = || of.marker.path.parent().unwrap_or_else(StoragePath::root);
        Ok(SlotSpec {
            job: job.name.clone(),
            slot,
            marker: of.marker.clone(),
            marker_storage: self.storage(&of.marker.authority)?,
            sentinel_dir: sentinel_dir.unwrap_or_else(parent),
            marker_policy: MarkerPolicy {
                trigger: match job.trigger {
                    config::Trigger::Disappears => Trigger::Disappears,
                    config::Trigger::Appears => Trigger::Appears,
                },
                confirm: watch.confirm,
                confirm_spacing: watch.confirm_spacing_of(&of.marker.authority),
                alarm_after: watch.alarm_after,
            },
            stop_policy: StopPolicy {
                drain_deadline: job.drain_deadline,
                escalate: match job.escalate {
                    config::Escalate::Never => Escalate::Never,
                    config::Escalate::Kill => Escalate::Kill,
                },
                resend_after,
                kill_deadline: job.kill_deadline,
            },
            lease_ttl: watch.lease_ttl,
            max_clock_skew: watch.max_clock_skew,
            drain_interval: watch.drain_interval,
            attempt_interval: watch.attempt_interval,
            checkpoints,
            boundary: boundary_policy(of),
            copy_orders: self.copy_orders(job, of)?,
            hooks: Hooks {
                job: job.name.clone(),
                slot,
                programs: if *job.hooks == self.config().hooks {
                    Arc::clone(&self.programs)
                } else {
                    hook_programs(&job.hooks)
                },
            },
        })
    }
}

impl App {
    /// All that a rollout of `job` has to know.
    ///
    /// # Errors
    /// As [`App::storage`].
    pub fn rollout_plan(&self, job: &Job, rollout: &Rollout) -> Result<RolloutPlan, StorageError> {
        let board = self.board()?;
        let watch = &self.config().watch;
        let mut slots = BTreeMap::new();
        for (slot, of) in &job.slots {
            let mut planned = self.plan_slot(job, *slot, of, &board)?;
            // A rollout makes its own copies.
            let mut spec = self.slot_spec(job, *slot, of, None)?;
            spec.copy_orders = None;
            planned.spec = Arc::new(spec);
            let mut checkpoints = Vec::with_capacity(of.checkpoints.len());
            for uri in &of.checkpoints {
                checkpoints.push(Place {
                    storage: self.storage(&uri.authority)?,
                    path: uri.path.clone(),
                });
            }
            let start = of.start.as_ref().map(|argv| argv.words().to_vec());
            slots.insert(
                *slot,
                RolloutSlot {
                    planned,
                    checkpoints,
                    start,
                },
            );
        }
        let words = |argv: &Option<config::Argv>| argv.as_ref().map(|argv| argv.words().to_vec());
        let gate = |argv: &Option<config::Argv>| GateOptions {
            argv: words(argv),
            interval: rollout.gate_interval,
            timeout: rollout.gate_timeout,
            passes: rollout.gate_passes,
            commits: rollout.gate_commits,
            max_lag: rollout.gate_max_lag,
            max_slowdown: rollout.gate_max_slowdown,
        };
        Ok(RolloutPlan {
            job: job.name.clone(),
            control: board.control().clone(),
            slots,
            strategy: strategy(rollout.strategy),
            in_place: rollout.checkpoint == config::RolloutCheckpoint::InPlace,
            policy: rollout_policy(job, rollout),
            start_is: match rollout.start_is {
                config::StartIs::Launcher => StartIs::Launcher,
                config::StartIs::Job => StartIs::Job,
            },
            start_log: rollout.start_log.clone(),
            gate: gate(&rollout.gate),
            post_gate: gate(&rollout.post_gate),
            keep: rollout.keep,
            sync_interval: rollout.sync_interval,
            poll: PollPolicy {
                // A rollout is awaited: its markers are looked at more often than those of idle jobs.
                interval: watch.interval.min(watch.drain_interval),
                jitter: watch.jitter,
            },
            lease_ttl: watch.lease_ttl,
            tick: watch.drain_interval,
            hooks: Arc::new(RolloutHookPrograms {
                on_start: words(&rollout.hooks.on_start),
                on_stopped: words(&rollout.hooks.on_stopped),
                on_success: words(&rollout.hooks.on_success),
                on_failure: words(&rollout.hooks.on_failure),
                on_needs_human: words(&rollout.hooks.on_needs_human),
                timeout: rollout.hook_timeout,
            }),
            told: None,
            leave_at_needs_human: true,
        })
    }
}

/// The strategy of the configuration as the engine's.
pub fn strategy(strategy: config::Strategy) -> Strategy {
    match strategy {
        config::Strategy::StopStart => Strategy::StopStart,
        config::Strategy::HandOver => Strategy::HandOver,
        config::Strategy::Parallel => Strategy::Parallel,
        config::Strategy::Rolling => Strategy::Rolling,
    }
}

fn rollout_policy(job: &Job, rollout: &Rollout) -> Policy {
    Policy {
        deadlines: Deadlines {
            prepare: rollout.prepare_deadline,
            start: rollout.start_deadline,
            gate: rollout.gate_deadline,
            drain: job.drain_deadline,
            copy: job.copy_deadline,
            cutover: rollout.cutover_deadline,
            prove: rollout.prove_deadline,
            abort: rollout.abort_deadline,
        },
        auto_promote: rollout.promote == config::Promote::Auto,
        gate_overdue: match rollout.on_gate_deadline {
            config::OnGateDeadline::Abort => GateOverdue::Abort,
            config::OnGateDeadline::Hold => GateOverdue::Hold,
        },
        hold_is_reported: rollout.hold_by == config::HoldBy::Kit,
        has_start: false,
        has_restart: false,
    }
}

impl App {
    fn copy_orders(
        &self,
        job: &Job,
        of: &JobSlot,
    ) -> Result<Option<Arc<CopyOrders>>, StorageError> {
        if job.on_stopped == config::OnStopped::Nothing {
            return Ok(None);
        }
        let mut destinations = Vec::with_capacity(of.copy_to.len());
        for uri in &of.copy_to {
            let place = Place {
                storage: self.storage(&uri.authority)?,
                path: uri.path.clone(),
            };
            destinations.push(Destination {
                place,
                placeholder: config::STOP_ID,
            });
        }
        Ok(Some(Arc::new(CopyOrders {
            destinations,
            existing: match job.copy_existing {
                config::CopyExisting::Refuse => Existing::Refuse,
                config::CopyExisting::Replace => Existing::MoveAside,
            },
            deadline: job.copy_deadline,
        })))
    }
}

/// Who stepdown is to HDFS, as the configuration says.
pub fn login(hadoop: &config::Hadoop) -> Login {
    Login {
        user: hadoop.user.clone(),
        keytab: hadoop.keytab.clone(),
        principal: hadoop.principal.clone(),
    }
}

fn storage_options(config: &Config) -> StorageOptions {
    let hadoop = &config.hadoop;
    StorageOptions {
        call_timeout: config.watch.call_timeout,
        hadoop_conf: hadoop
            .conf_dir
            .clone()
            .map_or(ConfSource::Environment, ConfSource::Dir),
        hadoop_overrides: hadoop.overrides.clone(),
        login: login(hadoop),
        ..StorageOptions::default()
    }
}

/// How a request waits for a moment between two batches, where it is to, and they can be seen.
fn boundary_policy(of: &JobSlot) -> Option<Arc<BoundaryPolicy>> {
    let boundary = of.stop.boundary();
    let at_boundary = match boundary.at_boundary {
        config::AtBoundary::Never => return None,
        config::AtBoundary::Prefer => AtBoundary::Prefer,
        config::AtBoundary::Require => AtBoundary::Require,
    };
    (!of.checkpoints.is_empty()).then(|| {
        Arc::new(BoundaryPolicy {
            at_boundary,
            patience: boundary.patience,
            reaction: boundary.reaction,
        })
    })
}

fn backend(job: &Job, slot: Slot, of: &JobSlot, board: &Arc<StatusBoard>) -> Arc<dyn Backend> {
    match &of.stop {
        Stop::Signal(stop) => Arc::new(SignalBackend::new(SignalOptions {
            source: match &stop.attempt_from {
                AttemptFrom::Status => AttemptSource::Status {
                    board: Arc::clone(board),
                    job: job.name.clone(),
                    slot,
                },
                AttemptFrom::PidFile(path) => AttemptSource::PidFile(path.clone()),
            },
            signal: stop_signal(stop.signal),
            target: signal_target(stop.target),
            ends_with: ends_with(stop.ends_with),
        })),
        Stop::Command(stop) => Arc::new(CommandBackend::new(
            command_options(stop),
            job.name.clone(),
            slot,
            of.marker.clone(),
        )),
        Stop::Driver(stop) => Arc::new(DriverBackend::new(
            Arc::clone(board),
            job.name.clone(),
            slot,
            stop.heartbeat_timeout,
        )),
    }
}

/// The programs of the configuration as the engine's.
pub fn command_options(stop: &config::CommandStop) -> CommandOptions {
    let force = stop.force.as_ref().map(|argv| argv.words().to_vec());
    CommandOptions {
        request: stop.request.words().to_vec(),
        observe: stop.observe.words().to_vec(),
        force: force.unwrap_or_default(),
        timeout: stop.timeout,
    }
}

fn hook_programs(hooks: &config::Hooks) -> Arc<HookPrograms> {
    let words = |argv: &Option<config::Argv>| argv.as_ref().map(|argv| argv.words().to_vec());
    Arc::new(HookPrograms {
        on_clean: words(&hooks.on_clean),
        on_dirty: words(&hooks.on_dirty),
        on_unproven: words(&hooks.on_unproven),
        on_died: words(&hooks.on_died),
        on_alarm: words(&hooks.on_alarm),
        timeout: hooks.timeout,
    })
}

/// The signal of the configuration as the kernel's.
pub fn stop_signal(signal: config::StopSignal) -> Signal {
    match signal {
        config::StopSignal::Term => Signal::TERM,
        config::StopSignal::Int => Signal::INT,
        config::StopSignal::Hup => Signal::HUP,
        config::StopSignal::Quit => Signal::QUIT,
        config::StopSignal::Usr1 => Signal::USR1,
        config::StopSignal::Usr2 => Signal::USR2,
    }
}

/// The receiver of the configuration as the engine's.
pub fn signal_target(target: config::SignalTarget) -> SignalTarget {
    match target {
        config::SignalTarget::Process => SignalTarget::Process,
        config::SignalTarget::Group => SignalTarget::Group,
    }
}

/// The end of the configuration as the engine's.
pub fn ends_with(ends_with: config::EndsWith) -> EndsWith {
    match ends_with {
        config::EndsWith::Group => EndsWith::Group,
        config::EndsWith::Process => EndsWith::Process,
    }
}
