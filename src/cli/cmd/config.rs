//! `stepdown config`

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report, Tone, plain, table};
use crate::config::lint::{self, Warning};
use crate::config::{Loaded, Lookup, Origin, Setting, reference};
use crate::hadoop;

/// Check, show and explain the configuration
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with the configuration, and what is odd
    ///
    /// Tells all mistakes at once, each with its line and what to do: exit code 2. What is valid and
    /// yet unlikely to be meant is a warning: exit code 0, or 3 with --strict.
    #[command(after_help = "\
Examples:
  stepdown config check
  stepdown config check --strict && systemctl reload stepdown")]
    Check(CheckArgs),

    /// Show every value and where it comes from
    #[command(after_help = "\
Examples:
  stepdown config show
  stepdown config show jobs.clicks
  stepdown config show --hadoop dfs.ha
  stepdown --json config show watch")]
    Show(ShowArgs),

    /// Print a configuration file with every key, its default and its meaning
    #[command(after_help = "\
Example:
  stepdown config reference > /etc/stepdown/stepdown.toml")]
    Reference,
}

/// Arguments of `check`.
#[derive(Debug, Clone, Args)]
struct CheckArgs {
    /// Exit with 3 if there are warnings
    #[arg(long)]
    strict: bool,
}

/// Arguments of `show`.
#[derive(Debug, Clone, Args)]
struct ShowArgs {
    /// Only this key, or the keys of this section; with --hadoop, the properties that begin so
    key: Option<String>,

    /// Show the Hadoop configuration instead: every property as it is used, and where it comes from
    #[arg(long)]
    hadoop: bool,
}

/// Runs the command.
///
/// # Errors
/// All problems of the configuration; `NotFound` for a key that there is not.
pub fn run(args: ConfigArgs, context: &mut Context) -> Result<Status> {
    match args.command {
        ConfigCommand::Check(args) => check(&args, context),
        ConfigCommand::Show(args) if args.hadoop => show_hadoop(&args, context),
        ConfigCommand::Show(args) => show(&args, context),
        ConfigCommand::Reference => {
            context.out.raw(reference::FILE.as_bytes())?;
            Ok(Exit::Ok.into())
        }
    }
}

fn file_of(loaded: &Loaded) -> Option<String> {
    loaded.lookup.file().map(|file| file.display().to_string())
}

/// The result of `check`.
#[derive(Debug, Serialize)]
struct CheckReport {
    /// `null` where the defaults are in force.
    file: Option<String>,
    jobs: usize,
    warnings: Vec<Warning>,
}

impl Report for CheckReport {
    fn text(&self, look: Look) -> String {
        let file = self.file.as_deref().unwrap_or("no file: the defaults");
        let mut text = String::new();
        for Warning { key, message, help } in &self.warnings {
            let warning = look.paint(Tone::Warn, "warning:");
            let key = if key.is_empty() { "file" } else { key };
            let _infallible = write!(text, "{warning} {key}: {message}\n    {help}\n");
        }
        let verdict = match self.warnings.len() {
            0 => look.paint(Tone::Good, "ok"),
            1 => look.paint(Tone::Warn, "usable, 1 warning"),
            n => look.paint(Tone::Warn, &format!("usable, {n} warnings")),
        };
        let jobs = match self.jobs {
            0 => "no jobs".to_owned(),
            1 => "1 job".to_owned(),
            n => format!("{n} jobs"),
        };
        text + &format!("{file}: {verdict}, {jobs}")
    }
}

fn check(args: &CheckArgs, context: &mut Context) -> Result<Status> {
    let loaded = context.load()?;
    let mut warnings = lint::of_values(&loaded.config);
    warnings.extend(lint::of_host(&loaded, &context.environment));
    let odd = !warnings.is_empty();
    context.out.result(&CheckReport {
        file: file_of(&loaded),
        jobs: loaded.config.jobs.len(),
        warnings,
    })?;
    Ok(if odd && args.strict {
        Exit::Findings.into()
    } else {
        Exit::Ok.into()
    })
}

/// The result of `show`.
#[derive(Debug, Serialize)]
struct ShowReport {
    /// `null` where the defaults are in force.
    file: Option<String>,
    /// How the file was found: `option`, `variable`, `found` or `nothing`.
    found_by: &'static str,
    settings: Vec<Setting>,
}

