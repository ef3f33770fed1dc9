//! Progress of long work: a bar on a terminal, events with `--json`, nothing in a pipe.

use std::io::Write as _;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::{Format, Output};
use crate::checkpoint::copy::Event;

/// Shows events in the way that suits who reads.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    json: bool,
    files: Mutex<(u64, u64)>,
}

impl Progress {
    /// Progress beside the results of `out`; bars and events go to stderr.
    pub(super) fn begin(out: &Output) -> Self {
        let json = out.format() == Format::Json;
        let bar = (!json && out.is_terminal()).then(|| {
            let bar = ProgressBar::new(0);
            let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar
        });
        Self {
            bar,
            json,
            files: Mutex::new((0, 0)),
        }
    }

    /// Shows one event.
    pub(super) fn tell(&self, event: &Event) {
        if self.json {
            // A reader of stderr that went away misses nothing that the result does not say.
            if let (Ok(line), false) = (
                serde_json::to_string(event),
                matches!(event, Event::Streamed { .. } | Event::Copied { .. }),
            ) {
                let _gone = writeln!(std::io::stderr(), "{line}");
            }
        }
        let Some(bar) = &self.bar else { return };
        let mut files = self
            .files
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Planned { to_copy, .. } => {
                *files = (0, to_copy.files);
                bar.set_length(to_copy.bytes);
                bar.set_position(0);
            }
            Event::Copied { bytes } => {
                files.0 += 1;
                bar.inc(*bytes);
            }
            Event::Streamed { bytes } => bar.inc(*bytes),
            Event::Checking => {
                bar.set_message("checking");
                return;
            }
            Event::Replanned { .. } => {
                bar.set_message("the source changed: planning anew");
                return;
            }
            Event::Published => {
                bar.set_message("published");
                return;
            }
        }
        bar.set_message(format!("{}/{} files", files.0, files.1));
    }

    /// Shows a line of text between two bars.
    pub(super) fn line(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.println(text);
        } else {
            tracing::info!("{text}");
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
