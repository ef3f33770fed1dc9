//! Finds and reads the files of a Hadoop configuration, includes expanded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::site::{self, Item};
use super::{Environment, HadoopConfError, Origin, Setting, keys};

/// Where to look for `core-site.xml` and `hdfs-site.xml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ConfSource {
    /// In this directory.
    Dir(PathBuf),
    /// In `HADOOP_CONF_DIR`, else in `HADOOP_HOME/etc/hadoop`, else nowhere.
    #[default]
    Environment,
    /// Nowhere: Hadoop's defaults and the overrides only.
    Nowhere,
}

/// Files of more than this are no configuration.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// How deep includes may be nested.
const MAX_INCLUDES: usize = 16;
/// How many external entities one file may have.
const MAX_ENTITIES: usize = 16;
/// The files that a client reads, in this order.
const FILES: [&str; 2] = ["core-site.xml", "hdfs-site.xml"];

/// The directory that `source` means, and what named it.
pub(super) fn find_dir(
    source: &ConfSource,
    environment: &Environment,
) -> Result<Option<PathBuf>, HadoopConfError> {
    let set = |name| environment.var(name).filter(|value| !value.is_empty());
    let (dir, named_by) = match source {
        ConfSource::Nowhere => return Ok(None),
        ConfSource::Dir(dir) => {
            // A configuration of stepdown may have taken it over from the variable.
            let is_inherited = set("HADOOP_CONF_DIR").is_some_and(|named| Path::new(named) == dir);
            let named_by = if is_inherited {
                "HADOOP_CONF_DIR"
            } else {
                "hadoop.conf-dir"
            };
            (dir.clone(), named_by.to_owned())
        }
        ConfSource::Environment => {
            if let Some(dir) = set("HADOOP_CONF_DIR") {
                (PathBuf::from(dir), "HADOOP_CONF_DIR".to_owned())
            } else if let Some(home) = set("HADOOP_HOME") {
                let dir = Path::new(home).join("etc/hadoop");
                (dir, "HADOOP_HOME/etc/hadoop".to_owned())
            } else {
                return Ok(None);
            }
        }
    };
    let refuse = |why: String| HadoopConfError::Directory {
        dir: dir.clone(),
        named_by: named_by.clone(),
        why,
    };
    let advice = "name the directory that holds core-site.xml and hdfs-site.xml";
    match std::fs::metadata(&dir) {
        Ok(found) if !found.is_dir() => return Err(refuse(format!("is no directory; {advice}"))),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(refuse(format!("does not exist; {advice}, or unset it")));
        }
        Err(error) => return Err(refuse(format!("cannot be read: {error}"))),
    }
    // Hadoop would go on with its defaults here, and fail later about a host that nobody named.
    if !FILES.iter().any(|file| dir.join(file).exists()) {
        return Err(match std::fs::read_dir(&dir) {
            Err(error) => refuse(format!("cannot be read: {error}")),
            Ok(_) => refuse(format!(
                "holds neither core-site.xml nor hdfs-site.xml; {advice}"
            )),
        });
    }
    Ok(Some(dir))
}

/// The settings of a configuration while its files are read.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) map: BTreeMap<String, Setting>,
    finals: BTreeSet<String>,
    /// Values that a final one kept out: key, where they stand.
    pub(super) ignored: Vec<(String, Origin)>,
}

impl Settings {
    /// Hadoop's own defaults.
    pub(super) fn with_defaults() -> Self {
        let mut settings = Self::default();
        for (key, value) in keys::DEFAULTS {
            settings.set(key, Some((*value).to_owned()), false, Origin::Default);
        }
        settings
    }

    /// Sets a key as a file does: a final one stays as it is, an empty value sets nothing.
    pub(super) fn set(&mut self, key: &str, raw: Option<String>, is_final: bool, origin: Origin) {
        let key = keys::current_name(key);
        if let Some(raw) = raw {
            if self.finals.contains(key) {
                self.ignored.push((key.to_owned(), origin));
            } else {
                let setting = Setting {
                    raw,
                    origin,
                    is_final,
                };
                self.map.insert(key.to_owned(), setting);
            }
        }
        if is_final {
            self.finals.insert(key.to_owned());
        }
    }

