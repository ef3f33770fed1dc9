//! How one value of the file becomes one value of the program, and back into text.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::duration;
use super::rollout::{
    HoldBy, OnGateDeadline, Promote, RolloutCheckpoint, StartIs, Strategy, TwoWriters,
};
use super::schema::{
    Argv, AtBoundary, CopyExisting, EndsWith, Escalate, Level, LogFormat, OnStopped, Restart,
    SignalTarget, StopSignal, Trigger,
};
use super::section::nearest;
use crate::storage::StorageUri;

/// Why a value was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What is wrong, as a fragment.
    pub(super) message: String,
    /// What to write instead.
    pub(super) help: Option<String>,
}

impl Refusal {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    pub(super) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn wrong_type(wanted: &str, value: &DeValue<'_>) -> Self {
        Self::new(format!("needs {wanted}, not {}", describe(value)))
    }
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {text:?}"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(word) => format!("the boolean {word}"),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A type that a key of the file can have.
pub(super) trait Key: Sized {
    /// The value, or why not.
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal>;

    /// The value as it would stand in the file.
    fn show(&self) -> String;
}

fn text<'v>(value: &'v DeValue<'_>, wanted: &str) -> Result<&'v str, Refusal> {
    value
        .as_str()
        .ok_or_else(|| Refusal::wrong_type(wanted, value))
}

/// `text` as a TOML string.
pub(super) fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

impl Key for bool {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        value
            .as_bool()
            .ok_or_else(|| Refusal::wrong_type("true or false", value))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Key for u32 {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        value
            .as_integer()
            .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok())
            .ok_or_else(|| Refusal::wrong_type("a whole number from 0", value))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Key for f64 {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let float = value.as_float().map(toml::de::DeFloat::as_str);
        let digits = float.or_else(|| value.as_integer().map(toml::de::DeInteger::as_str));
        digits
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| Refusal::wrong_type("a number", value))
    }

    fn show(&self) -> String {
        format!("{self:?}")
    }
}

impl Key for String {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        match text(value, "a string")? {
            "" => Err(Refusal::new("is empty")),
            some => Ok(some.to_owned()),
        }
    }

    fn show(&self) -> String {
        quote(self)
    }
}

impl Key for Duration {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        if let Some(number) = value.as_integer() {
            return Err(Refusal::new(format!(
                "needs a duration with its unit, not the number {number}"
            ))
            .with_help(format!("write \"{number}s\" for seconds")));
        }
        duration::parse(text(value, "a duration such as \"30s\"")?).map_err(Refusal::new)
    }

    fn show(&self) -> String {
        quote(&duration::format(*self))
    }
}

impl Key for StorageUri {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        text(value, "a URI")?
            .parse()
            .map_err(|invalid: crate::storage::InvalidUri| Refusal::new(invalid.to_string()))
    }

    fn show(&self) -> String {
        quote(&self.to_string())
    }
}

impl Key for Vec<StorageUri> {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let Some(items) = value.as_array() else {
            let refusal = Refusal::wrong_type("an array of URIs", value);
            return Err(match value.as_str() {
                Some(one) => refusal.with_help(format!("write [{}]", quote(one))),
                None => refusal,
            });
        };
        let (good, bad): (Vec<_>, Vec<_>) = items
            .iter()
            .map(|item| StorageUri::read(item.get_ref()))
            .partition(Result::is_ok);
        if bad.is_empty() {
            return Ok(good.into_iter().flatten().collect());
        }
        let all = bad.into_iter().filter_map(Result::err);
        let messages: Vec<_> = all.map(|refusal| refusal.message).collect();
        Err(Refusal::new(messages.join("; ")))
    }

    fn show(&self) -> String {
        list(self.iter().map(Key::show))
    }
}

impl Key for PathBuf {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let path = text(value, "a path")?;
        if Path::new(path).is_absolute() {
            return Ok(path.into());
        }
        Err(Refusal::new(format!(
            "{path:?} is relative: cron and systemd start elsewhere"
        ))
        .with_help("write the path from the root, as /etc/hadoop/conf"))
    }

    fn show(&self) -> String {
        quote(&self.to_string_lossy())
    }
}

impl Key for Argv {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let Some(items) = value.as_array() else {
            let refusal = Refusal::wrong_type("a command as an array of words", value);
            return Err(match value.as_str() {
                Some(line) => refusal.with_help(format!(
                    "no shell is used; write {}, or [\"sh\", \"-c\", {}] for a shell",
                    list(line.split_whitespace().map(quote)),
                    quote(line)
                )),
                None => refusal,
            });
        };
        let words = items
            .iter()
            .map(|item| text(item.get_ref(), "strings only").map(str::to_owned))
            .collect::<Result<Vec<_>, _>>()?;
        if words.iter().any(|word| word.contains('\0')) {
            return Err(Refusal::new("a word of a command cannot contain a NUL"));
        }
        let argv = Argv::new(words).ok_or_else(|| {
            Refusal::new("names no program").with_help("write [\"program\", \"argument\"]")
        })?;
        if argv.program().contains('/') && !Path::new(argv.program()).is_absolute() {
            return Err(Refusal::new(format!(
                "{:?} is relative: cron and systemd start elsewhere",
                argv.program()
            ))
            .with_help(
                "write the program's path from the root, or its bare name to find it on PATH",
            ));
        }
        Ok(argv)
    }

    fn show(&self) -> String {
        list(self.words().iter().map(|word| quote(word)))
    }
}

/// The value among `all` that is written as `given`; else a refusal that lists them.
pub(super) fn read_word<T: Copy>(
    value: &DeValue<'_>,
    all: &[T],
    as_str: impl Fn(T) -> &'static str,
) -> Result<T, Refusal> {
    let words: Vec<&str> = all.iter().map(|one| as_str(*one)).collect();
    let one_of = format!("one of {}", list(words.iter().map(|word| quote(word))));
    let given = text(value, &one_of)?;
    if let Some(found) = all.iter().find(|one| as_str(**one) == given) {
        return Ok(*found);
    }
    let refusal = Refusal::new(format!("{given:?} is not {one_of}"));
    let lower = given.to_ascii_lowercase();
    Err(match nearest(&lower, words.iter().copied()) {
        Some(near) => refusal.with_help(format!("did you mean {near:?}?")),
        None => refusal,
    })
}

macro_rules! word_keys {
    ($($name:ident),+) => {
        $(impl Key for $name {
            fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
                read_word(value, $name::ALL, $name::as_str)
            }

            fn show(&self) -> String {
                quote(self.as_str())
            }
        })+
    };
}

word_keys!(
    Trigger,
    OnStopped,
    CopyExisting,
    Escalate,
    Restart,
    LogFormat,
    Level,
    SignalTarget,
    EndsWith,
    AtBoundary,
    Strategy,
    RolloutCheckpoint,
    StartIs,
    HoldBy,
    Promote,
    OnGateDeadline,
    TwoWriters
);

impl Key for StopSignal {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        if let Some("KILL" | "SIGKILL" | "9") = value.as_str() {
            return Err(
                Refusal::new("KILL asks for nothing, it ends the batch").with_help(
                    "take TERM here; for a kill after the deadline set escalate = \"kill\"",
                ),
            );
        }
        // `SIGTERM` is as common as `TERM`.
        if let Some(short) = value.as_str().and_then(|text| text.strip_prefix("SIG")) {
            return read_word(
                &DeValue::String(short.into()),
                StopSignal::ALL,
                StopSignal::as_str,
            );
        }
        read_word(value, StopSignal::ALL, StopSignal::as_str)
    }

    fn show(&self) -> String {
        quote(self.as_str())
    }
}
