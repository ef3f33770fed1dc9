//! Engines of one slot over a storage in memory, as if of several hosts, with a job that is played.
//!
//! Time is tokio's paused clock, so minutes take no time and nothing depends on the machine.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use stepdown::control::{ControlDir, load};
use stepdown::daemon::Daemon;
use stepdown::daemon::hooks::Hooks;
use stepdown::daemon::poller::{PollPolicy, Poller};
use stepdown::daemon::slot::{SlotEngine, SlotSpec};
use stepdown::marker::{DirectoryPoll, MarkerPolicy, Trigger};
use stepdown::model::{AttemptId, Generation, JobName, Slot, StopId};
use stepdown::stop::decide::{Escalate, StopPolicy};
use stepdown::stop::receipt::Receipt;
use stepdown::stop::{Backend, BackendError, Exit, Freshness, Observation, StopOrder, Way};
use stepdown::storage::faulty::{FaultScript, Faulty};
use stepdown::storage::memory::MemoryStorage;
use stepdown::storage::timeout::WithTimeout;
use stepdown::storage::{Storage, StoragePath, StorageUri};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::subscriber::DefaultGuard;

/// Time-out of a storage call.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Time to live of a lease.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(30);
/// When a request of unknown fate is repeated.
pub(crate) const RESEND_AFTER: Duration = Duration::from_mins(1);
/// Longer, on the paused clock, than anything may take.
const EVENTUALLY: Duration = Duration::from_hours(2);
/// How long a drain may take.
pub(crate) const DRAIN_DEADLINE: Duration = Duration::from_mins(10);

/// Something that was done to the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Act {
    /// The host that did it.
    pub(crate) host: String,
    /// Under which generation of the lease.
    pub(crate) generation: Generation,
    /// When.
    pub(crate) at: Instant,
}

/// The job, as all hosts see it.
#[derive(Debug)]
struct Play {
    attempt: Option<AttemptId>,
    over: Option<Exit>,
    /// How long it drains after a request; none: it is deaf.
    drains_for: Option<Duration>,
    /// What the next observations say instead of the truth.
    odd: VecDeque<Observation>,
    /// Every look says that nothing can be told.
    vanished: bool,
    looks: u32,
    requests: Vec<Act>,
    kills: Vec<Act>,
    number: u32,
}

/// A job that the test plays.
#[derive(Debug, Clone)]
pub(crate) struct PlayedJob {
    play: Arc<Mutex<Play>>,
    changed: Arc<Notify>,
}

impl PlayedJob {
    fn new() -> Self {
        Self {
            play: Arc::new(Mutex::new(Play {
                attempt: None,
                over: None,
                drains_for: Some(Duration::from_secs(1)),
                odd: VecDeque::new(),
                vanished: false,
                looks: 0,
                requests: Vec::new(),
                kills: Vec::new(),
                number: 0,
            })),
            changed: Arc::new(Notify::new()),
        }
    }

    fn play(&self) -> MutexGuard<'_, Play> {
        self.play.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new attempt.
    pub(crate) fn start(&self) -> AttemptId {
        let mut play = self.play();
        play.number += 1;
        let attempt = AttemptId::Named {
            name: format!("run_{}", play.number),
        };
        play.attempt = Some(attempt.clone());
        play.over = None;
        drop(play);
        self.changed.notify_waiters();
        attempt
    }

    /// Ends the attempt.
    pub(crate) fn end(&self, code: i32) {
        self.play().over = Some(Exit::Code { code });
        self.changed.notify_waiters();
    }

    /// How long it takes to end after a request; `None`: it does not.
    pub(crate) fn drains_for(&self, time: Option<Duration>) {
        self.play().drains_for = time;
    }

    /// The next looks at the attempt see these, one each.
    pub(crate) fn shows(&self, odd: impl IntoIterator<Item = Observation>) {
        self.play().odd.extend(odd);
        self.changed.notify_waiters();
    }

    /// Whether nothing can be told of it from now on.
    pub(crate) fn vanish(&self, vanished: bool) {
        self.play().vanished = vanished;
    }

