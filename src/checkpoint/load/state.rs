//! Of `state/`, what says which files belong together: metadata of operators, headers, zips.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::{READS_AT_ONCE, Reader, present};
use crate::checkpoint::contents::{Contents, OperatorFile};
use crate::checkpoint::layout::{PathKind, classify};
use crate::checkpoint::listing::{EntryId, Listed};
use crate::checkpoint::needs::{Unread, needs};
use crate::checkpoint::operator::{
    MAX_OPERATOR_METADATA_BYTES, OperatorMetadata, path_of_uri, relative_schema_path,
};
use crate::checkpoint::state_store::lz4::{BlockStream, Examine};
use crate::checkpoint::state_store::payload::{
    ChangelogHeader, HeaderDamage, PayloadKind, PayloadScan,
};
use crate::checkpoint::state_store::rocksdb::{MAX_ZIP_BYTES, RocksMetadata, ZipDamage};
use crate::checkpoint::target::{At, choose_target};
use crate::storage::{ErrorKind, StorageError, StoragePath, StorageUri};

/// MiB of files that are held at the same time.
const MIB_AT_ONCE: u32 = 64;

impl Reader<'_> {
    pub(super) async fn read_operators(&self, contents: &mut Contents) -> Result<(), StorageError> {
        let files: Vec<(EntryId, StoragePath)> = contents
            .listing
            .below("state")
            .filter(Listed::is_file)
            .filter(|file| matches!(classify(file.path), PathKind::OperatorMetadata { .. }))
            .map(|file| (file.id, self.path(file.path)))
            .collect();
        let read = |(entry, path): (EntryId, StoragePath)| async move {
            let content = self.read_log(&path, MAX_OPERATOR_METADATA_BYTES).await?;
            let file = match content {
                Ok(content) => OperatorFile {
                    metadata: OperatorMetadata::parse(&content),
                    content,
                },
                Err(damage) => OperatorFile {
                    metadata: Err(damage),
                    content: Bytes::new(),
                },
            };
            Ok((entry, file))
        };
        contents.operators = futures::stream::iter(files)
            .map(read)
            .buffer_unordered(READS_AT_ONCE)
            .try_collect::<BTreeMap<_, _>>()
            .await?;
        let elsewhere: BTreeSet<String> = contents
            .operators
            .values()
            .filter_map(|file| file.metadata.as_ref().ok())
            .flat_map(OperatorMetadata::schema_uris)
            .filter(|uri| !self.is_here(uri))
            .map(str::to_owned)
            .collect();
        for uri in elsewhere {
            let is_there = self.exists(&uri).await?;
            contents.schemas_elsewhere.insert(uri, is_there);
        }
        Ok(())
    }

    /// Whether a schema file's URI leads into this checkpoint, whatever its scheme and authority.
    fn is_here(&self, uri: &str) -> bool {
        let Some(relative) = relative_schema_path(uri) else {
            return false;
        };
        let before = path_of_uri(uri).strip_suffix(relative).unwrap_or_default();
        before.trim_end_matches('/') == self.home.as_str()
    }

    /// Whether a file that is named by URI is there; `None` if it lies in another storage.
    async fn exists(&self, uri: &str) -> Result<Option<bool>, StorageError> {
        let Ok(uri) = uri.parse::<StorageUri>() else {
            return Ok(None);
        };
        if uri.authority != *self.storage.authority() {
            return Ok(None);
        }
        Ok(Some(present(self.storage.stat(&uri.path).await)?.is_some()))
    }

    /// Reads headers of changelogs and zips until it is known which files the stores need.
    pub(super) async fn read_state(
        &self,
        contents: &mut Contents,
        at: At,
    ) -> Result<(), StorageError> {
        let Ok(target) = choose_target(contents, at) else {
            return Ok(());
        };
        loop {
            let unread = needs(contents, &target).unread;
            if unread.is_empty() {
                return Ok(());
            }
            let room = Semaphore::new(MIB_AT_ONCE as usize);
            let files: Vec<_> = unread
                .into_iter()
                .map(|unread| {
                    let (Unread::Header(entry) | Unread::Zip(entry)) = unread;
                    let file = contents.listing.get(entry);
                    (unread, self.path(file.path), file.len_bytes)
                })
                .collect();
            let mut read = futures::stream::iter(files)
                .map(|(unread, path, len_bytes)| self.read_one(unread, path, len_bytes, &room))
                .buffer_unordered(READS_AT_ONCE);
            while let Some(one) = read.try_next().await? {
                match one {
                    ReadOne::Header(entry, header) => {
                        contents.headers.insert(entry, header);
                    }
                    ReadOne::Zip(entry, zip) => {
                        contents.zips.insert(entry, zip);
                    }
                }
            }
        }
    }

    async fn read_one(
        &self,
        unread: Unread,
        path: StoragePath,
        len_bytes: u64,
        room: &Semaphore,
    ) -> Result<ReadOne, StorageError> {
        match unread {
            Unread::Header(entry) => Ok(ReadOne::Header(entry, self.read_header(&path).await?)),
            Unread::Zip(entry) => {
                let mib = u32::try_from(len_bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
                // Closed by nobody; without a permit the read is only less bounded.
                let _permit = room.acquire_many(mib.clamp(1, MIB_AT_ONCE)).await.ok();
                let zip = match self.storage.read_small(&path, MAX_ZIP_BYTES).await {
                    Ok(content) => RocksMetadata::from_zip(&content, Examine::Frames),
                    Err(e) if e.kind == ErrorKind::NotFound => Err(ZipDamage::Vanished),
                    Err(e) if e.kind == ErrorKind::TooLarge => {
                        Err(ZipDamage::TooLarge { len_bytes })
                    }
                    Err(e) => return Err(e),
                };
                Ok(ReadOne::Zip(entry, zip))
            }
        }
    }

    /// The header of a changelog; reads no more of the file than that takes.
    async fn read_header(
        &self,
        path: &StoragePath,
    ) -> Result<Result<ChangelogHeader, HeaderDamage>, StorageError> {
        let Some(mut pieces) = present(self.storage.open_read(path).await)? else {
            return Ok(Err(HeaderDamage::Vanished));
        };
        let mut stream = BlockStream::new(Examine::Content);
        let mut payload = PayloadScan::new(PayloadKind::Changelog);
        while let Some(piece) = pieces.try_next().await? {
            let mut damage = None;
            let unpacked = stream.add(&piece, &mut |block| {
                if damage.is_none() {
                    damage = payload.add(block).err();
                }
            });
            if let Some(header) = payload.header() {
                return Ok(Ok(header.clone()));
            }
            if let Some(damage) = damage {
                return Ok(Err(damage.into()));
            }
            if let Err(damage) = unpacked {
                return Ok(Err(damage.into()));
            }
        }
        Ok(Err(HeaderDamage::Short))
    }
}

enum ReadOne {
    Header(EntryId, Result<ChangelogHeader, HeaderDamage>),
    Zip(EntryId, Result<RocksMetadata, ZipDamage>),
}
