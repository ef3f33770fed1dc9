//! The configuration as values. Field names are the keys of the file in snake case.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::rollout::Rollout;
use crate::model::{JobName, Slot};
use crate::storage::{Authority, StorageUri};

/// Declares an enum whose variants are words of the configuration file.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$vdoc])* $variant),+
        }

        impl $name {
            /// Every value, in the order of the reference.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word as it stands in the file.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word),+
                }
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let found = Self::ALL.iter().find(|one| one.as_str() == text);
                found.copied().ok_or_else(|| format!("{text:?} is not one of {}", Self::ALL
                    .iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", ")))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(super) use words;

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// The control directory; present whenever there are jobs.
    pub control: Option<StorageUri>,
    /// `[hadoop]`
    pub hadoop: Hadoop,
    /// `[watch]`
    pub watch: Watch,
    /// `[run]`
    pub run: Run,
    /// `[log]`
    pub log: Log,
    /// `[hooks]`: those of a job that names none of its own, and of `run` without a job.
    pub hooks: Hooks,
    /// `[jobs.<job>]`, by name.
    pub jobs: BTreeMap<JobName, Job>,
}

/// How HDFS is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hadoop {
    /// Directory of `core-site.xml` and `hdfs-site.xml`; without it `HADOOP_CONF_DIR` counts.
    pub conf_dir: Option<PathBuf>,
    /// User name for clusters without Kerberos; without it `HADOOP_USER_NAME`, then the process's.
    pub user: Option<String>,
    /// Keytab to log in from.
    pub keytab: Option<PathBuf>,
    /// Principal of the keytab, or the one that the ticket must be of.
    pub principal: Option<String>,
    /// Hadoop properties that win over the files.
    pub overrides: BTreeMap<String, String>,
}

/// How markers are polled and how long things may take.
#[derive(Debug, Clone, PartialEq)]
pub struct Watch {
    /// Longest pause between two rounds of polls.
    pub interval: Duration,
    /// Largest share of `interval` by which a pause is shortened at random; 0 to 1.
    pub jitter: f64,
    /// Time-out of one storage call.
    pub call_timeout: Duration,
    /// How many sightings in a row make an absence; at least 1.
    pub confirm: u32,
    /// Least time between two confirming sightings; see [`Watch::confirm_spacing_of`].
    pub confirm_spacing: Option<Duration>,
    /// How long a marker may be unknown before `on-alarm`.
    pub alarm_after: Duration,
    /// Pause between two looks at a job that was asked to stop.
    pub drain_interval: Duration,
    /// Pause between two looks at whether a slot's attempt has changed.
    pub attempt_interval: Duration,
    /// How long a lease holds without a sign of its holder.
    pub lease_ttl: Duration,
    /// Largest difference between this host's clock and the storage's with which a job is killed.
    pub max_clock_skew: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            jitter: 0.1,
            call_timeout: Duration::from_secs(10),
            confirm: 2,
            confirm_spacing: None,
            alarm_after: Duration::from_mins(1),
            drain_interval: Duration::from_millis(500),
            attempt_interval: Duration::from_secs(5),
            lease_ttl: Duration::from_secs(30),
            max_clock_skew: Duration::from_mins(1),
        }
    }
}

impl Watch {
    /// The spacing of confirming sightings on one storage: the configured one, else 20 ms on a local
    /// disk and 1 s over a network.
    pub fn confirm_spacing_of(&self, authority: &Authority) -> Duration {
        self.confirm_spacing.unwrap_or(match authority {
            Authority::Local | Authority::Memory(_) => Duration::from_millis(20),
            Authority::Hdfs(_) | Authority::Viewfs(_) => Duration::from_secs(1),
        })
    }
}

words! {
    /// Whether a supervised command that died by itself is started again.
    Restart {
        /// Never.
        Never = "never",
        /// After an exit code other than 0, or a signal that stepdown did not send.
        OnFailure = "on-failure",
    }
}

/// How `stepdown run` supervises its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// When the command is started again.
    pub restart: Restart,
    /// Pause before the first restart; doubled each time.
    pub restart_min_delay: Duration,
    /// Longest pause before a restart.
    pub restart_max_delay: Duration,
    /// Restarts in a row before giving up; a run longer than `restart_max_delay` ends the row.
    pub max_restarts: u32,
    /// Whether the command is killed when stepdown itself dies.
    pub kill_with_parent: bool,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            restart: Restart::Never,
            restart_min_delay: Duration::from_secs(1),
            restart_max_delay: Duration::from_mins(5),
            max_restarts: 10,
            kill_with_parent: false,
        }
    }
}

words! {
    /// The form of log lines.
    LogFormat {
        /// Lines for people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// The least weighty sort of log line that is written.
    Level {
        /// Failures only.
        Error = "error",
        /// And what needs attention.
        Warn = "warn",
        /// And what stepdown does.
        Info = "info",
        /// And why.
        Debug = "debug",
        /// And every storage call.
        Trace = "trace",
    }
}

/// `[log]`: what is written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// Text or JSON.
    pub format: LogFormat,
    /// Level of `watch` and `run`; the other commands write warnings only.
    pub level: Level,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: Level::Info,
        }
    }
}

