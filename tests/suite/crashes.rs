//! `kill -9` and SIGSTOP of stepdown at every place that the source names, and what the next one makes
//! of it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::daemon::Daemon;
use crate::common::job::BareJob;
use crate::common::place::{Place, SOON, await_receipt_in, receipts_in};
use crate::common::{Job, wait_until};

/// How many scenarios run at once; most of the time they wait.
const AT_ONCE: usize = 4;

/// A short lease, so that who is halted loses it soon.
const SHORT_LEASE: &str = "lease-ttl = \"1s\"";

/// Longer than a job takes to drain on a busy machine: only one that is deaf is asked again.
const RESEND_AFTER: &str = "5s";

/// A job that ends when it is asked, with a code that tells that it was.
const DRAINS: &[&str] = &["drain=0.3", "code=5"];

/// Places of which another test has it that they are crashed at: no job here is copied when it stops,
/// waits for a gap, or has a rollout begun by a request.
const SHOWN_ELSEWHERE: [(&str, &str); 3] = [
    ("copied", include_str!("copy_on_stop.rs")),
    ("waiting-saved", include_str!("boundary.rs")),
    ("rollout-request-begun", include_str!("rollout_watch.rs")),
];

/// All names that are given to `crash_point` in the source.
fn named_in_source() -> BTreeSet<String> {
    fn collect(dir: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, names);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for (at, _) in text.match_indices("crash_point(\"") {
                let rest = &text[at + "crash_point(\"".len()..];
                names.insert(rest.split('"').next().unwrap().to_owned());
            }
        }
    }
    let mut names = BTreeSet::new();
    collect(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut names,
    );
    names
}

