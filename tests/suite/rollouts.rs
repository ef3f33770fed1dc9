//! Rollouts of a scripted job on local disk: every strategy, killed before and after every act, steered by
//! operators, with new jobs that fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The deadline of everything that is waited for here.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs what follows as a process that takes itself for another host: the same files, and nothing is known
/// of this host's processes.
pub(crate) const ELSEWHERE: &[&str] = &[
    "unshare",
    "--uts",
    "sh",
    "-c",
    "hostname elsewhere && exec \"$@\"",
    "sh",
];

/// A control directory, a job with two slots, a sink.
pub(crate) struct Stage {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) job_words: Vec<String>,
    pub(crate) extra: String,
    /// How many checkpoints the job has.
    pub(crate) queries: usize,
    strategy: &'static str,
}

impl Stage {
    pub(crate) fn new(strategy: &'static str) -> Stage {
        Self::with(strategy, "")
    }

    pub(crate) fn with(strategy: &'static str, extra: &str) -> Stage {
        let dir = tempfile::Builder::new()
            .prefix("stepdown-rollout-")
            .tempdir()
            .unwrap();
        fs::create_dir(dir.path().join("ck")).unwrap();
        let stage = Stage {
            dir,
            job_words: vec!["--batch".into(), "0.05".into()],
            extra: extra.to_owned(),
            queries: 1,
            strategy,
        };
        stage.configure();
        assert!(stage.stepdown(&["init"]).status.success());
        stage
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The checkpoints of a slot.
    fn checkpoints(&self, slot: &str) -> Vec<String> {
        let of = if self.strategy == "in-place" {
            "one"
        } else {
            slot
        };
        let name = |at| match at {
            0 => of.to_owned(),
            _ => format!("{of}-{at}"),
        };
        let path = |at| self.path("ck").join(name(at)).display().to_string();
        (0..self.queries).map(path).collect()
    }

    /// Writes the configuration; what the job is started with may have changed.
    pub(crate) fn configure(&self) {
        let dir = self.dir.path().display();
        let job = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rollout/job.py");
        let words: Vec<String> = self
            .job_words
            .iter()
            .map(|word| format!("{word:?}"))
            .collect();
        let checkpoint = if self.strategy == "in-place" {
            "in-place"
        } else {
            "copy"
        };
        let strategy = match self.strategy {
            "in-place" | "launcher" => "hand-over",
            other => other,
        };
        // A launcher ends once the job is under way, as `spark-submit` in cluster mode does.
        let (program, start_is) = if self.strategy == "launcher" {
            let script = r#"setsid python3 "$0" "$@" >/dev/null 2>&1 &"#;
            (format!("\"sh\", \"-c\", '{script}'"), "launcher")
        } else {
            ("\"python3\"".to_owned(), "job")
        };
        let checkpoints = |slot: &str| {
            let named = self.checkpoints(slot);
            let quoted: Vec<String> = named.iter().map(|path| format!("{path:?}")).collect();
            quoted.join(", ")
        };
        let text = format!(
            r#"
control = "{dir}/c"
[watch]
interval = "300ms"
drain-interval = "50ms"
attempt-interval = "300ms"
confirm-spacing = "20ms"
lease-ttl = "2s"
call-timeout = "20s"
[jobs.clicks.stop]
backend = "driver"
[jobs.clicks.slots.blue]
checkpoints = [{blue}]
[jobs.clicks.slots.green]
checkpoints = [{green}]
[jobs.clicks.rollout]
strategy = "{strategy}"
checkpoint = "{checkpoint}"
start = [{program}, "{job}", "{dir}/sink", {words}]
start-is = "{start_is}"
start-log = "{dir}/{{slot}}.log"
sync-interval = "300ms"
two-writers = "accept"
gate-commits = 2
{extra}
"#,
            blue = checkpoints("blue"),
            green = checkpoints("green"),
            words = words.join(", "),
            extra = self.extra,
        );
        fs::write(self.path("stepdown.toml"), text).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_below(&[], args)
    }

    /// stepdown, run by `before`.
    pub(crate) fn command_below(&self, before: &[&str], args: &[&str]) -> Command {
        let words: Vec<&str> = [before, &[env!("CARGO_BIN_EXE_stepdown")], args].concat();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env("STEPDOWN_CONFIG", self.path("stepdown.toml"))
            .env_remove("STEPDOWN_CONTROL")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn stepdown(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let log = fs::File::create(self.path("driving.log")).unwrap();
        let both = log.try_clone().unwrap();
        self.command(args).stdout(log).stderr(both).spawn().unwrap()
    }

    /// A rollout to its end, on a stage where nothing runs or an earlier one did.
    pub(crate) fn roll_out(&self, more: &[&str]) -> Output {
        let mut args = vec!["rollout", "start", "clicks"];
        args.extend_from_slice(more);
        self.stepdown(&args)
    }

    pub(crate) fn record(&self) -> Value {
        let output = self.stepdown(&["--json", "rollout", "status", "clicks"]);
        assert!(output.status.success(), "{}", text(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
            panic!(
                "{error}: {text} {}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        report["record"].clone()
    }

    pub(crate) fn outcome(&self) -> String {
        self.record()["outcome"]
            .as_str()
            .unwrap_or("none")
            .to_owned()
    }

    /// The state that the newest entry on disk has; nothing before there is one. Asked often, so without a
    /// process.
    pub(crate) fn state(&self) -> String {
        let newest_of = |dir: PathBuf| {
            let entries = fs::read_dir(dir).ok()?;
            let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
            let number = |path: &PathBuf| {
                let name = path.file_stem()?.to_str()?;
                name.trim_start_matches("r-").parse::<u64>().ok()
            };
            paths
                .filter_map(|path| Some((number(&path)?, path)))
                .max()
                .map(|(_, path)| path)
        };
        newest_of(self.path("c/state/clicks/rollouts"))
            .and_then(newest_of)
            .and_then(|entry| fs::read(entry).ok())
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .and_then(|record| Some(record["state"].as_str()?.to_owned()))
            .unwrap_or_default()
    }

    pub(crate) fn marker(&self, slot: &str) -> PathBuf {
        self.path(&format!("c/markers/clicks.{slot}"))
    }

    /// The slots whose jobs run, by their own words and their processes.
    pub(crate) fn running(&self) -> BTreeSet<String> {
        ["blue", "green"]
            .into_iter()
            .filter(|slot| self.pid(slot).is_some())
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn pid(&self, slot: &str) -> Option<i32> {
        let text = fs::read_to_string(self.path(&format!("c/status/clicks.{slot}.json"))).ok()?;
        let status: Value = serde_json::from_str(&text).ok()?;
        let pid = i32::try_from(status["attempt"]["pid"].as_i64()?).ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let same =
            fields.get(19)?.parse::<i64>().ok()? == status["attempt"]["start_ticks"].as_i64()?;
        (same && fields[0] != "Z").then_some(pid)
    }

    /// All processes of the job with their slots, whether or not a status file tells of them.
    pub(crate) fn jobs(&self) -> Vec<(String, i32)> {
        let is_job = |words: &[String]| {
            let mut words = words.iter();
            words.next().is_some_and(|word| word.ends_with("python3"))
                && words.next().is_some_and(|word| word.ends_with("/job.py"))
        };
        let all = self.processes().into_iter();
        let mut jobs: Vec<_> = all
            .filter(|(_, _, words)| is_job(words))
            .map(|(slot, pid, _)| (slot, pid))
            .collect();
        jobs.sort();
        jobs
    }

    /// Slot, number and words of what was started for a slot: the job, and what becomes it.
    fn processes(&self) -> Vec<(String, i32, Vec<String>)> {
        let control = format!("{}/c", self.dir.path().display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let words_of = |file: &str| -> Vec<String> {
                let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes).into_owned();
                text.split('\0').map(str::to_owned).collect()
            };
            let environ = words_of("environ");
            let variable = |name: &str| {
                let mut all = environ.iter();
                all.find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
            };
            let of = variable("STEPDOWN_CONTROL").unwrap_or_default();
            if of.trim_start_matches("file://") == control {
                let slot = variable("STEPDOWN_SLOT").unwrap_or_default();
                found.push((slot.to_owned(), pid, words_of("cmdline")));
            }
        }
        found
    }

    /// The batches in the sink, by query id, each with how often it was written.
    pub(crate) fn sink(&self) -> BTreeMap<String, BTreeMap<u64, u64>> {
        let mut all: BTreeMap<String, BTreeMap<u64, u64>> = BTreeMap::new();
        for line in fs::read_to_string(self.path("sink"))
            .unwrap_or_default()
            .lines()
        {
            let fields: Vec<&str> = line.split(' ').collect();
            *all.entry(fields[0].to_owned())
                .or_default()
                .entry(fields[1].parse().unwrap())
                .or_default() += 1;
        }
        all
    }

    /// Nobody wrote beside another, and no batch is missing.
    pub(crate) fn check_sink(&self) {
        let violations = fs::read_to_string(self.path("sink.violations")).unwrap_or_default();
        assert!(violations.is_empty(), "{violations}");
        let mut covered = BTreeSet::new();
        for batches in self.sink().values() {
            covered.extend(batches.keys().copied());
        }
        let last = covered.last().copied().unwrap_or(0);
        let missing: Vec<u64> = (0..=last)
            .filter(|batch| !covered.contains(batch))
            .collect();
        assert!(missing.is_empty(), "missing {missing:?} of {last}");
    }

    /// What is wrong with the sink, where its check is not to end the test.
    pub(crate) fn find_fault(&self, check: impl FnOnce(&Self)) -> Result<(), String> {
        let check = std::panic::AssertUnwindSafe(|| check(self));
        std::panic::catch_unwind(check).map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.unwrap_or_else(|| "the sink is not as it should be".to_owned())
        })
    }

    /// As `check_sink`, and every batch of a query id was written once.
    pub(crate) fn check_exactly_once(&self) {
        self.check_sink();
        for (id, batches) in self.sink() {
            let twice: Vec<_> = batches.iter().filter(|(_, times)| **times > 1).collect();
            assert!(twice.is_empty(), "query {id}: {twice:?}");
        }
    }

    /// Starts the job in a slot as an operator does.
    pub(crate) fn start_by_hand(&self, slot: &str) {
        fs::write(self.marker(slot), "").unwrap();
        let dir = self.dir.path().display();
        let log = fs::File::create(self.path(&format!("{slot}.log"))).unwrap();
        let child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rollout/job.py"))
            .arg(self.path("sink"))
            .args(&self.job_words)
            .env("STEPDOWN_JOB", "clicks")
            .env("STEPDOWN_SLOT", slot)
            .env("STEPDOWN_MARKER", self.marker(slot))
            .env("STEPDOWN_CONTROL", format!("{dir}/c"))
            .env("STEPDOWN_CHECKPOINTS", self.checkpoints(slot).join("\n"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        // It is reaped when this process ends; until then a zombie counts as ended.
        std::mem::forget(child);
    }

    pub(crate) fn await_state(&self, wanted: &str) {
        wait_until(&format!("the rollout to be at {wanted}"), || {
            self.state() == wanted
        });
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("driving.log")).unwrap_or_default()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for (_, pid, _) in self.processes() {
            kill(pid);
        }
    }
}

/// Ends a process as nobody can prevent.
pub(crate) fn kill(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[track_caller]
pub(crate) fn assert_ok(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

pub(crate) fn set(slots: &[&str]) -> BTreeSet<String> {
    slots.iter().map(|slot| (*slot).to_owned()).collect()
}

/// Lives through all cases, `at_once` at a time; fails with what all of them say that went wrong.
pub(crate) fn live_through_all<T: Send>(
    cases: Vec<T>,
    at_once: usize,
    live: impl Fn(T) -> Result<(), String> + Sync,
) {
    let count = cases.len();
    let queue = Mutex::new(cases.into_iter());
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some(case) = next else {
                        return;
                    };
                    if let Err(why) = live(case) {
                        wrong.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_hand_over_and_back() {
    let stage = Stage::new("hand-over");
    assert_ok(&stage.roll_out(&["--version", "1"]));
    assert_eq!(stage.running(), set(&["blue"]));
    assert_ok(&stage.roll_out(&["--version", "2"]));
    assert_eq!(stage.running(), set(&["green"]));
    let record = stage.record();
    assert_eq!(record["proof"], "clean");
    assert!(record["gap"]["new_committed_at"].is_string());
    assert_ok(&stage.stepdown(&["rollout", "rollback", "clicks"]));
    assert_eq!(stage.running(), set(&["blue"]));
    let record = stage.record();
    assert_eq!(record["version"], "1");
    assert_eq!(record["old_version"], "2");
    stage.check_exactly_once();
    assert_eq!(stage.sink().len(), 1, "the query id is kept");
}

#[test]
fn the_same_directories_change_hands() {
    let stage = Stage::new("in-place");
    for _ in 0..3 {
        assert_ok(&stage.roll_out(&[]));
    }
    assert_eq!(stage.running(), set(&["blue"]));
    stage.check_exactly_once();
}

#[test]
fn stop_copy_start() {
    let stage = Stage::new("stop-start");
    for _ in 0..3 {
        assert_ok(&stage.roll_out(&[]));
    }
    assert_eq!(stage.running(), set(&["blue"]));
    stage.check_exactly_once();
}

#[test]
fn both_run_for_a_while_in_parallel() {
    let stage = Stage::new("parallel");
    assert_ok(&stage.roll_out(&[]));
    assert_ok(&stage.roll_out(&[]));
    assert_eq!(stage.running(), set(&["green"]));
    stage.check_sink();
    assert_eq!(stage.sink().len(), 2, "the copy has an identity of its own");
    let gap = stage.record()["gap"].clone();
    assert!(
        gap["new_committed_at"].as_str() < gap["old_committed_at"].as_str(),
        "{gap}"
    );
}

#[test]
fn a_version_file_begins_a_rollout_only_when_it_changed() {
    let stage = Stage::new("stop-start");
    let version = stage.path("VERSION");
    fs::write(&version, "1\n").unwrap();
    let file = version.to_str().unwrap();
    assert_ok(&stage.roll_out(&["--if-changed", file]));
    let again = stage.roll_out(&["--if-changed", file]);
    assert_ok(&again);
    assert!(
        text(&again).contains("runs version 1 already"),
        "{}",
        text(&again)
    );
    fs::write(&version, "2\n").unwrap();
    assert_ok(&stage.roll_out(&["--if-changed", file]));
    assert_eq!(stage.record()["version"], "2");
    assert_eq!(stage.running(), set(&["green"]));
    stage.check_exactly_once();
}

/// A new version of a job that does not run goes on from where the old one stopped.
#[test]
fn a_job_that_does_not_run_is_rolled_out_from_its_own_checkpoint() {
    for strategy in ["hand-over", "stop-start", "parallel"] {
        let stage = Stage::new(strategy);
        assert_ok(&stage.roll_out(&["--version", "1"]));
        fs::remove_file(stage.marker("blue")).unwrap();
        wait_until("blue to end", || stage.running().is_empty());
        assert_ok(&stage.roll_out(&["--version", "2"]));
        let record = stage.record();
        assert_eq!(
            (&record["old"], &record["new"]),
            (&"blue".into(), &"green".into())
        );
        assert_eq!(stage.running(), set(&["green"]), "{strategy}");
        stage.check_exactly_once();
    }
}

/// From cron a version is tried once: what was taken back, or stopped on purpose, stays so.
#[test]
fn a_version_that_was_tried_is_not_begun_again_by_its_file() {
    let mut stage = Stage::new("hand-over");
    let version = stage.path("VERSION");
    let says = |text: &str| fs::write(&version, text).unwrap();
    let from_cron = |stage: &Stage| {
        let output = stage.roll_out(&["--if-changed", version.to_str().unwrap()]);
        assert_ok(&output);
        text(&output)
    };
    let is_left_alone = |stage: &Stage, why: &str| {
        let before = (stage.record()["rollout_id"].clone(), stage.running());
        let said = from_cron(stage);
        assert!(
            said.contains("not begun again") && said.contains(why),
            "{said}"
        );
        assert_eq!(
            (stage.record()["rollout_id"].clone(), stage.running()),
            before
        );
    };
    says("1");
    from_cron(&stage);
    says("2");
    from_cron(&stage);

    // Rolled back.
    assert_ok(&stage.stepdown(&["rollout", "rollback", "clicks"]));
    assert_eq!(stage.record()["version"], "1");
    is_left_alone(&stage, "r-3 went back");

    // Its checks fail.
    says("3");
    "gate = [\"sh\", \"-c\", \"exit 3\"]".clone_into(&mut stage.extra);
    stage.configure();
    let output = stage.roll_out(&["--if-changed", version.to_str().unwrap()]);
    assert!(!output.status.success(), "{}", text(&output));
    assert_eq!(stage.record()["outcome"], "aborted");
    is_left_alone(&stage, "aborted");

    // Begun by hand, it is; the operator stops the job in the middle of it.
    stage.extra.clear();
    stage.configure();
    let killed = stage
        .command(&["rollout", "start", "clicks", "--version", "3"])
        .env("STEPDOWN_CRASH_AT", "rollout-entered-held")
        .output()
        .unwrap();
    assert_eq!(killed.status.code(), None, "{}", text(&killed));
    let runs = stage.running();
    let old = if stage.record()["old"] == "blue" {
        "blue"
    } else {
        "green"
    };
    assert!(runs.contains(old), "{runs:?}");
    fs::remove_file(stage.marker(old)).unwrap();
    let output = stage.roll_out(&["--if-changed", version.to_str().unwrap()]);
    assert!(!output.status.success(), "{}", text(&output));
    assert_eq!(stage.record()["outcome"], "stopped-by-operator");
    wait_until("nothing to run", || stage.running().is_empty());
    is_left_alone(&stage, "stopped-by-operator");

    // The file says another one.
    says("4");
    from_cron(&stage);
    assert_eq!(stage.record()["version"], "4");
    assert_eq!(stage.running().len(), 1);
    stage.check_exactly_once();
}

#[test]
fn a_new_job_that_never_starts_is_taken_back() {
    let mut stage = Stage::with("hand-over", "start-deadline = \"3s\"");
    assert_ok(&stage.roll_out(&[]));
    for at in ["start", "held"] {
        stage.job_words = vec!["--batch".into(), "0.05".into(), "--fail".into(), at.into()];
        stage.configure();
        let output = stage.roll_out(&[]);
        assert_eq!(output.status.code(), Some(1), "{at}: {}", text(&output));
        assert_eq!(stage.outcome(), "aborted", "{at}");
        assert_eq!(stage.running(), set(&["blue"]), "{at}");
        assert!(!stage.marker("green").exists(), "{at}");
        assert!(!stage.path("ck/green").exists(), "{at}");
    }
    stage.check_exactly_once();
}

#[test]
fn a_new_job_that_dies_before_it_planned_brings_the_old_one_back() {
    let mut stage = Stage::new("stop-start");
    assert_ok(&stage.roll_out(&[]));
    stage.job_words = vec![
        "--batch".into(),
        "0.05".into(),
        "--fail".into(),
        "start".into(),
    ];
    stage.configure();
    // The old one is started by the same command, which is mended meanwhile.
    let mut driving = stage.spawn(&["rollout", "start", "clicks"]);
    stage.await_state("recover-old");
    let ended = driving.wait().unwrap();
    assert_eq!(ended.code(), Some(3), "{}", stage.log());
    assert_eq!(stage.state(), "needs-human");
    assert_eq!(stage.running(), set(&[]));
    stage.job_words.truncate(2);
    stage.configure();
    let output = stage.stepdown(&["rollout", "abort", "clicks"]);
    assert_eq!(stage.outcome(), "recovered", "{}", text(&output));
    assert_eq!(stage.running(), set(&["blue"]));
    stage.check_exactly_once();
}

#[test]
fn a_new_job_that_dies_with_a_plan_of_its_own_is_no_way_back() {
    let mut stage = Stage::new("hand-over");
    assert_ok(&stage.roll_out(&[]));
    stage.job_words = vec![
        "--batch".into(),
        "0.05".into(),
        "--fail".into(),
        "planned".into(),
    ];
    stage.configure();
    let output = stage.roll_out(&[]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert_eq!(stage.state(), "needs-human");
    // Whatever is asked, the old checkpoint is not gone back to.
    let back = stage.stepdown(&["rollout", "abort", "clicks"]);
    assert_eq!(back.status.code(), Some(3), "{}", text(&back));
    assert_eq!(stage.running(), set(&[]));
    stage.check_exactly_once();
}

#[test]
fn operators_abort_promote_and_hold() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    assert_ok(&stage.roll_out(&[]));
    let mut driving = stage.spawn(&["rollout", "start", "clicks"]);
    stage.await_state("held");
    // A second one says who is at it.
    let second = stage.roll_out(&[]);
    assert_eq!(second.status.code(), Some(4), "{}", text(&second));
    // A request of another rollout is refused and kept.
    fs::write(stage.path("c/requests/clicks.abort.r-77"), "").unwrap();
    wait_until("the refused request", || {
        stage
            .path("c/state/clicks/rollouts/refused.clicks.abort.r-77")
            .exists()
    });
    assert_eq!(stage.state(), "held");
    assert_ok(&stage.stepdown(&["rollout", "abort", "clicks"]));
    assert_eq!(driving.wait().unwrap().code(), Some(1), "{}", stage.log());
    assert_eq!(stage.outcome(), "aborted");
    assert_eq!(stage.running(), set(&["blue"]));

    let mut driving = stage.spawn(&["rollout", "start", "clicks"]);
    stage.await_state("held");
    // `touch` is enough.
    fs::write(stage.path("c/requests/clicks.hold"), "").unwrap();
    wait_until("the hold", || stage.record()["on_hold"] == true);
    fs::write(stage.path("c/requests/clicks.promote"), "").unwrap();
    assert!(driving.wait().unwrap().success(), "{}", stage.log());
    assert_eq!(stage.running(), set(&["green"]));
    stage.check_exactly_once();
}

#[test]
fn an_operator_who_removes_a_marker_is_not_worked_against() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    assert_ok(&stage.roll_out(&[]));
    // The new one's: it is taken back.
    let mut driving = stage.spawn(&["rollout", "start", "clicks"]);
    stage.await_state("held");
    wait_until("the new job to be armed", || armed(&stage, "green"));
    fs::remove_file(stage.marker("green")).unwrap();
    assert_eq!(driving.wait().unwrap().code(), Some(1), "{}", stage.log());
    assert_eq!(stage.outcome(), "aborted");
    assert_eq!(stage.running(), set(&["blue"]));
    // The old one's: the job is stopped, and nothing is started against that.
    let mut driving = stage.spawn(&["rollout", "start", "clicks"]);
    stage.await_state("held");
    fs::remove_file(stage.marker("blue")).unwrap();
    assert_eq!(driving.wait().unwrap().code(), Some(1), "{}", stage.log());
    assert_eq!(stage.outcome(), "stopped-by-operator");
    assert_eq!(stage.running(), set(&[]));
    stage.check_exactly_once();
}

/// Whether the attempt that runs in the slot is on record as seen with its marker.
fn armed(stage: &Stage, slot: &str) -> bool {
    let output = stage.stepdown(&["--json", "status", "clicks"]);
    serde_json::from_slice::<Value>(&output.stdout)
        .ok()
        .is_some_and(|report| {
            report["slots"].as_array().is_some_and(|slots| {
                slots
                    .iter()
                    .any(|of| of["slot"] == slot && of["armed"] == true && of["state"] == "running")
            })
        })
}

#[test]
fn an_old_job_that_dies_in_the_middle_is_taken_over_from() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    assert_ok(&stage.roll_out(&[]));
    let mut driving = stage.spawn(&["rollout", "start", "clicks"]);
    stage.await_state("held");
    let pid = stage
        .pid("blue")
        .and_then(rustix::process::Pid::from_raw)
        .unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert!(driving.wait().unwrap().success(), "{}", stage.log());
    assert_eq!(stage.outcome(), "rolled-out");
    assert_eq!(stage.running(), set(&["green"]));
    // Its last batch may have been written and not committed: then it is written again, under its id.
    stage.check_sink();
}

#[test]
fn a_go_that_was_left_over_starts_nothing() {
    let stage = Stage::with("hand-over", "promote = \"manual\"");
    assert_ok(&stage.roll_out(&[]));
    let mut driving = stage.spawn(&["rollout", "start", "clicks"]);
    stage.await_state("held");
    let go = r#"{"format":1,"kind":"go","write_id":"7b0a1d8e-6a7f-4c11-9a59-6a1f6f0a2b11","rollout_id":"r-1","generation":1,"job":"clicks","slot":"green","checkpoints":[]}"#;
    fs::write(stage.path("c/state/clicks/go.green.json"), go).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(stage.state(), "held");
    assert!(!stage.path("ck/green").exists());
    assert_ok(&stage.stepdown(&["rollout", "promote", "clicks"]));
    assert!(driving.wait().unwrap().success(), "{}", stage.log());
    stage.check_exactly_once();
}

#[test]
fn mistakes_are_told_and_change_nothing() {
    let stage = Stage::new("hand-over");
    for (args, code, said) in [
        (&["rollout", "status", "clicks"][..], 7, "never rolled out"),
        (
            &["rollout", "abort", "clicks"],
            7,
            "no rollout of clicks is under way",
        ),
        (
            &["rollout", "rollback", "clicks"],
            7,
            "nothing to go back to",
        ),
        (&["rollout", "start", "nobody"], 2, "nobody"),
        (
            &["rollout", "start", "clicks", "--strategy", "sideways"],
            2,
            "sideways",
        ),
        (
            &[
                "rollout",
                "start",
                "clicks",
                "--if-changed",
                "/no/such/file",
            ],
            7,
            "/no/such/file",
        ),
        (
            &["rollout", "start", "clicks", "--strategy", "rolling"],
            2,
            "both run",
        ),
    ] {
        let output = stage.stepdown(args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{args:?}: {}",
            text(&output)
        );
        assert!(text(&output).contains(said), "{args:?}: {}", text(&output));
    }
    let dry = stage.roll_out(&["--dry-run"]);
    assert_ok(&dry);
    assert!(
        text(&dry).contains("would roll clicks out"),
        "{}",
        text(&dry)
    );
    assert!(!stage.path("c/state/clicks/rollouts").exists());
}

#[test]
fn rolling_exchanges_the_replica_first() {
    let stage = Stage::new("rolling");
    // Both slots are started as an operator would.
    for slot in ["blue", "green"] {
        stage.start_by_hand(slot);
    }
    wait_until("both to run", || stage.running() == set(&["blue", "green"]));
    let before = (stage.pid("blue"), stage.pid("green"));
    let output = stage.roll_out(&["--version", "2"]);
    assert_ok(&output);
    // Each has a gap of its own.
    let record = stage.record();
    let seconds = |gap: &Value| {
        let at = |name: &str| {
            gap[name]
                .as_str()
                .unwrap()
                .parse::<jiff::Timestamp>()
                .unwrap()
        };
        at("new_committed_at")
            .duration_since(at("old_committed_at"))
            .as_secs_f64()
    };
    let (first, last) = (&record["exchanged"][0], &record["gap"]);
    assert_eq!(first["slot"], "green", "{record:#}");
    assert_eq!(record["new"], "blue", "{record:#}");
    for gap in [&first["gap"], last] {
        assert!(seconds(gap) > 0.0, "{record:#}");
    }
    assert!(
        first["gap"]["new_committed_at"].as_str() < last["old_committed_at"].as_str(),
        "one after the other: {record:#}"
    );
    assert_eq!(
        text(&output).matches("gap of ").count(),
        2,
        "{}",
        text(&output)
    );
    assert_eq!(stage.running(), set(&["blue", "green"]));
    let after = (stage.pid("blue"), stage.pid("green"));
    assert!(
        before.0 != after.0 && before.1 != after.1,
        "{before:?} {after:?}"
    );
    let violations = fs::read_to_string(stage.path("sink.violations")).unwrap_or_default();
    assert!(violations.is_empty(), "{violations}");
}
