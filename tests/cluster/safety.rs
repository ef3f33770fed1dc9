//! What must never stop a job: directories that go wrong, storages that do not answer or take nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::eye::Eye;
use super::remote::{Remote, STOPPED, Started, WATCH, fresh_path};
use crate::common::place::SOON;
use crate::common::{CutProxy, Hdfs, Lost, Traffic, wait_until};

/// Far longer than from a removal to the signal on a machine that is overloaded.
const STOP: Duration = Duration::from_secs(20);

/// What happens to the directory of a marker, and how it is mended.
struct Disease {
    name: &'static str,
    strike: fn(&MarkerDir) -> Result<()>,
    mend: fn(&MarkerDir) -> Result<()>,
}

struct MarkerDir {
    hdfs: &'static Hdfs,
    eye: Arc<Eye>,
    dir: String,
    away: String,
    marker: String,
}

impl MarkerDir {
    fn make(&self) -> Result<()> {
        self.eye.make_dir(&self.dir)?;
        self.eye.chown(&self.dir, OWNER)?;
        self.eye.touch(&self.marker)
    }

    fn move_away(&self) -> Result<()> {
        self.eye.rename(&self.dir, &self.away)
    }

    fn move_back(&self) -> Result<()> {
        self.eye.rename(&self.away, &self.dir)
    }
}

/// Whom `watch` is for HDFS in these tests: not the superuser, for whom permissions do not count.
const OWNER: &str = "alice";

