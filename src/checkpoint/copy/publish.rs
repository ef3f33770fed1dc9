//! The last steps of a copy: check the whole, write the manifest, one rename.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;
use jiff::Timestamp;

use super::transfer::below;
use super::work::Work;
use super::{
    Check, CopyError, CopyReport, CopyRequest, Damage, Event, Events, Existing, Planned,
    find_damage,
};
use crate::checkpoint::contents::Identity;
use crate::checkpoint::listing::EntryId;
use crate::checkpoint::manifest::{MANIFEST, Manifest, ManifestFile, Origin};
use crate::checkpoint::plan::{PlannedFile, Tally};
use crate::storage::{
    Attributes, CreateMode, Depth, ErrorKind, FileKind, FileStat, Storage, StorageError, StorageUri,
};

impl Work {
    /// Checks the tree, writes the manifest into it, and renames it to the destination.
    pub(super) async fn publish(
        &mut self,
        request: &CopyRequest,
        planned: &Planned,
        copied: Tally,
        events: Events<'_>,
    ) -> Result<CopyReport, CopyError> {
        let storage = Arc::clone(&self.destination.storage);
        let tree = self.tree();
        let entries = storage.list(&tree, Depth::Tree).await?;
        self.check_files(planned, &entries)?;
        if request.check == Check::ReadBack {
            self.read_back(request).await?;
        }
        let damage = find_damage(&self.destination, &tree).await?;
        if let Some(first) = damage.first()
            && request.damage == Damage::Refuse
        {
            return Err(self.not_sound(format!("{} finding(s), the first: {first}", damage.len())));
        }
        self.give_attributes(request, planned, &entries).await?;
        let manifest = self.manifest(request, planned);
        let mut writer = storage
            .create(&tree.join(MANIFEST), CreateMode::Replace)
            .await?;
        let content = manifest
            .encode()
            .map_err(|error| self.not_sound(error.to_string()))?;
        if let Err(error) = writer.write(content.into()).await {
            // The write's own error says more than a failed clean-up would.
            let _cleanup = writer.abort().await;
            return Err(error.into());
        }
        writer.finish().await?;
        storage.make_durable(&tree).await?;
        let moved_aside = self.move_aside(request).await?;
        self.lease.check(storage.as_ref()).await?;
        self.rename_tree(&manifest).await?;
        events(Event::Published);
        let mut report = CopyReport::of(request, &manifest, copied, moved_aside);
        report
            .problems
            .extend(planned.plan.problems.iter().cloned());
        report.remarks.extend(planned.plan.remarks.iter().cloned());
        Ok(report)
    }

    fn not_sound(&self, why: String) -> CopyError {
        CopyError::NotSound {
            work: self.uri(),
            why,
        }
    }

    /// Exactly the files of the plan are there, with their lengths.
    fn check_files(&self, planned: &Planned, entries: &[FileStat]) -> Result<(), CopyError> {
        let tree = self.tree();
        let mut found: HashMap<&str, u64> = entries
            .iter()
            .filter(|entry| entry.kind != FileKind::Dir)
            .filter_map(|entry| Some((entry.path.relative_to(&tree)?, entry.len_bytes)))
            .collect();
        // Of an earlier try to publish.
        found.remove(MANIFEST);
        for file in &planned.plan.files {
            let path = file.path(&planned.contents.listing);
            let expected = file.len_bytes(&planned.contents.listing);
            match found.remove(path) {
                Some(len_bytes) if len_bytes == expected => {}
                Some(len_bytes) => {
                    let why = format!("{path} has {len_bytes} bytes instead of {expected}");
                    return Err(self.not_sound(why));
                }
                None => return Err(self.not_sound(format!("{path} is missing"))),
            }
        }
        match found.keys().next() {
            Some(path) => Err(self.not_sound(format!("{path} is not in the plan"))),
            None => Ok(()),
        }
    }

    /// Reads every file back and holds it against its digest.
    async fn read_back(&self, request: &CopyRequest) -> Result<(), CopyError> {
        let storage = &self.destination.storage;
        let tree = self.tree();
        let mut checks = futures::stream::iter(self.journal.files())
            .map(|staged| {
                let path = below(&tree, &staged.path);
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
            if digest != staged.blake3 {
                let why = format!("{} reads back with another content", staged.path);
                return Err(self.not_sound(why));
            }
        }
        Ok(())
    }

    /// Gives files and directories the mode and the owners of the source where they differ. Owners
    /// that this user must not give are left, once told.
    async fn give_attributes(
        &self,
        request: &CopyRequest,
        planned: &Planned,
        entries: &[FileStat],
    ) -> Result<(), CopyError> {
        let listing = &planned.contents.listing;
        let tree = self.tree();
        let same_names = request.source.storage.authority() == self.destination.storage.authority();
        let mut wanted: HashMap<&str, EntryId> = HashMap::new();
        for file in &planned.plan.files {
            let like = match file {
                PlannedFile::Copy { entry, .. } => Some(*entry),
                PlannedFile::Write { like, .. } => *like,
            };
            if let Some(entry) = like {
                wanted.insert(file.path(listing), entry);
            }
        }
        for (dir, like) in &planned.plan.dirs {
            if let Some(entry) = like {
                wanted.insert(dir, *entry);
            }
        }
        let mut changes = Vec::new();
        for entry in entries {
            let Some(path) = entry.path.relative_to(&tree) else {
                continue;
            };
            let Some(source) = wanted.get(path) else {
                continue;
            };
            let source = listing.get(*source).attributes;
            let change = Attributes {
                mode: source.mode.filter(|mode| entry.mode != Some(*mode)),
                owner: source
                    .owner
                    .clone()
                    .filter(|o| same_names && entry.owner.as_ref() != Some(o)),
                group: source
                    .group
                    .clone()
                    .filter(|g| same_names && entry.group.as_ref() != Some(g)),
            };
            if change != Attributes::default() {
                changes.push((entry.path.clone(), change));
            }
        }
        let storage = &self.destination.storage;
        let mut set =
            futures::stream::iter(changes)
                .map(|(path, change)| async move {
                    set_as_allowed(storage.as_ref(), &path, change).await
                })
                .buffer_unordered(request.pace.small_at_once.clamp(1, 64));
        let mut refused = 0_u64;
        while let Some(done) = set.next().await {
            refused += u64::from(!done?);
        }
        if refused > 0 {
            tracing::warn!(
                files = refused,
                "owners or modes of the source could not be kept"
            );
        }
        Ok(())
    }

    fn manifest(&self, request: &CopyRequest, planned: &Planned) -> Manifest {
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
            forced: !plan.problems.is_empty(),
            problems: plan.problems.iter().map(ToString::to_string).collect(),
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
        let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let aside = self
            .destination
            .path
            .with_suffix(&format!(".stepdown-replaced-{stamp}"));
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

/// True if all was set; false if something was refused for lack of rights.
async fn set_as_allowed(
    storage: &dyn Storage,
    path: &crate::storage::StoragePath,
    change: Attributes,
) -> Result<bool, StorageError> {
    match storage.set_attributes(path, &change).await {
        Ok(()) => Ok(true),
        Err(error) if is_refusal(error.kind) && change.mode.is_some() => {
            let mode = Attributes {
                mode: change.mode,
                ..Attributes::default()
            };
            match storage.set_attributes(path, &mode).await {
                Ok(()) => Ok(change.owner.is_none() && change.group.is_none()),
                Err(error) if is_refusal(error.kind) => Ok(false),
                Err(error) => Err(error),
            }
        }
        Err(error) if is_refusal(error.kind) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::Unsupported)
}
