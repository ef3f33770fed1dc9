//! Copies: from a plan to a verified directory that appears at once.
//!
//! A copy is made in a work directory beside its destination (`.<name>.stepdown-copy/`): the files
//! in `tree/`, a journal of what is there and verified, and a lease, so that of two copies to one
//! destination one is told to wait. [`work`] keeps that directory, [`transfer`] moves the bytes,
//! [`publish`] checks the whole, writes the manifest and renames `tree/` to the destination. A copy
//! that was cut short goes on where it was: what the journal has is not copied again.

mod journal;
mod publish;
mod transfer;
mod work;

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::CheckpointError;
use super::contents::Contents;
use super::finding::Finding;
use super::load::{load_contents, load_staged, location_of};
use super::manifest::Manifest;
use super::needs::needs;
use super::plan::{Plan, PlanOptions, PlanRefused, Scope, Tally, plan_copy};
use super::query_id::QueryId;
use super::target::At;
use crate::control::{DocumentError, LeaseError, LeaseOwner, LeasePolicy};
use crate::model::Generation;
use crate::storage::{
    Authority, DirIdentity, ErrorKind, Storage, StorageError, StoragePath, StorageUri,
};

pub use work::{Work, work_dir_of};

/// How often a copy is planned anew because files of the plan vanished or changed under it.
const PLANS: u32 = 5;

/// A directory in a storage.
#[derive(Debug, Clone)]
pub struct Place {
    /// The storage.
    pub storage: Arc<dyn Storage>,
    /// The directory.
    pub path: StoragePath,
}

impl Place {
    /// Its URI.
    pub fn uri(&self) -> StorageUri {
        StorageUri::new(self.storage.authority().clone(), self.path.clone())
    }
}

/// What becomes of a directory that stands at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// The copy is refused.
    Refuse,
    /// It is moved aside, to a name that is told, right before the copy is published.
    MoveAside,
}

/// What to do about a source that lacks what a restart needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The copy is refused, with the findings.
    Refuse,
    /// It is made all the same; the manifest says what is lost.
    Accept,
}

/// How the result is checked before it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Names and lengths of all files, and what a restart reads of them.
    Restart,
    /// As `Restart`, and every byte is read back and compared by its digest.
    ReadBack,
}

/// How many files are under way at once.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Files that are held in memory whole.
    pub small_at_once: usize,
    /// Files that are streamed.
    pub large_at_once: usize,
}

impl Default for Pace {
    fn default() -> Self {
        // A small file on HDFS waits up to half a second in its close, without work for anybody.
        Self {
            small_at_once: 128,
            large_at_once: 4,
        }
    }
}

/// Who copies: the owner of the destination's lease.
#[derive(Debug, Clone)]
pub struct Copyist {
    /// As the lease names it.
    pub owner: LeaseOwner,
    /// When another's lease counts as left.
    pub policy: LeasePolicy,
    /// Host name, for the manifest.
    pub host: String,
}

/// What is asked of a copy.
#[derive(Debug, Clone)]
pub struct CopyRequest {
    /// The checkpoint.
    pub source: Place,
    /// The copy.
    pub destination: Place,
    /// As of which batch.
    pub at: At,
    /// How much.
    pub scope: Scope,
    /// A new identity for the copy.
    pub new_query_id: Option<QueryId>,
    /// The id in the manifest, where the caller has one: a second call with the same one finds what the
    /// first has published. Without it each copy gets an id of its own.
    pub copy_id: Option<Uuid>,
    /// A directory at the destination.
    pub existing: Existing,
    /// A damaged source.
    pub damage: Damage,
    /// The check before publishing.
    pub check: Check,
    /// How fast.
    pub pace: Pace,
}

