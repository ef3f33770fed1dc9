//! From the tables of the file to a [`Config`]: which keys there are, where, with which defaults and
//! limits. Every key of stepdown is named here once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::key::{Key, Refusal, read_word};
use super::load::Environment;
use super::schema::{
    Argv, AtBoundary, AttemptFrom, Boundary, CommandStop, Config, CopyExisting, DriverStop,
    Escalate, Hadoop, Hooks, Job, JobSlot, Log, OnStopped, Run, SignalStop, Stop, Watch,
};
use super::section::{Origin, Section};
use crate::model::{JobName, Slot};
use crate::storage::StorageUri;

/// The configuration in `top`; what is wrong is noted in its account.
pub(super) fn config(mut top: Section<'_, '_>, environment: &Environment) -> Config {
    let control = control(&mut top, environment);
    let hadoop = hadoop(top.section("hadoop"), environment);
    let watch = watch(top.section("watch"));
    let run = run(top.section("run"));
    let log = log(top.section("log"));
    let hooks = hooks(top.section("hooks"), None);
    let has_control = control.is_some() || top.has("control");
    let jobs_section = top.section("jobs");
    if jobs_section.has_any() && !has_control {
        top.problem("control", no_control());
    }
    let jobs = jobs(jobs_section, control.as_ref(), &hooks);
    top.finish();
    Config {
        control,
        hadoop,
        watch,
        run,
        log,
        hooks,
        jobs,
    }
}

fn control(top: &mut Section<'_, '_>, environment: &Environment) -> Option<StorageUri> {
    let name = "STEPDOWN_CONTROL";
    let in_file = top.value_or("control", None, Origin::Default);
    let Some(text) = environment.get(name) else {
        return in_file;
    };
    match text.parse::<StorageUri>() {
        Ok(uri) => {
            let origin = Origin::Environment { name: name.into() };
            top.account().replace("control", Some(uri.show()), origin);
            Some(uri)
        }
        Err(invalid) => {
            let message = format!("the environment variable {name}: {invalid}");
            top.account()
                .problem(None, "control", Refusal::new(message));
            in_file
        }
    }
}

/// The value of a variable that Hadoop's own tools read, where the file says nothing.
fn inherited(environment: &Environment, name: &str) -> (Option<String>, Origin) {
    match environment.get(name) {
        Some(value) => (Some(value), Origin::Environment { name: name.into() }),
        None => (None, Origin::Default),
    }
}

fn hadoop(mut section: Section<'_, '_>, environment: &Environment) -> Hadoop {
    let (conf_dir, conf_origin) = inherited(environment, "HADOOP_CONF_DIR");
    let (user, user_origin) = inherited(environment, "HADOOP_USER_NAME");
    let conf_dir = section.value_or("conf-dir", conf_dir.map(Into::into), conf_origin);
    let user = section.value_or("user", user, user_origin);
    let keytab = section.optional("keytab");
    let principal: Option<String> = section.optional("principal");
    if keytab.is_some() && principal.is_none() {
        section.problem("keytab", Refusal::new("needs a principal beside it"));
    }
    let mut overrides = section.section("overrides");
    let pairs = overrides.named_strings();
    section.finish();
    Hadoop {
        conf_dir,
        user,
        keytab,
        principal,
        overrides: pairs.into_iter().collect(),
    }
}

fn at_least(least: Duration, rule: &'static str) -> impl Fn(&Duration) -> Result<(), &'static str> {
    move |value| if *value >= least { Ok(()) } else { Err(rule) }
}

fn positive(value: &Duration) -> Result<(), &'static str> {
    at_least(Duration::from_nanos(1), "it must be longer than nothing")(value)
}