/// The names that a process passed, from its log.
fn passed(log: &str) -> BTreeSet<String> {
    let lines = log.lines().filter(|line| line.contains("crash point"));
    let names = lines.filter_map(|line| line.split("name=\"").nth(1));
    names
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

/// Runs `body` for each item, some at once; all failures are told.
fn for_each<T: Sync + std::fmt::Debug>(
    items: &[T],
    body: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = Mutex::new(items.iter());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(item) = next.lock().unwrap().next() else {
                        return;
                    };
                    if let Err(error) = body(item) {
                        failures
                            .lock()
                            .unwrap()
                            .push(format!("{item:?}: {error:?}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

/// Who drives the stop that is disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    /// `watch`, of a job that drains.
    Watch,
    /// `watch`, of a deaf job that is killed after its deadline.
    WatchDeaf,
    /// `run`, of its child.
    Run,
    /// `stop`, with no `watch` beside it.
    Stop,
}

impl Driver {
    const ALL: [Driver; 4] = [Driver::Watch, Driver::WatchDeaf, Driver::Run, Driver::Stop];
}

/// One job and the first process of stepdown that looks after it.
struct Scene {
    place: Place,
    job: Job,
    _bare: Option<BareJob>,
    first: Daemon,
    driver: Driver,
    /// How often each attempt is asked.
    requests: usize,
}

impl Scene {
    /// The place, the job, which runs unless `run` is to start it, and the first process.
    fn set(driver: Driver, env: &[(&str, &str)]) -> Result<Scene> {
        let place = Place::new("crashes")?;
        let keys = match driver {
            Driver::WatchDeaf => "escalate = \"kill\"\ndrain-deadline = \"700ms\"",
            Driver::Watch | Driver::Run | Driver::Stop => "",
        };
        let stop = format!("resend-after = \"{RESEND_AFTER}\"");
        place.configure_with(SHORT_LEASE, &place.pid_file_job("clicks", keys, &stop))?;
        let job = place.job("clicks")?;
        let behaviour: &[&str] = match driver {
            Driver::WatchDeaf => &["deaf=1"],
            Driver::Watch | Driver::Run | Driver::Stop => DRAINS,
        };
        let bare = match driver {
            Driver::Run => None,
            Driver::Watch | Driver::WatchDeaf | Driver::Stop => {
                let bare = job.start(behaviour)?;
                place.write_pid("clicks", bare.pid())?;
                place.touch("clicks")?;
                Some(bare)
            }
        };
        let first = match driver {
            Driver::Watch | Driver::WatchDeaf => place.watch("first", env)?,
            Driver::Run => run(&place, &job, "first", env)?,
            Driver::Stop => place.start("first", ["stop".into(), "clicks".into()], env)?,
        };
        Ok(Scene {
            place,
            job,
            _bare: bare,
            first,
            driver,
            requests: 1,
        })
    }

    /// Takes the marker away as soon as it is armed; earlier if the first process is gone.
    fn remove_marker(&mut self) -> Result<()> {
        let marker = self.marker();
        match self.driver {
            Driver::Stop => return Ok(()),
            Driver::Watch | Driver::WatchDeaf | Driver::Run => {}
        }
        wait_until(SOON, "the job is armed", || {
            let log = self.place.log("first");
            self.first.exit_status().is_some()
                || log.contains(" armed ")
                || log.contains("armed=true")
        })?;
        if self.driver == Driver::Run {
            wait_until(SOON, "the command is there", || {
                self.first.exit_status().is_some() || !self.job.starts().is_empty()
            })?;
            if self.first.exit_status().is_some() {
                return Ok(());
            }
        }
        fs::remove_file(marker).context("the marker")
    }

    fn marker(&self) -> PathBuf {
        match self.driver {
            Driver::Run => self.place.path("marker"),
            Driver::Watch | Driver::WatchDeaf | Driver::Stop => self.place.marker("clicks"),
        }
    }

    /// Directory and job name of the records.
    fn records(&self) -> (PathBuf, &'static str) {
        match self.driver {
            Driver::Run => (self.place.path("marker.stepdown"), "marker"),
            Driver::Watch | Driver::WatchDeaf | Driver::Stop => {
                (self.place.path("control"), "clicks")
            }
        }
    }

    fn receipts(&self) -> Result<Vec<Value>> {
        let (dir, job) = self.records();
        receipts_in(&dir, job)
    }

    fn await_receipt(&self, count: usize) -> Result<Value> {
        let (dir, job) = self.records();
        await_receipt_in(&dir, job, count)
    }

    fn logs(&self) -> String {
        let of = |name| format!("--- {name}\n{}\n", self.place.log(name));
        format!("{}{}{:?}", of("first"), of("second"), self.job.notes())
    }

    /// What holds after every stop of this scene, however it was disturbed.
    fn check_end(&self) -> Result<()> {
        let notes = self.job.notes();
        let starts = self.job.starts().len();
        ensure!(self.job.running().is_empty(), "the job runs on: {notes:?}");
        let receipts = self.receipts()?;
        let stopped = receipts
            .iter()
            .filter(|receipt| receipt["outcome"] == "stopped");
        ensure!(stopped.count() == starts, "{receipts:#?} {notes:?}");
        let asked = self.job.count("TERM");
        ensure!(
            asked == starts * self.requests,
            "{asked} requests: {notes:?}"
        );
        let deaf = self.driver == Driver::WatchDeaf;
        let how = if deaf { "killed" } else { "drained" };
        for receipt in receipts
            .iter()
            .filter(|receipt| receipt["outcome"] == "stopped")
        {
            ensure!(receipt["how"] == how, "{receipt:#?}");
            ensure!(receipt["start_requested"] == false, "{receipt:#?}");
        }
        Ok(())
    }
}

fn run(place: &Place, job: &Job, name: &str, env: &[(&str, &str)]) -> Result<Daemon> {
    let marker = place.text("marker");
    let args = ["--marker", &marker, "--resend-after", RESEND_AFTER];
    place.run(name, &args, job.argv(DRAINS), env)
}

/// Which places a driver passes in a stop that nothing disturbs.
fn undisturbed(driver: Driver) -> Result<BTreeSet<String>> {
    let mut scene = Scene::set(driver, &[])?;
    scene.remove_marker()?;
    let receipt = scene.await_receipt(1).with_context(|| scene.logs())?;
    ensure!(receipt["outcome"] == "stopped", "{receipt:#?}");
    if driver == Driver::Run || driver == Driver::Stop {
        scene.first.await_end(SOON)?;
    }
    wait_until(SOON, "the hook ran", || !scene.place.hooks().is_empty())?;
    scene.check_end().with_context(|| scene.logs())?;
    ensure!(scene.place.hooks().len() == 1, "{:?}", scene.place.hooks());
    Ok(passed(&scene.place.log("first")))
}

/// Every place with every driver that passes it.
fn all_places() -> Result<Vec<(Driver, String)>> {
    let mut places = Vec::new();
    for driver in Driver::ALL {
        for name in undisturbed(driver).with_context(|| format!("{driver:?}"))? {
            places.push((driver, name));
        }
    }
    let reached: BTreeSet<String> = places.iter().map(|(_, name)| name.clone()).collect();
    let mut named = named_in_source();
    for (name, test) in SHOWN_ELSEWHERE {
        assert!(test.contains(&format!("\"{name}\"")), "{name}");
        named.remove(name);
    }
    assert!(named.len() >= 15, "{named:?}");
    assert_eq!(
        reached, named,
        "places that no scenario reaches, or reads wrongly"
    );
    Ok(places)
}

/// How often each attempt is asked where the first process gets no further than this place.
fn requests(driver: Driver, name: &str) -> usize {
    // That it was asked is not on record, and the deaf do not show it: these are asked again.
    if (driver, name) == (Driver::WatchDeaf, "requested") {
        2
    } else {
        1
    }
}

fn crash(driver: Driver, name: &str) -> Result<()> {
    let mut scene = Scene::set(driver, &[("STEPDOWN_CRASH_AT", name)])?;
    scene.requests = requests(driver, name);
    scene.remove_marker()?;
    let status = scene.first.await_end(SOON)?;
    ensure!(
        status.signal() == Some(9),
        "{name} was not reached: {status} {}",
        scene.logs()
    );
    let finished = finish(&mut scene, name);
    finished.with_context(|| scene.logs())
}

/// Has the next process of stepdown bring the scene to its end.
fn finish(scene: &mut Scene, name: &str) -> Result<()> {
    match scene.driver {
        Driver::Watch | Driver::WatchDeaf => {
            let second = scene.place.watch("second", &[])?;
            scene.await_receipt(1)?;
            scene.place.await_rounds("second", 3)?;
            drop(second);
        }
        Driver::Stop => {
            let ran = scene.place.stepdown(&["stop", "clicks"])?;
            // Where the receipt is there already nothing is left to stop.
            let expected = if name == "receipt-saved" { 7 } else { 0 };
            ensure!(ran.status.code() == Some(expected), "{ran:?}");
        }
        Driver::Run => {
            let mut second = run(&scene.place, &scene.job, "second", &[])?;
            // It takes over what runs; or, where nothing does, starts the command as it was told to.
            let mut removed = false;
            wait_until(SOON, "the second ends", || {
                let log = scene.place.log("second");
                let follows = log.contains("the command runs") || log.contains("adopted the");
                let starts = scene.job.starts();
                let runs = starts.last().is_some_and(|pid| scene.job.runs(*pid));
                if !removed && follows && runs && scene.marker().exists() {
                    removed = fs::remove_file(scene.marker()).is_ok();
                }
                second.exit_status().is_some()
            })?;
        }
    }
    scene.check_end()?;
    let stops = scene.receipts()?.len();
    // Between the receipt and its hook there is one place; what happens there is told by the receipt.
    let untold = usize::from(name == "receipt-saved");
    wait_until(SOON, "the hooks ran", || {
        scene.place.hooks().len() + untold >= stops
    })?;
    let hooks = scene.place.hooks();
    ensure!(
        hooks.len() + untold == stops,
        "{hooks:?} for {stops} receipts"
    );
    Ok(())
}

#[test]
fn kill_9_at_every_place_of_a_stop() -> Result<()> {
    let places = all_places()?;
    for_each(&places, |(driver, name)| crash(*driver, name))?;
    println!("{} crashes", places.len());
    assert!(places.len() > 30, "{}", places.len());
    Ok(())
}

/// Whether a process is halted, as SIGSTOP does it.
fn is_halted(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// The first process is halted at this place until the second has finished what it began.
fn halt(driver: Driver, name: &str) -> Result<()> {
    let mut scene = Scene::set(driver, &[("STEPDOWN_HALT_AT", name)])?;
    scene.requests = requests(driver, name);
    scene.remove_marker()?;
    wait_until(SOON, "it is halted", || is_halted(scene.first.pid()))
        .with_context(|| scene.logs())?;
    let second = scene.place.watch("second", &[])?;
    let halted = halt_and_go_on(&mut scene);
    drop(second);
    halted.with_context(|| scene.logs())
}

fn halt_and_go_on(scene: &mut Scene) -> Result<()> {
    scene.await_receipt(1)?;
    scene.place.await_rounds("second", 5)?;
    let receipts = scene.receipts()?;
    scene.first.signal(Signal::CONT)?;
    if scene.driver == Driver::Stop {
        scene.first.await_end(SOON)?;
    } else {
        scene.place.await_rounds("first", 5)?;
    }
    ensure!(scene.receipts()? == receipts, "{receipts:#?}");
    scene.check_end()
}

#[test]
fn a_watcher_that_is_halted_at_every_place_changes_nothing_when_it_goes_on() -> Result<()> {
    let mut places = Vec::new();
    for driver in [Driver::Watch, Driver::WatchDeaf, Driver::Stop] {
        places.extend(undisturbed(driver)?.into_iter().map(|name| (driver, name)));
    }
    for_each(&places, |(driver, name)| halt(*driver, name))?;
    println!("{} halts", places.len());
    assert!(places.len() > 20, "{}", places.len());
    Ok(())
}
