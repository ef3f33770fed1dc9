//! The exit codes: one list, from which the documentation is made.

use std::error::Error;
use std::process::ExitCode;

use crate::checkpoint::CheckpointError;
use crate::checkpoint::copy::CopyError;
use crate::checkpoint::plan::PlanRefused;
use crate::config::ConfigError;
use crate::control::{DocumentError, LeaseError};
use crate::daemon::ask::AskError;
use crate::daemon::rollout::RolloutError;
use crate::daemon::run::RunError;
use crate::rollout::engine::EngineError;
use crate::rollout::journal::JournalError;
use crate::stop::BackendError;
use crate::storage::{ErrorKind, InvalidUri, StorageError};

/// How a command ended, as its exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked was done, or what was asked about is so.
    Ok,
    /// Something else went wrong.
    Failed,
    /// The command line or the configuration is wrong; nothing was changed.
    Usage,
    /// The command worked and found something.
    Findings,
    /// Another process holds the lease, and waiting was not asked for.
    LeaseHeld,
    /// The storage cannot be reached: what was asked about is unknown.
    Unreachable,
    /// A deadline passed before what was waited for came about.
    DeadlinePassed,
    /// The storage answered that it is not there.
    NotFound,
    /// `run` only: the command's file cannot be executed.
    CannotExecute,
    /// `run` only: there is no such command.
    CommandNotFound,
    /// SIGINT ended the command.
    Interrupted,
    /// SIGTERM ended the command.
    Terminated,
}

impl Exit {
    /// All of them, by code.
    pub const ALL: &'static [Exit] = &[
        Exit::Ok,
        Exit::Failed,
        Exit::Usage,
        Exit::Findings,
        Exit::LeaseHeld,
        Exit::Unreachable,
        Exit::DeadlinePassed,
        Exit::NotFound,
        Exit::CannotExecute,
        Exit::CommandNotFound,
        Exit::Interrupted,
        Exit::Terminated,
    ];

    /// The code that the process ends with.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Findings => 3,
            Exit::LeaseHeld => 4,
            Exit::Unreachable => 5,
            Exit::DeadlinePassed => 6,
            Exit::NotFound => 7,
            Exit::CannotExecute => 126,
            Exit::CommandNotFound => 127,
            Exit::Interrupted => 130,
            Exit::Terminated => 143,
        }
    }

    /// The code under `run`, where 0 to 63 belong to the command that it runs: 64 more for stepdown's
    /// own failures. Shells, `env` and `timeout` use 126, 127, 130 and 143 in the same way, so these stay.
    pub fn code_under_run(self) -> u8 {
        match self {
            Exit::Ok
            | Exit::CannotExecute
            | Exit::CommandNotFound
            | Exit::Interrupted
            | Exit::Terminated => self.code(),
            Exit::Failed
            | Exit::Usage
            | Exit::Findings
            | Exit::LeaseHeld
            | Exit::Unreachable
            | Exit::DeadlinePassed
            | Exit::NotFound => 64 + self.code(),
        }
    }

    /// The name in JSON and in the documentation.
    pub fn name(self) -> &'static str {
        match self {
            Exit::Ok => "ok",
            Exit::Failed => "failed",
            Exit::Usage => "usage",
            Exit::Findings => "findings",
            Exit::LeaseHeld => "lease-held",
            Exit::Unreachable => "unreachable",
            Exit::DeadlinePassed => "deadline-passed",
            Exit::NotFound => "not-found",
            Exit::CannotExecute => "cannot-execute",
            Exit::CommandNotFound => "command-not-found",
            Exit::Interrupted => "interrupted",
            Exit::Terminated => "terminated",
        }
    }

    /// What it means, for the documentation.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "All that was asked was done, or what was asked about is so.",
            Exit::Failed => "Something went wrong that has no code of its own.",
            Exit::Usage => "The command line or the configuration is wrong. Nothing was changed.",
            Exit::Findings => {
                "The command worked and found something: `stop` or `wait`, that the stop was not clean or a checkpoint was not copied; `doctor`, that stepdown cannot work here; `checkpoint verify`, that a restart would fail or needs something; `checkpoint copy`, that the source is damaged; `checkpoint diff`, differences; `config check --strict`, warnings."
            }
            Exit::LeaseHeld => {
                "Another process holds the lease of the job, and waiting was not asked for; `checkpoint copy`, that another process copies to the same place."
            }
            Exit::Unreachable => {
                "The storage cannot be reached, or the directory cannot be seen. What was asked about is unknown: it is not absent."
            }
            Exit::DeadlinePassed => {
                "A deadline passed before what was waited for came about. What was asked for stays asked for."
            }
            Exit::NotFound => {
                "The storage answered that it is not there: `marker stat`, `marker rm`, `wait --until gone` of a marker that was never seen; `checkpoint`, a directory or a batch that is not there."
            }
            Exit::CannotExecute => "`run` only: the command's file cannot be executed.",
            Exit::CommandNotFound => "`run` only: there is no such command.",
            Exit::Interrupted => "SIGINT (Ctrl-C) ended the command.",
            Exit::Terminated => "SIGTERM ended the command.",
        }
    }

    /// What an error means for the exit code, judged by the first of its causes that says something.
    pub(super) fn of(error: &anyhow::Error) -> Exit {
        error.chain().find_map(of_cause).unwrap_or(Exit::Failed)
    }
}