impl Report for ShowReport {
    fn text(&self, look: Look) -> String {
        let name = self.file.as_deref().unwrap_or_default();
        let rows: Vec<_> = self
            .settings
            .iter()
            .map(|setting| {
                let value = match &setting.value {
                    Some(value) => plain(value.as_str()),
                    None => ("-".to_owned(), Tone::Dim),
                };
                let (origin, tone) = match &setting.origin {
                    Origin::File(place) => (format!("{name}:{}", place.line), Tone::Good),
                    Origin::Environment { name } => (format!("environment {name}"), Tone::Warn),
                    Origin::Key { key } => (format!("from {key}"), Tone::Plain),
                    Origin::Default => ("default".to_owned(), Tone::Dim),
                };
                vec![plain(setting.key.as_str()), value, (origin, tone)]
            })
            .collect();
        let head = match &self.file {
            Some(file) => format!("{file} ({})", self.found_by),
            None => "no configuration file: the defaults are in force".to_owned(),
        };
        format!(
            "{head}\n\n{}",
            table(look, &["KEY", "VALUE", "ORIGIN"], &rows)
        )
    }
}

fn show(args: &ShowArgs, context: &mut Context) -> Result<Status> {
    let loaded = context.load()?;
    let mut settings = loaded.settings.clone();
    if let Some(wanted) = &args.key {
        let section = format!("{wanted}.");
        settings.retain(|setting| setting.key == *wanted || setting.key.starts_with(&section));
        if settings.is_empty() {
            let message = format!("there is no key or section {wanted:?}");
            return Err(Failure::new(Exit::NotFound, message));
        }
    }
    context.out.result(&ShowReport {
        file: file_of(&loaded),
        found_by: match loaded.lookup {
            Lookup::Option(_) => "option",
            Lookup::Variable(_) => "variable",
            Lookup::Found(_) => "found",
            Lookup::Nothing => "nothing",
        },
        settings,
    })?;
    Ok(Exit::Ok.into())
}

/// The result of `show --hadoop`.
#[derive(Debug, Serialize)]
struct HadoopReport {
    /// The directory that was read; `null` if there is none.
    conf_dir: Option<String>,
    properties: Vec<Property>,
    /// Values that were not taken, since an earlier one is final.
    ignored: Vec<Ignored>,
}

#[derive(Debug, Serialize)]
struct Property {
    key: String,
    value: String,
    /// `default`, `stepdown` (`hadoop.overrides`), or the file and line.
    origin: String,
    #[serde(rename = "final")]
    is_final: bool,
}

#[derive(Debug, Serialize)]
struct Ignored {
    key: String,
    origin: String,
}

impl Report for HadoopReport {
    fn text(&self, look: Look) -> String {
        let rows: Vec<_> = self
            .properties
            .iter()
            .map(|property| {
                let tone = if property.origin == "default" {
                    Tone::Dim
                } else {
                    Tone::Good
                };
                let mark = if property.is_final { ", final" } else { "" };
                let origin = format!("{}{mark}", property.origin);
                vec![
                    plain(&*property.key),
                    plain(&*property.value),
                    (origin, tone),
                ]
            })
            .collect();
        let head = match &self.conf_dir {
            Some(dir) => dir.clone(),
            None => "no Hadoop configuration: the defaults are in force".to_owned(),
        };
        let mut text = format!(
            "{head}\n\n{}",
            table(look, &["PROPERTY", "VALUE", "ORIGIN"], &rows)
        );
        for Ignored { key, origin } in &self.ignored {
            let _infallible = write!(
                text,
                "\nignored, an earlier value is final: {key} in {origin}"
            );
        }
        text
    }
}

fn show_hadoop(args: &ShowArgs, context: &mut Context) -> Result<Status> {
    let app = context.open()?;
    let conf = app.hadoop_conf().map_err(|error| Failure {
        exit: Exit::Usage,
        error: error.into(),
    })?;
    let wanted = |key: &str| {
        args.key
            .as_ref()
            .is_none_or(|prefix| key.starts_with(prefix))
    };
    let properties: Vec<_> = conf
        .entries()
        .into_iter()
        .filter(|entry| wanted(&entry.key))
        .map(
            |hadoop::Entry {
                 key,
                 value,
                 origin,
                 is_final,
             }| Property {
                key,
                value,
                origin: origin.to_string(),
                is_final,
            },
        )
        .collect();
    if let (Some(prefix), true) = (&args.key, properties.is_empty()) {
        let message = format!("no Hadoop property begins with {prefix:?}");
        return Err(Failure::new(Exit::NotFound, message));
    }
    let ignored = conf.ignored().iter().filter(|(key, _)| wanted(key));
    let report = HadoopReport {
        conf_dir: conf.dir().map(|dir| dir.display().to_string()),
        ignored: ignored
            .map(|(key, origin)| Ignored {
                key: key.clone(),
                origin: origin.to_string(),
            })
            .collect(),
        properties,
    };
    context.out.result(&report)?;
    Ok(Exit::Ok.into())
}
