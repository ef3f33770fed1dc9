//! An edge node in a directory: a control directory, a configuration, hooks that note what they are
//! told, and the `stepdown` processes of one test.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::client::{ToolOutput, run_program};
use super::daemon::{Daemon, Launch};
use super::job::Job;
use super::scratch::scratch_dir;
use super::wait::wait_until;

/// Longer than any single step takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Intervals that are short enough for tests.
const QUICK: &str = r#"
interval = "100ms"
jitter = 0
attempt-interval = "200ms"
drain-interval = "50ms"
alarm-after = "400ms"
lease-ttl = "3s"
"#;

/// The hook of all events: one line each.
const HOOK: &str =
    r#"echo "$STEPDOWN_HOOK $STEPDOWN_JOB ${STEPDOWN_ALARM:-$STEPDOWN_PROOF}" >> "$0""#;

/// The directory of one test.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    control: String,
    /// Keys of `[hadoop]`.
    hadoop: String,
    env: Vec<(OsString, OsString)>,
}

impl Place {
    /// A place with an empty control directory and a configuration without jobs.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        Self::within(&scratch_dir(name)?)
    }

    /// As [`Place::new`], in a directory that is there already.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn within(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().context("no directory for the place")?;
        let control = dir.join("control").to_string_lossy().into_owned();
        Self::prepare(dir, control, String::new(), Vec::new())?.init()
    }

    /// A place whose control directory is at `control`, reached with these keys of `[hadoop]`; all its
    /// processes get `env`. Nothing is made there: see [`Place::init`].
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn with_control(
        name: &str,
        control: &str,
        hadoop: &str,
        env: Vec<(OsString, OsString)>,
    ) -> Result<Self> {
        Self::prepare(
            scratch_dir(name)?,
            control.to_owned(),
            hadoop.to_owned(),
            env,
        )
    }

    fn prepare(
        dir: PathBuf,
        control: String,
        hadoop: String,
        env: Vec<(OsString, OsString)>,
    ) -> Result<Self> {
        let place = Self {
            dir,
            control,
            hadoop,
            env,
        };
        fs::create_dir_all(place.path("home"))?;
        place.configure("")?;
        Ok(place)
    }

    /// Makes the control directory.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn init(self) -> Result<Self> {
        let made = self.stepdown(&["init"])?;
        ensure!(made.is_ok(), "init failed: {made:?}");
        Ok(self)
    }

    /// The path of `name` in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Writes the configuration: quick intervals, hooks that note, and `jobs` (the end of the file).
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure(&self, jobs: &str) -> Result<()> {
        self.configure_with(QUICK, jobs)
    }

    /// As [`Place::configure`] with other keys of `[watch]` added.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn configure_with(&self, watch: &str, jobs: &str) -> Result<()> {
        let watch = if watch == QUICK {
            QUICK.to_owned()
        } else {
            merge_keys(QUICK, watch)
        };
        let hook = format!("[\"sh\", \"-c\", '{HOOK}', \"{}\"]", self.text("hooks"));
        let hooks = ["on-clean", "on-dirty", "on-unproven", "on-died", "on-alarm"]
            .map(|name| format!("{name} = {hook}"))
            .join("\n");
        let text = format!(
            "control = \"{}\"\n[hadoop]\n{}\n[watch]\n{watch}\n[hooks]\n{hooks}\n{jobs}\n",
            self.control, self.hadoop
        );
        let fresh = self.path("stepdown.toml.new");
        fs::write(&fresh, text)?;
        fs::rename(fresh, self.path("stepdown.toml"))?;
        Ok(())
    }

    /// The table of a job whose pid is in `<name>.pid`; `keys` of `[jobs.<name>]`, `stop` keys of its
    /// `stop` table.
    pub fn pid_file_job(&self, name: &str, keys: &str, stop: &str) -> String {
        format!(
            "[jobs.{name}]\n{keys}\n[jobs.{name}.stop]\nbackend = \"signal\"\n\
             attempt-from = \"pid-file\"\npid-file = \"{}\"\n{stop}\n",
            self.text(&format!("{name}.pid"))
        )
    }

    /// The marker of a job's slot blue, in the control directory.
    pub fn marker(&self, job: &str) -> PathBuf {
        self.path(&format!("control/markers/{job}.blue"))
    }

    /// Makes that marker.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn touch(&self, job: &str) -> Result<()> {
        fs::write(self.marker(job), "").context("cannot make the marker")
    }

    /// Removes that marker.
    ///
    /// # Errors
    /// If it is not there.
    pub fn remove(&self, job: &str) -> Result<()> {
        fs::remove_file(self.marker(job)).context("cannot remove the marker")
    }

    /// Says which process the job `name` is.
    ///
    /// # Errors
    /// If that cannot be written.
    pub fn write_pid(&self, name: &str, pid: u32) -> Result<()> {
        fs::write(self.path(&format!("{name}.pid")), format!("{pid}\n")).context("no pid file")
    }

    /// A job that has not been started.
    ///
    /// # Errors
    /// If its script cannot be written.
    pub fn job(&self, name: &str) -> Result<Job> {
        Job::new(&self.dir, name)
    }

    /// Runs a command of `stepdown` to its end.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn stepdown(&self, args: &[&str]) -> Result<ToolOutput> {
        self.stepdown_with(args, &[])
    }

    /// As [`Place::stepdown`], with more in its environment.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn stepdown_with(&self, args: &[&str], env: &[(&str, &str)]) -> Result<ToolOutput> {
        let args: Vec<OsString> = self.global_args(args.iter().map(OsString::from));
        run_program(binary(), &args, self.environment(env), SOON * 2)
    }

    /// Starts `stepdown` with these arguments, its output in `<name>.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        &self,
        name: &str,
        args: impl IntoIterator<Item = OsString>,
        env: &[(&str, &str)],
    ) -> Result<Daemon> {
        Daemon::start(&Launch {
            name: format!("stepdown {name}"),
            program: binary().into(),
            args: self.global_args(args),
            env: self.environment(env).collect(),
            log: self.path(&format!("{name}.log")),
        })
    }

    /// Starts `stepdown watch`, its output in `<name>.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn watch(&self, name: &str, env: &[(&str, &str)]) -> Result<Daemon> {
        self.start(name, ["watch".into()], env)
    }

    /// Starts `stepdown` with these arguments as on a host of another name, its output in `<name>.log`.
    ///
    /// # Errors
    /// If it cannot be started, for which root is needed.
    pub fn start_on_host(
        &self,
        host: &str,
        name: &str,
        args: impl IntoIterator<Item = OsString>,
        env: &[(&str, &str)],
    ) -> Result<Daemon> {
        const AS_HOST: &str = r#"hostname "$0" && exec "$@""#;
        let unshare = ["--uts", "sh", "-c", AS_HOST, host].map(OsString::from);
        let stepdown = [binary().as_os_str().to_owned()];
        let args = self.global_args(args);
        Daemon::start(&Launch {
            name: format!("stepdown {name}"),
            program: "unshare".into(),
            args: unshare.into_iter().chain(stepdown).chain(args).collect(),
            env: self.environment(env).collect(),
            log: self.path(&format!("{name}.log")),
        })
    }

    /// Starts `stepdown run` with `args` before the command, its output in `<name>.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(
        &self,
        name: &str,
        args: &[&str],
        command: Vec<OsString>,
        env: &[(&str, &str)],
    ) -> Result<Daemon> {
        let args = ["run"].iter().chain(args).chain(&["--"]);
        self.start(name, args.map(OsString::from).chain(command), env)
    }

    fn global_args(&self, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
        let config = self.path("stepdown.toml").into();
        ["--config".into(), config]
            .into_iter()
            .chain(args)
            .collect()
    }

    fn environment(&self, more: &[(&str, &str)]) -> impl Iterator<Item = (OsString, OsString)> {
        let own = [
            ("HOME", self.text("home")),
            (
                "STEPDOWN_LOG",
                "stepdown=debug,stepdown::daemon=trace".to_owned(),
            ),
        ];
        let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
        let more: Vec<(OsString, OsString)> = more
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect();
        own.into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .chain(path)
            .chain(self.env.iter().cloned())
            .chain(more)
    }

    /// What a `stepdown` process logged, by the name it was started with.
    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default()
    }

    /// How many rounds of polls it logged.
    pub fn rounds(&self, name: &str) -> usize {
        self.log(name)
            .lines()
            .filter(|line| line.contains(" round ") || line.ends_with(" round"))
            .count()
    }

    /// Waits until it has polled so many times more.
    ///
    /// # Errors
    /// If it does not.
    pub fn await_rounds(&self, name: &str, more: usize) -> Result<usize> {
        let goal = self.rounds(name) + more;
        wait_until(SOON, "more rounds of polls", || self.rounds(name) >= goal)
            .with_context(|| self.log(name))?;
        Ok(more)
    }

    /// Waits until a `stepdown` process logs `text`.
    ///
    /// # Errors
    /// If it does not.
    pub fn await_log(&self, name: &str, text: &str) -> Result<()> {
        wait_until(SOON, &format!("{name} logs {text:?}"), || {
            self.log(name).contains(text)
        })
        .with_context(|| self.log(name))
    }

    /// What the hooks were told so far, as `<hook> <job> <alarm or proof>`.
    pub fn hooks(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("hooks")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How many hooks were told something that begins like this.
    pub fn count_hooks(&self, beginning: &str) -> usize {
        let hooks = self.hooks();
        hooks
            .iter()
            .filter(|line| line.starts_with(beginning))
            .count()
    }

    /// All receipts of a job in the control directory.
    ///
    /// # Errors
    /// If one is no JSON.
    pub fn receipts(&self, job: &str) -> Result<Vec<Value>> {
        receipts_in(&self.path("control"), job)
    }

    /// Waits until the job has so many receipts, and returns the newest.
    ///
    /// # Errors
    /// If that does not happen in time.
    pub fn await_receipt(&self, job: &str, count: usize) -> Result<Value> {
        await_receipt_in(&self.path("control"), job, count)
    }
}

