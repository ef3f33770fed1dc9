//! The child of a supervisor on a real terminal, under a real shell.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use stepdown::model::AttemptId;

use super::roles::role_line;
use super::{Started, await_line, kernel_state, pid_of, wait_until};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";

/// A terminal with a program on it that leads its session.
struct Pty {
    keyboard: File,
    screen: Arc<Mutex<String>>,
    seen: usize,
    dir: tempfile::TempDir,
    _program: Started,
}

impl Pty {
    /// A terminal with an interactive shell, whose prompt is `PROMPT>`.
    fn with_shell() -> Pty {
        let mut shell = Command::new("setsid");
        shell
            // A test that was started in the background has SIGINT ignored; a login has not.
            .args(["--ctty", "env", "--default-signal"])
            .args(["bash", "--norc", "--noprofile", "-i"])
            .env("PS1", "PROMPT> ")
            .env("TERM", "dumb")
            .env("HISTFILE", "");
        let mut pty = Pty::with(shell, tempfile::tempdir().unwrap());
        pty.expect("PROMPT> ");
        pty
    }

    fn with(mut program: Command, dir: tempfile::TempDir) -> Pty {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .custom_flags(rustix::fs::OFlags::NOCTTY.bits().cast_signed())
                .open(name.to_str().unwrap())
                .unwrap()
        };
        let started = program
            .env("DIR", dir.path())
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap();
        let keyboard = File::from(master);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut reader, writer) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                writer.lock().unwrap().push_str(&text);
            }
        });
        Pty {
            keyboard,
            screen,
            seen: 0,
            dir,
            _program: Started(started),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Runs a supervisor with this child in the shell; `suffix` goes after the command.
    fn supervise(&mut self, child: &str, suffix: &str) {
        let child_file = self.dir.path().join("child.sh");
        std::fs::write(&child_file, child).unwrap();
        let line = format!(
            "CHILD=\"$(cat $DIR/child.sh)\" {} {suffix}\n",
            role_line("supervise")
        );
        // Long lines would be wrapped by the shell's editor; from a file nothing is echoed.
        std::fs::write(self.dir.path().join("line.sh"), line).unwrap();
        self.press(". $DIR/line.sh\n");
    }

    /// Waits until this stands on the screen, below what was expected before.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let deadline = std::time::Instant::now() + super::SOON;
        loop {
            let screen = self.screen.lock().unwrap().clone();
            if let Some(at) = screen[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "no {text:?} on the screen below the first {} bytes of:\n{screen}",
                self.seen
            );
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    fn child(&self) -> u32 {
        let text = await_line(&self.dir.path().join("gated"));
        pid_of(&serde_json::from_str::<AttemptId>(&text).unwrap())
    }

    #[track_caller]
    fn await_state(&self, what: &str, states: &[char]) {
        let child = self.child();
        wait_until(what, || {
            kernel_state(child).is_some_and(|state| states.contains(&state))
        });
    }

    fn ended(&self) -> String {
        await_line(&self.dir.path().join("ended"))
    }
}

const RUNNING: &[char] = &['R', 'S', 'D'];
const STOPPED: &[char] = &['T'];

#[test]
fn a_child_reads_the_terminal() {
    let mut pty = Pty::with_shell();
    pty.supervise(
        "echo ask; read word; echo \"got $word\"; exit 5",
        "; echo code $?",
    );
    pty.expect("ask");
    pty.press("hello\n");
    pty.expect("got hello");
    pty.expect("code 5");
    pty.expect("PROMPT> ");
    // The shell has its terminal back.
    pty.press("echo b'ac'k\n");
    pty.expect("back");
}

#[test]
fn ctrl_c_goes_to_the_child_and_not_to_the_supervisor() {
    let mut pty = Pty::with_shell();
    pty.supervise(
        "trap 'echo caught; exit 6' INT; echo up; while :; do sleep 0.02; done",
        "; echo code $?",
    );
    pty.expect("up");
    pty.press(CTRL_C);
    pty.expect("caught");
    pty.expect("code 6");
    assert_eq!(pty.ended(), "exit code 6");

    let mut pty = Pty::with_shell();
    pty.supervise("echo up; exec sleep 600", "; echo code $?");
    pty.expect("up");
    pty.press(CTRL_C);
    wait_until("the supervisor told the end", || {
        pty.dir.path().join("ended").exists()
    });
    assert_eq!(pty.ended(), "killed by SIGINT");
    pty.expect("code 130");
}

#[test]
fn ctrl_z_stops_both_and_fg_has_both_go_on() {
    let mut pty = Pty::with_shell();
    // The child itself reads: one that is not stopped yet when the shell reads takes its input.
    pty.supervise("echo up; exec cat", "");
    pty.expect("up");
    for round in 0..3 {
        pty.press(&format!("line{round}\n"));
        // Once as the terminal's echo, once from the child.
        pty.expect(&format!("line{round}"));
        pty.expect(&format!("line{round}"));
        pty.press(CTRL_Z);
        pty.expect("Stopped");
        pty.expect("PROMPT> ");
        pty.await_state("Ctrl-Z stopped the child", STOPPED);
        pty.press("echo sh'el'l\n");
        pty.expect("shell");
        pty.press("fg\n");
        pty.await_state("fg had the child go on", RUNNING);
    }
    pty.press("last\n");
    pty.expect("last");
    pty.expect("last");
    pty.press(CTRL_D);
    pty.expect("PROMPT> ");
    assert_eq!(pty.ended(), "exit code 0");
}

#[test]
fn bg_has_the_child_go_on_without_the_terminal_until_it_wants_to_read() {
    let mut pty = Pty::with_shell();
    // Without a fork: Ctrl-Z within one leaves a shell neither running nor stopped.
    let fifo = pty.dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let script = "echo up; read word < $DIR/fifo; echo asking; read word; echo \"got $word\"";
    pty.supervise(script, "");
    pty.expect("up");
    pty.press(CTRL_Z);
    pty.expect("Stopped");
    pty.await_state("Ctrl-Z stopped the child", STOPPED);
    pty.press("bg\n");
    pty.await_state("bg had the child go on", RUNNING);
    pty.press("echo sh'el'l\n");
    pty.expect("shell");
    std::fs::write(&fifo, "now\n").unwrap();
    pty.expect("asking");
    pty.await_state("reading in the background stopped the child", STOPPED);
    // The shell is told with its next prompt.
    wait_until("the supervisor stopped as well", || {
        pty.press("jobs\n");
        std::thread::sleep(std::time::Duration::from_millis(50));
        pty.screen.lock().unwrap()[pty.seen..].contains("Stopped")
    });
    pty.press("fg\n");
    pty.await_state("fg had the child go on", RUNNING);
    pty.press("word\n");
    pty.expect("got word");
    assert_eq!(pty.ended(), "exit code 0");
}

#[test]
fn a_job_started_in_the_background_leaves_the_terminal_alone() {
    let mut pty = Pty::with_shell();
    pty.supervise(
        "echo up; while ! [ -e $DIR/end ]; do sleep 0.02; done; echo done",
        "&",
    );
    pty.expect("up");
    pty.press("echo sh'el'l\n");
    pty.expect("shell");
    // In the foreground without a word from the shell: it runs already.
    pty.press("fg\n");
    let child = pty.child();
    wait_until("the child has the terminal", || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // Its own group is its terminal's foreground group.
        fields[2] == fields[5]
    });
    pty.press(CTRL_C);
    wait_until("the supervisor told the end", || {
        pty.dir.path().join("ended").exists()
    });
    assert_eq!(pty.ended(), "killed by SIGINT");
    pty.expect("PROMPT> ");
}

