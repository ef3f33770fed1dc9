//! One pass: from the source as it is now to a work directory that holds exactly its plan.

use tokio_util::sync::CancellationToken;

use super::transfer::Transferred;
use super::{CopyError, CopyRequest, Damage, Event, Events, Work, unless_stopped};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::contents::Contents;
use crate::checkpoint::finding::Finding;
use crate::checkpoint::load::{load_contents, location_of};
use crate::checkpoint::plan::{Plan, PlanOptions, Tally, plan_copy};
use crate::checkpoint::verify;

/// How often a copy is planned anew because files of the plan vanished or changed under it.
const PLANS: u32 = 5;

/// How often the storage of the copy may cease to answer for longer than the lease lasts until that
/// counts as a plan that failed.
const HALTS: u32 = 20;

/// What a plan was made from, kept together for the transfer.
pub(super) struct Planned {
    pub(super) contents: Contents,
    pub(super) plan: Plan,
}

/// Plans a copy of the source as it is now; writes nothing. Where something is missing that a running
/// query may have purged meanwhile, it is planned again.
///
/// # Errors
/// [`CopyError::Checkpoint`], [`CopyError::Refused`].
pub async fn plan_now(request: &CopyRequest) -> Result<(Contents, Plan), CopyError> {
    let source = &request.source;
    let mut round = 1;
    loop {
        let (contents, plan) = plan_once(request).await?;
        if plan.problems.is_empty()
            || round == PLANS
            || !verify::has_moved_on(source.storage.as_ref(), &source.path, &contents).await?
        {
            return Ok((contents, plan));
        }
        round += 1;
    }
}

async fn plan_once(request: &CopyRequest) -> Result<(Contents, Plan), CopyError> {
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
    let (mut attempt, mut halts) = (0, 0);
    while attempt < PLANS {
        let (contents, plan) = match planned.take() {
            Some(planned) => planned,
            None => match unless_stopped(request, shutdown, plan_now(request)).await {
                Err(CopyError::Checkpoint(CheckpointError::Missing { .. }))
                    if attempt + halts > 0 =>
                {
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
            attempt += 1;
            continue;
        }
        refuse_damage(request, &plan)?;
        let planned = Planned { contents, plan };
        match work.transfer(request, &planned, events, shutdown).await? {
            Transferred::Whole(copied) => return Ok((planned, copied)),
            Transferred::SourceChanged(why) => {
                tracing::info!("the plan is made anew: {why}");
                events(Event::Replanned { why: why.clone() });
                last = why;
                attempt += 1;
            }
            // Of a running query it may have been read while it was written again.
            Transferred::Damaged(findings) if attempt > 0 => {
                return Err(damaged(request, findings));
            }
            Transferred::Damaged(findings) => {
                last = findings
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; ");
                tracing::info!("the plan is made anew: {last}");
                attempt += 1;
            }
            Transferred::Halted => {
                halts += 1;
                last = format!("the storage of the copy did not answer for long, {halts} times");
                attempt += u32::from(halts % HALTS == 0);
            }
        }
    }
    Err(CopyError::Unstable {
        plans: PLANS,
        why: last,
    })
}

pub(super) fn refuse_damage(request: &CopyRequest, plan: &Plan) -> Result<(), CopyError> {
    if plan.problems.is_empty() || request.damage == Damage::Accept {
        return Ok(());
    }
    Err(damaged(request, plan.problems.clone()))
}

fn damaged(request: &CopyRequest, findings: Vec<Finding>) -> CopyError {
    CopyError::Damaged {
        source_uri: request.source.uri(),
        at: request.at,
        findings,
    }
}
