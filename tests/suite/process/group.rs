//! A job is more than its first process.

use std::os::unix::process::CommandExt;
use std::path::Path;

use stepdown::model::AttemptId;
use stepdown::process::{
    Delivery, EndsWith, Group, GroupError, ProcessState, Signal, SignalError, SignalTarget, adopt,
    identify, observe, send,
};

use super::{Doomed, SOON, Started, await_line, ended, kernel_state, runs, wait_until};

/// A leader that starts a member and ends when told; `member` gets the member's pid.
fn forking(dir: &Path) -> (Started, AttemptId, AttemptId) {
    let script = format!(
        "cd {}; sleep 600 & echo $! > member.tmp; mv member.tmp member; \
         while ! [ -e end ]; do sleep 0.02; done",
        dir.display()
    );
    let leader = Started(Started::sh(&script).process_group(0).spawn().unwrap());
    let member = await_line(&dir.join("member")).parse().unwrap();
    let attempt = identify(leader.pid()).unwrap();
    (leader, attempt, identify(member).unwrap())
}

#[test]
fn a_group_ends_with_its_last_member() {
    let dir = tempfile::tempdir().unwrap();
    let (mut leader, attempt, member) = forking(dir.path());
    let _doomed = Doomed(member.clone());
    let member_runs = ProcessState::Running {
        pids: vec![super::pid_of(&member)],
    };
    let adopted = adopt(attempt.clone(), EndsWith::Group);

    std::fs::write(dir.path().join("end"), "").unwrap();
    wait_until("the leader is a zombie", || {
        kernel_state(leader.pid()) == Some('Z')
    });
    assert!(ended(&attempt, EndsWith::Process));
    assert_eq!(observe(&attempt, EndsWith::Group), member_runs);
    leader.bury();
    assert!(ended(&attempt, EndsWith::Process));
    assert_eq!(observe(&attempt, EndsWith::Group), member_runs);

    // Whoever comes without having seen the leader cannot prove whose group it is.
    let error = send(&attempt, SignalTarget::Group, Signal::KILL).unwrap_err();
    assert!(
        matches!(&error, SignalError::Group(GroupError::LeaderGone { left, .. }) if *left == [super::pid_of(&member)]),
        "{error:?}"
    );
    assert!(runs(&member));

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let waiting = runtime.block_on(adopted.await_end(std::time::Duration::from_millis(100)));
    assert_eq!(waiting, member_runs);
    assert_eq!(
        adopted.group().unwrap().signal(Signal::TERM).unwrap(),
        Delivery::Sent
    );
    let state = runtime.block_on(adopted.await_end(SOON));
    assert!(matches!(state, ProcessState::Stopped { .. }), "{state:?}");
    assert_eq!(
        adopted.group().unwrap().signal(Signal::TERM).unwrap(),
        Delivery::AlreadyGone
    );
    assert_eq!(
        send(&attempt, SignalTarget::Group, Signal::TERM).unwrap(),
        Delivery::AlreadyGone
    );
}

#[test]
fn zombies_do_not_keep_a_group_alive() {
    let leader = Started(
        Started::sh("exec sleep 600")
            .process_group(0)
            .spawn()
            .unwrap(),
    );
    let pgid = i32::try_from(leader.pid()).unwrap();
    let members: Vec<_> = (0..3)
        .map(|_| {
            Started(
                Started::sh("exec sleep 600")
                    .process_group(pgid)
                    .spawn()
                    .unwrap(),
            )
        })
        .collect();
    let attempt = identify(leader.pid()).unwrap();
    let group = Group::of(&attempt).unwrap();
    assert_eq!(group.signal(Signal::KILL).unwrap(), Delivery::Sent);
    for dead in members.iter().chain([&leader]) {
        wait_until("all are zombies", || kernel_state(dead.pid()) == Some('Z'));
    }
    assert!(
        ended(&attempt, EndsWith::Group),
        "{:?}",
        observe(&attempt, EndsWith::Group)
    );
    assert_eq!(group.signal(Signal::KILL).unwrap(), Delivery::AlreadyGone);
}

#[test]
fn the_target_decides_who_gets_the_signal() {
    for (target, both) in [(SignalTarget::Process, false), (SignalTarget::Group, true)] {
        let dir = tempfile::tempdir().unwrap();
        let listen = "trap 'echo got >> $name.usr1' USR1; trap 'echo end > $name.usr2; exit' USR2; \
                      echo ready > $name.ready; while :; do sleep 0.02; done";
        let script = format!(
            "cd {}; (name=member; {listen}) & name=leader; {listen}",
            dir.path().display()
        );
        let leader = Started(Started::sh(&script).process_group(0).spawn().unwrap());
        let attempt = identify(leader.pid()).unwrap();
        for name in ["leader.ready", "member.ready"] {
            await_line(&dir.path().join(name));
        }
        assert_eq!(
            send(&attempt, target, Signal::USR1).unwrap(),
            Delivery::Sent
        );
        await_line(&dir.path().join("leader.usr1"));
        // A signal to all afterwards: when it took effect, the first one would have too.
        assert_eq!(
            send(&attempt, SignalTarget::Group, Signal::USR2).unwrap(),
            Delivery::Sent
        );
        await_line(&dir.path().join("member.usr2"));
        assert_eq!(dir.path().join("member.usr1").exists(), both, "{target:?}");
        wait_until("the group ended", || ended(&attempt, EndsWith::Group));
    }
}

#[test]
fn a_process_without_a_group_of_its_own_is_no_group() {
    // In the group of this test: a signal to it would end the test.
    let child = Started(Started::sh("exec sleep 600").spawn().unwrap());
    let attempt = identify(child.pid()).unwrap();
    let error = send(&attempt, SignalTarget::Group, Signal::KILL).unwrap_err();
    assert!(
        matches!(error, SignalError::Group(GroupError::NotLeader { .. })),
        "{error:?}"
    );
    let adopted = adopt(attempt.clone(), EndsWith::Group);
    assert!(matches!(
        adopted.check_group(),
        Err(GroupError::NotLeader { .. })
    ));
    adopt(attempt.clone(), EndsWith::Process)
        .check_group()
        .unwrap();
    assert!(runs(&attempt));

    // `kill` would take its group for everybody.
    let first = identify(1).unwrap();
    let error = send(&first, SignalTarget::Group, Signal::CONT).unwrap_err();
    assert!(
        matches!(error, SignalError::Group(GroupError::Init)),
        "{error:?}"
    );
}
