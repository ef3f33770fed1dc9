//! Long counts, by hand (`make soak`): stops under `kill -9` of stepdown at random moments.
//!
//! What is done is noted trial by trial in `.cache/soak/`, so a run that was interrupted goes on where
//! it was; one that comes to its end adds its row to `docs/soak.md`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::remote::{Remote, WATCH};
use crate::common::daemon::Daemon;
use crate::common::hadoop::cache_dir;
use crate::common::job::BareJob;
use crate::common::place::{Place, SOON, receipts_in};
use crate::common::{Hdfs, Job, wait_until};

/// Another number of stops than the test's own.
const STOPS: &str = "STEPDOWN_SOAK_STOPS";

/// Longer than any stop takes with all its interruptions, on a machine that is overloaded.
const PATIENCE: Duration = Duration::from_mins(2);

/// Longer than any job here drains, so that none is asked again where asking it was not recorded.
const RESEND_AFTER: &str = "resend-after = \"20s\"";

/// What came of one stop.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Trial {
    number: u64,
    /// How often stepdown was killed in it.
    kills: u64,
    /// The attempt was not stopped, or its stop not confirmed.
    lost: bool,
    /// It was asked or confirmed more than once.
    doubled: bool,
    /// Something was stopped whose marker stood.
    mistaken: bool,
    /// What was found, where something was.
    told: String,
    /// The run of the test that did it, and how far that was then.
    session: u64,
    session_seconds: u64,
}

/// Where the jobs and their markers are.
trait Ground: Sync {
    /// The edge node.
    fn place(&self) -> &Place;
    fn touch(&self, job: &str) -> Result<()>;
    fn remove(&self, job: &str) -> Result<()>;
    fn receipts(&self, job: &str) -> Result<Vec<Value>>;
}

impl Ground for Place {
    fn place(&self) -> &Place {
        self
    }

    fn touch(&self, job: &str) -> Result<()> {
        Place::touch(self, job)
    }

    fn remove(&self, job: &str) -> Result<()> {
        Place::remove(self, job)
    }

    fn receipts(&self, job: &str) -> Result<Vec<Value>> {
        receipts_in(&self.path("control"), job)
    }
}

impl Ground for Remote {
    fn place(&self) -> &Place {
        self
    }

    fn touch(&self, job: &str) -> Result<()> {
        Remote::touch(self, job)
    }

    fn remove(&self, job: &str) -> Result<()> {
        Remote::remove(self, job)
    }

    fn receipts(&self, job: &str) -> Result<Vec<Value>> {
        Remote::receipts(self, job)
    }
}

/// Who looks after the job whose marker goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    Watch,
    Run,
}

/// One stop: the job whose marker goes, and one beside it whose marker stays.
struct Scene<'a> {
    ground: &'a dyn Ground,
    rng: Rng,
    keeper: Keeper,
    going: Job,
    standing: Job,
    _bare: Vec<BareJob>,
    kills: u64,
    processes: u64,
}

