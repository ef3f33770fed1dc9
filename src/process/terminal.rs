//! The terminal that stepdown was started from, lent to the child as a shell lends it to a job.
//!
//! A child in a process group of its own can read the terminal, and gets Ctrl-C from it, only while
//! its group is in the foreground. So the foreground is lent to it at the start and taken back at
//! its end. When Ctrl-Z stops the child, stepdown takes the terminal back and stops too: the shell
//! sees a stopped job, and its `fg` or `bg` make both go on.

use std::fs::File;
use std::io;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal};
use rustix::process::{Pid, Signal as KernelSignal, getpgrp, kill_current_process_group};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp};
use tokio::signal::unix::{Signal as SignalStream, SignalKind};
use tokio::time::{Instant, sleep};

use super::child::{Child, ChildEvent, WaitError};
use super::exit::Exit;
use super::group::Group;
use super::signal::Signal;
use super::stat::to_pid;

/// How often to look whether the shell put stepdown into the foreground without a word (`fg` of a
/// job that runs).
const LOOK: Duration = Duration::from_secs(1);
/// If stepdown still runs this long after it stopped itself, there is no shell that could have it
/// go on, and the kernel kept it from stopping.
const STOP_TAKES: Duration = Duration::from_millis(300);

/// The controlling terminal of this process. To drop it takes back what was lent.
#[derive(Debug)]
pub struct Terminal {
    tty: File,
    own_group: Pid,
    /// Standard input is this terminal, so the child gets it unasked.
    lends_unasked: bool,
    own_modes: Termios,
    /// How the child left the terminal when it was stopped.
    child_modes: Option<Termios>,
    lent: bool,
    stopped: Option<Stopped>,
    continued: SignalStream,
}

#[derive(Debug)]
struct Stopped {
    at: Instant,
    had_terminal: bool,
}

impl Terminal {
    /// The controlling terminal; none for a service, a cron job or a container without one.
    ///
    /// # Errors
    /// If SIGCONT cannot be watched.
    pub fn open() -> io::Result<Option<Terminal>> {
        let Ok(tty) = File::options().read(true).write(true).open("/dev/tty") else {
            return Ok(None);
        };
        let Ok(own_modes) = tcgetattr(&tty) else {
            return Ok(None);
        };
        Ok(Some(Terminal {
            own_group: getpgrp(),
            // Answers only for the controlling terminal, not for any other.
            lends_unasked: tcgetpgrp(io::stdin()).is_ok(),
            own_modes,
            child_modes: None,
            lent: false,
            stopped: None,
            continued: tokio::signal::unix::signal(SignalKind::from_raw(
                KernelSignal::CONT.as_raw(),
            ))?,
            tty,
        }))
    }

    /// Lends the terminal to this group if standard input is the terminal and stepdown is in its
    /// foreground; to be called before the child is released. Answers whether it was lent.
    pub fn lend_to(&mut self, group: &Group) -> bool {
        self.lends_unasked && self.lend(group)
    }

    fn lend(&mut self, group: &Group) -> bool {
        let Some(pgid) = to_pid(group.pgid()).filter(|_| self.in_foreground()) else {
            return false;
        };
        self.lent = without_being_stopped(|| {
            if let Some(modes) = &self.child_modes {
                // A terminal that does not take them works as it is.
                let _ = tcsetattr(&self.tty, OptionalActions::Now, modes);
            }
            tcsetpgrp(&self.tty, pgid).is_ok()
        });
        self.lent
    }

    /// Takes the terminal back, if it was lent, and sets it as it was when it was opened.
    pub fn take_back(&mut self) {
        if !self.lent {
            return;
        }
        self.lent = false;
        self.child_modes = tcgetattr(&self.tty).ok();
        // What fails here fails because the terminal is gone.
        without_being_stopped(|| {
            let _ = tcsetpgrp(&self.tty, self.own_group);
            // Not after the output: it may be held by Ctrl-S.
            let _ = tcsetattr(&self.tty, OptionalActions::Now, &self.own_modes);
        });
    }

