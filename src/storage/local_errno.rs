//! What an errno of the kernel means in the words of [`ErrorKind`].

use std::io;

use rustix::io::Errno;

use crate::storage::{Authority, ErrorKind, StorageError, StoragePath, StorageUri};

/// Whether a call only looks or changes something: after a change some errors mean that it may have
/// happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Change,
}

/// Why a blocking call failed, before it is known under which operation and path to report it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: ErrorKind,
    detail: Option<String>,
    source: Option<io::Error>,
}

impl Refusal {
    /// A refusal without an errno behind it.
    pub(super) fn new(kind: ErrorKind, detail: &str) -> Self {
        Self {
            kind,
            detail: Some(detail.to_owned()),
            source: None,
        }
    }

    /// A failed call that changes nothing.
    pub(super) fn read(error: impl Into<io::Error>) -> Self {
        Self::from_error(Access::Read, error.into())
    }

    /// A failed call that changes something.
    pub(super) fn change(error: impl Into<io::Error>) -> Self {
        Self::from_error(Access::Change, error.into())
    }

    /// A change whose last step failed after it became visible: a directory that could not be synced.
    pub(super) fn unknown(error: impl Into<io::Error>) -> Self {
        Self {
            kind: ErrorKind::OutcomeUnknown,
            detail: Some("it was made, but may not be on disk".to_owned()),
            source: Some(error.into()),
        }
    }

    /// Says more about what was in the way.
    #[must_use]
    pub(super) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Puts `what` before what is already said.
    #[must_use]
    pub(super) fn about(mut self, what: &str) -> Self {
        self.detail = Some(match self.detail {
            Some(detail) => format!("{what}: {detail}"),
            None => what.to_owned(),
        });
        self
    }