/// What a copy tells while it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The plan stands.
    Planned {
        /// All files of the copy.
        total: Tally,
        /// Those that are copied in this pass.
        to_copy: Tally,
        /// Those that are in the work directory and need not be copied.
        kept: Tally,
    },
    /// A file is in the work directory.
    Copied {
        /// Its bytes.
        bytes: u64,
    },
    /// Part of a large file is there.
    Streamed {
        /// How many bytes more.
        bytes: u64,
    },
    /// All files are there and are checked now.
    Checking,
    /// Files of the plan vanished or changed: it is made anew.
    Replanned {
        /// Why.
        why: String,
    },
    /// The copy stands at its destination.
    Published,
}

/// Where events go.
pub type Events<'a> = &'a (dyn Fn(Event) + Send + Sync);

/// What a copy came to.
#[derive(Debug, Clone, Serialize)]
pub struct CopyReport {
    /// The source.
    pub source: StorageUri,
    /// The copy.
    pub destination: StorageUri,
    /// Its id, as in its manifest.
    pub copy_id: Uuid,
    /// Its query id.
    pub query_id: Option<String>,
    /// The last planned batch in it.
    pub last_planned_batch: Option<crate::model::BatchId>,
    /// The last committed batch in it.
    pub last_committed_batch: Option<crate::model::BatchId>,
    /// Its files.
    pub total: Tally,
    /// What the last pass had to copy.
    pub copied: Tally,
    /// Where the directory that stood at the destination is now.
    pub moved_aside: Option<StorageUri>,
    /// What was found and overruled: this is lost, or keeps the copy from a restart.
    pub problems: Vec<Finding>,
    /// What was found and does no harm.
    pub remarks: Vec<Finding>,
}

impl CopyReport {
    /// What `manifest` says of the copy that was asked for.
    fn of(
        request: &CopyRequest,
        manifest: &Manifest,
        copied: Tally,
        moved_aside: Option<StorageUri>,
    ) -> Self {
        Self {
            source: request.source.uri(),
            destination: request.destination.uri(),
            copy_id: manifest.copy_id,
            query_id: manifest.query_id.clone(),
            last_planned_batch: manifest.last_planned_batch,
            last_committed_batch: manifest.last_committed_batch,
            total: Tally {
                files: manifest.files.len() as u64,
                bytes: manifest.total_bytes(),
            },
            copied,
            moved_aside,
            problems: Vec::new(),
            remarks: Vec::new(),
        }
    }
}

/// Why there is no copy. The source is as it was, the destination too.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The storage refused or did not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The source cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The source cannot be copied.
    #[error("{source_uri} cannot be copied")]
    Refused {
        /// The source.
        source_uri: StorageUri,
        /// Why.
        source: PlanRefused,
    },
    /// The source lacks what a restart needs.
    #[error(
        "{source_uri} is damaged; --force copies it all the same{}",
        lines_of(findings)
    )]
    Damaged {
        /// The source.
        source_uri: StorageUri,
        /// All of it.
        findings: Vec<Finding>,
    },
    /// Something stands at the destination.
    #[error("{destination} exists already; --replace moves it aside first")]
    Exists {
        /// The destination.
        destination: StorageUri,
    },
    /// The destination lies in the source, or the source in the destination.
    #[error("{destination} and {source_uri} lie within each other")]
    Nested {
        /// The destination.
        destination: StorageUri,
        /// The source.
        source_uri: StorageUri,
    },
    /// Another process copies to this destination.
    #[error(
        "another process copies to {destination} ({holder}, generation {generation}); wait until it \
         has ended, or copy to another place"
    )]
    InProgress {
        /// The destination.
        destination: StorageUri,
        /// Who.
        holder: String,
        /// Its lease.
        generation: Generation,
    },
    /// A record in the work directory could not be read or written.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The lease was lost.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Files went on vanishing or changing.
    #[error(
        "the source changed faster than it could be copied, {plans} times in a row; a query that keeps \
         more batches (spark.sql.streaming.minBatchesToRetain) or stands still can be copied: {why}"
    )]
    Unstable {
        /// How often it was tried.
        plans: u32,
        /// What happened the last time.
        why: String,
    },
    /// The result is not what was planned; it was not published.
    #[error("the copy in {work} does not pass its check and was not published: {why}")]
    NotSound {
        /// The work directory.
        work: StorageUri,
        /// What is wrong.
        why: String,
    },
    /// The source went away under the copy.
    #[error("{source_uri} was removed while it was copied; {work} can be removed as well")]
    SourceGone {
        /// The source.
        source_uri: StorageUri,
        /// The work directory.
        work: StorageUri,
    },
    /// A storage refused or did not answer in the middle.
    #[error(
        "the copy to {destination} did not come to its end; once {remedy}, the same command goes on \
         with it"
    )]
    CutShort {
        /// The destination.
        destination: StorageUri,
        /// What has to be so before the copy can go on.
        remedy: &'static str,
        /// What the storage said.
        source: StorageError,
    },
    /// The copy was told to end. What is there stays, and the same command goes on with it.
    #[error("interrupted; the same command goes on with what is in {work}")]
    Interrupted {
        /// The work directory.
        work: StorageUri,
    },
}

