//! Progress of long work on stderr: a bar on a terminal, events with `--json`, nothing in a pipe.

use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;

use super::echo::Unechoed;
use super::output::{Format, Output};
use crate::checkpoint::copy::Event;
use crate::checkpoint::plan::Tally;

/// What a file costs beside its bytes, in bytes: small files take their time by their number.
const FILE_COST: u64 = 64 << 10;

/// Columns of the bar itself.
const BAR_COLUMNS: usize = 16;

/// The bar that is on the terminal now, for who else writes there.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Lets `write` write to stderr on a line of its own, above a bar that is shown.
pub(super) fn above_bar<T>(write: impl FnOnce() -> T) -> T {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    match shown.as_ref() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// What of the words there is room for beside the bar, on one line.
fn fit(words: &str, columns: usize) -> &str {
    let room = columns.saturating_sub(BAR_COLUMNS + 1);
    words
        .char_indices()
        .nth(room)
        .map_or(words, |(end, _)| words.get(..end).unwrap_or_default())
}

/// Columns of the terminal, as it is now.
fn columns() -> usize {
    const USUAL: usize = 80;
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    match size {
        Ok(size) if size.ws_col > 0 => size.ws_col.into(),
        _ => USUAL,
    }
}

/// After so long without an advance the bar says since when: a storage that does not answer looks
/// like a slow one else.
const STANDSTILL: Duration = Duration::from_secs(5);

/// How often the advance is told as JSON.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Shows events in the way that suits who reads.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    json: bool,
    advance: Arc<Mutex<Advance>>,
    unechoed: Mutex<Option<Unechoed>>,
}

/// How far the pass is.
#[derive(Debug)]
struct Advance {
    files: u64,
    bytes: u64,
    all: Tally,
    begun: Instant,
    told: Instant,
    /// When something happened last.
    moved: Instant,
    /// What goes on.
    step: Step,
    /// A signal asked for the end: the bar says so, whatever else goes on.
    ending: bool,
}

/// What goes on, as far as the bar tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Planning,
    Copying,
    Checking,
    Replanning,
    Published,
    /// Between two passes.
    Waiting,
}

impl Advance {
    fn new() -> Self {
        Self {
            files: 0,
            bytes: 0,
            all: Tally::default(),
            begun: Instant::now(),
            told: Instant::now(),
            moved: Instant::now(),
            step: Step::Planning,
            ending: false,
        }
    }

    fn cost(files: u64, bytes: u64) -> u64 {
        bytes.saturating_add(files.saturating_mul(FILE_COST))
    }

    /// `3/20 files, 12s left, 1.00 MiB/7.00 MiB, 0.50 MiB/s`: what matters least is cut off first.
    fn words(&self, left: Duration) -> String {
        if self.ending {
            return "ending; a second Ctrl-C ends at once".to_owned();
        }
        let still = self.moved.elapsed();
        let since = |words: &str| {
            if still < STANDSTILL {
                return words.to_owned();
            }
            format!("{words}, no advance for {:#}", HumanDuration(still))
        };
        match self.step {
            Step::Planning => since("planning"),
            Step::Copying if still >= STANDSTILL => {
                since(&format!("{}/{} files", self.files, self.all.files))
            }
            Step::Copying => {
                let seconds = self.begun.elapsed().as_secs().max(1);
                format!(
                    "{}/{} files, {:#} left, {}/{}, {}/s",
                    self.files,
                    self.all.files,
                    HumanDuration(left),
                    HumanBytes(self.bytes),
                    HumanBytes(self.all.bytes),
                    HumanBytes(self.bytes / seconds)
                )
            }
            Step::Checking => since("checking"),
            Step::Replanning => since("the source changed: planning anew"),
            Step::Published => "published".to_owned(),
            Step::Waiting => "waiting for the next pass".to_owned(),
        }
    }

    /// Notes one event.
    fn note(&mut self, event: &Event) {
        self.moved = Instant::now();
        match event {
            Event::Planned { to_copy, .. } => {
                *self = Advance {
                    all: *to_copy,
                    step: Step::Copying,
                    ending: self.ending,
                    ..Advance::new()
                };
            }
            Event::Copied { bytes } => {
                self.files += 1;
                self.bytes += bytes;
            }
            Event::Streamed { bytes } => self.bytes += bytes,
            Event::Checking => self.step = Step::Checking,
            Event::Replanned { .. } => self.step = Step::Replanning,
            Event::Published => self.step = Step::Published,
        }
    }
}

