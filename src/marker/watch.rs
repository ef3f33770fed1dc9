//! Hints from the local file system that something changed: look now instead of later.
//!
//! An event decides nothing and a missed one loses nothing: the poll decides, and polls anyway.

use std::path::Path;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Sends a hint for each change in one directory for as long as it lives.
#[derive(Debug)]
pub struct HintWatcher {
    _watcher: RecommendedWatcher,
}

/// Why no hints come from a directory; polling alone goes on.
#[derive(Debug, thiserror::Error)]
#[error("no file system events for {dir}; polling alone is used")]
pub struct NoHints {
    dir: String,
    #[source]
    source: notify::Error,
}

impl HintWatcher {
    /// Watches `dir` and sends to `hints`; a full channel means that a hint is waiting already.
    ///
    /// # Errors
    /// Where the kernel has no watch to give, or the directory is missing.
    pub fn start(dir: &Path, hints: mpsc::Sender<()>) -> Result<Self, NoHints> {
        let no_hints = |source| NoHints {
            dir: dir.display().to_string(),
            source,
        };
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // Reads must not hint: the poll itself reads.
                let hint = event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_)));
                if hint {
                    let _already_waiting = hints.try_send(());
                }
            })
            .map_err(no_hints)?;
        watcher
            .watch(dir, RecursiveMode::NonRecursive)
            .map_err(no_hints)?;
        Ok(Self { _watcher: watcher })
    }
}
