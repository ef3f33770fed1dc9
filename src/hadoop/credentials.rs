//! Who stepdown is to HDFS, and why a NameNode may not accept it.
//!
//! Kerberos itself is spoken by the system's library. Here its files are only looked at, to say what
//! is wrong with them in words: the library's own reason is often a number, or only in a log.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub use super::credential_problem::CredentialProblem;
use super::token_file::{self, HDFS_KIND};
use super::{Environment, HadoopConf, HadoopConfError, tickets};

/// What stepdown's own configuration says about who it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// User name for simple authentication; with Kerberos the principal decides.
    pub user: Option<String>,
    /// Keytab for Kerberos; needs `principal`.
    pub keytab: Option<PathBuf>,
    /// Kerberos principal.
    pub principal: Option<String>,
}

/// Who stepdown is to HDFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name that the NameNode believes.
    Simple {
        /// The name.
        user: String,
    },
    /// A delegation token from `HADOOP_TOKEN_FILE_LOCATION`, else a ticket of the default cache.
    Ticket {
        /// The principal whose ticket it has to be; `None` for the cache's own.
        principal: Option<String>,
        /// The token file, if one is named.
        token_file: Option<PathBuf>,
    },
    /// A key of a keytab.
    Keytab {
        /// The file.
        keytab: PathBuf,
        /// Whose key.
        principal: String,
    },
}

/// Credentials that look usable, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What they are: `ticket of ann@REALM in FILE:/tmp/krb5cc_0`, ...
    pub what: String,
    /// When they end, where that is known.
    pub ends_at: Option<Timestamp>,
}

impl HadoopConf {
    /// Whether `hadoop.security.authentication` is `kerberos`.
    ///
    /// # Errors
    /// A method that is neither `simple` nor `kerberos`.
    pub fn is_kerberos(&self) -> Result<bool, HadoopConfError> {
        const KEY: &str = "hadoop.security.authentication";
        let method = self.get(KEY)?.unwrap_or_default().to_ascii_lowercase();
        match method.as_str() {
            "" | "simple" => Ok(false),
            "kerberos" => Ok(true),
            _ => Err(self.refuse(KEY, &method, "it is neither simple nor kerberos")),
        }
    }

    /// Who stepdown is to the clusters of this configuration.
    ///
    /// # Errors
    /// A keytab without a principal.
    pub fn credentials(&self, login: &Login) -> Result<Credentials, HadoopConfError> {
        let set = |name| {
            self.environment()
                .var(name)
                .filter(|value| !value.is_empty())
        };
        if !self.is_kerberos()? {
            let user = login.user.as_deref().or(set("HADOOP_USER_NAME"));
            let user = user.or(self.environment().property("user.name"));
            return user
                .map(|user| Credentials::Simple {
                    user: user.to_owned(),
                })
                .ok_or_else(|| HadoopConfError::Missing {
                    what: "this process has no user name; set HADOOP_USER_NAME".to_owned(),
                });
        }
        // The user of `login` may come from HADOOP_USER_NAME, which Hadoop ignores here as well.
        match (&login.keytab, &login.principal) {
            (Some(keytab), Some(principal)) => Ok(Credentials::Keytab {
                keytab: keytab.clone(),
                principal: principal.clone(),
            }),
            (Some(keytab), None) => Err(HadoopConfError::Missing {
                what: format!(
                    "the keytab {} needs a principal beside it",
                    keytab.display()
                ),
            }),
            (None, principal) => Ok(Credentials::Ticket {
                principal: principal.clone(),
                token_file: set("HADOOP_TOKEN_FILE_LOCATION").map(PathBuf::from),
            }),
        }
    }
}

impl Credentials {
    /// The service of the first token among `services` that has one, as the token file names it.
    /// `None` also where there is no token file or it cannot be read.
    pub fn token_service(&self, services: &[String]) -> Option<String> {
        let Credentials::Ticket {
            token_file: Some(file),
            ..
        } = self
        else {
            return None;
        };
        let tokens = token_file::parse(&fs::read(file).ok()?)?;
        services
            .iter()
            .find(|service| {
                tokens
                    .iter()
                    .any(|t| t.kind == HDFS_KIND && t.service == **service)
            })
            .cloned()
    }

    /// Looks at what these credentials rest on, for a NameNode that tokens name by one of `services`.
    ///
    /// Reads files; does not ask a KDC. No problem found does not mean that a NameNode accepts them.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn examine(
        &self,
        environment: &Environment,
        services: &[String],
        now: Timestamp,
    ) -> Result<Standing, CredentialProblem> {
        match self {
            Credentials::Simple { user } => Ok(Standing {
                what: format!("simple user {user}"),
                ends_at: None,
            }),
            Credentials::Keytab { keytab, principal } => examine_keytab(keytab, principal),
            Credentials::Ticket {
                principal,
                token_file,
            } => {
                let ticket = || examine_ticket(principal.as_deref(), environment, now);
                match token_file {
                    None => ticket(),
                    Some(file) => examine_token(file, services, now)?.or_else(|found| {
                        ticket().map_err(|problem| CredentialProblem::NoToken {
                            file: file.clone(),
                            service: services.join(" or "),
                            found,
                            ticket: Box::new(problem),
                        })
                    }),
                }
            }
        }
    }
}

fn read(what: &'static str, file: &Path) -> Result<Vec<u8>, CredentialProblem> {
    fs::read(file).map_err(|error| unreadable(what, file, error.to_string()))
}

fn unreadable(what: &'static str, file: &Path, why: impl Into<String>) -> CredentialProblem {
    CredentialProblem::Unreadable {
        what,
        file: file.to_owned(),
        why: why.into(),
    }
}

