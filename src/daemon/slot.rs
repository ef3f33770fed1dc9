//! The engine of one slot: finds its attempt, arms it, notices that its marker asks for a stop, and
//! has the stop driven to its receipt.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Daemon;
use super::alarm::{AlarmKind, Alarms};
use super::finding::Awaited;
use super::flag::Flag;
use super::following::Course;
use super::poller::Sightings;
use super::resting::Rested;
use crate::control::ControlDir;
use crate::model::AttemptId;
use crate::stop::Backend;
use crate::stop::wakes::Sleeper;

pub use super::following::Followed;
pub use super::slot_spec::SlotSpec;

/// The engine of one slot.
#[derive(Debug)]
pub struct SlotEngine {
    pub(super) daemon: Daemon,
    pub(super) spec: Arc<SlotSpec>,
    pub(super) control: ControlDir,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) sightings: Sightings,
    pub(super) alarms: Alarms,
    pub(super) instance: Uuid,
    pub(super) shutdown: CancellationToken,
    /// Raised when someone else (a signal that `run` passed on) asked the attempt already.
    pub(super) asked: Flag,
    /// Raised when someone (a signal to `run`) wants the stop, and this engine is to ask the attempt.
    pub(super) wanted: Flag,
    /// Raised when someone else (a second signal to `run`) killed the attempt.
    pub(super) aborted: Flag,
    /// Raised when the attempt is known to have been asked by this engine or by one before it.
    pub(super) requested: Flag,
    /// Attempts that ended, or may have, while no engine looked; none before they were looked for.
    pub(super) left_over: Option<Vec<AttemptId>>,
    /// Since when the marker's directory has not been known for what it is.
    pub(super) unguarded: Option<Instant>,
    /// Who is woken when this engine rests; without one it never does.
    pub(super) sleeper: Option<Sleeper>,
    /// Dropped as soon as the first looks are over, and what is left is to wait.
    pub(super) beginning: Option<oneshot::Sender<()>>,
    pub(super) origin: Instant,
}

