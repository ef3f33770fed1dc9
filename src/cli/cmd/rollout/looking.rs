//! `rollout status` and `history`: nothing is written.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::text::{gap_text, row_of, slots_text, why_of};
use super::{HistoryArgs, StatusArgs};
use crate::app::App;
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{Format, Look, Report, Tone, table};
use crate::config::duration;
use crate::control::DocumentError;
use crate::daemon::rollout::RolloutPlan;
use crate::model::{BatchId, Slot};
use crate::rollout::decide::deadline_of;
use crate::rollout::journal::{list_rollouts, load_newest, load_rollout};
use crate::rollout::record::Record;
use crate::rollout::request::{Refusal, Request, list_requests, load_refusals};
use crate::rollout::state::{State, Transfer};
use crate::stop::proof::{CheckpointProof, prove_once};

/// One side of a rollout as it is now.
#[derive(Debug, PartialEq, Serialize)]
struct SideReport {
    slot: Slot,
    checkpoints: Vec<CheckpointProof>,
}

/// How far a rollout is.
#[derive(Debug, PartialEq, Serialize)]
struct StatusReport {
    record: Record,
    old: Option<SideReport>,
    new: Option<SideReport>,
    /// By how many batches the new job's copy is behind the old job, over all queries; 0 if ahead.
    lag_batches: Option<u64>,
    /// Seconds without output so far: since the old job's last commit, while it is stopped.
    gap_seconds: Option<f64>,
    /// Seconds until the state is late.
    deadline_seconds: Option<i64>,
    /// The files of requests that nobody has taken yet.
    requested: Vec<String>,
    /// Requests that were refused since it began.
    refused: Vec<Refusal>,
}

/// What the control directory says of a job's rollouts.
struct Told {
    newest: Option<Record>,
    requested: Vec<String>,
    refused: Vec<Refusal>,
}

async fn load(plan: &RolloutPlan) -> std::result::Result<Told, DocumentError> {
    let newest = load_newest(&plan.control, &plan.job).await?;
    let requests = list_requests(&plan.control, &plan.job).await?;
    let since = newest.as_ref().map(|record| record.begun_at);
    let name = |request: &Request| request.path.name().to_owned();
    Ok(Told {
        requested: requests.iter().map(name).collect(),
        refused: load_refusals(&plan.control, &plan.job, since).await?,
        newest,
    })
}

async fn side(plan: &RolloutPlan, slot: Option<Slot>) -> Option<SideReport> {
    let slot = slot?;
    let of = plan.slots.get(&slot)?;
    let proof = prove_once(&of.planned.spec.checkpoints).await;
    Some(SideReport {
        slot,
        checkpoints: proof.checkpoints,
    })
}

/// Whether what stands at the place of the new job's checkpoint is of this rollout: before, it is that of an
/// earlier one, if any.
fn was_handed_over(record: &Record) -> bool {
    let first = match record.transfer {
        Transfer::Copy => State::Cutover,
        Transfer::CopyNewId => State::Starting,
        Transfer::InPlace | Transfer::Own => return true,
    };
    record.path.iter().any(|(state, _)| *state == first)
}

impl SideReport {
    fn text(&self) -> String {
        let of_query = |proof: &CheckpointProof| match (
            proof.last_planned_batch,
            proof.last_committed_batch,
        ) {
            (None, _) => "-".to_owned(),
            (Some(planned), Some(committed)) if planned == committed => planned.to_string(),
            (Some(planned), committed) => format!(
                "{planned} (committed {})",
                committed.map_or_else(|| "none".to_owned(), |batch| batch.to_string())
            ),
        };
        let all: Vec<String> = self.checkpoints.iter().map(of_query).collect();
        let all = if all.is_empty() {
            "-".to_owned()
        } else {
            all.join(", ")
        };
        format!("{} {all}", self.slot)
    }
}

fn request_text(name: &str) -> String {
    format!("requested: {name}: nobody has taken it yet")
}

