//! Slots in which nothing happens rest: without an engine, and as safe as with one. Many slots of one
//! directory over a storage in memory, as `watch` runs them, with jobs that are known by their status
//! files alone.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use stepdown::control::{ControlDir, load};
use stepdown::daemon::Daemon;
use stepdown::daemon::hooks::Hooks;
use stepdown::daemon::poller::PollPolicy;
use stepdown::daemon::slot::SlotSpec;
use stepdown::daemon::watch::{Changes, Fingerprint, PlannedSlot, SlotSource, Watcher};
use stepdown::marker::{MarkerPolicy, Trigger};
use stepdown::model::{AttemptId, JobName, Slot};
use stepdown::stop::decide::{Escalate, Outcome, StopPolicy};
use stepdown::stop::driver::DriverBackend;
use stepdown::stop::receipt::Receipt;
use stepdown::stop::status::{Phase, StatusBoard, StatusFile, save_status};
use stepdown::storage::faulty::{Fault, FaultScript, Faulty, Operation, When};
use stepdown::storage::memory::MemoryStorage;
use stepdown::storage::timeout::WithTimeout;
use stepdown::storage::{ErrorKind, Storage, StorageError, StoragePath};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::subscriber::DefaultGuard;

use crate::engines::{CALL_TIMEOUT, LEASE_TTL, Log, pass, path, until};

const INTERVAL: Duration = Duration::from_secs(5);

/// Longer than it takes a test to see that a marker was missed once.
const SPACING: Duration = Duration::from_secs(1);

/// The first ones run, the others wait for somebody to start them.
const RUNNING: usize = 20;
const JOBS: usize = 30;

/// What the watchers of one test have in common.
struct Stage {
    memory: MemoryStorage,
    control: ControlDir,
    log: Log,
    _logging: DefaultGuard,
}

fn job(index: usize) -> JobName {
    format!("job{index:02}").parse().expect("a job name")
}

fn attempt(index: usize, run: u32) -> AttemptId {
    AttemptId::Named {
        name: format!("application_{index}_{run}"),
    }
}

impl Stage {
    /// A control directory with the markers of all jobs; the first ones run.
    async fn new() -> Self {
        Self::over(MemoryStorage::new("m")).await
    }

    async fn over(memory: MemoryStorage) -> Self {
        let (log, logging) = Log::begin();
        memory.set_clock(Timestamp::now());
        memory.run_clock_with_tokio();
        let control = ControlDir::new(Arc::new(memory.clone()), path("/c"));
        control.ensure().await.expect("a control directory");
        let stage = Self {
            memory,
            control,
            log,
            _logging: logging,
        };
        for index in 0..JOBS {
            stage.touch(index);
        }
        for index in 0..RUNNING {
            stage.says(index, 1, Phase::Running).await;
        }
        stage
    }

    fn touch(&self, index: usize) {
        let marker = self.control.marker(&job(index), Slot::Blue);
        self.memory.put(&marker, "").expect("the marker");
    }

    fn remove(&self, index: usize) {
        let marker = self.control.marker(&job(index), Slot::Blue);
        self.memory.remove(&marker).expect("the marker");
    }

    /// Writes the status of a job, as its driver does.
    async fn says(&self, index: usize, run: u32, phase: Phase) {
        let status = StatusFile {
            job: job(index),
            slot: Slot::Blue,
            attempt: attempt(index, run),
            run_id: None,
            phase,
            marker: None,
            exit: None,
            kit: None,
            written_at: Timestamp::now(),
        };
        save_status(&self.control, &status).await.expect("a status");
    }

    fn has(&self, path: &StoragePath) -> bool {
        self.memory.paths().contains(path)
    }

    fn is_armed(&self, index: usize, run: u32) -> bool {
        let stop_id = attempt(index, run).stop_id(Slot::Blue);
        self.has(&self.control.armed(&job(index), &stop_id))
    }

    /// Whether the stop of a job is irrevocable.
    fn is_latched(&self, index: usize, run: u32) -> bool {
        let stop_id = attempt(index, run).stop_id(Slot::Blue);
        let step = "latched.json";
        self.has(&self.control.stop_step(&job(index), &stop_id, step))
    }

