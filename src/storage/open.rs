//! Opens the storage that a URI names, once for each.

use std::collections::{BTreeMap, HashMap};
use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use super::hdfs::{HdfsOptions, HdfsStorage};
use super::hdfs_mount::Mount;
use super::hdfs_viewfs::ViewfsStorage;
use super::local::{LocalOptions, LocalStorage};
use super::timeout::WithTimeout;
use super::{Authority, ErrorKind, Result, Storage, StorageError, StoragePath, StorageUri};
use crate::hadoop::credentials::Login;
use crate::hadoop::{
    ConfSource, Environment, HadoopConf, HadoopConfError, MountLink, NameNode, NameService,
};

/// How storages are opened.
#[derive(Debug, Clone)]
pub struct StorageOptions {
    /// The longest that a single call may take.
    pub call_timeout: Duration,
    /// Whether local files are on disk when a call returns.
    pub fsync: bool,
    /// Where the Hadoop configuration is.
    pub hadoop_conf: ConfSource,
    /// Hadoop properties that win over its files.
    pub hadoop_overrides: BTreeMap<String, String>,
    /// Who stepdown is to HDFS.
    pub login: Login,
    /// Small files that are written to one HDFS at the same time.
    pub small_writers: usize,
    /// Large files that are written to one HDFS at the same time.
    pub large_writers: usize,
}

impl Default for StorageOptions {
    fn default() -> Self {
        let hdfs = HdfsOptions::default();
        Self {
            call_timeout: hdfs.call_timeout,
            fsync: true,
            hadoop_conf: ConfSource::default(),
            hadoop_overrides: BTreeMap::new(),
            login: Login::default(),
            small_writers: hdfs.small_writers,
            large_writers: hdfs.large_writers,
        }
    }
}

/// All storages of one process, each opened when it is first asked for. Clones share them.
#[derive(Debug, Clone)]
pub struct Storages {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: StorageOptions,
    environment: Environment,
    conf: OnceLock<std::result::Result<HadoopConf, HadoopConfError>>,
    opened: Mutex<HashMap<Authority, Arc<dyn Storage>>>,
}

impl Storages {
    /// Storages opened in this way, with the variables of this process. Nothing is opened or read yet.
    pub fn new(options: StorageOptions) -> Self {
        Self::with_environment(options, Environment::of_process())
    }

    /// The same with other variables.
    pub fn with_environment(options: StorageOptions, environment: Environment) -> Self {
        Self {
            inner: Arc::new(Inner {
                options,
                environment,
                conf: OnceLock::new(),
                opened: Mutex::default(),
            }),
        }
    }

    /// The Hadoop configuration, read when it is first asked for.
    ///
    /// # Errors
    /// What is wrong with it, the same each time: a new configuration takes new storages.
    pub fn hadoop_conf(&self) -> std::result::Result<&HadoopConf, HadoopConfError> {
        let Inner {
            options,
            environment,
            conf,
            ..
        } = &*self.inner;
        let load = || {
            let environment = environment.clone();
            HadoopConf::load(&options.hadoop_conf, &options.hadoop_overrides, environment)
        };
        conf.get_or_init(load).as_ref().map_err(Clone::clone)
    }

    /// Makes `storage` the one that its authority opens (tests, memory).
    pub fn register(&self, storage: Arc<dyn Storage>) {
        self.keep(storage.authority().clone(), storage);
    }

    /// The storage that `authority` names, the same one each time. No server is asked.
    ///
    /// # Errors
    /// `Config`: the Hadoop configuration is wrong or does not have what is named; `Unsupported`: a
    /// storage in memory that was not registered.
    pub fn open(&self, authority: &Authority) -> Result<Arc<dyn Storage>> {
        if let Some(storage) = self.opened(authority) {
            return Ok(storage);
        }
        let refuse = |error: HadoopConfError| {
            let uri = StorageUri::new(authority.clone(), StoragePath::root());
            StorageError::new("open", uri, ErrorKind::Config).with_source(error)
        };
        let storage: Arc<dyn Storage> = match authority {
            Authority::Local => {
                let options = &self.inner.options;
                let local = LocalStorage::new(LocalOptions {
                    fsync: options.fsync,
                });
                Arc::new(WithTimeout::new(local, options.call_timeout))
            }
            Authority::Hdfs(name) => self.open_hdfs(name).map_err(refuse)?,
            Authority::Viewfs(name) => self.open_viewfs(authority, name)?,
            Authority::Memory(_) => {
                let uri = StorageUri::new(authority.clone(), StoragePath::root());
                return Err(StorageError::new("open", uri, ErrorKind::Unsupported));
            }
        };
        // `hdfs:///` and `hdfs://ns` are one file system, and so are `hdfs://nn` and `hdfs://nn:8020`.
        let storage = self.keep(storage.authority().clone(), storage);
        Ok(self.keep(authority.clone(), storage))
    }