/// A command as its arguments, run without a shell; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argv(Vec<String>);

impl Argv {
    /// The command, if there is at least a program and its name is not empty.
    pub fn new(words: Vec<String>) -> Option<Argv> {
        words
            .first()
            .is_some_and(|program| !program.is_empty())
            .then_some(Argv(words))
    }

    /// The program: a path, or a name to be found on `PATH`.
    pub fn program(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    /// What follows the program.
    pub fn args(&self) -> &[String] {
        self.0.get(1..).unwrap_or_default()
    }

    /// Program and arguments.
    pub fn words(&self) -> &[String] {
        &self.0
    }
}

/// Commands that are run when something has happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// After a stop proved clean.
    pub on_clean: Option<Argv>,
    /// After a stop with a batch planned and not committed.
    pub on_dirty: Option<Argv>,
    /// After a stop with no checkpoint to prove it from.
    pub on_unproven: Option<Argv>,
    /// When the job ended and nobody had asked.
    pub on_died: Option<Argv>,
    /// When a marker has been unknown for `alarm-after`, or a job is unprotected.
    pub on_alarm: Option<Argv>,
    /// How long a hook may take before it is killed.
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            on_clean: None,
            on_dirty: None,
            on_unproven: None,
            on_died: None,
            on_alarm: None,
            timeout: Duration::from_mins(1),
        }
    }
}

words! {
    /// Which change of the marker asks for a stop.
    Trigger {
        /// The marker goes.
        Disappears = "disappears",
        /// The marker (a stop file) comes.
        Appears = "appears",
    }
}

words! {
    /// What is done when the drain deadline has passed.
    Escalate {
        /// Nothing but an alarm; the stop stays asked for.
        Never = "never",
        /// The attempt is killed.
        Kill = "kill",
    }
}

words! {
    /// What is done with the checkpoints after a stop.
    OnStopped {
        /// Nothing.
        Nothing = "nothing",
        /// They are copied for the new job before the stop is confirmed.
        Copy = "copy",
    }
}

words! {
    /// What becomes of a directory that stands where a copy is to be.
    CopyExisting {
        /// There is no copy; the receipt says so.
        Refuse = "refuse",
        /// It is moved aside, to a name that the receipt tells.
        Replace = "replace",
    }
}

/// `[jobs.<job>]`
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its name.
    pub name: JobName,
    /// What asks for a stop.
    pub trigger: Trigger,
    /// How long the job may take to finish its batch and end.
    pub drain_deadline: Duration,
    /// What comes after the deadline.
    pub escalate: Escalate,
    /// How long a killed attempt may take to be gone.
    pub kill_deadline: Duration,
    /// What is done with its checkpoints after a stop.
    pub on_stopped: OnStopped,
    /// What becomes of a directory that stands where a copy is to be.
    pub copy_existing: CopyExisting,
    /// How long the copies may keep the receipt waiting.
    pub copy_deadline: Duration,
    /// Its hooks: its own, those of `[hooks]` for what it does not name.
    pub hooks: Arc<Hooks>,
    /// How a new version takes over; `None` where it is not configured.
    pub rollout: Option<Box<Rollout>>,
    /// Its slots; at least one. Boxed, since a map has room for many where there are one or two.
    pub slots: BTreeMap<Slot, Box<JobSlot>>,
}

impl Job {
    /// How long a job may drain unless the file says otherwise.
    pub const DRAIN_DEADLINE: Duration = Duration::from_mins(30);
    /// How long a killed attempt may take to be gone unless the file says otherwise.
    pub const KILL_DEADLINE: Duration = Duration::from_mins(1);
    /// How long the copies may take unless the file says otherwise.
    pub const COPY_DEADLINE: Duration = Duration::from_mins(30);

    /// A job that no file names, with one slot and the defaults for all else.
    pub fn unconfigured(name: JobName, slot: Slot, of: JobSlot, hooks: Hooks) -> Job {
        Job {
            name,
            trigger: Trigger::Disappears,
            drain_deadline: Self::DRAIN_DEADLINE,
            escalate: Escalate::Never,
            kill_deadline: Self::KILL_DEADLINE,
            on_stopped: OnStopped::Nothing,
            copy_existing: CopyExisting::Refuse,
            copy_deadline: Self::COPY_DEADLINE,
            hooks: Arc::new(hooks),
            rollout: None,
            slots: BTreeMap::from([(slot, Box::new(of))]),
        }
    }
}

/// What stands for the stop's id in `copy-to`, so that each stop has a copy of its own.
pub const STOP_ID: &str = "{stop-id}";

