//! The table of errors, as real NameNodes of Hadoop 2.7 and 3.4 send them.

use super::*;

fn rpc(class: &str, text: &str) -> Failure {
    Failure::Client(HdfsError::RPCError(class.to_owned(), text.to_owned()))
}

fn io_error(kind: io::ErrorKind) -> Failure {
    Failure::Client(HdfsError::IOError(io::Error::from(kind)))
}

const FNF: &str = "java.io.FileNotFoundException";

#[test]
fn absence_has_one_form_for_each_question() {
    let missing = || Failure::Client(HdfsError::FileNotFound("/a".to_owned()));
    for asked in [Asked::Stat, Asked::List, Asked::Read] {
        assert_eq!(missing().kind(asked), ErrorKind::NotFound);
    }
    for (asked, text, expected) in [
        (Asked::Stat, "File does not exist: /a", ErrorKind::Other),
        (Asked::List, "File does not exist: /a", ErrorKind::Other),
        (Asked::Read, "File does not exist: /a", ErrorKind::NotFound),
        (
            Asked::Read,
            "Path is not a file: /a",
            ErrorKind::IsADirectory,
        ),
        (
            Asked::Create,
            "Parent directory doesn't exist: /a",
            ErrorKind::NotFound,
        ),
        (
            Asked::Mkdir,
            "Parent directory doesn't exist: /a",
            ErrorKind::NotFound,
        ),
        (
            Asked::Rename,
            "rename source /a is not found.",
            ErrorKind::NotFound,
        ),
        (
            Asked::Attributes,
            "File does not exist: /a",
            ErrorKind::NotFound,
        ),
        (
            Asked::Write,
            "File does not exist: /a (inode 7)",
            ErrorKind::Other,
        ),
        (Asked::Delete, "File does not exist: /a", ErrorKind::Other),
    ] {
        let failure = rpc(FNF, text);
        assert_eq!(failure.kind(asked), expected, "{asked:?} {text}");
        assert_eq!(failure.next(), Next::Return);
    }
}

#[test]
fn refusals_by_class() {
    for (class, text, asked, expected) in [
        (
            "org.apache.hadoop.security.AccessControlException",
            "Permission denied: user=a",
            Asked::Stat,
            ErrorKind::PermissionDenied,
        ),
        (
            "org.apache.hadoop.hdfs.server.namenode.SafeModeException",
            "Cannot create",
            Asked::Create,
            ErrorKind::SafeMode,
        ),
        (
            "org.apache.hadoop.ipc.RetriableException",
            "org.apache.hadoop.hdfs.server.namenode.SafeModeException: Cannot delete",
            Asked::Delete,
            ErrorKind::SafeMode,
        ),
        (
            "org.apache.hadoop.hdfs.protocol.NSQuotaExceededException",
            "",
            Asked::Create,
            ErrorKind::QuotaExceeded,
        ),
        (
            "org.apache.hadoop.hdfs.protocol.DSQuotaExceededException",
            "",
            Asked::Write,
            ErrorKind::QuotaExceeded,
        ),
        (
            "org.apache.hadoop.fs.ParentNotDirectoryException",
            "/a",
            Asked::Mkdir,
            ErrorKind::NotADirectory,
        ),
        (
            "java.lang.IllegalStateException",
            "",
            Asked::Create,
            ErrorKind::NotADirectory,
        ),
        (
            "java.lang.IllegalStateException",
            "",
            Asked::Rename,
            ErrorKind::Other,
        ),
        (
            "org.apache.hadoop.fs.InvalidPathException",
            "Invalid path name",
            Asked::Create,
            ErrorKind::InvalidPath,
        ),
        (
            "java.io.IOException",
            "File /a could only be replicated to 0 nodes instead of minReplication (=1).",
            Asked::Write,
            ErrorKind::NoSpace,
        ),
        (
            "java.io.IOException",
            "File /a could only be written to 0 of the 1 minReplication nodes.",
            Asked::Write,
            ErrorKind::NoSpace,
        ),
        (
            "java.io.IOException",
            "Source /a and destination /b must both be directories",
            Asked::Rename,
            ErrorKind::AlreadyExists,
        ),
        (
            "org.apache.hadoop.security.token.SecretManager$InvalidToken",
            "token can't be found",
            Asked::Stat,
            ErrorKind::Authentication,
        ),
        (
            "java.lang.NullPointerException",
            "",
            Asked::Stat,
            ErrorKind::Other,
        ),
    ] {
        let failure = rpc(class, text);
        assert_eq!(failure.kind(asked), expected, "{class} {text}");
        assert_eq!(failure.next(), Next::Return, "{class}");
    }
    let directory = Failure::Client(HdfsError::AlreadyExists(
        "/a already exists as a directory".to_owned(),
    ));
    let exists = Failure::Client(HdfsError::AlreadyExists(
        "/a for client 1 already exists".to_owned(),
    ));
    assert_eq!(directory.kind(Asked::Create), ErrorKind::IsADirectory);
    assert_eq!(exists.kind(Asked::Create), ErrorKind::AlreadyExists);
    assert_eq!(exists.kind(Asked::Rename), ErrorKind::AlreadyExists);
    assert_eq!(exists.kind(Asked::Mkdir), ErrorKind::NotADirectory);
}