    /// How often it was looked at.
    pub(crate) fn looks(&self) -> u32 {
        self.play().looks
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> Vec<Act> {
        self.play().requests.clone()
    }

    /// The kills so far.
    pub(crate) fn kills(&self) -> Vec<Act> {
        self.play().kills.clone()
    }

    /// Whether the attempt runs.
    pub(crate) fn runs(&self) -> bool {
        let play = self.play();
        play.attempt.is_some() && play.over.is_none()
    }
}

/// The job as one host reaches it.
#[derive(Debug)]
struct PlayedBackend {
    host: String,
    job: PlayedJob,
}

impl PlayedBackend {
    fn act(&self, order: &StopOrder) -> Act {
        Act {
            host: self.host.clone(),
            generation: order.generation,
            at: Instant::now(),
        }
    }
}

#[async_trait]
impl Backend for PlayedBackend {
    fn name(&self) -> &'static str {
        "played"
    }

    async fn find_attempt(&self) -> Result<Option<AttemptId>, BackendError> {
        let play = self.job.play();
        Ok(play.attempt.clone().filter(|_| play.over.is_none()))
    }

    fn check_reach(&self, _: &AttemptId) -> Result<(), BackendError> {
        Ok(())
    }

    async fn request_stop(&self, _: &AttemptId, order: &StopOrder) -> Result<(), BackendError> {
        let drains_for = {
            let mut play = self.job.play();
            play.requests.push(self.act(order));
            play.drains_for
        };
        if let Some(time) = drains_for {
            let job = self.job.clone();
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                job.end(0);
            });
        }
        Ok(())
    }

    async fn observe(&self, attempt: &AttemptId, _: Freshness) -> Observation {
        let mut play = self.job.play();
        play.looks += 1;
        if let Some(odd) = play.odd.pop_front() {
            return odd;
        }
        if play.vanished {
            return Observation::Unknown {
                why: "played".to_owned(),
            };
        }
        match (&play.attempt, play.over) {
            (Some(now), exit) if now == attempt => match exit {
                Some(_) => Observation::Stopped { exit },
                None => Observation::Running,
            },
            (Some(now), None) => Observation::Restarted {
                attempt: now.clone(),
            },
            (Some(_) | None, _) => Observation::Stopped { exit: None },
        }
    }

    async fn await_change(&self, _: &AttemptId, at_most: Duration) {
        // A process that is gone stays gone: as for a real one, there is nothing to wait for.
        if !self.job.runs() || self.job.play().vanished {
            return tokio::task::yield_now().await;
        }
        tokio::select! {
            () = self.job.changed.notified() => {}
            () = tokio::time::sleep(at_most) => {}
        }
    }

    async fn await_news(&self, attempt: Option<&AttemptId>, pace: Duration) {
        match attempt {
            Some(attempt) => self.await_change(attempt, pace).await,
            None => tokio::time::sleep(pace).await,
        }
    }

    async fn force(&self, _: &AttemptId, order: &StopOrder) -> Result<(), BackendError> {
        let act = self.act(order);
        self.job.play().kills.push(act);
        self.job.end(137);
        Ok(())
    }

    fn drains_itself(&self) -> bool {
        false
    }

    async fn way(&self, _: &AttemptId, _: Timestamp) -> Way {
        Way::Asked
    }

    async fn has_drained(&self, _: &AttemptId) -> Option<bool> {
        None
    }

    async fn reports_running(&self, _: &AttemptId) -> bool {
        false
    }
}

/// The storage, the job and the log that all hosts of one test share.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The storage, without faults: the operator's view.
    pub(crate) memory: MemoryStorage,
    /// The job.
    pub(crate) job: PlayedJob,
    /// What asks for a stop.
    pub(crate) trigger: Trigger,
    /// What comes after the drain deadline.
    pub(crate) escalate: Escalate,
    log: Log,
    _logging: DefaultGuard,
}

