//! The last steps of a copy: check it, write the manifest, one rename.

use std::sync::Arc;

use futures::StreamExt as _;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::proof::Look;
use super::transfer::write_whole;
use super::work::{Work, is_no_answer, work_uri};
use super::{
    Check, CopyError, CopyReport, CopyRequest, Damage, Event, Events, Existing, Planned,
    find_damage, unless_stopped,
};
use crate::checkpoint::contents::Identity;
use crate::checkpoint::finding::Finding;
use crate::checkpoint::manifest::{MANIFEST, Manifest, ManifestFile, Origin};
use crate::checkpoint::plan::Tally;
use crate::checkpoint::replaced::{REPLACED, STAMP};
use crate::control::LeaseError;
use crate::storage::{CreateMode, ErrorKind, StorageError, StorageUri};

impl Work {
    /// Checks the tree, writes the manifest into it, and renames it to the destination.
    pub(super) async fn publish(
        &mut self,
        request: &CopyRequest,
        planned: &Planned,
        copied: Tally,
        events: Events<'_>,
        shutdown: &CancellationToken,
    ) -> Result<CopyReport, CopyError> {
        let storage = Arc::clone(&self.destination.storage);
        let tree = self.tree();
        // HDFS takes its time to close a file: these two are closed at the same time.
        let recording = self.recording();
        let writing = self.write_manifest(request, planned, shutdown);
        let (recorded, written) = futures::future::join(recording, writing).await;
        // The first error says more.
        let (manifest, problems) = written?;
        recorded?;
        storage.make_durable(&tree).await?;
        let moved_aside = self.move_aside(request).await?;
        self.assure().await?;
        self.rename_tree(&manifest).await?;
        events(Event::Published);
        let mut report = CopyReport::of(request, &manifest, copied, moved_aside);
        report.problems.extend(problems);
        report.remarks.extend(planned.plan.remarks.iter().cloned());
        Ok(report)
    }

    /// Checks the tree and writes the manifest into it; says what was found, too.
    async fn write_manifest(
        &mut self,
        request: &CopyRequest,
        planned: &Planned,
        shutdown: &CancellationToken,
    ) -> Result<(Manifest, Vec<Finding>), CopyError> {
        let storage = Arc::clone(&self.destination.storage);
        let tree = self.tree();
        let looked = unless_stopped(request, shutdown, async {
            self.prove(request, planned, Look::AtNews).await?;
            if request.check == Check::ReadBack {
                self.read_back(request).await?;
            }
            find_damage(&self.destination, &tree, planned, request.damage).await
        });
        let damage = looked.await?;
        if let Some(first) = damage.first()
            && request.damage == Damage::Refuse
        {
            return Err(self.not_sound(format!("{} finding(s), the first: {first}", damage.len())));
        }
        // What the plan did not know of.
        let problems = &planned.plan.problems;
        let found = damage.into_iter().filter(|found| !problems.contains(found));
        let problems: Vec<Finding> = problems.iter().cloned().chain(found).collect();
        let manifest = self.manifest(request, planned, &problems);
        let content = manifest
            .encode()
            .map_err(|error| self.not_sound(error.to_string()))?;
        let path = tree.join(MANIFEST);
        write_whole(storage.as_ref(), &path, CreateMode::Replace, content.into()).await?;
        Ok((manifest, problems))
    }

    pub(super) fn not_sound(&self, why: String) -> CopyError {
        CopyError::NotSound {
            work: self.uri(),
            why,
        }
    }

