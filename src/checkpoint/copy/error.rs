//! Why there is no copy, and what to do about it.

use super::Place;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::finding::Finding;
use crate::checkpoint::plan::PlanRefused;
use crate::checkpoint::target::At;
use crate::control::{DocumentError, LeaseError};
use crate::model::Generation;
use crate::storage::{Authority, ErrorKind, StorageError, StorageUri};

/// Why there is no copy. The source is as it was, the destination too.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The storage refused or did not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The source cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The source cannot be copied.
    #[error("{source_uri} cannot be copied")]
    Refused {
        /// The source.
        source_uri: StorageUri,
        /// Why.
        source: PlanRefused,
    },
    /// The source lacks what a restart needs.
    #[error(
        "a restart of {source_uri} as of {at} would fail, so it is not copied; `stepdown checkpoint copy --force` copies \
         it all the same{}",
        lines_of(findings)
    )]
    Damaged {
        /// The source.
        source_uri: StorageUri,
        /// As of which batch it was to be copied.
        at: At,
        /// All of it.
        findings: Vec<Finding>,
    },
    /// Something stands at the destination.
    #[error(
        "{destination} exists already; --replace moves it aside first (in the configuration: copy-existing = \"replace\")"
    )]
    Exists {
        /// The destination.
        destination: StorageUri,
    },
    /// The destination lies in the source, or the source in the destination, or the destination in another
    /// checkpoint, which then stands for the source.
    #[error("{destination} and {source_uri} lie within each other")]
    Nested {
        /// The destination.
        destination: StorageUri,
        /// The source.
        source_uri: StorageUri,
    },
    /// Work on a copy of another source lies beside the destination.
    #[error(
        "a copy of {other} to {destination} was begun and is not finished: finish it, copy to another place, or remove \
         {work} and what is in it"
    )]
    Unfinished {
        /// The destination.
        destination: StorageUri,
        /// The source of that copy.
        other: StorageUri,
        /// The work directory.
        work: StorageUri,
    },
    /// Another process copies to this destination.
    #[error(
        "another process copies to {destination} ({holder}, generation {generation}); wait until it \
         has ended, or copy to another place"
    )]
    InProgress {
        /// The destination.
        destination: StorageUri,
        /// Who.
        holder: String,
        /// Its lease.
        generation: Generation,
    },
    /// A record in the work directory could not be read or written.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The lease was lost.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Files went on vanishing or changing.
    #[error(
        "the source changed faster than it could be copied, {plans} times in a row; a query that keeps \
         more batches (spark.sql.streaming.minBatchesToRetain) or stands still can be copied: {why}"
    )]
    Unstable {
        /// How often it was tried.
        plans: u32,
        /// What happened the last time.
        why: String,
    },
    /// The result is not what was planned; it was not published.
    #[error("the copy in {work} does not pass its check and was not published: {why}")]
    NotSound {
        /// The work directory.
        work: StorageUri,
        /// What is wrong.
        why: String,
    },
    /// The source went away under the copy.
    #[error("{source_uri} was removed while it was copied; {work} can be removed as well")]
    SourceGone {
        /// The source.
        source_uri: StorageUri,
        /// The work directory.
        work: StorageUri,
    },
    /// A storage refused or did not answer.
    #[error(
        "the copy to {destination} {}; once {remedy}, the same command {}",
        if *begun { "did not come to its end" } else { "was not begun" },
        if *begun { "goes on with it" } else { "makes it" }
    )]
    CutShort {
        /// The destination.
        destination: StorageUri,
        /// Whether there may be work to go on with.
        begun: bool,
        /// What has to be so before the copy can go on.
        remedy: &'static str,
        /// What the storage said.
        source: StorageError,
    },
    /// The copy was told to end. What is there stays, and the same command goes on with it.
    #[error("interrupted; the same command goes on with what is in {work}")]
    Interrupted {
        /// The work directory.
        work: StorageUri,
    },
}

impl CopyError {
    /// The same, and what to do about it where a storage is the reason.
    pub(super) fn of_copy_to(self, destination: &Place, begun: bool) -> Self {
        let (Self::Storage(source)
        | Self::Checkpoint(CheckpointError::Storage(source))
        | Self::Document(DocumentError::Storage(source))
        | Self::Lease(
            LeaseError::Storage(source) | LeaseError::Document(DocumentError::Storage(source)),
        )) = self
        else {
            return self;
        };
        // What is not there is no matter of waiting.
        if source.kind == ErrorKind::NotFound {
            return Self::Storage(source);
        }
        Self::CutShort {
            destination: destination.uri(),
            begun,
            remedy: remedy(&source),
            source,
        }
    }
}

/// What has to be so before a copy that met `error` can go on.
fn remedy(error: &StorageError) -> &'static str {
    match error.kind {
        ErrorKind::QuotaExceeded => "the quota is raised or there is room in it",
        ErrorKind::NoSpace if error.uri.authority == Authority::Local => "there is room",
        ErrorKind::NoSpace => "DataNodes run and have room",
        ErrorKind::PermissionDenied => "this user has the right",
        ErrorKind::Authentication => "the login is renewed",
        ErrorKind::InvalidPath => "all names are such as the storage takes",
        ErrorKind::SafeMode => "the NameNode has left safe mode",
        ErrorKind::Standby
        | ErrorKind::TimedOut
        | ErrorKind::Unreachable
        | ErrorKind::OutcomeUnknown => "the storage answers again",
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::TooLarge
        | ErrorKind::Unsupported
        | ErrorKind::Config
        | ErrorKind::Other => "that is repaired",
    }
}

/// The findings, one a line; of many only the first ones.
fn lines_of(findings: &[Finding]) -> String {
    const SHOWN: usize = 20;
    let mut lines = String::new();
    for finding in findings.iter().take(SHOWN) {
        lines.push_str("\n  ");
        lines.push_str(&finding.to_string());
    }
    if let Some(more) = findings.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let more = format!("\n  and {more} more, which `stepdown checkpoint verify` shows");
        lines.push_str(&more);
    }
    lines
}
