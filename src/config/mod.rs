//! The configuration: one TOML file, read whole, checked whole, with the origin of every value.
//!
//! - [`schema`]: the values as the parts of stepdown use them, with their defaults.
//! - [`mod@load`]: which file is read, and from it the [`Config`] or **all** problems at once.
//! - [`lint`]: what is valid and yet unlikely to be meant.
//! - [`mod@reference`]: the embedded `conf/stepdown.toml` and the page made from it.
//!
//! Sees `model` and the URI types of `storage`, nothing else: the engines take option structs of
//! their own, filled in `app`.

pub mod duration;
mod key;
pub mod lint;
mod lint_rollout;
pub mod load;
mod problem;
mod read;
mod read_rollout;
pub mod reference;
pub mod rollout;
pub mod schema;
mod section;

pub use load::{Environment, Loaded, Lookup, load, load_values};
pub use problem::{ConfigError, Place, Problem};
pub use rollout::{
    HoldBy, OnGateDeadline, Promote, Rollout, RolloutCheckpoint, RolloutHooks, StartIs, Strategy,
    TwoWriters,
};
pub use schema::{
    Argv, AtBoundary, AttemptFrom, Boundary, CommandStop, Config, CopyExisting, DriverStop,
    EndsWith, Escalate, Hadoop, Hooks, Job, JobSlot, Level, Log, LogFormat, OnStopped, Restart,
    Run, STOP_ID, SignalStop, SignalTarget, Stop, StopSignal, Trigger, Watch,
};
pub use section::{Origin, Setting};
