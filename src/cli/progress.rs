//! Progress of long work on stderr: a bar on a terminal, events with `--json`, nothing in a pipe.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::output::{Format, Output};
use crate::checkpoint::copy::Event;

/// How often the advance is told as JSON.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Shows events in the way that suits who reads.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    json: bool,
    advance: Mutex<Advance>,
}

/// How far the pass is.
#[derive(Debug)]
struct Advance {
    files: u64,
    bytes: u64,
    all_files: u64,
    told: Instant,
}

/// The advance of a pass as a JSON event.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Told {
    Copying { files: u64, bytes: u64 },
}

impl Progress {
    /// Progress beside the results of `out`; with `quiet` nothing is shown.
    pub(super) fn begin(out: &Output, quiet: bool) -> Self {
        let json = out.format() == Format::Json && !quiet;
        let shown = out.format() == Format::Text && out.is_terminal() && !quiet;
        let bar = shown.then(|| {
            let bar = ProgressBar::new(0);
            let style = "{bar:30} {msg}, {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.set_message("planning");
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self {
            bar,
            json,
            advance: Mutex::new(Advance {
                files: 0,
                bytes: 0,
                all_files: 0,
                told: Instant::now(),
            }),
        }
    }

    /// Shows one event.
    pub(super) fn tell(&self, event: &Event) {
        let mut advance = self.advance.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Planned { to_copy, .. } => {
                advance.files = 0;
                advance.bytes = 0;
                advance.all_files = to_copy.files;
            }
            Event::Copied { bytes } => {
                advance.files += 1;
                advance.bytes += bytes;
            }
            Event::Streamed { bytes } => advance.bytes += bytes,
            Event::Checking | Event::Replanned { .. } | Event::Published => {}
        }
        if self.json {
            match event {
                Event::Copied { .. } | Event::Streamed { .. } => {
                    if advance.told.elapsed() >= TELL_EVERY {
                        advance.told = Instant::now();
                        tell_json(&Told::Copying {
                            files: advance.files,
                            bytes: advance.bytes,
                        });
                    }
                }
                Event::Planned { .. }
                | Event::Checking
                | Event::Replanned { .. }
                | Event::Published => tell_json(event),
            }
        }
        if let Some(bar) = &self.bar {
            draw(bar, event, &advance);
        }
    }

    /// Shows that the work ends early, because it was told to.
    pub(super) fn ending(&self) {
        if let Some(bar) = &self.bar {
            bar.println("ending; a second Ctrl-C ends at once");
        }
    }

    /// Shows what comes between two passes.
    pub(super) fn pause(&self, copied_files: u64, copied_bytes: u64, interval: Duration) {
        if let Some(bar) = &self.bar {
            bar.println(format!(
                "copied {copied_files} files, {}; the next pass is in {interval:?}",
                HumanBytes(copied_bytes)
            ));
            bar.set_message("waiting for the next pass");
        } else {
            tracing::info!(copied_files, copied_bytes, "a pass is made");
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, event: &Event, advance: &Advance) {
    let words = match event {
        Event::Planned { to_copy, .. } => {
            bar.set_length(to_copy.bytes);
            bar.reset();
            format!("0 of {} files", advance.all_files)
        }
        Event::Copied { .. } | Event::Streamed { .. } => {
            bar.set_position(advance.bytes);
            format!("{} of {} files", advance.files, advance.all_files)
        }
        Event::Checking => "checking".to_owned(),
        Event::Replanned { .. } => "the source changed: planning anew".to_owned(),
        Event::Published => "published".to_owned(),
    };
    bar.set_message(words);
}

/// A reader of stderr that went away misses nothing that the result does not say.
fn tell_json(event: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(event) {
        let _gone = writeln!(std::io::stderr(), "{line}");
    }
}
