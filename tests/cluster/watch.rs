//! The main job on a real HDFS: markers come and go, jobs stop once, receipts say how.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::remote::{Remote, STOPPED, WATCH};
use crate::common::hadoop::HadoopVersion;
use crate::common::place::SOON;
use crate::common::scratch::scratch_dir;
use crate::common::{Hdfs, wait_until};

/// A job that `run` supervises, from its marker to its receipt, by stepdown's commands and Hadoop's.
fn tell_the_whole_story(hdfs: &Hdfs, version: HadoopVersion) -> Result<()> {
    let remote = Remote::on(hdfs, "story")?;
    let checkpoint = remote.at("checkpoint");
    remote.eye().write_checkpoint(&checkpoint, 7, 7)?;
    remote.configure_with(
        WATCH,
        &format!(
            "[jobs.story]\ncheckpoints = [\"hdfs://{checkpoint}\"]\n\
             [jobs.story.stop]\nbackend = \"signal\"\n"
        ),
    )?;
    let (code, again) = remote.json(&["init"])?;
    assert_eq!((code, &again["outcome"]), (0, &json!("exists")));
    let (code, status) = remote.json(&["status", "story"])?;
    assert_eq!((code, &status["slots"][0]["state"]), (0, &json!("stopped")));

    let job = remote.job("story")?;
    let argv = job.argv(&["drain=0.3", "code=3"]);
    let mut run = remote.run("run", &["--job", "story"], argv, &[])?;
    job.await_starts(1)?;
    remote.await_rounds("run", 3)?;
    let (code, status) = remote.json(&["status", "story"])?;
    let slot = &status["slots"][0];
    assert_eq!(code, 0, "{slot:#}");
    assert_eq!(slot["state"], "running");
    assert_eq!(slot["armed"], true);
    assert_eq!(slot["marker"]["sighting"], "present");
    assert_eq!(slot["checkpoints"]["verdict"], "clean");
    let (code, running) = remote.json(&["wait", "story", "--until", "running"])?;
    assert_eq!(
        (code, &running["attempt"]["pid"]),
        (0, &json!(job.starts()[0]))
    );

    // The marker that `run` made says whose it is, and Hadoop's tools leave it as it is.
    let marker = remote.marker("story");
    let content = hdfs.dfs(&["-cat", &marker])?;
    let note: Value = serde_json::from_str(&content)?;
    let (code, stat) = remote.json(&["marker", "stat", "--job", "story"])?;
    assert_eq!((code, &stat["made_by"]["run_id"]), (0, &note["run_id"]));
    let touched = hdfs.client().try_dfs(&["-touchz", &marker])?;
    assert!(!touched.is_ok(), "{touched:?}");
    ensure!(
        touched.stderr.contains("ot a zero-length file"),
        "{touched:?}"
    );
    if version == HadoopVersion::V3_4 {
        hdfs.dfs(&["-touch", &marker])?;
    }
    assert_eq!(
        remote.json(&["marker", "touch", "--job", "story"])?.1["outcome"],
        "refreshed"
    );
    assert_eq!(hdfs.dfs(&["-cat", &marker])?, content);
    remote.await_rounds("run", 3)?;
    assert_eq!(job.notes().len(), 1, "{:?}", job.notes());

    hdfs.dfs(&["-rm", "-skipTrash", &marker])?;
    assert_eq!(run.await_end(SOON)?.code(), Some(3));
    let receipt = remote.await_receipt("story")?;
    for (name, value) in STOPPED {
        assert_eq!(receipt[*name], *value, "{receipt:#}");
    }
    assert_eq!(receipt["exit"], json!({"kind": "code", "code": 3}));
    assert_eq!(receipt["proof"]["verdict"], "clean");
    assert_eq!(
        receipt["proof"]["checkpoints"][0]["last_committed_batch"],
        7
    );
    assert_eq!(job.count("TERM"), 1);
    assert_eq!(remote.hooks(), ["on-clean story clean"]);
    let (code, waited) = remote.json(&["wait", "story", "--until", "stopped"])?;
    assert_eq!((code, &waited["stop_id"]), (0, &receipt["stop_id"]));
    assert_eq!(remote.json(&["marker", "stat", "--job", "story"])?.0, 7);

    // A marker of an operator, empty, which `run` waits for; and the stop by name, which is dirty.
    let argv = job.argv(&["drain=0.3"]);
    let mut run = remote.run("run2", &["--job", "story", "--no-create"], argv, &[])?;
    remote.await_log("run2", "waiting for the marker")?;
    assert_eq!(job.starts().len(), 1);
    hdfs.dfs(&["-touchz", &marker])?;
    job.await_starts(2)?;
    remote.eye().touch(&format!("{checkpoint}/offsets/8"))?;
    let (code, receipt) = remote.json(&["stop", "story"])?;
    assert_eq!((code, &receipt["proof"]["verdict"]), (3, &json!("dirty")));
    assert_eq!(receipt["proof"]["checkpoints"][0]["last_planned_batch"], 8);
    assert_eq!(run.await_end(SOON)?.code(), Some(0));
    assert_eq!(job.count("TERM"), 2);
    assert_eq!(remote.receipts("story")?.len(), 2);
    assert_eq!(remote.json(&["stop", "story"])?.0, 7);
    Ok(())
}

