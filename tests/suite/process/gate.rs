//! No command runs that is not on record, and none dies with the one that recorded it.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use stepdown::model::AttemptId;
use stepdown::process::gate::WORD_VARIABLE;
use stepdown::process::{
    EndsWith, Exit, ProcessState, Signal, SignalTarget, SpawnError, identify, observe, send,
    spawn_gated,
};

use super::roles::role;
use super::{
    Doomed, SOON, Started, await_line, ended, gated, pid_of, runs, wait_until, write_program,
};

fn sh(script: &str) -> stepdown::process::SpawnOptions {
    gated(["sh", "-c", script])
}

/// What a supervisor wrote down before it released its child.
fn recorded(dir: &Path) -> Option<AttemptId> {
    let text = std::fs::read_to_string(dir.join("gated")).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn the_recorded_process_becomes_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let gate = spawn_gated(sh(&format!("echo ran > {}; exec sleep 600", out.display())))
        .await
        .unwrap();
    let attempt = gate.attempt().clone();
    let _doomed = Doomed(attempt.clone());
    assert!(runs(&attempt));
    assert_eq!(gate.group().unwrap().pgid(), pid_of(&attempt));
    assert!(!out.exists());

    let child = gate.release().await.unwrap();
    assert_eq!(child.attempt(), &attempt);
    await_line(&out);
    let pid = pid_of(&attempt);
    wait_until("only the command is left to see", || {
        std::fs::read(format!("/proc/{pid}/cmdline")).unwrap() == b"sleep\x00600\x00"
    });
    assert_eq!(identify(pid).unwrap(), attempt);

    // Nothing of stepdown's is left in it: no file but the three, no variable.
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let above: Vec<_> = files
        .filter_map(|file| file.unwrap().file_name().into_string().ok())
        .filter(|name| name.parse::<u32>().unwrap() > 2)
        .filter(|name| {
            std::fs::read_link(format!("/proc/{pid}/fd/{name}"))
                .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
        })
        .collect();
    assert_eq!(above, Vec::<String>::new());

    drop(child);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(runs(&attempt), "it died with its handle");
}

#[tokio::test]
async fn what_is_not_released_never_runs() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let script = format!("echo ran > {}", out.display());

    let gate = spawn_gated(sh(&script)).await.unwrap();
    let attempt = gate.attempt().clone();
    gate.cancel().await.unwrap();
    assert!(ended(&attempt, EndsWith::Group));
    assert!(!out.exists());

    let gate = spawn_gated(sh(&script)).await.unwrap();
    let attempt = gate.attempt().clone();
    drop(gate);
    wait_until("a dropped gate ends", || ended(&attempt, EndsWith::Group));
    assert!(!out.exists());

    // A parent that says nothing.
    let mut options = sh(&script);
    options.release_within = Duration::from_millis(700);
    let gate = spawn_gated(options).await.unwrap();
    let attempt = gate.attempt().clone();
    wait_until("the gate lost its patience", || {
        ended(&attempt, EndsWith::Group)
    });
    let error = gate.release().await.unwrap_err();
    assert!(
        matches!(
            error,
            SpawnError::Ended {
                exit: Exit::Code(125)
            }
        ),
        "{error:?}"
    );
    assert!(!out.exists());
}

#[tokio::test]
async fn a_command_that_cannot_run_is_an_error_with_the_shells_code() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "exit 0\n").unwrap();
    let foreign = dir.path().join("foreign");
    write_program(&foreign, "#!/no/such/interpreter\n");
    let table: [(OsString, u8); 6] = [
        ("no-such-command-of-stepdown".into(), 127),
        ("/no/such/file".into(), 127),
        ("".into(), 127),
        (plain.clone().into(), 126),
        (dir.path().into(), 126),
        // As a shell has it: the file is there, what it names is not.
        (foreign.into(), 127),
    ];
    for (command, code) in table {
        let gate = spawn_gated(gated([command.clone(), "arg".into()]))
            .await
            .unwrap();
        let attempt = gate.attempt().clone();
        let error = gate.release().await.unwrap_err();
        assert!(matches!(error, SpawnError::Exec { .. }), "{error:?}");
        assert_eq!(error.exit_code(), Some(code), "{}", command.display());
        assert!(ended(&attempt, EndsWith::Group));
    }

    let mut nowhere = sh("exit 0");
    nowhere.cwd = Some(dir.path().join("missing"));
    let error = spawn_gated(nowhere)
        .await
        .unwrap()
        .release()
        .await
        .unwrap_err();
    assert!(matches!(error, SpawnError::Chdir { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "the directory {}/missing cannot be entered",
            dir.path().display()
        )
    );

    let error = spawn_gated(gated(Vec::<OsString>::new()))
        .await
        .unwrap_err();
    assert!(matches!(error, SpawnError::EmptyCommand));

    let mut no_gate = sh("exit 0");
    no_gate.gate_binary = dir.path().join("missing");
    let error = spawn_gated(no_gate).await.unwrap_err();
    assert!(matches!(error, SpawnError::System { .. }), "{error:?}");
}

