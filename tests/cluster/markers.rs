//! The races of touch and rm on HDFS, and what the commands about markers say when nothing answers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::remote::{Remote, STOPPED, Started, WATCH};
use crate::common::place::SOON;
use crate::common::{CutProxy, Hdfs, Traffic, wait_until};

/// How often the lease was taken to stop a job: its generation. The files of older ones are removed.
fn generations(remote: &Remote, job: &str) -> Result<u64> {
    let names = remote
        .eye()
        .names(&remote.at(&format!("control/state/{job}/blue.lease")))?;
    let taken = names.iter().filter_map(|name| name.parse::<u64>().ok());
    Ok(taken.max().unwrap_or(0))
}

#[test]
fn a_marker_removed_while_nobody_watches_stops_its_attempt_later() -> Result<()> {
    let remote = Remote::on(Hdfs::shared()?, "unwatched")?;
    let names = ["killed", "ended", "back", "standing"];
    let tables: String = names
        .iter()
        .map(|name| remote.pid_file_job(name, "", ""))
        .collect();
    remote.configure_with(WATCH, &tables)?;
    let mut jobs = remote.start_jobs(&names, &["drain=0.2"])?;
    for name in names {
        remote.touch(name)?;
    }
    remote.watch_armed("first", names.len())?.kill()?;
    remote.remove("killed")?;
    remote.remove("back")?;
    remote.touch("back")?;
    let watch = remote.watch("second", &[])?;
    jobs[0]
        .await_stop(&remote, STOPPED)
        .with_context(|| remote.log("second"))?;
    let mut rounds = remote.await_rounds("second", 3)?;
    assert!(watch.terminate()?.success());
    remote.remove("ended")?;
    let _watch = remote.watch("third", &[])?;
    jobs[1].await_stop(&remote, STOPPED)?;
    rounds += remote.await_rounds("third", 5)?;
    jobs[2..].iter_mut().for_each(Started::assert_untouched);
    // What is on record needs no second arming.
    let again = ["second", "third"].map(|name| remote.log(name).matches(" armed ").count());
    assert_eq!(again, [0, 0]);
    println!("two removals that nobody saw, {rounds} rounds of polls after them");
    Ok(())
}

#[test]
fn a_gap_that_is_over_before_the_confirmation_is_no_stop() -> Result<()> {
    const GAPS: usize = 40;
    let hdfs = Hdfs::shared()?;
    let remote = Remote::on(hdfs, "gaps")?;
    remote.configure_with(
        &format!("{WATCH}\nconfirm-spacing = \"4s\""),
        &remote.pid_file_job("clicks", "", ""),
    )?;
    let mut jobs = remote.start_jobs(&["clicks"], &["most=300"])?;
    remote.touch("clicks")?;
    let _watch = remote.watch_armed("watch", 1)?;

    // Made anew over what is there: never a gap.
    for _ in 0..GAPS {
        remote.touch("clicks")?;
    }
    hdfs.dfs(&["-touchz", &remote.marker("clicks")])?;
    remote.await_rounds("watch", 3)?;
    assert_eq!(generations(&remote, "clicks")?, 0);
    // Gaps that fall between two polls, or that one poll sees.
    for _ in 0..GAPS {
        remote.remove("clicks")?;
        remote.touch("clicks")?;
    }
    hdfs.client()
        .write_file(&remote.marker("clicks"), b"put -f")?;
    let rounds = remote.await_rounds("watch", 3)?;
    jobs[0].assert_untouched();
    // A gap that a poll has seen for certain: the watcher got ready for the stop.
    let before = generations(&remote, "clicks")?;
    remote.remove("clicks")?;
    wait_until(SOON, "the absence is seen", || {
        generations(&remote, "clicks").is_ok_and(|now| now > before)
    })?;
    remote.touch("clicks")?;
    let began = Instant::now();
    wait_until(SOON, "the confirmation would be over", || {
        began.elapsed() > Duration::from_secs(6)
    })?;
    remote.await_rounds("watch", 3)?;
    jobs[0].assert_untouched();
    assert_eq!(remote.steps("clicks")?, [""; 0]);
    println!(
        "{} gaps, {rounds} rounds and more, {} of them seen, no stop",
        GAPS + 2,
        generations(&remote, "clicks")?
    );
    // A directory is as good as a file: only presence counts.
    remote.remove("clicks")?;
    remote.eye().make_dir(&remote.marker("clicks"))?;
    remote.await_rounds("watch", 10)?;
    jobs[0].assert_untouched();
    // And then a real one.
    remote.remove("clicks")?;
    jobs[0].await_stop(&remote, STOPPED)?;
    Ok(())
}

