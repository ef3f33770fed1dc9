//! What every command has at hand: the global options, the environment, the output.

use super::failure::Result;
use super::log;
use super::output::Output;
use super::{Global, Kind};
use crate::app::App;
use crate::config::{Environment, Loaded, LogFormat, load, load_values};

/// What every command has at hand.
#[derive(Debug)]
pub struct Context {
    /// The global options.
    pub global: Global,
    /// The environment, as it was at the start.
    pub environment: Environment,
    /// Where results go.
    pub out: Output,
    kind: Kind,
    log_format: Option<LogFormat>,
}

impl Context {
    pub(super) fn new(global: Global, kind: Kind) -> Self {
        let out = if kind == Kind::Run {
            Output::stderr(&global)
        } else {
            Output::stdout(&global)
        };
        Self {
            log_format: global.log_format,
            global,
            environment: Environment::of_process(),
            out,
            kind,
        }
    }

    /// The form of the log, as far as it is known.
    pub(super) fn log_format(&self) -> LogFormat {
        self.log_format.unwrap_or(LogFormat::Text)
    }

    /// Reads the configuration and begins to log as it says.
    ///
    /// # Errors
    /// All problems of the configuration.
    pub fn load(&mut self) -> Result<Loaded> {
        let loaded = load(self.global.config.as_deref(), &self.environment)?;
        self.begin_log(&loaded)?;
        Ok(loaded)
    }

    fn begin_log(&mut self, loaded: &Loaded) -> Result<()> {
        let format = *self.log_format.get_or_insert(loaded.config.log.format);
        log::begin(
            &self.global,
            loaded.config.log,
            format,
            self.kind,
            &self.environment,
        )?;
        if let Some(file) = loaded.lookup.file() {
            tracing::debug!(file = %file.display(), "configuration read");
        }
        Ok(())
    }

    /// Reads the configuration, begins to log, and wires what it says.
    ///
    /// # Errors
    /// All problems of the configuration.
    pub fn open(&mut self) -> Result<App> {
        let loaded = load_values(self.global.config.as_deref(), &self.environment)?;
        self.begin_log(&loaded)?;
        Ok(App::new(loaded))
    }
}
