//! What is valid and yet unlikely to be meant: found in the values alone, or by a look at this host.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::duration;
use super::lint_rollout;
use super::load::{Environment, Loaded};
use super::rollout::RolloutCheckpoint;
use super::schema::{
    Argv, AtBoundary, AttemptFrom, Config, CopyExisting, Escalate, Hooks, Job, JobSlot, Stop,
};
use crate::storage::{Authority, StorageUri};

/// One thing that is unlikely to be meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The key that it is about, in full.
    pub key: String,
    /// What is odd.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// Collects warnings.
#[derive(Debug, Default)]
pub(super) struct Warnings(Vec<Warning>);

impl Warnings {
    pub(super) fn add(
        &mut self,
        key: impl Into<String>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.0.push(Warning {
            key: key.into(),
            message: message.into(),
            help: help.into(),
        });
    }
}

/// Everything odd in the values, in the order of the reference. Looks at nothing but `config`.
pub fn of_values(config: &Config) -> Vec<Warning> {
    let mut warnings = Warnings::default();
    let watch = &config.watch;
    if watch.confirm == 1 {
        warnings.add(
            "watch.confirm",
            "one sighting makes an absence",
            "take 2 or more: a listing that is cut short by a bug looks the same",
        );
    }
    if watch.lease_ttl < watch.call_timeout.saturating_mul(2) {
        warnings.add(
            "watch.lease-ttl",
            "is less than twice watch.call-timeout: one slow call loses the lease",
            format!(
                "take {} or more",
                shown(watch.call_timeout.saturating_mul(2))
            ),
        );
    }
    if watch.alarm_after < watch.interval.saturating_mul(2) {
        warnings.add(
            "watch.alarm-after",
            "is less than two rounds: a single failed poll raises the alarm",
            format!("take {} or more", shown(watch.interval.saturating_mul(2))),
        );
    }
    shared_places(config, &mut warnings);
    lint_rollout::file_sinks(config, &mut warnings);
    for job in config.jobs.values() {
        deadlines(config, job, &mut warnings);
        lint_rollout::of_job(config, job, &mut warnings);
    }
    if !config.jobs.is_empty() && config.hooks.on_alarm.is_none() {
        let unheard: Vec<_> = config
            .jobs
            .values()
            .filter(|job| job.hooks.on_alarm.is_none())
            .collect();
        if let Some(first) = unheard.first() {
            warnings.add(
                format!("jobs.{}.hooks.on-alarm", first.name),
                format!("nobody hears the alarms of {} job(s)", unheard.len()),
                "name a command in [hooks], for all jobs at once",
            );
        }
    }
    warnings.0
}

pub(super) fn shown(duration: Duration) -> String {
    format!("{:?}", duration::format(duration))
}

/// Every slot with the name of its section.
fn slots(config: &Config) -> impl Iterator<Item = (String, &Job, &JobSlot)> {
    config.jobs.values().flat_map(|job| {
        job.slots.iter().map(move |(slot, found)| {
            (
                format!("jobs.{}.slots.{slot}", job.name),
                job,
                found.as_ref(),
            )
        })
    })
}

fn shared_places(config: &Config, warnings: &mut Warnings) {
    let mut markers: BTreeMap<&StorageUri, String> = BTreeMap::new();
    let mut checkpoints: BTreeMap<&StorageUri, String> = BTreeMap::new();
    let mut pid_files: BTreeMap<&Path, String> = BTreeMap::new();
    for (section, job, slot) in slots(config) {
        if let Some(other) = markers.insert(&slot.marker, section.clone()) {
            warnings.add(
                format!("{section}.marker"),
                format!("is the marker of {other}, too: removing it stops both"),
                "give each slot a marker of its own",
            );
        }
        for checkpoint in &slot.checkpoints {
            if let Some(other) = checkpoints.insert(checkpoint, section.clone()) {
                let changes_hands = job.rollout.as_ref().is_some_and(|rollout| {
                    rollout.checkpoint == RolloutCheckpoint::InPlace
                        && other.starts_with(&format!("jobs.{}.slots.", job.name))
                });
                if changes_hands && other != section {
                    continue;
                }
                let message = if other == section {
                    format!("names {checkpoint} twice")
                } else {
                    format!("{checkpoint} is a checkpoint of {other}, too: two writers damage it")
                };
                warnings.add(
                    format!("{section}.checkpoints"),
                    message,
                    "give each query of each slot a checkpoint of its own",
                );
            }
        }
        if let Stop::Signal(signal) = &slot.stop
            && let AttemptFrom::PidFile(file) = &signal.attempt_from
            && let Some(other) = pid_files.insert(file, section.clone())
        {
            warnings.add(
                format!("{section}.stop.pid-file"),
                format!("is the pid file of {other}, too: a stop of one signals the other"),
                "give each slot a pid file of its own",
            );
        }
    }
    // A marker within a checkpoint would be listed, copied and removed with it.
    for (section, _, slot) in slots(config) {
        let mut above = slot.marker.path.parent();
        let mut inside = None;
        while let Some(path) = above {
            above = path.parent();
            let dir = StorageUri::new(slot.marker.authority.clone(), path);
            if checkpoints.contains_key(&dir) {
                inside = Some(dir);
            }
        }
        if let Some(dir) = inside {
            warnings.add(
                format!("{section}.marker"),
                format!("lies in the checkpoint {dir}"),
                "keep markers apart from checkpoints, best in the control directory",
            );
        }
    }
}