impl CopyError {
    /// The same, and what to do about it where a storage is the reason.
    fn of_copy_to(self, destination: &Place) -> Self {
        let (Self::Storage(source)
        | Self::Checkpoint(CheckpointError::Storage(source))
        | Self::Document(DocumentError::Storage(source))
        | Self::Lease(
            LeaseError::Storage(source) | LeaseError::Document(DocumentError::Storage(source)),
        )) = self
        else {
            return self;
        };
        // What is not there is no matter of waiting.
        if source.kind == ErrorKind::NotFound {
            return Self::Storage(source);
        }
        Self::CutShort {
            destination: destination.uri(),
            remedy: remedy(&source),
            source,
        }
    }
}

/// What has to be so before a copy that met `error` can go on.
fn remedy(error: &StorageError) -> &'static str {
    match error.kind {
        ErrorKind::QuotaExceeded => "the quota is raised or there is room in it",
        ErrorKind::NoSpace if error.uri.authority == Authority::Local => "there is room",
        ErrorKind::NoSpace => "DataNodes run and have room",
        ErrorKind::PermissionDenied => "this user has the right",
        ErrorKind::Authentication => "the login is renewed",
        ErrorKind::InvalidPath => "all names are such as the storage takes",
        ErrorKind::SafeMode => "the NameNode has left safe mode",
        ErrorKind::Standby
        | ErrorKind::TimedOut
        | ErrorKind::Unreachable
        | ErrorKind::OutcomeUnknown => "the storage answers again",
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::TooLarge
        | ErrorKind::Unsupported
        | ErrorKind::Config
        | ErrorKind::Other => "that is repaired",
    }
}

/// The findings, one a line; of many only the first ones.
fn lines_of(findings: &[Finding]) -> String {
    const SHOWN: usize = 20;
    let mut lines = String::new();
    for finding in findings.iter().take(SHOWN) {
        lines.push_str("\n  ");
        lines.push_str(&finding.to_string());
    }
    if let Some(more) = findings.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        let more = format!("\n  and {more} more, which `stepdown checkpoint verify` shows");
        lines.push_str(&more);
    }
    lines
}

/// What a plan was made from, kept together for the transfer.
pub(super) struct Planned {
    pub(super) contents: Contents,
    pub(super) plan: Plan,
}

/// Plans a copy of the source as it is now; writes nothing.
///
/// # Errors
/// [`CopyError::Checkpoint`], [`CopyError::Refused`].
pub async fn plan_now(request: &CopyRequest) -> Result<(Contents, Plan), CopyError> {
    let source = &request.source;
    let contents = load_contents(source.storage.as_ref(), &source.path, request.at).await?;
    let location = location_of(
        request.destination.storage.authority(),
        &request.destination.path,
    );
    let options = PlanOptions {
        at: request.at,
        scope: request.scope,
        destination: &location,
        new_query_id: request.new_query_id,
    };
    match plan_copy(&contents, &options) {
        Ok(plan) => Ok((contents, plan)),
        Err(refused) => Err(CopyError::Refused {
            source_uri: source.uri(),
            source: refused,
        }),
    }
}

