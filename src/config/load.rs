//! Finds the configuration file and reads it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::problem::{ConfigError, Lines, Problem};
use super::read;
use super::schema::Config;
use super::section::{Account, Keep, Origin, Section, Setting};

/// The file of the whole machine.
pub const SYSTEM_FILE: &str = "/etc/stepdown/stepdown.toml";

/// The environment variables that the configuration depends on. An empty variable counts as unset.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// Exactly these variables.
    pub fn from_pairs<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Self {
        let own = |(name, value): (&str, &str)| (name.into(), value.into());
        Self(pairs.into_iter().map(own).collect())
    }

    /// The value of a variable as text; bytes that are not UTF-8 are replaced.
    pub fn get(&self, name: &str) -> Option<String> {
        self.path(name)
            .map(|value| value.to_string_lossy().into_owned())
    }

    /// The value of a variable as a path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.0.get(std::ffi::OsStr::new(name))?;
        (!value.is_empty()).then(|| value.into())
    }
}

/// Which file was read, and why that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// Named by `--config`.
    Option(PathBuf),
    /// Named by `STEPDOWN_CONFIG`.
    Variable(PathBuf),
    /// The first that exists of the user's file and the system's.
    Found(PathBuf),
    /// None exists: the defaults are in force.
    Nothing,
}

impl Lookup {
    /// The file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Lookup::Option(file) | Lookup::Variable(file) | Lookup::Found(file) => Some(file),
            Lookup::Nothing => None,
        }
    }
}

/// A configuration with its account.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The file they come from.
    pub lookup: Lookup,
    /// Every key with its value and origin, in the order of the reference; empty after
    /// [`load_values`].
    pub settings: Vec<Setting>,
}