fn examine_keytab(keytab: &Path, principal: &str) -> Result<Standing, CredentialProblem> {
    let found = tickets::parse_keytab(&read("keytab", keytab)?)
        .ok_or_else(|| unreadable("keytab", keytab, "it is no keytab, or damaged"))?;
    if !found.iter().any(|name| is_same_principal(name, principal)) {
        return Err(CredentialProblem::NotInKeytab {
            keytab: keytab.to_owned(),
            principal: principal.to_owned(),
            found,
        });
    }
    Ok(Standing {
        what: format!("key of {principal} in {}", keytab.display()),
        ends_at: None,
    })
}

/// `wanted` may leave its realm to the default one.
fn is_same_principal(full: &str, wanted: &str) -> bool {
    full == wanted || (!wanted.contains('@') && full.split('@').next() == Some(wanted))
}

fn examine_ticket(
    principal: Option<&str>,
    environment: &Environment,
    now: Timestamp,
) -> Result<Standing, CredentialProblem> {
    let name = default_cache(environment);
    let Some(cache) = cache_file(&name) else {
        // A keyring or a daemon keeps the tickets; only the library can look there.
        return Ok(Standing {
            what: format!("ticket in {name} (not looked at)"),
            ends_at: None,
        });
    };
    let bytes = match fs::read(&cache) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CredentialProblem::NoCache { cache });
        }
        read => read.map_err(|e| unreadable("ticket cache", &cache, e.to_string()))?,
    };
    let found = tickets::parse_cache(&bytes)
        .ok_or_else(|| unreadable("ticket cache", &cache, "it is no ticket cache, or damaged"))?;
    if let Some(wanted) = principal.filter(|wanted| !is_same_principal(&found.principal, wanted)) {
        return Err(CredentialProblem::OtherPrincipal {
            cache,
            found: found.principal,
            wanted: wanted.to_owned(),
        });
    }
    let Some(ends_at) = found
        .tgt_ends_at
        .and_then(|s| Timestamp::from_second(s).ok())
    else {
        return Err(CredentialProblem::NoTicket {
            cache,
            principal: found.principal,
        });
    };
    if ends_at <= now {
        return Err(CredentialProblem::TicketExpired {
            cache,
            principal: found.principal,
            ended_at: ends_at,
        });
    }
    Ok(Standing {
        what: format!("ticket of {} in {}", found.principal, cache.display()),
        ends_at: Some(ends_at),
    })
}

/// `Ok(Err(services))` if the file has no token for any of `services`.
fn examine_token(
    file: &Path,
    services: &[String],
    now: Timestamp,
) -> Result<Result<Standing, Vec<String>>, CredentialProblem> {
    let tokens = token_file::parse(&read("token file", file)?)
        .ok_or_else(|| unreadable("token file", file, "it is no Hadoop token file, or damaged"))?;
    let mut tokens = tokens.into_iter().filter(|token| token.kind == HDFS_KIND);
    let Some(token) = tokens
        .clone()
        .find(|token| services.contains(&token.service))
    else {
        return Ok(Err(tokens.by_ref().map(|token| token.service).collect()));
    };
    let ends_at = token
        .max_ms
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match ends_at {
        Some(ended_at) if ended_at <= now => Err(CredentialProblem::TokenExpired {
            file: file.to_owned(),
            service: token.service,
            ended_at,
        }),
        _ => Ok(Ok(Standing {
            what: format!(
                "delegation token of {} for {} in {}",
                token.owner,
                token.service,
                file.display()
            ),
            ends_at,
        })),
    }
}

/// The name of the default ticket cache: `KRB5CCNAME`, else `default_ccache_name` of `krb5.conf`,
/// else `/tmp/krb5cc_<uid>`.
fn default_cache(environment: &Environment) -> String {
    if let Some(name) = environment
        .var("KRB5CCNAME")
        .filter(|name| !name.is_empty())
    {
        return name.to_owned();
    }
    let uid = rustix::process::getuid().as_raw().to_string();
    let conf = environment.var("KRB5_CONFIG").unwrap_or("/etc/krb5.conf");
    let text = fs::read_to_string(conf.split(':').next().unwrap_or(conf)).unwrap_or_default();
    configured_cache(&text, &uid).unwrap_or_else(|| format!("FILE:/tmp/krb5cc_{uid}"))
}

fn configured_cache(krb5_conf: &str, uid: &str) -> Option<String> {
    let mut section = "";
    for line in krb5_conf.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[libdefaults]"
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "default_ccache_name"
        {
            let variables =
                BTreeMap::from([("uid", uid), ("euid", uid), ("null", ""), ("TEMP", "/tmp")]);
            return Some(
                variables
                    .iter()
                    .fold(value.trim().to_owned(), |value, (name, to)| {
                        value.replace(&format!("%{{{name}}}"), to)
                    }),
            );
        }
    }
    None
}

/// The file behind a cache name; `None` if its kind keeps tickets elsewhere.
fn cache_file(name: &str) -> Option<PathBuf> {
    match name.split_once(':') {
        None => Some(PathBuf::from(name)),
        Some(("FILE", path)) => Some(PathBuf::from(path)),
        Some(("DIR", path)) => {
            if let Some(file) = path.strip_prefix(':') {
                return Some(PathBuf::from(file));
            }
            let primary = fs::read_to_string(Path::new(path).join("primary"));
            let primary = primary.map_or_else(|_| "tkt".to_owned(), |name| name.trim().to_owned());
            Some(Path::new(path).join(primary))
        }
        Some((kind, _)) if kind.starts_with('/') => Some(PathBuf::from(name)),
        Some(_) => None,
    }
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