#[test]
fn a_job_under_run_lives_and_stops_by_its_marker() -> Result<()> {
    tell_the_whole_story(Hdfs::shared()?, HadoopVersion::chosen()?)
}

#[test]
fn the_same_on_the_oldest_hadoop() -> Result<()> {
    let hdfs = Hdfs::builder().version(HadoopVersion::V2_7).start()?;
    tell_the_whole_story(&hdfs, HadoopVersion::V2_7)
}

#[test]
fn a_marker_may_lie_in_a_directory_of_its_own() -> Result<()> {
    let remote = Remote::on(Hdfs::shared()?, "own-dir")?;
    let markers = remote.at("markers");
    remote.eye().make_dir(&markers)?;
    let marker = format!("{markers}/clicks");
    remote.configure_with(
        WATCH,
        &format!(
            "[jobs.clicks.stop]\nbackend = \"signal\"\n\
             [jobs.clicks.slots.blue]\nmarker = \"hdfs://{marker}\"\n"
        ),
    )?;
    // By the configuration, and by the marker alone, whose state lies beside it.
    let by_uri = format!("hdfs://{markers}/alone");
    for (name, what) in [
        ("job", ["--job", "clicks"]),
        ("alone", ["--marker", &by_uri]),
    ] {
        let job = remote.job(name)?;
        let mut run = remote.run(name, &what, job.argv(&["drain=0.2", "code=4"]), &[])?;
        job.await_starts(1)?;
        let marker = if name == "job" {
            marker.clone()
        } else {
            format!("{markers}/alone")
        };
        remote.eye().remove(&marker)?;
        assert_eq!(run.await_end(SOON)?.code(), Some(4), "{}", remote.log(name));
        assert_eq!(job.count("TERM"), 1);
        assert_eq!(remote.count_hooks("on-alarm"), 0, "{:?}", remote.hooks());
    }
    assert_eq!(remote.receipts("clicks")?.len(), 1);
    let beside = format!("{markers}/alone.stepdown/state/alone/receipts");
    assert_eq!(remote.eye().names(&beside)?.len(), 1);
    Ok(())
}

