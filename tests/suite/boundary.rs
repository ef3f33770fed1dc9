//! Stops of jobs that cannot drain: asked between two batches, or not, as the policy says.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::batches::{Batches, LocalLog, Rhythm};
use crate::common::job::BareJob;
use crate::common::place::{Place, SOON};
use crate::common::{Job, wait_until};

/// A gap of 1.2 s, of which a request needs 0.4 s and what a busy machine adds.
const WITH_GAPS: (f64, f64) = (1.6, 0.4);
const REACTION: &str = "boundary-reaction = \"300ms\"";

/// How long the job plans batches after it was asked, as a driver does that is ending.
const STILL_PLANS: Duration = Duration::from_millis(150);

/// A job without a kit, with a checkpoint for each of its queries.
struct Streaming {
    place: Place,
    job: Job,
    queries: Vec<Batches>,
    bare: Option<BareJob>,
}

/// When the job with these notes has been asked for so long that it plans nothing more.
fn ends_after_a_request(notes: PathBuf) -> impl Fn() -> bool + Send + 'static {
    move || {
        let asked = fs::read_to_string(&notes).is_ok_and(|text| text.contains("TERM"));
        let age = || fs::metadata(&notes).ok()?.modified().ok()?.elapsed().ok();
        asked && age().is_none_or(|age| age >= STILL_PLANS)
    }
}

fn rhythm((every, takes): (f64, f64)) -> Rhythm {
    Rhythm::new(every, takes)
}

impl Streaming {
    /// A job that is not started, with queries of these rhythms; `stop` are keys of its `stop` table.
    fn new(name: &str, rhythms: &[Rhythm], keys: &str, stop: &str) -> Result<Self> {
        let place = Place::new(name)?;
        let job = place.job("clicks")?;
        let mut queries = Vec::new();
        let mut uris = Vec::new();
        for (index, rhythm) in rhythms.iter().enumerate() {
            let dir = place.path(&format!("checkpoint-{index}"));
            let log = LocalLog::new(&dir)?;
            let first = log.add_history(12, rhythm)?;
            let ends = ends_after_a_request(place.path("clicks.notes"));
            queries.push(Batches::start(log, first, rhythm.clone(), ends));
            uris.push(format!("\"{}\"", dir.display()));
        }
        let keys = format!("checkpoints = [{}]\n{keys}", uris.join(", "));
        let stop = format!("{REACTION}\n{stop}");
        place.configure(&place.pid_file_job("clicks", &keys, &stop))?;
        Ok(Self {
            place,
            job,
            queries,
            bare: None,
        })
    }

    fn start(&mut self) -> Result<()> {
        let bare = self.job.start(&["drain=0.2"])?;
        self.place.write_pid("clicks", bare.pid())?;
        self.place.touch("clicks")?;
        self.bare = Some(bare);
        Ok(())
    }

    fn await_busy(&self, busy: bool) -> Result<()> {
        let query = self.queries.first().context("no query")?;
        wait_until(SOON, "a batch begins or ends", || query.is_busy() == busy)
    }

    /// Waits until so many more batches are committed.
    fn await_batches(&self, more: u64) -> Result<()> {
        let query = self.queries.first().context("no query")?;
        let goal = query.committed() + more;
        wait_until(SOON, "more batches", || query.committed() >= goal)
    }

    fn asked(&self) -> usize {
        self.job.count("TERM")
    }
}

fn boundary<'r>(receipt: &'r Value, key: &str) -> &'r Value {
    &receipt["boundary"][key]
}

fn seconds(receipt: &Value, key: &str) -> f64 {
    boundary(receipt, key).as_f64().unwrap_or(f64::NAN)
}