fn watch(mut section: Section<'_, '_>) -> Watch {
    let or = Watch::default();
    let polling = at_least(Duration::from_millis(10), "at least \"10ms\"");
    let watch = Watch {
        interval: section.checked("interval", or.interval, &polling),
        jitter: section.checked("jitter", or.jitter, |share| {
            if (0.0..=1.0).contains(share) {
                Ok(())
            } else {
                Err("a share from 0 to 1")
            }
        }),
        call_timeout: section.checked("call-timeout", or.call_timeout, positive),
        confirm: section.checked("confirm", or.confirm, |times| {
            if (1..=100).contains(times) {
                Ok(())
            } else {
                Err("1 to 100")
            }
        }),
        confirm_spacing: section.optional("confirm-spacing"),
        alarm_after: section.checked("alarm-after", or.alarm_after, positive),
        drain_interval: section.checked("drain-interval", or.drain_interval, &polling),
        attempt_interval: section.checked("attempt-interval", or.attempt_interval, &polling),
        lease_ttl: section.checked(
            "lease-ttl",
            or.lease_ttl,
            at_least(Duration::from_secs(1), "at least \"1s\""),
        ),
        max_clock_skew: section.checked("max-clock-skew", or.max_clock_skew, positive),
    };
    section.finish();
    watch
}

fn run(mut section: Section<'_, '_>) -> Run {
    let or = Run::default();
    let run = Run {
        restart: section.value("restart", or.restart),
        restart_min_delay: section.checked("restart-min-delay", or.restart_min_delay, positive),
        restart_max_delay: section.checked("restart-max-delay", or.restart_max_delay, positive),
        max_restarts: section.value("max-restarts", or.max_restarts),
        kill_with_parent: section.value("kill-with-parent", or.kill_with_parent),
    };
    if run.restart_min_delay > run.restart_max_delay {
        section.problem(
            "restart-min-delay",
            Refusal::new("is longer than restart-max-delay"),
        );
    }
    section.finish();
    run
}

fn log(mut section: Section<'_, '_>) -> Log {
    let or = Log::default();
    let log = Log {
        format: section.value("format", or.format),
        level: section.value("level", or.level),
    };
    section.finish();
    log
}

/// The hooks of `section`; what it does not name is as in `general`, the hooks of all jobs.
fn hooks(mut section: Section<'_, '_>, general: Option<&Hooks>) -> Hooks {
    let or = general.cloned().unwrap_or_default();
    let origin = |name: &str| match general {
        Some(_) => Origin::Key {
            key: format!("hooks.{name}"),
        },
        None => Origin::Default,
    };
    let mut hook = |name: &'static str, fallback| {
        let from = if Option::is_some(&fallback) {
            origin(name)
        } else {
            Origin::Default
        };
        section.value_or(name, fallback, from)
    };
    let on_clean = hook("on-clean", or.on_clean);
    let on_dirty = hook("on-dirty", or.on_dirty);
    let on_unproven = hook("on-unproven", or.on_unproven);
    let on_died = hook("on-died", or.on_died);
    let on_alarm = hook("on-alarm", or.on_alarm);
    let timeout = section
        .value_or("timeout", Some(or.timeout), origin("timeout"))
        .unwrap_or(or.timeout);
    if let Err(rule) = positive(&timeout) {
        section.problem("timeout", Refusal::new(rule));
    }
    section.finish();
    Hooks {
        on_clean,
        on_dirty,
        on_unproven,
        on_died,
        on_alarm,
        timeout,
    }
}

fn no_control() -> Refusal {
    Refusal::new("is missing: jobs need a control directory").with_help(
        "write control = \"hdfs:///stepdown\" above the first [section]; `stepdown init` makes it",
    )
}

fn jobs(
    mut section: Section<'_, '_>,
    control: Option<&StorageUri>,
    general: &Hooks,
) -> BTreeMap<JobName, Job> {
    // Most jobs have no hooks of their own.
    let general = Arc::new(general.clone());
    let mut jobs = BTreeMap::new();
    for (name, section) in section.named_sections() {
        match name.parse::<JobName>() {
            Ok(name) => {
                if let Some(job) = job(&name, section, control, &general) {
                    jobs.insert(name, job);
                }
            }
            Err(invalid) => section.problem_here(Refusal::new(invalid.to_string())),
        }
    }
    jobs
}

