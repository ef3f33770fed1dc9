//! What is wrong with a checkpoint, as data.

use serde::Serialize;

/// How bad a finding is for a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; a restart is not harmed.
    Note,
    /// A restart works in some versions of Spark, or only under a condition.
    Warning,
    /// A restart fails, or gives wrong results.
    Damage,
}

/// The sort of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// `metadata` is not there.
    MetadataMissing,
    /// `metadata` gives no query id.
    MetadataDamaged,
    /// A needed file of `offsets/` is not there.
    OffsetMissing,
    /// A file of `offsets/` cannot be used.
    OffsetDamaged,
    /// A needed file of `commits/` is not there.
    CommitMissing,
    /// A file of `commits/` cannot be used.
    CommitDamaged,
    /// A batch is committed that is not planned.
    CommitAhead,
    /// More than one batch is planned and not committed.
    LogSkew,
    /// Batches are missing from both logs, as async progress tracking leaves them.
    AsyncProgress,
    /// A needed file of a source's log is not there.
    SourceLogMissing,
    /// A file of a source's log cannot be used.
    SourceLogDamaged,
    /// A file that rebuilds the state is not there.
    StateMissing,
    /// A file that rebuilds the state cannot be used.
    StateDamaged,
    /// Partitions of an operator are not there.
    PartitionsMissing,
    /// Only the first partition of an operator is there.
    SinglePartition,
    /// An SST or a log that a zip names is not there.
    SstMissing,
    /// An SST or a log has another length than the zip says.
    SstLength,
    /// The provider is not known, so the files it needs are not either.
    ProviderUnknown,
    /// The codec is not known, so the files that format v2 needs are not either.
    CodecUnknown,
    /// A state file is too large to be read, so the files that it names are not known.
    StateUnread,
    /// A state file has a name that breaks the loader.
    StateMisnamed,
    /// A side file does not match its file.
    ChecksumDiffers,
    /// Metadata of an operator cannot be used.
    OperatorDamaged,
    /// Metadata of an operator name a schema file that is not in this checkpoint.
    SchemaElsewhere,
    /// A schema file that metadata of operators name is not in this checkpoint.
    SchemaMissing,
    /// A needed file is a link, a directory or something else that is not copied.
    NotAFile,
    /// State without a log.
    StateWithoutLog,
    /// The manifest of a copy cannot be used.
    ManifestDamaged,
    /// A file that was copied is not there.
    CopiedFileMissing,
    /// A file of a copy has another content than its manifest says.
    DigestDiffers,
    /// The directory is no checkpoint of a streaming query.
    NotACheckpoint,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The sort.
    pub code: Code,
    /// The file or directory, relative to the checkpoint; empty for the checkpoint itself.
    pub path: String,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
    /// What Spark does on a restart.
    pub spark: String,
}

impl std::fmt::Display for Finding {
    /// `path: found X, expected Y`, on one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: found {}, expected {}",
            self.path, self.found, self.expected
        )
    }
}

impl Finding {
    /// A finding that makes a restart fail.
    pub fn damage(code: Code, path: impl Into<String>) -> Self {
        Self {
            severity: Severity::Damage,
            code,
            path: path.into(),
            expected: String::new(),
            found: String::new(),
            spark: String::new(),
        }
    }

    /// The same with another severity.
    #[must_use]
    pub fn with_severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Says what should be there.
    #[must_use]
    pub fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = text.into();
        self
    }

    /// Says what is there.
    #[must_use]
    pub fn found(mut self, text: impl Into<String>) -> Self {
        self.found = text.into();
        self
    }

    /// Says what Spark does on a restart.
    #[must_use]
    pub fn spark(mut self, text: impl Into<String>) -> Self {
        self.spark = text.into();
        self
    }
}
