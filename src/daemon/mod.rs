//! Engines that run for a long time: pollers of directories, the engine of each slot, the daemon
//! that holds them all, and the supervision of one command.
//!
//! One task polls a directory and tells every slot whose marker lies in it. Each slot has an engine
//! of its own ([`slot`]) that owns what is known of it; a slow job or directory delays no other. A slot
//! in which nothing happens rests (`resting`): it is a row of its directory's table (`rows`) until a
//! round or its status file says otherwise.

pub mod alarm;
mod arming;
pub mod ask;
mod child_backend;
pub mod copying;
pub mod crash_point;
mod drive;
mod finding;
mod flag;
mod following;
pub mod hooks;
mod moment;
pub mod poller;
mod resting;
pub mod rollout;
mod rows;
pub mod run;
mod run_error;
mod sentinel_keeper;
pub mod signals;
pub mod slot;
mod slot_spec;
mod stop_acts;
mod stopping;
mod supervise;
pub mod watch;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::model::AttemptId;

/// How many first-time records are written at once: a start with thousands of jobs must not make the
/// writes of each other time out.
const WRITES_AT_ONCE: usize = 32;

/// What all engines of one process share; clones are the same one.
#[derive(Debug, Clone)]
pub struct Daemon(Arc<Shared>);

/// What a [`Daemon`] leads to.
#[derive(Debug)]
pub struct Shared {
    /// Host name.
    pub host: String,
    /// The kernel's boot id.
    pub boot_id: String,
    /// This process.
    pub process: AttemptId,
    writes: Semaphore,
}

impl Deref for Daemon {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Daemon {
    /// The shared part for this process.
    pub fn new(host: String, boot_id: String, process: AttemptId) -> Self {
        Self(Arc::new(Shared {
            host,
            boot_id,
            process,
            writes: Semaphore::new(WRITES_AT_ONCE),
        }))
    }

    /// This process as one that copies checkpoints.
    pub fn copyist(&self, lease_ttl: std::time::Duration) -> crate::checkpoint::copy::Copyist {
        crate::checkpoint::copy::Copyist {
            owner: self.lease_owner(Uuid::new_v4()),
            policy: stopping::lease_policy(lease_ttl),
            host: self.host.clone(),
        }
    }

    /// The monotonic clock of this boot: the same for all processes of this host, and untouched by
    /// whatever happens to the wall clock.
    fn uptime() -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = now.tv_sec.try_into().unwrap_or(0);
        Duration::new(seconds, now.tv_nsec.try_into().unwrap_or(0))
    }

    fn lease_owner(&self, instance: Uuid) -> crate::control::LeaseOwner {
        crate::control::LeaseOwner {
            instance,
            process: self.process.clone(),
            taken_at: jiff::Timestamp::now(),
        }
    }
}
