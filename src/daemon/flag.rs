//! A flag between an engine and those around it.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

/// Down until it is raised, then up for good. It takes no room of its own until somebody asks for its
/// token or raises it: in thousands of idle engines nobody does.
#[derive(Debug, Default)]
pub(super) struct Flag(OnceLock<CancellationToken>);

impl Flag {
    /// The token that is cancelled when the flag is raised, and raises it when it is cancelled.
    pub(super) fn token(&self) -> CancellationToken {
        self.0.get_or_init(CancellationToken::new).clone()
    }

    /// Raises the flag.
    pub(super) fn raise(&self) {
        self.0.get_or_init(CancellationToken::new).cancel();
    }

    /// Whether it is up.
    pub(super) fn is_raised(&self) -> bool {
        self.0.get().is_some_and(CancellationToken::is_cancelled)
    }

    /// Waits until it is up. Without a token, which must have been asked for before, nobody can raise
    /// it meanwhile, and this waits for ever.
    pub(super) async fn raised(&self) {
        match self.0.get() {
            Some(token) => token.cancelled().await,
            None => std::future::pending().await,
        }
    }
}