/// A way in which an operator takes a marker away; `true` if it reports the verdict by its exit code.
type Removal = (&'static str, fn(&Hdfs, &Remote) -> Result<()>);

/// Each with a job of the same name.
const REMOVALS: &[Removal] = &[
    ("skiptrash", |hdfs, remote| {
        hdfs.dfs(&["-rm", "-skipTrash", &remote.marker("skiptrash")])
            .map(drop)
    }),
    ("trash", |hdfs, remote| {
        let marker = remote.marker("trash");
        hdfs.dfs(&["-D", "fs.trash.interval=60", "-rm", &marker])?;
        let trash = hdfs.dfs(&["-ls", "-R", "/user"])?;
        ensure!(
            trash.contains(&format!("/.Trash/Current{marker}")),
            "{trash}"
        );
        Ok(())
    }),
    ("move", |hdfs, remote| {
        hdfs.dfs(&["-mv", &remote.marker("move"), &remote.at("moved")])
            .map(drop)
    }),
    ("uri", |_, remote| {
        let uri = format!("hdfs://{}", remote.marker("uri"));
        let (code, said) = remote.json(&["marker", "rm", &uri])?;
        assert_eq!((code, &said["outcome"]), (0, &json!("deleted")));
        Ok(())
    }),
    ("name", |_, remote| {
        let (code, said) = remote.json(&["marker", "rm", "--job", "name"])?;
        assert_eq!((code, &said["outcome"]), (0, &json!("deleted")));
        Ok(())
    }),
    ("stop", |_, remote| {
        let (code, said) = remote.json(&["stop", "stop"])?;
        assert_eq!((code, &said["proof"]["verdict"]), (3, &json!("dirty")));
        Ok(())
    }),
];

#[test]
fn each_way_to_remove_a_marker_stops_its_job_alone() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let remote = Remote::on(hdfs, "ways")?;
    let eye = remote.eye();
    for (name, planned, committed) in [("clean", 7, 7), ("dirty", 8, 7)] {
        eye.write_checkpoint(&remote.at(name), planned, committed)?;
    }
    eye.make_dir(&remote.at("dstreams"))?;
    eye.touch(&remote.at("dstreams/checkpoint-1500000000000"))?;
    let uri = |name: &str| format!("\"hdfs://{}\"", remote.at(name));
    // What each job has for checkpoints, and what its receipt has to say of them.
    let checkpoints = [
        (uri("clean"), "clean"),
        (String::new(), "unproven"),
        (uri("missing"), "unproven"),
        (uri("dstreams"), "unproven"),
        (format!("{}, {}", uri("clean"), uri("missing")), "unproven"),
        (format!("{}, {}", uri("clean"), uri("dirty")), "dirty"),
    ];
    let names: Vec<&str> = REMOVALS.iter().map(|(name, _)| *name).collect();
    let tables: String = names
        .iter()
        .zip(&checkpoints)
        .map(|(name, (uris, _))| remote.pid_file_job(name, &format!("checkpoints = [{uris}]"), ""))
        .collect();
    remote.configure_with(WATCH, &tables)?;
    let mut jobs = remote.start_jobs(&names, &["drain=0.2"])?;
    for name in &names {
        hdfs.dfs(&["-touchz", &remote.marker(name)])?;
    }
    let watch = remote.watch_armed("watch", names.len())?;

    for (index, (name, remove)) in REMOVALS.iter().enumerate() {
        for later in &mut jobs[index..] {
            later.assert_untouched();
        }
        let rounds = remote.await_rounds("watch", 2)?;
        remove(hdfs, &remote).with_context(|| format!("{name}, after {rounds} more rounds"))?;
        let receipt = jobs[index].await_stop(&remote, STOPPED)?;
        assert_eq!(
            receipt["proof"]["verdict"], checkpoints[index].1,
            "{receipt:#}"
        );
        assert_eq!(receipt["marker"], format!("hdfs://{}", remote.marker(name)));
        let hook = format!("on-{0} {name} {0}", checkpoints[index].1);
        wait_until(SOON, "the hook is told", || remote.hooks().contains(&hook))?;
    }
    let rounds = remote.await_rounds("watch", 5)?;
    assert_eq!(remote.hooks().len(), names.len(), "{:?}", remote.hooks());
    for started in &jobs {
        assert_eq!(started.requests(), 1, "after {rounds} more rounds");
        assert_eq!(remote.receipts(&started.name)?.len(), 1);
    }
    println!(
        "{} ways to remove a marker, {} rounds of polls",
        names.len(),
        remote.rounds("watch")
    );
    assert!(watch.terminate()?.success());
    Ok(())
}

/// What the design promises: interval, the pause before the confirmation, half a second.
const PROMISED: Duration = Duration::from_secs(2);