#[tokio::test]
async fn arguments_environment_and_directory_reach_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let strange = OsString::from_vec(b"\xff \n--".to_vec());
    let mut options = gated([
        OsString::from("sh"),
        "-c".into(),
        "printf %s \"$1\" > arg; printf %s \"$SET-$HOME\" > env; printf %s \"$0\" > zero".into(),
        "--".into(),
        strange.clone(),
    ]);
    options.cwd = Some(dir.path().into());
    options.env = vec![("SET".into(), Some("yes".into())), ("HOME".into(), None)];
    let mut child = spawn_gated(options).await.unwrap().release().await.unwrap();
    assert_eq!(child.wait().await.unwrap(), Exit::Code(0));
    let read = |name| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(read("arg"), strange.into_vec());
    assert_eq!(read("env"), b"yes-");
    assert_eq!(read("zero"), b"--");
}

#[tokio::test]
async fn the_end_of_a_child_is_told_as_it_was_and_again() {
    for (script, exit, shell) in [
        ("exit 0", Exit::Code(0), 0),
        ("exit 7", Exit::Code(7), 7),
        ("exit 255", Exit::Code(255), 255),
        (
            "kill -TERM $$",
            Exit::Signal {
                number: 15,
                core_dumped: false,
            },
            143,
        ),
        (
            "kill -KILL $$",
            Exit::Signal {
                number: 9,
                core_dumped: false,
            },
            137,
        ),
    ] {
        let mut child = spawn_gated(sh(script))
            .await
            .unwrap()
            .release()
            .await
            .unwrap();
        let ended = tokio::time::timeout(SOON, child.wait())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(ended, exit, "{script}");
        assert_eq!(ended.shell_code(), shell);
        assert_eq!(child.wait().await.unwrap(), exit);
        let state = child.await_group_end(SOON).await;
        assert!(matches!(state, ProcessState::Stopped { .. }), "{state:?}");
    }
}

#[tokio::test]
async fn a_successor_waits_for_what_the_child_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; sh -c 'while ! [ -e end ]; do sleep 0.02; done' & echo $! > left; exit 0",
        dir.path().display()
    );
    let mut child = spawn_gated(sh(&script))
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    assert_eq!(child.wait().await.unwrap(), Exit::Code(0));
    let left: u32 = await_line(&dir.path().join("left")).parse().unwrap();
    let state = child.await_group_end(Duration::from_millis(100)).await;
    // It may have a process of its own.
    assert!(
        matches!(&state, ProcessState::Running { pids } if pids.contains(&left)),
        "{state:?}"
    );
    std::fs::write(dir.path().join("end"), "").unwrap();
    let state = child.await_group_end(SOON).await;
    assert!(matches!(state, ProcessState::Stopped { .. }), "{state:?}");
}

#[tokio::test]
async fn a_command_starts_with_plain_signals() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("status");
    // A caught HUP would be ignored nowhere; a handler must not become an ignored signal either.
    let _caught = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1());
    let mut child = spawn_gated(gated([
        "cp".into(),
        "/proc/self/status".into(),
        out.clone().into_os_string(),
    ]))
    .await
    .unwrap()
    .release()
    .await
    .unwrap();
    assert!(child.wait().await.unwrap().is_success());
    let status = std::fs::read_to_string(&out).unwrap();
    let set = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    // What this test was started with stays; SIGPIPE, which Rust ignores, does not. 32 and 33 belong
    // to the C library, which has its way with them.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    let own = u64::from_str_radix(own.trim(), 16).unwrap();
    let (pipe, internal) = (1 << 12, 0b11 << 31);
    assert_eq!(set("SigIgn:") & !internal, own & !pipe & !internal);
    assert_eq!(set("SigBlk:"), 0);
    assert_eq!(set("SigCgt:"), 0);
}

