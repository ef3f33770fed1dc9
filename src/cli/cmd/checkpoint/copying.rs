//! `copy` and `rewind`.

use std::sync::Arc;

use super::copying_text::{PlanReport, PlannedPath};
use super::{CopyOptions, Places, place};
use crate::app::App;
use crate::checkpoint::QueryId;
use crate::checkpoint::copy::{
    Check, CopyError, CopyReport, CopyRequest, Copyist, Damage, Event, Existing, check_parent,
    check_places, copy, plan_now,
};
use crate::checkpoint::plan::Scope;
use crate::checkpoint::target::At;
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::interrupt::Interrupt;
use crate::cli::progress::Progress;

pub(super) fn copyist(app: &App) -> Result<Copyist> {
    Ok(app.daemon()?.copyist(app.config().watch.lease_ttl))
}

pub(super) fn request(
    app: &App,
    places: &Places,
    options: &CopyOptions,
    at: At,
) -> Result<CopyRequest> {
    let (source, destination) = (
        place(app, &places.source)?,
        place(app, &places.destination)?,
    );
    let mut request = CopyRequest::new(source, destination, at);
    request.new_query_id = options.new_query_id.then(QueryId::random);
    if options.full {
        request.scope = Scope::Full;
    }
    if options.replace {
        request.existing = Existing::MoveAside;
    }
    if options.force {
        request.damage = Damage::Accept;
    }
    if options.verify {
        request.check = Check::ReadBack;
    }
    Ok(request)
}

/// What long work needs: who looks on, and who can end it.
pub(super) struct Course {
    pub(super) progress: Arc<Progress>,
    pub(super) interrupt: Interrupt,
}

impl Course {
    pub(super) fn begin(context: &Context) -> Result<Self> {
        let progress = Arc::new(Progress::begin(&context.out, context.global.quiet));
        let (shown, left) = (Arc::clone(&progress), Arc::clone(&progress));
        let interrupt = Interrupt::catch(move || shown.ending(), move || left.end())?;
        Ok(Self {
            progress,
            interrupt,
        })
    }

    /// The failure of `error`: one that a signal brought about has its exit code.
    pub(super) fn failure(&self, error: CopyError) -> Failure {
        let interrupted = matches!(error, CopyError::Interrupted { .. });
        let mut failure = Failure::from(error);
        if interrupted {
            failure.exit = self.interrupt.exit();
        }
        failure
    }
}

pub(super) async fn make(
    places: &Places,
    options: &CopyOptions,
    at: At,
    app: &App,
    context: &mut Context,
) -> Result<Status> {
    let request = request(app, places, options, at)?;
    if options.dry_run {
        return show_plan(&request, context).await;
    }
    let course = Course::begin(context)?;
    let events = |event: Event| course.progress.tell(&event);
    let done = copy(&request, &copyist(app)?, &events, course.interrupt.token()).await;
    course.progress.end();
    let report = done.map_err(|error| course.failure(error))?;
    tell_copy(&report, context)?;
    Ok(Exit::Ok.into())
}

/// Shows what a copy came to; with `--quiet` only if there is something to look at.
pub(super) fn tell_copy(report: &CopyReport, context: &mut Context) -> Result<()> {
    if report.problems.is_empty() && report.remarks.is_empty() {
        context.out.confirmation(report)?;
    } else {
        context.out.result(report)?;
    }
    Ok(())
}

/// What a copy would consist of; nothing is written.
pub(super) async fn show_plan(request: &CopyRequest, context: &mut Context) -> Result<Status> {
    check_places(request).await?;
    check_parent(&request.destination).await?;
    let replaces = request.existing == Existing::MoveAside && request.destination.exists().await?;
    let (contents, plan) = plan_now(request).await?;
    let listing = &contents.listing;
    let report = PlanReport {
        dry_run: true,
        replaces,
        source: request.source.uri(),
        destination: request.destination.uri(),
        scope: plan.scope,
        query_id: plan.query_id.map(|id| id.to_string()),
        last_planned_batch: plan.target.offset,
        last_committed_batch: plan.target.commit,
        state_version: plan.target.state_version,
        total: plan.tally(listing),
        files: plan
            .files
            .iter()
            .map(|file| PlannedPath {
                path: file.path(listing).to_owned(),
                bytes: file.len_bytes(listing),
                role: file.role(),
            })
            .collect(),
        left_out: plan.left_out,
        problems: plan.problems,
        remarks: plan.remarks,
        list_files: context.global.verbose > 0,
    };
    context.out.result(&report)?;
    let refused = !report.problems.is_empty() && request.damage == Damage::Refuse;
    Ok(if refused { Exit::Findings } else { Exit::Ok }.into())
}