    fn opened(&self, authority: &Authority) -> Option<Arc<dyn Storage>> {
        let opened = self
            .inner
            .opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        opened.get(authority).cloned()
    }

    /// Keeps a storage unless there is one; returns the one that is kept.
    fn keep(&self, authority: Authority, storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
        let mut opened = self
            .inner
            .opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(opened.entry(authority).or_insert(storage))
    }

    fn open_hdfs(&self, name: &str) -> std::result::Result<Arc<dyn Storage>, HadoopConfError> {
        let conf = self.hadoop_conf()?;
        let name = if name.is_empty() {
            conf.default_hdfs()?
        } else {
            name.to_owned()
        };
        let mut service = conf.name_service(&name)?;
        for id in &service.without_address {
            tracing::warn!(
                nameservice = service.name,
                namenode = id,
                "a NameNode has no rpc-address and is passed over"
            );
        }
        let options = &self.inner.options;
        resolve_hosts(&mut service, options.call_timeout)?;
        let credentials = conf.credentials(&options.login)?;
        let hdfs = HdfsOptions {
            call_timeout: options.call_timeout,
            small_writers: options.small_writers,
            large_writers: options.large_writers,
        };
        Ok(Arc::new(HdfsStorage::new(
            conf,
            &service,
            &credentials,
            hdfs,
        )?))
    }

    fn open_viewfs(&self, authority: &Authority, name: &str) -> Result<Arc<dyn Storage>> {
        let error = |source: Box<dyn std::error::Error + Send + Sync>| {
            let uri = StorageUri::new(authority.clone(), StoragePath::root());
            StorageError::new("open", uri, ErrorKind::Config).with_source(source)
        };
        let conf = self.hadoop_conf().map_err(|e| error(e.into()))?;
        let table = conf.mount_table(name).map_err(|e| error(e.into()))?;
        let mount = |link: MountLink| -> Result<Mount> {
            let at = StoragePath::parse(&link.path).map_err(|why| error(why.into()))?;
            let target = link.target.trim_end_matches('/');
            // `hdfs://ns` stands for the root of it.
            let target = if target.matches('/').count() == 2 {
                format!("{target}/")
            } else {
                target.to_owned()
            };
            let target: StorageUri = target.parse().map_err(|e| error(Box::new(e)))?;
            if matches!(target.authority, Authority::Viewfs(_)) {
                return Err(error(
                    format!("{} leads back into viewfs", link.target).into(),
                ));
            }
            let storage = self.open(&target.authority)?;
            Ok(Mount {
                at,
                storage,
                target: target.path,
            })
        };
        let fallback = table.fallback.map(mount).transpose()?;
        let mounts = table
            .links
            .into_iter()
            .map(mount)
            .collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(ViewfsStorage::new(table.name, mounts, fallback)))
    }
}

/// With `dfs.client.failover.resolve-needed`, puts every address of every host in the place of its
/// NameNode.
fn resolve_hosts(
    service: &mut NameService,
    timeout: Duration,
) -> std::result::Result<(), HadoopConfError> {
    if !service.resolve_hosts {
        return Ok(());
    }
    let mut namenodes = Vec::new();
    for namenode in std::mem::take(&mut service.namenodes) {
        let (sender, resolved) = mpsc::channel();
        let target = (namenode.host.clone(), namenode.port);
        // A resolver that hangs is left behind.
        thread::spawn(move || {
            sender.send(target.to_socket_addrs().map(Iterator::collect::<Vec<_>>))
        });
        let refuse = |why: String| HadoopConfError::Missing {
            what: format!(
                "{} (dfs.client.failover.resolve-needed.{}): {why}",
                namenode.host, service.name
            ),
        };
        let addresses = match resolved.recv_timeout(timeout) {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err(refuse(error.to_string())),
            Err(_) => return Err(refuse("the resolver did not answer in time".to_owned())),
        };
        // As Hadoop does, which knows IPv4 only.
        namenodes.extend(
            addresses
                .iter()
                .filter(|address| address.is_ipv4())
                .map(|address| NameNode {
                    id: namenode.id.clone(),
                    host: address.ip().to_string(),
                    port: address.port(),
                }),
        );
    }
    service.namenodes = namenodes;
    Ok(())
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