fn lock(advance: &Mutex<Advance>) -> MutexGuard<'_, Advance> {
    advance.lock().unwrap_or_else(PoisonError::into_inner)
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
        let advance = Arc::new(Mutex::new(Advance::new()));
        let bar = shown.then(|| {
            let bar = ProgressBar::new(0);
            let template = format!("{{bar:{BAR_COLUMNS}}} {{words}}");
            // Asked for at every tick, so that a standstill is seen. Whoever holds the advance must not
            // draw.
            let told = Arc::clone(&advance);
            let words = move |state: &ProgressState, to: &mut dyn std::fmt::Write| {
                let words = lock(&told).words(state.eta());
                // A terminal that cannot be written to shows no bar.
                let _not_shown = to.write_str(fit(&words, columns()));
            };
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style.with_key("words", words));
            }
            bar.enable_steady_tick(Duration::from_millis(200));
            *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
            bar
        });
        Self {
            bar,
            json,
            advance,
            unechoed: Mutex::new(shown.then(Unechoed::begin).flatten()),
        }
    }

    /// Shows one event.
    pub(super) fn tell(&self, event: &Event) {
        let (files, bytes) = {
            let mut advance = lock(&self.advance);
            advance.note(event);
            (advance.files, advance.bytes)
        };
        if self.json {
            match event {
                Event::Copied { .. } | Event::Streamed { .. } => {
                    let mut advance = lock(&self.advance);
                    if advance.told.elapsed() >= TELL_EVERY {
                        advance.told = Instant::now();
                        tell_json(&Told::Copying { files, bytes });
                    }
                }
                Event::Planned { .. }
                | Event::Checking
                | Event::Replanned { .. }
                | Event::Published => tell_json(event),
            }
        }
        let Some(bar) = &self.bar else { return };
        match event {
            Event::Planned { to_copy, .. } => {
                bar.reset();
                bar.set_length(Advance::cost(to_copy.files, to_copy.bytes));
            }
            Event::Copied { .. } | Event::Streamed { .. } => {
                bar.set_position(Advance::cost(files, bytes));
            }
            Event::Checking | Event::Replanned { .. } | Event::Published => bar.tick(),
        }
    }

    /// Shows that the work ends early, because it was told to.
    pub(super) fn ending(&self) {
        lock(&self.advance).ending = true;
        if let Some(bar) = &self.bar {
            bar.tick();
        }
    }

    /// Shows what comes between two passes.
    pub(super) fn pause(&self, copied_files: u64, copied_bytes: u64, interval: Duration) {
        if let Some(bar) = &self.bar {
            bar.println(format!(
                "copied {copied_files} files, {}; the next pass is in {interval:?}",
                HumanBytes(copied_bytes)
            ));
            lock(&self.advance).step = Step::Waiting;
            bar.tick();
        } else {
            tracing::info!(copied_files, copied_bytes, "a pass is made");
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = None;
            bar.finish_and_clear();
        }
        let unechoed = self.unechoed.lock();
        drop(unechoed.unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// A reader of stderr that went away misses nothing that the result does not say.
fn tell_json(event: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(event) {
        let _gone = writeln!(std::io::stderr(), "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_is_told_whatever_goes_on() {
        let left = Duration::from_secs(3);
        let mut advance = Advance::new();
        advance.note(&Event::Planned {
            total: Tally {
                files: 5,
                bytes: 50,
            },
            to_copy: Tally {
                files: 4,
                bytes: 40,
            },
            kept: Tally {
                files: 1,
                bytes: 10,
            },
        });
        advance.note(&Event::Copied { bytes: 10 });
        assert_eq!(advance.words(left), "1/4 files, 3s left, 10 B/40 B, 10 B/s");
        advance.moved -= Duration::from_secs(12);
        assert_eq!(advance.words(left), "1/4 files, no advance for 12s");
        advance.note(&Event::Checking);
        assert_eq!(advance.words(left), "checking");
        advance.moved -= Duration::from_secs(65);
        assert_eq!(advance.words(left), "checking, no advance for 65s");
        advance.ending = true;
        assert!(advance.words(left).starts_with("ending"));
    }

    #[test]
    fn words_are_cut_to_one_line() {
        let words = "2000/20032 files, 5s left, 1.32 MiB/13.36 MiB, 1.32 MiB/s";
        for (columns, shown) in [(200, 57), (80, 57), (60, 43), (17, 0), (0, 0)] {
            assert_eq!(fit(words, columns), &words[..shown], "{columns}");
        }
        assert_eq!(fit("größer", BAR_COLUMNS + 4), "grö");
    }
}