    fn in_foreground(&self) -> bool {
        tcgetpgrp(&self.tty) == Ok(self.own_group)
    }

    /// Waits for the end of the child, as long as it takes, and does what job control asks for
    /// until then. Cancel safe: call it again to go on. Takes the terminal back at the end.
    ///
    /// # Errors
    /// [`WaitError`].
    pub async fn supervise(&mut self, child: &mut Child) -> Result<Exit, WaitError> {
        loop {
            let look = if self.stopped.is_some() {
                STOP_TAKES / 3
            } else {
                LOOK
            };
            tokio::select! {
                event = child.next_event() => match event {
                    Ok(ChildEvent::Stopped { signal }) => {
                        if let Some(group) = child.group() {
                            self.on_stop(group, signal);
                        }
                    }
                    Ok(ChildEvent::Ended(exit)) => {
                        self.forget_child();
                        return Ok(exit);
                    }
                    Err(error) => {
                        self.forget_child();
                        return Err(error);
                    }
                },
                _ = self.continued.recv() => if let Some(group) = child.group() {
                    self.on_continue(group);
                },
                () = sleep(look) => if let Some(group) = child.group() {
                    self.on_look(group);
                },
            }
        }
    }

    /// The child ended; the next one finds the terminal as this one did.
    fn forget_child(&mut self) {
        self.take_back();
        self.child_modes = None;
        self.stopped = None;
    }

    /// Job control stopped the child.
    fn on_stop(&mut self, group: &Group, signal: i32) {
        let wants_terminal = [KernelSignal::TTIN, KernelSignal::TTOU]
            .iter()
            .any(|stop| stop.as_raw() == signal);
        if wants_terminal && self.lend(group) {
            go_on(group);
            return;
        }
        // Whoever stops a job in the background by hand does not mean stepdown.
        if !self.lent && !wants_terminal {
            return;
        }
        self.stopped = Some(Stopped {
            at: Instant::now(),
            had_terminal: self.lent,
        });
        self.take_back();
        // All of stepdown's group, as the terminal does it: the shell waits for the whole pipeline.
        // With SIGTSTP, which the kernel does not deliver where no shell could undo it.
        let _ = kill_current_process_group(KernelSignal::TSTP);
    }

    /// Somebody, the shell as a rule, had stepdown go on.
    fn on_continue(&mut self, group: &Group) {
        // Stopped from elsewhere, stepdown did not see the shell take the terminal away.
        if self.lent && tcgetpgrp(&self.tty).ok() != to_pid(group.pgid()) {
            self.lent = false;
        }
        if self.stopped.take().is_some() {
            self.lend(group);
            go_on(group);
        } else if !self.lent {
            self.lend_to(group);
        }
    }

    fn on_look(&mut self, group: &Group) {
        match &self.stopped {
            // Nobody else will have it go on. A job that asked for the terminal from the background
            // stays stopped: it would only ask again.
            Some(stopped) if stopped.had_terminal && stopped.at.elapsed() >= STOP_TAKES => {
                self.on_continue(group);
            }
            None if !self.lent => {
                self.lend_to(group);
            }
            Some(_) | None => {}
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}

fn go_on(group: &Group) {
    // If it cannot be reached it ended, and its end is told by the wait.
    let _ = group.signal(Signal::CONT);
}

/// Does it with SIGTTOU blocked on this thread: the kernel stops a process in the background that
/// changes its terminal, unless that signal is blocked.
fn without_being_stopped<T>(change: impl FnOnce() -> T) -> T {
    let before = output_stop().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let result = change();
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    result
}

fn output_stop() -> SigSet {
    let mut set = SigSet::empty();
    set.add(NixSignal::SIGTTOU);
    set
}

/// Has this thread, and all it starts later, write to the terminal also while the child has it
/// (`stty tostop` would stop the watcher). To be called in `main` before any thread is started.
///
/// # Errors
/// What the system says; it never does.
pub fn allow_background_output() -> io::Result<()> {
    output_stop().thread_block().map_err(io::Error::from)
}
