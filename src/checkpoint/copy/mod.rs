//! Copies: from a plan to a verified directory that appears at once.
//!
//! A copy is made in a work directory beside its destination (`.<name>.stepdown-copy/`): the files
//! in `tree/`, a journal of what is there and verified, and a lease, so that of two copies to one
//! destination one is told to wait. [`work`] keeps that directory, [`mod@pass`] plans and makes it hold
//! the plan, [`transfer`] moves the bytes, [`proof`] sees that they are there, [`stand`] remembers what
//! needs no second look, [`publish`] writes the manifest and renames `tree/` to the destination. A copy
//! that was cut short goes on where it was: what the journal has is not copied again.

mod error;
mod journal;
mod pass;
mod places;
mod proof;
mod publish;
mod report;
mod request;
mod stand;
mod sync;
mod transfer;
mod work;

use std::ops::ControlFlow;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::CheckpointError;
use super::contents::Contents;
use super::finding::Finding;
use super::load::load_known;
use super::manifest::Manifest;
use super::needs::needs;
use super::plan::{Plan, Tally};
use super::target::At;
use super::verify;
use crate::storage::{FileKind, FileStat, StoragePath};

use pass::{Planned, pass, refuse_damage};

pub use error::CopyError;
pub use pass::plan_now;
pub use places::{check_parent, check_places};
pub use report::{CopyReport, Event, Events};
pub use request::{Check, CopyRequest, Copyist, Damage, Existing, Pace, Place};
pub use sync::{Passed, SyncedCopy};
pub use work::{Work, clean_up_after, find_spent, work_dir_of};

/// The outcome of `work`, or that it was told to end before. Only for what can be dropped half done.
async fn unless_stopped<T>(
    request: &CopyRequest,
    shutdown: &CancellationToken,
    work: impl Future<Output = Result<T, CopyError>>,
) -> Result<T, CopyError> {
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Err(CopyError::Interrupted {
            work: work::work_uri(&request.destination),
        }),
        done = work => done,
    }
}

/// Copies a checkpoint: one pass, then the check, then one rename.
///
/// # Errors
/// [`CopyError`]. Nothing is visible at the destination then; the work directory stays and the same
/// call goes on with it.
pub async fn copy(
    request: &CopyRequest,
    copyist: &Copyist,
    events: Events<'_>,
    shutdown: &CancellationToken,
) -> Result<CopyReport, CopyError> {
    let (mut work, first) = match begin(request, copyist, shutdown).await {
        Ok(ControlFlow::Continue(begun)) => begun,
        Ok(ControlFlow::Break(report)) => return Ok(report),
        Err(error) => return Err(error.of_copy_to(&request.destination, false)),
    };
    let done = copy_or_settle(&mut work, request, first, events, shutdown).await;
    work.close(done.is_ok()).await;
    done.map_err(|error| error.of_copy_to(&request.destination, true))
}

/// The first plan and the work directory; or the copy, if it is there.
async fn begin(
    request: &CopyRequest,
    copyist: &Copyist,
    shutdown: &CancellationToken,
) -> Result<ControlFlow<CopyReport, (Work, (Contents, Plan))>, CopyError> {
    let first = unless_stopped(request, shutdown, async {
        if let Some(report) = published_before(request).await? {
            clean_up(request, copyist).await;
            return Ok(ControlFlow::Break(report));
        }
        check_places(request).await?;
        let (contents, plan) = plan_now(request).await?;
        refuse_damage(request, &plan)?;
        Ok(ControlFlow::Continue((contents, plan)))
    });
    let first = match first.await? {
        ControlFlow::Continue(first) => first,
        ControlFlow::Break(report) => return Ok(ControlFlow::Break(report)),
    };
    let work = unless_stopped(request, shutdown, Work::open(request, copyist)).await?;
    Ok(ControlFlow::Continue((work, first)))
}

async fn copy_or_settle(
    work: &mut Work,
    request: &CopyRequest,
    first: (Contents, Plan),
    events: Events<'_>,
    shutdown: &CancellationToken,
) -> Result<CopyReport, CopyError> {
    match settle(work, request, &first.1).await? {
        Some(report) => Ok(report),
        None => copy_into(work, request, first, events, shutdown).await,
    }
}

