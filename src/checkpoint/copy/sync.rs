//! A copy in several passes: while the job still runs, and a last one.

use tokio_util::sync::CancellationToken;

use super::pass::{pass, plan_now};
use super::proof::Look;
use super::{
    CopyError, CopyReport, CopyRequest, Copyist, Events, Existing, Pace, Work, check_places,
    copy_or_settle, unless_stopped,
};
use crate::checkpoint::finding::Finding;
use crate::checkpoint::plan::Tally;
use crate::checkpoint::target::At;
use crate::storage::StorageUri;

/// Repeated passes into one work directory while the job still runs, then the last one.
#[derive(Debug)]
pub struct SyncedCopy {
    request: CopyRequest,
    work: Work,
}

/// What a pass came to.
#[derive(Debug)]
pub struct Passed {
    /// What it had to copy.
    pub copied: Tally,
    /// What its plan lacks of what a restart needs; empty unless that is accepted. What the last pass lacks
    /// is lost.
    pub problems: Vec<Finding>,
}

impl SyncedCopy {
    /// Takes up the work directory of the destination, or begins one.
    ///
    /// # Errors
    /// [`CopyError`].
    pub async fn open(request: CopyRequest, copyist: &Copyist) -> Result<Self, CopyError> {
        let opened = async {
            check_places(&request).await?;
            Work::open(&request, copyist).await
        };
        match opened.await {
            Ok(work) => Ok(Self { request, work }),
            Err(error) => Err(error.of_copy_to(&request.destination, false)),
        }
    }

    /// One pass as of the last committed batch.
    ///
    /// # Errors
    /// [`CopyError`]; a later pass goes on with what is there.
    pub async fn pass(
        &mut self,
        events: Events<'_>,
        shutdown: &CancellationToken,
    ) -> Result<Passed, CopyError> {
        let passed = self.pass_once(events, shutdown).await;
        passed.map_err(|error| error.of_copy_to(&self.request.destination, true))
    }

    async fn pass_once(
        &mut self,
        events: Events<'_>,
        shutdown: &CancellationToken,
    ) -> Result<Passed, CopyError> {
        if self.request.existing == Existing::Refuse && self.request.destination.exists().await? {
            return Err(CopyError::Exists {
                destination: self.request.destination.uri(),
            });
        }
        let request = CopyRequest {
            at: At::Committed,
            ..self.request.clone()
        };
        let (planned, copied) = match pass(&mut self.work, &request, None, events, shutdown).await {
            // A minimal copy with a batch in flight restarts from there, and not from the batch before.
            Err(CopyError::Damaged { .. }) => {
                pass(&mut self.work, &self.request, None, events, shutdown).await?
            }
            made => made?,
        };
        let proved = self.work.prove(&request, &planned, Look::AtAll);
        unless_stopped(&request, shutdown, proved).await?;
        Ok(Passed {
            copied,
            problems: planned.plan.problems,
        })
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
        let finished = self.finish_once(events, shutdown).await;
        finished.map_err(|error| error.of_copy_to(&self.request.destination, true))
    }

    async fn finish_once(
        &mut self,
        events: Events<'_>,
        shutdown: &CancellationToken,
    ) -> Result<CopyReport, CopyError> {
        let request = CopyRequest {
            pace: Pace::HURRIED,
            ..self.request.clone()
        };
        let first = unless_stopped(&request, shutdown, plan_now(&request)).await?;
        copy_or_settle(&mut self.work, &request, first, events, shutdown).await
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