#[tokio::test]
async fn nobody_else_can_speak_for_the_gate() {
    let dir = tempfile::tempdir().unwrap();
    // A gate that comes late, so that strangers come first. It keeps its pid.
    let late = dir.path().join("late");
    let script = format!(
        "#!/bin/sh\necho \"$2\" > {0}/name\nwhile ! [ -e {0}/go ]; do sleep 0.02; done\nexec {1} \"$@\"\n",
        dir.path().display(),
        env!("CARGO_BIN_EXE_stepdown")
    );
    write_program(&late, &script);
    let mut options = sh("exit 4");
    options.gate_binary = late;
    let starting = tokio::spawn(spawn_gated(options));

    let go = dir.path().join("go");
    let name_file = dir.path().join("name");
    tokio::task::spawn_blocking(move || {
        // The names of such sockets are no secret: /proc/net/unix lists them.
        let address = SocketAddr::from_abstract_name(await_line(&name_file)).unwrap();
        let mut talker = UnixStream::connect_addr(&address).unwrap();
        let mut silent = UnixStream::connect_addr(&address).unwrap();
        // It may be hung up on before it says anything.
        let _ = talker.write_all(b"r");
        for stranger in [&mut talker, &mut silent] {
            stranger.set_read_timeout(Some(SOON)).unwrap();
            // Hung up on, or reset with its word unread.
            assert!(matches!(stranger.read(&mut [0]), Ok(0) | Err(_)));
        }
        std::fs::write(go, "").unwrap();
    })
    .await
    .unwrap();
    let mut child = starting.await.unwrap().unwrap().release().await.unwrap();
    assert_eq!(child.wait().await.unwrap(), Exit::Code(4));
}

#[test]
fn the_gate_listens_to_its_parent_only() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let given = "0123456789abcdef";
    for (said, expected) in [
        ("fedcba9876543210", 125),
        ("0123456789abcde", 125),
        ("", 125),
        (given, 0),
    ] {
        // The name of a parent that gave up, in a stranger's hands.
        let name = format!("stepdown-test-{}-{said}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let mut gate = std::process::Command::new(env!("CARGO_BIN_EXE_stepdown"))
            .env(WORD_VARIABLE, given)
            .args(["__exec", &name, "1", "0", "20000", "", "--"])
            .args(["sh", "-c", "env > \"$0\"", out.to_str().unwrap()])
            .spawn()
            .unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        socket.read_exact(&mut [0]).unwrap();
        socket.write_all(said.as_bytes()).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(gate.wait().unwrap().code(), Some(expected), "{said:?}");
        assert_eq!(out.exists(), expected == 0);
    }
    assert!(!std::fs::read_to_string(&out).unwrap().contains(given));

    let without = std::process::Command::new(env!("CARGO_BIN_EXE_stepdown"))
        .env_remove(WORD_VARIABLE)
        .args(["__exec", "nobody", "1", "0", "20000", "", "--", "true"])
        .status()
        .unwrap();
    assert_eq!(without.code(), Some(125));
}

#[tokio::test]
async fn a_gate_that_does_not_come_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let hung = dir.path().join("hung");
    let pid_file = dir.path().join("pid");
    let script = format!(
        "#!/bin/sh\necho $$ > {}\nexec sleep 600\n",
        pid_file.display()
    );
    write_program(&hung, &script);
    let mut options = sh("exit 0");
    options.gate_binary = hung;
    options.step_timeout = Duration::from_millis(500);
    let error = spawn_gated(options).await.unwrap_err();
    assert!(matches!(error, SpawnError::TimedOut { .. }), "{error:?}");
    let pid: u32 = await_line(&pid_file).parse().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// A supervisor in a process of its own, and what it notes in `dir`.
fn supervisor(dir: &Path, child: &str) -> std::process::Command {
    let mut command = role("supervise");
    command
        .env("DIR", dir)
        .env("CHILD", child)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[test]
fn a_supervisor_killed_before_the_release_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let mut parent = Started(
        supervisor(dir.path(), &format!("echo ran > {}", out.display()))
            .env("HOLD", "1")
            .spawn()
            .unwrap(),
    );
    await_line(&dir.path().join("gated"));
    let attempt = recorded(dir.path()).unwrap();
    assert!(runs(&attempt));
    parent.0.kill().unwrap();
    parent.bury();
    wait_until("the gate ends without its parent", || {
        ended(&attempt, EndsWith::Group)
    });
    assert!(!out.exists());
}

