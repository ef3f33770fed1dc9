//! An MIT KDC with a realm of its own.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::client::{TOOL_DEADLINE, ToolOutput, run_program};
use super::daemon::{Daemon, Launch};
use super::ports::Port;
use super::scratch::{log_dir, scratch_dir};
use super::wait::wait_until;

const REALM: &str = "STEPDOWN.TEST";
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Servers' programs are not on every user's path.
const SERVER_DIRS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

/// A running KDC; its realm ends with it.
#[derive(Debug)]
pub struct Kdc {
    dir: PathBuf,
    env: Vec<(OsString, OsString)>,
    next_cache: AtomicU32,
    // `kadmin.local` opens the database itself; one at a time.
    admin: Mutex<()>,
    _daemon: Daemon,
    _port: Port,
}

/// A principal whose key lies in a keytab.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Its full name, with the realm.
    pub name: String,
    /// The file with its key.
    pub keytab: PathBuf,
}

/// A ticket cache.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// The cache file, for `KRB5CCNAME`.
    pub cache: PathBuf,
}

impl Kdc {
    /// Starts a KDC with an empty realm.
    ///
    /// # Errors
    /// If MIT Kerberos is not installed or the KDC does not come up, with the end of its log.
    pub fn start() -> Result<Self> {
        let dir = scratch_dir("kdc")?;
        let port = Port::reserve()?;
        write_conf(&dir, port.number())?;
        let env = vec![
            ("KRB5_CONFIG".into(), dir.join("krb5.conf").into()),
            ("KRB5_KDC_PROFILE".into(), dir.join("kdc.conf").into()),
        ];
        let create = ["create", "-s", "-r", REALM, "-P", "master"];
        succeed("kdb5_util", &create.map(OsString::from), &env)?;
        let launch = Launch {
            name: "kdc".to_owned(),
            program: find_program("krb5kdc")?,
            args: vec!["-n".into()],
            env: env.clone(),
            log: log_dir("kdc")?.join("kdc.log"),
        };
        let mut daemon = Daemon::start(&launch)?;
        daemon.await_ready(START_DEADLINE, "the KDC takes connections", || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port.number())).is_ok()
        })?;
        Ok(Self {
            dir,
            env,
            next_cache: AtomicU32::new(0),
            admin: Mutex::new(()),
            _daemon: daemon,
            _port: port,
        })
    }

    /// The realm's name.
    pub fn realm(&self) -> &'static str {
        REALM
    }

    /// What clients take as `KRB5_CONFIG`.
    pub fn conf_path(&self) -> PathBuf {
        self.dir.join("krb5.conf")
    }

    /// Adds a principal (`alice`, `hdfs/localhost`) with a random key.
    ///
    /// # Errors
    /// If there is one of that name already.
    pub fn add_principal(&self, name: &str) -> Result<Principal> {
        let principal = Principal {
            name: format!("{name}@{REALM}"),
            keytab: self.dir.join(format!("{}.keytab", name.replace('/', "-"))),
        };
        if principal.keytab.exists() {
            bail!("{} is there already", principal.name);
        }
        let keytab = principal.keytab.display();
        self.admin(&format!("addprinc -randkey {}", principal.name))?;
        self.admin(&format!("ktadd -k {keytab} {}", principal.name))?;
        if !principal.keytab.exists() {
            bail!("kadmin.local wrote no {keytab}");
        }
        Ok(principal)
    }

    /// Gets a ticket that lives for `lifetime` (whole seconds), in a new cache.
    ///
    /// # Errors
    /// If the KDC does not give one.
    pub fn kinit(&self, principal: &Principal, lifetime: Duration) -> Result<Ticket> {
        let number = self.next_cache.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket {
            cache: self.dir.join(format!("cache-{number}")),
        };
        self.renew(&ticket, principal, lifetime)?;
        Ok(ticket)
    }

    /// Puts a new ticket into the cache of `ticket`, as a cron job with `kinit` does.
    ///
    /// # Errors
    /// If the KDC does not give one.
    pub fn renew(&self, ticket: &Ticket, principal: &Principal, lifetime: Duration) -> Result<()> {
        let args: [OsString; 8] = [
            "-l".into(),
            format!("{}s", lifetime.as_secs()).into(),
            "-c".into(),
            ticket.cache.clone().into(),
            "-k".into(),
            "-t".into(),
            principal.keytab.clone().into(),
            principal.name.clone().into(),
        ];
        succeed("kinit", &args, &self.env)
    }

    /// Gets a ticket and waits until it has expired.
    ///
    /// # Errors
    /// If the KDC does not give one.
    pub fn expired_ticket(&self, principal: &Principal) -> Result<Ticket> {
        let ticket = self.kinit(principal, Duration::from_secs(1))?;
        wait_until(START_DEADLINE, "a ticket of one second expires", || {
            self.is_valid(&ticket).is_ok_and(|valid| !valid)
        })?;
        Ok(ticket)
    }

    /// Whether the cache has a ticket that has not expired.
    ///
    /// # Errors
    /// If `klist` cannot be run.
    pub fn is_valid(&self, ticket: &Ticket) -> Result<bool> {
        let args = ["-s".into(), "-c".into(), ticket.cache.clone().into()];
        Ok(run("klist", &args, &self.env)?.is_ok())
    }

    /// The environment in which a child process finds this realm and, if given, a ticket.
    pub fn client_env(&self, ticket: Option<&Ticket>) -> Vec<(OsString, OsString)> {
        let cache = match ticket {
            Some(ticket) => ticket.cache.clone(),
            // A file that is not there, so that no ticket of the user who runs the tests is used.
            None => self.dir.join("no-cache"),
        };
        vec![
            ("KRB5_CONFIG".into(), self.conf_path().into()),
            ("KRB5CCNAME".into(), cache.into()),
        ]
    }

    fn admin(&self, query: &str) -> Result<()> {
        let _one_at_a_time = self.admin.lock();
        let args = ["-r", REALM, "-q", query].map(OsString::from);
        succeed("kadmin.local", &args, &self.env)
    }
}

