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
    /// Only this key, or the keys of this section
    key: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// All problems of the configuration; `NotFound` for a key that there is not.
pub fn run(args: ConfigArgs, context: &mut Context) -> Result<Status> {
    match args.command {
        ConfigCommand::Check(args) => check(&args, context),
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
