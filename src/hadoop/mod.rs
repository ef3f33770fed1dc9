//! The Hadoop configuration, read as Hadoop's own `Configuration` reads it.
//!
//! [`HadoopConf`] holds every value with its [`Origin`]; [`NameService`] and [`MountTable`] are what
//! a client makes of them; [`credentials`] looks at tickets, keytabs and tokens without using them.
//! What is read how, and what is left out, stands in `docs/design/hadoop-configuration.md`.
//!
//! Files are read in [`HadoopConf::load`] and by [`credentials`]; everything else is pure.

mod credential_problem;
mod environment;
mod error;
mod keys;
mod load;
mod mounts;
mod nameservice;
mod site;
mod substitute;
mod tickets;
mod token_file;
mod umask;
pub(crate) mod wire;

pub mod credentials;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use environment::Environment;
pub use error::HadoopConfError;
pub use load::ConfSource;
pub use mounts::{MountLink, MountTable};
pub use nameservice::{DefaultFs, NameNode, NameService};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Hadoop's default.
    Default,
    /// A configuration file.
    File {
        /// The file.
        file: Arc<Path>,
        /// Line of its `<property>`, from 1.
        line: u32,
    },
    /// stepdown's own configuration, which wins over everything else.
    Override,
}

impl fmt::Display for Origin {
    /// `default`, `/etc/hadoop/conf/core-site.xml:12`, or `hadoop.overrides`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { file, line } => write!(f, "{}:{line}", file.display()),
            Origin::Override => f.write_str("hadoop.overrides"),
        }
    }
}

/// One value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    raw: String,
    origin: Origin,
    is_final: bool,
}

impl Setting {
    /// A secret by its own key, or by a variable in it.
    fn is_secret(&self, key: &str) -> bool {
        keys::is_secret(key) || (self.raw.contains("${") && keys::is_secret(&self.raw))
    }
}

/// One value for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Key, under the name that Hadoop uses now.
    pub key: String,
    /// Value with variables replaced; `(hidden)` for a secret; the reason for one that cannot be
    /// resolved.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Whether later files could not change it.
    pub is_final: bool,
}

/// A Hadoop configuration: defaults, `core-site.xml`, `hdfs-site.xml`, overrides.
#[derive(Debug, Clone)]
pub struct HadoopConf {
    dir: Option<PathBuf>,
    settings: BTreeMap<String, Setting>,
    ignored: Vec<(String, Origin)>,
    environment: Environment,
}

impl HadoopConf {
    /// Reads the configuration that `source` names; `overrides` win over final values too.
    ///
    /// # Errors
    /// A directory that was named and is missing or unreadable, a file that is unreadable or not
    /// well-formed, an include that leads nowhere.
    pub fn load(
        source: &ConfSource,
        overrides: &BTreeMap<String, String>,
        environment: Environment,
    ) -> Result<Self, HadoopConfError> {
        let dir = load::find_dir(source, &environment)?;
        let mut settings = load::Settings::with_defaults();
        if let Some(dir) = &dir {
            load::read_dir(dir, &mut settings)?;
        }
        for (key, value) in overrides {
            settings.force(key, value.clone(), Origin::Override);
        }
        Ok(Self {
            dir,
            settings: settings.map,
            ignored: settings.ignored,
            environment,
        })
    }

