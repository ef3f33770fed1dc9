//! Checks of the Hadoop configuration and of the credentials, by their files alone.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Check, chain};
use crate::app::{self, App};
use crate::hadoop::credentials::Standing;
use crate::hadoop::{HadoopConf, HadoopConfError, NameService, Origin};
use crate::storage::{Authority, StorageUri};

/// A ticket that ends sooner than this is about to end.
const SOON: SignedDuration = SignedDuration::from_hours(1);

/// How long the resolver may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Every check of the Hadoop configuration; none where nothing of HDFS is configured.
pub async fn checks(app: &App) -> Vec<Check> {
    let authorities = remote_authorities(app);
    if authorities.is_empty() && app.config().hadoop.conf_dir.is_none() {
        return Vec::new();
    }
    let conf = match app.hadoop_conf() {
        Ok(conf) => conf,
        Err(error) => return vec![wrong("hadoop-configuration", &error)],
    };
    let mut checks = vec![configuration(conf)];
    checks.extend(ignored(conf));
    for authority in &authorities {
        if let Authority::Hdfs(name) = authority {
            checks.extend(name_service(app, conf, name).await);
        }
    }
    checks
}

/// Every storage over the network that the configuration names.
fn remote_authorities(app: &App) -> BTreeSet<Authority> {
    let config = app.config();
    let slots = config.jobs.values().flat_map(|job| job.slots.values());
    let places = slots.flat_map(|slot| slot.checkpoints.iter().chain([&slot.marker]));
    let is_remote =
        |uri: &&StorageUri| matches!(uri.authority, Authority::Hdfs(_) | Authority::Viewfs(_));
    places
        .chain(&config.control)
        .filter(is_remote)
        .map(|uri| uri.authority.clone())
        .collect()
}

fn wrong(name: impl Into<String>, error: &HadoopConfError) -> Check {
    let advice = "correct the Hadoop configuration; `stepdown config show --hadoop` has its values";
    Check::fail(name, chain(error), advice)
}

fn configuration(conf: &HadoopConf) -> Check {
    let name = "hadoop-configuration";
    let set = conf
        .entries()
        .iter()
        .filter(|entry| entry.origin != Origin::Default)
        .count();
    match conf.dir() {
        Some(dir) => Check::ok(name, format!("{}, {set} properties set", dir.display())),
        None => Check::warn(
            name,
            "none: HADOOP_CONF_DIR is not set, so only hdfs://host:port is known",
            "set hadoop.conf-dir in the configuration, or HADOOP_CONF_DIR",
        ),
    }
}

fn ignored(conf: &HadoopConf) -> Vec<Check> {
    let told = |(key, origin): &(String, Origin)| {
        Check::warn(
            "hadoop-configuration",
            format!("{key} in {origin} is ignored: an earlier value is final"),
            "take away the one that is not meant",
        )
    };
    conf.ignored().iter().map(told).collect()
}

async fn name_service(app: &App, conf: &HadoopConf, authority: &str) -> Vec<Check> {
    let found = if authority.is_empty() {
        conf.default_hdfs()
    } else {
        Ok(authority.to_owned())
    };
    let service = match found.and_then(|name| conf.name_service(&name)) {
        Ok(service) => service,
        Err(error) => return vec![wrong(format!("hdfs://{authority}"), &error)],
    };
    let name = format!("hdfs://{}", service.name);
    let namenodes: Vec<String> = service.namenodes.iter().map(ToString::to_string).collect();
    let mut checks = vec![Check::ok(
        name.as_str(),
        format!("NameNodes {}", namenodes.join(", ")),
    )];
    for id in &service.without_address {
        checks.push(Check::warn(
            name.as_str(),
            format!("the NameNode {id} has no address and is passed over"),
            format!("set dfs.namenode.rpc-address.{}.{id}", service.name),
        ));
    }
    checks.push(credentials(app, conf, &service).await);
    checks
}

async fn credentials(app: &App, conf: &HadoopConf, service: &NameService) -> Check {
    let name = format!("credentials for hdfs://{}", service.name);
    let credentials = match conf.credentials(&app::login(&app.config().hadoop)) {
        Ok(credentials) => credentials,
        Err(error) => return wrong(name, &error),
    };
    let services = token_services(service).await;
    let now = Timestamp::now();
    match credentials.examine(conf.environment(), &services, now) {
        Ok(Standing {
            what,
            ends_at: None,
        }) => Check::ok(name, what),
        Ok(Standing {
            what,
            ends_at: Some(at),
        }) if at.duration_since(now) < SOON => Check::warn(
            name,
            format!("{what}, ends at {at}"),
            "renew it, or configure hadoop.keytab and hadoop.principal",
        ),
        Ok(Standing {
            what,
            ends_at: Some(at),
        }) => Check::ok(name, format!("{what}, until {at}")),
        // It says what to do by itself.
        Err(problem) => Check::fail(
            name,
            problem.to_string(),
            "then call `stepdown doctor` again",
        ),
    }
}

/// The names by which a delegation token may be for these NameNodes.
async fn token_services(service: &NameService) -> Vec<String> {
    if service.is_logical {
        return vec![format!("ha-hdfs:{}", service.name)];
    }
    let mut services = Vec::new();
    for namenode in &service.namenodes {
        let lookup = tokio::net::lookup_host((namenode.host.as_str(), namenode.port));
        // Without an answer the names that are written have to do.
        if let Ok(Ok(addresses)) = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
            services.extend(addresses.map(|address| address.to_string()));
        }
        services.push(namenode.to_string());
    }
    services
}