const DISEASES: &[Disease] = &[
    Disease {
        name: "renamed",
        strike: MarkerDir::move_away,
        mend: MarkerDir::move_back,
    },
    Disease {
        name: "trashed",
        strike: |it| {
            let trash = ["-D", "fs.trash.interval=60", "-rm", "-r", &it.dir];
            it.hdfs.dfs(&trash).map(drop)
        },
        mend: |it| {
            let found = it.hdfs.dfs(&["-ls", "-d", "/user/*/.Trash/Current"])?;
            let trash = found.split_whitespace().last().context("no trash")?;
            it.eye.rename(&format!("{trash}{}", it.dir), &it.dir)
        },
    },
    Disease {
        name: "unreadable",
        strike: |it| it.eye.chmod(&it.dir, 0),
        mend: |it| it.eye.chmod(&it.dir, 0o755),
    },
    Disease {
        name: "unsearchable",
        strike: |it| it.eye.chmod(&it.dir, 0o444),
        mend: |it| it.eye.chmod(&it.dir, 0o755),
    },
    Disease {
        name: "file",
        strike: |it| {
            it.move_away()?;
            it.eye.touch(&it.dir)
        },
        mend: |it| {
            it.eye.remove(&it.dir)?;
            it.move_back()
        },
    },
    Disease {
        name: "deleted",
        strike: |it| it.eye.remove(&it.dir),
        mend: MarkerDir::make,
    },
    Disease {
        name: "remade",
        strike: |it| {
            it.eye.remove(&it.dir)?;
            it.eye.make_dir(&it.dir)?;
            it.eye.chown(&it.dir, OWNER)
        },
        mend: |it| it.eye.touch(&it.marker),
    },
    Disease {
        name: "emptied",
        strike: |it| {
            // Hadoop's star takes hidden names, the sentinel's too.
            let all = format!("{}/*", it.dir);
            it.hdfs.dfs(&["-rm", "-skipTrash", &all]).map(drop)
        },
        mend: |it| it.eye.touch(&it.marker),
    },
    Disease {
        name: "swapped",
        strike: |it| {
            it.move_away()?;
            it.eye.make_dir(&it.dir)?;
            it.eye.chown(&it.dir, OWNER)?;
            let other = uuid::Uuid::new_v4();
            let sentinel = format!(
                "{{\"format\":1,\"kind\":\"sentinel\",\"write_id\":\"{other}\",\
                 \"directory_id\":\"{other}\",\"created_at\":\"2026-01-01T00:00:00Z\"}}"
            );
            it.eye.write(&format!("{}/.stepdown", it.dir), &sentinel)
        },
        mend: |it| {
            it.eye.remove(&it.dir)?;
            it.move_back()
        },
    },
];

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one server, one trouble after the other"
)]
fn directories_that_go_wrong_stop_nothing() -> Result<()> {
    const ROUNDS: usize = 12;
    let hdfs = Hdfs::shared()?;
    let eye = Arc::new(Eye::open(hdfs.conf_dir())?);
    let dir = fresh_path("diseases");
    eye.make_dir(&dir)?;
    eye.chown(&dir, OWNER)?;
    let user = format!("user = \"{OWNER}\"");
    let remote = Remote::beside(Arc::clone(&eye), &dir, hdfs.conf_dir(), &user)?.init()?;
    let dirs: Vec<MarkerDir> = DISEASES
        .iter()
        .map(|disease| {
            let dir = remote.at(disease.name);
            MarkerDir {
                hdfs,
                eye: Arc::clone(&eye),
                away: format!("{dir}-away"),
                marker: format!("{dir}/marker"),
                dir,
            }
        })
        .collect();
    let mut tables = String::new();
    for (disease, it) in DISEASES.iter().zip(&dirs) {
        it.make()?;
        let slot = format!(
            "[jobs.{}.slots.blue]\nmarker = \"hdfs://{}\"\n",
            disease.name, it.marker
        );
        tables.push_str(&remote.pid_file_job(disease.name, "", ""));
        tables.push_str(&slot);
    }
    let names: Vec<&str> = DISEASES.iter().map(|disease| disease.name).collect();
    remote.configure_with(&format!("{WATCH}\nalarm-after = \"2s\""), &tables)?;
    let mut jobs = remote.start_jobs(&names, &["most=600"])?;
    let watch = remote.watch_armed("watch", names.len())?;
    assert_eq!(remote.hooks(), [""; 0], "nothing is wrong yet");

    let seen_wrong = |it: &MarkerDir| {
        let log = remote.log("watch");
        let of_dir = format!("dir={} ", it.dir);
        let blind = |line: &&str| line.contains(&of_dir) && line.contains("known=false");
        log.lines().filter(blind).count()
    };
    for (disease, it) in DISEASES.iter().zip(&dirs) {
        (disease.strike)(it).context(disease.name)?;
    }
    for (disease, it) in DISEASES.iter().zip(&dirs) {
        // In the place of a directory that was swapped stands one that can be seen very well.
        if disease.name != "swapped" {
            wait_until(SOON * 2, "rounds that see nothing", || {
                seen_wrong(it) >= ROUNDS
            })
            .context(disease.name)?;
        }
        let hook = format!("on-alarm {} marker-unknown", disease.name);
        wait_until(SOON * 2, "the alarm is raised", || {
            remote.count_hooks(&hook) >= 1
        })
        .context(disease.name)?;
    }
    let rounds = remote.rounds("watch");
    for started in &mut jobs {
        started.assert_untouched();
        assert_eq!(remote.steps(&started.name)?, [""; 0], "{}", started.name);
    }

    for (disease, it) in DISEASES.iter().zip(&dirs) {
        (disease.mend)(it).context(disease.name)?;
    }
    wait_until(SOON * 2, "all alarms are over", || {
        remote.log("watch").matches("the alarm is over").count() >= names.len()
    })
    .with_context(|| remote.log("watch"))?;
    // Where the directory is another one now, the marker is armed in it.
    let sentinel = |it: &MarkerDir| eye.exists(&format!("{}/.stepdown", it.dir));
    for it in &dirs {
        wait_until(SOON * 2, "the directory has its sentinel", || {
            sentinel(it).unwrap_or_default()
        })
        .with_context(|| it.dir.clone())?;
    }
    remote.await_rounds("watch", names.len() * 20)?;
    for started in &mut jobs {
        started.assert_untouched();
    }
    for (started, it) in jobs.iter_mut().zip(&dirs) {
        eye.remove(&it.marker)?;
        started
            .await_request(STOP)
            .with_context(|| remote.log("watch"))?;
        started.await_stop(&remote, STOPPED)?;
    }
    for name in names {
        // Its hook is begun after the receipt.
        let hook = format!("on-unproven {name} ");
        wait_until(SOON, "the hook ran", || remote.count_hooks(&hook) >= 1).context(name)?;
        assert_eq!(remote.count_hooks(&hook), 1, "{name}");
        assert_eq!(
            remote.count_hooks(&format!("on-alarm {name} ")),
            1,
            "{name}"
        );
    }
    println!(
        "{} directories that went wrong, {rounds} rounds of polls, no stop",
        DISEASES.len()
    );
    assert!(watch.terminate()?.success());
    Ok(())
}