/// What was logged on this thread since it began.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Begins to log, for as long as the guard lives.
    pub(crate) fn begin() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("stepdown=debug")
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let logging = tracing::subscriber::set_default(subscriber);
        (log, logging)
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// How often an alarm of this kind came on.
    pub(crate) fn alarms(&self, kind: &str) -> usize {
        let told = format!("alarm=\"{kind}\"");
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains(&told));
        lines.filter(|line| line.contains("ERROR")).count()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stage {
    /// A control directory, a job that runs, and its marker.
    pub(crate) async fn new() -> Self {
        Self::over(MemoryStorage::new("m")).await
    }

    /// As [`Stage::new`] over an empty storage.
    pub(crate) async fn over(memory: MemoryStorage) -> Self {
        let (log, logging) = Log::begin();
        memory.set_clock(jiff::Timestamp::now());
        memory.run_clock_with_tokio();
        let stage = Self {
            memory,
            job: PlayedJob::new(),
            trigger: Trigger::Disappears,
            escalate: Escalate::Never,
            log,
            _logging: logging,
        };
        let control = control_dir(Arc::new(stage.memory.clone()));
        control.ensure().await.expect("a control directory");
        stage.job.start();
        stage.touch();
        stage
    }

    /// Makes the marker, as an operator does.
    pub(crate) fn touch(&self) {
        self.memory.put(&marker(), "").expect("the marker");
    }

    /// Removes the marker, as an operator does.
    pub(crate) fn remove(&self) {
        self.memory.remove(&marker()).expect("the marker");
    }

    /// All receipts of the job.
    pub(crate) async fn receipts(&self) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        for found in self.paths_in("/c/state/clicks/receipts") {
            assert_eq!(found.as_str().rsplit('.').next(), Some("json"), "{found}");
            receipts.push(load(&self.memory, &found).await.expect("a receipt"));
        }
        receipts
    }

    /// Whether a receipt is there.
    pub(crate) fn has_receipt(&self) -> bool {
        !self.paths_in("/c/state/clicks/receipts").is_empty()
    }

    /// Waits for a receipt.
    ///
    /// # Panics
    /// If none comes; with the log.
    pub(crate) async fn await_receipt(&self, what: &str) {
        let begun = Instant::now();
        while !self.has_receipt() {
            let waited = begun.elapsed();
            assert!(waited < EVENTUALLY, "no receipt: {what}\n{}", self.log());
            pass(Duration::from_millis(50)).await;
        }
    }

    /// All paths below `dir`.
    pub(crate) fn paths_in(&self, dir: &str) -> Vec<StoragePath> {
        let dir = path(dir);
        let all = self.memory.paths();
        all.into_iter().filter(|path| path.is_below(&dir)).collect()
    }

    /// The files of all stops, receipts aside.
    pub(crate) fn steps_of_all(&self) -> Vec<StoragePath> {
        self.paths_in("/c/state/clicks/stops")
    }

    /// The id of the stop of the attempt that runs.
    pub(crate) fn stop_id(&self) -> StopId {
        let attempt = self.job.play().attempt.clone().expect("an attempt");
        attempt.stop_id(Slot::Blue)
    }

    /// All that the engines logged.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// How often an alarm of this kind came on.
    pub(crate) fn alarms(&self, kind: &str) -> usize {
        self.log.alarms(kind)
    }

    /// A host that has not started its engine.
    pub(crate) fn host(&self, name: &str) -> Host {
        self.host_with(name, CALL_TIMEOUT)
    }

    /// A host whose calls have no time-out to speak of: one that is delayed halts all of it.
    pub(crate) fn patient_host(&self, name: &str) -> Host {
        self.host_with(name, Duration::from_hours(24))
    }

    fn host_with(&self, name: &str, call_timeout: Duration) -> Host {
        let script = FaultScript::new();
        let faulty = Faulty::new(self.memory.clone(), script.clone());
        Host {
            name: name.to_owned(),
            process: 1,
            boot: 1,
            script,
            storage: Arc::new(WithTimeout::new(faulty, call_timeout)),
            running: None,
        }
    }

    fn spec(&self, storage: &Arc<dyn Storage>) -> SlotSpec {
        let job: JobName = "clicks".parse().expect("a job name");
        SlotSpec {
            slot: Slot::Blue,
            marker: StorageUri::new(storage.authority().clone(), marker()),
            marker_storage: Arc::clone(storage),
            sentinel_dir: path("/c/markers"),
            marker_policy: MarkerPolicy {
                trigger: self.trigger,
                confirm: 2,
                confirm_spacing: Duration::from_millis(20),
                alarm_after: Duration::from_mins(1),
            },
            stop_policy: StopPolicy {
                drain_deadline: DRAIN_DEADLINE,
                escalate: self.escalate,
                resend_after: RESEND_AFTER,
                kill_deadline: Duration::from_mins(1),
            },
            lease_ttl: LEASE_TTL,
            max_clock_skew: Duration::from_mins(1),
            drain_interval: Duration::from_millis(500),
            attempt_interval: Duration::from_secs(5),
            checkpoints: Vec::new(),
            boundary: None,
            copy_orders: None,
            hooks: Hooks::none(job.clone(), Slot::Blue),
            job,
        }
    }
}

