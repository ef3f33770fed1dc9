//! viewfs mount tables: `fs.viewfs.mounttable.<name>.*`.

use super::{HadoopConf, HadoopConfError};

/// One entry of a mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountLink {
    /// Absolute path within viewfs, without a trailing `/`; `/` for a fallback or merged root.
    pub path: String,
    /// URI that the path stands for.
    pub target: String,
}

/// The mount table behind `viewfs://name/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountTable {
    /// The table's name.
    pub name: String,
    /// The mount points, by path; none lies below another one.
    pub links: Vec<MountLink>,
    /// Where all other paths lie (`linkFallback`), or all of them (`linkMergeSlash`).
    pub fallback: Option<MountLink>,
}

impl HadoopConf {
    /// The mount table `name`; an empty name is the one of `fs.defaultFS`, else Hadoop's `default`.
    ///
    /// # Errors
    /// No such table; mount points inside each other; link kinds that stepdown does not know.
    pub fn mount_table(&self, name: &str) -> Result<MountTable, HadoopConfError> {
        let name = match (name, self.default_fs()?) {
            ("", super::DefaultFs::Viewfs(name)) if !name.is_empty() => name,
            ("", _) => "default".to_owned(),
            (name, _) => name.to_owned(),
        };
        let prefix = format!("fs.viewfs.mounttable.{name}.");
        let mut links = Vec::new();
        let (mut fallback, mut merged) = (None, None);
        for suffix in self.keys_below(&prefix) {
            let key = format!("{prefix}{suffix}");
            let Some(target) = self.get(&key)? else {
                continue;
            };
            let refuse = |why: &str| Err(self.refuse(&key, &target, why));
            let root = || MountLink {
                path: "/".to_owned(),
                target: target.clone(),
            };
            match suffix {
                "homedir" => {}
                "linkFallback" => fallback = Some(root()),
                "linkMergeSlash" => merged = Some(root()),
                _ => {
                    let Some(path) = suffix.strip_prefix("link.") else {
                        return refuse(
                            "of the kinds of links, only link, linkFallback and linkMergeSlash are known",
                        );
                    };
                    if !path.starts_with('/') || path.trim_matches('/').is_empty() {
                        return refuse(
                            "a mount point is an absolute path below the root, as link./data",
                        );
                    }
                    links.push(MountLink {
                        path: path.trim_end_matches('/').to_owned(),
                        target,
                    });
                }
            }
        }
        if links.is_empty() && fallback.is_none() && merged.is_none() {
            return Err(HadoopConfError::Missing {
                what: format!(
                    "no mount table for viewfs://{name}/ ({prefix}link.*) is set {}",
                    self.place()
                ),
            });
        }
        if let (Some(merged), Some(link)) = (&merged, links.first()) {
            return Err(self.refuse(
                &format!("{prefix}linkMergeSlash"),
                &merged.target,
                format!(
                    "it takes the whole root, so there can be no other link ({})",
                    link.path
                ),
            ));
        }
        links.sort_by(|a, b| a.path.cmp(&b.path));
        for (outer, inner) in links.iter().flat_map(|a| links.iter().map(move |b| (a, b))) {
            if inner
                .path
                .strip_prefix(&outer.path)
                .is_some_and(|rest| rest.starts_with('/'))
            {
                return Err(self.refuse(
                    &format!("{prefix}link.{}", inner.path),
                    &inner.target,
                    format!("it lies inside the mount point {}", outer.path),
                ));
            }
        }
        Ok(MountTable {
            name,
            links,
            fallback: merged.or(fallback),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::hadoop::{ConfSource, Environment};

    fn conf(values: &[(&str, &str)]) -> HadoopConf {
        let values: BTreeMap<String, String> = values
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        HadoopConf::load(&ConfSource::Nowhere, &values, Environment::default()).unwrap()
    }

    #[test]
    fn links_fallback_and_the_default_table() {
        let conf = conf(&[
            ("fs.defaultFS", "viewfs://c/"),
            ("fs.viewfs.mounttable.c.homedir", "/home"),
            ("fs.viewfs.mounttable.c.link./user", "hdfs://ns1/user"),
            (
                "fs.viewfs.mounttable.c.link./data/in/",
                " hdfs://${second}/in ",
            ),
            ("fs.viewfs.mounttable.c.linkFallback", "hdfs://ns1/all"),
            ("fs.viewfs.mounttable.d.linkMergeSlash", "hdfs://ns2/"),
            ("second", "ns2"),
        ]);
        let table = conf.mount_table("").unwrap();
        assert_eq!(table.name, "c");
        let links: Vec<_> = table
            .links
            .iter()
            .map(|l| (l.path.as_str(), l.target.as_str()))
            .collect();
        assert_eq!(
            links,
            [("/data/in", "hdfs://ns2/in"), ("/user", "hdfs://ns1/user")]
        );
        assert_eq!(table.fallback.unwrap().target, "hdfs://ns1/all");
        let merged = conf.mount_table("d").unwrap();
        assert!(merged.links.is_empty() && merged.fallback.unwrap().target == "hdfs://ns2/");
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        for (values, word) in [
            (vec![], "no mount table"),
            (
                vec![
                    ("fs.viewfs.mounttable.c.link./a", "hdfs://x/"),
                    ("fs.viewfs.mounttable.c.link./a/b", "hdfs://y/"),
                ],
                "inside",
            ),
            (
                vec![
                    ("fs.viewfs.mounttable.c.link./a", "hdfs://x/"),
                    ("fs.viewfs.mounttable.c.linkMergeSlash", "hdfs://y/"),
                ],
                "whole root",
            ),
            (
                vec![(
                    "fs.viewfs.mounttable.c.linkNfly.min./a",
                    "hdfs://x/,hdfs://y/",
                )],
                "only link",
            ),
            (
                vec![("fs.viewfs.mounttable.c.linkMerge./a", "hdfs://x/,hdfs://y/")],
                "only link",
            ),
            (
                vec![("fs.viewfs.mounttable.c.link.a", "hdfs://x/")],
                "absolute",
            ),
        ] {
            let error = conf(&values).mount_table("c").unwrap_err().to_string();
            assert!(error.contains(word), "{values:?}: {error}");
        }
        let near = conf(&[
            ("fs.viewfs.mounttable.c.link./a", "hdfs://x/"),
            ("fs.viewfs.mounttable.c.link./ab", "hdfs://y/"),
        ]);
        assert_eq!(near.mount_table("c").unwrap().links.len(), 2);
    }
}