fn assert_in_gap(receipt: &Value) {
    assert_eq!(boundary(receipt, "asked"), "in-gap", "{receipt:#}");
    assert_eq!(receipt["proof"]["verdict"], "clean", "{receipt:#}");
    assert_eq!(receipt["outcome"], "stopped", "{receipt:#}");
    assert_eq!(receipt["how"], "drained", "{receipt:#}");
    let (gap, idle) = (
        seconds(receipt, "gap_seconds"),
        seconds(receipt, "idle_seconds"),
    );
    assert!(gap > 0.8 && gap < 1.4, "{receipt:#}");
    assert!(idle < gap, "{receipt:#}");
    assert!(seconds(receipt, "delivery_seconds") < 0.4, "{receipt:#}");
}

#[test]
fn a_request_is_sent_after_a_commit_and_before_the_next_plan() -> Result<()> {
    // In the middle of a batch, at its beginning, and late in a gap.
    for (busy, after) in [(true, 0.2), (true, 0.0), (false, 0.9)] {
        let mut streaming = Streaming::new(
            "boundary",
            &[rhythm(WITH_GAPS)],
            "",
            "at-boundary = \"require\"",
        )?;
        streaming.start()?;
        let place = &streaming.place;
        let _watch = place.watch("watch", &[])?;
        place.await_log("watch", " armed ")?;
        streaming.await_busy(!busy)?;
        streaming.await_busy(busy)?;
        thread::sleep(Duration::from_secs_f64(after));
        place.remove("clicks")?;
        let receipt = place.await_receipt("clicks", 1)?;
        assert_in_gap(&receipt);
        assert_eq!(streaming.asked(), 1);
        wait_until(SOON, "the hook ran", || place.count_hooks("on-clean") == 1)?;
        assert_eq!(
            place.hooks(),
            ["on-clean clicks clean"],
            "{}",
            place.log("watch")
        );
    }
    Ok(())
}

#[test]
fn without_a_gap_it_is_said_and_done_as_the_policy_says() -> Result<()> {
    // A job whose batches follow each other.
    let mut streaming = Streaming::new(
        "no-gap",
        &[rhythm((0.0, 0.3))],
        "",
        "at-boundary = \"prefer\"\nboundary-patience = \"1500ms\"",
    )?;
    streaming.start()?;
    let place = &streaming.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    place.await_log(
        "watch",
        "not asked yet: no gap: between two batches there are usually 0.0",
    )?;
    let status = place.stepdown(&["--json", "status", "clicks"])?;
    let status: Value = serde_json::from_str(&status.stdout)?;
    assert_eq!(status["slots"][0]["stop"]["step"], "waiting", "{status:#}");
    assert_eq!(streaming.asked(), 0);
    let receipt = place.await_receipt("clicks", 1)?;
    assert_eq!(boundary(&receipt, "asked"), "without-gap", "{receipt:#}");
    assert!(seconds(&receipt, "waited_seconds") >= 1.5, "{receipt:#}");
    let why = boundary(&receipt, "why").as_str().unwrap_or_default();
    assert!(why.contains("no gap"), "{receipt:#}");
    assert_eq!(streaming.asked(), 1);
    assert_eq!(place.count_hooks("on-alarm"), 0, "{:?}", place.hooks());
    Ok(())
}

#[test]
fn a_gap_that_is_required_is_waited_for_with_an_alarm() -> Result<()> {
    let mut streaming = Streaming::new(
        "required",
        &[rhythm((0.0, 0.3))],
        "",
        "at-boundary = \"require\"\nboundary-patience = \"500ms\"",
    )?;
    streaming.start()?;
    let place = &streaming.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    wait_until(SOON, "the alarm", || {
        place.count_hooks("on-alarm clicks no-gap") == 1
    })?;
    streaming.await_batches(3)?;
    assert_eq!(streaming.asked(), 0);
    // The load goes down, and gaps come; the memory of the old ones fades.
    let query = streaming.queries.first().context("no query")?;
    query.change(rhythm((1.0, 0.1)));
    let receipt = place.await_receipt("clicks", 1)?;
    assert_eq!(boundary(&receipt, "asked"), "in-gap", "{receipt:#}");
    assert_eq!(receipt["proof"]["verdict"], "clean", "{receipt:#}");
    assert_eq!(streaming.asked(), 1);
    Ok(())
}

