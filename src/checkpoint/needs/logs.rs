//! `metadata`, `offsets/` and `commits/`.

use super::{Needs, Role};
use crate::checkpoint::contents::{Contents, Identity};
use crate::checkpoint::finding::{Code, Finding, Severity};
use crate::checkpoint::log::LogDamage;
use crate::checkpoint::query_id::InvalidQueryId;
use crate::checkpoint::target::Target;
use crate::model::BatchId;

pub(super) fn add_logs(contents: &Contents, target: &Target, needs: &mut Needs) {
    add_metadata(contents, needs);
    add_order(contents, target, needs);
    for batch in [target.offset_before, target.offset].into_iter().flatten() {
        add_offset(contents, target, batch, needs);
    }
    if let Some(batch) = target.commit {
        add_commit(contents, batch, needs);
    }
    add_async(contents, needs);
}

fn add_metadata(contents: &Contents, needs: &mut Needs) {
    let finding = |code| Finding::damage(code, "metadata").expected("{\"id\":\"<uuid>\"}");
    let file = contents.listing.find("metadata");
    match (&contents.identity, file) {
        (Identity::Known(_), Some(file)) => needs.add(Role::Metadata, file.id),
        (Identity::Damaged(why), Some(file)) => {
            needs.add(Role::Metadata, file.id);
            let spark = match why {
                InvalidQueryId::Empty => {
                    "start() throws MismatchedInputException: No content to map due to end-of-input"
                        .to_owned()
                }
                InvalidQueryId::NotJson(_) => "start() throws a JSON parser's exception".to_owned(),
                InvalidQueryId::NotUuid(id) => format!("start() throws Invalid UUID string: {id}"),
            };
            let damaged = finding(Code::MetadataDamaged);
            needs
                .findings
                .push(damaged.found(why.to_string()).spark(spark));
        }
        (_, None) | (Identity::Missing, _) => {
            let is_new = contents.offsets.present.is_empty() && contents.commits.present.is_empty();
            if !is_new {
                needs.findings.push(
                    finding(Code::MetadataMissing)
                        .with_severity(Severity::Warning)
                        .found("no such file")
                        .spark(
                            "up to 4.0 the query goes on under a new random id, which idempotent \
                             sinks take for another query; 4.3 refuses: \
                             STREAMING_CHECKPOINT_MISSING_METADATA_FILE",
                        ),
                );
            }
        }
    }
}

/// The order of the newest batches of both logs.
fn add_order(contents: &Contents, target: &Target, needs: &mut Needs) {
    let planned = contents.offsets.newest();
    let Some(committed) = contents.commits.newest() else {
        if planned.is_none() && !contents.is_stateless() {
            needs.findings.push(
                Finding::damage(Code::StateWithoutLog, "state")
                    .with_severity(Severity::Warning)
                    .expected("no state, as no batch is planned")
                    .found("state files")
                    .spark(
                        "up to 4.0 the query starts at batch 0 and overwrites them; 4.3 refuses: \
                         STATE_STORE_CHECKPOINT_LOCATION_NOT_EMPTY",
                    ),
            );
        }
        return;
    };
    if planned < Some(committed) {
        let spark = match planned {
            Some(batch) => format!(
                "the query runs batch {batch} again, emits its output a second time and fails at \
                 its commit: CONCURRENT_STREAM_LOG_UPDATE Multiple streaming jobs detected for {batch}"
            ),
            None => "the query runs batch 0 and fails: CONCURRENT_STREAM_LOG_UPDATE Multiple \
                     streaming jobs detected for 0 (4.3: assertion failed)"
                .to_owned(),
        };
        needs.findings.push(
            Finding::damage(Code::CommitAhead, format!("offsets/{committed}"))
                .expected(format!(
                    "the offsets of batch {committed}, which is committed"
                ))
                .found("no such file")
                .spark(spark),
        );
    }
    if let Some(planned) = planned.filter(|_| target.is_in_flight())
        && planned.0 > committed.0.saturating_add(1)
        && !contents.has_async_gaps()
    {
        let has_ids = contents
            .commits
            .content(committed)
            .is_some_and(|commit| commit.version >= 2);
        let skew = Finding::damage(Code::LogSkew, format!("commits/{}", planned.0 - 1))
            .expected("at most one batch planned and not committed")
            .found(format!(
                "batch {planned} planned, batch {committed} committed"
            ));
        needs.findings.push(if has_ids && !contents.is_stateless() {
            skew.spark(format!(
                "the query looks for version {planned} of the state under the ids of \
                 commits/{committed} and fails: file does not exist"
            ))
        } else {
            skew.with_severity(Severity::Warning).spark(format!(
                "the query logs a warning, takes the batches up to {} as done and runs batch \
                 {planned}",
                planned.0 - 1
            ))
        });
    }
}

