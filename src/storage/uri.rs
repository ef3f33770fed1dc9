//! URIs of files, and absolute paths within one storage.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no URI that stepdown can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a usable URI: {why}")]
pub struct InvalidUri {
    /// The text.
    pub text: String,
    /// The reason, and what to write instead.
    pub why: String,
}

/// An absolute path within one storage: begins with `/`, has no empty, `.` or `..` component and no
/// trailing `/` (but the root itself is `/`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoragePath(String);

impl StoragePath {
    /// The root, `/`.
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// Reads an absolute path. Repeated and trailing slashes are dropped.
    ///
    /// # Errors
    /// The reason, if the path is relative, has `.` or `..`, or a NUL.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err("the path is relative; write it from the root, as /dir/name".to_owned());
        }
        let mut path = String::with_capacity(text.len());
        for part in text.split('/').filter(|part| !part.is_empty()) {
            if part == "." || part == ".." {
                return Err("'.' and '..' are not allowed in a path; write it out".to_owned());
            }
            if part.contains('\0') {
                return Err("a path cannot contain a NUL".to_owned());
            }
            path.push('/');
            path.push_str(part);
        }
        if path.is_empty() {
            path.push('/');
        }
        Ok(Self(path))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component; empty for the root.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// The directory above; `None` for the root.
    pub fn parent(&self) -> Option<StoragePath> {
        let (above, name) = self.0.rsplit_once('/')?;
        if name.is_empty() {
            return None;
        }
        Some(if above.is_empty() {
            Self::root()
        } else {
            Self(above.to_owned())
        })
    }

    /// The path with one more component, which must not contain `/`.
    #[must_use]
    pub fn join(&self, name: &str) -> StoragePath {
        debug_assert!(
            !name.contains('/') && !name.is_empty(),
            "{name:?} is not one component"
        );
        if self.0 == "/" {
            Self(format!("/{name}"))
        } else {
            Self(format!("{}/{name}", self.0))
        }
    }

    /// The path of what lies at `relative` below: components separated by `/`, empty ones dropped.
    #[must_use]
    pub fn join_all(&self, relative: &str) -> StoragePath {
        let mut path = String::with_capacity(self.0.len() + 1 + relative.len());
        path.push_str(self.0.trim_end_matches('/'));
        for part in relative.split('/').filter(|part| !part.is_empty()) {
            path.push('/');
            path.push_str(part);
        }
        if path.is_empty() {
            path.push('/');
        }
        Self(path)
    }

    /// The path with `suffix` behind its last component.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> StoragePath {
        Self(format!("{}{suffix}", self.0))
    }

    /// Whether this path lies below `dir` (a path does not lie below itself).
    pub fn is_below(&self, dir: &StoragePath) -> bool {
        self.relative_to(dir).is_some()
    }

    /// The part behind `dir/`, if this path lies below `dir`.
    pub fn relative_to(&self, dir: &StoragePath) -> Option<&str> {
        if dir.0 == "/" {
            return (self.0 != "/").then(|| self.0.trim_start_matches('/'));
        }
        self.0.strip_prefix(&dir.0)?.strip_prefix('/')
    }
}

impl fmt::Display for StoragePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which storage a URI names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Authority {
    /// This host's file system.
    Local,
    /// An HDFS nameservice or `host[:port]`; empty for the default file system of the Hadoop
    /// configuration.
    Hdfs(String),
    /// A viewfs mount table, by its name.
    Viewfs(String),
    /// A storage in memory, by its name (tests).
    Memory(String),
}

/// Names one file or directory in one storage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorageUri {
    /// Which storage.
    pub authority: Authority,
    /// Where in it.
    pub path: StoragePath,
}

impl StorageUri {
    /// The URI of `path` in the storage `authority`.
    pub fn new(authority: Authority, path: StoragePath) -> Self {
        Self { authority, path }
    }

    /// The URI with one more component.
    #[must_use]
    pub fn join(&self, name: &str) -> StorageUri {
        Self {
            authority: self.authority.clone(),
            path: self.path.join(name),
        }
    }

