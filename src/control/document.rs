//! Message files: JSON with a kind and a format version, published whole.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::storage::{CreateMode, ErrorKind, Storage, StorageError, StoragePath, StorageUri};

/// The format version that this stepdown writes, and the only one it reads.
pub const FORMAT: u32 = 1;

/// Larger files are not read: no message comes near this size.
const MAX_BYTES: u64 = 4 << 20;

/// A type that is kept as a message file.
pub trait Document: Serialize + DeserializeOwned + Send + Sync {
    /// The `kind` field, which tells one sort of message from another.
    const KIND: &'static str;
}

/// Why a message file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The storage refused or did not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file is no message of this kind; it is left as it is.
    #[error("{uri} is not a usable {kind} file: {why}")]
    Malformed {
        /// The file.
        uri: StorageUri,
        /// The kind that was expected.
        kind: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The directory is not the control directory that it should be: what is missing in it may be
    /// elsewhere.
    #[error(
        "{uri} has no sentinel: it is no control directory, or what it lies on is not mounted; \
         `stepdown init {uri}` makes one"
    )]
    NoControl {
        /// The directory.
        uri: StorageUri,
    },
}

impl DocumentError {
    /// The sort of the storage error below, if there is one.
    pub fn storage_kind(&self) -> Option<ErrorKind> {
        match self {
            DocumentError::Storage(error) => Some(error.kind),
            DocumentError::Malformed { .. } | DocumentError::NoControl { .. } => None,
        }
    }
}

/// Result of an exclusive save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// This call made the file.
    Created,
    /// Another writer was first; nothing was changed.
    Exists,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    format: u32,
    kind: String,
    /// Names this one write, so that a write whose answer was lost can be told from another's.
    write_id: Uuid,
    #[serde(flatten)]
    body: T,
}

fn encode<D: Document>(body: &D, write_id: Uuid, uri: &StorageUri) -> Result<Bytes, DocumentError> {
    let envelope = Envelope {
        format: FORMAT,
        kind: D::KIND.to_owned(),
        write_id,
        body,
    };
    let mut text =
        serde_json::to_vec_pretty(&envelope).map_err(|error| DocumentError::Malformed {
            uri: uri.clone(),
            kind: D::KIND,
            why: error.to_string(),
        })?;
    text.push(b'\n');
    Ok(text.into())
}

fn decode<D: Document>(bytes: &[u8], uri: &StorageUri) -> Result<(D, Uuid), DocumentError> {
    #[derive(Deserialize)]
    struct Head {
        format: Option<u32>,
        kind: Option<String>,
    }
    let malformed = |why: String| DocumentError::Malformed {
        uri: uri.clone(),
        kind: D::KIND,
        why,
    };
    let head: Head = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    match (head.format, head.kind.as_deref()) {
        (Some(FORMAT), Some(kind)) if kind == D::KIND => {}
        (Some(FORMAT), kind) => {
            return Err(malformed(format!(
                "its kind is {:?}",
                kind.unwrap_or("missing")
            )));
        }
        (Some(other), _) => {
            return Err(malformed(format!(
                "its format version is {other}, this stepdown knows {FORMAT}; use the version that wrote it"
            )));
        }
        (None, _) => return Err(malformed("it has no format version".to_owned())),
    }
    let envelope: Envelope<D> =
        serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    Ok((envelope.body, envelope.write_id))
}

fn uri_of(storage: &dyn Storage, path: &StoragePath) -> StorageUri {
    StorageUri::new(storage.authority().clone(), path.clone())
}

async fn load_with_id<D: Document>(
    storage: &dyn Storage,
    path: &StoragePath,
) -> Result<(D, Uuid), DocumentError> {
    let bytes = storage.read_small(path, MAX_BYTES).await?;
    decode(&bytes, &uri_of(storage, path))
}

/// The message in the file at `path`.
///
/// # Errors
/// Storage errors, `NotFound` among them; `Malformed` for another kind or format version.
pub async fn load<D: Document>(
    storage: &dyn Storage,
    path: &StoragePath,
) -> Result<D, DocumentError> {
    Ok(load_with_id(storage, path).await?.0)
}