#[test]
fn a_removal_is_acted_on_in_time() -> Result<()> {
    const JOBS: usize = 5;
    let remote = Remote::on(Hdfs::shared()?, "latency")?;
    let names: Vec<String> = (0..JOBS).map(|number| format!("job{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let tables: String = names
        .iter()
        .map(|name| remote.pid_file_job(name, "", ""))
        .collect();
    remote.configure_with("interval = \"500ms\"\nattempt-interval = \"1s\"", &tables)?;
    let mut jobs = remote.start_jobs(&names, &[])?;
    for name in &names {
        remote.touch(name)?;
    }
    let _watch = remote.watch_armed("watch", JOBS)?;
    let mut took = Vec::new();
    for started in &mut jobs {
        remote.await_rounds("watch", 2)?;
        remote.remove(&started.name)?;
        took.push(started.await_request(SOON)?);
        started.await_stop(&remote, STOPPED)?;
    }
    took.sort();
    println!("from the removal to the signal, {PROMISED:?} promised: {took:?}");
    // The machine may be busy with much else; it was not for all of them.
    assert!(took[0] <= PROMISED, "{took:?}");
    assert!(took[JOBS / 2] <= PROMISED * 3, "{took:?}");
    Ok(())
}

#[test]
fn waiting_for_a_marker_and_for_a_stop() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let remote = Remote::on(hdfs, "waiting")?;
    remote.configure_with(WATCH, &remote.pid_file_job("clicks", "", ""))?;
    let dir = remote.at("elsewhere");
    remote.eye().make_dir(&dir)?;
    let marker = format!("{dir}/marker");
    let uri = format!("hdfs://{marker}");
    let wait = |target: &str, until: &str, timeout: &str| {
        remote.json(&["wait", target, "--until", until, "--timeout", timeout])
    };
    let says =
        |document: &Value, text: &str| document["error"]["message"].to_string().contains(text);

    let (code, error) = wait(&uri, "gone", "1m")?;
    assert!(code == 7 && says(&error, "was not there"), "{error}");
    let (code, error) = wait(&uri, "present", "1500ms")?;
    assert!(code == 6 && says(&error, "within 1.5 s"), "{error}");
    let (code, error) = wait("clicks", "stopped", "1m")?;
    assert!(code == 7 && says(&error, "no receipt"), "{error}");
    assert_eq!(wait("clicks", "running", "1s")?.0, 6);
    // A directory that is missing may not be mounted yet: unknown, and waited out.
    let (code, error) = wait(&format!("hdfs://{dir}/none/marker"), "gone", "2s")?;
    assert!(code == 6 && says(&error, "within 2 s"), "{code}: {error}");

    let start = |name: &str, args: &[&str]| {
        let args = [&["--json", "wait"], args].concat();
        remote.start(name, args.iter().map(Into::into), &[])
    };
    let mut present = start("present", &[&uri, "--until", "present"])?;
    remote.eye().touch(&marker)?;
    assert_eq!(present.await_end(SOON)?.code(), Some(0));
    assert!(remote.log("present").contains(r#""state":"present""#));

    let mut gone = start("gone", &[&uri, "--until", "gone"])?;
    let sentinel = format!("{dir}/.stepdown");
    wait_until(SOON, "the directory has its sentinel", || {
        remote.eye().exists(&sentinel).unwrap_or_default()
    })?;
    // Replaced by another one: there is no moment without.
    hdfs.dfs(&["-touchz", &marker])?;
    // The wait looks every 200 ms, and is told by nobody when it has seen the marker.
    let seen = Instant::now();
    wait_until(SOON, "some rounds go by", || {
        seen.elapsed() > Duration::from_secs(2)
    })?;
    assert!(gone.exit_status().is_none(), "{}", remote.log("gone"));
    hdfs.dfs(&["-rm", "-skipTrash", &marker])?;
    assert_eq!(gone.await_end(SOON)?.code(), Some(0));
    assert!(remote.log("gone").contains(r#""state":"gone""#));

    let mut jobs = remote.start_jobs(&["clicks"], &["drain=0.5"])?;
    remote.touch("clicks")?;
    let _watch = remote.watch_armed("watch", 1)?;
    let (code, running) = wait("clicks", "running", "1m")?;
    assert_eq!(
        (code, &running["attempt"]["pid"]),
        (0, &json!(jobs[0].bare.pid()))
    );
    assert_eq!(wait("clicks", "stopped", "1s")?.0, 6);
    let mut stopped = start("stopped", &["clicks", "--until", "stopped"])?;
    remote.remove("clicks")?;
    let receipt = jobs[0].await_stop(&remote, STOPPED)?;
    assert_eq!(stopped.await_end(SOON)?.code(), Some(0));
    let stop_id = receipt["stop_id"].as_str().context("no stop id")?;
    assert!(remote.log("stopped").contains(stop_id));
    Ok(())
}

#[test]
fn mistakes_about_hdfs_are_told_and_change_nothing() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let remote = Remote::on(hdfs, "mistakes")?;
    remote.touch("clicks")?;
    let before = remote.eye().names(&remote.at("control"))?;
    let http = format!(
        "hdfs://127.0.0.1:{}{}",
        hdfs.namenode().http_port(),
        remote.dir()
    );
    let data = format!(
        "hdfs://127.0.0.1:{}{}",
        hdfs.datanodes()[0].port(),
        remote.dir()
    );
    let closed = format!("hdfs://127.0.0.1:1{}", remote.dir());
    let there = format!("hdfs://{}", remote.dir());
    let good = hdfs.conf_dir().to_string_lossy().into_owned();
    let conf = |core_site: &str| -> Result<String> {
        let dir = scratch_dir("conf")?;
        fs::write(dir.join("core-site.xml"), core_site)?;
        Ok(dir.to_string_lossy().into_owned())
    };
    let broken = conf("<configuration><property>")?;
    let without_default = conf("<configuration/>")?;
    let empty = scratch_dir("empty-conf")?.to_string_lossy().into_owned();
    let missing = remote.text("no-such-directory");

    // Directory of the Hadoop configuration, where the control directory is said to be, exit code,
    // and what the message has to say.
    let cases: &[(&str, &str, i32, &[&str])] = &[
        (&missing, &there, 2, &[&missing]),
        (&broken, &there, 2, &["core-site.xml"]),
        (&empty, &there, 2, &[&empty, "core-site.xml"]),
        (&without_default, &there, 2, &["fs.defaultFS"]),
        (
            &good,
            "hdfs://nosuchservice/x",
            5,
            &["nosuchservice", "nor a nameservice"],
        ),
        (
            &good,
            "hdfs:relative/x",
            2,
            &["hdfs:relative/x", "stepdown.toml:1:11"],
        ),
        (
            &good,
            "stepdown/control",
            2,
            &["stepdown/control", "stepdown.toml:1:11"],
        ),
        (&good, "s3a://bucket/x", 2, &["s3a"]),
        (&good, &http, 5, &["127.0.0.1"]),
        (&good, &data, 5, &["127.0.0.1"]),
        (&good, &closed, 5, &["127.0.0.1:1", "refused"]),
    ];
    for (conf_dir, control, expected, words) in cases {
        let config = format!(
            "control = \"{control}/control\"\n[hadoop]\nconf-dir = \"{conf_dir}\"\n\
             [watch]\ncall-timeout = \"3s\"\n[jobs.clicks.stop]\nbackend = \"signal\"\n"
        );
        fs::write(remote.path("stepdown.toml"), config)?;
        for args in [
            &["marker", "touch", "--job", "clicks"][..],
            &["marker", "rm", "--job", "clicks"],
            &["marker", "stat", "--job", "clicks"],
            &["init"],
        ] {
            let begun = Instant::now();
            let ran = remote.stepdown(args)?;
            let case = format!("{control} {conf_dir} {args:?}: {ran:?}");
            assert_eq!(ran.status.code(), Some(*expected), "{case}");
            for word in *words {
                assert!(ran.stderr.contains(word), "{word:?} in {case}");
            }
            assert!(begun.elapsed() < SOON, "{case}");
        }
        if *expected == 2 {
            let ran = remote.stepdown(&["watch"])?;
            assert_eq!(ran.status.code(), Some(2), "{control}: {ran:?}");
        }
    }
    assert_eq!(remote.eye().names(&remote.at("control"))?, before);
    assert!(remote.eye().exists(&remote.marker("clicks"))?);
    Ok(())
}
