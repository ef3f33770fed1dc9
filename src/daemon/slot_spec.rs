//! What an engine has to know of its slot.

use std::sync::Arc;
use std::time::Duration;

use super::copying::CopyOrders;
use super::hooks::Hooks;
use crate::marker::MarkerPolicy;
use crate::model::{JobName, Slot};
use crate::stop::boundary::BoundaryPolicy;
use crate::stop::decide::StopPolicy;
use crate::storage::{Storage, StoragePath, StorageUri};

/// All that an engine has to know of its slot.
#[derive(Debug)]
pub struct SlotSpec {
    /// The job.
    pub job: JobName,
    /// The slot.
    pub slot: Slot,
    /// The marker.
    pub marker: StorageUri,
    /// The marker's storage.
    pub marker_storage: Arc<dyn Storage>,
    /// The directory whose sentinel vouches for the marker's directory.
    pub sentinel_dir: StoragePath,
    /// How sightings become a decision.
    pub marker_policy: MarkerPolicy,
    /// How a stop goes on.
    pub stop_policy: StopPolicy,
    /// How long a lease holds without a beat.
    pub lease_ttl: Duration,
    /// Above this difference of clocks, time from before a restart of stepdown does not count.
    pub max_clock_skew: Duration,
    /// Pause between two looks at an attempt that was asked to stop.
    pub drain_interval: Duration,
    /// Pause between two looks at an attempt that runs.
    pub attempt_interval: Duration,
    /// The job's checkpoints.
    pub checkpoints: Vec<(Arc<dyn Storage>, StorageUri)>,
    /// How a request waits until they are between two batches, where it does.
    pub boundary: Option<Arc<BoundaryPolicy>>,
    /// What is done with them after a stop: copies for the new job.
    pub copy_orders: Option<Arc<CopyOrders>>,
    /// The job's hooks.
    pub hooks: Hooks,
}
