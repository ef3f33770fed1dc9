//! Which process is the attempt, and whether it ended.

use std::io::Write;
use std::process::Stdio;

use stepdown::model::AttemptId;
use stepdown::process::identity::Evidence;
use stepdown::process::{
    Delivery, EndsWith, Exit, ProcessState, Signal, SignalTarget, adopt, identify, observe,
    read_pid_file, send,
};

use super::{Doomed, SOON, Started, await_line, ended, kernel_state, pid_of, runs, wait_until};

#[test]
fn the_identity_survives_exec() {
    let mut shell = Started(
        Started::sh("read word; exec sleep 600")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let before = identify(shell.pid()).unwrap();
    writeln!(shell.0.stdin.take().unwrap(), "go").unwrap();
    wait_until("the shell became sleep", || {
        std::fs::read_to_string(format!("/proc/{}/comm", shell.pid())).unwrap() == "sleep\n"
    });
    assert_eq!(identify(shell.pid()).unwrap(), before);
    assert!(runs(&before));
}

#[test]
fn a_zombie_has_stopped_and_still_tells_how() {
    for (script, exit) in [
        ("read word; exit 3", Some(Exit::Code(3))),
        (
            "read word; kill -KILL $$",
            Some(Exit::Signal {
                number: 9,
                core_dumped: false,
            }),
        ),
        // The kernel says 0 for "not yours to know" too.
        ("read word; exit 0", None),
    ] {
        let mut shell = Started(Started::sh(script).stdin(Stdio::piped()).spawn().unwrap());
        let attempt = identify(shell.pid()).unwrap();
        drop(shell.0.stdin.take());
        wait_until("a zombie", || kernel_state(shell.pid()) == Some('Z'));
        for ends_with in [EndsWith::Process, EndsWith::Group] {
            assert_eq!(
                observe(&attempt, ends_with),
                ProcessState::Stopped {
                    exit,
                    evidence: Evidence::Gone
                },
                "{script}"
            );
        }
        assert!(identify(shell.pid()).is_err());
        assert_eq!(
            send(&attempt, SignalTarget::Process, Signal::TERM).unwrap(),
            Delivery::AlreadyGone
        );
        shell.bury();
        assert_eq!(
            observe(&attempt, EndsWith::Process),
            ProcessState::Stopped {
                exit: None,
                evidence: Evidence::Gone
            }
        );
    }
}

#[test]
fn a_process_whose_main_thread_ended_still_runs() {
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("flag");
    let script = "import ctypes, pathlib, sys, threading, time\n\
                  def work():\n\
                  \x20   while not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\n\
                  threading.Thread(target=work).start()\n\
                  ctypes.CDLL(None).pthread_exit(None)\n";
    let python = Started(
        std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&flag)
            .spawn()
            .unwrap(),
    );
    let attempt = identify(python.pid()).unwrap();
    wait_until("the main thread is dead", || {
        kernel_state(python.pid()) == Some('Z')
    });
    assert!(runs(&attempt), "{:?}", observe(&attempt, EndsWith::Process));
    assert_eq!(identify(python.pid()).unwrap(), attempt);
    std::fs::write(&flag, "").unwrap();
    wait_until("the last thread ended", || {
        ended(&attempt, EndsWith::Process)
    });
}

#[test]
fn a_number_that_was_given_away_is_left_alone() {
    let child = Started(Started::sh("exec sleep 600").spawn().unwrap());
    let AttemptId::Process {
        host,
        boot_id,
        pid,
        start_ticks,
    } = identify(child.pid()).unwrap()
    else {
        panic!("no process")
    };
    for other in [start_ticks - 1, start_ticks + 1, 0, u64::MAX] {
        let former = AttemptId::Process {
            host: host.clone(),
            boot_id: boot_id.clone(),
            pid,
            start_ticks: other,
        };
        assert_eq!(
            observe(&former, EndsWith::Group),
            ProcessState::Stopped {
                exit: None,
                evidence: Evidence::PidReused
            }
        );
        for target in [SignalTarget::Process, SignalTarget::Group] {
            assert_eq!(
                send(&former, target, Signal::KILL).unwrap(),
                Delivery::AlreadyGone
            );
        }
        assert!(adopt(former, EndsWith::Process).group().is_none());
    }
    assert!(runs(&identify(pid).unwrap()));
}

#[test]
fn a_deaf_process_takes_the_signal_and_runs_on() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    let child = Started(
        Started::sh(&format!(
            "trap '' TERM; echo deaf > {}; while :; do sleep 0.05; done",
            ready.display()
        ))
        .spawn()
        .unwrap(),
    );
    let attempt = identify(child.pid()).unwrap();
    await_line(&ready);
    assert_eq!(
        send(&attempt, SignalTarget::Process, Signal::TERM).unwrap(),
        Delivery::Sent
    );
    let runtime = runtime();
    let adopted = adopt(attempt.clone(), EndsWith::Process);
    let state = runtime.block_on(adopted.await_end(std::time::Duration::from_millis(200)));
    assert_eq!(
        state,
        ProcessState::Running {
            pids: vec![child.pid()]
        }
    );
    send(&attempt, SignalTarget::Process, Signal::KILL).unwrap();
    let state = runtime.block_on(adopted.await_end(SOON));
    assert!(matches!(state, ProcessState::Stopped { .. }), "{state:?}");
}

#[test]
fn a_daemon_is_known_by_its_pid_file_and_its_end_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("job.pid");
    let mut starter = Started(
        Started::sh(&format!(
            "setsid sh -c 'echo $$ > {0}.tmp; mv {0}.tmp {0}; exec sleep 600' &",
            pid_file.display()
        ))
        .spawn()
        .unwrap(),
    );
    starter.bury();
    await_line(&pid_file);
    let attempt = read_pid_file(&pid_file).unwrap();
    let _doomed = Doomed(attempt.clone());
    let daemon = pid_of(&attempt);
    assert!(runs(&attempt));

    let adopted = adopt(attempt.clone(), EndsWith::Group);
    adopted.check_group().unwrap();
    assert_eq!(adopted.group().unwrap().pgid(), daemon);
    let runtime = runtime();
    let killed = runtime.block_on(async {
        let (state, killed_after) = tokio::join!(adopted.await_end(SOON), async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            send(&attempt, SignalTarget::Process, Signal::TERM).unwrap();
            std::time::Instant::now()
        });
        assert!(matches!(state, ProcessState::Stopped { .. }), "{state:?}");
        killed_after.elapsed()
    });
    // Far below the pause between two looks without a handle: the kernel told.
    assert!(killed < std::time::Duration::from_secs(2), "{killed:?}");
    assert!(read_pid_file(&pid_file).is_err());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
