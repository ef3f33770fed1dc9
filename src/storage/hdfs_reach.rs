//! How one NameNode is reached: address, resolved configuration, credentials; and why it refuses.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdfs_native::HdfsError;
use jiff::Timestamp;
use tokio::time::timeout;

use super::hdfs_error::{Asked, Failure};
use super::hdfs_probe::offered_methods;
use super::hdfs_session::SessionSpec;
use crate::hadoop::credentials::Credentials;
use crate::hadoop::{HadoopConf, HadoopConfError, NameNode, NameService};
use crate::storage::ErrorKind;

/// A NameNode that does not say within this how to authenticate is slow or no NameNode.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// A reason that was found is used again for this long: many calls fail at once.
const REASON_LIFETIME: Duration = Duration::from_secs(10);

/// Keys that the client reads, passed on where they are set.
const PASSED_ON: [&str; 6] = [
    "dfs.client.block.write.replace-datanode-on-failure.best-effort",
    "dfs.client.block.write.replace-datanode-on-failure.enable",
    "dfs.client.block.write.replace-datanode-on-failure.policy",
    "dfs.client.use.datanode.hostname",
    "dfs.data.transfer.protection",
    "dfs.user.home.dir.prefix",
];

/// One NameNode, and who stepdown is to it.
#[derive(Debug)]
pub(super) struct Reach {
    namenode: NameNode,
    /// Set where tokens are for a whole nameservice.
    nameservice: Option<String>,
    config: HashMap<String, String>,
    conf: HadoopConf,
    credentials: Credentials,
    may_fall_back_to_simple: bool,
    reason: Mutex<Option<(Instant, Option<String>)>>,
}

impl Reach {
    /// The NameNodes of `service`, in order.
    ///
    /// # Errors
    /// A value of the configuration that cannot be used.
    pub(super) fn all(
        conf: &HadoopConf,
        service: &NameService,
        credentials: &Credentials,
    ) -> Result<Vec<Reach>, HadoopConfError> {
        let mut config = HashMap::new();
        for key in PASSED_ON {
            if let Some(value) = conf.get(key)? {
                config.insert(key.to_owned(), value);
            }
        }
        if let Some(millis) = conf.get_number("dfs.client.socket-timeout")? {
            config.insert("dfs.client.socket-timeout".to_owned(), millis.to_string());
        }
        let method = if conf.is_kerberos()? {
            "kerberos"
        } else {
            "simple"
        };
        config.insert(
            "hadoop.security.authentication".to_owned(),
            method.to_owned(),
        );
        config.insert(
            "dfs.client.failover.max.attempts".to_owned(),
            "0".to_owned(),
        );
        let may_fall_back_to_simple =
            conf.get_bool("ipc.client.fallback-to-simple-auth-allowed", false)?;
        let reach = |namenode: &NameNode| Reach {
            namenode: namenode.clone(),
            nameservice: service.is_logical.then(|| service.name.clone()),
            config: config.clone(),
            conf: conf.clone(),
            credentials: credentials.clone(),
            may_fall_back_to_simple,
            reason: Mutex::new(None),
        };
        Ok(service.namenodes.iter().map(reach).collect())
    }

    /// `host:port`, for people.
    pub(super) fn name(&self) -> String {
        self.namenode.to_string()
    }