    /// The receipt of a job's run, as soon as it is there.
    async fn await_receipt(&self, index: usize, run: u32) -> Receipt {
        let stop_id = attempt(index, run).stop_id(Slot::Blue);
        let path = self.control.receipt(&job(index), &stop_id);
        until("the receipt is there", || self.has(&path)).await;
        load(&self.memory, &path).await.expect("a receipt")
    }

    fn count_below(&self, part: &str) -> usize {
        let all = self.memory.paths();
        let names = all.iter().filter(|path| path.as_str().contains(part));
        names
            .filter(|path| path.name().rsplit('.').next() == Some("json"))
            .count()
    }

    /// Starts to watch, as on a host of this name.
    fn watch(&self, host: &str) -> Watch {
        let script = FaultScript::new();
        let faulty = Faulty::new(self.memory.clone(), script.clone());
        let storage: Arc<dyn Storage> = Arc::new(WithTimeout::new(faulty, CALL_TIMEOUT));
        let process = AttemptId::Process {
            host: host.to_owned(),
            boot_id: "a boot".to_owned(),
            pid: 1,
            start_ticks: 1,
        };
        let daemon = Daemon::new(host.to_owned(), "a boot".to_owned(), process);
        let shutdown = CancellationToken::new();
        let mut watch = Watch {
            watcher: Watcher::new(daemon, shutdown.clone()),
            shutdown,
            script,
            storage,
            source: Arc::default(),
            count: 0,
        };
        watch.reload(JOBS);
        watch
    }
}

/// A watcher and its way to the storage.
struct Watch {
    watcher: Watcher,
    shutdown: CancellationToken,
    script: FaultScript,
    storage: Arc<dyn Storage>,
    source: Arc<Made>,
    count: usize,
}

/// The slots that were made; an engine holds what it was made from for as long as it lives.
#[derive(Debug, Default)]
struct Made(Mutex<Vec<Weak<SlotSpec>>>);

impl Made {
    fn note(&self, spec: &Arc<SlotSpec>) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.push(Arc::downgrade(spec));
    }

    /// How many slots were made so far.
    fn all(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many of them have an engine now.
    fn awake(&self) -> usize {
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().filter(|spec| spec.strong_count() > 0).count()
    }
}

struct Source {
    control: ControlDir,
    storage: Arc<dyn Storage>,
    board: Arc<StatusBoard>,
    count: usize,
    made: Arc<Made>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} jobs", self.count)
    }
}

impl SlotSource for Source {
    fn count(&self) -> usize {
        self.count
    }

    fn plan(&self, at: usize) -> Result<PlannedSlot, StorageError> {
        let job = job(at);
        let marker = self.control.marker(&job, Slot::Blue);
        let spec = Arc::new(SlotSpec {
            slot: Slot::Blue,
            marker: self.control.uri(&marker),
            marker_storage: Arc::clone(&self.storage),
            sentinel_dir: self.control.markers_dir(),
            marker_policy: MarkerPolicy {
                trigger: Trigger::Disappears,
                confirm: 2,
                confirm_spacing: SPACING,
                alarm_after: Duration::from_mins(1),
            },
            stop_policy: StopPolicy {
                drain_deadline: Duration::from_mins(10),
                escalate: Escalate::Never,
                resend_after: Duration::from_mins(1),
                kill_deadline: Duration::from_mins(1),
            },
            lease_ttl: LEASE_TTL,
            max_clock_skew: Duration::from_mins(1),
            drain_interval: Duration::from_millis(500),
            attempt_interval: INTERVAL,
            checkpoints: Vec::new(),
            boundary: None,
            copy_orders: None,
            hooks: Hooks::none(job.clone(), Slot::Blue),
            job: job.clone(),
        });
        self.made.note(&spec);
        Ok(PlannedSlot {
            spec,
            control: self.control.clone(),
            backend: Arc::new(DriverBackend::new(
                Arc::clone(&self.board),
                job.clone(),
                Slot::Blue,
                Duration::from_mins(2),
            )),
            fingerprint: Fingerprint::of(format_args!("{job}")),
        })
    }
}