fn job(
    name: &JobName,
    mut section: Section<'_, '_>,
    control: Option<&StorageUri>,
    general: &Arc<Hooks>,
) -> Option<Job> {
    let trigger = section.value("trigger", super::schema::Trigger::Disappears);
    let drain_deadline = section.checked("drain-deadline", Job::DRAIN_DEADLINE, positive);
    let escalate = section.value("escalate", Escalate::Never);
    let kill_deadline = section.checked("kill-deadline", Job::KILL_DEADLINE, positive);
    let checkpoints: Vec<StorageUri> = section.value("checkpoints", Vec::new());
    let on_stopped = section.value("on-stopped", OnStopped::Nothing);
    let copy_to: Vec<StorageUri> = section.value("copy-to", Vec::new());
    let file_sinks: Vec<StorageUri> = section.value("file-sinks", Vec::new());
    let copy_existing = section.value("copy-existing", CopyExisting::Refuse);
    let copy_deadline = section.checked("copy-deadline", Job::COPY_DEADLINE, positive);
    let own = hooks(section.section("hooks"), Some(general));
    let hooks = if own == **general {
        Arc::clone(general)
    } else {
        Arc::new(own)
    };
    let rollout_section = section.section("rollout");
    let (rollout, start) = super::read_rollout::rollout(rollout_section);
    let has_stop = section.has("stop");
    let stop_section = section.section("stop");
    let common = if stop_section.is_present() {
        stop(stop_section, escalate)
    } else {
        None
    };

    let mut slots_section = section.section("slots");
    let mut named = slots_section.named_sections();
    if named.is_empty() {
        named.push((Slot::Blue.to_string(), slots_section.absent("blue")));
    }
    let mut slots = BTreeMap::new();
    for (text, slot_section) in named {
        match text.parse::<Slot>() {
            Ok(slot) => {
                let shared = Shared {
                    checkpoints: &checkpoints,
                    checkpoints_key: section.key("checkpoints"),
                    copy_to: &copy_to,
                    copy_to_key: section.key("copy-to"),
                    file_sinks: &file_sinks,
                    file_sinks_key: section.key("file-sinks"),
                    stop: common.as_ref(),
                    stop_key: (!has_stop).then(|| section.key("stop")),
                    escalate,
                    start: start.as_ref(),
                    start_key: section.key("rollout.start"),
                };
                let marker = control.map(|control| marker_in(control, name, slot));
                if let Some(found) = job_slot(slot_section, marker, &shared) {
                    if let Err(refusal) = check_copies(on_stopped, &found) {
                        section.problem("copy-to", refusal);
                    }
                    if let Err(refusal) = check_boundary(&found) {
                        section.problem("checkpoints", refusal);
                    }
                    slots.insert(slot, Box::new(found));
                }
            }
            Err(invalid) => slot_section.problem_here(Refusal::new(invalid.to_string())),
        }
    }
    if let Some(rollout) = &rollout {
        super::read_rollout::check(&section.section("rollout"), rollout, trigger, &slots);
    }
    section.finish();
    (!slots.is_empty()).then_some(Job {
        name: name.clone(),
        trigger,
        drain_deadline,
        escalate,
        kill_deadline,
        on_stopped,
        copy_existing,
        copy_deadline,
        hooks,
        rollout: rollout.map(Box::new),
        slots,
    })
}

/// Where the marker of a slot lies unless the configuration says otherwise.
fn marker_in(control: &StorageUri, job: &JobName, slot: Slot) -> StorageUri {
    control.join("markers").join(&format!("{job}.{slot}"))
}

/// What the slots of one job have in common.
struct Shared<'s> {
    checkpoints: &'s Vec<StorageUri>,
    checkpoints_key: String,
    copy_to: &'s Vec<StorageUri>,
    copy_to_key: String,
    file_sinks: &'s Vec<StorageUri>,
    file_sinks_key: String,
    stop: Option<&'s Stop>,
    /// The job's `stop` key, where the file does not have it.
    stop_key: Option<String>,
    escalate: Escalate,
    /// The start command of the job's rollouts.
    start: Option<&'s Argv>,
    start_key: String,
}

