//! Whether stepdown can work here: checks as data, each with what to do.
//!
//! [`host`] looks at this host and the configuration, [`hadoop`] at the Hadoop configuration and the
//! credentials, [`control`] at the storages that the configuration names, where it tries what stepdown
//! will have to do, [`file_sinks`] at whether outputs belong to checkpoints, [`rollouts`] at rollouts that are
//! not over.

pub mod control;
pub mod file_sinks;
pub mod hadoop;
pub mod host;
pub mod rollouts;

use serde::Serialize;

/// What a check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// stepdown works, but not as it should, or something is unlikely to be meant.
    Warn,
    /// stepdown cannot do its work.
    Fail,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, as `open-files`, or `marker-directory /m`.
    pub name: String,
    /// What came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; `None` if it is as it should be.
    pub advice: Option<String>,
}

impl Check {
    /// A check that came out well.
    pub fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Ok,
            found: found.into(),
            advice: None,
        }
    }

    /// A check that needs attention.
    pub fn warn(
        name: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Warn,
            advice: Some(advice.into()),
            ..Self::ok(name, found)
        }
    }

    /// A check that says that stepdown cannot work.
    pub fn fail(
        name: impl Into<String>,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Fail,
            ..Self::warn(name, found, advice)
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
