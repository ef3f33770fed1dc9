//! One stop by several watchers: killed in the middle, halted, cut off, on two hosts.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::eye::Eye;
use super::remote::{Remote, STOPPED, WATCH, fresh_path};
use crate::common::daemon::Daemon;
use crate::common::place::SOON;
use crate::common::{CutProxy, Hdfs, Traffic, wait_until};

/// Runs each case in a thread of its own, a few at a time.
fn each<C: Sync + std::fmt::Debug>(
    cases: &[C],
    body: impl Fn(&C) -> Result<()> + Sync,
) -> Result<()> {
    const AT_ONCE: usize = 4;
    for some in cases.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let body = &body;
            let threads: Vec<_> = some
                .iter()
                .map(|case| scope.spawn(move || body(case).with_context(|| format!("{case:?}"))))
                .collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap())
        })?;
    }
    Ok(())
}

/// The places at which a watcher is killed.
const CRASHES: &[&str] = &[
    "lease-taken",
    "intent-prepared",
    "intent-saved",
    "looked",
    "latched",
    "requesting-saved",
    "requested",
    "requested-saved",
    "proved",
    "receipt-saved",
];

#[test]
fn a_stop_goes_on_after_the_watcher_was_killed_in_it() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    each(CRASHES, |crash| {
        let remote = Remote::on(hdfs, "crash")?;
        let stop = "resend-after = \"4s\"";
        remote.configure_with(WATCH, &remote.pid_file_job("clicks", "", stop))?;
        let mut jobs = remote.start_jobs(&["clicks"], &["drain=0.5"])?;
        remote.touch("clicks")?;
        let mut first = remote.watch("first", &[("STEPDOWN_CRASH_AT", crash)])?;
        remote.await_armed("first", 1)?;
        remote.remove("clicks")?;
        let end = first.await_end(SOON)?;
        assert_eq!(end.signal(), Some(Signal::KILL.as_raw()), "{end}");
        let second = remote.watch("second", &[])?;
        jobs[0]
            .await_stop(&remote, STOPPED)
            .with_context(|| remote.log("second"))?;
        remote.await_rounds("second", 3)?;
        assert!(second.terminate()?.success());
        assert_eq!(jobs[0].requests(), 1, "{:?}", jobs[0].job.notes());
        assert_eq!(remote.receipts("clicks")?.len(), 1);
        Ok(())
    })?;
    println!("killed at {} places, one stop each", CRASHES.len());
    Ok(())
}

#[test]
fn two_watchers_stop_each_job_once() -> Result<()> {
    let one = Remote::on(Hdfs::shared()?, "pair")?;
    let conf_dir = Hdfs::shared()?.conf_dir();
    let other = Remote::beside(Arc::clone(one.eye()), one.dir(), conf_dir, "")?;
    let names = ["a", "b", "c", "d", "e", "f"];
    let tables: String = names
        .iter()
        .map(|name| one.pid_file_job(name, "", ""))
        .collect();
    for remote in [&one, &other] {
        remote.configure_with(WATCH, &tables)?;
    }
    let mut jobs = one.start_jobs(&names, &["drain=0.3"])?;
    for name in names {
        one.touch(name)?;
    }
    let first = one.watch_armed("watch", names.len())?;
    let second = other.watch("watch", &[])?;
    other.await_log_count("watch", "following the attempt", names.len())?;
    other.await_rounds("watch", 3)?;
    for name in names {
        one.remove(name)?;
    }
    for started in &mut jobs {
        started.await_stop(&one, STOPPED)?;
    }
    let rounds = one.await_rounds("watch", 5)? + other.await_rounds("watch", 5)?;
    let asked =
        [&one, &other].map(|remote| remote.log("watch").matches("asked the attempt").count());
    println!(
        "two watchers, {} stops, asked by either: {asked:?}",
        names.len()
    );
    for (started, name) in jobs.iter().zip(names) {
        assert_eq!(started.requests(), 1, "after {rounds} more rounds");
        assert_eq!(one.receipts(name)?.len(), 1);
        let hook = format!("on-unproven {name} ");
        assert_eq!(one.count_hooks(&hook) + other.count_hooks(&hook), 1);
    }
    assert!(first.terminate()?.success());
    assert!(second.terminate()?.success());
    Ok(())
}

/// Programs that ask and observe a job by its pid file, as any host could.
const OBSERVE: &str =
    r#"pid=$(cat "$0"); if grep -q . "/proc/$pid/cmdline"; then echo "run-$pid"; else exit 3; fi"#;
const REQUEST: &str = r#"echo "$STEPDOWN_GENERATION" >> "$0.asked"; kill -TERM "$(cat "$0")""#;

