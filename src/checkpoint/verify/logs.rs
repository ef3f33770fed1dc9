//! The content of logs that were not read when the checkpoint was loaded.

use futures::TryStreamExt;

use super::files::severity;
use super::{Checker, Outcome};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::finding::{Code, Finding};
use crate::checkpoint::layout::{PathKind, classify};
use crate::checkpoint::listing::Listed;
use crate::checkpoint::load::present;
use crate::checkpoint::log::{CommitLog, LogDamage, MAX_LOG_BYTES, OffsetLog, SourceLogScan};
use crate::checkpoint::needs::{
    commit_damage, log_damage_in_spark, offset_damage, operator_damage,
};
use crate::checkpoint::operator::{MoveRefused, OperatorMetadata};
use crate::storage::ErrorKind;

impl Checker<'_> {
    /// A log that no restart needs: damage is a warning.
    pub(super) async fn check_old_log(
        &self,
        file: &Listed<'_>,
    ) -> Result<Outcome, CheckpointError> {
        let mut outcome = Outcome::default();
        let read = self
            .storage
            .read_small(&self.path(file.path), MAX_LOG_BYTES)
            .await;
        let content = match read {
            Ok(content) => Ok(content),
            // Purged meanwhile, as old logs are.
            Err(e) if e.kind == ErrorKind::NotFound => return Ok(outcome),
            Err(e) if e.kind == ErrorKind::TooLarge => Err(LogDamage::TooLarge {
                len_bytes: file.len_bytes,
            }),
            Err(e) => return Err(e.into()),
        };
        outcome.checked.add(file.len_bytes);
        let finding = match (classify(file.path), content) {
            (PathKind::Commit(_), content) => content
                .and_then(|content| CommitLog::parse(&content))
                .err()
                .map(|damage| commit_damage(file.path, &damage)),
            (PathKind::OperatorMetadata { .. }, content) => content
                .and_then(|content| OperatorMetadata::parse(&content))
                .err()
                .map(|damage| operator_damage(file.path, &MoveRefused::Damaged(damage))),
            (_, content) => content
                .and_then(|content| OffsetLog::parse(&content))
                .err()
                .map(|damage| offset_damage(file.path, &damage)),
        };
        outcome
            .findings
            .extend(finding.map(|finding| severity(false, finding)));
        Ok(outcome)
    }

    /// A file in `sources/<i>/`, of any length.
    pub(super) async fn check_source_log(
        &self,
        file: &Listed<'_>,
        is_needed: bool,
    ) -> Result<Outcome, CheckpointError> {
        let mut outcome = Outcome::default();
        let opened = present(self.storage.open_read(&self.path(file.path)).await)?;
        let Some(mut pieces) = opened else {
            return Ok(Outcome::vanished(file, is_needed));
        };
        let mut scan = SourceLogScan::default();
        let mut bytes = 0;
        while let Some(piece) = pieces.try_next().await? {
            bytes += piece.len() as u64;
            scan.add(&piece);
        }
        outcome.checked.add(bytes);
        if let Err(damage) = scan.finish() {
            outcome.findings.push(severity(
                is_needed,
                Finding::damage(Code::SourceLogDamaged, file.path)
                    .expected("a version line, and one line of JSON for each file or start")
                    .found(damage.to_string())
                    .spark(log_damage_in_spark(&damage, "in the source's log")),
            ));
        }
        Ok(outcome)
    }
}
