//! Checks of this host, of the process's surroundings, and of the configuration.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit};

use super::Check;
use crate::config::{Config, Environment, Loaded, lint};
use crate::process;
use crate::storage::Authority;

/// Fewer open files than this are too few: each watched HDFS and each waiting call takes some.
const OPEN_FILES: u64 = 1024;

/// Every check that needs nothing but this host and the configuration.
pub fn checks(loaded: &Loaded, environment: &Environment) -> Vec<Check> {
    let mut checks = vec![user(environment), open_files(), processes()];
    checks.extend(events(&loaded.config));
    checks.push(search_path(environment));
    checks.extend(configuration(loaded, environment));
    checks
}

fn user(environment: &Environment) -> Check {
    let uid = rustix::process::geteuid().as_raw();
    let name = environment
        .get("USER")
        .or_else(|| environment.get("LOGNAME"));
    let name = name.map_or(String::new(), |name| format!(" ({name})"));
    let home = match environment.path("HOME") {
        Some(home) => format!(", home {}", home.display()),
        None => ", no HOME: only the system's configuration file is looked for".to_owned(),
    };
    Check::ok("user", format!("uid {uid}{name}{home}"))
}

fn open_files() -> Check {
    let Rlimit { current, .. } = getrlimit(Resource::Nofile);
    let name = "open-files";
    match current {
        Some(limit) if limit < OPEN_FILES => Check::warn(
            name,
            format!("at most {limit}"),
            format!(
                "raise it to {OPEN_FILES} or more: `ulimit -n`, or LimitNOFILE= of the service"
            ),
        ),
        Some(limit) => Check::ok(name, format!("at most {limit}")),
        None => Check::ok(name, "no limit"),
    }
}

/// A process is known by its start time in `/proc`; without it no signal can be sent safely.
fn processes() -> Check {
    let name = "processes";
    let advice = "mount /proc without hidepid for this user: a process is told apart by its start time there";
    match process::this_host() {
        Err(error) => Check::fail(name, super::chain(&error), advice),
        Ok(_) if fs::read("/proc/1/stat").is_err() => {
            Check::warn(name, "the processes of other users cannot be seen", advice)
        }
        Ok(host) => Check::ok(
            name,
            format!("{host} can tell processes apart", host = host.name),
        ),
    }
}

/// Local markers are polled anyway; events make it quicker.
fn events(config: &Config) -> Option<Check> {
    let slots = config.jobs.values().flat_map(|job| job.slots.values());
    let dirs: BTreeSet<_> = slots
        .filter(|slot| slot.marker.authority == Authority::Local)
        .filter_map(|slot| slot.marker.path.parent())
        .collect();
    if dirs.is_empty() {
        return None;
    }
    let limit = |name: &str| -> Option<usize> {
        let text = fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let name = "file-events";
    Some(
        match (limit("max_user_watches"), limit("max_user_instances")) {
            (Some(watches), _) if watches < dirs.len() => Check::warn(
                name,
                format!("{watches} watches for {} marker directories", dirs.len()),
                "raise fs.inotify.max_user_watches; until then the rest is polled only",
            ),
            (Some(watches), Some(instances)) => Check::ok(
                name,
                format!("{watches} watches, {instances} watchers for each user"),
            ),
            _ => Check::warn(
                name,
                "this system has no inotify",
                "nothing: markers are polled, a removal is seen after watch.interval",
            ),
        },
    )
}

fn search_path(environment: &Environment) -> Check {
    match environment.get("PATH") {
        Some(path) => Check::ok("search-path", path),
        None => Check::warn(
            "search-path",
            "PATH is not set",
            "set it, or name all programs of the configuration from the root",
        ),
    }
}

fn configuration(loaded: &Loaded, environment: &Environment) -> Vec<Check> {
    let config = &loaded.config;
    let mut checks = vec![match loaded.lookup.file() {
        Some(file) => Check::ok(
            "configuration",
            format!("{}, {} job(s)", file.display(), config.jobs.len()),
        ),
        None => Check::warn(
            "configuration",
            "no file: the defaults are in force, no job is configured",
            "`stepdown config reference` prints a file to start from",
        ),
    }];
    let mut warnings = lint::of_values(config);
    warnings.extend(lint::of_host(loaded, environment));
    for warning in warnings {
        let found = if warning.key.is_empty() {
            warning.message
        } else {
            format!("{}: {}", warning.key, warning.message)
        };
        checks.push(Check::warn("configuration", found, warning.help));
    }
    checks
}