    /// Reads every file back and holds it against its digest.
    async fn read_back(&mut self, request: &CopyRequest) -> Result<(), CopyError> {
        let tree = self.tree();
        let storage = &self.destination.storage;
        let mut checks = futures::stream::iter(self.journal.files())
            .map(|staged| {
                let path = tree.join_all(&staged.path);
                async move {
                    let mut content = storage.open_read(&path).await?;
                    let mut digest = blake3::Hasher::new();
                    while let Some(piece) = content.next().await {
                        digest.update(&piece?);
                    }
                    Ok::<_, StorageError>((staged, digest.finalize()))
                }
            })
            .buffer_unordered(request.pace.small_at_once.clamp(1, 64));
        while let Some(checked) = checks.next().await {
            let (staged, digest) = checked?;
            if self.lease.is_beat_due(self.ttl) {
                match self.lease.beat(storage.as_ref()).await {
                    Ok(_) => {}
                    // Nothing is written here, and whose it is is asked again before the rename.
                    Err(LeaseError::Storage(error)) if is_no_answer(error.kind) => {
                        tracing::debug!("{error}; the lease may be late");
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if digest != staged.blake3 {
                return Err(CopyError::NotSound {
                    work: work_uri(&self.destination),
                    why: format!("{} reads back with another content", staged.path),
                });
            }
        }
        Ok(())
    }

    fn manifest(&self, request: &CopyRequest, planned: &Planned, problems: &[Finding]) -> Manifest {
        let listing = &planned.contents.listing;
        let plan = &planned.plan;
        let mut files: Vec<ManifestFile> = plan
            .files
            .iter()
            .filter_map(|file| self.journal.get(file.path(listing)))
            .map(|staged| ManifestFile {
                path: staged.path.clone(),
                bytes: staged.len_bytes,
                blake3: staged.blake3.to_hex().to_string(),
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let source_id = match &planned.contents.identity {
            Identity::Known(id) => Some(id.to_string()),
            Identity::Missing | Identity::Damaged(_) => None,
        };
        let mut manifest = Manifest {
            format: Manifest::FORMAT,
            kind: Manifest::KIND.to_owned(),
            copy_id: self.copy_id(),
            source: Origin {
                uri: request.source.uri(),
                query_id: source_id,
                copy_id: self.purpose.parent,
            },
            query_id: plan.query_id.map(|id| id.to_string()),
            last_planned_batch: None,
            last_committed_batch: None,
            state_version: 0,
            scope: plan.scope,
            forced: !problems.is_empty(),
            problems: problems.iter().map(ToString::to_string).collect(),
            created_at: Timestamp::now(),
            host: self.host.clone(),
            stepdown_version: env!("CARGO_PKG_VERSION").to_owned(),
            files,
        };
        manifest.set_target(&plan.target);
        manifest
    }

    /// Moves what stands at the destination out of the way, if that was asked for.
    async fn move_aside(&self, request: &CopyRequest) -> Result<Option<StorageUri>, CopyError> {
        let storage = &self.destination.storage;
        if request.existing == Existing::Refuse {
            return Ok(None);
        }
        let stamp = Timestamp::now().strftime(STAMP).to_string();
        // Two in one second must not meet.
        let id = self.copy_id().simple().to_string();
        let id = id.get(..8).unwrap_or_default();
        let aside = self
            .destination
            .path
            .with_suffix(&format!("{REPLACED}{stamp}-{id}"));
        match storage.rename(&self.destination.path, &aside).await {
            Ok(()) => {
                tracing::info!(from = %self.destination.path, to = %aside, "moved aside");
                Ok(Some(StorageUri::new(storage.authority().clone(), aside)))
            }
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn rename_tree(&self, manifest: &Manifest) -> Result<(), CopyError> {
        let storage = &self.destination.storage;
        match storage.rename(&self.tree(), &self.destination.path).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind == ErrorKind::OutcomeUnknown => {
                let found = Manifest::load(storage.as_ref(), &self.destination.path).await;
                match found {
                    Ok(Some(found)) if found.copy_id == manifest.copy_id => Ok(()),
                    _ => Err(error.into()),
                }
            }
            Err(error) if error.kind == ErrorKind::AlreadyExists => Err(CopyError::Exists {
                destination: self.destination.uri(),
            }),
            Err(error) => Err(error.into()),
        }
    }
}
