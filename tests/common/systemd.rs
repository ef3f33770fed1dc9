//! A systemd of the test's own: process 1 of its own namespaces, with the units that it is given and no
//! others. It sees the machine's files and can write to the test's directory only.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::client::{ToolOutput, run_program};
use super::daemon::{Daemon, Launch};
use super::wait::wait_until;

const BOOT: &str = include_str!("systemd.sh");
/// Longer than it takes to come up, or to start or stop a service, on a busy machine.
const SOON: Duration = Duration::from_mins(1);
/// What an ordinary machine has, and the units of the test are ordered by.
const TARGETS: [&str; 6] = [
    "test",
    "sysinit",
    "basic",
    "shutdown",
    "multi-user",
    "network-online",
];
/// Starts the program in a control group of its own, which is the root of what systemd sees.
const IN_GROUP: &str = r#"echo $$ >"$0/cgroup.procs" && exec "$@""#;

/// A running systemd; it and all that it started is killed when this is dropped.
#[derive(Debug)]
pub struct Systemd {
    server: Option<Daemon>,
    group: PathBuf,
    units: PathBuf,
    /// Its process, seen from outside; 0 before it is there.
    pid: u32,
}

impl Systemd {
    /// Starts it with its files and units in `dir`, which its services may write to.
    ///
    /// # Errors
    /// Without root, without systemd's programs, or where it does not come up.
    pub fn start(dir: &Path) -> Result<Self> {
        let units = dir.join("units");
        fs::create_dir(&units).context("no directory for units")?;
        for target in TARGETS {
            let text = format!("[Unit]\nDescription={target}\nDefaultDependencies=no\n");
            fs::write(units.join(format!("{target}.target")), text)?;
        }
        let script = dir.join("systemd.sh");
        fs::write(&script, BOOT)?;
        let group = new_group()?;
        let mut systemd = Self {
            server: None,
            group: group.clone(),
            units: units.clone(),
            pid: 0,
        };
        let unshare = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--cgroup",
            "--uts",
            "--ipc",
            "--propagation=private",
            "--kill-child",
            "--",
            "sh",
        ];
        let head = ["-c".into(), IN_GROUP.into(), group.into_os_string()];
        let tail = [script.into_os_string(), dir.into(), units.into_os_string()];
        let args = head.into_iter().chain(unshare.map(OsString::from));
        let log = dir.join("systemd.log");
        let server = systemd.server.insert(Daemon::start(&Launch {
            name: "systemd".to_owned(),
            program: "sh".into(),
            args: args.chain(tail).collect(),
            env: Vec::new(),
            log: log.clone(),
        })?);
        let outer = server.pid();
        let mut inner = 0;
        wait_until(SOON, "systemd is there (it needs root)", || {
            inner = first_child(outer).unwrap_or(0);
            fs::read_to_string(format!("/proc/{inner}/comm")).is_ok_and(|name| name == "systemd\n")
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        systemd.pid = inner;
        wait_until(SOON, "systemd has come up", || {
            let state = systemd.systemctl(&["is-system-running"]);
            state.is_ok_and(|said| said.stdout.trim() == "running")
        })
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
        Ok(systemd)
    }

    /// Installs a unit file with more settings of its `[Service]`, and has it read.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn install(&self, unit: &str, text: &str, settings: &[(&str, &str)]) -> Result<()> {
        fs::write(self.units.join(unit), text)?;
        let dir = self.units.join(format!("{unit}.d"));
        fs::create_dir_all(&dir)?;
        let mut more = String::from("[Service]\n");
        for (key, value) in settings {
            writeln!(more, "{key}={value}")?;
        }
        fs::write(dir.join("test.conf"), more)?;
        self.succeed(&["daemon-reload"])
    }

    /// Runs `systemctl`, whatever comes of it.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn systemctl(&self, args: &[&str]) -> Result<ToolOutput> {
        let pid = self.pid.to_string();
        let enter = ["-t", &pid, "-m", "-p", "-C", "-u", "-i", "--", "systemctl"];
        let args: Vec<OsString> = enter.iter().chain(args).map(OsString::from).collect();
        let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
        run_program(Path::new("nsenter"), &args, path.into_iter(), SOON * 2)
    }

    /// Runs `systemctl`, which must succeed.
    ///
    /// # Errors
    /// If it does not.
    pub fn succeed(&self, args: &[&str]) -> Result<()> {
        let said = self.systemctl(args)?;
        ensure!(said.is_ok(), "systemctl {args:?}: {said:?}");
        Ok(())
    }

    /// A property of a unit.
    ///
    /// # Errors
    /// If it cannot be shown.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let said = self.systemctl(&["show", unit, "--value", "-p", name])?;
        ensure!(said.is_ok(), "{said:?}");
        Ok(said.stdout.trim().to_owned())
    }

    /// Waits until a property of a unit has this value.
    ///
    /// # Errors
    /// If it does not come to that.
    pub fn await_property(&self, unit: &str, name: &str, value: &str) -> Result<()> {
        let what = format!("{name} of {unit} is {value}");
        wait_until(SOON, &what, || {
            self.property(unit, name).is_ok_and(|now| now == value)
        })
        .with_context(|| format!("{name} is {:?}", self.property(unit, name)))
    }

    /// Sends a signal to the main process of a unit, past systemd.
    ///
    /// # Errors
    /// If it has none.
    pub fn signal_main(&self, unit: &str, signal: &str) -> Result<()> {
        let pid = self.property(unit, "MainPID")?;
        ensure!(pid != "0", "{unit} has no main process");
        let of = self.pid.to_string();
        let args = ["-t", &of, "-m", "-p", "--", "kill", "-s", signal, &pid];
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
        let said = run_program(Path::new("nsenter"), &args, path.into_iter(), SOON)?;
        ensure!(said.is_ok(), "{said:?}");
        Ok(())
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With the first process of the namespace the kernel kills all others.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _gone = kill_process(pid, Signal::KILL);
        }
        drop(self.server.take());
        let _left_behind = wait_until(SOON, "the control group is empty", || {
            remove_groups(&self.group).is_ok()
        });
    }
}

/// Makes a control group, in the hierarchy that systemd uses.
fn new_group() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let root = mounts.find_map(|mut fields| {
        let at = fields.nth(1)?;
        (fields.next()? == "cgroup2").then_some(at)
    });
    let Some(root) = root else {
        bail!("no cgroup2 is mounted, which systemd needs");
    };
    let group = Path::new(root).join(format!("stepdown-test-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&group).context("no control group can be made (it needs root)")?;
    Ok(group)
}

/// Removes a control group and those within it.
fn remove_groups(group: &Path) -> Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    Ok(fs::remove_dir(group)?)
}

fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