fn write_conf(dir: &Path, port: u16) -> Result<()> {
    let at = dir.display();
    // Nothing is looked up in DNS and all goes by TCP. All clocks are one, but a busy machine may take
    // long from making an authenticator to checking it.
    let krb5 = format!(
        "[libdefaults]
 default_realm = {REALM}
 dns_lookup_kdc = false
 dns_lookup_realm = false
 dns_canonicalize_hostname = false
 rdns = false
 udp_preference_limit = 1
 clockskew = 60
 forwardable = true
[realms]
 {REALM} = {{
  kdc = 127.0.0.1:{port}
 }}
[domain_realm]
 localhost = {REALM}
"
    );
    let kdc = format!(
        "[kdcdefaults]
 kdc_listen = 127.0.0.1:{port}
 kdc_tcp_listen = 127.0.0.1:{port}
[realms]
 {REALM} = {{
  database_name = {at}/principal
  key_stash_file = {at}/stash
  acl_file = {at}/kadm5.acl
  supported_enctypes = aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal
  max_life = 1d
  max_renewable_life = 7d
 }}
[logging]
 kdc = STDERR
"
    );
    for (name, text) in [("krb5.conf", krb5), ("kdc.conf", kdc)] {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn find_program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    SERVER_DIRS
        .iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|program| program.exists())
        .with_context(|| format!("{name} is missing: run tests/setup.sh (MIT Kerberos)"))
}

fn run(name: &str, args: &[OsString], env: &[(OsString, OsString)]) -> Result<ToolOutput> {
    let env = env.iter().cloned();
    run_program(&find_program(name)?, args, env, TOOL_DEADLINE)
}

fn succeed(name: &str, args: &[OsString], env: &[(OsString, OsString)]) -> Result<()> {
    let output = run(name, args, env)?;
    if !output.is_ok() {
        bail!("{name} {args:?} failed: {output:?}");
    }
    Ok(())
}