    /// What a client for this NameNode needs now.
    ///
    /// # Errors
    /// A NameNode without authentication where the configuration asks for Kerberos.
    pub(super) async fn spec(&self) -> Result<SessionSpec, Failure> {
        if !matches!(self.credentials, Credentials::Simple { .. }) && !self.may_fall_back_to_simple
        {
            let methods = self
                .probe()
                .await
                .map_err(|e| Failure::Client(HdfsError::IOError(e)))?;
            if methods.iter().any(|method| method == "SIMPLE") {
                return Err(Failure::Client(HdfsError::SASLError(
                    "the NameNode does not authenticate anybody, but this configuration asks for Kerberos".to_owned(),
                )));
            }
        }
        let services = self.token_services().await;
        let token_service = self.credentials.token_service(&services);
        let mut spec = SessionSpec {
            url: format!("hdfs://{}", self.namenode),
            config: self.config.clone().into_iter().collect(),
            user: None,
            principal: None,
            keytab: None,
        };
        match &self.credentials {
            Credentials::Simple { user } => spec.user = Some(user.clone()),
            Credentials::Keytab { keytab, principal } => {
                spec.principal = Some(principal.clone());
                spec.keytab = Some(keytab.to_string_lossy().into_owned());
            }
            // A named principal would keep the client from using a token.
            Credentials::Ticket { principal, .. } if token_service.is_none() => {
                spec.principal.clone_from(principal);
            }
            Credentials::Ticket { .. } => {}
        }
        if let Some(name) = &self.nameservice {
            // A nameservice of this one NameNode: then the client looks for the nameservice's token.
            let mut set = |key: String, value: &str| spec.config.push((key, value.to_owned()));
            set(format!("dfs.ha.namenodes.{name}"), "it");
            set(format!("dfs.namenode.rpc-address.{name}.it"), &self.name());
            // An observer may answer from the past.
            set(
                format!("dfs.client.failover.proxy.provider.{name}"),
                "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider",
            );
            spec.url = format!("hdfs://{name}");
        } else if let Some(service) = token_service {
            // The client finds a token only by the address as it is written here.
            spec.url = format!("hdfs://{service}");
        }
        Ok(spec)
    }

    /// The names by which a delegation token may be for this NameNode.
    async fn token_services(&self) -> Vec<String> {
        if !matches!(
            &self.credentials,
            Credentials::Ticket {
                token_file: Some(_),
                ..
            }
        ) {
            return Vec::new();
        }
        if let Some(name) = &self.nameservice {
            return vec![format!("ha-hdfs:{name}")];
        }
        let target = (self.namenode.host.clone(), self.namenode.port);
        let mut services: Vec<String> =
            match timeout(PROBE_TIMEOUT, tokio::net::lookup_host(target)).await {
                Ok(Ok(addresses)) => addresses.map(|address| address.to_string()).collect(),
                _ => Vec::new(),
            };
        services.push(self.name().to_ascii_lowercase());
        services.dedup();
        services
    }

    async fn probe(&self) -> io::Result<Vec<String>> {
        match timeout(PROBE_TIMEOUT, offered_methods(&self.name())).await {
            Ok(methods) => methods,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        }
    }

    /// What a failure of authentication means, and what to do; `None` if it is no such failure or
    /// nothing is known beyond its own words.
    pub(super) async fn explain(&self, failure: &Failure) -> Option<String> {
        let is_authentication = failure.kind(Asked::Stat) == ErrorKind::Authentication;
        if !is_authentication && !failure.may_be_a_refused_login() {
            return None;
        }
        {
            let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, reason)) = &*reason
                && at.elapsed() < REASON_LIFETIME
            {
                return reason.clone();
            }
        }
        let found = self.find_reason(failure, is_authentication).await;
        let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        *reason = Some((Instant::now(), found.clone()));
        found
    }

    async fn find_reason(&self, failure: &Failure, is_authentication: bool) -> Option<String> {
        if let Credentials::Simple { user } = &self.credentials {
            let methods = self.probe().await.unwrap_or_default();
            let needs_kerberos = methods.iter().any(|method| method == "KERBEROS");
            return needs_kerberos.then(|| {
                let origin = self.conf.origin("hadoop.security.authentication");
                format!(
                    "the NameNode requires Kerberos, but hadoop.security.authentication is simple (user {user}; {}); \
                     set it to kerberos in core-site.xml, or name the right HADOOP_CONF_DIR",
                    origin.map(ToString::to_string).unwrap_or_default()
                )
            });
        }
        let services = self.token_services().await;
        let environment = self.conf.environment();
        if let Err(problem) = self
            .credentials
            .examine(environment, &services, Timestamp::now())
        {
            return Some(problem.to_string());
        }
        if !is_authentication {
            return None;
        }
        meaning(&format!("{failure:?}")).map(str::to_owned)
    }
}