impl Scene<'_> {
    fn set(ground: &dyn Ground, mut rng: Rng, keeper: Keeper) -> Result<Scene<'_>> {
        let place = ground.place();
        let going = place.job("going")?;
        let standing = place.job("standing")?;
        let mut bare = Vec::new();
        for (name, job, keeper) in [
            ("going", &going, keeper),
            ("standing", &standing, Keeper::Watch),
        ] {
            if keeper == Keeper::Watch {
                let started = job.start(&[&drain(&mut rng), "code=5"])?;
                place.write_pid(name, started.pid())?;
                ground.touch(name)?;
                bare.push(started);
            }
        }
        Ok(Scene {
            ground,
            rng,
            keeper,
            going,
            standing,
            _bare: bare,
            kills: 0,
            processes: 0,
        })
    }

    /// Starts stepdown; as `run` it makes the marker and the job only the first time.
    fn start(&mut self) -> Result<(String, Daemon)> {
        self.processes += 1;
        let name = format!("stepdown-{}", self.processes);
        let place = self.ground.place();
        let daemon = match self.keeper {
            Keeper::Watch => place.watch(&name, &[])?,
            Keeper::Run => {
                let mut args = vec!["--job", "going", "--resend-after", "20s"];
                if self.processes > 1 {
                    args.push("--no-create");
                }
                let command = self.going.argv(&[&drain(&mut self.rng), "code=5"]);
                place.run(&name, &args, command, &[])?
            }
        };
        Ok((name, daemon))
    }

    fn pause(&mut self, up_to: Duration) -> Result<()> {
        let pause = up_to.mul_f64(self.rng.f64());
        let begun = Instant::now();
        wait_until(SOON, "the moment comes", || begun.elapsed() >= pause)
    }

    /// Removes the marker, with `kill -9` of stepdown at random moments around that, and waits for
    /// the receipt.
    fn play(&mut self, span: Duration) -> Result<()> {
        let (name, mut daemon) = self.start()?;
        let place = self.ground.place();
        let armed = || {
            let log = place.log(&name);
            match self.keeper {
                Keeper::Watch => log.matches(" armed ").count() == 2,
                Keeper::Run => log.contains("the command runs") && !self.going.starts().is_empty(),
            }
        };
        daemon.await_ready(SOON, "armed", armed)?;
        let kills = self.rng.u64(1..=4);
        let removed_after = self.rng.u64(0..kills);
        for kill in 0..kills {
            self.pause(span)?;
            let while_down = self.rng.bool();
            if kill == removed_after && !while_down {
                self.ground.remove("going")?;
                self.pause(span)?;
            }
            if daemon.exit_status().is_none() {
                self.kills += 1;
            }
            daemon.kill()?;
            if kill == removed_after && while_down {
                self.ground.remove("going")?;
            }
            if self.rng.bool() && self.keeper == Keeper::Watch {
                // A gap that nobody sees.
                self.ground.remove("standing")?;
                self.ground.touch("standing")?;
            }
            daemon = self.start()?.1;
        }
        let mut told = false;
        wait_until(PATIENCE, "the receipt", || {
            told = self
                .ground
                .receipts("going")
                .is_ok_and(|all| !all.is_empty());
            told
        })?;
        // Whatever else was to come of it.
        self.pause(span * 2)?;
        daemon.kill()
    }

    fn judge(&mut self, number: u64, played: &Result<()>) -> Result<Trial> {
        let receipts = self.ground.receipts("going")?;
        let others = self.ground.receipts("standing")?;
        let asked = self.going.count("TERM");
        let starts = self.going.starts().len();
        let stopped = receipts
            .iter()
            .all(|receipt| receipt["outcome"] == "stopped");
        let over = !self.going.starts().iter().any(|pid| self.going.runs(*pid));
        let lost = played.is_err() || receipts.is_empty() || asked == 0 || !over || !stopped;
        let doubled = receipts.len() > 1 || asked > 1 || starts > 1;
        let untouched = self.standing.notes().len() == 1
            && self
                .standing
                .starts()
                .iter()
                .all(|pid| self.standing.runs(*pid));
        let mistaken = !untouched || !others.is_empty();
        let told = if lost || doubled || mistaken {
            let notes = (self.going.notes(), self.standing.notes());
            let logs = (1..=self.processes).map(|number| {
                let name = format!("stepdown-{number}");
                format!("--- {name}\n{}", self.ground.place().log(&name))
            });
            let logs: Vec<String> = logs.collect();
            format!(
                "{played:?} {notes:?} {receipts:?} {others:?}\n{}",
                logs.join("\n")
            )
        } else {
            String::new()
        };
        Ok(Trial {
            number,
            kills: self.kills,
            lost,
            doubled,
            mistaken,
            told,
            ..Trial::default()
        })
    }
}

fn drain(rng: &mut Rng) -> String {
    format!("drain={:.2}", rng.f64() * 0.6)
}

fn jobs(place: &Place) -> String {
    let job = |name: &str| place.pid_file_job(name, "", RESEND_AFTER);
    [job("going"), job("standing")].concat()
}

/// The record of a count, in the cache: one line for each trial.
pub(crate) struct Record<T> {
    path: PathBuf,
    file: Mutex<File>,
    pub(crate) done: Vec<T>,
}

impl<T: Serialize + DeserializeOwned> Record<T> {
    /// What earlier runs did, to be added to.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let dir = cache_dir().join("soak");
        fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{name}.jsonl"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        // The last line of a run that was killed may be half of one.
        let lines = text
            .lines()
            .map_while(|line| serde_json::from_str(line).ok());
        let done: Vec<T> = lines.collect();
        let whole: String = text.split_inclusive('\n').take(done.len()).collect();
        fs::write(&path, whole)?;
        let file = File::options().append(true).open(&path)?;
        Ok(Self {
            path,
            file: Mutex::new(file),
            done,
        })
    }

    pub(crate) fn add(&self, trial: &T) -> Result<()> {
        let mut file = self.file.lock().unwrap();
        writeln!(file, "{}", serde_json::to_string(trial)?)?;
        Ok(file.flush()?)
    }

    /// Puts it aside: the next run begins anew.
    pub(crate) fn close(self) -> Result<()> {
        Ok(fs::rename(
            &self.path,
            self.path.with_extension("last.jsonl"),
        )?)
    }
}