#[test]
fn an_accident_of_the_sentinel_alone_is_mended() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let eye = Arc::new(Eye::open(hdfs.conf_dir())?);
    let dir = fresh_path("sentinel");
    eye.make_dir(&dir)?;
    eye.chown(&dir, OWNER)?;
    let user = format!("user = \"{OWNER}\"");
    let remote = Remote::beside(Arc::clone(&eye), &dir, hdfs.conf_dir(), &user)?.init()?;
    let table = remote.pid_file_job("clicks", "", "");
    remote.configure_with(&format!("{WATCH}\nalarm-after = \"20s\""), &table)?;
    let mut jobs = remote.start_jobs(&["clicks"], &[])?;
    remote.touch("clicks")?;
    let mut watch = remote.watch_armed("watch", 1)?;
    let markers = remote.at("control/markers");
    let sentinel = format!("{markers}/.stepdown");
    let placed = || {
        wait_until(SOON, "the sentinel is there again", || {
            eye.exists(&sentinel).unwrap_or_default()
        })
    };
    eye.remove(&sentinel)?;
    placed()?;
    let rounds = remote.await_rounds("watch", 15)?;
    jobs[0].assert_untouched();
    assert_eq!(remote.count_hooks("on-alarm"), 0, "{:?}", remote.hooks());

    // Where it cannot be placed, the job is unprotected although its marker is there.
    remote.configure_with(&format!("{WATCH}\nalarm-after = \"1s\""), &table)?;
    watch.signal(Signal::HUP)?;
    remote.await_log("watch", "the configuration was read again")?;
    remote.await_log_count("watch", "following the attempt", 2)?;
    eye.chmod(&markers, 0o555)?;
    eye.remove(&sentinel)?;
    wait_until(SOON, "the alarm is raised", || {
        remote.count_hooks("on-alarm clicks unprotected") == 1
    })
    .with_context(|| remote.log("watch"))?;
    let more = remote.await_rounds("watch", 15)?;
    eye.chmod(&markers, 0o755)?;
    remote.await_log("watch", "the alarm is over")?;
    placed()?;
    jobs[0].assert_untouched();
    assert_eq!(remote.count_hooks("on-alarm"), 1, "{:?}", remote.hooks());

    remote.remove("clicks")?;
    jobs[0]
        .await_request(STOP)
        .with_context(|| remote.log("watch"))?;
    jobs[0].await_stop(&remote, STOPPED)?;
    println!(
        "a sentinel lost twice: {} rounds of polls, no stop",
        rounds + more
    );
    Ok(())
}