#[test]
fn no_kill_at_any_moment_leaves_an_unrecorded_command() {
    const RUNS: u32 = 50;
    let undisturbed = tempfile::tempdir().unwrap();
    let script = |dir: &Path| format!("echo $$ > {}/ran; exec sleep 600", dir.display());

    // How long it takes from the start to the release, so that the kills fall all over it.
    let began = Instant::now();
    let parent = Started(
        supervisor(undisturbed.path(), &script(undisturbed.path()))
            .env("SAVING_MS", "5")
            .spawn()
            .unwrap(),
    );
    await_line(&undisturbed.path().join("spawning"));
    let first = began.elapsed();
    await_line(&undisturbed.path().join("released"));
    let whole = began.elapsed();
    let _doomed = Doomed(recorded(undisturbed.path()).unwrap());
    drop(parent);

    let (mut before, mut between, mut after) = (0, 0, 0);
    for run in 0..RUNS {
        let dir = tempfile::tempdir().unwrap();
        let mut parent = Started(
            supervisor(dir.path(), &script(dir.path()))
                .env("SAVING_MS", "5")
                .spawn()
                .unwrap(),
        );
        // From the moment before the child is started to well after its release.
        let span = whole.saturating_sub(first).mul_f64(1.5);
        wait_until("the supervisor spawns", || {
            dir.path().join("spawning").exists()
        });
        std::thread::sleep(span * run / RUNS);
        parent.0.kill().unwrap();
        parent.bury();

        let record = recorded(dir.path());
        let released = dir.path().join("releasing").exists();
        match (&record, released) {
            (None, _) => before += 1,
            (Some(_), false) => between += 1,
            (Some(_), true) => after += 1,
        }
        // Now no process of it may be left that is not on record: either the command runs and is
        // the recorded process, or the gate ends.
        if let Some(attempt) = record {
            let _doomed = Doomed(attempt.clone());
            if released {
                wait_until("it runs or it ended", || {
                    dir.path().join("ran").exists() || ended(&attempt, EndsWith::Group)
                });
            } else {
                wait_until("the gate ended", || ended(&attempt, EndsWith::Group));
            }
            if dir.path().join("ran").exists() {
                assert!(released, "run {run}: the command ran without a release");
                let pid = await_line(&dir.path().join("ran"));
                assert_eq!(pid, pid_of(&attempt).to_string(), "run {run}");
                assert!(
                    runs(&attempt),
                    "run {run}: the command died with its supervisor"
                );
            }
        } else {
            wait_until("the gate of this run ended", || gates_for(dir.path()) == 0);
            assert!(
                !dir.path().join("ran").exists(),
                "run {run}: an unrecorded command ran"
            );
        }
    }
    println!(
        "{RUNS} kills: {before} before the record, {between} before the release, {after} after"
    );
    assert_eq!(before + between + after, RUNS);
}

/// How many processes carry this directory in their arguments: the gate, or the command.
fn gates_for(dir: &Path) -> usize {
    let needle = dir.to_str().unwrap().as_bytes();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .filter(|cmdline| cmdline.windows(needle.len()).any(|window| window == needle))
        .count()
}

#[test]
fn a_command_outlives_its_killed_supervisor_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; trap 'echo drained > drained; exit 3' TERM; echo up > up; while :; do sleep 0.02; done",
        dir.path().display()
    );
    let mut parent = Started(supervisor(dir.path(), &script).spawn().unwrap());
    await_line(&dir.path().join("up"));
    parent.0.kill().unwrap();
    parent.bury();
    let attempt = recorded(dir.path()).unwrap();
    let _doomed = Doomed(attempt.clone());
    assert!(runs(&attempt));
    assert!(!dir.path().join("drained").exists());
    send(&attempt, SignalTarget::Process, Signal::TERM).unwrap();
    assert_eq!(await_line(&dir.path().join("drained")), "drained");
    wait_until("it ended", || ended(&attempt, EndsWith::Group));
}

#[test]
fn a_command_can_be_made_to_die_with_its_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; trap 'echo told > told; exit' TERM; echo up > up; while :; do sleep 0.02; done",
        dir.path().display()
    );
    let mut parent = Started(
        supervisor(dir.path(), &script)
            .env("ON_DEATH", "TERM")
            .spawn()
            .unwrap(),
    );
    await_line(&dir.path().join("up"));
    let attempt = recorded(dir.path()).unwrap();
    let _doomed = Doomed(attempt.clone());
    assert!(runs(&attempt));
    parent.0.kill().unwrap();
    parent.bury();
    await_line(&dir.path().join("told"));
    wait_until("it ended", || ended(&attempt, EndsWith::Group));
}

#[test]
fn the_end_of_a_thread_is_no_death_of_the_parent() {
    let child = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut options = sh("exec sleep 600");
            options.on_parent_death = Some(Signal::KILL);
            spawn_gated(options).await.unwrap().release().await.unwrap()
        })
    })
    .join()
    .unwrap();
    let _doomed = Doomed(child.attempt().clone());
    // The kernel sends the signal while it ends the thread, so a wrong one is there by now or at
    // once.
    std::thread::sleep(Duration::from_millis(50));
    assert!(
        runs(child.attempt()),
        "{:?}",
        observe(child.attempt(), EndsWith::Process)
    );
}