fn deadlines(config: &Config, job: &Job, warnings: &mut Warnings) {
    let key = |name: &str| format!("jobs.{}.{name}", job.name);
    if job.drain_deadline < Duration::from_mins(1) && job.escalate == Escalate::Kill {
        warnings.add(
            key("drain-deadline"),
            format!(
                "a batch that takes longer than {} is killed",
                shown(job.drain_deadline)
            ),
            "take several times the longest batch",
        );
    }
    if job.drain_deadline < config.watch.drain_interval {
        warnings.add(
            key("drain-deadline"),
            "is shorter than watch.drain-interval: nobody looks before it has passed",
            "take a longer deadline",
        );
    }
    let all_unproven = job.slots.values().all(|slot| slot.checkpoints.is_empty());
    if all_unproven {
        warnings.add(
            key("checkpoints"),
            "is empty: no stop of this job can be proved clean",
            "name the checkpoint directories of its queries, unless it is a DStreams job",
        );
    }
    let of_any_slot = |place: &&StorageUri| {
        let mut slots = slots(config);
        slots.any(|(_, _, slot)| slot.checkpoints.contains(place))
    };
    if job.copy_existing == CopyExisting::Replace
        && let Some(place) = job
            .slots
            .values()
            .flat_map(|slot| &slot.copy_to)
            .find(of_any_slot)
    {
        warnings.add(
            key("copy-existing"),
            format!("\"replace\" moves {place} aside, a checkpoint that a job may be writing to"),
            "take \"refuse\", or {stop-id} in the name of the copy",
        );
    }
    for (slot, found) in &job.slots {
        let boundary = found.stop.boundary();
        let waits =
            boundary.at_boundary != AtBoundary::Never && !matches!(found.stop, Stop::Driver(_));
        if waits && boundary.patience > job.drain_deadline {
            warnings.add(
                format!("jobs.{}.slots.{slot}.stop.boundary-patience", job.name),
                "is longer than drain-deadline, which counts from the same moment",
                "take less than drain-deadline, and several times the longest trigger",
            );
        }
        if let Stop::Driver(_) = found.stop
            && job.escalate == Escalate::Kill
        {
            warnings.add(
                format!("jobs.{}.slots.{slot}.stop.backend", job.name),
                "\"driver\" sends nothing, so escalate = \"kill\" has nobody to kill by",
                "take backend = \"signal\" or \"command\", or escalate = \"never\"",
            );
        }
    }
}

/// Everything odd that a look at this host shows: programs that are not there, files that others may
/// write, markers on file systems that make no events.
pub fn of_host(loaded: &Loaded, environment: &Environment) -> Vec<Warning> {
    let mut warnings = Warnings::default();
    let config = &loaded.config;
    if let Some(file) = loaded.lookup.file() {
        writable_by_others(file, &mut warnings);
    }
    if let Some(keytab) = &config.hadoop.keytab
        && let Err(error) = fs::metadata(keytab)
    {
        let message = format!("{} cannot be read: {error}", keytab.display());
        warnings.add(
            "hadoop.keytab",
            message,
            "correct the path, or the rights of this user",
        );
    }
    if let Some(keytab) = &config.hadoop.keytab
        && let Ok(found) = fs::metadata(keytab)
        && found.permissions().mode() & 0o077 != 0
    {
        let message = format!("{} can be read by others", keytab.display());
        warnings.add(
            "hadoop.keytab",
            message,
            "chmod 600: it is as good as a password",
        );
    }
    for (key, argv) in commands(config) {
        if let Err(message) = find_program(argv.program(), environment) {
            warnings.add(
                key,
                message,
                "name a program that this user can run, best from the root: cron's PATH is short",
            );
        }
    }
    if let Some(control) = &config.control {
        network_mount(control, config, &mut warnings);
    }
    warnings.0
}

fn writable_by_others(file: &Path, warnings: &mut Warnings) {
    let others_write = |found: &Metadata| found.permissions().mode() & 0o002 != 0;
    let sticky = |found: &Metadata| found.permissions().mode() & 0o1000 != 0;
    if fs::metadata(file).is_ok_and(|found| others_write(&found)) {
        let message = format!(
            "{} can be written by everyone: it names commands",
            file.display()
        );
        warnings.add("", message, "chmod o-w");
    }
    let owner = fs::metadata(file).map_or(0, |found| found.uid());
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let message = format!(
            "{} belongs to user {owner}, who decides what is run",
            file.display()
        );
        warnings.add("", message, "chown it to this user or to root");
    }
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    let exposed = |dir: &Path| fs::metadata(dir).is_ok_and(|d| others_write(&d) && !sticky(&d));
    if let Some(dir) = dir.filter(|dir| exposed(dir)) {
        let message = format!(
            "{} can be written by everyone: the file can be replaced",
            dir.display()
        );
        warnings.add("", message, "chmod o-w");
    }
}

