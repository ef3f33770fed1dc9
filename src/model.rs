//! The words of the design as types: names, ids and times that every part shares. No I/O.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name or an id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {why}")]
pub struct InvalidName {
    /// Which word of the design: `job name`, `slot`, ...
    pub what: &'static str,
    /// The text that was refused.
    pub text: String,
    /// The rule it breaks.
    pub why: &'static str,
}

/// Checks the alphabet that is safe in a file name on every storage: letters, digits, `-` and `_`.
fn check_token(what: &'static str, text: &str, max: usize) -> Result<(), InvalidName> {
    let refuse = |why| {
        Err(InvalidName {
            what,
            text: text.to_owned(),
            why,
        })
    };
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.len() > max {
        return refuse("it is too long");
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        return refuse("only letters, digits, '-' and '_' are allowed");
    }
    if text.starts_with('-') {
        return refuse("it starts with '-'");
    }
    Ok(())
}

macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                check_token($what, text, $max)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

token! {
    /// The name of one logical stream, up to 100 letters, digits, `-` and `_`. No dot: a marker is
    /// named `<job>.<slot>`.
    JobName, "job name", 100
}

token! {
    /// The id of one stop: `<slot>-<16 hexadecimal digits of the attempt>`.
    ///
    /// An attempt is stopped at most once, so the id follows from the attempt: two watchers, or one
    /// watcher before and after a crash, come to the same id and to the same intent file.
    StopId, "stop id", 64
}

impl JobName {
    /// The job name nearest to any text: other characters become `-`, an empty one becomes `job`.
    pub fn nearest(text: &str) -> JobName {
        let word = |c: char| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c
            } else {
                '-'
            }
        };
        let name: String = text
            .chars()
            .map(word)
            .skip_while(|c| *c == '-')
            .take(100)
            .collect();
        JobName(if name.is_empty() {
            "job".to_owned()
        } else {
            name
        })
    }
}

/// One of the two places in which a job can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The first slot; a job that was never rolled out runs here.
    Blue,
    /// The second slot.
    Green,
}

impl Slot {
    /// Both slots, blue first.
    pub const ALL: [Slot; 2] = [Slot::Blue, Slot::Green];

    /// The slot as it stands in file names and config.
    pub fn as_str(self) -> &'static str {
        match self {
            Slot::Blue => "blue",
            Slot::Green => "green",
        }
    }

    /// The other slot.
    #[must_use]
    pub fn other(self) -> Slot {
        match self {
            Slot::Blue => Slot::Green,
            Slot::Green => Slot::Blue,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Slot {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text {
            "blue" => Ok(Slot::Blue),
            "green" => Ok(Slot::Green),
            _ => Err(InvalidName {
                what: "slot",
                text: text.to_owned(),
                why: "it is neither blue nor green",
            }),
        }
    }
}

/// The number of a micro-batch, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub u64);

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The generation of a lease; it only grows, and the highest one on the storage wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One run of a slot, told apart from every other run of it, also after a reboot or a pid wrap.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum AttemptId {
    /// A process of one host.
    Process {
        /// Host name, as the kernel reports it.
        host: String,
        /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): start times count from a boot.
        boot_id: String,
        /// Process id.
        pid: u32,
        /// Start time in clock ticks since boot (`/proc/<pid>/stat`, field 22).
        start_ticks: u64,
    },
    /// A run known to a command backend or to the driver kit by a name of its own (an application id
    /// with its attempt number, a pod uid).
    Named {
        /// The name, without line breaks.
        name: String,
    },
}

impl AttemptId {
    /// The id of the one stop this attempt can have in `slot`.
    pub fn stop_id(&self, slot: Slot) -> StopId {
        let digest = blake3::hash(self.to_string().as_bytes()).to_hex();
        StopId(format!(
            "{slot}-{}",
            digest.as_str().get(..16).unwrap_or_default()
        ))
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttemptId::Process {
                host,
                boot_id,
                pid,
                start_ticks,
            } => {
                write!(
                    f,
                    "{host}/{pid}/{start_ticks}/{}",
                    boot_id.get(..8).unwrap_or(boot_id)
                )
            }
            AttemptId::Named { name } => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_names_are_safe_in_file_names() {
        for good in ["clicks", "a", "A-b_9", &"x".repeat(100)] {
            assert!(good.parse::<JobName>().is_ok(), "{good}");
        }
        for bad in ["", "a.b", "a/b", "-a", "ä", "a b", "..", &"x".repeat(101)] {
            assert!(bad.parse::<JobName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn any_text_has_a_nearest_job_name() {
        for (text, name) in [
            ("clicks", "clicks"),
            ("-a b", "a-b"),
            ("ä", "job"),
            ("", "job"),
        ] {
            assert_eq!(JobName::nearest(text).as_str(), name);
            assert!(name.parse::<JobName>().is_ok());
        }
        assert!(
            JobName::nearest(&"x.".repeat(99))
                .as_str()
                .parse::<JobName>()
                .is_ok()
        );
    }

    #[test]
    fn a_stop_id_follows_from_the_attempt() {
        let attempt = |pid| AttemptId::Process {
            host: "h".into(),
            boot_id: "0123456789abcdef".into(),
            pid,
            start_ticks: 7,
        };
        assert_eq!(
            attempt(1).stop_id(Slot::Blue),
            attempt(1).stop_id(Slot::Blue)
        );
        assert_ne!(
            attempt(1).stop_id(Slot::Blue),
            attempt(2).stop_id(Slot::Blue)
        );
        assert_ne!(
            attempt(1).stop_id(Slot::Blue),
            attempt(1).stop_id(Slot::Green)
        );
        let id = attempt(1).stop_id(Slot::Green);
        assert_eq!(id.as_str().parse::<StopId>().unwrap(), id);
    }
}