/// Refuses what can be refused before anything is written.
///
/// # Errors
/// [`CopyError::Nested`], [`CopyError::Exists`], storage errors.
pub async fn check_places(request: &CopyRequest) -> Result<(), CopyError> {
    let (source, destination) = (&request.source, &request.destination);
    if source.storage.authority() == destination.storage.authority() {
        let (from, to) = (&source.path, &destination.path);
        let nested = from == to || to.is_below(from) || from.is_below(to);
        if nested || is_below_by_links(source, destination).await? {
            return Err(CopyError::Nested {
                destination: destination.uri(),
                source_uri: source.uri(),
            });
        }
    }
    if request.existing == Existing::Refuse
        && destination.exists().await?
        && !work::is_published_here(destination).await?
    {
        return Err(CopyError::Exists {
            destination: destination.uri(),
        });
    }
    Ok(())
}

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

/// Whether a link on the way to the destination leads into the source.
async fn is_below_by_links(source: &Place, destination: &Place) -> Result<bool, CopyError> {
    let identity = match source.storage.identify_dir(&source.path).await {
        Ok(identity @ DirIdentity::Inode { .. }) => identity,
        // Without numbers there are no links either; what else is wrong with the source is told later.
        Ok(DirIdentity::Unnumbered) | Err(_) => return Ok(false),
    };
    let mut above = destination.path.parent();
    while let Some(dir) = above {
        match destination.storage.identify_dir(&dir).await {
            Ok(found) if found == identity => return Ok(true),
            Err(error) if error.kind.is_unreachable() => return Err(error.into()),
            // One that is missing is told later; one that may not be seen is not the source.
            Ok(_) | Err(_) => {}
        }
        above = dir.parent();
    }
    Ok(false)
}