fn of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if cause.is::<ConfigError>() || cause.is::<InvalidUri>() {
        return Some(Exit::Usage);
    }
    if let Some(LeaseError::Lost { .. }) = cause.downcast_ref::<LeaseError>() {
        return Some(Exit::LeaseHeld);
    }
    match cause.downcast_ref::<RolloutError>() {
        Some(
            RolloutError::Held { .. }
            | RolloutError::Overtaken { .. }
            | RolloutError::Journal(JournalError::Overtaken { .. })
            // They stand in no chain of their own: both errors around them show through.
            | RolloutError::Lease(LeaseError::Lost { .. })
            | RolloutError::Engine(
                EngineError::Lost(LeaseError::Lost { .. })
                | EngineError::Journal(JournalError::Overtaken { .. }),
            ),
        ) => return Some(Exit::LeaseHeld),
        Some(RolloutError::Impossible { .. } | RolloutError::Unsure { .. }) => {
            return Some(Exit::Usage);
        }
        Some(_) | None => {}
    }
    if let Some(EngineError::Journal(JournalError::Overtaken { .. })) = cause.downcast_ref() {
        return Some(Exit::LeaseHeld);
    }
    if let Some(AskError::MarkerUnknown { .. }) = cause.downcast_ref::<AskError>() {
        return Some(Exit::Unreachable);
    }
    if let Some(DocumentError::NoControl { .. }) = cause.downcast_ref::<DocumentError>() {
        return Some(Exit::Unreachable);
    }
    if let Some(storage) = cause.downcast_ref::<StorageError>() {
        return Some(of_kind(storage.kind));
    }
    if let Some(CheckpointError::Missing { .. }) = cause.downcast_ref::<CheckpointError>() {
        return Some(Exit::NotFound);
    }
    if let Some(copy) = cause.downcast_ref::<CopyError>()
        && let Some(exit) = of_copy(copy)
    {
        return Some(exit);
    }
    wrapped(cause).and_then(of_cause)
}

/// Why there is no copy, where the copy itself says it and not what lies below it.
fn of_copy(error: &CopyError) -> Option<Exit> {
    match error {
        CopyError::InProgress { .. } => Some(Exit::LeaseHeld),
        CopyError::Damaged { .. } | CopyError::NotSound { .. } => Some(Exit::Findings),
        CopyError::Interrupted { .. } => Some(Exit::Interrupted),
        CopyError::Nested { .. } => Some(Exit::Usage),
        CopyError::Refused { source, .. } => Some(match source {
            PlanRefused::NoTarget(_) => Exit::NotFound,
            PlanRefused::DStreams | PlanRefused::NotACheckpoint | PlanRefused::Empty => {
                Exit::Failed
            }
        }),
        CopyError::Exists { .. } | CopyError::Unfinished { .. } | CopyError::Unstable { .. } => {
            Some(Exit::Failed)
        }
        CopyError::SourceGone { .. } => Some(Exit::NotFound),
        CopyError::Storage(_)
        | CopyError::CutShort { .. }
        | CopyError::Checkpoint(_)
        | CopyError::Document(_)
        | CopyError::Lease(_) => None,
    }
}