fn add_offset(contents: &Contents, target: &Target, batch: BatchId, needs: &mut Needs) {
    let path = format!("offsets/{batch}");
    let Some(file) = contents.listing.find(&path) else {
        // Said already by the order of the logs.
        if contents.offsets.newest() >= Some(batch) {
            needs.findings.push(
                Finding::damage(Code::OffsetMissing, path)
                    .expected(format!(
                        "the offsets of batch {batch}, which a restart at batch {} reads",
                        target.offset.unwrap_or(batch)
                    ))
                    .found("no such file")
                    .spark(format!("the query fails: batch {batch} doesn't exist")),
            );
        }
        return;
    };
    needs.add(Role::Offset, file.id);
    if let Some(Err(damage)) = contents.offsets.read.get(&batch) {
        needs.findings.push(offset_damage(&path, damage));
    }
}

/// The finding for a damaged file of `offsets/`.
pub(crate) fn offset_damage(path: &str, damage: &LogDamage) -> Finding {
    Finding::damage(Code::OffsetDamaged, path)
        .expected("a version line, a line of metadata, a line for each source")
        .found(damage.to_string())
        .spark(match damage {
            LogDamage::Empty => {
                format!("the query fails: Failed to read log file .../{path}. Incomplete log file")
            }
            LogDamage::OnlyVersion => "the query fails: next on empty iterator".to_owned(),
            LogDamage::NoSources => {
                "the query fails: assertion failed: There are [0] sources in the checkpoint offsets \
                 and now there are [n] sources requested by the query. Cannot continue."
                    .to_owned()
            }
            LogDamage::NoVersion { .. }
            | LogDamage::UnknownVersion { .. }
            | LogDamage::Json { .. }
            | LogDamage::NotText
            | LogDamage::TooLarge { .. }
            | LogDamage::Vanished => log_damage_in_spark(damage, "in field name"),
        })
}

/// What Spark says about damage that all its logs have in common.
pub(crate) fn log_damage_in_spark(damage: &LogDamage, place: &str) -> String {
    match damage {
        LogDamage::Json { is_cut: true, .. } => {
            format!("the query fails: Unexpected end-of-input {place}")
        }
        LogDamage::Json { .. } | LogDamage::NotText => {
            "the query fails with a JSON parser's exception".to_owned()
        }
        LogDamage::NoVersion { .. } => {
            "the query fails: Log file was malformed: failed to read correct log version".to_owned()
        }
        LogDamage::UnknownVersion { .. } => {
            "a version of Spark that does not know the log version refuses it".to_owned()
        }
        LogDamage::Empty | LogDamage::OnlyVersion | LogDamage::NoSources => {
            "the query fails: Incomplete log file".to_owned()
        }
        LogDamage::TooLarge { .. } => "not known: the file was not read".to_owned(),
        LogDamage::Vanished => "the query fails if the file does not come back".to_owned(),
    }
}

fn add_commit(contents: &Contents, batch: BatchId, needs: &mut Needs) {
    let path = format!("commits/{batch}");
    let Some(file) = contents.listing.find(&path) else {
        return;
    };
    needs.add(Role::Commit, file.id);
    if let Some(Err(damage)) = contents.commits.read.get(&batch) {
        needs.findings.push(commit_damage(&path, damage));
    }
}

/// The finding for a damaged file of `commits/`.
pub(crate) fn commit_damage(path: &str, damage: &LogDamage) -> Finding {
    Finding::damage(Code::CommitDamaged, path)
        .expected("a version line and a line of metadata")
        .found(damage.to_string())
        .spark(match damage {
            LogDamage::Empty => {
                "the query fails: Incomplete log file in the offset commit log".to_owned()
            }
            LogDamage::OnlyVersion => {
                "the query fails: it looks for state files without their unique ids".to_owned()
            }
            LogDamage::NoVersion { .. }
            | LogDamage::UnknownVersion { .. }
            | LogDamage::Json { .. }
            | LogDamage::NoSources
            | LogDamage::NotText
            | LogDamage::TooLarge { .. }
            | LogDamage::Vanished => log_damage_in_spark(damage, "within/between Object entries"),
        })
}

fn add_async(contents: &Contents, needs: &mut Needs) {
    if !contents.has_async_gaps() {
        return;
    }
    let lacks_before = contents
        .offsets
        .newest()
        .and_then(|newest| newest.0.checked_sub(1).map(BatchId))
        .filter(|batch| !contents.offsets.has(*batch));
    let spark = match lacks_before {
        Some(batch) => format!(
            "the query starts with asyncProgressTrackingEnabled=true only; without it, it fails: \
             batch {batch} doesn't exist"
        ),
        None => "the query starts; it ran with asyncProgressTrackingEnabled=true".to_owned(),
    };
    needs.findings.push(
        Finding::damage(Code::AsyncProgress, "offsets")
            .with_severity(Severity::Note)
            .expected("gaps, if the query tracks its progress asynchronously")
            .found("the same batches missing from offsets/ and commits/")
            .spark(spark),
    );
}
