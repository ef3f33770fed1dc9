//! One server process: started, watched, stopped by its pid, and never left behind.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::wait::wait_until;

/// The kernel kills the server when the *thread* that started it ends, so it is started from one that
/// never ends before the process does. Should the test process be gone before `setpriv` asks for that
/// signal, the shell finds another parent and does not start the server.
const LEASH: &str = r#"[ "$PPID" = "$0" ] && exec "$@""#;
const STOP_DEADLINE: Duration = Duration::from_mins(1);
const LOG_TAIL_BYTES: u64 = 6_000;
const KEPT_ENV: [&str; 5] = ["PATH", "HOME", "LANG", "USER", "TMPDIR"];

type SpawnRequest = (Command, mpsc::Sender<io::Result<Child>>);

static SPAWNER: LazyLock<Mutex<mpsc::Sender<SpawnRequest>>> = LazyLock::new(|| {
    let (sender, requests) = mpsc::channel::<SpawnRequest>();
    // The sender lives in a static, so this thread lives as long as the process.
    thread::spawn(move || {
        for (mut command, reply) in requests {
            // A requester that has gone away has no use for the answer.
            let _ = reply.send(command.spawn());
        }
    });
    Mutex::new(sender)
});

/// How to start a server.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What error messages call it.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment but for `PATH`, `HOME` and `LANG`.
    pub env: Vec<(OsString, OsString)>,
    /// Where its output goes; a restart appends.
    pub log: PathBuf,
}

/// A running server, in a process group of its own; killed when dropped, and when this process ends.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts the server. It may not have come up yet: see [`Daemon::await_ready`].
    ///
    /// # Errors
    /// If the log cannot be opened or `setpriv` is missing.
    pub fn start(launch: &Launch) -> Result<Self> {
        let name = launch.name.clone();
        let log = File::options()
            .create(true)
            .append(true)
            .open(&launch.log)
            .with_context(|| format!("cannot open {}", launch.log.display()))?;
        let mut command = leashed(&launch.program, &launch.args);
        command
            .envs(launch.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share a log file")?)
            .stderr(log);
        let child = spawn_leashed(command).with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name,
            child,
            log: launch.log.clone(),
        })
    }

    /// The pid of the server itself. It names this server as long as this value lives: only dropping
    /// or stopping it lets the kernel use the number again.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the server ended, if it did.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the server's end.
    ///
    /// # Errors
    /// If it does not end in time; with the end of its log.
    pub fn await_end(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let mut status = None;
        let what = format!("{} ends", self.name);
        wait_until(deadline, &what, || {
            status = self.exit_status();
            status.is_some()
        })
        .with_context(|| self.log_tail())?;
        status.context("no exit status")
    }

    /// Waits until `ready` holds.
    ///
    /// # Errors
    /// As soon as the server ends, or after `deadline`; with the end of its log.
    pub fn await_ready(
        &mut self,
        deadline: Duration,
        what: &str,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let mut ended = None;
        let waited = wait_until(deadline, what, || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some() || ready()
        });
        let name = &self.name;
        match ended {
            Some(status) => bail!(
                "{name} ended with {status} before {what}{}",
                self.log_tail()
            ),
            None => waited.with_context(|| format!("{name} is not ready{}", self.log_tail())),
        }
    }

    /// Sends a signal to the server.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exit_status() {
            bail!("{} has ended with {status}{}", self.name, self.log_tail());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{} has no valid pid", self.name))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Ends the server at once (`kill -9`) and waits for its end.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.kill_now()
    }

    /// Has the server end by itself (SIGTERM) and waits for its end.
    ///
    /// # Errors
    /// If it does not end in time; it is killed then.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let mut status = None;
        let what = format!("{} ends after SIGTERM", self.name);
        wait_until(STOP_DEADLINE, &what, || {
            status = self.exit_status();
            status.is_some()
        })
        .with_context(|| self.log_tail())?;
        status.context("no exit status")
    }

    /// The end of the server's log, as an appendix to an error message.
    pub fn log_tail(&self) -> String {
        let tail = read_tail(&self.log).unwrap_or_else(|error| format!("not readable: {error}"));
        format!("\n--- end of {} ---\n{tail}", self.log.display())
    }

    fn kill_now(&mut self) -> Result<()> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map(drop)
            .with_context(|| format!("cannot kill {}", self.name))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing is left to do about a failure, and the kernel kills it at the end anyway.
        let _ = self.kill_now();
    }
}

/// A command for `program` that, started by [`spawn_leashed`], is killed when this test process ends,
/// also by `kill -9`. The child's pid is the program's own. Of the caller's environment it has only
/// what cannot change a server: no `HADOOP_*`, `JAVA_*`, `KRB5*`.
pub fn leashed(program: &Path, args: &[OsString]) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "sh", "-c", LEASH])
        .arg(std::process::id().to_string())
        .arg(program)
        .args(args)
        .env_clear()
        .envs(
            KEPT_ENV
                .into_iter()
                .filter_map(|key| std::env::var_os(key).map(|value| (key, value))),
        )
        // A Ctrl-C at the terminal is for the test process; its end is the end of its servers.
        .process_group(0);
    command
}

/// Starts a [`leashed`] command from the thread that never ends.
///
/// # Errors
/// If `setpriv` is missing. A program that is missing shows only as exit code 127.
pub fn spawn_leashed(command: Command) -> Result<Child> {
    let (reply, spawned) = mpsc::channel();
    SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, reply))
        .context("the thread that starts servers is gone")?;
    spawned
        .recv()
        .context("the thread that starts servers is gone")?
        .context("cannot start setpriv (Debian package util-linux)")
}

fn read_tail(log: &Path) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}
