//! Ctrl-C of a command that must come to a safe end: the first one asks, the second one ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::CancellationToken;

use super::exit::Exit;
use crate::daemon::signals::Signals;
use crate::process::Signal;

/// What signals have asked of this command so far.
#[derive(Debug, Clone)]
pub(super) struct Interrupt {
    token: CancellationToken,
    code: Arc<AtomicU8>,
}

impl Interrupt {
    /// Catches SIGINT and SIGTERM from now on; `on_first` is told of the first one, `on_second` of the
    /// second one, right before the process ends.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn catch(
        on_first: impl Fn() + Send + 'static,
        on_second: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let mut signals = Signals::catch(&[Signal::INT, Signal::TERM])?;
        let interrupt = Self {
            token: CancellationToken::new(),
            code: Arc::new(AtomicU8::new(0)),
        };
        let caught = interrupt.clone();
        tokio::spawn(async move {
            let first = exit_of(signals.next().await);
            caught.code.store(first.code(), Ordering::Relaxed);
            caught.token.cancel();
            on_first();
            let second = exit_of(signals.next().await);
            on_second();
            // What is done by now is as it would be after kill -9: the next call goes on with it.
            std::process::exit(second.code().into());
        });
        Ok(interrupt)
    }

    /// Cancelled by the first signal.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// The exit of a command that a signal ended.
    pub(super) fn exit(&self) -> Exit {
        if self.code.load(Ordering::Relaxed) == Exit::Terminated.code() {
            Exit::Terminated
        } else {
            Exit::Interrupted
        }
    }
}

fn exit_of(signal: Signal) -> Exit {
    if signal == Signal::TERM {
        Exit::Terminated
    } else {
        Exit::Interrupted
    }
}