    /// The directory that was read; `None` if there was none to read.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// The environment that variables were taken from.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The value of `key` with variables replaced and blanks around it dropped; `None` if it is not
    /// set or blank.
    ///
    /// # Errors
    /// Variables that name each other.
    pub fn get(&self, key: &str) -> Result<Option<String>, HadoopConfError> {
        Ok(self
            .get_untrimmed(key)?
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty()))
    }

    /// The value of `key` as Hadoop's `Configuration.get` gives it, blanks included.
    ///
    /// # Errors
    /// Variables that name each other.
    pub fn get_untrimmed(&self, key: &str) -> Result<Option<String>, HadoopConfError> {
        let Some(setting) = self.setting(key) else {
            return Ok(None);
        };
        let raw = |key: &str| self.setting(key).map(|setting| setting.raw.clone());
        substitute::substitute(&setting.raw, &self.environment, raw)
            .map(Some)
            .map_err(|substitute::TooDeep| {
                self.refuse(
                    key,
                    &setting.raw,
                    "its variables go more than 20 deep; do two of them name each other?",
                )
            })
    }

    /// The parts of a comma-separated value, blanks around each dropped, empty ones left out.
    ///
    /// # Errors
    /// Variables that name each other.
    pub fn get_list(&self, key: &str) -> Result<Vec<String>, HadoopConfError> {
        let value = self.get(key)?.unwrap_or_default();
        Ok(value
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// `true` or `false` in any case; everything else is the default, as in Hadoop.
    ///
    /// # Errors
    /// Variables that name each other.
    pub fn get_bool(&self, key: &str, default: bool) -> Result<bool, HadoopConfError> {
        let value = self.get(key)?.unwrap_or_default().to_ascii_lowercase();
        Ok(match value.as_str() {
            "true" => true,
            "false" => false,
            _ => default,
        })
    }

    /// A whole number, decimal or `0x...`.
    ///
    /// # Errors
    /// Variables that name each other; a value that is no such number.
    pub fn get_number(&self, key: &str) -> Result<Option<u64>, HadoopConfError> {
        let Some(value) = self.get(key)? else {
            return Ok(None);
        };
        let parsed = match value
            .strip_prefix("0x")
            .or_else(|| value.strip_prefix("0X"))
        {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        parsed
            .map(Some)
            .map_err(|_| self.refuse(key, &value, "it is not a whole number"))
    }

    /// Where the value of `key` comes from; `None` if it is not set.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.setting(key).map(|setting| &setting.origin)
    }

    /// All keys in order, with values as Hadoop would use them and their origins; secrets hidden.
    pub fn entries(&self) -> Vec<Entry> {
        let shown = |key: &str, setting: &Setting| {
            if setting.is_secret(key) {
                return HIDDEN.to_owned();
            }
            match self.get_untrimmed(key) {
                Ok(value) => value.unwrap_or_default(),
                Err(error) => format!("({error})"),
            }
        };
        self.settings
            .iter()
            .map(|(key, setting)| Entry {
                key: key.clone(),
                value: shown(key, setting),
                origin: setting.origin.clone(),
                is_final: setting.is_final,
            })
            .collect()
    }

    /// Values that were not taken because an earlier one of the same key is final.
    pub fn ignored(&self) -> &[(String, Origin)] {
        &self.ignored
    }

    /// Keys that begin with `prefix`, without it, in order.
    fn keys_below<'c>(&'c self, prefix: &'c str) -> impl Iterator<Item = &'c str> {
        self.settings
            .range(prefix.to_owned()..)
            .map_while(move |(key, _)| key.strip_prefix(prefix))
    }

    fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.get(keys::current_name(key))
    }

    /// The error about the value of `key`.
    fn refuse(&self, key: &str, value: &str, why: impl Into<String>) -> HadoopConfError {
        let key = keys::current_name(key);
        let setting = self.settings.get(key);
        let hide = setting.is_some_and(|setting| setting.is_secret(key));
        HadoopConfError::Value {
            key: key.to_owned(),
            value: if hide { HIDDEN } else { value }.to_owned(),
            origin: setting.map_or(Origin::Default, |setting| setting.origin.clone()),
            why: why.into(),
        }
    }

    /// `dir (n values)` or a word for none: where a value was looked for.
    fn place(&self) -> String {
        match &self.dir {
            Some(dir) => format!("in {}", dir.display()),
            None => "anywhere (neither HADOOP_CONF_DIR nor HADOOP_HOME is set)".to_owned(),
        }
    }
}

const HIDDEN: &str = "(hidden)";