#[test]
fn quotas_delay_what_must_be_saved_and_lose_nothing() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let remote = Remote::on(hdfs, "quotas")?;
    let watch = format!("{WATCH}\nalarm-after = \"1s\"\nlease-ttl = \"30s\"");
    remote.configure_with(&watch, &remote.pid_file_job("clicks", "", ""))?;
    let mut jobs = remote.start_jobs(&["clicks"], &["drain=0.5", "most=600"])?;
    let _watch = remote.watch("watch", &[])?;
    remote.await_log("watch", "following the attempt")?;
    let state = |name: &str| remote.at(&format!("control/state/clicks/{name}"));
    let [armed, stops, receipts] = ["armed", "stops", "receipts"].map(state);
    let admin = |args: &[&str]| hdfs.client().dfsadmin(args).map(drop);
    let alarm = |kind: &str| {
        let hook = format!("on-alarm clicks {kind}");
        wait_until(SOON * 2, &format!("the alarm {kind}"), || {
            remote.count_hooks(&hook) >= 1
        })
        .with_context(|| remote.log("watch"))
    };

    // Bytes are used up: a file without any could be made.
    admin(&["-setSpaceQuota", "1000000", &armed])?;
    remote.touch("clicks")?;
    alarm("unprotected")?;
    let rounds = remote.await_rounds("watch", 5)?;
    assert_eq!(remote.log("watch").matches(" armed ").count(), 0);
    admin(&["-clrSpaceQuota", &armed])?;
    remote.await_armed("watch", 1)?;

    // Names are used up: the directory itself is one.
    admin(&["-setQuota", "1", &stops, &receipts])?;
    remote.remove("clicks")?;
    alarm("record-failed")?;
    let more = remote.await_rounds("watch", 10)?;
    jobs[0].assert_untouched();
    admin(&["-clrQuota", &stops])?;
    jobs[0].await_request(STOP)?;
    wait_until(SOON, "the job is gone", || {
        jobs[0].bare.exit_status().is_some()
    })?;
    wait_until(SOON * 2, "the second alarm", || {
        remote.count_hooks("on-alarm clicks record-failed") >= 2
    })
    .with_context(|| remote.log("watch"))?;
    assert_eq!(remote.receipts("clicks")?.len(), 0);
    admin(&["-clrQuota", &receipts])?;
    jobs[0].await_stop(&remote, STOPPED)?;
    assert_eq!(remote.count_hooks("on-alarm clicks unprotected"), 1);
    println!(
        "quotas: {} rounds of polls while nothing could be saved",
        rounds + more
    );
    Ok(())
}

