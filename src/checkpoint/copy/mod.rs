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

use std::sync::Arc;

use serde::Serialize;
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
use crate::storage::{Storage, StorageError, StoragePath, StorageUri};

pub use work::Work;

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
    #[error("another process copies to {destination} ({holder}, generation {generation})")]
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
    #[error("the source changed faster than it could be copied, {plans} times in a row: {why}")]
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
    /// The copy was told to end. What is there stays, and the same command goes on with it.
    #[error("interrupted; the same command goes on with what is in {work}")]
    Interrupted {
        /// The work directory.
        work: StorageUri,
    },
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
        if from == to || to.is_below(from) || from.is_below(to) {
            return Err(CopyError::Nested {
                destination: destination.uri(),
                source_uri: source.uri(),
            });
        }
    }
    if request.existing == Existing::Refuse && destination.exists().await? {
        return Err(CopyError::Exists {
            destination: destination.uri(),
        });
    }
    Ok(())
}

impl Place {
    async fn exists(&self) -> Result<bool, StorageError> {
        match self.storage.stat(&self.path).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == crate::storage::ErrorKind::NotFound => Ok(false),
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
    shutdown: &tokio_util::sync::CancellationToken,
) -> Result<CopyReport, CopyError> {
    if let Some(report) = published_before(request).await? {
        return Ok(report);
    }
    check_places(request).await?;
    let (contents, plan) = plan_now(request).await?;
    refuse_damage(request, &plan)?;
    let mut work = Work::open(request, copyist).await?;
    let done = match work.published().await? {
        Some(manifest) => Ok(CopyReport::of(request, &manifest, Tally::default(), None)),
        None => copy_into(&mut work, request, (contents, plan), events, shutdown).await,
    };
    work.close(done.is_ok()).await;
    done
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
    shutdown: &tokio_util::sync::CancellationToken,
) -> Result<CopyReport, CopyError> {
    let (planned, copied) = pass(work, request, Some(first), events, shutdown).await?;
    events(Event::Checking);
    work.publish(request, &planned, copied, events).await
}

/// One pass: makes the work directory hold exactly what a copy of the source as it is now consists
/// of.
pub(super) async fn pass(
    work: &mut Work,
    request: &CopyRequest,
    mut planned: Option<(Contents, Plan)>,
    events: Events<'_>,
    shutdown: &tokio_util::sync::CancellationToken,
) -> Result<(Planned, Tally), CopyError> {
    let mut last = String::new();
    for attempt in 0..PLANS {
        let (contents, plan) = match planned.take() {
            Some(planned) => planned,
            None => plan_now(request).await?,
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
        shutdown: &tokio_util::sync::CancellationToken,
    ) -> Result<Tally, CopyError> {
        let request = CopyRequest {
            at: At::Committed,
            ..self.request.clone()
        };
        let (_, copied) = pass(&mut self.work, &request, None, events, shutdown).await?;
        Ok(copied)
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
        shutdown: &tokio_util::sync::CancellationToken,
    ) -> Result<CopyReport, CopyError> {
        if let Some(manifest) = self.work.published().await? {
            let nothing = Tally::default();
            return Ok(CopyReport::of(&self.request, &manifest, nothing, None));
        }
        let request = self.request.clone();
        let (planned, copied) = pass(&mut self.work, &request, None, events, shutdown).await?;
        events(Event::Checking);
        self.work.publish(&request, &planned, copied, events).await
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
