//! `sync`.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::copying::{Course, copyist, request, show_plan, tell_copy};
use super::text::{add_findings, tally};
use super::{SyncArgs, place};
use crate::app::App;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::copy::{CopyError, CopyReport, Event, Passed, Place, SyncedCopy};
use crate::checkpoint::finding::Finding;
use crate::checkpoint::plan::Tally;
use crate::checkpoint::progress::{Progress as Batches, load_progress};
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Look, Report, printable};
use crate::control::{DocumentError, LeaseError};
use crate::model::BatchId;
use crate::storage::StorageUri;

/// Pause between two passes with `--until-stopped` alone.
const INTERVAL: Duration = Duration::from_secs(10);

/// How often the work directory is kept while nothing is copied.
const BEAT: Duration = Duration::from_secs(1);

/// The result of `sync` that has not finished.
#[derive(Debug, Serialize)]
struct Synced {
    source: StorageUri,
    destination: StorageUri,
    passes: u64,
    /// What all passes had to copy.
    copied: Tally,
    /// What the last one overruled: this would be lost, were the copy published as it is.
    problems: Vec<Finding>,
}

impl Report for Synced {
    fn text(&self, look: Look) -> String {
        let passes = if self.passes == 1 { "pass" } else { "passes" };
        let mut text = format!(
            "{} {passes} copied {}; --finish makes the last pass and lets {} appear",
            self.passes,
            tally(self.copied),
            printable(&self.destination.to_string())
        );
        if !self.problems.is_empty() {
            text.push_str("\nforced; as the source is now, this would be lost:");
            add_findings(&mut text, &self.problems, look);
        }
        text
    }
}

/// How the passes ended.
enum Ended {
    Published(Box<CopyReport>),
    /// All passes that were asked for are made.
    UpToDate(Synced),
}

pub(super) async fn sync(args: &SyncArgs, app: &App, context: &mut Context) -> Result<Status> {
    let request = request(app, &args.places, &args.options, args.at)?;
    if args.options.dry_run {
        return show_plan(&request, context).await;
    }
    let source = place(app, &args.places.source)?;
    let course = Course::begin(context)?;
    let summary = Synced {
        source: request.source.uri(),
        destination: request.destination.uri(),
        passes: 0,
        copied: Tally::default(),
        problems: Vec::new(),
    };
    let copyist = copyist(app)?;
    // Another host's work directory may have to be waited for.
    let copy = tokio::select! {
        biased;
        () = course.interrupt.token().cancelled() => {
            return Err(Failure::new(course.interrupt.exit(), "interrupted"));
        }
        copy = SyncedCopy::open(request, &copyist) => copy?,
    };
    let mut passes = Passes {
        args,
        source,
        course: &course,
        quiet: Quiet::default(),
        copy,
    };
    let ended = passes.run(summary).await;
    course.progress.end();
    let published = matches!(ended, Ok(Ended::Published(_)));
    passes.copy.close(published).await;
    match ended.map_err(|error| course.failure(error))? {
        Ended::Published(report) => tell_copy(&report, context)?,
        Ended::UpToDate(synced) if synced.problems.is_empty() => {
            context.out.confirmation(&synced)?;
        }
        Ended::UpToDate(synced) => context.out.result(&synced)?,
    }
    Ok(Exit::Ok.into())
}

/// What one round came to.
enum Round {
    Pass(Tally),
    Published(Box<CopyReport>),
    /// It was the last one that was asked for.
    Ended,
}

/// Whether a later pass may go better.
fn may_pass(error: &CopyError) -> bool {
    match error {
        CopyError::Storage(error)
        | CopyError::CutShort { source: error, .. }
        | CopyError::Checkpoint(CheckpointError::Storage(error))
        | CopyError::Document(DocumentError::Storage(error))
        | CopyError::Lease(LeaseError::Storage(error)) => error.kind.is_unreachable(),
        CopyError::Unstable { .. } => true,
        CopyError::Checkpoint(_)
        | CopyError::Document(_)
        | CopyError::Lease(_)
        | CopyError::Refused { .. }
        | CopyError::Damaged { .. }
        | CopyError::Exists { .. }
        | CopyError::Unfinished { .. }
        | CopyError::Nested { .. }
        | CopyError::InProgress { .. }
        | CopyError::NotSound { .. }
        | CopyError::SourceGone { .. }
        | CopyError::Interrupted { .. } => false,
    }
}