/// An earlier call may have been cut short right after it published. What it made is what was asked
/// for only if it holds the same batches; else the call has still to be done.
async fn settle(
    work: &mut Work,
    request: &CopyRequest,
    plan: &Plan,
) -> Result<Option<CopyReport>, CopyError> {
    let Some(manifest) = work.published().await? else {
        return Ok(None);
    };
    let (planned, committed) = (plan.target.offset, plan.target.commit);
    if (manifest.last_planned_batch, manifest.last_committed_batch) == (planned, committed) {
        return Ok(Some(CopyReport::of(
            request,
            &manifest,
            Tally::default(),
            None,
        )));
    }
    if request.existing == Existing::Refuse {
        return Err(CopyError::Exists {
            destination: request.destination.uri(),
        });
    }
    work.begin_anew(request).await?;
    Ok(None)
}

/// Removes what a call has left that was cut short right after it published. The copy is there: what
/// stays is no failure.
async fn clean_up(request: &CopyRequest, copyist: &Copyist) {
    let once = work::Patience::Once;
    match work::remove_spent(&request.destination, copyist, once).await {
        Ok(_) => {}
        Err(error) => tracing::warn!("the work directory stays: {error}"),
    }
}

/// What a call with the same id came to, if it published.
async fn published_before(request: &CopyRequest) -> Result<Option<CopyReport>, CopyError> {
    let Some(copy_id) = request.copy_id else {
        return Ok(None);
    };
    let found = find_copy(&request.destination, copy_id).await?;
    Ok(found.map(|manifest| CopyReport::of(request, &manifest, Tally::default(), None)))
}

/// The manifest of what stands at `place`, if it is the copy with that id.
async fn find_copy(place: &Place, copy_id: Uuid) -> Result<Option<Manifest>, CopyError> {
    if !place.exists().await? {
        return Ok(None);
    }
    match Manifest::load(place.storage.as_ref(), &place.path).await {
        Ok(manifest) => Ok(manifest.filter(|found| found.copy_id == copy_id)),
        Err(CheckpointError::Manifest { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn copy_into(
    work: &mut Work,
    request: &CopyRequest,
    first: (Contents, Plan),
    events: Events<'_>,
    shutdown: &CancellationToken,
) -> Result<CopyReport, CopyError> {
    let (planned, copied) = pass(work, request, Some(first), events, shutdown).await?;
    events(Event::Checking);
    work.publish(request, &planned, copied, events, shutdown)
        .await
}

/// Whether a restart of the directory, which has the files of the plan, would find all it needs: the
/// findings that say no.
///
/// The names are those that were proved; what a restart reads of the files is read, but for the content
/// of state files, which was looked at while it was copied. Where damage is accepted that is read here.
/// Files that no restart needs are left out: of what is there a restart takes the same ones without them.
async fn find_damage(
    place: &Place,
    dir: &StoragePath,
    planned: &Planned,
    accepted: Damage,
) -> Result<Vec<Finding>, CopyError> {
    let listing = &planned.contents.listing;
    let entry = |path: &str, kind, len_bytes| FileStat {
        path: dir.join_all(path),
        kind,
        len_bytes,
        modified_at: Timestamp::UNIX_EPOCH,
        mode: None,
        owner: None,
        group: None,
    };
    let dirs = planned.plan.dirs.iter();
    let needed = planned
        .plan
        .files
        .iter()
        .filter(|file| file.role().is_some());
    let mut known: Vec<FileStat> = dirs
        .map(|(path, _)| entry(path, FileKind::Dir, 0))
        .chain(needed.map(|f| entry(f.path(listing), FileKind::File, f.len_bytes(listing))))
        .collect();
    known.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    // What names its own place in there names the destination already.
    let storage = place.storage.as_ref();
    let contents = load_known(storage, dir, &place.path, At::Planned, &known).await?;
    let Ok(target) = super::target::choose_target(&contents, At::Planned) else {
        return Ok(Vec::new());
    };
    let findings = match accepted {
        Damage::Refuse => needs(&contents, &target).findings,
        Damage::Accept => verify::find_damage(storage, dir, &contents).await?,
    };
    Ok(findings
        .into_iter()
        .filter(|finding| finding.severity == super::finding::Severity::Damage)
        .collect())
}

/// The manifest of a directory, where it is a copy.
///
/// # Errors
/// As [`Manifest::load`].
pub(super) async fn lineage(place: &Place) -> Result<Option<Uuid>, CopyError> {
    match Manifest::load(place.storage.as_ref(), &place.path).await {
        Ok(manifest) => Ok(manifest.map(|manifest| manifest.copy_id)),
        // Somebody else's file of that name does not keep a checkpoint from being copied.
        Err(CheckpointError::Manifest { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