fn refusal_text(refusal: &Refusal) -> String {
    format!("refused: {}: {}", refusal.request, refusal.why)
}

impl Report for StatusReport {
    fn text(&self, look: Look) -> String {
        let record = &self.record;
        let what = record
            .outcome
            .map_or_else(|| record.state.to_string(), |outcome| outcome.to_string());
        let tone = match record.state {
            State::NeedsHuman => Tone::Bad,
            State::Aborting | State::RecoverOld => Tone::Warn,
            State::Preparing
            | State::Starting
            | State::Held
            | State::Shadow
            | State::Stopping
            | State::Stopped
            | State::Cutover
            | State::Proving
            | State::Ended => Tone::Good,
        };
        let mut lines = vec![
            format!(
                "{} {} by {}: {}",
                record.job,
                record.rollout_id,
                record.strategy,
                slots_text(record)
            ),
            format!("{}: {}", look.paint(tone, &what), record.reason),
        ];
        let behind = self
            .lag_batches
            .map_or_else(String::new, |lag| format!("; {lag} behind"));
        let sides = [&self.old, &self.new].into_iter().flatten();
        let sides: Vec<String> = sides.map(SideReport::text).collect();
        lines.push(format!("batch: {}{behind}", sides.join(", ")));
        match (record.gap.seconds(), self.gap_seconds) {
            (Some(seconds), _) => lines.push(format!("gap: {}", gap_text(seconds))),
            (None, Some(seconds)) => lines.push(format!("gap: {seconds:.0} s so far")),
            (None, None) => {}
        }
        if let Some(seconds) = self.deadline_seconds {
            lines.push(match u64::try_from(seconds) {
                Ok(left) => {
                    let left = duration::format(std::time::Duration::from_secs(left));
                    format!("deadline: in {left}")
                }
                Err(_) => look.paint(Tone::Bad, "deadline: passed"),
            });
        }
        let flags: Vec<&str> = [
            (record.promoted, "promoted"),
            (record.on_hold, "on hold"),
            (record.abort_asked, "abort asked"),
        ]
        .into_iter()
        .filter_map(|(set, word)| set.then_some(word))
        .collect();
        if !flags.is_empty() {
            lines.push(format!("asked: {}", flags.join(", ")));
        }
        lines.extend(self.requested.iter().map(|name| request_text(name)));
        lines.extend(self.refused.iter().map(refusal_text));
        lines.join("\n  ")
    }
}

async fn look(plan: &RolloutPlan, record: Record) -> StatusReport {
    let old = side(plan, record.old).await;
    let new = if record.is_same_slot() {
        None
    } else if was_handed_over(&record) {
        side(plan, Some(record.new)).await
    } else {
        Some(SideReport {
            slot: record.new,
            checkpoints: Vec::new(),
        })
    };
    let committed = |side: &Option<SideReport>| -> Option<Vec<Option<BatchId>>> {
        let side = side.as_ref()?;
        Some(
            side.checkpoints
                .iter()
                .map(|proof| proof.last_committed_batch)
                .collect(),
        )
    };
    let lag_batches = match (committed(&old), committed(&new)) {
        // A copy that is not published yet is not behind: it is nowhere.
        (Some(old), Some(new))
            if record.state != State::Ended && new.iter().any(Option::is_some) =>
        {
            let behind = |(old, new): (Option<BatchId>, Option<BatchId>)| {
                let next = |batch: Option<BatchId>| batch.map_or(0, |batch| batch.0 + 1);
                next(old).saturating_sub(next(new))
            };
            old.into_iter().zip(new).map(behind).max()
        }
        _ => None,
    };
    let now = Timestamp::now();
    let stands = matches!(
        record.state,
        State::Stopped | State::Cutover | State::Proving | State::RecoverOld
    );
    let last_commit = old.as_ref().and_then(|side| {
        side.checkpoints
            .iter()
            .filter_map(|proof| proof.committed_at)
            .max()
    });
    let gap_seconds = last_commit
        .filter(|_| stands)
        .map(|at| now.duration_since(at).as_secs_f64());
    let deadline = deadline_of(record.state, &plan.policy.deadlines);
    let deadline_seconds = deadline.and_then(|limit| {
        let limit = SignedDuration::try_from(limit).ok()?;
        Some((limit - now.duration_since(record.since)).as_secs())
    });
    StatusReport {
        record,
        old,
        new,
        lag_batches,
        gap_seconds,
        deadline_seconds,
        requested: Vec::new(),
        refused: Vec::new(),
    }
}

