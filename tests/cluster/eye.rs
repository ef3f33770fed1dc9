//! An eye and a hand on HDFS that are not stepdown's: the published client, blocking, with a deadline.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use hdfs_native::client::FileStatus;
use hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions};
use tokio::runtime::{Builder, Runtime};

/// Longer than any answer takes on a machine that is overloaded.
const CALL: Duration = Duration::from_secs(20);
/// Calls that are under way at the same time where there are thousands to make.
const AT_ONCE: usize = 32;

/// A client of one HDFS.
#[derive(Debug)]
pub(crate) struct Eye {
    client: Client,
    runtime: Runtime,
}

impl Eye {
    /// A client of the file system that the configuration in `conf_dir` has as its default.
    pub(crate) fn open(conf_dir: &Path) -> Result<Self> {
        Self::build(ClientBuilder::new().with_config_dir(&*conf_dir.to_string_lossy()))
    }

    /// A client of the NameNode at `hdfs://host:port`, which does not try for long.
    pub(crate) fn open_uri(uri: &str) -> Result<Self> {
        let at_once = [("dfs.client.failover.max.attempts", "0")];
        Self::build(ClientBuilder::new().with_url(uri).with_config(at_once))
    }

    fn build(builder: ClientBuilder) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let client = builder.with_io_runtime(runtime.handle().clone()).build()?;
        Ok(Self { client, runtime })
    }

    fn call<T>(&self, call: impl Future<Output = Result<T, HdfsError>>) -> Result<T, HdfsError> {
        self.runtime.block_on(async {
            match tokio::time::timeout(CALL, call).await {
                Ok(answer) => answer,
                Err(_) => Err(HdfsError::OperationFailed(format!("no answer in {CALL:?}"))),
            }
        })
    }

    /// The status of `path`, if it is there.
    pub(crate) fn stat(&self, path: &str) -> Result<Option<FileStatus>> {
        match self.call(self.client.get_file_info(path)) {
            Ok(status) => Ok(Some(status)),
            Err(HdfsError::FileNotFound(_)) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("stat {path}")),
        }
    }

    /// Whether `path` is there.
    pub(crate) fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.stat(path)?.is_some())
    }

    /// The entries of a directory, the oldest first; none if it is missing.
    pub(crate) fn list(&self, dir: &str) -> Result<Vec<FileStatus>> {
        match self.call(self.client.list_status(dir, false)) {
            Ok(mut found) => {
                found.sort_by_key(|status| status.modification_time);
                Ok(found)
            }
            Err(HdfsError::FileNotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(error).with_context(|| format!("list {dir}")),
        }
    }

    /// The names in a directory; none if it is missing.
    pub(crate) fn names(&self, dir: &str) -> Result<Vec<String>> {
        let name = |status: FileStatus| {
            let name = status.path.rsplit('/').next();
            name.unwrap_or_default().to_owned()
        };
        let mut names: Vec<String> = self.list(dir)?.into_iter().map(name).collect();
        names.sort();
        Ok(names)
    }

    /// The content of a file.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.call(Box::pin(read(&self.client, path)))
            .with_context(|| format!("read {path}"))
    }

    /// Writes a file, in the place of one that is there.
    pub(crate) fn write(&self, path: &str, content: &str) -> Result<()> {
        self.call(Box::pin(write(&self.client, path, content.into())))
            .with_context(|| format!("write {path}"))
    }

    /// Writes many files, in the place of those that are there.
    pub(crate) fn write_all(&self, dir: &str, files: Vec<(String, Vec<u8>)>) -> Result<()> {
        let writes = stream::iter(files.into_iter().map(Ok));
        self.runtime.block_on(async {
            let each = |(name, content): (String, Vec<u8>)| async move {
                Box::pin(write(&self.client, &format!("{dir}/{name}"), content)).await
            };
            writes.try_for_each_concurrent(AT_ONCE, each).await
        })?;
        Ok(())
    }

    /// The files below a directory with their lengths, by relative path; none if it is missing.
    pub(crate) fn lengths(&self, dir: &str) -> Result<BTreeMap<String, usize>> {
        let found = match self.call(self.client.list_status(dir, true)) {
            Ok(found) => found,
            Err(HdfsError::FileNotFound(_)) => return Ok(BTreeMap::new()),
            Err(error) => return Err(error).with_context(|| format!("list {dir}")),
        };
        let below = format!("{dir}/");
        let files = found.into_iter().filter(|status| !status.isdir);
        let named = files.filter_map(|status| {
            let name = status.path.strip_prefix(&below)?.to_owned();
            Some((name, status.length))
        });
        Ok(named.collect())
    }

    /// The files below a directory with their contents, by relative path; none if it is missing.
    pub(crate) fn contents(&self, dir: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let names = self.lengths(dir)?.into_keys();
        let reads = stream::iter(names.map(|name| async move {
            let content = Box::pin(read(&self.client, &format!("{dir}/{name}"))).await?;
            Ok::<_, HdfsError>((name, content))
        }));
        let all = reads.buffer_unordered(AT_ONCE).try_collect();
        Ok(self.runtime.block_on(all)?)
    }

    /// Makes an empty file, or makes one empty.
    pub(crate) fn touch(&self, path: &str) -> Result<()> {
        self.write(path, "")
    }

    /// Makes many empty files.
    pub(crate) fn touch_all(&self, paths: &[String]) -> Result<()> {
        let writes = stream::iter(paths.iter().map(Ok));
        self.runtime.block_on(async {
            let each = |path: &String| {
                let path = path.clone();
                async move { Box::pin(write(&self.client, &path, Vec::new())).await }
            };
            writes.try_for_each_concurrent(AT_ONCE, each).await
        })?;
        Ok(())
    }

    /// Deletes a file or a tree; one that is not there is an error.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        let was_there = self
            .call(self.client.delete(path, true))
            .with_context(|| format!("delete {path}"))?;
        anyhow::ensure!(was_there, "{path} was not there");
        Ok(())
    }

    /// Makes a directory and its parents.
    pub(crate) fn make_dir(&self, dir: &str) -> Result<()> {
        self.call(self.client.mkdirs(dir, 0o755, true))
            .with_context(|| format!("mkdir {dir}"))
    }

    /// Gives a file or a directory another name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.call(self.client.rename(from, to, false))
            .with_context(|| format!("rename {from} to {to}"))
    }

    /// Sets permission bits.
    pub(crate) fn chmod(&self, path: &str, mode: u32) -> Result<()> {
        self.call(self.client.set_permission(path, mode))
            .with_context(|| format!("chmod {path}"))
    }

    /// Sets the owner.
    pub(crate) fn chown(&self, path: &str, owner: &str) -> Result<()> {
        self.call(self.client.set_owner(path, Some(owner), None))
            .with_context(|| format!("chown {path}"))
    }

    /// A checkpoint of a query as Spark leaves it, with these batches.
    pub(crate) fn write_checkpoint(&self, dir: &str, planned: u64, committed: u64) -> Result<()> {
        let id = uuid::Uuid::new_v4();
        for folder in ["offsets", "commits", "sources", "state"] {
            self.make_dir(&format!("{dir}/{folder}"))?;
        }
        self.write(&format!("{dir}/metadata"), &format!("{{\"id\":\"{id}\"}}"))?;
        let files = |folder: &str, last: u64| {
            let path = move |batch: u64| format!("{dir}/{folder}/{batch}");
            (0..=last).map(path).collect::<Vec<_>>()
        };
        self.touch_all(&[files("offsets", planned), files("commits", committed)].concat())
    }
}

async fn read(client: &Client, path: &str) -> Result<Vec<u8>, HdfsError> {
    let reader = client.read(path).await?;
    let length = reader.file_length();
    let mut content = Vec::with_capacity(length);
    let mut pieces = reader.read_range_stream(0, length).boxed();
    while let Some(piece) = pieces.try_next().await? {
        content.extend_from_slice(&piece);
    }
    Ok(content)
}

async fn write(client: &Client, path: &str, content: Vec<u8>) -> Result<(), HdfsError> {
    let options = WriteOptions::default().overwrite(true);
    let mut writer = client.create(path, options).await?;
    if !content.is_empty() {
        Box::pin(writer.write_bytes(content.into())).await?;
    }
    Box::pin(writer.close()).await
}
