//! The command line: what can be asked, how it is answered, and with which exit code.
//!
//! One file per command in [`cmd`]; [`output`] is the only way to stdout, [`failure`] the only one
//! for errors, [`exit`] has the exit codes.

pub mod cmd;
mod context;
mod echo;
pub mod exit;
pub mod failure;
mod interrupt;
mod log;
pub mod output;
mod progress;
pub mod reference;
pub mod target;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::LogFormat;
pub use context::Context;
use exit::Exit;
use failure::{Failure, Telling};
use output::{ColorChoice, Format};

/// Watches marker files of Spark streaming jobs: when one disappears, its job finishes what it is
/// doing and stops, and its checkpoint proves that the stop was clean.
#[derive(Debug, Parser)]
#[command(
    name = "stepdown",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  stepdown init hdfs:///stepdown               make the control directory
  stepdown watch                               watch the markers of all configured jobs
  stepdown run --marker /run/clicks -- python clicks.py
  stepdown marker rm /run/clicks               ask the job to stop
  stepdown checkpoint copy hdfs:///ck/clicks hdfs:///ck/clicks-v2
  stepdown rollout start clicks                hand the job over to its new version
  stepdown doctor                              can it work here?

Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 findings, 4 lease held by another,
5 storage not reachable, 6 deadline passed, 7 not found, 130 interrupted,
143 terminated."
)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Configuration file [default: $STEPDOWN_CONFIG, then ~/.config/stepdown/stepdown.toml, then
    /// /etc/stepdown/stepdown.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Write JSON: one document, or one object a line for streams
    #[arg(long, global = true)]
    pub json: bool,

    /// Log more; twice, more still
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Log errors only, and confirm nothing
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Form of the log on stderr [default: log.format of the configuration]
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_parser = words(LogFormat::ALL, LogFormat::as_str)
    )]
    pub log_format: Option<LogFormat>,

    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    pub color: ColorChoice,
}

/// A parser of the words that a key of the configuration takes.
pub(crate) fn words<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    as_str: impl Fn(T) -> &'static str + Copy + Send + Sync + 'static,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(all.iter().map(|one| as_str(*one))).try_map(move |word| {
        let found = all.iter().find(|one| as_str(**one) == word);
        found.copied().ok_or("not one of the words")
    })
}

impl Global {
    /// The form of the results.
    pub fn format(&self) -> Format {
        if self.json {
            Format::Json
        } else {
            Format::Text
        }
    }
}

// Without comments on the variants: clap would take them for the descriptions, which stand with the
// arguments of each command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Watch(cmd::watch::WatchArgs),
    Run(Box<cmd::run::RunArgs>),
    Wait(cmd::wait::WaitArgs),
    Stop(cmd::stop::StopArgs),
    Status(cmd::status::StatusArgs),
    Init(cmd::init::InitArgs),
    Marker(cmd::marker::MarkerArgs),
    Checkpoint(Box<cmd::checkpoint::CheckpointArgs>),
    Rollout(cmd::rollout::RolloutArgs),
    Doctor(cmd::doctor::DoctorArgs),
    Config(cmd::config::ConfigArgs),
    Completions(cmd::completions::CompletionsArgs),
    Man(cmd::man::ManArgs),
}

/// What sort of process a command is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It does one thing and ends.
    OneShot,
    /// It runs for long, and so logs what it does.
    Service,
    /// As a service; stdout and the exit codes up to 63 belong to the command that it runs.
    Run,
}

impl Command {
    fn kind(&self) -> Kind {
        match self {
            Command::Watch(_) => Kind::Service,
            Command::Run(_) => Kind::Run,
            Command::Wait(_)
            | Command::Stop(_)
            | Command::Status(_)
            | Command::Init(_)
            | Command::Marker(_)
            | Command::Checkpoint(_)
            | Command::Rollout(_)
            | Command::Doctor(_)
            | Command::Config(_)
            | Command::Completions(_)
            | Command::Man(_) => Kind::OneShot,
        }
    }
}

/// The command line in `args`; the first is the program's own name.
///
/// # Errors
/// The exit code, after help was shown or the mistake was told.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    let args: Vec<OsString> = args.into_iter().collect();
    Cli::try_parse_from(&args).map_err(|error| refuse(&args, &error))
}

fn refuse(args: &[OsString], error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // A reader that went away has read enough.
        let _gone = error.print();
        return Exit::Ok.code().into();
    }
    let own = || args.iter().take_while(|arg| *arg != "--");
    let under_run = is_for_run(args);
    if own().any(|arg| arg == "--json") {
        // The message without the usage that follows it.
        let text = error.render().to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let message = text.split("\n\n").next().unwrap_or_default();
        Failure::new(Exit::Usage, message).tell(Telling {
            format: Format::Json,
            log: LogFormat::Text,
            under_run,
            colors: false,
        });
    } else {
        let _gone = error.print();
    }
    exit::Status::Own(Exit::Usage).code(under_run)
}

/// Tells that the process could not begin at all.
pub fn no_runtime(cli: &Cli, error: io::Error) -> ExitCode {
    let error = anyhow::Error::from(error).context("cannot start the threads of the program");
    let under_run = cli.command.kind() == Kind::Run;
    let failure = Failure::from(error);
    failure.tell(Telling {
        format: cli.global.format(),
        log: LogFormat::Text,
        under_run,
        colors: false,
    });
    exit::Status::Own(failure.exit).code(under_run)
}

/// Whether the mistaken command line was meant for `run`, whose exit codes are its own.
fn is_for_run(args: &[OsString]) -> bool {
    Cli::command()
        .ignore_errors(true)
        .try_get_matches_from(args)
        .is_ok_and(|matches| matches.subcommand_name() == Some("run"))
}

/// Runs the command and says how it ended.
pub async fn run(cli: Cli) -> ExitCode {
    let Cli { global, command } = cli;
    let kind = command.kind();
    let under_run = kind == Kind::Run;
    let mut context = Context::new(global, kind);
    let outcome = match command {
        Command::Watch(args) => cmd::watch::run(args, &mut context).await,
        Command::Run(args) => cmd::run::run(*args, &mut context).await,
        Command::Wait(args) => cmd::wait::run(args, &mut context).await,
        Command::Stop(args) => cmd::stop::run(args, &mut context).await,
        Command::Status(args) => cmd::status::run(args, &mut context).await,
        Command::Init(args) => cmd::init::run(args, &mut context).await,
        Command::Marker(args) => cmd::marker::run(args, &mut context).await,
        Command::Checkpoint(args) => cmd::checkpoint::run(*args, &mut context).await,
        Command::Rollout(args) => cmd::rollout::run(args, &mut context).await,
        Command::Doctor(args) => cmd::doctor::run(args, &mut context).await,
        Command::Config(args) => cmd::config::run(args, &mut context),
        Command::Completions(args) => cmd::completions::run(&args, &mut context),
        Command::Man(args) => cmd::man::run(&args, &mut context),
    };
    match outcome {
        Ok(status) => status.code(under_run),
        Err(failure) => {
            failure.tell(Telling {
                format: context.global.format(),
                log: context.log_format(),
                under_run,
                colors: context.global.color.allows(io::stderr().is_terminal()),
            });
            exit::Status::Own(failure.exit).code(under_run)
        }
    }
}

/// The whole command line as clap knows it, laid out for 100 columns: what the documentation, the
/// completions and the man pages are made from.
pub fn command() -> clap::Command {
    let mut command = Cli::command().term_width(100);
    command.build();
    command
}
