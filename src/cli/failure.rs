//! A command that failed: its exit code, its chain of causes, once.

use std::io::{self, Write as _};

use serde::Serialize;

use super::exit::Exit;
use super::output::{Format, printable};
use crate::checkpoint::copy::CopyError;
use crate::checkpoint::finding::Finding;
use crate::config::{ConfigError, LogFormat, Problem};

/// Why a command failed. Made by `?` from any error, with the exit code that fits it.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// The error with its causes.
    pub error: anyhow::Error,
}

/// What a command hands back.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure with this exit code, in these words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            error: anyhow::Error::msg(message.into()),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        Self {
            exit: Exit::of(&error),
            error,
        }
    }
}

/// The error document of `--json`.
#[derive(Debug, Serialize)]
struct ErrorDocument<'e> {
    error: ErrorBody<'e>,
}

#[derive(Debug, Serialize)]
struct ErrorBody<'e> {
    exit: &'static str,
    exit_code: u8,
    message: String,
    causes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    problems: &'e [Problem],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    findings: &'e [Finding],
}

/// Where and how a failure is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Telling {
    /// With JSON, stdout gets the error document.
    pub(super) format: Format,
    /// With JSON, stderr gets the error document in the place of text.
    pub(super) log: LogFormat,
    /// Whether this is `run`: stdout belongs to its command, and codes are shifted.
    pub(super) under_run: bool,
    /// Whether stderr takes colours.
    pub(super) colors: bool,
}

impl Failure {
    /// Tells people on stderr, and programs on stdout if they asked.
    ///
    /// Nothing can be done about a stderr that is gone; the exit code still says it.
    pub(super) fn tell(&self, how: Telling) {
        let document = self.document(how.under_run);
        let json = how.format == Format::Json;
        if json && !how.under_run {
            let _gone = writeln!(io::stdout(), "{document}");
        }
        let text = if how.log == LogFormat::Json || (json && how.under_run) {
            document
        } else {
            self.chain(how.colors)
        };
        let _gone = writeln!(io::stderr(), "{text}");
    }

    fn document(&self, under_run: bool) -> String {
        let config: Option<&ConfigError> = self.error.chain().find_map(|c| c.downcast_ref());
        let findings = self
            .error
            .chain()
            .find_map(|cause| match cause.downcast_ref() {
                Some(CopyError::Damaged { findings, .. }) => Some(findings.as_slice()),
                _ => None,
            });
        let file = config.and_then(|config| config.file.as_ref());
        let body = ErrorBody {
            exit: self.exit.name(),
            exit_code: if under_run {
                self.exit.code_under_run()
            } else {
                self.exit.code()
            },
            message: self.error.to_string(),
            causes: self.causes(),
            file: file.map(|file| file.display().to_string()),
            problems: config.map_or(&[], |config| &config.problems),
            findings: findings.unwrap_or_default(),
        };
        serde_json::to_string(&ErrorDocument { error: body }).unwrap_or_default()
    }

    /// The causes below the error, without those that only repeat what stands above them.
    fn causes(&self) -> Vec<String> {
        let mut told = self.error.to_string();
        let mut causes = Vec::new();
        for cause in self.error.chain().skip(1) {
            let text = cause.to_string();
            if !told.contains(&text) {
                told.push_str(&text);
                causes.push(text);
            }
        }
        causes
    }

    fn chain(&self, colors: bool) -> String {
        let head = if colors {
            "\x1b[31merror:\x1b[0m"
        } else {
            "error:"
        };
        let mut text = format!("{head} {}", lines(&self.error.to_string()));
        for cause in self.causes() {
            text.push_str("\n  caused by: ");
            text.push_str(&lines(&cause));
        }
        text
    }
}

/// `text` with its lines kept and all other control characters written out.
fn lines(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