/// The message in the file at `path`, or `None` where the storage says that there is no such file.
///
/// A read's "not found" alone is not trusted (it has several shapes): the file's own stat must say so.
///
/// # Errors
/// As [`load`], without `NotFound`.
pub async fn load_optional<D: Document>(
    storage: &dyn Storage,
    path: &StoragePath,
) -> Result<Option<D>, DocumentError> {
    match storage.stat(path).await {
        Ok(_) => load(storage, path).await.map(Some),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn write_whole(
    storage: &dyn Storage,
    path: &StoragePath,
    mode: CreateMode,
    bytes: Bytes,
) -> Result<(), StorageError> {
    let mut writer = storage.create(path, mode).await?;
    if let Err(error) = writer.write(bytes).await {
        // The write's own error says more than a failed clean-up would.
        let _cleanup = writer.abort().await;
        return Err(error);
    }
    writer.finish().await
}

/// Saves a message that must not be there yet. Of any number of writers exactly one gets `Created`.
///
/// A write whose answer was lost is looked for by its write id before anything is reported.
///
/// # Errors
/// Storage errors; `OutcomeUnknown` where the look failed too.
pub async fn save_new<D: Document>(
    storage: &dyn Storage,
    path: &StoragePath,
    body: &D,
) -> Result<Saved, DocumentError> {
    let write_id = Uuid::new_v4();
    let bytes = encode(body, write_id, &uri_of(storage, path))?;
    let outcome = write_whole(storage, path, CreateMode::New, bytes).await;
    settle_new::<D>(storage, path, write_id, outcome).await
}

async fn settle_new<D: Document>(
    storage: &dyn Storage,
    path: &StoragePath,
    write_id: Uuid,
    outcome: Result<(), StorageError>,
) -> Result<Saved, DocumentError> {
    match outcome {
        Ok(()) => Ok(Saved::Created),
        // The name may have been taken by an earlier, unanswered attempt of this very write.
        Err(error)
            if matches!(
                error.kind,
                ErrorKind::AlreadyExists | ErrorKind::OutcomeUnknown
            ) =>
        {
            match load_with_id::<D>(storage, path).await {
                Ok((_, id)) if id == write_id => Ok(Saved::Created),
                Ok(_) => Ok(Saved::Exists),
                Err(_) if error.kind == ErrorKind::AlreadyExists => Ok(Saved::Exists),
                Err(_) => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// A message that is written but not published: see [`prepare_new`].
#[derive(Debug)]
pub struct Prepared<D> {
    at: StoragePath,
    write_id: Uuid,
    kind: std::marker::PhantomData<fn() -> D>,
}

impl<D> Prepared<D> {
    /// Removes it unpublished; best effort, a left-over is one small file with a telling name.
    pub async fn discard(self, storage: &dyn Storage) {
        let _cleanup = storage.delete_file(&self.at).await;
    }
}

/// Writes a message beside its place, so that [`publish_new`] is one quick rename later.
///
/// # Errors
/// Storage errors.
pub async fn prepare_new<D: Document>(
    storage: &dyn Storage,
    path: &StoragePath,
    body: &D,
) -> Result<Prepared<D>, DocumentError> {
    let write_id = Uuid::new_v4();
    let bytes = encode(body, write_id, &uri_of(storage, path))?;
    let dir = path.parent().unwrap_or_else(StoragePath::root);
    let at = dir.join(&format!(".{}.{write_id}.stepdown-tmp", path.name()));
    write_whole(storage, &at, CreateMode::Scratch, bytes).await?;
    Ok(Prepared {
        at,
        write_id,
        kind: std::marker::PhantomData,
    })
}

/// Publishes a prepared message at `path`, exclusively, as [`save_new`] does.
///
/// # Errors
/// As [`save_new`].
pub async fn publish_new<D: Document>(
    storage: &dyn Storage,
    path: &StoragePath,
    prepared: Prepared<D>,
) -> Result<Saved, DocumentError> {
    let outcome = storage.rename(&prepared.at, path).await;
    let settled = settle_new::<D>(storage, path, prepared.write_id, outcome).await;
    if matches!(settled, Ok(Saved::Exists)) {
        prepared.discard(storage).await;
    }
    settled
}

/// Saves a message in place of an older one.
///
/// # Errors
/// Storage errors; `OutcomeUnknown` where it cannot be told whether the message was saved.
pub async fn save_replacing<D: Document>(
    storage: &dyn Storage,
    path: &StoragePath,
    body: &D,
) -> Result<(), DocumentError> {
    let write_id = Uuid::new_v4();
    let bytes = encode(body, write_id, &uri_of(storage, path))?;
    match write_whole(storage, path, CreateMode::Replace, bytes).await {
        Ok(()) => Ok(()),
        Err(error) if error.kind == ErrorKind::OutcomeUnknown => {
            match load_with_id::<D>(storage, path).await {
                Ok((_, id)) if id == write_id => Ok(()),
                _ => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}
