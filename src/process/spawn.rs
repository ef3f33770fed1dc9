//! Starting a command so that it is on record before it runs.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::process::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::model::AttemptId;

use super::child::{Child, Reaper, WaitError, watch_children};
use super::exit::Exit;
use super::forward::ChildGroup;
use super::gate::{Failure, LEAVING, Order, READY, WORD_VARIABLE, socket_address};
use super::group::{Group, GroupError};
use super::identity::{IdentityError, identify};
use super::signal::Signal;
use super::stat::{from_pid, to_pid};

/// What to start, and how.
#[derive(Debug, Clone)]
pub struct SpawnOptions {
    /// The command and its arguments; the command is looked up in the child's `PATH`.
    pub argv: Vec<OsString>,
    /// Variables to set, or to remove, over those of this process.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// The directory to run in; this process's own if none.
    pub cwd: Option<PathBuf>,
    /// A file that stdout and stderr are appended to, with nothing to read on stdin; the child has those of
    /// this process if none.
    pub output: Option<PathBuf>,
    /// Whether the child leads a process group of its own.
    pub group: ChildGroup,
    /// The signal the child gets when this process dies, however it dies. None: it lives on.
    pub on_parent_death: Option<Signal>,
    /// How long the start may take, and, later, the step from the release to the command.
    pub step_timeout: Duration,
    /// How long the child waits for its release before it gives up.
    pub release_within: Duration,
    /// The binary whose `main` calls [`run_if_asked`](super::gate::run_if_asked): this one.
    pub gate_binary: PathBuf,
}