    /// The same refusal with a kind that fits the call better.
    #[must_use]
    pub(super) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// The error as the caller of `operation` on `path` gets it.
    pub(super) fn at(self, operation: &'static str, path: &StoragePath) -> StorageError {
        let uri = StorageUri::new(Authority::Local, path.clone());
        let mut error = StorageError::new(operation, uri, self.kind);
        if let Some(detail) = self.detail {
            error = error.with_detail(detail);
        }
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    fn from_error(access: Access, error: io::Error) -> Self {
        let (kind, detail) = match Errno::from_io_error(&error) {
            Some(errno) => classify(access, errno),
            // What std makes up itself has no errno: a write that takes nothing more.
            None if error.kind() == io::ErrorKind::WriteZero => (ErrorKind::NoSpace, None),
            None => (ErrorKind::Other, None),
        };
        Self {
            kind,
            detail: detail.map(str::to_owned),
            source: Some(error),
        }
    }
}

/// The kind of `errno`, and what to add for people where the kind alone would mislead.
///
/// `ENOTDIR` and `ESTALE` are no absence: a parent that is a file, or a mount whose server forgot the
/// directory, says nothing about the entry.
fn classify(access: Access, errno: Errno) -> (ErrorKind, Option<&'static str>) {
    let unanswered = match access {
        Access::Read => ErrorKind::TimedOut,
        Access::Change => ErrorKind::OutcomeUnknown,
    };
    match errno {
        Errno::NOENT => (ErrorKind::NotFound, None),
        Errno::NOTDIR => (ErrorKind::NotADirectory, None),
        Errno::ISDIR => (ErrorKind::IsADirectory, None),
        Errno::EXIST => (ErrorKind::AlreadyExists, None),
        Errno::NOTEMPTY => (
            ErrorKind::AlreadyExists,
            Some("a directory that is not empty"),
        ),
        Errno::ACCESS | Errno::PERM => (ErrorKind::PermissionDenied, None),
        Errno::ROFS => (
            ErrorKind::PermissionDenied,
            Some("the file system is read-only"),
        ),
        Errno::NOSPC => (ErrorKind::NoSpace, None),
        Errno::DQUOT => (ErrorKind::QuotaExceeded, None),
        Errno::XDEV => (
            ErrorKind::Unsupported,
            Some("the two paths are on different file systems"),
        ),
        Errno::OPNOTSUPP | Errno::NOSYS => (
            ErrorKind::Unsupported,
            Some("this file system does not do it"),
        ),
        Errno::NAMETOOLONG | Errno::ILSEQ => (ErrorKind::InvalidPath, None),
        Errno::LOOP => (
            ErrorKind::InvalidPath,
            Some("a symbolic link is in the way, or links lead in a circle"),
        ),
        Errno::TIMEDOUT => (unanswered, Some("the file server does not answer")),
        // A soft NFS mount answers EIO when the server did not, so after a change anything is possible.
        Errno::IO => match access {
            Access::Read => (ErrorKind::Other, Some("input/output error")),
            Access::Change => (ErrorKind::OutcomeUnknown, Some("input/output error")),
        },
        Errno::NOTCONN
        | Errno::CONNABORTED
        | Errno::CONNRESET
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NETUNREACH
        | Errno::NETDOWN
        | Errno::SHUTDOWN
        | Errno::REMOTEIO => match access {
            Access::Read => (
                ErrorKind::Unreachable,
                Some("the mount has lost its server"),
            ),
            Access::Change => (
                ErrorKind::OutcomeUnknown,
                Some("the mount has lost its server"),
            ),
        },
        // The request was refused for its handle, so nothing happened, whatever it was.
        Errno::STALE => (
            ErrorKind::Unreachable,
            Some("stale file handle: mount the file system again"),
        ),
        Errno::NODEV | Errno::NXIO | Errno::NOMEDIUM => (
            ErrorKind::Unreachable,
            Some("the device of the mount is gone"),
        ),
        Errno::CONNREFUSED => (ErrorKind::Unreachable, None),
        Errno::KEYEXPIRED | Errno::KEYREJECTED | Errno::KEYREVOKED | Errno::NOKEY => {
            (ErrorKind::Authentication, None)
        }
        Errno::MFILE | Errno::NFILE => (
            ErrorKind::Other,
            Some("too many open files: raise the limit (ulimit -n)"),
        ),
        _ => (ErrorKind::Other, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_becomes_the_kind_that_callers_decide_by() {
        use ErrorKind as K;
        for (errno, read, change) in [
            (Errno::NOENT, K::NotFound, K::NotFound),
            (Errno::NOTDIR, K::NotADirectory, K::NotADirectory),
            (Errno::ISDIR, K::IsADirectory, K::IsADirectory),
            (Errno::EXIST, K::AlreadyExists, K::AlreadyExists),
            (Errno::NOTEMPTY, K::AlreadyExists, K::AlreadyExists),
            (Errno::ACCESS, K::PermissionDenied, K::PermissionDenied),
            (Errno::PERM, K::PermissionDenied, K::PermissionDenied),
            (Errno::ROFS, K::PermissionDenied, K::PermissionDenied),
            (Errno::NOSPC, K::NoSpace, K::NoSpace),
            (Errno::DQUOT, K::QuotaExceeded, K::QuotaExceeded),
            (Errno::XDEV, K::Unsupported, K::Unsupported),
            (Errno::NOSYS, K::Unsupported, K::Unsupported),
            (Errno::OPNOTSUPP, K::Unsupported, K::Unsupported),
            (Errno::NAMETOOLONG, K::InvalidPath, K::InvalidPath),
            (Errno::LOOP, K::InvalidPath, K::InvalidPath),
            (Errno::TIMEDOUT, K::TimedOut, K::OutcomeUnknown),
            (Errno::IO, K::Other, K::OutcomeUnknown),
            (Errno::NOTCONN, K::Unreachable, K::OutcomeUnknown),
            (Errno::STALE, K::Unreachable, K::Unreachable),
            (Errno::NODEV, K::Unreachable, K::Unreachable),
            (Errno::MFILE, K::Other, K::Other),
            (Errno::BUSY, K::Other, K::Other),
        ] {
            assert_eq!(Refusal::read(errno).kind, read, "{errno:?} of a read");
            assert_eq!(Refusal::change(errno).kind, change, "{errno:?} of a change");
        }
    }

    #[test]
    fn only_enoent_is_an_absence() {
        for raw in 1..134 {
            let errno = Errno::from_raw_os_error(raw);
            let absent = Refusal::read(errno).kind == ErrorKind::NotFound;
            assert_eq!(absent, errno == Errno::NOENT, "errno {raw}");
        }
    }

    #[test]
    fn the_error_names_operation_path_and_cause() {
        let path = StoragePath::parse("/a/b").unwrap();
        let error = Refusal::change(Errno::ROFS).at("create", &path);
        assert_eq!(
            error.to_string(),
            "cannot create /a/b: permission denied (the file system is read-only)"
        );
        assert!(std::error::Error::source(&error).is_some());
    }
}