impl Watch {
    /// Has the first `count` jobs watched from now on.
    fn reload(&mut self, count: usize) -> Changes {
        let control = ControlDir::new(Arc::clone(&self.storage), path("/c"));
        let before = std::mem::take(&mut self.source);
        self.count = count;
        let source: Arc<dyn SlotSource> = Arc::new(Source {
            board: Arc::new(StatusBoard::new(control.clone(), INTERVAL / 2)),
            control,
            storage: Arc::clone(&self.storage),
            count,
            made: Arc::clone(&self.source),
        });
        let policy = PollPolicy {
            interval: INTERVAL,
            jitter: 0.0,
        };
        let changes = self.watcher.apply(&source, policy).expect("slots");
        if changes.kept > 0 {
            self.source = before;
        }
        changes
    }

    async fn await_rest(&self) {
        // Once to learn of its marker, once for its first engine.
        let looked = 2 * self.count;
        until("all rest", || {
            self.source.all() >= looked && self.source.awake() == 0
        })
        .await;
    }

    /// Ends as `kill -9` does: nothing that it does from now on reaches the storage.
    async fn crash(self) {
        self.script
            .inject(When::always(), Fault::Refuse(ErrorKind::Unreachable));
        self.end().await;
    }

    async fn end(self) {
        self.shutdown.cancel();
        assert!(self.watcher.join(Duration::from_hours(1)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_for_those_that_rest() {
    let stage = Stage::new().await;
    let watch = stage.watch("one");
    watch.await_rest().await;
    for index in 0..JOBS {
        assert_eq!(stage.is_armed(index, 1), index < RUNNING, "{index}");
    }
    let made = watch.source.all();
    watch.script.reset_counts();
    pass(INTERVAL * 100).await;
    assert_eq!(watch.source.all(), made, "somebody was woken for nothing");
    // One listing of the markers and one of the status files a round, and the sentinel now and then.
    let calls = watch.script.all_calls();
    assert!((300..=450).contains(&calls), "{calls} calls");
    assert_eq!(stage.count_below("/stops/"), 0);
    watch.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_marker_that_goes_wakes_its_slot_alone() {
    let stage = Stage::new().await;
    let watch = stage.watch("one");
    watch.await_rest().await;
    for index in [3, 7] {
        let made = watch.source.all();
        let begun = Instant::now();
        stage.remove(index);
        until("the stop is latched", || stage.is_latched(index, 1)).await;
        // A round, the confirmation, and the steps of `until`.
        let taken = begun.elapsed();
        let limit = INTERVAL + SPACING + Duration::from_millis(200);
        assert!(taken <= limit, "{taken:?}");
        assert_eq!(watch.source.awake(), 1);
        stage.says(index, 1, Phase::Ended).await;
        let receipt = stage.await_receipt(index, 1).await;
        assert_eq!(receipt.outcome, Outcome::Stopped);
        watch.await_rest().await;
        // Woken by its marker, and by its new status; not by each of the things that happened then.
        let woken = watch.source.all() - made;
        assert!((1..=3).contains(&woken), "{woken}");
    }
    assert_eq!(stage.count_below("/receipts/"), 2);
    // Nothing runs in the slot any more, and nobody asks about its marker.
    stage.touch(3);
    pass(INTERVAL * 10).await;
    assert_eq!(watch.source.awake(), 0);
    watch.end().await;
}

/// A marker that is back before it was missed twice stops nothing, and the slot rests again.
#[tokio::test(start_paused = true)]
async fn a_marker_that_blinks_stops_nothing() {
    let stage = Stage::new().await;
    let watch = stage.watch("one");
    watch.await_rest().await;
    let made = watch.source.all();
    stage.remove(5);
    until("it was missed", || watch.source.awake() == 1).await;
    stage.touch(5);
    watch.await_rest().await;
    assert!(watch.source.all() > made);
    pass(INTERVAL * 10).await;
    assert_eq!(stage.count_below("/receipts/"), 0);
    assert!(!stage.is_latched(5, 1));
    stage.remove(5);
    until("the stop is latched", || stage.is_latched(5, 1)).await;
    watch.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_changes_wakes_its_slot_alone() {
    let stage = Stage::new().await;
    let watch = stage.watch("one");
    watch.await_rest().await;
    // One that waited is started: its new attempt is armed.
    stage.says(25, 1, Phase::Running).await;
    until("it is armed", || stage.is_armed(25, 1)).await;
    assert!(watch.source.awake() <= 1);
    watch.await_rest().await;
    stage.remove(25);
    until("the stop is latched", || stage.is_latched(25, 1)).await;
    stage.says(25, 1, Phase::Ended).await;
    assert_eq!(stage.await_receipt(25, 1).await.outcome, Outcome::Stopped);
    // One that ran ends by itself.
    stage.says(4, 1, Phase::Ended).await;
    assert_eq!(stage.await_receipt(4, 1).await.outcome, Outcome::Died);
    // One is started anew before anybody saw its end.
    stage.says(6, 2, Phase::Running).await;
    assert_eq!(stage.await_receipt(6, 1).await.outcome, Outcome::Died);
    until("the new one is armed", || stage.is_armed(6, 2)).await;
    watch.await_rest().await;
    // A heartbeat is no news.
    let made = watch.source.all();
    stage.says(8, 1, Phase::Running).await;
    until("it was looked at", || watch.source.all() > made).await;
    watch.await_rest().await;
    assert_eq!(stage.count_below("/receipts/"), 3);
    watch.end().await;
}

#[tokio::test(start_paused = true)]
async fn trouble_of_the_directory_wakes_all_and_stops_none() {
    let stage = Stage::new().await;
    let watch = stage.watch("one");
    watch.await_rest().await;
    let markers = path("/c/markers");
    watch.script.inject(
        When::always().within(&markers),
        Fault::Refuse(ErrorKind::Unreachable),
    );
    until("those that run are awake", || {
        watch.source.awake() == RUNNING
    })
    .await;
    // Removed while nobody can see it.
    stage.remove(2);
    until("all alarms are on", || {
        stage.log.alarms("marker-unknown") == RUNNING
    })
    .await;
    assert_eq!(stage.count_below("/stops/"), 0);
    watch.script.clear();
    until("the stop is latched", || stage.is_latched(2, 1)).await;
    until("the others rest", || watch.source.awake() == 1).await;
    pass(INTERVAL * 10).await;
    assert_eq!(stage.count_below("latched"), 1);
    stage.says(2, 1, Phase::Ended).await;
    stage.await_receipt(2, 1).await;
    watch.end().await;
}

/// Another directory in the place of theirs: its empty places are no absence; markers that stand in it
/// are armed in it.
#[tokio::test(start_paused = true)]
async fn a_replaced_directory_wakes_all_and_stops_none() {
    let stage = Stage::new().await;
    let watch = stage.watch("one");
    watch.await_rest().await;
    let markers = path("/c/markers");
    stage.memory.remove(&markers).expect("removed");
    stage.memory.create_dir_all(&markers).await.expect("made");
    until("all alarms are on", || {
        stage.log.alarms("marker-unknown") == RUNNING
    })
    .await;
    for index in 0..RUNNING {
        stage.touch(index);
    }
    watch.await_rest().await;
    assert_eq!(stage.count_below("/stops/"), 0);
    // Armed in the new directory: now an absence counts.
    stage.remove(11);
    until("the stop is latched", || stage.is_latched(11, 1)).await;
    assert_eq!(stage.count_below("latched"), 1);
    watch.end().await;
}

#[tokio::test(start_paused = true)]
async fn trouble_of_the_status_files_wakes_all_and_stops_none() {
    let stage = Stage::new().await;
    let watch = stage.watch("one");
    watch.await_rest().await;
    let list = When::on(Operation::List).at(&path("/c/status"));
    watch
        .script
        .inject(list, Fault::Refuse(ErrorKind::Unreachable));
    until("all alarms are on", || {
        stage.log.alarms("attempt-unknown") == JOBS
    })
    .await;
    assert_eq!(watch.source.awake(), JOBS);
    // What is seen of the markers counts all the same.
    stage.remove(9);
    until("the stop is latched", || stage.is_latched(9, 1)).await;
    watch.script.clear();
    until("the others rest", || watch.source.awake() == 1).await;
    stage.says(9, 1, Phase::Ended).await;
    assert_eq!(stage.await_receipt(9, 1).await.outcome, Outcome::Stopped);
    watch.await_rest().await;
    assert_eq!(stage.count_below("/receipts/"), 1);
    watch.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_finds_those_that_rest_as_they_were() {
    let stage = Stage::new().await;
    let mut watch = stage.watch("one");
    watch.await_rest().await;
    assert_eq!(watch.reload(JOBS).kept, 1);
    // Nothing has changed, so the slots that were made first go on resting, and still wake.
    stage.remove(1);
    until("the stop is latched", || stage.is_latched(1, 1)).await;
    stage.says(1, 1, Phase::Ended).await;
    stage.await_receipt(1, 1).await;
    // One job less. A marker goes at the same time.
    assert_eq!(watch.reload(JOBS - 1).restarted, 1);
    stage.remove(2);
    until("the stop is latched", || stage.is_latched(2, 1)).await;
    stage.says(2, 1, Phase::Ended).await;
    stage.await_receipt(2, 1).await;
    watch.await_rest().await;
    stage.remove(3);
    until("the stop is latched", || stage.is_latched(3, 1)).await;
    assert_eq!(stage.count_below("latched"), 3);
    watch.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_happened_after_a_crash_at_rest_is_found_by_the_next() {
    let stage = Stage::new().await;
    let watch = stage.watch("one");
    watch.await_rest().await;
    watch.crash().await;
    // Nobody looks.
    stage.remove(10);
    stage.says(12, 1, Phase::Ended).await;
    stage.says(13, 2, Phase::Running).await;
    pass(Duration::from_hours(1)).await;
    assert_eq!(stage.count_below("/stops/"), 0);
    let watch = stage.watch("two");
    until("the stop is latched", || stage.is_latched(10, 1)).await;
    stage.says(10, 1, Phase::Ended).await;
    assert_eq!(stage.await_receipt(10, 1).await.outcome, Outcome::Stopped);
    assert_eq!(stage.await_receipt(12, 1).await.outcome, Outcome::Died);
    assert_eq!(stage.await_receipt(13, 1).await.outcome, Outcome::Died);
    watch.await_rest().await;
    assert!(stage.is_armed(13, 2));
    assert_eq!(stage.count_below("/receipts/"), 3);
    watch.end().await;
}

/// Two of them watch the same jobs: one acts, the other sees the receipt.
#[tokio::test(start_paused = true)]
async fn of_two_that_rest_one_stops_the_job() {
    let stage = Stage::new().await;
    let (one, two) = (stage.watch("one"), stage.watch("two"));
    one.await_rest().await;
    two.await_rest().await;
    stage.remove(14);
    until("the stop is latched", || stage.is_latched(14, 1)).await;
    stage.says(14, 1, Phase::Ended).await;
    assert_eq!(stage.await_receipt(14, 1).await.outcome, Outcome::Stopped);
    one.await_rest().await;
    two.await_rest().await;
    assert_eq!(stage.count_below("/receipts/"), 1);
    one.end().await;
    two.end().await;
}

/// On a storage without directory identities (HDFS) the sentinel alone vouches.
#[tokio::test(start_paused = true)]
async fn without_its_sentinel_a_directory_lets_nobody_rest() {
    let stage = Stage::over(MemoryStorage::without_identities("m")).await;
    let watch = stage.watch("one");
    watch.await_rest().await;
    // All markers and the sentinel are gone at once: as if the directory were another one.
    stage.memory.remove(&path("/c/markers")).expect("removed");
    let made = stage.memory.create_dir_all(&path("/c/markers")).await;
    made.expect("made");
    until("all alarms are on", || {
        stage.log.alarms("marker-unknown") == RUNNING
    })
    .await;
    assert_eq!(stage.count_below("/stops/"), 0);
    assert_eq!(watch.source.awake(), RUNNING);
    watch.end().await;
}