    /// Sets a key as a program does: over everything, final or not.
    pub(super) fn force(&mut self, key: &str, raw: String, origin: Origin) {
        let key = keys::current_name(key).to_owned();
        let is_final = self.finals.contains(&key);
        self.map.insert(
            key,
            Setting {
                raw,
                origin,
                is_final,
            },
        );
    }
}

/// Reads the site files of `dir` into `settings`.
pub(super) fn read_dir(dir: &Path, settings: &mut Settings) -> Result<(), HadoopConfError> {
    for name in FILES {
        let file = dir.join(name);
        // An unreadable link or file is not a missing one.
        if matches!(file.symlink_metadata(), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
            continue;
        }
        read_file(dir, &file, 0, settings)?;
    }
    Ok(())
}

fn read_file(
    dir: &Path,
    file: &Path,
    depth: usize,
    settings: &mut Settings,
) -> Result<(), HadoopConfError> {
    let text = read_text(file)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let entities: [OnceLock<String>; MAX_ENTITIES] = std::array::from_fn(|_| OnceLock::new());
    let entity = |system: &str| external_entity(folder, system, &entities);
    let items = site::parse(&text, &entity).map_err(|error| HadoopConfError::Malformed {
        file: file.to_owned(),
        line: error.line,
        column: error.column,
        why: error.why,
    })?;
    apply(dir, &Arc::from(file), depth, items, settings)
}