/// Does what of `count` trials is not done yet, some at once, and writes the row.
fn soak(
    name: &str,
    what: &str,
    count: u64,
    at_once: usize,
    trial: impl Fn(u64) -> Result<Trial> + Sync,
) -> Result<()> {
    let count = match std::env::var(STOPS) {
        Ok(text) => text.parse().context(STOPS)?,
        Err(_) => count,
    };
    let record: Record<Trial> = Record::open(name)?;
    let began = Instant::now();
    let session = u64::try_from(jiff::Timestamp::now().as_second())?;
    let next = AtomicU64::new(0);
    let done: Vec<u64> = record.done.iter().map(|trial| trial.number).collect();
    println!("{what}: {} of {count} are done", done.len());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return Ok(());
                        }
                        if done.contains(&number) {
                            continue;
                        }
                        let mut found = trial(number).with_context(|| format!("stop {number}"))?;
                        found.session = session;
                        found.session_seconds = began.elapsed().as_secs();
                        record.add(&found)?;
                        if number % 25 == 24 || !found.told.is_empty() {
                            println!("{} {found:?}", jiff::Timestamp::now());
                        }
                    }
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap())
    })?;
    let all = Record::<Trial>::open(name)?.done;
    let of = |is: fn(&Trial) -> bool| all.iter().filter(|trial| is(trial)).count();
    let (lost, doubled, mistaken) = (
        of(|trial| trial.lost),
        of(|trial| trial.doubled),
        of(|trial| trial.mistaken),
    );
    let kills: u64 = all.iter().map(|trial| trial.kills).sum();
    let row = format!(
        "| {} | {what} | {} | {} | {} | {kills} | {lost} | {doubled} | {mistaken} | {} |\n",
        jiff::Zoned::now().date(),
        machine(),
        build(),
        all.len(),
        seconds(&all),
    );
    print!("{row}");
    add_row(&row, "<!-- end of stops -->")?;
    record.close()?;
    ensure!(lost + doubled + mistaken == 0, "{row}");
    Ok(())
}

/// How long all sessions took together.
fn seconds(all: &[Trial]) -> u64 {
    let mut sessions: Vec<u64> = all.iter().map(|trial| trial.session).collect();
    sessions.sort_unstable();
    sessions.dedup();
    let of = |session: &u64| {
        let own = all.iter().filter(|trial| trial.session == *session);
        own.map(|trial| trial.session_seconds).max().unwrap_or(0)
    };
    sessions.iter().map(of).sum()
}

/// How the tests and what they start were built.
pub(crate) fn build() -> &'static str {
    if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    }
}

/// What this machine is like.
pub(crate) fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0);
    format!("{cores} cores, {} GB", (kilobytes + (1 << 19)) >> 20)
}

/// Puts the row at the end of the page's table, which is marked by `end`.
pub(crate) fn add_row(row: &str, end: &str) -> Result<()> {
    static PAGE: Mutex<()> = Mutex::new(());
    let _turn = PAGE.lock().unwrap();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/soak.md");
    let page = fs::read_to_string(&file).context("docs/soak.md")?;
    ensure!(page.contains(end), "docs/soak.md has no {end}");
    fs::write(file, page.replace(end, &format!("{row}{end}")))?;
    Ok(())
}

/// How many turns a measurement has; `STEPDOWN_SOAK_TURNS` says another number.
pub(crate) fn turns(own: usize) -> Result<usize> {
    let said = std::env::var("STEPDOWN_SOAK_TURNS");
    said.map_or(Ok(own), |text| Ok(text.parse()?))
}

/// Puts what was measured in the place of the block `name` of `docs/benchmarks.md`, and below it when, with
/// what and on what machine that was.
pub(crate) fn write_block(name: &str, text: &str) -> Result<()> {
    let begin = format!("<!-- measured: {name} -->\n");
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let foot = format!(
        "\n{}; stepdown {} ({} build); {}; load average {} at the end.\n",
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        env!("CARGO_PKG_VERSION"),
        build(),
        machine(),
        load.split(' ').next().unwrap_or_default(),
    );
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let old = fs::read_to_string(&page)?;
    let block = old.split_once(&begin);
    let (before, rest) = block.with_context(|| format!("the page has no block {name}"))?;
    let (_, after) = rest.split_once("<!-- end -->").context("no end")?;
    let new = format!("{before}{begin}{text}{foot}<!-- end -->{after}");
    fs::write(page, new).context("docs/benchmarks.md")
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_stops_on_local_disk() -> Result<()> {
    let what = "local disk, `watch` and `run` in turn";
    soak("stops-on-local-disk", what, 1000, 4, |number| {
        let place = Place::new("soak")?;
        let keys = "lease-ttl = \"1s\"\nalarm-after = \"1m\"";
        place.configure_with(keys, &jobs(&place))?;
        let keeper = if number % 2 == 0 {
            Keeper::Watch
        } else {
            Keeper::Run
        };
        let mut scene = Scene::set(&place, Rng::with_seed(number), keeper)?;
        let played = scene.play(Duration::from_millis(350));
        scene.judge(number, &played)
    })
}

#[test]
#[ignore = "a long count: `make soak`"]
fn soak_stops_on_hdfs() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let what = "HDFS, `watch` and `run` in turn";
    soak("stops-on-hdfs", what, 300, 3, |number| {
        let remote = Remote::on(hdfs, "soak")?;
        let keys = "lease-ttl = \"2s\"\nalarm-after = \"1m\"";
        remote.configure_with(&format!("{WATCH}\n{keys}"), &jobs(&remote))?;
        let keeper = if number % 2 == 0 {
            Keeper::Watch
        } else {
            Keeper::Run
        };
        let mut scene = Scene::set(&remote, Rng::with_seed(number), keeper)?;
        let played = scene.play(Duration::from_millis(1500));
        scene.judge(number, &played)
    })
}