impl SpawnOptions {
    /// The command in a group of its own, living on without stepdown, all else as this process has
    /// it. Ten seconds for each step, ten minutes to the release.
    pub fn new(argv: impl IntoIterator<Item = impl Into<OsString>>) -> SpawnOptions {
        SpawnOptions {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: None,
            output: None,
            group: ChildGroup::Own,
            on_parent_death: None,
            step_timeout: Duration::from_secs(10),
            release_within: Duration::from_mins(10),
            // Stays this binary also when an update has put another one in its place.
            gate_binary: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// Why a command was not started. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// There is no command.
    #[error("no command was given")]
    EmptyCommand,
    /// The system refused a new process, thread or socket.
    #[error("no process could be started for the command: {step} failed")]
    System {
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The new process cannot be told from others.
    #[error("the started process cannot be identified")]
    Identity(#[from] IdentityError),
    /// The new process's group cannot be seen.
    #[error("the started process has no group of its own")]
    Group(#[from] GroupError),
    /// The new process ended before it was released, or without a word after it.
    #[error("the process that was to become the command ended too early: {exit}")]
    Ended {
        /// How.
        exit: Exit,
    },
    /// A step took too long; the process that was to become the command was killed.
    #[error("the command did not start: {step} took longer than {after:?}")]
    TimedOut {
        /// The step.
        step: &'static str,
        /// Its limit.
        after: Duration,
    },
    /// The command's directory cannot be entered.
    #[error("the directory {} cannot be entered", dir.display())]
    Chdir {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The command does not exist or cannot be run.
    #[error("command {} cannot be run", command.display())]
    Exec {
        /// The command.
        command: OsString,
        /// 127 if it was not found, else 126.
        exit_code: u8,
        /// What the system said.
        source: io::Error,
    },
    /// The new process's end cannot be told.
    #[error("the process that was to become the command was lost")]
    Wait(#[from] WaitError),
}

impl SpawnError {
    /// The exit code that a shell has for it: 127 for a command that was not found, 126 for one
    /// that cannot be run; none if it is no fault of the command.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            SpawnError::Exec { exit_code, .. } => Some(*exit_code),
            SpawnError::Chdir { .. } => Some(126),
            SpawnError::EmptyCommand
            | SpawnError::System { .. }
            | SpawnError::Identity(_)
            | SpawnError::Group(_)
            | SpawnError::Ended { .. }
            | SpawnError::TimedOut { .. }
            | SpawnError::Wait(_) => None,
        }
    }
}

/// A process that waits to become the command, and can be written down meanwhile.
///
/// To drop it is to give up: the process ends without running the command. [`Gated::cancel`] also
/// waits for that and buries it.
#[derive(Debug)]
pub struct Gated {
    child: Child,
    socket: UnixStream,
    word: String,
    command: OsString,
    cwd: PathBuf,
    step_timeout: Duration,
}

/// Starts a process that has all that the command will have (pid, start time, group, files), and
/// does not run it before [`Gated::release`].
///
/// # Errors
/// [`SpawnError`]; then nothing is left running.
pub async fn spawn_gated(options: SpawnOptions) -> Result<Gated, SpawnError> {
    let system = |step| move |source| SpawnError::System { step, source };
    let Some(command) = options.argv.first().cloned() else {
        return Err(SpawnError::EmptyCommand);
    };
    let socket = format!("stepdown-gate-{}", uuid::Uuid::new_v4());
    let word = uuid::Uuid::new_v4().to_string();
    let listener = socket_address(&socket)
        .and_then(|address| std::os::unix::net::UnixListener::bind_addr(&address))
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        })
        .map_err(system("opening a socket"))?;
    let changes = watch_children().map_err(system("watching for SIGCHLD"))?;

    let order = Order {
        socket,
        parent: std::process::id(),
        on_parent_death: options.on_parent_death,
        patience: options.release_within,
        cwd: options.cwd.clone(),
        argv: options.argv.clone(),
    };
    let mut start = Command::new(&options.gate_binary);
    start.arg0("stepdown").args(order.to_args());
    for (name, value) in &options.env {
        match value {
            Some(value) => start.env(name, value),
            None => start.env_remove(name),
        };
    }
    start.env(WORD_VARIABLE, &word);
    if options.group == ChildGroup::Own {
        start.process_group(0);
    }
    if let Some(file) = &options.output {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file);
        let log = log.map_err(system("opening the file for its output"))?;
        let both = log
            .try_clone()
            .map_err(system("opening the file for its output"))?;
        start.stdin(Stdio::null()).stdout(log).stderr(both);
    }
    let pid = start_on_lasting_thread(start)
        .await
        .map_err(system("starting a process"))?;

    let mut reaper = Reaper::new(pid, changes);
    match await_gate(&mut reaper, &listener, pid, &options).await {
        Ok((socket, attempt, group)) => Ok(Gated {
            child: Child::new(reaper, attempt, group),
            socket,
            word,
            command,
            cwd: options.cwd.unwrap_or_default(),
            step_timeout: options.step_timeout,
        }),
        Err(error) => {
            reaper.kill().await;
            Err(error)
        }
    }
}

/// Waits until the gate stands, and tells it from all other processes.
async fn await_gate(
    reaper: &mut Reaper,
    listener: &UnixListener,
    pid: Pid,
    options: &SpawnOptions,
) -> Result<(UnixStream, AttemptId, Option<Group>), SpawnError> {
    let step = "the start of the new process";
    let connected = tokio::select! {
        connected = timeout(options.step_timeout, await_first_word(listener, pid)) => connected,
        ended = reaper.wait() => return Err(SpawnError::Ended { exit: ended? }),
    };
    let socket = match connected {
        Ok(Ok(socket)) => socket,
        Ok(Err(source)) => return Err(SpawnError::System { step, source }),
        Err(_) => {
            let after = options.step_timeout;
            return Err(SpawnError::TimedOut { step, after });
        }
    };
    let attempt = identify(from_pid(pid))?;
    let group = match options.group {
        ChildGroup::Own => Some(Group::of(&attempt)?),
        ChildGroup::Shared => None,
    };
    Ok((socket, attempt, group))
}

/// Waits for the gate's first word, from that process and from no other.
async fn await_first_word(listener: &UnixListener, pid: Pid) -> io::Result<UnixStream> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        if socket.peer_cred()?.pid() != Some(pid.as_raw_nonzero().get()) {
            continue;
        }
        return match socket.read_u8().await? {
            READY => Ok(socket),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it said {other:#04x}"),
            )),
        };
    }
}