/// What the words of the Kerberos library and of the server mean.
fn meaning(words: &str) -> Option<&'static str> {
    [
        ("libgssapi", "the Kerberos library is missing; install libgssapi-krb5-2 (Debian) or krb5-libs (Red Hat)"),
        ("Cannot contact any KDC", "no KDC answers; check the realm's kdc in krb5.conf and the network"),
        ("Cannot find KDC", "krb5.conf names no KDC for the realm"),
        ("Clock skew", "this host's clock and the KDC's differ too much; check NTP"),
        ("not found in Kerberos database", "the KDC does not know the principal of the client or of the NameNode"),
        ("Preauthentication failed", "the keytab's key is not the current one of the principal; export the keytab again"),
        ("does not support credential stores", "this Kerberos library is too old for keytabs; use kinit -k instead"),
        ("is expired", "the delegation token has expired; submit the job again, or set a keytab and a principal"),
        ("can't be found in cache", "the delegation token was cancelled or has expired; submit the job again, or set a keytab and a principal"),
        ("does not authenticate anybody", "to allow it, set ipc.client.fallback-to-simple-auth-allowed; first make sure that this is the right NameNode"),
        ("impersonate", "the NameNode does not allow this user to act for another one"),
        ("Ticket expired", "the Kerberos ticket has expired; run kinit"),
        ("No Kerberos credentials available", "there is no Kerberos ticket; run kinit, or set a keytab and a principal"),
    ]
    .into_iter()
    .find_map(|(word, meaning)| words.contains(word).then_some(meaning))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::hadoop::credentials::Login;
    use crate::hadoop::{ConfSource, Environment};

    fn reach(values: &[(&str, &str)], authority: &str) -> Reach {
        let values: BTreeMap<String, String> = values
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let environment = Environment::new([("A", "1")], [("user.name", "ann")]);
        let conf = HadoopConf::load(&ConfSource::Nowhere, &values, environment).unwrap();
        let credentials = conf.credentials(&Login::default()).unwrap();
        let service = conf.name_service(authority).unwrap();
        Reach::all(&conf, &service, &credentials).unwrap().remove(0)
    }

    #[tokio::test]
    async fn a_client_gets_resolved_values_and_no_failover_of_its_own() {
        let reach = reach(
            &[
                ("dfs.client.use.datanode.hostname", " ${yes} "),
                ("yes", "true"),
                ("dfs.ha.namenodes.ns", "a, b"),
                ("dfs.namenode.rpc-address.ns.a", "host-a"),
                ("dfs.namenode.rpc-address.ns.b", "host-b"),
                (
                    "dfs.client.failover.proxy.provider.ns",
                    "x.ObserverReadProxyProvider",
                ),
                ("dfs.client.failover.random.order.ns", "true"),
            ],
            "ns",
        );
        let spec = reach.spec().await.unwrap();
        let config: BTreeMap<_, _> = spec
            .config
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(spec.url, "hdfs://ns");
        assert_eq!(spec.user.as_deref(), Some("ann"));
        for (key, value) in [
            ("dfs.client.use.datanode.hostname", "true"),
            ("dfs.client.failover.max.attempts", "0"),
            ("dfs.client.socket-timeout", "60000"),
            ("hadoop.security.authentication", "simple"),
            ("dfs.ha.namenodes.ns", "it"),
            ("dfs.namenode.rpc-address.ns.it", "host-a:8020"),
        ] {
            assert_eq!(config.get(key), Some(&value), "{key}");
        }
        assert!(
            config["dfs.client.failover.proxy.provider.ns"]
                .ends_with(".ConfiguredFailoverProxyProvider")
        );
        assert!(!config.contains_key("dfs.client.failover.random.order.ns"));
    }

    #[tokio::test]
    async fn one_namenode_is_named_by_its_address() {
        let spec = reach(&[], "host").spec().await.unwrap();
        assert_eq!(spec.url, "hdfs://host:8020");
    }

    #[test]
    fn the_librarys_words_have_a_meaning() {
        let gss = "GSSAPIError(.., \"Cannot contact any KDC for realm 'EXAMPLE.COM'\")";
        assert!(meaning(gss).unwrap().contains("krb5.conf"));
        assert_eq!(meaning("something else"), None);
    }
}
