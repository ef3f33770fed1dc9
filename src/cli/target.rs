//! What a command line names: a URI, where a local path may be relative, or a job's marker.

use std::path::{Component, Path, PathBuf};

use clap::Args;

use super::exit::Exit;
use super::failure::{Failure, Result};
use crate::config::{Config, Job, JobSlot};
use crate::model::{JobName, Slot};
use crate::storage::{InvalidUri, StorageUri};

/// The URI that `given` names. A local path may be relative to `current_dir`; where it goes up by
/// `..`, its parent is resolved as the kernel would, links included.
///
/// # Errors
/// Where it is no URI that stepdown knows, or its parent with `..` does not exist.
pub fn resolve(given: &str, current_dir: &Path) -> std::result::Result<StorageUri, InvalidUri> {
    let refuse = |why: String| InvalidUri {
        text: given.to_owned(),
        why,
    };
    if given.is_empty() {
        return Err(refuse("it is empty".to_owned()));
    }
    let is_uri = given.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    if is_uri {
        // A file whose name has a colon can be written as ./name:.
        return given.parse();
    }
    let path = current_dir.join(given);
    let goes_up = path.components().any(|part| part == Component::ParentDir);
    let path = if goes_up {
        canonical_parent(&path).map_err(|error| refuse(error.to_string()))?
    } else {
        // Only the `.` are dropped: a path through a link stays the path that was written.
        path.components().collect()
    };
    let Some(text) = path.to_str() else {
        return Err(refuse("it is not UTF-8".to_owned()));
    };
    text.parse()
}

fn canonical_parent(path: &Path) -> std::io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => path.canonicalize(),
    }
}

/// As [`resolve`], against the directory that stepdown was started in.
///
/// # Errors
/// As [`resolve`]; or the current directory is gone.
pub fn resolve_here(given: &str) -> Result<StorageUri> {
    let relative = !given.starts_with('/');
    let current_dir = match std::env::current_dir() {
        Ok(dir) => dir,
        Err(error) if relative => {
            let message = format!("the current directory cannot be told: {error}");
            return Err(Failure::new(Exit::Usage, message));
        }
        Err(_) => "/".into(),
    };
    Ok(resolve(given, &current_dir)?)
}

/// A marker, by its URI or by its job.
#[derive(Debug, Clone, Args)]
pub struct MarkerTarget {
    #[command(flatten)]
    name: MarkerName,

    /// Its slot, blue or green; needed where the job has two
    #[arg(long, value_name = "SLOT", requires = "job")]
    slot: Option<Slot>,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
struct MarkerName {
    /// The marker: hdfs://ns/path, hdfs:///path, viewfs://cluster/path, file:///path or a local path
    uri: Option<String>,

    /// The marker of this configured job instead of a URI
    #[arg(long, value_name = "JOB")]
    job: Option<JobName>,
}

impl MarkerTarget {
    /// The URI that is meant.
    ///
    /// # Errors
    /// Where it cannot be read, or the configuration has no such job or slot.
    pub fn uri(&self, config: &Config) -> Result<StorageUri> {
        match (&self.name.uri, &self.name.job) {
            (Some(uri), _) => resolve_here(uri),
            (None, Some(job)) => Ok(slot_of(find_job(config, job)?, self.slot)?.1.marker.clone()),
            (None, None) => Err(Failure::new(Exit::Usage, "no marker is named")),
        }
    }
}

/// The configured job of this name.
///
/// # Errors
/// `Usage`, with the names that there are: `NotFound` would read as a marker that is absent.
pub fn find_job<'c>(config: &'c Config, name: &JobName) -> Result<&'c Job> {
    config.jobs.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.jobs.keys().map(JobName::as_str).collect();
        let known = match known.as_slice() {
            [] => "it has no jobs".to_owned(),
            known => format!("it has {}", known.join(", ")),
        };
        Failure::new(
            Exit::Usage,
            format!("the configuration has no job {name}; {known}"),
        )
    })
}

/// The slot that is meant: the one that was named, or the only one.
///
/// # Errors
/// `Usage` for a slot that the job does not have, and where one must be named.
pub fn slot_of(job: &Job, named: Option<Slot>) -> Result<(Slot, &JobSlot)> {
    if let Some(slot) = named {
        let found = job.slots.get(&slot).map(|found| (slot, found.as_ref()));
        return found.ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                format!("the job {} has no slot {slot}", job.name),
            )
        });
    }
    let mut slots = job.slots.iter();
    match (slots.next(), slots.next()) {
        (Some((slot, found)), None) => Ok((*slot, found.as_ref())),
        _ => Err(Failure::new(
            Exit::Usage,
            format!("the job {} has two slots: name one by --slot", job.name),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_may_be_relative_and_uris_may_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::os::unix::fs::symlink(root.join("a/b"), root.join("link")).unwrap();
        let shown = |text: &str| resolve(text, &root).map(|uri| uri.to_string());
        let at = |text: &str| Ok(root.join(text).to_str().unwrap().to_owned());
        assert_eq!(shown("m"), at("m"));
        assert_eq!(shown("./a/./m"), at("a/m"));
        assert_eq!(shown("missing/m"), at("missing/m"));
        assert_eq!(shown("a/../m"), at("m"));
        assert_eq!(shown("link/m"), at("link/m"));
        // `..` behind a link is where the link leads, not where it stands.
        assert_eq!(shown("link/../m"), at("a/m"));
        assert_eq!(shown("a/.."), Ok(root.to_str().unwrap().to_owned()));
        assert_eq!(shown("./a:b"), at("a:b"));
        assert_eq!(shown("/x/y"), Ok("/x/y".to_owned()));
        assert_eq!(shown("hdfs:///x"), Ok("hdfs:///x".to_owned()));
        for bad in [
            "",
            "missing/../m",
            "hdfs:x",
            "s3://b/k",
            "file:m",
            "hdfs://ns",
        ] {
            assert!(resolve(bad, &root).is_err(), "{bad}");
        }
    }
}
