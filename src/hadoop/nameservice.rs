//! From `hdfs://name` to the addresses of its NameNodes.

use std::fmt;

use super::{HadoopConf, HadoopConfError};

/// The NameNode's port where none is written.
const DEFAULT_PORT: u16 = 8020;

/// What `fs.defaultFS` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultFs {
    /// HDFS, by nameservice or `host[:port]`.
    Hdfs(String),
    /// A viewfs mount table, by its name.
    Viewfs(String),
    /// The local file system: Hadoop's default, so most often an unset `fs.defaultFS`.
    Local,
    /// Something that stepdown cannot work with.
    Other(String),
}

/// The NameNodes that serve one `hdfs://` authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameService {
    /// The nameservice, or `host:port` with the port always there.
    pub name: String,
    /// Whether `name` is a nameservice, so that its NameNodes may take over from each other.
    pub is_logical: bool,
    /// At least one, in the order of the configuration.
    pub namenodes: Vec<NameNode>,
    /// Ids in `dfs.ha.namenodes.<name>` that have no address: Hadoop passes over them.
    pub without_address: Vec<String>,
    /// `dfs.client.failover.resolve-needed.<name>`: each host name stands for several NameNodes.
    pub resolve_hosts: bool,
}

/// One NameNode.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NameNode {
    /// Its id within the nameservice.
    pub id: Option<String>,
    /// Host name or address; IPv6 without brackets.
    pub host: String,
    /// RPC port.
    pub port: u16,
}

