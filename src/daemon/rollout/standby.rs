//! Begins the rollouts that request files ask for, and goes on with those that nobody drives.
//!
//! Requests are listed every `interval`, for all jobs at once. Jobs are looked at one after the other for
//! a rollout that is not over, a few in a second however many there are. Each job with something to do
//! has a task of its own, which waits for the right to drive and has it until the rollout is over.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{RolloutError, RolloutPlan, Seat, Wanted};
use crate::control::{ControlDir, LeaseWatch};
use crate::daemon::Daemon;
use crate::daemon::crash_point::crash_point;
use crate::marker::poll::error_chain;
use crate::model::JobName;
use crate::rollout::engine::Ending;
use crate::rollout::journal::{Journal, Standing, load_last_rolled_out, look_for_unfinished};
use crate::rollout::record::{Direction, Record, RolloutId};
use crate::rollout::request::{
    Named, Request, Verb, drop_request, list_files, list_requests, load_version, read_name,
    refuse_request, requests_among,
};
use crate::rollout::state::Outcome;
use crate::storage::{FileStat, StorageError, StoragePath};

/// How soon a request is looked at again that may still be written.
const SETTLE: Duration = Duration::from_millis(300);

/// Least time between two looks at jobs for rollouts that are not over, on average.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Pause between two looks at what a job's rollouts have moved aside.
const KEEP_PAUSE: Duration = Duration::from_hours(1);

/// Where plans come from: one is made when there is something to do.
pub trait RolloutSource: fmt::Debug + Send + Sync {
    /// The control directory.
    fn control(&self) -> &ControlDir;

    /// The jobs whose rollouts are configured.
    fn rollout_jobs(&self) -> Vec<JobName>;

    /// The plan of one of them.
    ///
    /// # Errors
    /// Where a storage cannot be set up.
    fn rollout_plan(&self, job: &JobName) -> Result<RolloutPlan, StorageError>;

    /// How long what the rollouts of a job move aside is kept, if that is said.
    fn keep(&self, job: &JobName) -> Option<Duration>;

    /// Pause between two looks at the requests.
    fn interval(&self) -> Duration;

    /// How long a lease holds without a beat.
    fn lease_ttl(&self) -> Duration;
}

