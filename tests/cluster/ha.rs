//! Two NameNodes: failovers, hangs and answers from the past stop nothing, and a removal still does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::eye::Eye;
use super::remote::{Remote, Started, fresh_path};
use crate::common::place::SOON;
use crate::common::{HaHdfs, wait_until};

/// Failovers in a row.
const FAILOVERS: usize = 4;
/// How long the active NameNode hangs.
const HANG: Duration = Duration::from_secs(10);

/// A client of one NameNode alone.
fn eye_of(ha: &HaHdfs, index: usize) -> Result<Eye> {
    Eye::open_uri(&format!("hdfs://{}", ha.namenodes()[index].address()))
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one server, one trouble after the other"
)]
fn whichever_namenode_is_active_only_a_removal_stops() -> Result<()> {
    let ha = HaHdfs::start()?;
    let eyes = [Arc::new(eye_of(&ha, 0)?), Arc::new(eye_of(&ha, 1)?)];
    let remote = Remote::within(Arc::clone(&eyes[0]), &fresh_path("ha"), ha.conf_dir(), "")?;
    let names = ["failover", "dead", "hung", "down", "past", "standing"];
    let tables: String = names
        .iter()
        .map(|name| remote.pid_file_job(name, "", ""))
        .collect();
    remote.configure_with(
        "call-timeout = \"3s\"\ninterval = \"200ms\"\nalarm-after = \"4s\"",
        &tables,
    )?;
    let mut jobs = remote.start_jobs(&names, &["drain=0.2", "most=900"])?;
    for name in names.iter().filter(|name| **name != "past") {
        remote.touch(name)?;
    }
    let watch = remote.watch_armed("watch", names.len() - 1)?;
    let untouched = |jobs: &mut [Started]| jobs.iter_mut().for_each(Started::assert_untouched);
    let seen = |what: &str, from: usize| {
        let rounds = remote.rounds("watch") - from;
        println!("{what}: {rounds} rounds of polls, no stop");
        assert!(rounds >= 5, "{what}: {rounds}");
    };
    // One job is stopped after each trouble, by way of whichever NameNode is active then.
    let stop = |started: &mut Started, active: usize| -> Result<()> {
        eyes[active].remove(&remote.marker(&started.name))?;
        let took = started.await_request(SOON * 2)?;
        println!("{}: from the removal to the signal {took:?}", started.name);
        // The receipts are read from where they are written.
        let name = started.name.clone();
        let at = remote.at(&format!("control/state/{name}/receipts"));
        wait_until(SOON * 2, "the receipt", || {
            eyes[active].names(&at).is_ok_and(|names| names.len() == 1)
        })
        .with_context(|| remote.log("watch"))?;
        wait_until(SOON, "the job is gone", || {
            started.bare.exit_status().is_some()
        })?;
        assert_eq!(started.requests(), 1, "{name}");
        let hook = format!("on-unproven {name} ");
        wait_until(SOON, "the hook is told", || remote.count_hooks(&hook) == 1)
    };

    // Failovers while polls go on.
    let from = remote.rounds("watch");
    for count in 1..=FAILOVERS {
        ha.fail_over(count % 2)?;
        remote.await_rounds("watch", 3)?;
    }
    untouched(&mut jobs);
    seen("failovers", from);
    stop(&mut jobs[0], 0)?;

    // The active one is killed; nobody is active for a while.
    let from = remote.rounds("watch");
    ha.namenodes()[0].kill()?;
    remote.await_blind_rounds("watch", 5)?;
    ha.fail_over(1)?;
    remote.await_rounds("watch", 5)?;
    ha.restart_namenode(0)?;
    untouched(&mut jobs[1..]);
    seen("the active one killed", from);
    stop(&mut jobs[1], 1)?;

    // The active one hangs while the other one is in standby.
    let from = remote.rounds("watch");
    let begun = Instant::now();
    ha.namenodes()[1].suspend()?;
    wait_until(HANG * 2, "it has hung for a while", || {
        begun.elapsed() >= HANG
    })?;
    let (code, said) = remote.json(&["marker", "stat", "--job", "down"])?;
    assert_eq!(code, 5, "{said}");
    ha.namenodes()[1].resume()?;
    remote.await_rounds("watch", 5)?;
    untouched(&mut jobs[2..]);
    seen("the active one hung", from);
    stop(&mut jobs[2], 1)?;

    // Both down, then both in standby, then one active.
    let from = remote.rounds("watch");
    for namenode in ha.namenodes() {
        namenode.kill()?;
    }
    remote.await_blind_rounds("watch", 5)?;
    for index in 0..2 {
        ha.restart_namenode(index)?;
    }
    remote.await_blind_rounds("watch", 3)?;
    let (code, said) = remote.json(&["marker", "stat", "--job", "down"])?;
    assert_eq!(code, 5, "{said}");
    ha.make_active(0)?;
    ha.namenodes()[0].await_ready(1)?;
    remote.await_rounds("watch", 5)?;
    untouched(&mut jobs[3..]);
    seen("both down, both in standby", from);
    stop(&mut jobs[3], 0)?;

    // Answers from the past. The active one hangs and is replaced; then the marker is made, which the
    // hung one does not learn of. It goes on, takes itself for active, and is the only one that answers.
    let from = remote.rounds("watch");
    ha.namenodes()[0].suspend()?;
    ha.make_active(1)?;
    ha.namenodes()[1].await_ready(1)?;
    eyes[1].touch(&remote.marker("past"))?;
    remote.await_armed("watch", names.len())?;
    let standby = remote.rounds("watch");
    ha.namenodes()[0].resume()?;
    assert!(
        !eyes[0].exists(&remote.marker("past"))?,
        "it is not of the past"
    );
    remote.await_rounds("watch", 10)?;
    untouched(&mut jobs[4..]);
    ha.namenodes()[1].suspend()?;
    // The watcher finds it, does not see the marker, and gets ready for a stop; that is the end of the
    // one that was replaced, since the journal does not take its changes any more.
    wait_until(SOON * 2, "the replaced one has tried to write", || {
        !ha.namenodes()[0].is_running()
    })
    .with_context(|| remote.log("watch"))?;
    remote.await_blind_rounds("watch", 3)?;
    untouched(&mut jobs[4..]);
    ha.namenodes()[1].resume()?;
    remote.await_rounds("watch", 10)?;
    untouched(&mut jobs[4..]);
    println!(
        "of them {} with one that answers from the past",
        remote.rounds("watch") - standby
    );
    seen("answers from the past", from);
    assert_eq!(
        eyes[1].names(&remote.at("control/state/past/stops"))?,
        [""; 0]
    );
    stop(&mut jobs[4], 1)?;

    jobs[5].assert_untouched();
    let alarms = remote.count_hooks("on-alarm standing marker-unknown");
    println!("alarms of the one that stands: {alarms}");
    for name in names {
        let stops = remote.count_hooks(&format!("on-unproven {name} "));
        assert_eq!(stops, usize::from(name != "standing"), "{name}");
    }
    assert!(watch.terminate()?.success());
    Ok(())
}