#[test]
fn a_touch_during_the_drain_asks_for_a_start_and_stops_nothing_else() -> Result<()> {
    let remote = Remote::on(Hdfs::shared()?, "drain")?;
    remote.configure_with(WATCH, &remote.pid_file_job("clicks", "", ""))?;
    let mut jobs = remote.start_jobs(&["clicks"], &["drain=3"])?;
    remote.touch("clicks")?;
    let _watch = remote.watch_armed("watch", 1)?;
    remote.remove("clicks")?;
    jobs[0].await_request(SOON)?;
    remote.touch("clicks")?;
    let receipt = jobs[0].await_stop(&remote, STOPPED)?;
    assert_eq!(receipt["start_requested"], true);
    let stop_id = receipt["stop_id"].as_str().context("no stop id")?;
    let request = remote.at(&format!("control/requests/clicks.start.{stop_id}"));
    assert!(remote.eye().exists(&request)?);

    // The operator starts the next attempt: it is armed anew, and nothing of the old stop is its own.
    let bare = jobs[0].job.start(&["drain=3"])?;
    remote.write_pid("clicks", bare.pid())?;
    jobs[0].bare = bare;
    remote.await_armed("watch", 2)?;
    let rounds = remote.await_rounds("watch", 10)?;
    assert_eq!(jobs[0].requests(), 1, "after {rounds} rounds");
    assert!(jobs[0].bare.exit_status().is_none());
    // Touched and removed again during the drain: what counts is how it is at the end.
    remote.remove("clicks")?;
    jobs[0].job.await_notes("TERM", 2, SOON)?;
    remote.touch("clicks")?;
    remote.remove("clicks")?;
    wait_until(SOON, "the second receipt", || {
        remote
            .receipts("clicks")
            .is_ok_and(|receipts| receipts.len() == 2)
    })?;
    assert_eq!(remote.receipts("clicks")?[1]["start_requested"], false);
    assert_eq!(jobs[0].requests(), 2);
    Ok(())
}

#[test]
fn run_removes_only_a_marker_of_its_own() -> Result<()> {
    let remote = Remote::on(Hdfs::shared()?, "own")?;
    let names = ["own", "others", "earlier"];
    remote.configure_with(WATCH, &stopped_by_signal(&names))?;
    remote.touch("earlier")?;
    let mut runs = Vec::new();
    for name in names {
        let job = remote.job(name)?;
        let argv = job.argv(&["lives=6", "dies=5"]);
        let run = remote.run(name, &["--job", name], argv, &[])?;
        job.await_starts(1)?;
        runs.push((job, run));
    }
    // An operator's marker in the place of that of `run`, at no moment without one.
    remote.touch("others")?;
    for (_, run) in &mut runs {
        assert_eq!(run.await_end(SOON)?.code(), Some(5));
    }
    for (name, left) in [("own", false), ("others", true), ("earlier", true)] {
        assert_eq!(remote.eye().exists(&remote.marker(name))?, left, "{name}");
        let receipt = remote.await_receipt(name)?;
        assert_eq!(receipt["outcome"], "died", "{receipt:#}");
        assert_eq!(remote.count_hooks(&format!("on-died {name}")), 1);
    }
    Ok(())
}