#[test]
fn a_child_that_asks_for_the_terminal_itself_gets_it() {
    let mut pty = Pty::with_shell();
    // As kinit and ssh ask for a password, whatever standard input is.
    pty.supervise(
        "echo ask; read word < /dev/tty; echo \"got $word\"",
        "< /dev/null",
    );
    pty.expect("ask");
    pty.press("secret\n");
    pty.expect("got secret");
    assert_eq!(pty.ended(), "exit code 0");
}

#[test]
fn the_terminal_is_set_again_as_it_was() {
    let mut pty = Pty::with_shell();
    pty.supervise("stty raw -echo; echo up; kill -KILL $$", "; stty -a");
    pty.expect("up");
    pty.expect(" icanon");
    pty.expect(" echo ");
    pty.expect("PROMPT> ");

    // And as the child had it, when it goes on.
    let mut pty = Pty::with_shell();
    let script = "stty -echo; echo up; read word; echo \"got $word\"; stty -a";
    pty.supervise(script, "");
    pty.expect("up");
    pty.press(CTRL_Z);
    pty.expect("Stopped");
    pty.press("stty -a\n");
    pty.expect(" echo ");
    pty.press("fg\n");
    pty.await_state("fg had the child go on", RUNNING);
    pty.press("word\n");
    pty.expect("got word");
    pty.expect("-echo ");
}

#[test]
fn a_restarted_child_does_not_inherit_the_terminal_of_the_one_before() {
    let mut pty = Pty::with_shell();
    pty.press("export CHILD_BEFORE='stty raw -echo; exit 1'\n");
    pty.supervise("stty -a; echo up; read word; echo \"got $word\"", "");
    pty.expect(" icanon");
    pty.expect(" echo ");
    pty.expect("up");
    pty.press("hello\n");
    pty.expect("got hello");
    pty.expect("PROMPT> ");
}

#[test]
fn without_a_shell_to_come_back_to_ctrl_z_does_not_hang_the_job() {
    let mut line = Command::new("setsid");
    line.args(["--ctty", "sh", "-c"])
        .arg(format!("exec env {}", role_line("supervise")))
        .env("CHILD", "echo up; cat; echo done");
    let mut pty = Pty::with(line, tempfile::tempdir().unwrap());
    pty.expect("up");
    // When `cat` answers, the shell's fork is over: Ctrl-Z within it stops only half of them.
    pty.press("first\n");
    pty.expect("first");
    pty.expect("first");
    pty.press(CTRL_Z);
    pty.press("line\n");
    pty.expect("line");
    pty.expect("line");
    pty.press(CTRL_D);
    pty.expect("done");
    assert_eq!(pty.ended(), "exit code 0");
}

#[test]
fn the_supervisor_may_write_while_the_child_has_the_terminal() {
    let mut pty = Pty::with_shell();
    pty.press("export CHATTY=1; stty tostop\n");
    pty.supervise("echo up; read word; echo \"got $word\"", "");
    pty.expect("a word from the supervisor");
    await_line(&pty.dir.path().join("talked"));
    pty.press("hello\n");
    pty.expect("got hello");
    assert_eq!(pty.ended(), "exit code 0");
}

#[test]
fn without_a_terminal_there_is_nothing_to_lend() {
    let dir = tempfile::tempdir().unwrap();
    let mut line = Command::new("setsid");
    let status = line
        .args(["--wait", "sh", "-c"])
        .arg(format!("exec env {}", role_line("supervise")))
        .env("CHILD", "read word; exit 9")
        .env("DIR", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(9));
    assert_eq!(await_line(&dir.path().join("ended")), "exit code 9");
}
