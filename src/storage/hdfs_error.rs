//! What an error of HDFS means: by exception class and by what was asked, never by class alone. Pure.
//!
//! The same `FileNotFoundException` says "absent", "the parent is missing", "this is a directory" or
//! "your lease is gone", depending on the call. What is not known here is [`ErrorKind::Other`] and
//! never an absence.

use std::fmt;
use std::io;

use hdfs_native::HdfsError;

use crate::storage::ErrorKind;

/// What was asked when an error came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The status of one path.
    Stat,
    /// The entries of a directory.
    List,
    /// The blocks or the content of a file.
    Read,
    /// A new file.
    Create,
    /// Content for a file that is being written, or its end.
    Write,
    /// Another name.
    Rename,
    /// A deletion.
    Delete,
    /// A directory.
    Mkdir,
    /// Times, permission bits or owners.
    Attributes,
}

/// Why a call to one NameNode gave no result.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client's error.
    Client(HdfsError),
    /// No answer in time.
    TimedOut,
    /// The client's own code panicked, with this message.
    Panicked(String),
    /// The client was closed while the call was under way.
    Closed,
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The NameNode answered: another one would say the same.
    Return,
    /// This NameNode is not the one to ask now; nothing was changed.
    AskAnother,
    /// Nobody knows whether the NameNode got the request and what it did. A read can be asked again.
    Unknown,
}

impl Failure {
    /// What to do next.
    pub(super) fn next(&self) -> Next {
        match self {
            Failure::Client(error) => next_after(error),
            Failure::TimedOut | Failure::Panicked(_) | Failure::Closed => Next::Unknown,
        }
    }

    /// The sort of a failed read, or of a change that certainly did not happen.
    pub(super) fn kind(&self, asked: Asked) -> ErrorKind {
        match self {
            Failure::Client(error) => kind(asked, error),
            Failure::TimedOut => ErrorKind::TimedOut,
            Failure::Panicked(_) | Failure::Closed => ErrorKind::Other,
        }
    }

    /// Whether a NameNode that refuses the client's way to authenticate looks like this.
    pub(super) fn may_be_a_refused_login(&self) -> bool {
        match self {
            Failure::Client(HdfsError::IOError(error)) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ),
            Failure::Panicked(_) => true,
            Failure::Client(_) | Failure::TimedOut | Failure::Closed => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Client(
                HdfsError::RPCError(class, text) | HdfsError::FatalRPCError(class, text),
            ) => {
                let class = class.rsplit(['.', '$']).next().unwrap_or(class);
                // The rest of the text is advice for Java clients and the stack of the server.
                let text = text.lines().next().unwrap_or_default();
                write!(
                    f,
                    "{class}: {}",
                    text.split(". Visit http").next().unwrap_or(text)
                )
            }
            Failure::Client(HdfsError::IOError(error)) if is_unknown_host(error) => write!(
                f,
                "{error}: neither a known host nor a nameservice of the Hadoop configuration"
            ),
            Failure::Client(HdfsError::IOError(error)) => error.fmt(f),
            Failure::Client(HdfsError::GSSAPIError(_, _, text)) => f.write_str(text),
            // Behind the words stand all the NameNode knows of each DataNode.
            Failure::Client(HdfsError::DataTransferError(text)) => {
                f.write_str(text.split(": [").next().unwrap_or(text))
            }
            Failure::Client(error) => {
                f.write_str(error.to_string().lines().next().unwrap_or_default())
            }
            Failure::TimedOut => f.write_str("no answer in time"),
            Failure::Panicked(message) => write!(f, "the HDFS client panicked: {message}"),
            Failure::Closed => f.write_str("the connection was given up"),
        }
    }
}

impl std::error::Error for Failure {}

