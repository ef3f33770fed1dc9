//! What can go wrong with a storage call, as values.

use std::error::Error;

use super::StorageUri;

/// Result of a storage call.
pub type Result<T> = std::result::Result<T, StorageError>;

/// The sort of a storage error: what a caller decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The storage answered that there is no such entry.
    NotFound,
    /// Something stands there already.
    AlreadyExists,
    /// A directory was needed and something else was found.
    NotADirectory,
    /// A file was needed and a directory was found.
    IsADirectory,
    /// The storage refused for lack of rights.
    PermissionDenied,
    /// Credentials are missing, expired or not accepted.
    Authentication,
    /// A quota of names or bytes is used up.
    QuotaExceeded,
    /// No space is left.
    NoSpace,
    /// The NameNode is in safe mode: reads work, changes do not.
    SafeMode,
    /// The server answered that it is not the active one.
    Standby,
    /// No answer within the call's time-out (reads only; a mutation becomes `OutcomeUnknown`).
    TimedOut,
    /// No connection to the server.
    Unreachable,
    /// A mutation was sent and its answer was lost: it may have happened. Look before doing anything.
    OutcomeUnknown,
    /// The file is larger than the caller takes.
    TooLarge,
    /// The storage cannot do this, or not with the promise that is needed.
    Unsupported,
    /// The path is not valid in this storage.
    InvalidPath,
    /// The configuration of the storage is wrong.
    Config,
    /// Anything else; the source says more.
    Other,
}

impl ErrorKind {
    /// A short phrase for people.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "no such file or directory",
            ErrorKind::AlreadyExists => "it exists already",
            ErrorKind::NotADirectory => "not a directory",
            ErrorKind::IsADirectory => "it is a directory",
            ErrorKind::PermissionDenied => "permission denied",
            ErrorKind::Authentication => "authentication failed",
            ErrorKind::QuotaExceeded => "a quota is used up",
            ErrorKind::NoSpace => "no space left",
            ErrorKind::SafeMode => "the NameNode is in safe mode",
            ErrorKind::Standby => "the NameNode is in standby",
            ErrorKind::TimedOut => "no answer in time",
            ErrorKind::Unreachable => "the server cannot be reached",
            ErrorKind::OutcomeUnknown => "the outcome is unknown",
            ErrorKind::TooLarge => "the file is too large",
            ErrorKind::Unsupported => "not supported",
            ErrorKind::InvalidPath => "not a valid path",
            ErrorKind::Config => "wrong configuration",
            ErrorKind::Other => "failed",
        }
    }

    /// Whether this says that the storage as a whole cannot be worked with now (exit code 5), rather
    /// than that this one request was refused.
    pub fn is_unreachable(self) -> bool {
        matches!(
            self,
            ErrorKind::TimedOut
                | ErrorKind::Unreachable
                | ErrorKind::OutcomeUnknown
                | ErrorKind::Standby
                | ErrorKind::SafeMode
                | ErrorKind::Authentication
        )
    }
}

/// A failed storage call: which operation on which URI, the sort, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {uri}: {}{detail}", .kind.as_str())]
pub struct StorageError {
    /// The operation as a verb: `stat`, `list`, `rename`, ...
    pub operation: &'static str,
    /// What it was applied to.
    pub uri: StorageUri,
    /// The sort.
    pub kind: ErrorKind,
    /// Empty, or `" (...)"`: what to do, or what exactly was in the way.
    detail: String,
    /// The cause, where there is one.
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StorageError {
    /// An error without a cause.
    pub fn new(operation: &'static str, uri: StorageUri, kind: ErrorKind) -> Self {
        Self {
            operation,
            uri,
            kind,
            detail: String::new(),
            source: None,
        }
    }

    /// Adds what is known beyond the kind, in a few words.
    #[must_use]
    pub fn with_detail(mut self, detail: impl AsRef<str>) -> Self {
        self.detail = format!(" ({})", detail.as_ref());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error with another kind: a decorator or an adapter knows better.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }
}