fn job_slot(
    mut section: Section<'_, '_>,
    default_marker: Option<StorageUri>,
    shared: &Shared<'_>,
) -> Option<JobSlot> {
    let from_control = Origin::Key {
        key: "control".into(),
    };
    let marker = section.value_or("marker", default_marker, from_control);
    let from_job = |uris: &[StorageUri], key: &String| {
        if uris.is_empty() {
            Origin::Default
        } else {
            Origin::Key { key: key.clone() }
        }
    };
    let origin = from_job(shared.checkpoints, &shared.checkpoints_key);
    let checkpoints = section
        .value_or("checkpoints", Some(shared.checkpoints.clone()), origin)
        .unwrap_or_default();
    let origin = from_job(shared.copy_to, &shared.copy_to_key);
    let copy_to = section
        .value_or("copy-to", Some(shared.copy_to.clone()), origin)
        .unwrap_or_default();
    let origin = from_job(shared.file_sinks, &shared.file_sinks_key);
    let file_sinks = section
        .value_or("file-sinks", Some(shared.file_sinks.clone()), origin)
        .unwrap_or_default();
    let own_is_missing = !section.has("stop");
    let own = section.section("stop");
    let stop = if own.is_present() {
        stop(own, shared.escalate)
    } else {
        if let (true, Some(key)) = (own_is_missing, &shared.stop_key) {
            own.missing(key);
        }
        shared.stop.cloned()
    };
    let origin = match shared.start {
        Some(_) => Origin::Key {
            key: shared.start_key.clone(),
        },
        None => Origin::Default,
    };
    let start = section.value_or("start", shared.start.cloned(), origin);
    section.finish();
    Some(JobSlot {
        marker: marker?,
        checkpoints,
        copy_to,
        file_sinks,
        stop: stop?,
        start,
    })
}

/// Whether each checkpoint has a place for its copy, apart from all checkpoints of the slot.
fn check_copies(on_stopped: OnStopped, slot: &JobSlot) -> Result<(), Refusal> {
    let (checkpoints, copy_to) = (&slot.checkpoints, &slot.copy_to);
    if on_stopped == OnStopped::Nothing {
        return Ok(());
    }
    if checkpoints.is_empty() {
        let refusal = Refusal::new("on-stopped = \"copy\" has nothing to copy");
        return Err(refusal.with_help("name the checkpoint directories in `checkpoints`"));
    }
    if copy_to.len() != checkpoints.len() {
        let (places, sources) = (copy_to.len(), checkpoints.len());
        let message = format!("names {places} place(s) for the copies of {sources} checkpoint(s)");
        return Err(Refusal::new(message).with_help("name one for each, in the same order"));
    }
    for (at, place) in copy_to.iter().enumerate() {
        let within = |other: &StorageUri| other.is_within(place) || place.is_within(other);
        let earlier = copy_to.iter().take(at);
        if let Some(other) = checkpoints
            .iter()
            .chain(earlier)
            .find(|other| within(other))
        {
            let refusal = Refusal::new(format!("{place} and {other} lie within each other"));
            return Err(refusal.with_help("take a directory of its own for each copy"));
        }
    }
    Ok(())
}

/// Whether there is something to see the batches of a job by that is asked between two of them.
fn check_boundary(slot: &JobSlot) -> Result<(), Refusal> {
    let waits = match &slot.stop {
        Stop::Signal(_) | Stop::Command(_) => slot.stop.boundary().at_boundary != AtBoundary::Never,
        // It is only asked where it cannot drain by itself.
        Stop::Driver(_) => false,
    };
    if waits && slot.checkpoints.is_empty() {
        let refusal = Refusal::new("is empty, and at-boundary needs the batches to be seen");
        return Err(refusal.with_help(
            "name the checkpoint directories of all its queries, or write at-boundary = \"never\"",
        ));
    }
    Ok(())
}