fn next_after(error: &HdfsError) -> Next {
    match error {
        HdfsError::RPCError(class, _) | HdfsError::FatalRPCError(class, _) => match simple(class) {
            "StandbyException" | "ObserverRetryOnActiveException" => Next::AskAnother,
            "RetriableException" if !mentions_safe_mode(error) => Next::AskAnother,
            "RpcServerException" | "ServerTooBusy" | "RpcNoSuchProtocolException" => {
                Next::AskAnother
            }
            _ => Next::Return,
        },
        HdfsError::IOError(error) if was_never_sent(error) => Next::AskAnother,
        _ if is_missing_library(error) => Next::Return,
        HdfsError::IOError(_)
        | HdfsError::OperationFailed(_)
        | HdfsError::InternalError(_)
        | HdfsError::InvalidRPCResponse(_)
        | HdfsError::DataTransferError(_)
        | HdfsError::ErasureCodingError(_)
        | HdfsError::ChecksumError => Next::Unknown,
        HdfsError::InvalidPath(_)
        | HdfsError::InvalidArgument(_)
        | HdfsError::UrlParseError(_)
        | HdfsError::AlreadyExists(_)
        | HdfsError::FileNotFound(_)
        | HdfsError::BlocksNotFound(_)
        | HdfsError::IsADirectoryError(_)
        | HdfsError::TrashNotEnabled
        | HdfsError::UnsupportedErasureCodingPolicy(_)
        | HdfsError::UnsupportedFeature(_)
        | HdfsError::SASLError(_)
        | HdfsError::GSSAPIError(..)
        | HdfsError::NoSASLMechanism
        | HdfsError::XmlParseError(_) => Next::Return,
    }
}

/// Whether an error of a connection can only have come before the request went out. The client loses
/// the reason of later ones: they are all `ConnectionAborted`.
fn was_never_sent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::NotConnected
    ) || is_unknown_host(error)
}

fn is_unknown_host(error: &io::Error) -> bool {
    error.to_string().contains("failed to lookup address")
}

/// Whether the system's Kerberos library could not be loaded.
fn is_missing_library(error: &HdfsError) -> bool {
    matches!(error, HdfsError::OperationFailed(text) if text.contains("libgssapi"))
}

fn kind(asked: Asked, error: &HdfsError) -> ErrorKind {
    match error {
        HdfsError::RPCError(class, text) => kind_of_exception(asked, simple(class), text),
        // While a connection is made, the NameNode speaks of the client and not of a file.
        HdfsError::FatalRPCError(class, text) => {
            let kind = kind_of_exception(asked, simple(class), text);
            if kind == ErrorKind::PermissionDenied {
                ErrorKind::Authentication
            } else {
                kind
            }
        }
        HdfsError::FileNotFound(_) if matches!(asked, Asked::Stat | Asked::List | Asked::Read) => {
            ErrorKind::NotFound
        }
        HdfsError::AlreadyExists(_) if asked == Asked::Mkdir => ErrorKind::NotADirectory,
        HdfsError::AlreadyExists(text)
            if asked == Asked::Create && text.contains("as a directory") =>
        {
            ErrorKind::IsADirectory
        }
        HdfsError::AlreadyExists(_) => ErrorKind::AlreadyExists,
        HdfsError::IOError(_) | HdfsError::DataTransferError(_) => ErrorKind::Unreachable,
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => {
            ErrorKind::Authentication
        }
        HdfsError::OperationFailed(_) if is_missing_library(error) => ErrorKind::Authentication,
        HdfsError::UnsupportedFeature(_) | HdfsError::UnsupportedErasureCodingPolicy(_) => {
            ErrorKind::Unsupported
        }
        HdfsError::InvalidArgument(_)
        | HdfsError::UrlParseError(_)
        | HdfsError::XmlParseError(_) => ErrorKind::Config,
        HdfsError::InvalidPath(_) => ErrorKind::InvalidPath,
        HdfsError::IsADirectoryError(_) => ErrorKind::IsADirectory,
        HdfsError::FileNotFound(_)
        | HdfsError::OperationFailed(_)
        | HdfsError::BlocksNotFound(_)
        | HdfsError::TrashNotEnabled
        | HdfsError::ErasureCodingError(_)
        | HdfsError::ChecksumError
        | HdfsError::InternalError(_)
        | HdfsError::InvalidRPCResponse(_) => ErrorKind::Other,
    }
}

