//! An HDFS that takes only clients with Kerberos tickets or delegation tokens.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::client::HadoopClient;
use super::cluster_slot::ClusterSlot;
use super::hdfs::{Hdfs, HdfsBuilder};
use super::kdc::{Kdc, Ticket};
use super::scratch::scratch_dir;

const HOST: &str = "localhost";
const FETCH_DT: &str = "org.apache.hadoop.hdfs.tools.DelegationTokenFetcher";
const A_DAY: Duration = Duration::from_hours(24);

/// How much of the traffic is protected beyond the authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Nothing else.
    Authentication,
    /// Signed.
    Integrity,
    /// Encrypted.
    Privacy,
}

impl Protection {
    fn as_str(self) -> &'static str {
        match self {
            Protection::Authentication => "authentication",
            Protection::Integrity => "integrity",
            Protection::Privacy => "privacy",
        }
    }
}

/// A KDC and an HDFS that asks for its tickets. The superuser is `hdfs/localhost`.
#[derive(Debug)]
pub struct SecureHdfs {
    hdfs: Hdfs,
    kdc: Kdc,
}

impl SecureHdfs {
    /// Starts a private one.
    ///
    /// # Errors
    /// If something is missing or does not come up.
    pub fn start(protection: Protection) -> Result<Self> {
        let slot = ClusterSlot::acquire()?;
        Self::start_in(Some(slot), Hdfs::builder(), protection)
    }

    /// The one that all tests of this binary share, with [`Protection::Authentication`]. See
    /// [`Hdfs::shared`].
    ///
    /// # Errors
    /// If it could not be started, the same for each test.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<SecureHdfs, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| {
                Self::start_in(None, Hdfs::builder(), Protection::Authentication)
                    .map_err(|error| format!("{error:?}"))
            })
            .as_ref()
            .map_err(|error| anyhow!("the shared secure cluster did not start: {error}"))
    }

    /// Starts one that is otherwise as `builder` says, within `slot` or beside the private clusters.
    ///
    /// # Errors
    /// If something is missing or does not come up.
    pub fn start_in(
        slot: Option<ClusterSlot>,
        builder: HdfsBuilder,
        protection: Protection,
    ) -> Result<Self> {
        let kdc = Kdc::start()?;
        let service = kdc.add_principal(&format!("hdfs/{HOST}"))?;
        let web = kdc.add_principal(&format!("HTTP/{HOST}"))?;
        let superuser = kdc.kinit(&service, A_DAY)?;
        let mut java_conf = OsString::from("-Djava.security.krb5.conf=");
        java_conf.push(kdc.conf_path());
        let keytab = service.keytab.to_string_lossy();
        let protection = protection.as_str();
        let hdfs = builder
            .host(HOST)
            .core_site("hadoop.security.authentication", "kerberos")
            .core_site("hadoop.security.authorization", "true")
            .core_site("hadoop.rpc.protection", protection)
            .hdfs_site("dfs.data.transfer.protection", protection)
            .hdfs_site("dfs.block.access.token.enable", "true")
            .hdfs_site("dfs.namenode.kerberos.principal", &service.name)
            .hdfs_site("dfs.datanode.kerberos.principal", &service.name)
            .server_hdfs_site("dfs.namenode.keytab.file", &keytab)
            .server_hdfs_site("dfs.datanode.keytab.file", &keytab)
            .server_hdfs_site("dfs.web.authentication.kerberos.principal", &web.name)
            .server_hdfs_site(
                "dfs.web.authentication.kerberos.keytab",
                &web.keytab.to_string_lossy(),
            )
            // A DataNode wants privileged ports or TLS for its web pages otherwise.
            .server_hdfs_site("ignore.secure.ports.for.testing", "true")
            .env(kdc.client_env(Some(&superuser)))
            .jvm_flag(java_conf)
            .start_in(slot)?;
        Ok(Self { hdfs, kdc })
    }

    /// The HDFS. Its own tools act as the superuser.
    pub fn hdfs(&self) -> &Hdfs {
        &self.hdfs
    }

    /// The KDC, for principals and tickets.
    pub fn kdc(&self) -> &Kdc {
        &self.kdc
    }

    /// Hadoop's tools with this ticket, or without any.
    pub fn client_with(&self, ticket: Option<&Ticket>) -> HadoopClient {
        self.hdfs.client().with_env(self.kdc.client_env(ticket))
    }

    /// The environment in which a child process finds the cluster, the realm and, if given, a ticket.
    pub fn env(&self, ticket: Option<&Ticket>) -> Vec<(OsString, OsString)> {
        let mut env = self.hdfs.env();
        env.extend(self.kdc.client_env(ticket));
        env
    }

    /// A file with a delegation token of the ticket's owner, for `HADOOP_TOKEN_FILE_LOCATION`.
    ///
    /// # Errors
    /// If the NameNode does not give one.
    pub fn fetch_delegation_token(&self, ticket: &Ticket) -> Result<PathBuf> {
        let file = scratch_dir("token")?.join("token");
        let path = file.to_str().context("a scratch directory is not UTF-8")?;
        let tools = self.client_with(Some(ticket));
        tools.succeed(FETCH_DT, &["--renewer", "nobody", path])?;
        ensure!(file.exists(), "fetchdt wrote no {path}");
        Ok(file)
    }
}