#[test]
fn a_halted_holder_is_replaced_and_does_nothing_when_it_goes_on() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let here = Remote::on(hdfs, "hosts")?;
    let there = Remote::beside(Arc::clone(here.eye()), here.dir(), hdfs.conf_dir(), "")?;
    let pid_file = here.text("clicks.pid");
    let program = |script: &str| format!("[\"sh\", \"-c\", '''{script}''', \"{pid_file}\"]");
    let table = format!(
        "[jobs.clicks.stop]\nbackend = \"command\"\nobserve = {}\nrequest = {}\n",
        program(OBSERVE),
        program(REQUEST)
    );
    for remote in [&here, &there] {
        remote.configure_with(&format!("{WATCH}\nlease-ttl = \"3s\""), &table)?;
    }
    let mut jobs = here.start_jobs(&["clicks"], &["drain=8"])?;
    here.touch("clicks")?;
    let mut watches = [
        (&here, here.watch_armed("watch", 1)?),
        (
            &there,
            there.start_on_host("elsewhere", "watch", ["watch".into()], &[])?,
        ),
    ];
    there.await_log("watch", "following the attempt")?;
    here.remove("clicks")?;
    jobs[0].await_request(SOON)?;
    let asked = |remote: &Remote| remote.log("watch").contains("asked the attempt to stop");
    let mut holder = None;
    wait_until(SOON, "one says that it asked", || {
        holder = watches.iter().position(|(remote, _)| asked(remote));
        holder.is_some()
    })?;
    let holder = holder.context("no holder")?;
    watches[holder].1.signal(Signal::STOP)?;
    let receipt = jobs[0].await_stop(&here, STOPPED)?;
    watches[holder].1.signal(Signal::CONT)?;
    for (remote, _) in &watches {
        remote.await_rounds("watch", 10)?;
    }
    assert_eq!(jobs[0].requests(), 1);
    assert_eq!(here.receipts("clicks")?, std::slice::from_ref(&receipt));
    let said = std::fs::read_to_string(here.path("clicks.pid.asked"))?;
    assert_eq!(said.lines().count(), 1, "{said}");
    let asked_by: u64 = said.trim().parse()?;
    ensure!(
        receipt["generation"].as_u64() > Some(asked_by),
        "{receipt:#}"
    );
    let hooks = here.count_hooks("on-unproven") + there.count_hooks("on-unproven");
    assert_eq!(hooks, 1);
    println!(
        "watcher {holder} was halted; the receipt is of {}",
        receipt["host"]
    );
    assert_eq!(receipt["host"] == "elsewhere", holder == 0);
    for (_, watch) in watches {
        assert!(watch.terminate()?.success());
    }
    Ok(())
}

/// A change of the first watcher that arrives when the second one is done: the name of the call, and
/// how many calls of that name are made before it in a stop.
const LATE: &[(&str, usize, &str)] = &[
    ("rename2", 0, "lease"),
    ("rename2", 1, "intent"),
    ("rename2", 2, "latch"),
    ("rename2", 3, "receipt"),
    ("create", 0, "lease, before it has its name"),
    ("create", 1, "intent, before it has its name"),
    ("create", 2, "step"),
    ("create", 3, "next step"),
];

#[test]
fn late_changes_of_a_watcher_that_was_cut_off_change_nothing() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    each(LATE, |&(call, passing, what)| {
        let proxy = CutProxy::start(hdfs.namenode().port())?;
        let eye = Arc::new(Eye::open(hdfs.conf_dir())?);
        let dir = fresh_path("late");
        let cut_off = Remote::within(Arc::clone(&eye), &dir, &proxy.conf_dir(hdfs)?, "")?;
        let other = Remote::beside(eye, &dir, hdfs.conf_dir(), "")?;
        let table = cut_off.pid_file_job("clicks", "", "resend-after = \"3s\"");
        let keys = "call-timeout = \"2s\"\ninterval = \"200ms\"\nlease-ttl = \"4s\"";
        cut_off.configure_with(&format!("{keys}\nconfirm-spacing = \"200ms\""), &table)?;
        other.configure_with(keys, &table)?;
        let mut jobs = cut_off.start_jobs(&["clicks"], &["drain=0.5"])?;
        cut_off.touch("clicks")?;
        let first = cut_off.watch_armed("first", 1)?;

        proxy.hold_after(passing, call);
        cut_off.remove("clicks")?;
        wait_until(SOON, "the call is held", || proxy.cuts() == 1)
            .with_context(|| cut_off.log("first"))?;
        // Not before: it might have been the first to see the removal.
        let second = other.watch("second", &[])?;
        let receipt = jobs[0]
            .await_stop(&other, STOPPED)
            .with_context(|| other.log("second"))?;
        proxy.set(Traffic::Pass);
        let known = |remote: &Remote, name| {
            remote.await_rounds(name, 10)?;
            Ok::<_, anyhow::Error>(())
        };
        known(&cut_off, "first")?;
        known(&other, "second")?;
        assert_eq!(jobs[0].requests(), 1, "{what}: {:?}", jobs[0].job.notes());
        assert_eq!(other.receipts("clicks")?, [receipt], "{what}");
        let steps = other.steps("clicks")?;
        let latched = steps.iter().filter(|step| step.ends_with(".latched.json"));
        assert_eq!(latched.count(), 1, "{what}: {steps:?}");
        let end = |watch: Daemon| watch.terminate();
        assert!(end(first)?.success(), "{what}");
        assert!(end(second)?.success(), "{what}");
        Ok(())
    })?;
    println!("{} late changes of a watcher that was cut off", LATE.len());
    Ok(())
}