    /// Whether it is that directory or lies in it, by name.
    pub fn is_within(&self, dir: &StorageUri) -> bool {
        self.authority == dir.authority && (self.path == dir.path || self.path.is_below(&dir.path))
    }
}

impl FromStr for StorageUri {
    type Err = InvalidUri;

    fn from_str(text: &str) -> Result<Self, InvalidUri> {
        let refuse = |why: String| InvalidUri {
            text: text.to_owned(),
            why,
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            // `hdfs:/path` and `file:/path` are Hadoop's short forms.
            if let Some(path) = text.strip_prefix("file:") {
                return Ok(Self::new(
                    Authority::Local,
                    StoragePath::parse(path).map_err(refuse)?,
                ));
            }
            if let Some(path) = text.strip_prefix("hdfs:") {
                let path = StoragePath::parse(path).map_err(refuse)?;
                return Ok(Self::new(Authority::Hdfs(String::new()), path));
            }
            return Ok(Self::new(
                Authority::Local,
                StoragePath::parse(text).map_err(refuse)?,
            ));
        };
        let (name, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let authority = match scheme {
            "file" if name.is_empty() || name == "localhost" => Authority::Local,
            "file" => {
                return Err(refuse(format!(
                    "a file URI has three slashes: file:///{name}{path}; for HDFS write hdfs://{name}{path}"
                )));
            }
            "hdfs" => Authority::Hdfs(name.to_owned()),
            "viewfs" => Authority::Viewfs(name.to_owned()),
            "memory" => Authority::Memory(name.to_owned()),
            other => {
                return Err(refuse(format!(
                    "the scheme {other:?} is not known; use hdfs://, viewfs://, file:// or a local path"
                )));
            }
        };
        if name.contains(['@', '?', '#', ' ']) {
            return Err(refuse(format!(
                "{name:?} is not a nameservice or host:port"
            )));
        }
        if path.is_empty() {
            return Err(refuse("it has no path; write at least a '/'".to_owned()));
        }
        Ok(Self::new(
            authority,
            StoragePath::parse(path).map_err(refuse)?,
        ))
    }
}

impl TryFrom<String> for StorageUri {
    type Error = InvalidUri;
    fn try_from(text: String) -> Result<Self, InvalidUri> {
        text.parse()
    }
}

impl From<StorageUri> for String {
    fn from(uri: StorageUri) -> String {
        uri.to_string()
    }
}

impl fmt::Display for StorageUri {
    /// Local paths stand as plain paths, others as `scheme://authority/path`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.authority {
            Authority::Local => write!(f, "{}", self.path),
            Authority::Hdfs(name) => write!(f, "hdfs://{name}{}", self.path),
            Authority::Viewfs(name) => write!(f, "viewfs://{name}{}", self.path),
            Authority::Memory(name) => write!(f, "memory://{name}{}", self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_as_hadoop_and_shells_write_them() {
        for (text, shown) in [
            ("/a/b", "/a/b"),
            ("file:///a//b/", "/a/b"),
            ("file:/a", "/a"),
            ("hdfs:///a", "hdfs:///a"),
            ("hdfs:/a", "hdfs:///a"),
            ("hdfs://ns/a b/ä", "hdfs://ns/a b/ä"),
            ("hdfs://nn:8020/", "hdfs://nn:8020/"),
            ("viewfs://cluster/x", "viewfs://cluster/x"),
        ] {
            assert_eq!(text.parse::<StorageUri>().unwrap().to_string(), shown);
        }
        for bad in [
            "a/b",
            "hdfs:a",
            "hdfs://ns",
            "s3://b/k",
            "file://host/a",
            "/a/../b",
            "hdfs://u@h/a",
            "",
        ] {
            assert!(bad.parse::<StorageUri>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parents_and_relatives() {
        let path = |text| StoragePath::parse(text).unwrap();
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(StoragePath::root()));
        assert_eq!(path("/").parent(), None);
        assert_eq!(path("/a/b/c").relative_to(&path("/a")), Some("b/c"));
        assert_eq!(path("/ab").relative_to(&path("/a")), None);
        assert_eq!(path("/a").relative_to(&path("/")), Some("a"));
        assert!(!path("/a").is_below(&path("/a")));
    }
}