/// A backend's settings; `None` if something was wrong, which is noted.
fn stop(mut section: Section<'_, '_>, escalate: Escalate) -> Option<Stop> {
    let backend = section.required::<Backend>(
        "backend",
        "write backend = \"signal\", \"command\" or \"driver\"",
    );
    let stop = match backend.map(|backend| backend.0) {
        Some("signal") => Some(Stop::Signal(signal_stop(&mut section))),
        Some("command") => command_stop(&mut section, escalate).map(Stop::Command),
        Some(_) => Some(Stop::Driver(driver_stop(&mut section))),
        // The other keys cannot be judged without the backend.
        None => return None,
    };
    section.finish();
    stop
}

/// The word of `backend`.
#[derive(Clone, Copy)]
struct Backend(&'static str);

impl Key for Backend {
    fn read(value: &toml::de::DeValue<'_>) -> Result<Self, Refusal> {
        read_word(value, Stop::BACKENDS, |word| word).map(Backend)
    }

    fn show(&self) -> String {
        super::key::quote(self.0)
    }
}

/// The word of `attempt-from`.
#[derive(Clone, Copy)]
struct From(&'static str);

impl Key for From {
    fn read(value: &toml::de::DeValue<'_>) -> Result<Self, Refusal> {
        read_word(value, &["status", "pid-file"], |word| word).map(From)
    }

    fn show(&self) -> String {
        super::key::quote(self.0)
    }
}

fn signal_stop(section: &mut Section<'_, '_>) -> SignalStop {
    let or = SignalStop::default();
    let from = section.value("attempt-from", From("status")).0;
    let pid_file = section.optional("pid-file");
    let attempt_from = match (from, pid_file) {
        ("pid-file", Some(file)) => AttemptFrom::PidFile(file),
        ("pid-file", None) => {
            if !section.has("pid-file") {
                section.problem(
                    "attempt-from",
                    Refusal::new("\"pid-file\" needs pid-file = \"/path\" beside it"),
                );
            }
            or.attempt_from
        }
        (_, Some(_)) => {
            let refusal = Refusal::new("has no effect with attempt-from = \"status\"");
            section.problem(
                "pid-file",
                refusal.with_help("write attempt-from = \"pid-file\" as well"),
            );
            or.attempt_from
        }
        (_, None) => or.attempt_from,
    };
    SignalStop {
        attempt_from,
        signal: section.value("signal", or.signal),
        target: section.value("target", or.target),
        ends_with: section.value("ends-with", or.ends_with),
        resend_after: section.checked("resend-after", or.resend_after, positive),
        boundary: boundary(section, or.boundary),
    }
}

fn driver_stop(section: &mut Section<'_, '_>) -> DriverStop {
    let or = DriverStop::default();
    DriverStop {
        boundary: boundary(section, or.boundary),
        heartbeat_timeout: section.checked("heartbeat-timeout", or.heartbeat_timeout, positive),
    }
}

fn boundary(section: &mut Section<'_, '_>, or: Boundary) -> Boundary {
    Boundary {
        at_boundary: section.value("at-boundary", or.at_boundary),
        patience: section.checked("boundary-patience", or.patience, positive),
        reaction: section.optional("boundary-reaction").or(or.reaction),
    }
}

fn command_stop(section: &mut Section<'_, '_>, escalate: Escalate) -> Option<CommandStop> {
    let request = section.required("request", "write request = [\"program\", \"argument\"]");
    let observe = section.required("observe", "write observe = [\"program\", \"argument\"]");
    let force = section.optional("force");
    let timeout = section.checked("timeout", Duration::from_secs(30), positive);
    if escalate == Escalate::Kill && force.is_none() && !section.has("force") {
        let refusal = Refusal::new("is missing, and escalate = \"kill\" needs it");
        section.problem(
            "force",
            refusal.with_help("write force = [\"program\", \"argument\"], or escalate = \"never\""),
        );
    }
    Some(CommandStop {
        request: request?,
        observe: observe?,
        force,
        timeout,
        boundary: boundary(section, Boundary::default()),
    })
}