impl fmt::Display for NameNode {
    /// `host:port`, IPv6 in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl HadoopConf {
    /// What a URI without a host means.
    ///
    /// # Errors
    /// Variables that name each other.
    pub fn default_fs(&self) -> Result<DefaultFs, HadoopConfError> {
        let value = self
            .get("fs.defaultFS")?
            .unwrap_or_else(|| "file:///".to_owned());
        // `host:port` without a scheme was the way to write it once, and still works in Hadoop.
        let (scheme, rest) = match value.split_once("://") {
            Some(parts) => parts,
            None if value == "local" => ("file", ""),
            None if !value.contains('/') => ("hdfs", value.as_str()),
            None => return Ok(DefaultFs::Other(value)),
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let authority = authority.rsplit('@').next().unwrap_or_default().to_owned();
        Ok(match scheme {
            "hdfs" if !authority.is_empty() => DefaultFs::Hdfs(authority),
            "viewfs" => DefaultFs::Viewfs(authority),
            "file" => DefaultFs::Local,
            _ => DefaultFs::Other(value),
        })
    }

    /// The authority that `hdfs:///` stands for.
    ///
    /// # Errors
    /// `fs.defaultFS` names no HDFS.
    pub fn default_hdfs(&self) -> Result<String, HadoopConfError> {
        let advice = "write hdfs://<nameservice or host>/path, or set HADOOP_CONF_DIR";
        match self.default_fs()? {
            DefaultFs::Hdfs(authority) => Ok(authority),
            DefaultFs::Local => Err(HadoopConfError::Missing {
                what: format!(
                    "hdfs:/// needs a default file system, and fs.defaultFS is not set {}; {advice}",
                    self.place()
                ),
            }),
            DefaultFs::Viewfs(name) => Err(self.refuse(
                "fs.defaultFS",
                &format!("viewfs://{name}"),
                format!("hdfs:/// needs an hdfs:// default; write viewfs:///path, or {advice}"),
            )),
            DefaultFs::Other(value) => Err(self.refuse(
                "fs.defaultFS",
                &value,
                format!("it names no HDFS; {advice}"),
            )),
        }
    }

    /// The NameNodes of the nameservice or `host[:port]` that `authority` is.
    ///
    /// # Errors
    /// A nameservice without any address, or written with a port; an address that is none.
    pub fn name_service(&self, authority: &str) -> Result<NameService, HadoopConfError> {
        let ids = self.get_list(&format!("dfs.ha.namenodes.{authority}"))?;
        if !ids.is_empty() {
            return self.logical(authority, ids);
        }
        // One NameNode of a federation: not HA, but its address stands under the nameservice's name.
        let key = format!("dfs.namenode.rpc-address.{authority}");
        if let Some(address) = self.get(&key)? {
            return Ok(NameService {
                name: authority.to_owned(),
                is_logical: true,
                namenodes: vec![self.namenode(None, &key, &address)?],
                without_address: Vec::new(),
                resolve_hosts: false,
            });
        }
        if self
            .get_list("dfs.nameservices")?
            .iter()
            .any(|name| name == authority)
        {
            return Err(HadoopConfError::Missing {
                what: format!(
                    "{authority} is one of dfs.nameservices, but neither dfs.ha.namenodes.{authority} nor {key} is set {}",
                    self.place()
                ),
            });
        }
        let namenode = parse_address(authority, None).map_err(|why| HadoopConfError::Missing {
            what: format!(
                "{authority:?} is no nameservice of the Hadoop configuration and no host: {why}"
            ),
        })?;
        if authority != namenode.host
            && !self
                .get_list(&format!("dfs.ha.namenodes.{}", namenode.host))?
                .is_empty()
        {
            return Err(HadoopConfError::Missing {
                what: format!(
                    "hdfs://{authority}: {0} is a nameservice, which has no port; write hdfs://{0}/",
                    namenode.host
                ),
            });
        }
        Ok(NameService {
            name: namenode.to_string(),
            is_logical: false,
            namenodes: vec![namenode],
            without_address: Vec::new(),
            resolve_hosts: false,
        })
    }

    fn logical(&self, name: &str, ids: Vec<String>) -> Result<NameService, HadoopConfError> {
        let mut namenodes = Vec::new();
        let mut without_address = Vec::new();
        for id in ids {
            let key = format!("dfs.namenode.rpc-address.{name}.{id}");
            match self.get(&key)? {
                Some(address) => namenodes.push(self.namenode(Some(id), &key, &address)?),
                None => without_address.push(id),
            }
        }
        if namenodes.is_empty() {
            return Err(HadoopConfError::Missing {
                what: format!(
                    "dfs.ha.namenodes.{name} names {}, but no dfs.namenode.rpc-address.{name}.<id> is set {}",
                    without_address.join(", "),
                    self.place()
                ),
            });
        }
        let resolve = format!("dfs.client.failover.resolve-needed.{name}");
        Ok(NameService {
            name: name.to_owned(),
            is_logical: true,
            namenodes,
            without_address,
            resolve_hosts: self.get_bool(&resolve, false)?,
        })
    }

    fn namenode(
        &self,
        id: Option<String>,
        key: &str,
        address: &str,
    ) -> Result<NameNode, HadoopConfError> {
        parse_address(address, id).map_err(|why| self.refuse(key, address, why))
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`; a scheme in front is dropped, as Hadoop does.
fn parse_address(text: &str, id: Option<String>) -> Result<NameNode, String> {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.trim_end_matches('/');
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the ']' is missing")?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':').ok_or("behind ']' comes ':port'")?),
        };
        (host, port)
    } else {
        match text.split_once(':') {
            Some((_, rest)) if rest.contains(':') => {
                return Err("an IPv6 address stands in brackets, as [::1]:8020".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() || host.contains(['/', ' ', '$', '{', '}', ',']) {
        return Err(format!("{host:?} is no host name"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("{port:?} is no port number"))?,
    };
    Ok(NameNode {
        id,
        host: host.to_owned(),
        port,
    })
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

    fn addresses(service: &NameService) -> Vec<String> {
        service.namenodes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_and_default_ports() {
        for (text, expected) in [
            ("nn", "nn:8020"),
            ("nn:9000", "nn:9000"),
            ("hdfs://nn:9000/", "nn:9000"),
            ("10.0.0.1", "10.0.0.1:8020"),
            ("[::1]", "[::1]:8020"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(parse_address(text, None).unwrap().to_string(), expected);
        }
        for bad in [
            "", ":1", "nn:", "nn:x", "nn:0", "nn:70000", "::1", "[::1", "[::1]9", "${x}:1",
        ] {
            assert!(parse_address(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_nameservice_with_blanks_in_its_list() {
        let conf = conf(&[
            ("dfs.nameservices", " ns1 , ns2 "),
            ("dfs.ha.namenodes.ns1", " a,\n   b , c"),
            ("dfs.namenode.rpc-address.ns1.a", "host-a"),
            ("dfs.namenode.rpc-address.ns1.b", " host-b:9000 "),
            ("dfs.namenode.rpc-address.ns2", "host-d"),
            ("dfs.client.failover.resolve-needed.ns1", "TRUE"),
        ]);
        let service = conf.name_service("ns1").unwrap();
        assert_eq!(addresses(&service), ["host-a:8020", "host-b:9000"]);
        assert_eq!(service.without_address, ["c"]);
        assert!(service.is_logical && service.resolve_hosts);
        assert_eq!(
            addresses(&conf.name_service("ns2").unwrap()),
            ["host-d:8020"]
        );
        let error = conf.name_service("ns1:8020").unwrap_err().to_string();
        assert!(error.contains("has no port"), "{error}");
        let plain = conf.name_service("other").unwrap();
        assert_eq!(
            (plain.name.as_str(), plain.is_logical),
            ("other:8020", false)
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let conf = conf(&[
            ("dfs.nameservices", "ns1,ns2"),
            ("dfs.ha.namenodes.ns1", "a"),
            ("dfs.ha.namenodes.ns3", "a"),
            ("dfs.namenode.rpc-address.ns3.a", "${nobody}:8020"),
        ]);
        for (authority, word) in [
            ("ns1", "dfs.namenode.rpc-address.ns1.<id>"),
            ("ns2", "dfs.namenode.rpc-address.ns2"),
            ("ns3", "${nobody}"),
            ("bad:port", "port number"),
        ] {
            let error = conf.name_service(authority).unwrap_err().to_string();
            assert!(error.contains(word), "{authority}: {error}");
        }
    }

    #[test]
    fn default_file_systems() {
        for (value, expected) in [
            ("hdfs://ns", DefaultFs::Hdfs("ns".into())),
            ("hdfs://nn:9000/", DefaultFs::Hdfs("nn:9000".into())),
            ("hdfs://user@nn:9000", DefaultFs::Hdfs("nn:9000".into())),
            ("nn:9000", DefaultFs::Hdfs("nn:9000".into())),
            ("viewfs://c/", DefaultFs::Viewfs("c".into())),
            ("file:///", DefaultFs::Local),
            ("local", DefaultFs::Local),
            ("s3a://bucket", DefaultFs::Other("s3a://bucket".into())),
        ] {
            assert_eq!(
                conf(&[("fs.defaultFS", value)]).default_fs().unwrap(),
                expected
            );
        }
        assert_eq!(conf(&[]).default_fs().unwrap(), DefaultFs::Local);
        for (value, word) in [
            ("", "HADOOP_CONF_DIR"),
            ("viewfs://c", "viewfs:///path"),
            ("s3a://b", "s3a://b"),
        ] {
            let error = conf(&[("fs.defaultFS", value)])
                .default_hdfs()
                .unwrap_err()
                .to_string();
            assert!(error.contains(word), "{value}: {error}");
        }
    }
}
