//! The wiring: from the configuration to the parts. The only file that knows every part.

use std::sync::Arc;

use crate::config::{Config, Loaded};
use crate::control::ControlDir;
use crate::storage::local::{LocalOptions, LocalStorage};
use crate::storage::timeout::WithTimeout;
use crate::storage::{Authority, ErrorKind, Storage, StorageError, StoragePath, StorageUri};

/// The parts, made from one configuration.
#[derive(Debug)]
pub struct App {
    loaded: Loaded,
    local: Arc<WithTimeout<LocalStorage>>,
}

impl App {
    /// The parts as `loaded` says; nothing is connected or opened yet.
    pub fn new(loaded: Loaded) -> Self {
        let call_timeout = loaded.config.watch.call_timeout;
        let local = LocalStorage::new(LocalOptions { fsync: true });
        Self {
            loaded,
            local: Arc::new(WithTimeout::new(local, call_timeout)),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// The configuration with its account.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The storage that `authority` names, every call of it bounded by `watch.call-timeout`.
    ///
    /// # Errors
    /// `Config` where it cannot be set up from the configuration.
    pub fn storage(&self, authority: &Authority) -> Result<Arc<dyn Storage>, StorageError> {
        match authority {
            Authority::Local => Ok(self.local.clone()),
            Authority::Memory(_) | Authority::Hdfs(_) | Authority::Viewfs(_) => {
                let uri = StorageUri::new(authority.clone(), StoragePath::root());
                Err(StorageError::new("open", uri, ErrorKind::Unsupported))
            }
        }
    }

    /// The control directory at `uri`; nothing is read or made.
    ///
    /// # Errors
    /// As [`App::storage`].
    pub fn control_at(&self, uri: &StorageUri) -> Result<ControlDir, StorageError> {
        Ok(ControlDir::new(
            self.storage(&uri.authority)?,
            uri.path.clone(),
        ))
    }
}