#[test]
fn another_namenode_is_asked_only_where_nothing_can_have_happened() {
    use io::ErrorKind as Io;
    for kind in [
        Io::ConnectionRefused,
        Io::HostUnreachable,
        Io::NetworkUnreachable,
    ] {
        assert_eq!(io_error(kind).next(), Next::AskAnother, "{kind}");
        assert_eq!(io_error(kind).kind(Asked::Stat), ErrorKind::Unreachable);
    }
    for kind in [
        Io::ConnectionAborted,
        Io::ConnectionReset,
        Io::BrokenPipe,
        Io::TimedOut,
        Io::UnexpectedEof,
        Io::Other,
    ] {
        assert_eq!(io_error(kind).next(), Next::Unknown, "{kind}");
    }
    let unresolved =
        io::Error::other("failed to lookup address information: Name or service not known");
    assert_eq!(
        Failure::Client(HdfsError::IOError(unresolved)).next(),
        Next::AskAnother
    );
    let standby = rpc(
        "org.apache.hadoop.ipc.StandbyException",
        "Operation category READ is not supported",
    );
    assert_eq!(
        (standby.next(), standby.kind(Asked::Stat)),
        (Next::AskAnother, ErrorKind::Standby)
    );
    let starting = rpc(
        "org.apache.hadoop.ipc.RetriableException",
        "NameNode still not started",
    );
    assert_eq!(
        (starting.next(), starting.kind(Asked::Stat)),
        (Next::AskAnother, ErrorKind::Unreachable)
    );
    for lost in [
        Failure::TimedOut,
        Failure::Closed,
        Failure::Panicked(String::new()),
        Failure::Client(HdfsError::OperationFailed(
            "Failed to complete file in time".to_owned(),
        )),
        Failure::Client(HdfsError::InternalError(String::new())),
        Failure::Client(HdfsError::DataTransferError(String::new())),
    ] {
        assert_eq!(lost.next(), Next::Unknown, "{lost:?}");
        assert_ne!(lost.kind(Asked::Stat), ErrorKind::NotFound);
    }
}

#[test]
fn authentication_is_told_from_permission() {
    let class = "org.apache.hadoop.security.AccessControlException";
    let fatal = Failure::Client(HdfsError::FatalRPCError(
        class.to_owned(),
        "SIMPLE authentication is not enabled".to_owned(),
    ));
    let library = Failure::Client(HdfsError::OperationFailed(
        "Failed to load libgssapi_krb".to_owned(),
    ));
    let sasl = Failure::Client(HdfsError::NoSASLMechanism);
    for failure in [fatal, library, sasl] {
        assert_eq!(
            failure.kind(Asked::Stat),
            ErrorKind::Authentication,
            "{failure:?}"
        );
        assert_eq!(failure.next(), Next::Return, "{failure:?}");
    }
}

#[test]
fn messages_are_one_line_without_the_servers_stack() {
    let failure = rpc(
        FNF,
        "File does not exist: /a\n\tat org.apache.hadoop.hdfs.server.namenode.X.y(X.java:1)",
    );
    assert_eq!(
        failure.to_string(),
        "FileNotFoundException: File does not exist: /a"
    );
    let token = rpc(
        "org.apache.hadoop.security.token.SecretManager$InvalidToken",
        "gone",
    );
    assert_eq!(token.to_string(), "InvalidToken: gone");
    let transfer =
        HdfsError::DataTransferError("All DataNodes failed: [DatanodeInfoProto { .. }]".to_owned());
    assert_eq!(
        Failure::Client(transfer).to_string(),
        "All DataNodes failed"
    );
    assert!(is_source_missing(&rpc(
        FNF,
        "rename source /a is not found."
    )));
    assert!(!is_source_missing(&rpc(
        FNF,
        "rename destination parent /b not found."
    )));
    assert!(is_block_too_small(&rpc(
        "java.io.IOException",
        "Specified block size is less than configured minimum value (x): 1 < 2"
    )));
}