/// Lets the paused clock go on.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Returns as soon as `condition` holds.
///
/// # Panics
/// After two hours of the paused clock, which is longer than anything here may take.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < EVENTUALLY, "waited in vain until {what}");
        pass(Duration::from_millis(50)).await;
    }
}

fn control_dir(storage: Arc<dyn Storage>) -> ControlDir {
    ControlDir::new(storage, path("/c"))
}

/// Where the marker lies.
pub(crate) fn marker() -> StoragePath {
    path("/c/markers/clicks.blue")
}

/// A path of the storage.
pub(crate) fn path(text: &str) -> StoragePath {
    StoragePath::parse(text).expect("a path")
}

/// One host with its way to the storage, and the engine that runs on it.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    process: u32,
    boot: u32,
    /// Faults of this host's way to the storage.
    pub(crate) script: FaultScript,
    storage: Arc<dyn Storage>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    shutdown: CancellationToken,
    engine: JoinHandle<()>,
    poller: JoinHandle<()>,
}

impl Host {
    /// Starts `stepdown` on this host.
    pub(crate) fn start(&mut self, stage: &Stage) {
        assert!(self.running.is_none(), "{} runs already", self.name);
        let boot_id = format!("boot {} of {}", self.boot, self.name);
        let process = AttemptId::Process {
            host: self.name.clone(),
            boot_id: boot_id.clone(),
            pid: self.process,
            start_ticks: 1,
        };
        self.process += 1;
        let daemon = Daemon::new(self.name.clone(), boot_id, process);
        let spec = stage.spec(&self.storage);
        let dir = spec.marker.path.parent().expect("a directory");
        let poll = DirectoryPoll::new(
            Arc::clone(&self.storage),
            dir,
            &spec.sentinel_dir,
            vec![spec.marker.path.name().to_owned()],
            daemon.boot_id.clone(),
        );
        let policy = PollPolicy {
            interval: Duration::from_secs(5),
            jitter: 0.0,
        };
        let (poller, views) = Poller::new(poll, policy, 1);
        let backend = PlayedBackend {
            host: self.name.clone(),
            job: stage.job.clone(),
        };
        let shutdown = CancellationToken::new();
        let engine = SlotEngine::new(
            daemon,
            Arc::new(spec),
            control_dir(Arc::clone(&self.storage)),
            Arc::new(backend),
            views.of(0),
            shutdown.clone(),
        );
        self.running = Some(Running {
            engine: tokio::spawn(engine.run()),
            poller: tokio::spawn(poller.run(shutdown.clone())),
            shutdown,
        });
    }

    /// Ends `stepdown` as `kill -9` does: whatever it waits for, it does not go on.
    pub(crate) async fn crash(&mut self) {
        if let Some(running) = self.running.take() {
            running.engine.abort();
            running.poller.abort();
            let _ended = (running.engine.await, running.poller.await);
        }
    }

    /// Ends `stepdown` as SIGTERM does.
    ///
    /// # Panics
    /// If a task of it panicked.
    pub(crate) async fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown.cancel();
            running.engine.await.expect("the engine");
            running.poller.await.expect("the poller");
        }
    }

    /// From the next start on the host has another boot id.
    pub(crate) fn reboot(&mut self) {
        self.boot += 1;
    }

    /// Whether its engine has ended by itself, which it never should.
    pub(crate) fn has_failed(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|running| running.engine.is_finished())
    }
}