/// The part of a watch that drives rollouts.
#[derive(Debug)]
pub struct Standby {
    sources: watch::Sender<Option<Arc<dyn RolloutSource>>>,
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Standby {
    /// One that stands by for no job yet.
    pub fn new(daemon: Daemon, shutdown: CancellationToken) -> Self {
        let (sources, receiver) = watch::channel(None);
        let round = Rounds {
            daemon,
            shutdown: shutdown.clone(),
            sources: receiver,
            jobs: BTreeSet::new(),
            attended: BTreeMap::new(),
            tasks: JoinSet::new(),
            seen: HashMap::new(),
            to_look: VecDeque::new(),
            next_sweep: Instant::now(),
            over: HashMap::new(),
            kept: HashMap::new(),
            keeping: None,
            silent: false,
        };
        Self {
            sources,
            task: tokio::spawn(round.run()),
            shutdown,
        }
    }

    /// Stands by for the jobs of `source` from now on. A rollout that is under way keeps the plan that it
    /// has in this process.
    pub fn apply(&self, source: Arc<dyn RolloutSource>) {
        self.sources.send_replace(Some(source));
    }

    /// Whether it has ended although nobody asked for it: a fault of stepdown.
    pub fn is_broken(&self) -> bool {
        self.task.is_finished() && !self.shutdown.is_cancelled()
    }

    /// Waits until all rollouts have come to a safe point, at most `patience`. Call it after the shutdown
    /// token was cancelled. False if some had not.
    pub async fn join(self, patience: Duration) -> bool {
        tokio::time::timeout(patience, self.task).await.is_ok()
    }
}

/// The loop over all jobs.
#[derive(Debug)]
struct Rounds {
    daemon: Daemon,
    shutdown: CancellationToken,
    sources: watch::Receiver<Option<Arc<dyn RolloutSource>>>,
    jobs: BTreeSet<JobName>,
    /// Jobs that have a task.
    attended: BTreeMap<tokio::task::Id, JobName>,
    tasks: JoinSet<()>,
    /// Files whose text counts, as the look before saw them.
    seen: HashMap<StoragePath, Written>,
    /// Jobs that are still to be looked at in this sweep.
    to_look: VecDeque<JobName>,
    next_sweep: Instant,
    /// The newest rollout of a job, where that is over.
    over: HashMap<JobName, RolloutId>,
    /// When what the job's rollouts have moved aside was looked at.
    kept: HashMap<JobName, Instant>,
    /// Removes it; one job at a time.
    keeping: Option<JoinHandle<()>>,
    /// Whether it was said that the requests cannot be read.
    silent: bool,
}

type Written = (u64, jiff::Timestamp);

impl Rounds {
    async fn run(mut self) {
        loop {
            let source = self.sources.borrow_and_update().clone();
            self.jobs = source
                .as_ref()
                .map(|source| source.rollout_jobs().into_iter().collect())
                .unwrap_or_default();
            self.to_look.clear();
            self.next_sweep = Instant::now();
            match source {
                Some(source) if !self.jobs.is_empty() => self.rounds(&source).await,
                Some(_) | None => self.until_changed().await,
            }
            if self.shutdown.is_cancelled() {
                break;
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    async fn until_changed(&mut self) {
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            changed = self.sources.changed() => {
                if changed.is_err() {
                    // Its handle is gone: nothing new comes.
                    self.shutdown.cancelled().await;
                }
            }
        }
    }

    /// Round after round, until the source changes or the shutdown.
    async fn rounds(&mut self, source: &Arc<dyn RolloutSource>) {
        loop {
            let pause = self.round(source).await;
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                changed = self.sources.changed() => {
                    if changed.is_ok() {
                        return;
                    }
                    self.shutdown.cancelled().await;
                    return;
                }
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        // A panic was told by the panic hook; the next round begins anew.
                        Err(error) => error.id(),
                    };
                    self.attended.remove(&id);
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look at all requests, and at some jobs. Says how long to wait before the next.
    async fn round(&mut self, source: &Arc<dyn RolloutSource>) -> Duration {
        let control = source.control();
        let files = match list_files(control).await {
            Ok(files) => files,
            Err(error) => {
                if !std::mem::replace(&mut self.silent, true) {
                    tracing::warn!("the requests cannot be read: {}", error_chain(&error));
                }
                return source.interval();
            }
        };
        self.silent = false;
        let mut of_jobs: BTreeMap<JobName, Vec<FileStat>> = BTreeMap::new();
        let mut seen = HashMap::new();
        for file in files {
            let job = file.path.name().split('.').next();
            let job = job.and_then(|job| job.parse::<JobName>().ok());
            if let Some(job) = job.filter(|job| self.jobs.contains(job)) {
                seen.insert(file.path.clone(), (file.len_bytes, file.modified_at));
                of_jobs.entry(job).or_default().push(file);
            }
        }
        let before = std::mem::replace(&mut self.seen, seen);
        let mut unsettled = false;
        for (job, files) in of_jobs {
            let is_settled =
                |path: &StoragePath, written: &Written| before.get(path) == Some(written);
            for file in &files {
                let Named::Malformed { why } = read_name(file.path.name(), &job) else {
                    continue;
                };
                if !is_settled(&file.path, &(file.len_bytes, file.modified_at)) {
                    unsettled = true;
                } else if let Err(error) = refuse_request(control, &job, &file.path, &why).await {
                    tracing::warn!("a request is not refused yet: {}", error_chain(&error));
                }
            }
            if self.attended.values().any(|attended| *attended == job) {
                // Its engine takes the requests.
                continue;
            }
            let requests = requests_among(&files, &job);
            // Its text is the version: it must be there in full. All are taken together: abort wins.
            if requests.iter().any(|request| {
                request.verb == Verb::Start && !is_settled(&request.path, &request.written)
            }) {
                unsettled = true;
            } else if !requests.is_empty() {
                self.attend(source, job, requests);
            }
        }
        self.sweep(source).await;
        if unsettled {
            SETTLE.min(source.interval())
        } else {
            source.interval()
        }
    }

    /// Looks at some more jobs for a rollout that is not over.
    async fn sweep(&mut self, source: &Arc<dyn RolloutSource>) {
        if self.to_look.is_empty() && self.next_sweep <= Instant::now() {
            self.to_look = self.jobs.iter().cloned().collect();
            self.next_sweep = Instant::now() + source.lease_ttl();
        }
        let looks = source.interval().as_millis() / LOOK_PAUSE.as_millis();
        for _ in 0..looks.max(1) {
            let Some(job) = self.to_look.pop_front() else {
                return;
            };
            if self.attended.values().any(|attended| *attended == job) {
                continue;
            }
            let over = self.over.get(&job).copied();
            match look_for_unfinished(source.control(), &job, over).await {
                Ok(Standing::Over(id)) => {
                    self.keep(source, &job);
                    self.over.insert(job, id);
                }
                Ok(Standing::None) => {}
                Ok(Standing::UnderWay(_)) => self.attend(source, job, Vec::new()),
                Err(error) => {
                    tracing::warn!(%job, "its rollouts cannot be read: {}", error_chain(&error));
                    return;
                }
            }
        }
    }

    /// Has old checkpoints removed, if the job says how long they are kept.
    fn keep(&mut self, source: &Arc<dyn RolloutSource>, job: &JobName) {
        let Some(keep) = source.keep(job) else {
            return;
        };
        let is_due = |at: &Instant| at.elapsed() >= KEEP_PAUSE.min(keep);
        let is_busy = |task: &JoinHandle<()>| !task.is_finished();
        if !self.kept.get(job).is_none_or(is_due) || self.keeping.as_ref().is_some_and(is_busy) {
            return;
        }
        self.kept.insert(job.clone(), Instant::now());
        let plan = match source.rollout_plan(job) {
            Ok(plan) => plan,
            Err(error) => {
                tracing::warn!(%job, "nothing is removed: {}", error_chain(&error));
                return;
            }
        };
        let shutdown = self.shutdown.clone();
        self.keeping = Some(tokio::spawn(async move {
            let removing = plan.remove_old_replaced(keep);
            let removed = tokio::select! {
                () = shutdown.cancelled() => return,
                removed = removing => removed,
            };
            if let Err(error) = removed {
                tracing::warn!(job = %plan.job, "not all that is old was removed: {}", error_chain(&error));
            }
        }));
    }

    fn attend(&mut self, source: &Arc<dyn RolloutSource>, job: JobName, ripe: Vec<Request>) {
        let mut plan = match source.rollout_plan(&job) {
            Ok(plan) => plan,
            Err(error) => {
                tracing::error!(%job, "its rollout cannot be driven: {}", error_chain(&error));
                return;
            }
        };
        // It waits for the request of the one who has looked.
        plan.leave_at_needs_human = false;
        let attendance = Attendance {
            daemon: self.daemon.clone(),
            plan,
            ripe,
            interval: source.interval(),
            since: Instant::now(),
            shutdown: self.shutdown.clone(),
        };
        let task = self.tasks.spawn(attendance.run());
        self.attended.insert(task.id(), job);
    }
}

/// One job with something to do.
#[derive(Debug)]
struct Attendance {
    daemon: Daemon,
    plan: RolloutPlan,
    /// The requests that are to be met.
    ripe: Vec<Request>,
    interval: Duration,
    since: Instant,
    shutdown: CancellationToken,
}

/// What one try came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// There is nothing more to do here.
    Over,
    /// Another process drives it; if that one goes, this one goes on.
    StandBy,
}

impl Attendance {
    async fn run(self) {
        let mut watch = LeaseWatch::default();
        let mut told = String::new();
        while !self.shutdown.is_cancelled() {
            match self.try_once(&mut watch).await {
                Ok(Tried::Over) => return,
                Ok(Tried::StandBy) => {}
                Err(error) => {
                    let text = error_chain(&error);
                    if text != told {
                        tracing::warn!(job = %self.plan.job, "the rollout is tried again: {text}");
                        told = text;
                    }
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = tokio::time::sleep(self.interval) => {}
            }
        }
    }

    async fn try_once(&self, watch: &mut LeaseWatch) -> Result<Tried, RolloutError> {
        let (control, job) = (&self.plan.control, &self.plan.job);
        let standing = look_for_unfinished(control, job, None).await?;
        if !matches!(standing, Standing::UnderWay(_)) && self.asked().await?.is_empty() {
            return Ok(Tried::Over);
        }
        let mut seat = match self.plan.take_seat(&self.daemon, watch).await {
            Ok(seat) => seat,
            Err(RolloutError::Held { holder, .. }) => {
                tracing::debug!(%job, "its rollouts are driven by {holder}");
                return Ok(Tried::StandBy);
            }
            Err(error) => return Err(error),
        };
        // From here on nobody else begins or ends one.
        let found = match self.plan.find_unfinished().await {
            Ok(Some((journal, record))) => {
                tracing::info!(%job, rollout = %record.rollout_id, state = %record.state, "goes on with a rollout");
                Ok(Some((journal, record)))
            }
            Ok(None) => self.begin(&mut seat).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(Some(begun)) => self.drive(seat, begun).await,
            Ok(None) => {
                self.plan.leave(seat).await;
                Ok(Tried::Over)
            }
            Err(error) => {
                self.plan.leave(seat).await;
                Err(error)
            }
        }
    }

    /// The requests that are still there as they were.
    async fn asked(&self) -> Result<Vec<Request>, RolloutError> {
        if self.ripe.is_empty() {
            return Ok(Vec::new());
        }
        let mut requests = list_requests(&self.plan.control, &self.plan.job).await?;
        requests.retain(|request| self.ripe.contains(request));
        Ok(requests)
    }

    /// Begins what is asked for, where nothing is under way, and refuses the rest.
    async fn begin(&self, seat: &mut Seat) -> Result<Option<(Journal, Record)>, RolloutError> {
        let requests = self.asked().await?;
        let is_taken_back = requests
            .iter()
            .any(|request| request.verb == Verb::Abort && request.rollout_id.is_none());
        let mut begun = None;
        // The one that wins comes last.
        for request in requests.into_iter().rev() {
            let wanted = match (request.verb, request.rollout_id) {
                (Verb::Promote | Verb::Hold | Verb::Abort, Some(id)) => {
                    Err(format!("rollout {id} is not under way"))
                }
                (Verb::Promote | Verb::Hold | Verb::Abort, None) => {
                    Err("no rollout is under way".to_owned())
                }
                (Verb::Start | Verb::Rollback, _) if is_taken_back => {
                    Err("an abort was asked for at the same time".to_owned())
                }
                (Verb::Start | Verb::Rollback, _) if begun.is_some() => {
                    Err("a rollback was asked for at the same time".to_owned())
                }
                (Verb::Start, _) => self.wanted_by(&request).await?,
                (Verb::Rollback, _) => self.wanted_back().await?,
            };
            let wanted = match wanted {
                Ok(wanted) => wanted,
                Err(why) => {
                    self.refuse(&request, &why).await?;
                    continue;
                }
            };
            match self.plan.begin(seat, &wanted).await {
                Ok((journal, record)) => {
                    let name = request.path.name();
                    tracing::info!(job = %self.plan.job, rollout = %record.rollout_id, request = name, "begins a rollout");
                    crash_point("rollout-request-begun");
                    if let Err(error) = drop_request(&self.plan.control, &request).await {
                        // The engine takes it away.
                        tracing::debug!("the request stays for now: {}", error_chain(&error));
                    }
                    begun = Some((journal, record));
                }
                Err(RolloutError::Impossible { why }) => self.refuse(&request, &why).await?,
                Err(RolloutError::Unsure { why })
                    if self.since.elapsed() > self.plan.policy.deadlines.prepare =>
                {
                    self.refuse(&request, &why).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(begun)
    }

    async fn wanted_by(&self, request: &Request) -> Result<Result<Wanted, String>, RolloutError> {
        let version = load_version(&self.plan.control, request).await?;
        Ok(version.map(|version| Wanted {
            version,
            ..Wanted::default()
        }))
    }

    async fn wanted_back(&self) -> Result<Result<Wanted, String>, RolloutError> {
        let last = load_last_rolled_out(&self.plan.control, &self.plan.job).await?;
        let Some(last) = last else {
            return Ok(Err(
                "it was never rolled out: there is nothing to go back to".to_owned(),
            ));
        };
        if last.old.is_none() {
            let first = last.rollout_id;
            return Ok(Err(format!(
                "rollout {first} was the first one: there is nothing to go back to"
            )));
        }
        Ok(Ok(Wanted {
            version: last.old_version,
            direction: Direction::Back,
            ..Wanted::default()
        }))
    }

    async fn refuse(&self, request: &Request, why: &str) -> Result<(), RolloutError> {
        refuse_request(&self.plan.control, &self.plan.job, &request.path, why).await?;
        Ok(())
    }

    async fn drive(&self, seat: Seat, begun: (Journal, Record)) -> Result<Tried, RolloutError> {
        let driven = self
            .plan
            .drive(&self.daemon, seat, begun, self.shutdown.clone());
        let (ending, record) = Box::pin(driven).await?;
        let (job, rollout) = (&record.job, record.rollout_id);
        match ending {
            Ending::Over(Outcome::RolledOut) => {
                tracing::info!(%job, %rollout, gap = ?record.gap.seconds(), "rolled out");
            }
            Ending::Over(outcome) => {
                tracing::error!(%job, %rollout, %outcome, "not rolled out: {}", record.reason);
            }
            Ending::Interrupted | Ending::NeedsHuman => {
                tracing::info!(%job, %rollout, state = %record.state, "left where it is");
            }
        }
        Ok(Tried::Over)
    }
}