/// How long a hung NameNode hangs.
const A_MINUTE: Duration = Duration::from_mins(1);

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one server, one trouble after the other"
)]
fn a_namenode_that_hangs_dies_or_takes_no_changes_stops_nothing() -> Result<()> {
    let hdfs = Hdfs::builder().start()?;
    let remote = Remote::on(&hdfs, "outages")?;
    let names = ["hung", "killed", "safe", "late", "standing"];
    let tables: String = names
        .iter()
        .map(|name| remote.pid_file_job(name, "", ""))
        .collect();
    remote.configure_with(
        "call-timeout = \"2s\"\ninterval = \"200ms\"\nalarm-after = \"5s\"",
        &tables,
    )?;
    let mut jobs = remote.start_jobs(&names, &["drain=0.2", "most=900"])?;
    for name in names.iter().filter(|name| **name != "late") {
        remote.touch(name)?;
    }
    let mut watch = remote.watch_armed("watch", names.len() - 1)?;
    let alarms = |kind: &str| {
        let count = |name: &str| remote.count_hooks(&format!("on-alarm {name} {kind}"));
        names.map(count)
    };

    // SIGSTOP for a minute.
    let begun = Instant::now();
    hdfs.namenode().suspend()?;
    wait_until(A_MINUTE * 2, "a minute is over", || {
        begun.elapsed() >= A_MINUTE
    })?;
    let blind = remote.blind_rounds("watch");
    assert!(blind >= 10, "{blind} rounds saw nothing");
    assert_eq!(alarms("marker-unknown"), [1; 5], "{:?}", remote.hooks());
    hdfs.namenode().resume()?;
    remote.await_log_count("watch", "the alarm is over", 5)?;
    jobs.iter_mut().for_each(Started::assert_untouched);
    println!(
        "NameNode hung for {:?}: {blind} blind rounds, no stop",
        begun.elapsed()
    );
    remote.remove("hung")?;
    let took = jobs[0].await_request(STOP)?;
    println!("and then from the removal to the signal: {took:?}");
    jobs[0].await_stop(&remote, STOPPED)?;

    // Killed and started again.
    let before = remote.blind_rounds("watch");
    hdfs.namenode().kill()?;
    remote.await_blind_rounds("watch", 10)?;
    wait_until(SOON, "the alarm", || alarms("marker-unknown")[4] == 2)?;
    hdfs.restart_namenode()?;
    remote.await_log_count("watch", "the alarm is over", 9)?;
    for started in &mut jobs[1..] {
        started.assert_untouched();
    }
    println!(
        "NameNode killed: {} blind rounds, no stop",
        remote.blind_rounds("watch") - before
    );
    remote.remove("killed")?;
    let took = jobs[1].await_request(STOP)?;
    println!("and then from the removal to the signal: {took:?}");
    jobs[1].await_stop(&remote, STOPPED)?;

    // Safe mode: reads work, so a marker is seen, and seen to be gone; what must be saved has to wait.
    hdfs.enter_safe_mode()?;
    let (code, error) = remote.json(&["marker", "rm", "--job", "safe"])?;
    ensure!(
        code == 5 && error.to_string().contains("safe mode"),
        "{error}"
    );
    let rounds = remote.await_rounds("watch", 10)?;
    for started in &mut jobs[2..] {
        started.assert_untouched();
    }
    hdfs.leave_safe_mode()?;
    watch.signal(Signal::STOP)?;
    remote.remove("safe")?;
    hdfs.enter_safe_mode()?;
    watch.signal(Signal::CONT)?;
    wait_until(SOON, "the alarm", || alarms("record-failed")[2] == 1)
        .with_context(|| remote.log("watch"))?;
    let more = remote.await_rounds("watch", 10)?;
    for started in &mut jobs[2..] {
        started.assert_untouched();
    }
    hdfs.leave_safe_mode()?;
    jobs[2].await_request(STOP)?;
    jobs[2].await_stop(&remote, STOPPED)?;
    println!("safe mode: {} rounds, one stop, after it", rounds + more);

    // Without a DataNode an empty file can be made, and no record.
    hdfs.datanodes()[0].kill()?;
    let (code, made) = remote.json(&["marker", "touch", "--job", "late"])?;
    assert_eq!((code, &made["outcome"]), (0, &"created".into()));
    wait_until(SOON * 2, "the alarm", || alarms("unprotected")[3] == 1)
        .with_context(|| remote.log("watch"))?;
    let rounds = remote.await_rounds("watch", 5)?;
    for started in &mut jobs[3..] {
        started.assert_untouched();
    }
    hdfs.restart_datanode(0)?;
    remote.await_armed("watch", names.len())?;
    remote.remove("late")?;
    jobs[3].await_request(STOP)?;
    jobs[3].await_stop(&remote, STOPPED)?;
    println!("DataNode down: {rounds} rounds, armed after it");

    jobs[4].assert_untouched();
    for started in &jobs[..4] {
        assert_eq!(started.requests(), 1, "{}", started.name);
        assert_eq!(remote.receipts(&started.name)?.len(), 1, "{}", started.name);
    }
    assert_eq!(alarms("unprotected"), [0, 0, 0, 1, 0]);
    assert!(watch.terminate()?.success());
    Ok(())
}

#[test]
fn a_hung_storage_delays_no_other() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let proxy = CutProxy::start(hdfs.namenode().port())?;
    let remote = Remote::on(hdfs, "beside")?;
    let names = ["hung", "remote", "local"];
    let local = remote.text("local-marker");
    let markers = [
        format!("{}{}", proxy.nn_uri(), remote.marker("hung")),
        format!("hdfs://{}", remote.marker("remote")),
        local.clone(),
    ];
    let tables: String = names
        .iter()
        .zip(&markers)
        .map(|(name, marker)| {
            let slot = format!("[jobs.{name}.slots.blue]\nmarker = \"{marker}\"\n");
            remote.pid_file_job(name, "", "") + &slot
        })
        .collect();
    remote.configure_with("call-timeout = \"3s\"\ninterval = \"200ms\"", &tables)?;
    let mut jobs = remote.start_jobs(&names, &[])?;
    remote.touch("hung")?;
    remote.touch("remote")?;
    std::fs::write(&local, "")?;
    let watch = remote.watch_armed("watch", names.len())?;
    proxy.set(Traffic::Hold);
    remote.await_blind_rounds("watch", 2)?;
    std::fs::remove_file(&local)?;
    let local_took = jobs[2].await_request(STOP)?;
    remote.remove("remote")?;
    let remote_took = jobs[1].await_request(STOP)?;
    for started in &mut jobs[1..] {
        started.await_stop(&remote, STOPPED)?;
    }
    println!("beside a hung storage: local {local_took:?}, HDFS {remote_took:?}");
    jobs[0].assert_untouched();
    proxy.set(Traffic::Pass);
    remote.await_log("watch", "the alarm is over")?;
    jobs[0].assert_untouched();
    remote.remove("hung")?;
    jobs[0].await_stop(&remote, STOPPED)?;
    assert!(watch.terminate()?.success());
    Ok(())
}