/// The files that are looked for, in order, where none is named: the user's own, then the system's.
/// Never one in the current directory: what is stopped must not depend on where a cron job starts.
pub fn default_files(environment: &Environment) -> Vec<PathBuf> {
    let user = environment
        .path("XDG_CONFIG_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| Some(environment.path("HOME")?.join(".config")));
    user.map(|dir| dir.join("stepdown/stepdown.toml"))
        .into_iter()
        .chain([SYSTEM_FILE.into()])
        .collect()
}

/// Reads the configuration: the file `named` (`--config`), else that of `STEPDOWN_CONFIG`, else the
/// first of [`default_files`] that exists, else nothing but defaults.
///
/// # Errors
/// All problems found. A file that was named and is missing, and one that exists and cannot be read,
/// is an error, never passed over.
pub fn load(named: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
    load_keeping(named, environment, Keep::Settings)
}

/// As [`load`], without the account of every key, which nobody needs who only works by the values.
///
/// # Errors
/// As [`load`].
pub fn load_values(named: Option<&Path>, environment: &Environment) -> Result<Loaded, ConfigError> {
    load_keeping(named, environment, Keep::Nothing)
}

fn load_keeping(
    named: Option<&Path>,
    environment: &Environment,
    keep: Keep,
) -> Result<Loaded, ConfigError> {
    let lookup = match (named, environment.path("STEPDOWN_CONFIG")) {
        (Some(file), _) => Lookup::Option(file.to_owned()),
        (None, Some(file)) => Lookup::Variable(file),
        (None, None) => find(environment)?,
    };
    let text = match lookup.file() {
        Some(file) => read_file(file, &lookup)?,
        None => String::new(),
    };
    let loaded = parse_keeping(&text, lookup, environment, keep)?;
    check_conf_dir(&loaded)?;
    Ok(loaded)
}

/// A Hadoop configuration that the file names must be there. One that only `HADOOP_CONF_DIR` names is
/// looked at when HDFS is needed: commands on local markers work without.
fn check_conf_dir(loaded: &Loaded) -> Result<(), ConfigError> {
    let key = "hadoop.conf-dir";
    let setting = loaded.settings.iter().find(|setting| setting.key == key);
    let Some(dir) = &loaded.config.hadoop.conf_dir else {
        return Ok(());
    };
    // Where no account is kept the key has to do.
    let place = match setting.map(|setting| &setting.origin) {
        Some(Origin::File(place)) => Some(place.clone()),
        Some(_) => return Ok(()),
        None => None,
    };
    std::fs::read_dir(dir)
        .map(drop)
        .map_err(|error| ConfigError {
            file: loaded.lookup.file().map(Path::to_owned),
            problems: vec![Problem {
                place,
                key: key.to_owned(),
                message: format!("{} cannot be read: {error}", dir.display()),
                help: Some(
                    "name the directory of core-site.xml and hdfs-site.xml, readable for the user that stepdown runs as"
                        .to_owned(),
                ),
            }],
        })
}

fn find(environment: &Environment) -> Result<Lookup, ConfigError> {
    for file in default_files(environment) {
        match std::fs::metadata(&file) {
            Ok(_) => return Ok(Lookup::Found(file)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(whole_file(&file, error.to_string(), None)),
        }
    }
    Ok(Lookup::Nothing)
}

fn whole_file(file: &Path, message: String, help: Option<String>) -> ConfigError {
    ConfigError {
        file: Some(file.to_owned()),
        problems: vec![Problem {
            place: None,
            key: String::new(),
            message,
            help,
        }],
    }
}

fn read_file(file: &Path, lookup: &Lookup) -> Result<String, ConfigError> {
    let bytes = std::fs::read(file).map_err(|error| {
        let (message, help) = unreadable(&error, lookup);
        whole_file(file, message, help)
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error
            .as_bytes()
            .iter()
            .take(good)
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        whole_file(file, format!("line {line} is not UTF-8"), None)
    })
}

/// What to say of a file that cannot be read, and what to do.
fn unreadable(error: &io::Error, lookup: &Lookup) -> (String, Option<String>) {
    let named_by = match lookup {
        Lookup::Option(_) => Some("--config"),
        Lookup::Variable(_) => Some("STEPDOWN_CONFIG"),
        Lookup::Found(_) | Lookup::Nothing => None,
    };
    let kind = error.kind();
    if kind == io::ErrorKind::NotFound {
        let help = named_by.map(|name| {
            format!(
                "it is named by {name}; `stepdown config reference` prints a file to start from"
            )
        });
        return ("there is no such file".to_owned(), help);
    }
    if kind == io::ErrorKind::PermissionDenied {
        let help = "make it readable for the user that stepdown runs as".to_owned();
        return (
            "it cannot be read: permission denied".to_owned(),
            Some(help),
        );
    }
    if kind == io::ErrorKind::IsADirectory {
        return ("it is a directory; name the file in it".to_owned(), None);
    }
    (format!("it cannot be read: {error}"), None)
}

/// Reads the configuration in `text`, which `lookup` says the origin of.
///
/// # Errors
/// All problems found.
pub fn parse(text: &str, lookup: Lookup, environment: &Environment) -> Result<Loaded, ConfigError> {
    parse_keeping(text, lookup, environment, Keep::Settings)
}

fn parse_keeping(
    text: &str,
    lookup: Lookup,
    environment: &Environment,
    keep: Keep,
) -> Result<Loaded, ConfigError> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let fail = |problems| {
        Err(ConfigError {
            file: lookup.file().map(Path::to_owned),
            problems,
        })
    };
    if !syntax.is_empty() {
        // What stands in a file that is not TOML is a guess: its keys are not judged.
        let lines = Lines::of(text);
        let told = syntax.iter().map(|e| syntax_problem(text, &lines, e));
        let mut problems: Vec<_> = told.collect();
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        return fail(problems);
    }
    let account = Account::new(text, keep);
    let config = read::config(Section::top(&account, &table), environment);
    let (problems, settings) = account.close();
    if !problems.is_empty() {
        return fail(problems);
    }
    Ok(Loaded {
        config,
        lookup,
        settings,
    })
}

fn syntax_problem(text: &str, lines: &Lines<'_>, error: &toml::de::Error) -> Problem {
    let word = error.span().and_then(|span| text.get(span));
    let unquoted = error.message().starts_with("string values must be quoted");
    Problem {
        place: error.span().map(|span| lines.place(&span)),
        key: String::new(),
        message: format!("not TOML: {}", error.message()),
        help: word
            .filter(|_| unquoted)
            .map(|word| format!("write {word:?}")),
    }
}