fn apply(
    dir: &Path,
    file: &Arc<Path>,
    depth: usize,
    items: Vec<Item>,
    settings: &mut Settings,
) -> Result<(), HadoopConfError> {
    for item in items {
        match item {
            Item::Property {
                name,
                value,
                is_final,
                line,
            } => {
                let file = Arc::clone(file);
                settings.set(&name, value, is_final, Origin::File { file, line });
            }
            Item::Include {
                href,
                fallback,
                line,
            } => {
                let refuse = |why: &str| HadoopConfError::Include {
                    file: file.to_path_buf(),
                    line,
                    href: href.clone(),
                    why: why.to_owned(),
                };
                if depth >= MAX_INCLUDES {
                    return Err(refuse(
                        "includes are nested too deep; does a file include itself?",
                    ));
                }
                match (
                    find_include(dir, file, &href).map_err(|why| refuse(&why))?,
                    fallback,
                ) {
                    (Some(found), _) => read_file(dir, &found, depth + 1, settings)?,
                    (None, Some(items)) => apply(dir, file, depth + 1, items, settings)?,
                    (None, None) => {
                        return Err(refuse(
                            "there is no such file, and the include has no fallback",
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// The file an include means: on the class path (the configuration directory), else as a URL, else
/// beside the including file.
fn find_include(dir: &Path, file: &Path, href: &str) -> Result<Option<PathBuf>, String> {
    let beside = |path: &str| file.parent().unwrap_or(Path::new(".")).join(path);
    let candidates =
        if let Some((scheme, rest)) = href.split_once(':').filter(|_| !href.starts_with('/')) {
            if scheme != "file" {
                return Err(format!(
                    "{scheme}: is not followed; put the file beside this one and name it"
                ));
            }
            vec![PathBuf::from(format!("/{}", rest.trim_start_matches('/')))]
        } else {
            vec![dir.join(href), beside(href)]
        };
    Ok(candidates
        .into_iter()
        .find(|candidate| candidate.symlink_metadata().is_ok()))
}

/// The text of `<!ENTITY name SYSTEM "file">`, kept alive in a free slot.
fn external_entity<'e>(
    folder: &Path,
    system: &str,
    slots: &'e [OnceLock<String>],
) -> Result<Option<&'e str>, String> {
    let path = system.strip_prefix("file://").unwrap_or(system);
    if path.contains("://") {
        return Err(format!(
            "the entity {system} lies on another host; put it beside this file"
        ));
    }
    let text = read_text(&folder.join(path)).map_err(|error| error.to_string())?;
    let slot = slots.iter().find(|slot| slot.get().is_none());
    let slot = slot.ok_or_else(|| format!("more than {MAX_ENTITIES} external entities"))?;
    Ok(Some(slot.get_or_init(|| text)))
}

fn read_text(file: &Path) -> Result<String, HadoopConfError> {
    let refuse = |why: String| HadoopConfError::Unreadable {
        file: file.to_owned(),
        why,
    };
    let length = std::fs::metadata(file)
        .map_err(|e| refuse(e.to_string()))?
        .len();
    if length > MAX_FILE_BYTES {
        return Err(refuse(format!(
            "{length} bytes are too many for a configuration file"
        )));
    }
    decode(std::fs::read(file).map_err(|e| refuse(e.to_string()))?).map_err(refuse)
}

/// UTF-8 with or without a byte order mark, or Latin-1 where the XML declaration says so.
fn decode(bytes: Vec<u8>) -> Result<String, String> {
    let head: String = bytes
        .iter()
        .take(120)
        .map(|b| char::from(*b).to_ascii_lowercase())
        .collect();
    let declared = head
        .split_once("?>")
        .and_then(|(declaration, _)| declaration.split_once("encoding="))
        .map(|(_, rest)| {
            rest.chars()
                .skip(1)
                .take_while(|c| !matches!(c, '"' | '\''))
                .collect::<String>()
        });
    match declared.as_deref() {
        Some("iso-8859-1" | "latin1") => return Ok(bytes.into_iter().map(char::from).collect()),
        None | Some("utf-8" | "us-ascii" | "utf8") => {}
        Some(other) => {
            return Err(format!(
                "the encoding {other} is not known; save it as UTF-8"
            ));
        }
    }
    let text =
        String::from_utf8(bytes).map_err(|_| "it is not UTF-8; save it as UTF-8".to_owned())?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings() {
        assert_eq!(decode(b"<a/>".to_vec()).unwrap(), "<a/>");
        assert_eq!(
            decode("\u{feff}<a>ä</a>".as_bytes().to_vec()).unwrap(),
            "<a>ä</a>"
        );
        let latin = b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xe4</a>".to_vec();
        assert!(decode(latin).unwrap().contains('ä'));
        assert!(
            decode(b"<a>\xe4</a>".to_vec())
                .unwrap_err()
                .contains("UTF-8")
        );
        assert!(decode(b"<?xml version=\"1.0\" encoding=\"UTF-16\"?>".to_vec()).is_err());
    }

    #[test]
    fn a_final_value_keeps_later_files_out_but_not_a_program() {
        let mut settings = Settings::default();
        let origin = |line| Origin::File {
            file: Arc::from(Path::new("f")),
            line,
        };
        settings.set("k", Some("1".into()), true, origin(1));
        settings.set("k", Some("2".into()), false, origin(2));
        settings.set("fs.default.name", Some("hdfs://a".into()), true, origin(3));
        settings.set("fs.defaultFS", Some("hdfs://b".into()), false, origin(4));
        settings.set("e", None, true, origin(5));
        settings.set("e", Some("x".into()), false, origin(6));
        let raw = |s: &Settings, key: &str| s.map.get(key).map(|s| s.raw.clone());
        assert_eq!(raw(&settings, "k").as_deref(), Some("1"));
        assert_eq!(raw(&settings, "fs.defaultFS").as_deref(), Some("hdfs://a"));
        assert_eq!(raw(&settings, "e"), None);
        assert_eq!(settings.ignored.len(), 3);
        settings.force("k", "3".into(), Origin::Override);
        assert_eq!(raw(&settings, "k").as_deref(), Some("3"));
    }
}