#[test]
fn what_was_stopped_on_purpose_is_not_started_again() -> Result<()> {
    let remote = Remote::on(Hdfs::shared()?, "restart")?;
    let names = ["asked", "waiting"];
    remote.configure_with(WATCH, &stopped_by_signal(&names))?;
    let restart = |name, delay| {
        let policy = ["--restart", "on-failure", "--restart-min-delay", delay];
        [&["--job", name][..], &policy].concat()
    };
    // Ends with a failure, twice by itself and then because it was asked.
    let asked = remote.job("asked")?;
    let argv = asked.argv(&["code=9"]);
    let mut run = remote.run("asked", &restart("asked", "100ms"), argv, &[])?;
    for starts in 1..=2 {
        let pid = asked.await_starts(starts)?;
        remote.await_log_count("asked", "the command runs", starts)?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("no pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    }
    asked.await_starts(3)?;
    remote.remove("asked")?;
    assert_eq!(run.await_end(SOON)?.code(), Some(9));
    assert_eq!((asked.starts().len(), asked.count("TERM")), (3, 1));
    let outcomes: Vec<_> = remote
        .receipts("asked")?
        .iter()
        .map(|receipt| receipt["outcome"].to_string())
        .collect();
    assert_eq!(outcomes, ["\"died\"", "\"died\"", "\"stopped\""]);

    // Removed while `run` waits before the next start.
    let waiting = remote.job("waiting")?;
    let argv = waiting.argv(&["lives=0.2", "dies=1"]);
    let mut run = remote.run("waiting", &restart("waiting", "4s"), argv, &[])?;
    remote.await_log("waiting", "starting the command again")?;
    remote.remove("waiting")?;
    assert_eq!(run.await_end(SOON)?.code(), Some(1));
    assert_eq!(waiting.starts().len(), 1);
    Ok(())
}

#[test]
fn stop_needs_neither_a_watcher_nor_a_marker() -> Result<()> {
    let remote = Remote::on(Hdfs::shared()?, "alone")?;
    remote.configure_with(WATCH, &remote.pid_file_job("clicks", "", ""))?;
    let mut jobs = remote.start_jobs(&["clicks"], &["drain=0.5"])?;
    let (code, asked) = remote.json(&["stop", "clicks", "--dry-run"])?;
    assert_eq!((code, &asked["outcome"]), (0, &json!("would-ask")));
    jobs[0].assert_untouched();
    let (code, receipt) = remote.json(&["stop", "clicks"])?;
    assert_eq!((code, &receipt["outcome"]), (0, &json!("stopped")));
    jobs[0].await_stop(&remote, STOPPED)?;
    assert!(!remote.eye().exists(&remote.marker("clicks"))?);
    Ok(())
}

#[test]
fn a_stop_file_stops_by_appearing() -> Result<()> {
    let remote = Remote::on(Hdfs::shared()?, "appears")?;
    let keys = "trigger = \"appears\"";
    remote.configure_with(WATCH, &remote.pid_file_job("clicks", keys, ""))?;
    let mut jobs = remote.start_jobs(&["clicks"], &[])?;
    let _watch = remote.watch_armed("watch", 1)?;
    remote.await_rounds("watch", 5)?;
    jobs[0].assert_untouched();
    remote.touch("clicks")?;
    jobs[0].await_stop(&remote, STOPPED)?;
    Ok(())
}

#[test]
fn commands_never_take_silence_for_absence() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let proxy = CutProxy::start(hdfs.namenode().port())?;
    let direct = Remote::on(hdfs, "silence")?;
    let (eye, conf_dir) = (direct.eye().clone(), proxy.conf_dir(hdfs)?);
    let remote = Remote::beside(eye, direct.dir(), &conf_dir, "")?;
    remote.configure_with(
        "call-timeout = \"1s\"\ninterval = \"200ms\"",
        &[
            remote.pid_file_job("there", "", ""),
            remote.pid_file_job("away", "", ""),
        ]
        .concat(),
    )?;
    remote.touch("there")?;
    let mut jobs = remote.start_jobs(&["there"], &[])?;

    // What they say while all is well.
    let expected: &[(&[&str], i32)] = &[
        (&["marker", "stat", "--job", "there"], 0),
        (&["marker", "stat", "--job", "away"], 7),
        (&["marker", "rm", "--job", "away"], 7),
        (&["marker", "ls"], 0),
        (&["status"], 0),
        (&["stop", "there", "--dry-run"], 0),
        (&["init"], 0),
    ];
    for (args, code) in expected {
        assert_eq!(remote.json(args)?.0, *code, "{args:?}");
    }
    let (_, listed) = remote.json(&["marker", "ls"])?;
    assert_eq!(listed["entries"][0]["name"], "there.blue");
    assert_eq!(listed["entries"].as_array().map(Vec::len), Some(1));

    let commands: &[&[&str]] = &[
        &["marker", "stat", "--job", "there"],
        &["marker", "stat", "--job", "away"],
        &["marker", "touch", "--job", "away"],
        &["marker", "rm", "--job", "there"],
        &["marker", "rm", "--job", "away", "--dry-run"],
        &["marker", "ls"],
        &["status"],
        &["stop", "there"],
        &["init"],
    ];
    for traffic in [Traffic::Drop, Traffic::Hold] {
        proxy.set(traffic);
        for args in commands {
            let (code, said) = remote.json(args)?;
            assert_eq!(code, 5, "{traffic:?} {args:?}: {said}");
        }
        for until in ["gone", "present"] {
            let uri = format!("hdfs://{}", remote.marker("away"));
            let (code, said) = remote.json(&["wait", &uri, "--until", until, "--timeout", "3s"])?;
            assert_eq!(code, 6, "{traffic:?} {until}: {said}");
        }
        let run = remote.job("away")?;
        let command = run.argv(&[]);
        let mut started = remote.run("run", &["--job", "away"], command, &[])?;
        assert_eq!(started.await_end(SOON * 2)?.code(), Some(69), "{traffic:?}");
        assert_eq!(
            run.notes(),
            [""; 0],
            "nothing is started without its marker"
        );
    }
    proxy.set(Traffic::Pass);
    assert_eq!(
        remote.json(&["status"])?.1["slots"][1]["state"],
        json!("running")
    );
    assert!(remote.eye().exists(&remote.marker("there"))?);
    jobs.iter_mut().for_each(Started::assert_untouched);
    Ok(())
}

/// The configuration's tables of jobs that are stopped by a signal.
fn stopped_by_signal(names: &[&str]) -> String {
    let table = |name: &&str| format!("[jobs.{name}.stop]\nbackend = \"signal\"\n");
    names.iter().map(table).collect::<Vec<_>>().concat()
}