impl Place {
    async fn exists(&self) -> Result<bool, StorageError> {
        match self.storage.stat(&self.path).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
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
    copy_to_the_end(request, copyist, events, shutdown)
        .await
        .map_err(|error| error.of_copy_to(&request.destination))
}

async fn copy_to_the_end(
    request: &CopyRequest,
    copyist: &Copyist,
    events: Events<'_>,
    shutdown: &CancellationToken,
) -> Result<CopyReport, CopyError> {
    let first = unless_stopped(request, shutdown, async {
        if let Some(report) = published_before(request).await? {
            return Ok(ControlFlow::Break(report));
        }
        check_places(request).await?;
        let (contents, plan) = plan_now(request).await?;
        refuse_damage(request, &plan)?;
        Ok(ControlFlow::Continue((contents, plan)))
    });
    let first = match first.await? {
        ControlFlow::Continue(first) => first,
        ControlFlow::Break(report) => return Ok(report),
    };
    let mut work = unless_stopped(request, shutdown, Work::open(request, copyist)).await?;
    let done = copy_or_settle(&mut work, request, first, events, shutdown).await;
    work.close(done.is_ok()).await;
    done
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

/// One pass: makes the work directory hold exactly what a copy of the source as it is now consists
/// of.
pub(super) async fn pass(
    work: &mut Work,
    request: &CopyRequest,
    mut planned: Option<(Contents, Plan)>,
    events: Events<'_>,
    shutdown: &CancellationToken,
) -> Result<(Planned, Tally), CopyError> {
    let mut last = String::new();
    for attempt in 0..PLANS {
        let (contents, plan) = match planned.take() {
            Some(planned) => planned,
            None => match unless_stopped(request, shutdown, plan_now(request)).await {
                Err(CopyError::Checkpoint(CheckpointError::Missing { .. })) if attempt > 0 => {
                    return Err(CopyError::SourceGone {
                        source_uri: request.source.uri(),
                        work: work.uri(),
                    });
                }
                planned => planned?,
            },
        };
        // Right after files vanished the logs may be of one moment and the state of another.
        if attempt + 1 < PLANS && attempt > 0 && !plan.problems.is_empty() {
            last = plan
                .problems
                .first()
                .map(ToString::to_string)
                .unwrap_or_default();
            continue;
        }
        refuse_damage(request, &plan)?;
        let planned = Planned { contents, plan };
        match work.transfer(request, &planned, events, shutdown).await? {
            transfer::Transferred::Whole(copied) => return Ok((planned, copied)),
            transfer::Transferred::SourceChanged(why) => {
                tracing::info!("the plan is made anew: {why}");
                events(Event::Replanned { why: why.clone() });
                last = why;
            }
        }
    }
    Err(CopyError::Unstable {
        plans: PLANS,
        why: last,
    })
}

fn refuse_damage(request: &CopyRequest, plan: &Plan) -> Result<(), CopyError> {
    if plan.problems.is_empty() || request.damage == Damage::Accept {
        return Ok(());
    }
    Err(CopyError::Damaged {
        source_uri: request.source.uri(),
        findings: plan.problems.clone(),
    })
}

/// Repeated passes into one work directory while the job still runs, then the last one.
#[derive(Debug)]
pub struct SyncedCopy {
    request: CopyRequest,
    work: Work,
}

impl SyncedCopy {
    /// Takes up the work directory of the destination, or begins one.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn open(request: CopyRequest, copyist: &Copyist) -> Result<Self, CopyError> {
        check_places(&request).await?;
        let work = Work::open(&request, copyist).await?;
        Ok(Self { request, work })
    }

    /// One pass as of the last committed batch; says what it had to copy.
    ///
    /// # Errors
    /// [`CopyError`]; a later pass goes on with what is there.
    pub async fn pass(
        &mut self,
        events: Events<'_>,
        shutdown: &CancellationToken,
    ) -> Result<Tally, CopyError> {
        if self.request.existing == Existing::Refuse && self.request.destination.exists().await? {
            return Err(CopyError::Exists {
                destination: self.request.destination.uri(),
            });
        }
        let request = CopyRequest {
            at: At::Committed,
            ..self.request.clone()
        };
        let made = match pass(&mut self.work, &request, None, events, shutdown).await {
            // A minimal copy with a batch in flight restarts from there, and not from the batch before.
            Err(CopyError::Damaged { .. }) => {
                pass(&mut self.work, &self.request, None, events, shutdown).await?
            }
            made => made?,
        };
        Ok(made.1)
    }

    /// The URI of the work directory, for messages.
    pub fn uri(&self) -> StorageUri {
        self.work.uri()
    }

    /// The last pass, as of the batch that was asked for, and the publication.
    ///
    /// # Errors
    /// [`CopyError`]; it can be called again.
    pub async fn finish(
        &mut self,
        events: Events<'_>,
        shutdown: &CancellationToken,
    ) -> Result<CopyReport, CopyError> {
        let request = self.request.clone();
        let first = unless_stopped(&request, shutdown, plan_now(&request)).await?;
        copy_or_settle(&mut self.work, &request, first, events, shutdown)
            .await
            .map_err(|error| error.of_copy_to(&self.request.destination))
    }

    /// Keeps the work directory while no pass is under way; to be called more often than a third of
    /// the lease's time to live.
    ///
    /// # Errors
    /// [`CopyError::Lease`] if another process took it over.
    pub async fn keep(&mut self) -> Result<(), CopyError> {
        self.work.keep().await
    }

    /// Gives the lease back; after [`SyncedCopy::finish`] the work directory goes too.
    pub async fn close(self, published: bool) {
        self.work.close(published).await;
    }
}

/// Whether a restart of the directory would find all it needs: the findings that say no.
pub(super) async fn find_damage(
    place: &Place,
    dir: &StoragePath,
) -> Result<Vec<Finding>, CopyError> {
    // What names its own place in there names the destination already.
    let contents = load_staged(place.storage.as_ref(), dir, &place.path, At::Planned).await?;
    let Ok(target) = super::target::choose_target(&contents, At::Planned) else {
        return Ok(Vec::new());
    };
    let findings = needs(&contents, &target).findings;
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