/// Every command of the configuration with its key, once for each command and not for each job that
/// inherits it.
fn commands(config: &Config) -> Vec<(String, &Argv)> {
    fn of_hooks<'c>(key: &str, hooks: &'c Hooks) -> Vec<(String, &'c Argv)> {
        let named = [
            ("on-clean", &hooks.on_clean),
            ("on-dirty", &hooks.on_dirty),
            ("on-unproven", &hooks.on_unproven),
            ("on-died", &hooks.on_died),
            ("on-alarm", &hooks.on_alarm),
        ];
        let set = |(name, argv): (&str, &'c Option<Argv>)| {
            Some((format!("{key}.{name}"), argv.as_ref()?))
        };
        named.into_iter().filter_map(set).collect()
    }
    let mut all = of_hooks("hooks", &config.hooks);
    for job in config.jobs.values() {
        all.extend(of_hooks(&format!("jobs.{}.hooks", job.name), &job.hooks));
    }
    for (section, _, slot) in slots(config) {
        if let Stop::Command(command) = &slot.stop {
            let named = [
                ("request", Some(&command.request)),
                ("observe", Some(&command.observe)),
                ("force", command.force.as_ref()),
            ];
            let set =
                |(name, argv): (&str, Option<_>)| Some((format!("{section}.stop.{name}"), argv?));
            all.extend(named.into_iter().filter_map(set));
        }
    }
    for job in config.jobs.values() {
        let Some(rollout) = &job.rollout else {
            continue;
        };
        let hooks = &rollout.hooks;
        let named = [
            ("gate", &rollout.gate),
            ("post-gate", &rollout.post_gate),
            ("hooks.on-start", &hooks.on_start),
            ("hooks.on-stopped", &hooks.on_stopped),
            ("hooks.on-success", &hooks.on_success),
            ("hooks.on-failure", &hooks.on_failure),
            ("hooks.on-needs-human", &hooks.on_needs_human),
        ];
        let key = |name: &str| format!("jobs.{}.rollout.{name}", job.name);
        all.extend(
            named
                .into_iter()
                .filter_map(|(name, argv)| Some((key(name), argv.as_ref()?))),
        );
        all.extend(job.slots.values().filter_map(|slot| {
            // A program that a placeholder names is known at the start.
            let start = slot.start.as_ref()?;
            (!start.program().contains('{')).then(|| (key("start"), start))
        }));
    }
    let mut seen: Vec<&Argv> = Vec::new();
    all.retain(|(_, argv)| {
        let fresh = !seen.contains(argv);
        seen.push(argv);
        fresh
    });
    all
}

/// Whether `program` can be executed; the reason as a fragment if not.
fn find_program(program: &str, environment: &Environment) -> Result<PathBuf, String> {
    let executable = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| {
            found.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
        })
    };
    if program.contains('/') {
        let path = PathBuf::from(program);
        return match fs::metadata(&path) {
            Err(error) => Err(format!("{program} cannot be run: {error}")),
            Ok(_) if !executable(&path) => {
                Err(format!("{program} is not executable for this user"))
            }
            Ok(_) => Ok(path),
        };
    }
    let path = environment.path("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| executable(path))
        .ok_or_else(|| format!("{program} is not found on PATH"))
}

/// A local path on a network file system works, but is seen by this host's rules only.
fn network_mount(control: &StorageUri, config: &Config, warnings: &mut Warnings) {
    let mut places = vec![("control".to_owned(), control)];
    places.extend(slots(config).map(|(key, _, slot)| (format!("{key}.marker"), &slot.marker)));
    for (key, uri) in places {
        if uri.authority != Authority::Local || (key != "control" && is_in(uri, control)) {
            continue;
        }
        if let Some(kind) = network_file_system(Path::new(uri.path.as_str())) {
            warnings.add(
                key,
                format!("{uri} lies on {kind}: no events are seen there, and clocks may differ"),
                "markers are polled there; make sure that all hosts mount it with `hard` and synchronise their clocks",
            );
        }
    }
}

fn is_in(uri: &StorageUri, dir: &StorageUri) -> bool {
    uri.authority == dir.authority && uri.path.is_below(&dir.path)
}

/// The name of the network file system that `path`, or the nearest directory above it that exists,
/// lies on; read from the table of mounts, which touches no mount.
fn network_file_system(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let of_line = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        Some((
            fields.next()?.replace("\\040", " "),
            fields.next()?.to_owned(),
        ))
    };
    let (_, kind) = mounts
        .lines()
        .filter_map(of_line)
        .filter(|(at, _)| path.starts_with(at))
        .max_by_key(|(at, _)| at.len())?;
    let network = [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "ceph",
        "glusterfs",
        "lustre",
        "9p",
        "afs",
    ];
    (network.contains(&kind.as_str()) || kind.starts_with("fuse.")).then_some(kind)
}