#[test]
fn at_the_drain_deadline_a_gap_that_is_required_is_still_waited_for() -> Result<()> {
    let mut streaming = Streaming::new(
        "overdue",
        &[rhythm((0.0, 0.3))],
        "drain-deadline = \"1s\"",
        "at-boundary = \"require\"\nboundary-patience = \"300ms\"",
    )?;
    streaming.start()?;
    let place = &streaming.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    wait_until(SOON, "the alarm", || {
        place.count_hooks("on-alarm clicks overdue") == 1
    })?;
    streaming.await_batches(3)?;
    assert_eq!(streaming.asked(), 0);
    assert!(place.receipts("clicks")?.is_empty());
    Ok(())
}

#[test]
fn one_that_would_be_killed_is_asked_before() -> Result<()> {
    let mut streaming = Streaming::new(
        "late",
        &[rhythm((0.0, 0.3))],
        "drain-deadline = \"1s\"\nescalate = \"kill\"",
        "at-boundary = \"require\"\nboundary-patience = \"300ms\"",
    )?;
    streaming.start()?;
    let place = &streaming.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_eq!(receipt["how"], "drained", "{receipt:#}");
    assert_eq!(boundary(&receipt, "asked"), "without-gap", "{receipt:#}");
    assert_eq!(streaming.asked(), 1);
    Ok(())
}

#[test]
fn several_queries_are_asked_when_all_are_idle() -> Result<()> {
    let mut later = rhythm(WITH_GAPS);
    later.shift = 0.3;
    let mut streaming = Streaming::new(
        "several",
        &[rhythm(WITH_GAPS), later],
        "",
        "at-boundary = \"require\"",
    )?;
    streaming.start()?;
    let place = &streaming.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    streaming.await_busy(true)?;
    place.remove("clicks")?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_eq!(boundary(&receipt, "asked"), "in-gap", "{receipt:#}");
    assert_eq!(receipt["proof"]["verdict"], "clean", "{receipt:#}");
    assert_eq!(
        receipt["proof"]["checkpoints"].as_array().map(Vec::len),
        Some(2)
    );
    Ok(())
}

#[test]
fn queries_that_are_never_idle_together_are_not_asked() -> Result<()> {
    // Each has a gap of 0.8 s, and in the middle of it the other one works.
    let mut other = Rhythm::new(1.6, 0.8);
    other.shift = 0.8;
    let mut streaming = Streaming::new(
        "apart",
        &[Rhythm::new(1.6, 0.8), other],
        "",
        "at-boundary = \"require\"\nboundary-patience = \"4s\"",
    )?;
    streaming.start()?;
    let place = &streaming.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    place.await_log("watch", "waiting for a gap of all queries together")?;
    wait_until(SOON, "the alarm", || {
        place.count_hooks("on-alarm clicks no-gap") == 1
    })?;
    assert_eq!(streaming.asked(), 0);
    Ok(())
}

#[test]
fn progress_that_is_written_now_and_then_cannot_be_followed() -> Result<()> {
    let mut streaming = Streaming::new(
        "async",
        &[rhythm((60.0, 0.1))],
        "",
        "at-boundary = \"prefer\"",
    )?;
    for log in ["offsets", "commits"] {
        fs::write(
            streaming.place.path(&format!("checkpoint-0/{log}/40")),
            "v1",
        )?;
    }
    streaming.start()?;
    let place = &streaming.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    let begun = Instant::now();
    place.remove("clicks")?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert!(begun.elapsed() < SOON, "it waited for what cannot come");
    assert_eq!(boundary(&receipt, "asked"), "without-gap", "{receipt:#}");
    let why = boundary(&receipt, "why").as_str().unwrap_or_default();
    assert!(why.contains("async progress tracking"), "{receipt:#}");
    Ok(())
}

