//! The content of single files.

use futures::TryStreamExt;

use super::content::{ContentScan, content_damage};
use super::{Checker, NotChecked, Outcome, Thoroughness};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::finding::{Code, Finding, Severity};
use crate::checkpoint::layout::{PathKind, StateFile, VersionKind, classify};
use crate::checkpoint::listing::{EntryId, Listed};
use crate::checkpoint::load::present;
use crate::checkpoint::needs::zip_damage;
use crate::checkpoint::state_store::checksum::{
    ChecksumDamage, MAX_SPARK_CHECKSUM_BYTES, SparkChecksum, hadoop_checksum_bytes,
};
use crate::checkpoint::state_store::lz4::{Examine, HEADER_BYTES, check_ends};
use crate::checkpoint::state_store::rocksdb::{MAX_ZIP_BYTES, RocksMetadata};
use crate::storage::{ErrorKind, Span, StoragePath};

/// Of state files above this only the two ends are looked at, unless every byte is asked for.
const MAX_QUICK_BYTES: u64 = 8 * 1024 * 1024;

/// A side file of Hadoop for a file of 4 GiB.
const MAX_HADOOP_CHECKSUM_BYTES: u64 = 32 * 1024 * 1024 + 8;

impl Checker<'_> {
    pub(super) async fn check_file(&self, entry: EntryId) -> Result<Outcome, CheckpointError> {
        let file = self.contents.listing.get(entry);
        let is_needed = self.needed.contains_key(&entry);
        match classify(file.path) {
            PathKind::State(path) => match path.file {
                StateFile::Version { kind, .. } => self.check_version(&file, kind, is_needed).await,
                StateFile::Sst(_) | StateFile::RocksLog(_) => {
                    self.check_data(&file, path.file, is_needed).await
                }
                StateFile::Schema => {
                    let scan = ContentScan::new().with_schema();
                    self.scan(&file, scan, None, is_needed).await
                }
                StateFile::Misnamed => self.read_through(&file).await,
            },
            PathKind::SourceLog { .. } => self.check_source_log(&file, is_needed).await,
            PathKind::Offset(_) | PathKind::Commit(_) | PathKind::OperatorMetadata { .. }
                if !is_needed =>
            {
                self.check_old_log(&file).await
            }
            // Read when the checkpoint was loaded.
            PathKind::Offset(_)
            | PathKind::Commit(_)
            | PathKind::OperatorMetadata { .. }
            | PathKind::Metadata => {
                let mut outcome = Outcome::default();
                outcome.checked.add(file.len_bytes);
                Ok(outcome)
            }
            PathKind::SourceFile { .. } | PathKind::StateSchema { .. } | PathKind::Foreign => {
                self.read_through(&file).await
            }
            // Read together with their files, or of no account.
            PathKind::SparkChecksum
            | PathKind::HadoopChecksum
            | PathKind::Temporary
            | PathKind::Manifest => Ok(Outcome::default()),
        }
    }

    pub(super) fn path(&self, relative: &str) -> StoragePath {
        self.dir.join_all(relative)
    }

    fn is_deep(&self) -> bool {
        self.thoroughness == Thoroughness::Deep
    }

    /// A file of a kind that has no checks: that its bytes can be read, in depth.
    async fn read_through(&self, file: &Listed<'_>) -> Result<Outcome, CheckpointError> {
        if !self.is_deep() {
            return Ok(Outcome::default());
        }
        self.scan(file, ContentScan::new(), None, false).await
    }

    async fn check_version(
        &self,
        file: &Listed<'_>,
        kind: VersionKind,
        is_needed: bool,
    ) -> Result<Outcome, CheckpointError> {
        let mut outcome = Outcome::default();
        let spark = self.spark_checksum(file, is_needed, &mut outcome).await?;
        if kind == VersionKind::Zip {
            outcome.add(self.check_zip(file, spark, is_needed).await?);
            return Ok(outcome);
        }
        if !self.is_deep() && file.len_bytes > MAX_QUICK_BYTES && self.contents.is_lz4() {
            outcome.add(self.check_ends(file, is_needed).await?);
            return Ok(outcome);
        }
        let codec = self.contents.codec();
        let scan = if self.contents.is_lz4() {
            let examine = if self.is_deep() {
                Examine::Content
            } else {
                Examine::Frames
            };
            ContentScan::new().with_records(kind, examine)
        } else {
            outcome.not_checked.push(NotChecked {
                path: file.path.to_owned(),
                why: format!("its codec is {codec}; stepdown reads lz4"),
            });
            ContentScan::new()
        };
        if !self.is_deep() && file.len_bytes > MAX_QUICK_BYTES {
            return Ok(outcome);
        }
        outcome.add(self.scan(file, scan, spark, is_needed).await?);
        Ok(outcome)
    }

    /// The first and the last frame of a large stream of blocks.
    async fn check_ends(
        &self,
        file: &Listed<'_>,
        is_needed: bool,
    ) -> Result<Outcome, CheckpointError> {
        let mut outcome = Outcome::default();
        let path = self.path(file.path);
        let first = self.storage.read_span(&path, Span::First(HEADER_BYTES));
        let first = present(first.await)?;
        let last = self.storage.read_span(&path, Span::Last(HEADER_BYTES));
        let (Some(first), Some(last)) = (first, present(last.await)?) else {
            return Ok(Outcome::vanished(file, is_needed));
        };
        outcome.checked.add((first.len() + last.len()) as u64);
        if let Err(damage) = check_ends(&first, &last, file.len_bytes) {
            let finding = content_damage(file.path, &damage.into());
            outcome.findings.push(severity(is_needed, finding));
        }
        Ok(outcome)
    }

    /// Reads a file once, for all that is to be compared.
    async fn scan(
        &self,
        file: &Listed<'_>,
        mut scan: ContentScan<'_>,
        spark: Option<SparkChecksum>,
        is_needed: bool,
    ) -> Result<Outcome, CheckpointError> {
        let mut outcome = Outcome::default();
        let opened = present(self.storage.open_read(&self.path(file.path)).await)?;
        let Some(mut pieces) = opened else {
            return Ok(Outcome::vanished(file, is_needed));
        };
        while let Some(piece) = pieces.try_next().await? {
            scan.add(&piece);
        }
        let scanned = scan.finish();
        outcome.checked.add(scanned.len_bytes);
        if let Some(damage) = scanned.damage {
            let finding = content_damage(file.path, &damage);
            outcome.findings.push(severity(is_needed, finding));
        }
        if let Some(damage) = scanned.hadoop_damage {
            outcome
                .findings
                .push(severity(is_needed, hadoop_differs(file, &damage)));
        }
        if let Some(spark) = spark.filter(|spark| spark.crc32c != scanned.crc32c) {
            let finding = spark_differs(file)
                .expected(format!("CRC32C {:08x}", spark.crc32c))
                .found(format!("CRC32C {:08x}", scanned.crc32c));
            outcome.findings.push(severity(is_needed, finding));
        }
        Ok(outcome)
    }

    async fn check_zip(
        &self,
        file: &Listed<'_>,
        spark: Option<SparkChecksum>,
        is_needed: bool,
    ) -> Result<Outcome, CheckpointError> {
        let mut outcome = Outcome::default();
        let mut side_file = None;
        self.hadoop_checksum(file, is_needed, &mut outcome, &mut side_file)
            .await?;
        if !self.is_deep() {
            // The zips of the chains were read when the checkpoint was loaded.
            outcome.checked.add(file.len_bytes);
            return Ok(outcome);
        }
        let mib = u32::try_from(file.len_bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        // Closed by nobody; without a permit the read is only less bounded.
        let _permit = self
            .room
            .acquire_many(mib.clamp(1, super::MIB_AT_ONCE))
            .await
            .ok();
        let read = self
            .storage
            .read_small(&self.path(file.path), MAX_ZIP_BYTES)
            .await;
        let content = match read {
            Ok(content) => content,
            Err(e) if e.kind == ErrorKind::NotFound => {
                outcome.add(Outcome::vanished(file, is_needed));
                return Ok(outcome);
            }
            // The finding was made when the checkpoint was loaded.
            Err(e) if e.kind == ErrorKind::TooLarge => return Ok(outcome),
            Err(e) => return Err(e.into()),
        };
        outcome.checked.add(content.len() as u64);
        if let Err(damage) = RocksMetadata::from_zip(&content, Examine::Content) {
            let finding = zip_damage(file.path, &damage);
            outcome.findings.push(severity(is_needed, finding));
        }
        let mut scan = ContentScan::new();
        if let Some(side_file) = &side_file {
            scan = scan.with_hadoop(side_file);
        }
        scan.add(&content);
        let scanned = scan.finish();
        if let Some(damage) = scanned.hadoop_damage {
            outcome
                .findings
                .push(severity(is_needed, hadoop_differs(file, &damage)));
        }
        if let Some(spark) = spark.filter(|spark| spark.crc32c != scanned.crc32c) {
            let finding = spark_differs(file)
                .expected(format!("CRC32C {:08x}", spark.crc32c))
                .found(format!("CRC32C {:08x}", scanned.crc32c));
            outcome.findings.push(severity(is_needed, finding));
        }
        Ok(outcome)
    }

    /// An SST or a log; unneeded ones may be half written and are only read.
    async fn check_data(
        &self,
        file: &Listed<'_>,
        kind: StateFile<'_>,
        is_needed: bool,
    ) -> Result<Outcome, CheckpointError> {
        let mut outcome = Outcome::default();
        let mut side_file = None;
        if is_needed {
            self.hadoop_checksum(file, is_needed, &mut outcome, &mut side_file)
                .await?;
        }
        if !self.is_deep() {
            return Ok(outcome);
        }
        let mut scan = ContentScan::new();
        if is_needed && matches!(kind, StateFile::Sst(_)) {
            scan = scan.with_sst_end();
        }
        if let Some(side_file) = &side_file {
            scan = scan.with_hadoop(side_file);
        }
        outcome.add(self.scan(file, scan, None, is_needed).await?);
        Ok(outcome)
    }

    /// Spark's own side file: its length at once, its checksum with the content.
    async fn spark_checksum(
        &self,
        file: &Listed<'_>,
        is_needed: bool,
        outcome: &mut Outcome,
    ) -> Result<Option<SparkChecksum>, CheckpointError> {
        let side = format!("{}.crc", file.path);
        if self.contents.listing.find(&side).is_none() {
            return Ok(None);
        }
        let path = self.path(&side);
        let read = self
            .storage
            .read_small(&path, MAX_SPARK_CHECKSUM_BYTES)
            .await;
        let parsed = match read {
            Ok(content) => {
                outcome.checked.add(content.len() as u64);
                SparkChecksum::parse(&content)
            }
            // Purged meanwhile; without it Spark only warns.
            Err(e) if e.kind == ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind == ErrorKind::TooLarge => {
                Err(ChecksumDamage::NotJson("it is too large".to_owned()))
            }
            Err(e) => return Err(e.into()),
        };
        match parsed {
            Ok(checksum) if checksum.len_bytes == file.len_bytes => Ok(Some(checksum)),
            Ok(checksum) => {
                let finding = spark_differs(file)
                    .expected(format!("{} bytes", checksum.len_bytes))
                    .found(format!("{} bytes", file.len_bytes));
                outcome.findings.push(severity(is_needed, finding));
                Ok(None)
            }
            Err(damage) => {
                let finding = Finding::damage(Code::ChecksumDiffers, side)
                    .expected("length and CRC32C of its file")
                    .found(damage.to_string())
                    .spark("the query fails when it reads the side file (4.3)");
                outcome.findings.push(severity(is_needed, finding));
                Ok(None)
            }
        }
    }

    /// Hadoop's side file, which its local file system compares for zips and SSTs: its length at
    /// once, its content into `content` for a deep check.
    async fn hadoop_checksum(
        &self,
        file: &Listed<'_>,
        is_needed: bool,
        outcome: &mut Outcome,
        content: &mut Option<bytes::Bytes>,
    ) -> Result<(), CheckpointError> {
        if !self.contents.location.starts_with("file:") {
            return Ok(());
        }
        let (dir, name) = file.path.rsplit_once('/').unwrap_or(("", file.path));
        let Some(side) = self.contents.listing.find(&format!("{dir}/.{name}.crc")) else {
            return Ok(());
        };
        let has_length = side.len_bytes == hadoop_checksum_bytes(file.len_bytes);
        if has_length && !self.is_deep() {
            return Ok(());
        }
        let path = self.path(side.path);
        match self
            .storage
            .read_small(&path, MAX_HADOOP_CHECKSUM_BYTES)
            .await
        {
            Ok(bytes) if self.is_deep() => *content = Some(bytes),
            // Chunks may have another length than 512 bytes.
            Ok(bytes) if bytes.get(4..8) == Some(&[0, 0, 2, 0]) || bytes.len() < 8 => {
                let finding = hadoop_differs(file, &ChecksumDamage::Length);
                outcome.findings.push(severity(is_needed, finding));
            }
            Ok(_) => outcome.not_checked.push(NotChecked {
                path: side.path.to_owned(),
                why: "its chunks have an unusual length; a deep check compares it".to_owned(),
            }),
            Err(e) if e.kind == ErrorKind::NotFound => {}
            Err(e) if e.kind == ErrorKind::TooLarge => outcome.not_checked.push(NotChecked {
                path: side.path.to_owned(),
                why: "it is too large".to_owned(),
            }),
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }
}

fn spark_differs(file: &Listed<'_>) -> Finding {
    Finding::damage(Code::ChecksumDiffers, file.path)
        .spark("the query fails: CHECKPOINT_FILE_CHECKSUM_VERIFICATION_FAILED (4.3)")
}

fn hadoop_differs(file: &Listed<'_>, damage: &ChecksumDamage) -> Finding {
    Finding::damage(Code::ChecksumDiffers, file.path)
        .expected("the content that its side file of Hadoop (.<name>.crc) describes")
        .found(damage.to_string())
        .spark("the query fails: ChecksumException: Checksum error (delete the side file)")
}

/// Damage of a file that no restart needs is a warning.
pub(super) fn severity(is_needed: bool, finding: Finding) -> Finding {
    if is_needed {
        return finding;
    }
    finding
        .with_severity(Severity::Warning)
        .spark("a restart does not read it; a rewind may")
}