fn kind_of_exception(asked: Asked, class: &str, text: &str) -> ErrorKind {
    match class {
        "FileNotFoundException" => match asked {
            Asked::Read if text.contains("Path is not a file") => ErrorKind::IsADirectory,
            Asked::Read | Asked::Create | Asked::Rename | Asked::Mkdir | Asked::Attributes => {
                ErrorKind::NotFound
            }
            // Absence has another form for these; for a file being written it says that the file was
            // deleted meanwhile.
            Asked::Stat | Asked::List | Asked::Write | Asked::Delete => ErrorKind::Other,
        },
        // How Hadoop 3 tells a user who is not the superuser that a file stands in the way.
        "AccessControlException" | "ParentNotDirectoryException"
            if text.contains("is not a directory") =>
        {
            ErrorKind::NotADirectory
        }
        "AccessControlException" | "SnapshotAccessControlException" => ErrorKind::PermissionDenied,
        "SafeModeException" => ErrorKind::SafeMode,
        "RetriableException" if text.contains("SafeMode") || text.contains("safe mode") => {
            ErrorKind::SafeMode
        }
        "RetriableException" | "ServerTooBusy" | "RpcServerException" => ErrorKind::Unreachable,
        "StandbyException" | "ObserverRetryOnActiveException" => ErrorKind::Standby,
        "NSQuotaExceededException"
        | "DSQuotaExceededException"
        | "QuotaByStorageTypeExceededException"
        | "QuotaExceededException"
        | "MaxDirectoryItemsExceededException" => ErrorKind::QuotaExceeded,
        "ParentNotDirectoryException" => ErrorKind::NotADirectory,
        // Hadoop 2.7 for a file made below a file.
        "IllegalStateException" if asked == Asked::Create => ErrorKind::NotADirectory,
        "InvalidPathException" | "PathComponentTooLongException" | "IllegalNameException" => {
            ErrorKind::InvalidPath
        }
        "InvalidToken"
        | "AuthorizationException"
        | "SaslException"
        | "GSSException"
        | "AuthenticationException" => ErrorKind::Authentication,
        "RpcNoSuchProtocolException" | "RpcNoSuchMethodException" => ErrorKind::Config,
        "UnsupportedOperationException" => ErrorKind::Unsupported,
        "IOException" if is_without_datanode(text) => ErrorKind::NoSpace,
        "IOException" if text.contains("Path is not a file") => ErrorKind::IsADirectory,
        // A file renamed to a directory's name, or the other way round.
        "IOException" if asked == Asked::Rename && text.contains("must both be directories") => {
            ErrorKind::AlreadyExists
        }
        _ => ErrorKind::Other,
    }
}

/// No DataNode took a block: full, down, or already busy with as many blocks as fit.
fn is_without_datanode(text: &str) -> bool {
    text.contains("could only be replicated to 0 nodes")
        || text.contains("could only be written to 0 of")
}

/// Whether the NameNode refuses blocks as small as the ones that small files are given.
pub(super) fn is_block_too_small(failure: &Failure) -> bool {
    matches!(failure, Failure::Client(HdfsError::RPCError(_, text))
        if text.contains("less than configured minimum value"))
}

/// Whether a rename was refused because there is nothing by the old name.
pub(super) fn is_source_missing(failure: &Failure) -> bool {
    matches!(failure, Failure::Client(HdfsError::RPCError(class, text))
        if simple(class) == "FileNotFoundException" && text.contains("rename source"))
}

fn mentions_safe_mode(error: &HdfsError) -> bool {
    matches!(error, HdfsError::RPCError(_, text) if text.contains("SafeMode") || text.contains("safe mode"))
}

/// The class without its package.
fn simple(class: &str) -> &str {
    class.rsplit(['.', '$']).next().unwrap_or(class)
}

#[cfg(test)]
#[path = "hdfs_error_tests.rs"]
mod tests;