#[test]
fn a_job_without_data_is_asked_after_a_while() -> Result<()> {
    let mut streaming = Streaming::new(
        "quiet",
        &[rhythm(WITH_GAPS)],
        "",
        "at-boundary = \"require\"",
    )?;
    streaming.queries.clear();
    // What was planned is committed, and nothing comes any more.
    let planned: Vec<_> = fs::read_dir(streaming.place.path("checkpoint-0/offsets"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.parse::<u64>().is_ok())
        .collect();
    for name in planned {
        let commit = streaming
            .place
            .path(&format!("checkpoint-0/commits/{name}"));
        if !commit.exists() {
            fs::write(commit, "v1")?;
        }
    }
    streaming.start()?;
    let place = &streaming.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_eq!(boundary(&receipt, "asked"), "quiet", "{receipt:#}");
    assert_eq!(receipt["proof"]["verdict"], "clean", "{receipt:#}");
    Ok(())
}

#[test]
fn how_long_the_driver_goes_on_is_learnt_from_its_last_stop() -> Result<()> {
    let mut streaming = Streaming::new(
        "learnt",
        &[rhythm(WITH_GAPS)],
        "",
        "at-boundary = \"require\"",
    )?;
    let place = &streaming.place;
    let bare = streaming.job.start(&["drain=4"])?;
    place.write_pid("clicks", bare.pid())?;
    place.touch("clicks")?;
    let watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_in_gap(&receipt);
    let took = receipt["drain_seconds"].as_f64().unwrap_or_default();
    assert!(took >= 4.0, "{receipt:#}");
    drop(watch);

    // Nothing is set now, and there are no more batches: it is asked when the patience is over.
    let keys = format!("checkpoints = [\"{}\"]", place.text("checkpoint-0"));
    let stop = "at-boundary = \"prefer\"\nboundary-patience = \"1s\"";
    place.configure(&place.pid_file_job("clicks", &keys, stop))?;
    streaming.start()?;
    let place = &streaming.place;
    let _watch = place.watch("again", &[])?;
    place.await_log("again", " armed ")?;
    place.remove("clicks")?;
    let receipt = place.await_receipt("clicks", 2)?;
    assert_eq!(boundary(&receipt, "asked"), "without-gap", "{receipt:#}");
    let needed = seconds(&receipt, "needed_seconds");
    assert!(needed >= took && needed < took + 2.0, "{receipt:#}");
    Ok(())
}

#[test]
fn stop_waits_for_the_gap_as_well() -> Result<()> {
    let mut streaming = Streaming::new(
        "stop",
        &[rhythm(WITH_GAPS)],
        "",
        "at-boundary = \"require\"",
    )?;
    streaming.start()?;
    streaming.await_busy(true)?;
    let ran = streaming.place.stepdown(&["stop", "clicks"])?;
    ensure!(ran.is_ok(), "{ran:?}");
    assert!(ran.stdout.contains("stopped: clean"), "{ran:?}");
    assert!(ran.stdout.contains("asked between two batches"), "{ran:?}");
    assert_in_gap(&streaming.place.await_receipt("clicks", 1)?);
    Ok(())
}

#[test]
fn a_signal_to_run_waits_for_the_gap() -> Result<()> {
    let streaming = Streaming::new("run", &[rhythm(WITH_GAPS)], "", "at-boundary = \"require\"")?;
    let (place, job) = (&streaming.place, &streaming.job);
    let mut run = place.run(
        "run",
        &["--job", "clicks"],
        job.argv(&["drain=0.2", "code=4"]),
        &[],
    )?;
    job.await_starts(1)?;
    place.await_log("run", "the command runs")?;
    streaming.await_busy(false)?;
    streaming.await_busy(true)?;
    run.signal(Signal::TERM)?;
    assert_eq!(run.await_end(SOON)?.code(), Some(4), "{}", place.log("run"));
    let receipt = place.await_receipt("clicks", 1)?;
    assert_in_gap(&receipt);
    assert_eq!(receipt["reason"], "signal", "{receipt:#}");
    assert_eq!(streaming.asked(), 1);
    Ok(())
}

#[test]
fn a_command_asks_in_the_gap() -> Result<()> {
    let streaming = Streaming::new("command", &[rhythm(WITH_GAPS)], "", "")?;
    let (place, job) = (&streaming.place, &streaming.job);
    let bare = job.start(&["drain=0.2"])?;
    let pid = bare.pid();
    let checkpoint = place.text("checkpoint-0");
    place.configure(&format!(
        "[jobs.clicks]\ncheckpoints = [\"{checkpoint}\"]\n[jobs.clicks.stop]\nbackend = \"command\"\n\
         {REACTION}\nat-boundary = \"require\"\nrequest = [\"kill\", \"{pid}\"]\n\
         observe = [\"sh\", \"-c\", \"kill -0 {pid} 2>/dev/null && echo {pid} || exit 3\"]\n"
    ))?;
    let _reaped = {
        // A dead child of this process would still be there for `kill -0`.
        let mut bare = bare;
        thread::spawn(move || {
            let _ = wait_until(SOON * 2, "the job ends", || bare.exit_status().is_some());
        })
    };
    place.touch("clicks")?;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    streaming.await_busy(true)?;
    place.remove("clicks")?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_in_gap(&receipt);
    assert_eq!(receipt["backend"], "command", "{receipt:#}");
    Ok(())
}

#[cfg(feature = "crash-points")]
#[test]
fn after_a_crash_the_gap_is_waited_for_again_and_the_job_is_asked_once() -> Result<()> {
    // Where it was on record that it was about to be asked, nobody knows whether it was.
    for (place_of_crash, asked_before) in [
        ("waiting-saved", false),
        ("requesting-saved", false),
        ("requested", true),
    ] {
        let mut streaming = Streaming::new(
            "crash",
            &[rhythm(WITH_GAPS)],
            "",
            "at-boundary = \"require\"\nresend-after = \"1s\"",
        )?;
        streaming.start()?;
        let place = &streaming.place;
        let mut first = place.watch("first", &[("STEPDOWN_CRASH_AT", place_of_crash)])?;
        place.await_log("first", " armed ")?;
        streaming.await_busy(true)?;
        place.remove("clicks")?;
        first.await_end(SOON)?;
        ensure!(
            !asked_before || streaming.asked() == 1,
            "{place_of_crash}: {:?}",
            streaming.job.notes()
        );
        let _second = place.watch("second", &[])?;
        let receipt = place.await_receipt("clicks", 1)?;
        assert_eq!(
            streaming.asked(),
            1,
            "{place_of_crash}: {:?}",
            streaming.job.notes()
        );
        assert_eq!(
            receipt["proof"]["verdict"], "clean",
            "{place_of_crash}: {receipt:#}"
        );
        assert_eq!(
            receipt["outcome"], "stopped",
            "{place_of_crash}: {receipt:#}"
        );
        // The receipt does not claim what nobody knows.
        let asked = if asked_before { "unknown" } else { "in-gap" };
        assert_eq!(
            boundary(&receipt, "asked"),
            asked,
            "{place_of_crash}: {receipt:#}"
        );
    }
    Ok(())
}

#[test]
fn a_job_that_ends_while_its_gap_is_waited_for_was_not_asked() -> Result<()> {
    let mut streaming = Streaming::new(
        "died",
        &[rhythm((0.0, 0.3))],
        "",
        "at-boundary = \"require\"",
    )?;
    streaming.start()?;
    let place = &streaming.place;
    let _watch = place.watch("watch", &[])?;
    place.await_log("watch", " armed ")?;
    place.remove("clicks")?;
    place.await_log("watch", "not asked yet")?;
    let pid = streaming.job.await_starts(1)?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("no pid")?;
    rustix::process::kill_process(pid, Signal::KILL)?;
    let receipt = place.await_receipt("clicks", 1)?;
    assert_eq!(receipt["outcome"], "died", "{receipt:#}");
    assert_eq!(receipt["boundary"], Value::Null, "{receipt:#}");
    Ok(())
}