struct Passes<'a> {
    args: &'a SyncArgs,
    source: Place,
    course: &'a Course,
    quiet: Quiet,
    copy: SyncedCopy,
}

impl Passes<'_> {
    async fn run(&mut self, mut summary: Synced) -> std::result::Result<Ended, CopyError> {
        let course = self.course;
        let events = |event: Event| course.progress.tell(&event);
        let shutdown = course.interrupt.token();
        let repeats = self.args.interval.is_some() || self.args.until_stopped.is_some();
        if self.args.finish && !repeats {
            let report = self.copy.finish(&events, shutdown).await?;
            return Ok(Ended::Published(Box::new(report)));
        }
        let interval = self.args.interval.unwrap_or(INTERVAL);
        loop {
            let failed = match self.round(&mut summary, repeats).await {
                Ok(Round::Ended) => return Ok(Ended::UpToDate(summary)),
                Ok(Round::Published(report)) => return Ok(Ended::Published(report)),
                Ok(Round::Pass(copied)) => {
                    course.progress.pause(copied.files, copied.bytes, interval);
                    None
                }
                // The next round may find the storage back.
                Err(error) if repeats && may_pass(&error) => {
                    tracing::warn!("this pass failed, the next one is in {interval:?}: {error}");
                    Some(error)
                }
                Err(error) => return Err(error),
            };
            if !self.pause(interval).await? {
                return match failed {
                    Some(error) => Err(error),
                    None => self.interrupted(summary),
                };
            }
        }
    }

    /// Looks whether the query has stopped, and makes one pass.
    async fn round(
        &mut self,
        summary: &mut Synced,
        repeats: bool,
    ) -> std::result::Result<Round, CopyError> {
        let course = self.course;
        let events = |event: Event| course.progress.tell(&event);
        let shutdown = course.interrupt.token();
        // Looked at before the pass, so that what the last batch wrote is in it.
        let stopped = match self.args.until_stopped {
            Some(quiet_for) => {
                let now = load_progress(self.source.storage.as_ref(), &self.source.path).await?;
                self.quiet.is_over(&now, quiet_for)
            }
            None => false,
        };
        if stopped && self.args.finish {
            let report = self.copy.finish(&events, shutdown).await?;
            return Ok(Round::Published(Box::new(report)));
        }
        let Passed { copied, problems } = self.copy.pass(&events, shutdown).await?;
        if repeats && problems != summary.problems {
            for problem in &problems {
                tracing::warn!("forced; as the source is now, this would be lost: {problem}");
            }
        }
        summary.problems = problems;
        summary.passes += 1;
        summary.copied.files += copied.files;
        summary.copied.bytes += copied.bytes;
        if stopped || !repeats {
            return Ok(Round::Ended);
        }
        Ok(Round::Pass(copied))
    }

    /// Waits for the next pass; false if a signal came.
    async fn pause(&mut self, interval: Duration) -> std::result::Result<bool, CopyError> {
        let until = Instant::now() + interval;
        while Instant::now() < until {
            tokio::select! {
                () = self.course.interrupt.token().cancelled() => return Ok(false),
                () = tokio::time::sleep_until(until.min(Instant::now() + BEAT)) => {}
            }
            match self.copy.keep().await {
                Err(error) if !may_pass(&error) => return Err(error),
                // Whether the directory is still this process's is looked at before it is published.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(true)
    }

    /// Ctrl-C is the way to end plain repeated passes; it cuts short whatever else was asked for.
    fn interrupted(&self, summary: Synced) -> std::result::Result<Ended, CopyError> {
        if self.args.finish || self.args.until_stopped.is_some() {
            return Err(CopyError::Interrupted {
                work: self.copy.uri(),
            });
        }
        Ok(Ended::UpToDate(summary))
    }
}

/// Since when no batch was planned and none is in flight.
#[derive(Debug, Default)]
struct Quiet {
    since: Option<(Instant, Option<BatchId>)>,
}

impl Quiet {
    fn is_over(&mut self, now: &Batches, quiet_for: Duration) -> bool {
        if now.last_planned != now.last_committed {
            self.since = None;
            return false;
        }
        match self.since {
            Some((since, batch)) if batch == now.last_planned => since.elapsed() >= quiet_for,
            _ => {
                self.since = Some((Instant::now(), now.last_planned));
                false
            }
        }
    }
}
