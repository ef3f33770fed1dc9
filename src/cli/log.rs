//! The log on stderr, as text or JSON lines. Spans carry `job`, `slot`, `marker` and `attempt`.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use super::exit::Exit;
use super::failure::{Failure, Result};
use super::progress::above_bar;
use super::{Global, Kind};
use crate::config::{Environment, Level, Log, LogFormat};

/// The level that counts: services log what they do, one-shot commands what needs attention, so that
/// cron sends no mail about a good run; each `-v` adds one level, `-q` leaves errors.
fn level(global: &Global, log: Log, kind: Kind) -> Level {
    if global.quiet {
        return Level::Error;
    }
    let base = match kind {
        Kind::OneShot => Level::Warn,
        Kind::Service | Kind::Run => log.level,
    };
    let position = Level::ALL.iter().position(|level| *level == base);
    let wanted = position.unwrap_or_default() + usize::from(global.verbose);
    Level::ALL.get(wanted).copied().unwrap_or(Level::Trace)
}

/// Begins to log. `STEPDOWN_LOG` (`debug`, or `warn,stepdown::storage=trace`) wins over all options.
///
/// # Errors
/// Where `STEPDOWN_LOG` cannot be read.
pub(super) fn begin(
    global: &Global,
    log: Log,
    format: LogFormat,
    kind: Kind,
    environment: &Environment,
) -> Result<()> {
    let directives = environment.get("STEPDOWN_LOG").unwrap_or_else(|| {
        // The HDFS client repeats as warnings what stepdown reports as errors.
        let level = level(global, log, kind);
        let others = if level == Level::Trace {
            "info"
        } else {
            "error"
        };
        format!("{others},stepdown={level}")
    });
    let filter = EnvFilter::try_new(&directives).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("the variable STEPDOWN_LOG is not a log filter: {error}"),
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| AboveBar)
        .with_ansi(global.color.allows(io::stderr().is_terminal()));
    // A second call (a command that loads its configuration again) leaves the first in force.
    let _set = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Stderr, as long as a bar is shown above it.
struct AboveBar;

impl io::Write for AboveBar {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        above_bar(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::ColorChoice;

    #[test]
    fn one_shot_commands_are_quiet_and_services_follow_the_configuration() {
        let global = |verbose, quiet| Global {
            config: None,
            json: false,
            verbose,
            quiet,
            log_format: None,
            color: ColorChoice::Auto,
        };
        let info = Log::default();
        assert_eq!(level(&global(0, false), info, Kind::OneShot), Level::Warn);
        assert_eq!(level(&global(1, false), info, Kind::OneShot), Level::Info);
        assert_eq!(level(&global(0, false), info, Kind::Service), Level::Info);
        assert_eq!(level(&global(2, false), info, Kind::Service), Level::Trace);
        assert_eq!(level(&global(9, false), info, Kind::Service), Level::Trace);
        assert_eq!(level(&global(0, true), info, Kind::Service), Level::Error);
    }
}