pub(super) async fn status(args: &StatusArgs, app: &App, context: &mut Context) -> Result<Status> {
    let (_, plan) = super::plan(app, &args.job)?;
    let mut told: Option<StatusReport> = None;
    let redraws = args.follow
        && context.out.is_terminal()
        && context.out.look().colors
        && context.out.format() == Format::Text;
    loop {
        match load(&plan).await {
            Ok(Told {
                newest: Some(record),
                requested,
                refused,
            }) => {
                let mut report = look(&plan, record).await;
                report.requested = requested;
                report.refused = refused;
                let ended = report.record.state == State::Ended;
                // A clock that ran is no news by itself on a pipe.
                let is_new = told.as_ref().is_none_or(|told| {
                    told.record != report.record
                        || told.old != report.old
                        || told.new != report.new
                        || told.requested != report.requested
                        || told.refused != report.refused
                });
                if is_new || redraws {
                    // What has not come further is written over.
                    let same = told
                        .as_ref()
                        .filter(|told| redraws && told.record.state == report.record.state);
                    if let Some(told) = same {
                        let lines = told.text(context.out.look()).lines().count();
                        context.out.raw(format!("\x1b[{lines}A\x1b[J").as_bytes())?;
                    }
                    context.out.event(&report)?;
                    told = Some(report);
                }
                if ended || !args.follow || context.out.is_closed() {
                    return Ok(Exit::Ok.into());
                }
            }
            Ok(found) if !args.follow => {
                let mut message = format!("{} was never rolled out", args.job);
                let requested = found.requested.iter().map(|name| request_text(name));
                for line in requested.chain(found.refused.iter().map(refusal_text)) {
                    message.push_str("\n  ");
                    message.push_str(&line);
                }
                return Err(Failure::new(Exit::NotFound, message));
            }
            Ok(_) => {}
            Err(error) if !args.follow => return Err(error.into()),
            Err(error) => tracing::warn!("{error}"),
        }
        tokio::time::sleep(args.interval).await;
    }
}

/// `history`.
#[derive(Debug, Serialize)]
struct HistoryReport {
    rollouts: Vec<Record>,
}

impl Report for HistoryReport {
    fn text(&self, look: Look) -> String {
        let now = Timestamp::now();
        let rows: Vec<_> = self
            .rollouts
            .iter()
            .map(|record| row_of(record, now))
            .collect();
        let head = [
            "ROLLOUT", "STRATEGY", "SLOTS", "VERSION", "RESULT", "GAP", "STOP", "BEGUN",
        ];
        let mut text = table(look, &head, &rows);
        for why in self.rollouts.iter().filter_map(why_of) {
            text.push('\n');
            text.push_str(&why);
        }
        text
    }
}

pub(super) async fn history(
    args: &HistoryArgs,
    app: &App,
    context: &mut Context,
) -> Result<Status> {
    let (_, plan) = super::plan(app, &args.job)?;
    let mut rollouts = Vec::new();
    for id in list_rollouts(&plan.control, &plan.job)
        .await?
        .into_iter()
        .rev()
        .take(args.last)
    {
        if let Some(record) = load_rollout(&plan.control, &plan.job, id).await? {
            rollouts.push(record);
        }
    }
    context.out.result(&HistoryReport { rollouts })?;
    Ok(Exit::Ok.into())
}
