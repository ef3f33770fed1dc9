//! The slots of a configuration, made one by one when there is something to do in them.

use std::sync::Arc;
use std::time::Duration;

use super::App;
use crate::config::Job;
use crate::control::ControlDir;
use crate::daemon::rollout::{RolloutPlan, RolloutSource};
use crate::daemon::watch::{PlannedSlot, SlotSource};
use crate::model::{JobName, Slot};
use crate::stop::status::StatusBoard;
use crate::storage::{Authority, ErrorKind, StorageError, StoragePath, StorageUri};

/// All slots of some jobs of a configuration.
#[derive(Debug)]
pub struct ConfiguredSlots {
    /// Without its jobs.
    app: App,
    jobs: Vec<Job>,
    board: Arc<StatusBoard>,
    /// Each slot with the position of its job.
    places: Vec<(usize, Slot)>,
}

impl ConfiguredSlots {
    /// The slots of the jobs that `wants` picks, in the order of the configuration.
    ///
    /// # Errors
    /// As [`App::board`].
    pub fn new(mut app: App, wants: impl Fn(&Job) -> bool) -> Result<Self, StorageError> {
        let board = app.board()?;
        let jobs = std::mem::take(&mut app.loaded.config.jobs);
        let mut jobs: Vec<Job> = jobs.into_values().filter(wants).collect();
        jobs.shrink_to_fit();
        let mut places = Vec::with_capacity(jobs.len());
        for (at, job) in jobs.iter().enumerate() {
            places.extend(job.slots.keys().map(|slot| (at, *slot)));
        }
        Ok(Self {
            app,
            jobs,
            board,
            places,
        })
    }

    /// The parts that they are made of; its configuration has no jobs any more.
    pub fn app(&self) -> &App {
        &self.app
    }
}

impl SlotSource for ConfiguredSlots {
    fn count(&self) -> usize {
        self.places.len()
    }

    fn plan(&self, at: usize) -> Result<PlannedSlot, StorageError> {
        let found = self.places.get(at).and_then(|(job, slot)| {
            let job = self.jobs.get(*job)?;
            Some((job, *slot, job.slots.get(slot)?))
        });
        let Some((job, slot, of)) = found else {
            let uri = StorageUri::new(Authority::Local, StoragePath::root());
            return Err(StorageError::new("plan", uri, ErrorKind::Config)
                .with_detail("the configuration has no such slot"));
        };
        self.app.plan_slot(job, slot, of, &self.board)
    }
}

impl RolloutSource for ConfiguredSlots {
    fn control(&self) -> &ControlDir {
        self.board.control()
    }

    fn rollout_jobs(&self) -> Vec<JobName> {
        let with_rollout = self.jobs.iter().filter(|job| job.rollout.is_some());
        with_rollout.map(|job| job.name.clone()).collect()
    }

    fn rollout_plan(&self, name: &JobName) -> Result<RolloutPlan, StorageError> {
        let job = self.jobs.iter().find(|job| job.name == *name);
        let Some((job, rollout)) = job.and_then(|job| Some((job, job.rollout.as_ref()?))) else {
            let uri = StorageUri::new(Authority::Local, StoragePath::root());
            return Err(StorageError::new("plan", uri, ErrorKind::Config)
                .with_detail("the configuration has no such rollout"));
        };
        self.app.rollout_plan(job, rollout)
    }

    fn keep(&self, name: &JobName) -> Option<Duration> {
        let job = self.jobs.iter().find(|job| job.name == *name)?;
        job.rollout.as_ref()?.keep
    }

    fn interval(&self) -> Duration {
        self.app.config().watch.interval
    }

    fn lease_ttl(&self) -> Duration {
        self.app.config().watch.lease_ttl
    }
}