/// All receipts of a job in this control directory, the oldest first.
///
/// # Errors
/// If one is no JSON.
pub fn receipts_in(control: &Path, job: &str) -> Result<Vec<Value>> {
    let dir = control.join("state").join(job).join("receipts");
    let Ok(entries) = fs::read_dir(&dir) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if Path::new(&name).extension() == Some(OsStr::new("json")) {
            found.push((entry.metadata()?.modified()?, fs::read(entry.path())?));
        } else {
            // Nothing else belongs there, but what is being written.
            let text = name.to_string_lossy();
            ensure!(text.starts_with('.'), "{text} among the receipts");
        }
    }
    found.sort();
    found
        .iter()
        .map(|(_, text)| Ok(serde_json::from_slice(text)?))
        .collect()
}

/// Waits until the job has so many receipts there, and returns the newest.
///
/// # Errors
/// If that does not happen in time; if it has more.
pub fn await_receipt_in(control: &Path, job: &str, count: usize) -> Result<Value> {
    let mut receipts = Vec::new();
    wait_until(SOON, &format!("{job} has {count} receipts"), || {
        receipts = receipts_in(control, job).unwrap_or_default();
        receipts.len() >= count
    })?;
    if receipts.len() > count {
        bail!("more than {count} receipts: {receipts:#?}");
    }
    receipts.pop().context("no receipt")
}

/// `keys` with those of `more` in the place of their namesakes.
fn merge_keys(keys: &str, more: &str) -> String {
    let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let replaced: Vec<String> = more.lines().map(name).collect();
    let kept = keys.lines().filter(|line| !replaced.contains(&name(line)));
    kept.chain(more.lines()).collect::<Vec<_>>().join("\n")
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_stepdown"))
}