/// The error in a transparent one: its source is not that error but what lies below it.
fn wrapped<'e>(cause: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    if let Some(error) = cause.downcast_ref::<DocumentError>() {
        return match error {
            DocumentError::Storage(error) => Some(error),
            DocumentError::Malformed { .. } | DocumentError::NoControl { .. } => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<LeaseError>() {
        return match error {
            LeaseError::Storage(error) => Some(error),
            LeaseError::Document(error) => Some(error),
            LeaseError::Lost { .. } => None,
        };
    }
    if let Some(BackendError::Status(error)) = cause.downcast_ref::<BackendError>() {
        return Some(error);
    }
    if let Some(error) = cause.downcast_ref::<AskError>() {
        return match error {
            AskError::Storage(error) => Some(error),
            AskError::Document(error) => Some(error),
            AskError::Backend(error) => Some(error),
            AskError::MarkerUnknown { .. } => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<CheckpointError>() {
        return match error {
            CheckpointError::Storage(error) => Some(error),
            CheckpointError::Missing { .. } | CheckpointError::Manifest { .. } => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<CopyError>() {
        return match error {
            CopyError::Storage(error) | CopyError::CutShort { source: error, .. } => Some(error),
            CopyError::Checkpoint(error) => Some(error),
            CopyError::Document(error) => Some(error),
            CopyError::Lease(error) => Some(error),
            CopyError::Refused { .. }
            | CopyError::Damaged { .. }
            | CopyError::Exists { .. }
            | CopyError::Unfinished { .. }
            | CopyError::Nested { .. }
            | CopyError::InProgress { .. }
            | CopyError::Unstable { .. }
            | CopyError::NotSound { .. }
            | CopyError::SourceGone { .. }
            | CopyError::Interrupted { .. } => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<RolloutError>() {
        return match error {
            RolloutError::Document(error)
            | RolloutError::Journal(JournalError::Document(error)) => Some(error),
            RolloutError::Lease(error) => Some(error),
            RolloutError::Backend(error) => Some(error),
            RolloutError::Engine(error) => Some(error),
            RolloutError::Journal(JournalError::Overtaken { .. })
            | RolloutError::Held { .. }
            | RolloutError::Overtaken { .. }
            | RolloutError::Impossible { .. }
            | RolloutError::Unsure { .. } => None,
        };
    }
    match cause.downcast_ref::<RunError>()? {
        RunError::Storage(error) => Some(error),
        RunError::Document(error) => Some(error),
        RunError::Lease(error) => Some(error),
        RunError::Occupied { .. }
        | RunError::NoDirectory { .. }
        | RunError::AttemptUnknown { .. }
        | RunError::MarkerUnknown { .. }
        | RunError::Spawn(_)
        | RunError::Interrupted(_)
        | RunError::NoReceipt { .. }
        | RunError::Unfollowed { .. }
        | RunError::System { .. } => None,
    }
}

fn of_kind(kind: ErrorKind) -> Exit {
    if kind.is_unreachable() {
        Exit::Unreachable
    } else if kind == ErrorKind::NotFound {
        Exit::NotFound
    } else if matches!(kind, ErrorKind::Config | ErrorKind::InvalidPath) {
        Exit::Usage
    } else {
        Exit::Failed
    }
}

/// What a command hands back: its own exit, or the code of the command that it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// stepdown's own.
    Own(Exit),
    /// The exit code of the child of `run`; 128 and the signal's number where a signal ended it.
    Child(u8),
}

impl From<Exit> for Status {
    fn from(exit: Exit) -> Self {
        Status::Own(exit)
    }
}

impl Status {
    /// The exit code of the process.
    pub(super) fn code(self, under_run: bool) -> ExitCode {
        let code = match self {
            Status::Child(code) => code,
            Status::Own(exit) if under_run => exit.code_under_run(),
            Status::Own(exit) => exit.code(),
        };
        code.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_also_under_run() {
        let mut codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        codes.extend(Exit::ALL.iter().map(|exit| exit.code_under_run()));
        codes.sort_unstable();
        codes.dedup();
        // 0, 126, 127, 130 and 143 mean the same under `run`.
        assert_eq!(codes.len(), 2 * Exit::ALL.len() - 5);
    }

    #[test]
    fn an_error_is_never_an_absence() {
        let uri: crate::storage::StorageUri = "/x".parse().unwrap();
        for kind in [
            ErrorKind::TimedOut,
            ErrorKind::Unreachable,
            ErrorKind::OutcomeUnknown,
            ErrorKind::Standby,
            ErrorKind::SafeMode,
            ErrorKind::Authentication,
        ] {
            let error = StorageError::new("stat", uri.clone(), kind);
            let error = anyhow::Error::from(error).context("while looking");
            assert_eq!(Exit::of(&error), Exit::Unreachable, "{kind:?}");
        }
        for kind in [ErrorKind::PermissionDenied, ErrorKind::Other] {
            let error = StorageError::new("stat", uri.clone(), kind);
            assert_eq!(Exit::of(&error.into()), Exit::Failed, "{kind:?}");
        }
        let error = StorageError::new("stat", uri, ErrorKind::NotFound);
        let error = RunError::Lease(LeaseError::Document(DocumentError::from(error)));
        assert_eq!(Exit::of(&error.into()), Exit::NotFound);
    }
}
