//! Signals that this process gets, as a stream.

use std::io;

use futures::stream::{SelectAll, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};

use crate::process::Signal;

/// The signals that were asked for, one after the other.
pub struct Signals {
    streams: SelectAll<futures::stream::BoxStream<'static, Signal>>,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals").finish_non_exhaustive()
    }
}

impl Signals {
    /// Catches `wanted` from now on, for the life of the process.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn catch(wanted: &[Signal]) -> io::Result<Self> {
        let mut streams = SelectAll::new();
        for &wanted in wanted {
            let stream = signal(SignalKind::from_raw(wanted.number()))?;
            let stream = futures::stream::unfold(stream, move |mut stream| async move {
                stream.recv().await.map(|()| (wanted, stream))
            });
            streams.push(stream.boxed());
        }
        Ok(Self { streams })
    }

    /// Waits for the next one. Cancel-safe. Never ends by itself.
    pub async fn next(&mut self) -> Signal {
        match self.streams.next().await {
            Some(signal) => signal,
            None => futures::future::pending().await,
        }
    }
}