/// What differs between the two slots of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSlot {
    /// The marker; by default `<control>/markers/<job>.<slot>`.
    pub marker: StorageUri,
    /// The checkpoint directories of its queries; empty where there is none to prove a stop from.
    pub checkpoints: Vec<StorageUri>,
    /// Where their copies go, in the same order; [`STOP_ID`] in a name stands for the stop's id.
    pub copy_to: Vec<StorageUri>,
    /// The output directories of its queries' file sinks.
    pub file_sinks: Vec<StorageUri>,
    /// How its attempt is found and stopped.
    pub stop: Stop,
    /// How it is started in a rollout.
    pub start: Option<Argv>,
}

/// `[jobs.<job>.stop]`: how a stop is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// A signal to a process of this host.
    Signal(SignalStop),
    /// Commands of the operator.
    Command(CommandStop),
    /// Nothing is sent while the driver can drain: it watches the marker itself.
    Driver(DriverStop),
}

impl Stop {
    /// The names of the backends.
    pub const BACKENDS: &'static [&'static str] = &["signal", "command", "driver"];

    /// The name of the backend, as in the file.
    pub fn backend(&self) -> &'static str {
        match self {
            Stop::Signal(_) => "signal",
            Stop::Command(_) => "command",
            Stop::Driver(_) => "driver",
        }
    }

    /// When the job is asked.
    pub fn boundary(&self) -> Boundary {
        match self {
            Stop::Signal(stop) => stop.boundary,
            Stop::Command(stop) => stop.boundary,
            Stop::Driver(stop) => stop.boundary,
        }
    }
}

words! {
    /// Whether a request waits until the job is between two batches.
    AtBoundary {
        /// It is sent at once.
        Never = "never",
        /// It waits for a while, and is sent then wherever the batch is.
        Prefer = "prefer",
        /// It waits for as long as it takes; after a while with an alarm.
        Require = "require",
    }
}

/// When a job is asked that does not drain by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// Whether the request waits.
    pub at_boundary: AtBoundary,
    /// For how long.
    pub patience: Duration,
    /// How long after a request the driver may still plan a batch; `None` where that is learnt from the
    /// slot's earlier stops.
    pub reaction: Option<Duration>,
}

impl Default for Boundary {
    fn default() -> Self {
        Self {
            at_boundary: AtBoundary::Never,
            patience: Duration::from_mins(5),
            reaction: None,
        }
    }
}

/// Settings of the driver backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverStop {
    /// How a driver is asked that says that it cannot drain, or says nothing any more.
    pub boundary: Boundary,
    /// After so long without a word in its status file a driver kit counts as gone.
    pub heartbeat_timeout: Duration,
}

impl Default for DriverStop {
    fn default() -> Self {
        Self {
            boundary: Boundary {
                at_boundary: AtBoundary::Require,
                ..Boundary::default()
            },
            heartbeat_timeout: Duration::from_mins(2),
        }
    }
}

/// Where the signal backend learns the process of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptFrom {
    /// From the slot's status file (written by `stepdown run` or the driver kit).
    Status,
    /// From a file with a process id in it.
    PidFile(PathBuf),
}

words! {
    /// A signal that asks. `KILL` is none: see [`Escalate`].
    StopSignal {
        /// `SIGTERM`
        Term = "TERM",
        /// `SIGINT`
        Int = "INT",
        /// `SIGHUP`
        Hup = "HUP",
        /// `SIGQUIT`
        Quit = "QUIT",
        /// `SIGUSR1`
        Usr1 = "USR1",
        /// `SIGUSR2`
        Usr2 = "USR2",
    }
}

words! {
    /// Who gets the signal.
    SignalTarget {
        /// The process alone: `python app.py` must not have its JVM child signalled.
        Process = "process",
        /// Its whole process group.
        Group = "group",
    }
}

words! {
    /// When the attempt counts as ended.
    EndsWith {
        /// When no process of its group is left.
        Group = "group",
        /// When the process itself is gone.
        Process = "process",
    }
}

/// Settings of the signal backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalStop {
    /// Where the process is learned from.
    pub attempt_from: AttemptFrom,
    /// The signal.
    pub signal: StopSignal,
    /// Who gets it.
    pub target: SignalTarget,
    /// When the attempt counts as ended.
    pub ends_with: EndsWith,
    /// Time after which a request of unknown fate is repeated.
    pub resend_after: Duration,
    /// When the job is asked.
    pub boundary: Boundary,
}

impl Default for SignalStop {
    fn default() -> Self {
        Self {
            attempt_from: AttemptFrom::Status,
            signal: StopSignal::Term,
            target: SignalTarget::Process,
            ends_with: EndsWith::Group,
            resend_after: Duration::from_mins(1),
            boundary: Boundary::default(),
        }
    }
}

/// Settings of the command backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandStop {
    /// Asks for the stop; returns when asked, not when stopped.
    pub request: Argv,
    /// Says what the attempt is doing.
    pub observe: Argv,
    /// Ends the attempt at once; needed for `escalate = "kill"`.
    pub force: Option<Argv>,
    /// How long each of them may take.
    pub timeout: Duration,
    /// When the job is asked.
    pub boundary: Boundary,
}
