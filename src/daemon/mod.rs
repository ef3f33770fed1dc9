//! Engines that run for a long time: pollers of directories, the engine of each slot, the daemon
//! that holds them all, and the supervision of one command.
//!
//! One task polls a directory and tells every slot whose marker lies in it. Each slot has an engine
//! of its own ([`slot`]) that owns what is known of it; a slow job or directory delays no other.

pub mod alarm;
pub mod ask;
mod child_backend;
pub mod crash_point;
pub mod hooks;
pub mod poller;
pub mod run;
mod run_error;
mod sentinel_keeper;
pub mod signals;
pub mod slot;
mod stop_acts;
mod stopping;
pub mod watch;

use std::sync::Arc;

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::model::AttemptId;

/// How many first-time records are written at once: a start with thousands of jobs must not make the
/// writes of each other time out.
const WRITES_AT_ONCE: usize = 32;

/// What all engines of one process share.
#[derive(Debug, Clone)]
pub struct Daemon {
    /// Host name.
    pub host: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// This process.
    pub process: AttemptId,
    writes: Arc<Semaphore>,
}

impl Daemon {
    /// The shared part for this process.
    pub fn new(host: String, boot_id: String, process: AttemptId) -> Self {
        Self {
            host,
            boot_id,
            process,
            writes: Arc::new(Semaphore::new(WRITES_AT_ONCE)),
        }
    }

    fn lease_owner(&self, instance: Uuid) -> crate::control::LeaseOwner {
        crate::control::LeaseOwner {
            instance,
            process: self.process.clone(),
            taken_at: jiff::Timestamp::now(),
        }
    }
}