impl SlotEngine {
    /// An engine that has not begun.
    pub fn new(
        daemon: Daemon,
        spec: Arc<SlotSpec>,
        control: ControlDir,
        backend: Arc<dyn Backend>,
        sightings: Sightings,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            daemon,
            spec,
            control,
            backend,
            sightings,
            alarms: Alarms::default(),
            instance: Uuid::new_v4(),
            shutdown,
            asked: Flag::default(),
            wanted: Flag::default(),
            aborted: Flag::default(),
            requested: Flag::default(),
            left_over: None,
            unguarded: None,
            sleeper: None,
            beginning: None,
            origin: Instant::now(),
        }
    }

    /// The token to cancel when the attempt was asked to stop by other means than this engine's.
    pub fn asked(&self) -> CancellationToken {
        self.asked.token()
    }

    /// The token to cancel when the attempt is to be asked, whatever its marker says.
    pub fn wanted(&self) -> CancellationToken {
        self.wanted.token()
    }

    /// The token to cancel when the attempt was killed by other means than this engine's.
    pub fn aborted(&self) -> CancellationToken {
        self.aborted.token()
    }

    /// The token that is cancelled as soon as it is known that the attempt was asked.
    pub fn requested(&self) -> CancellationToken {
        self.requested.token()
    }

    /// What the log says of the slot. Made when there is something to say, and not kept: thousands of
    /// idle slots have nothing to.
    pub(super) fn span(&self) -> tracing::Span {
        let spec = &self.spec;
        tracing::info_span!("slot", job = %spec.job, slot = %spec.slot, marker = %spec.marker)
    }

    // What is rare is boxed from here on, so that an engine that only waits is small.

    /// Follows one attempt of the slot after the other until the shutdown.
    pub async fn run(mut self) {
        let _never_rests = Box::pin(self.run_from(None)).await;
    }

    /// Ends when this engine rests, or is through with its first looks.
    pub(super) fn begun(&mut self) -> oneshot::Receiver<()> {
        let (beginning, begun) = oneshot::channel();
        self.beginning = Some(beginning);
        begun
    }

    /// As [`SlotEngine::run`], until there is nothing to do but to wait: then what is to be kept until
    /// `sleeper` is woken, and an engine of the slot goes on from it. `None` at the shutdown.
    pub(super) async fn run_to_rest(
        mut self,
        sleeper: Sleeper,
        from: Option<Rested>,
    ) -> Option<Rested> {
        self.sleeper = Some(sleeper);
        Box::pin(self.run_from(from)).await
    }

    async fn run_from(&mut self, from: Option<Rested>) -> Option<Rested> {
        let mut rested = None;
        if let Some(from) = from {
            // What was left over was looked for before the rest.
            self.left_over = Some(Vec::new());
            self.alarms = from.alarms;
            rested = from.armed;
        }
        loop {
            let (attempt, directory) = match rested.take() {
                Some(rested) => (rested.attempt, Some(rested.directory)),
                None => match Box::pin(self.await_attempt()).await {
                    Awaited::Attempt(attempt) => (attempt, None),
                    Awaited::Rest => return Some(self.rest(None)),
                    Awaited::Shutdown => return None,
                },
            };
            match Box::pin(self.follow_from(&attempt, directory)).await {
                Course::Interrupted => return None,
                Course::Rest(armed) => return Some(self.rest(Some(armed))),
                Course::Receipt(_) => {
                    // The evidence of the old attempt may be there a moment longer.
                    if !self.pause(self.spec.attempt_interval).await {
                        return None;
                    }
                }
            }
        }
    }

    /// Waits, unless the shutdown comes: then `false`.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.shutdown.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    /// Raises the alarm once the trouble is old enough; before that, tells of it once.
    pub(super) fn alarm_if_late(&mut self, kind: AlarmKind, since: Instant, text: &str) {
        let lasted = since.elapsed();
        if lasted >= self.spec.marker_policy.alarm_after {
            self.alarms.raise(kind, text, &self.spec.hooks);
        } else if lasted < Duration::from_millis(1) {
            tracing::warn!(alarm = kind.as_str(), "{text}");
        } else {
            tracing::debug!(alarm = kind.as_str(), "{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::hooks::Hooks;
    use crate::daemon::poller::{PollPolicy, Poller};
    use crate::marker::MarkerPolicy;
    use crate::marker::{DirectoryPoll, Trigger};
    use crate::model::{JobName, Slot};
    use crate::stop::decide::{Escalate, StopPolicy};
    use crate::stop::driver::DriverBackend;
    use crate::stop::status::StatusBoard;
    use crate::storage::memory::MemoryStorage;
    use crate::storage::{Storage, StoragePath, StorageUri};

    fn spec(storage: &Arc<dyn Storage>) -> SlotSpec {
        let job: JobName = "clicks".parse().unwrap();
        let dir = StoragePath::parse("/m").unwrap();
        SlotSpec {
            slot: Slot::Blue,
            marker: StorageUri::new(storage.authority().clone(), dir.join("clicks.blue")),
            marker_storage: Arc::clone(storage),
            sentinel_dir: dir,
            marker_policy: MarkerPolicy {
                trigger: Trigger::Disappears,
                confirm: 2,
                confirm_spacing: Duration::from_millis(20),
                alarm_after: Duration::from_mins(1),
            },
            stop_policy: StopPolicy {
                drain_deadline: Duration::from_mins(30),
                escalate: Escalate::Never,
                resend_after: Duration::from_mins(1),
                kill_deadline: Duration::from_mins(1),
            },
            lease_ttl: Duration::from_secs(30),
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

    /// Thousands of engines wait at the same time; what they hold while they do is counted here, so
    /// that a rare path that is not boxed shows.
    #[tokio::test]
    async fn an_engine_that_waits_is_small() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new("small"));
        let control = ControlDir::new(Arc::clone(&storage), StoragePath::parse("/c").unwrap());
        let spec = Arc::new(spec(&storage));
        let board = Arc::new(StatusBoard::new(control.clone(), Duration::from_secs(1)));
        let backend: Arc<dyn Backend> = Arc::new(DriverBackend::new(
            board,
            spec.job.clone(),
            spec.slot,
            Duration::from_mins(2),
        ));
        let policy = PollPolicy {
            interval: Duration::from_secs(5),
            jitter: 0.0,
        };
        let poll = DirectoryPoll::new(
            storage,
            spec.sentinel_dir.clone(),
            &spec.sentinel_dir,
            vec!["clicks.blue".to_owned()],
            String::new(),
        );
        let (_poller, views) = Poller::new(poll, policy, 1);
        let attempt = AttemptId::Named {
            name: "application_1_1".to_owned(),
        };
        let process = AttemptId::Process {
            host: "h".to_owned(),
            boot_id: "b".to_owned(),
            pid: 1,
            start_ticks: 1,
        };
        let daemon = Daemon::new("h".to_owned(), "b".to_owned(), process);
        let shutdown = CancellationToken::new();
        let sightings = views.of(0);
        let mut engine =
            SlotEngine::new(daemon, spec, control, backend.clone(), sightings, shutdown);
        // Each future borrows the engine until it is measured.
        let waiting = size_of_val(&engine.await_attempt());
        let following = size_of_val(&engine.follow(&attempt));
        let news = size_of_val(&*backend.await_news(Some(&attempt), Duration::ZERO));
        let idle = size_of_val(&engine);
        let running = size_of_val(&engine.run());
        // A build that is not optimised keeps what is passed to a future twice.
        let sizes = [
            ("spec", size_of::<SlotSpec>(), 480),
            ("engine", idle, 320),
            ("wait for an attempt", waiting, 560),
            ("follow", following, 1_250),
            ("news", news, 500),
            ("run", running, 900),
        ];
        for (what, bytes, limit) in sizes {
            assert!(bytes <= limit, "{what} takes {bytes} bytes; all: {sizes:?}");
        }
    }
}