/// One stop during which the answer to one call of the watcher gets lost, or the call itself. Returns
/// whether there was such a call.
fn stop_with_a_loss(hdfs: &Hdfs, call: &str, passing: usize, lost: Lost) -> Result<bool> {
    let proxy = CutProxy::start(hdfs.namenode().port())?;
    let eye = Arc::new(Eye::open(hdfs.conf_dir())?);
    let remote = Remote::within(eye, &fresh_path("loss"), &proxy.conf_dir(hdfs)?, "")?;
    remote.configure_with(
        &format!("{WATCH}\nconfirm-spacing = \"300ms\"\nlease-ttl = \"30s\""),
        &remote.pid_file_job("clicks", "", "resend-after = \"2s\""),
    )?;
    let mut jobs = remote.start_jobs(&["clicks"], &["drain=0.3"])?;
    remote.touch("clicks")?;
    let watch = remote.watch_armed("watch", 1)?;
    remote.await_rounds("watch", 2)?;
    proxy.lose_after(passing, call, lost);
    remote.remove("clicks")?;
    jobs[0]
        .await_stop(&remote, STOPPED)
        .with_context(|| remote.log("watch"))?;
    remote.await_log("watch", "the stop is confirmed")?;
    let happened = proxy.cuts() > 0;
    watch.terminate()?;
    assert_eq!(jobs[0].requests(), 1);
    assert_eq!(remote.receipts("clicks")?.len(), 1);
    assert_eq!(remote.hooks().len(), 1, "{:?}", remote.hooks());
    let steps = remote.steps("clicks")?;
    let count_of = |step: &str| {
        let ending = format!(".{step}.json");
        steps.iter().filter(|name| name.ends_with(&ending)).count()
    };
    assert_eq!(count_of("latched"), 1, "{steps:?}");
    assert_eq!(count_of("requesting"), 1, "{steps:?}");
    // Left out where the job has ended before it could be written: the receipt follows at once.
    assert!(count_of("requested") <= 1, "{steps:?}");
    Ok(happened)
}

#[test]
fn answers_that_get_lost_during_a_stop_double_nothing() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    // Each kind of change that a stop makes; how many of each it makes shows by the losses.
    let kinds: Vec<(&str, Lost)> = ["create", "addBlock", "complete", "rename2"]
        .into_iter()
        .flat_map(|call| [(call, Lost::Answer), (call, Lost::Request)])
        .collect();
    let losses = std::thread::scope(|scope| {
        let lose_all = |call, lost| {
            let mut passing = 0;
            while stop_with_a_loss(hdfs, call, passing, lost)
                .with_context(|| format!("{lost:?} of {call} {passing}"))?
            {
                passing += 1;
            }
            Ok(passing)
        };
        let threads: Vec<_> = kinds
            .iter()
            .map(|&(call, lost)| scope.spawn(move || lose_all(call, lost)))
            .collect();
        let join =
            |thread: std::thread::ScopedJoinHandle<'_, Result<usize>>| thread.join().unwrap();
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    println!("calls lost, each in a stop of its own: {kinds:?} {losses:?}");
    // Lease, intent, its two moves, the two steps of the request, and the receipt.
    for ((call, lost), count) in kinds.iter().zip(&losses) {
        let least = if *call == "addBlock" { 3 } else { 4 };
        assert!(*count >= least, "{lost:?} of {call}: {count}");
    }
    Ok(())
}