impl Gated {
    /// The attempt that the command will be.
    pub fn attempt(&self) -> &AttemptId {
        self.child.attempt()
    }

    /// The group that the command will lead; none if it shares stepdown's.
    pub fn group(&self) -> Option<&Group> {
        self.child.group()
    }

    /// Lets the process become the command; returns when it has. From the first moment of this call
    /// the command may run, so its attempt has to be on record before.
    ///
    /// # Errors
    /// [`SpawnError::Exec`] or [`SpawnError::Chdir`] if it cannot become the command, others if it
    /// died or hung. Nothing is left running.
    pub async fn release(mut self) -> Result<Child, SpawnError> {
        let mut answer = Vec::new();
        let socket = &mut self.socket;
        let told = timeout(self.step_timeout, async {
            socket.write_all(self.word.as_bytes()).await?;
            socket.read_to_end(&mut answer).await
        });
        let failure = match told.await {
            Ok(Ok(_)) => match answer.as_slice() {
                [LEAVING] => return Ok(self.child),
                [LEAVING, failure @ ..] | failure => Failure::from_bytes(failure),
            },
            // It died without a word.
            Ok(Err(_)) => None,
            Err(_) => {
                // If it hangs within `exec` on a dead file system, it dies before the command's
                // first instruction.
                self.child.reaper().kill().await;
                return Err(SpawnError::TimedOut {
                    step: "the command's exec",
                    after: self.step_timeout,
                });
            }
        };
        let ended = self.child.reaper().wait_or_kill().await;
        Err(match (failure, ended) {
            (Some(failure @ Failure::Chdir { .. }), _) => SpawnError::Chdir {
                dir: self.cwd,
                source: failure.to_error(),
            },
            (Some(failure @ Failure::Exec { .. }), _) => SpawnError::Exec {
                command: self.command,
                exit_code: failure.exit_code(),
                source: failure.to_error(),
            },
            (None, Some(ended)) => SpawnError::Ended { exit: ended? },
            (None, None) => SpawnError::TimedOut {
                step: "the command's exec",
                after: self.step_timeout,
            },
        })
    }

    /// Gives up: the process ends without having run the command. Returns when it has.
    ///
    /// # Errors
    /// [`SpawnError::Wait`] if its end cannot be told.
    pub async fn cancel(self) -> Result<(), SpawnError> {
        let Gated {
            mut child, socket, ..
        } = self;
        drop(socket);
        match child.reaper().wait_or_kill().await {
            Some(ended) => Ok(ended.map(drop)?),
            None => Ok(()),
        }
    }
}

struct Start {
    command: Command,
    reply: oneshot::Sender<io::Result<Pid>>,
}

/// Starts the process on a thread that never ends: the kernel takes the end of the starting thread
/// for the death of the parent.
async fn start_on_lasting_thread(command: Command) -> io::Result<Pid> {
    static STARTS: Mutex<Option<mpsc::Sender<Start>>> = Mutex::new(None);

    let lost = || io::Error::other("the starting thread is gone");
    let (reply, answer) = oneshot::channel();
    {
        let mut starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = match starts.as_ref() {
            Some(sender) => sender,
            None => starts.insert(lasting_thread()?),
        };
        sender.send(Start { command, reply }).map_err(|_| lost())?;
    }
    answer.await.map_err(|_| lost())?
}

fn lasting_thread() -> io::Result<mpsc::Sender<Start>> {
    let (sender, starts) = mpsc::channel::<Start>();
    std::thread::Builder::new()
        .name("stepdown-start".to_owned())
        .spawn(move || {
            while let Ok(Start { mut command, reply }) = starts.recv() {
                let started = command.spawn().and_then(|child| {
                    to_pid(child.id()).ok_or_else(|| io::Error::other("its number is impossible"))
                });
                // Nobody waits for the answer any more: the gate finds no socket and ends.
                let _ = reply.send(started);
            }
        })?;
    Ok(sender)
}
