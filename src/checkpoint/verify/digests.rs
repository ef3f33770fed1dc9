//! A copy against its manifest: every file by its digest.

use futures::{StreamExt as _, TryStreamExt as _};

use super::{Outcome, READS_AT_ONCE};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::copies::is_in_use;
use crate::checkpoint::finding::{Code, Finding, Severity};
use crate::checkpoint::manifest::{MANIFEST, Manifest, ManifestFile};
use crate::storage::{ErrorKind, Storage, StoragePath};

/// Holds every file of the copy in `dir` against its manifest. Nothing for a directory that is no
/// copy, or in which a query has run since: its files are other ones by now.
pub(super) async fn check_digests(
    storage: &dyn Storage,
    dir: &StoragePath,
) -> Result<Outcome, CheckpointError> {
    let mut outcome = Outcome::default();
    let manifest = match Manifest::load(storage, dir).await {
        Ok(Some(manifest)) => manifest,
        Ok(None) => return Ok(outcome),
        Err(CheckpointError::Manifest { why, .. }) => {
            let finding = Finding::damage(Code::ManifestDamaged, MANIFEST)
                .with_severity(Severity::Warning)
                .expected("the manifest of a copy")
                .found(why)
                .spark("Spark ignores it; whether the copy is what was copied is not known");
            outcome.findings.push(finding);
            return Ok(outcome);
        }
        Err(error) => return Err(error),
    };
    if is_in_use(storage, dir, &manifest).await? {
        return Ok(outcome);
    }
    let mut checks = futures::stream::iter(&manifest.files)
        .map(|file| check_file(storage, dir, file))
        .buffer_unordered(READS_AT_ONCE);
    while let Some(finding) = checks.try_next().await? {
        outcome.findings.extend(finding);
    }
    Ok(outcome)
}

async fn check_file(
    storage: &dyn Storage,
    dir: &StoragePath,
    file: &ManifestFile,
) -> Result<Option<Finding>, CheckpointError> {
    let path = dir.join_all(&file.path);
    let finding = |code, found: String| {
        Finding::damage(code, &file.path)
            .expected("the content that was copied, by the manifest")
            .found(found)
            .spark("the query may start and give wrong results, without an error")
    };
    let mut content = match storage.open_read(&path).await {
        Ok(content) => content,
        Err(error) if error.kind == ErrorKind::NotFound => {
            let missing = finding(Code::CopiedFileMissing, "no such file".to_owned())
                .spark("the query fails if it needs the file");
            return Ok(Some(missing.with_severity(Severity::Warning)));
        }
        Err(error) => return Err(error.into()),
    };
    let mut digest = blake3::Hasher::new();
    let mut bytes = 0_u64;
    while let Some(piece) = content.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        digest.update(&piece);
    }
    if digest.finalize().to_hex().as_str() == file.blake3 {
        return Ok(None);
    }
    let found = format!("other content ({bytes} bytes; {} were copied)", file.bytes);
    Ok(Some(finding(Code::DigestDiffers, found)))
}
