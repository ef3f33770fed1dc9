//! Copies of the checkpoints for the new job, made between the proof of a stop and its receipt: who
//! waits for the receipt finds them complete.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::alarm::AlarmKind;
use super::crash_point::crash_point;
use super::drive::Drive;
use super::slot::SlotEngine;
use super::stopping::StepError;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::copy::{CopyError, CopyReport, CopyRequest, Existing, Place, copy};
use crate::checkpoint::target::At;
use crate::control::LeaseError;
use crate::marker::poll::error_chain;
use crate::model::StopId;
use crate::stop::receipt::{CheckpointCopy, CopyEnd};
use crate::storage::StoragePath;

/// Where the copies of a slot's checkpoints go.
#[derive(Debug)]
pub struct CopyOrders {
    /// One for each checkpoint, in their order.
    pub destinations: Vec<Destination>,
    /// What becomes of a directory that stands there.
    pub existing: Existing,
    /// How long the receipt waits for a storage that does not take the copy.
    pub deadline: Duration,
}

/// Where one copy goes.
#[derive(Debug)]
pub struct Destination {
    /// The place; its path may have a placeholder.
    pub place: Place,
    /// What stands for the stop's id in the path.
    pub placeholder: &'static str,
}

impl Destination {
    fn of_stop(&self, stop_id: &StopId) -> Place {
        let text = self
            .place
            .path
            .to_string()
            .replace(self.placeholder, stop_id.as_str());
        // An id has letters that every path takes.
        let path = StoragePath::parse(&text).unwrap_or_else(|_| self.place.path.clone());
        Place {
            storage: self.place.storage.clone(),
            path,
        }
    }
}

/// The id of the copy that a stop makes: whoever takes the stop up finds what was published before.
fn copy_id(stop_id: &StopId, source: &Place, destination: &Place) -> Uuid {
    let name = format!(
        "{}\n{}\n{}",
        stop_id.as_str(),
        source.uri(),
        destination.uri()
    );
    id_of(&name)
}

/// An id that follows from a name.
pub(super) fn id_of(name: &str) -> Uuid {
    let digest = blake3::hash(name.as_bytes());
    let mut bytes = [0; 16];
    for (byte, of_digest) in bytes.iter_mut().zip(digest.as_bytes()) {
        *byte = *of_digest;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

impl SlotEngine {
    /// Copies what is not copied yet; `drive.copies` then has an entry for each checkpoint.
    pub(super) async fn copy_checkpoints(
        &mut self,
        stop_id: &StopId,
        drive: &mut Drive,
    ) -> Result<(), StepError> {
        let Some(orders) = self.spec.copy_orders.clone() else {
            return Ok(());
        };
        let since = *drive.copying_since.get_or_insert_with(Instant::now);
        let places = self.spec.checkpoints.iter().zip(&orders.destinations);
        let todo: Vec<(Place, Place)> = places
            .skip(drive.copies.len())
            .map(|((storage, uri), destination)| {
                let source = Place {
                    storage: storage.clone(),
                    path: uri.path.clone(),
                };
                (source, destination.of_stop(stop_id))
            })
            .collect();
        for (source, destination) in todo {
            let request = CopyRequest {
                copy_id: Some(copy_id(stop_id, &source, &destination)),
                existing: orders.existing,
                ..CopyRequest::new(source, destination, At::Planned)
            };
            let end = match self.copy_one(&request, drive).await? {
                Ok(report) => {
                    self.alarms.clear(AlarmKind::CopyFailed);
                    copied(report)
                }
                Err(error) if !is_final(&error) && since.elapsed() < orders.deadline => {
                    return Err(StepError::Copy(Box::new(error)));
                }
                Err(error) => {
                    let why = error_chain(&error);
                    let text = format!("{} was not copied: {why}", request.source.uri());
                    self.alarms
                        .raise(AlarmKind::CopyFailed, &text, &self.spec.hooks);
                    CopyEnd::Failed { why }
                }
            };
            drive.copies.push(CheckpointCopy {
                source: request.source.uri(),
                destination: request.destination.uri(),
                end,
            });
            crash_point("copied");
        }
        Ok(())
    }

    /// One copy, with the stop's lease kept meanwhile.
    async fn copy_one(
        &self,
        request: &CopyRequest,
        drive: &mut Drive,
    ) -> Result<Result<CopyReport, CopyError>, StepError> {
        let (source, destination) = (request.source.uri(), request.destination.uri());
        tracing::info!(%source, %destination, "copying the checkpoint for the new job");
        let ttl = self.spec.lease_ttl;
        let cancel = self.shutdown.child_token();
        let copyist = self.daemon.copyist(ttl);
        // On a thread of its own: what it computes over gigabytes must not delay anybody's poll.
        let runtime = tokio::runtime::Handle::current();
        let (order, until) = (request.clone(), cancel.clone());
        let mut copying = tokio::task::spawn_blocking(move || {
            runtime.block_on(copy(&order, &copyist, &|_| {}, &until))
        });
        let done = loop {
            tokio::select! {
                done = &mut copying => break done.map_err(StepError::Unfollowed)?,
                () = tokio::time::sleep(ttl / 4) => {}
            }
            if let Some(lease) = drive.lease.as_mut()
                && lease.is_beat_due(ttl)
                && let Err(error @ LeaseError::Lost { .. }) =
                    lease.beat(self.control.storage().as_ref()).await
            {
                // The new holder makes the copy; the work directory has a lease of its own.
                cancel.cancel();
                let _interrupted = copying.await;
                return Err(error.into());
            }
        };
        match &done {
            Ok(report) => {
                let (files, bytes) = (report.total.files, report.total.bytes);
                tracing::info!(%destination, files, bytes, "the copy is there");
            }
            Err(error) => tracing::warn!("no copy: {}", error_chain(error)),
        }
        Ok(done)
    }
}

fn copied(report: CopyReport) -> CopyEnd {
    CopyEnd::Copied {
        copy_id: report.copy_id,
        query_id: report.query_id,
        last_planned_batch: report.last_planned_batch,
        last_committed_batch: report.last_committed_batch,
        files: report.total.files,
        bytes: report.total.bytes,
        moved_aside: report.moved_aside,
    }
}

/// Whether trying again cannot help: what is wrong lies in the checkpoint or the configuration.
fn is_final(error: &CopyError) -> bool {
    match error {
        CopyError::Refused { .. }
        | CopyError::Damaged { .. }
        | CopyError::Exists { .. }
        | CopyError::Unfinished { .. }
        | CopyError::Nested { .. }
        | CopyError::NotSound { .. }
        | CopyError::SourceGone { .. }
        | CopyError::Checkpoint(CheckpointError::Missing { .. }) => true,
        CopyError::Storage(_)
        | CopyError::CutShort { .. }
        | CopyError::Checkpoint(_)
        | CopyError::InProgress { .. }
        | CopyError::Document(_)
        | CopyError::Lease(_)
        | CopyError::Unstable { .. }
        | CopyError::Interrupted { .. } => false,
    }
}
