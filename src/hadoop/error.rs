//! What can be wrong with a Hadoop configuration.

use std::path::PathBuf;

use super::Origin;

/// A Hadoop configuration that cannot be used: where, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HadoopConfError {
    /// The directory that was named holds no configuration.
    #[error("the Hadoop configuration directory {} (from {named_by}) {why}", .dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What named it: a variable or an option.
        named_by: String,
        /// The reason, and what to do.
        why: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {why}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        why: String,
    },
    /// A file is no well-formed configuration.
    #[error("{}:{line}:{column}: {why}", .file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u32,
        /// Column, from 1.
        column: u32,
        /// The reason.
        why: String,
    },
    /// An `xi:include` leads nowhere.
    #[error("{}:{line}: cannot include {href:?}: {why}", .file.display())]
    Include {
        /// The including file.
        file: PathBuf,
        /// Line of the include.
        line: u32,
        /// What was to be included.
        href: String,
        /// The reason, and what to do.
        why: String,
    },
    /// A value cannot be used.
    #[error("{key} = {value:?} ({origin}): {why}")]
    Value {
        /// The key.
        key: String,
        /// Its value; `(hidden)` for a secret.
        value: String,
        /// Where it stands.
        origin: Origin,
        /// The reason, and what to do.
        why: String,
    },
    /// What was asked for is not in the configuration.
    #[error("{what}")]
    Missing {
        /// What is missing, where it was looked for, and what to do.
        what: String,
    },
}
