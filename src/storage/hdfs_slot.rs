//! A place for one client of one NameNode: it is made when it is first needed, and replaced when it hangs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::hdfs_error::{Failure, Next};
use super::hdfs_reach::Reach;
use super::hdfs_session::Session;

/// A client that hangs is not replaced more often than this.
pub(super) const REBUILD_SPACING: Duration = Duration::from_secs(5);
/// Time-outs in a row after which a client is replaced.
const TIMEOUTS_BEFORE_REBUILD: u32 = 2;

/// A place for a client.
#[derive(Debug, Default)]
pub(super) struct Slot {
    state: Mutex<State>,
    /// Held while a client is built, so that many waiting calls make one.
    building: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Arc<Session>>,
    built_at: Option<Instant>,
    timeouts: u32,
    is_proved: bool,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the client has answered since its last trouble.
    pub(super) fn is_proved(&self) -> bool {
        self.state().is_proved
    }

    /// The client; a new one if there is none.
    ///
    /// # Errors
    /// `TimedOut` at `until`; what keeps it from being built.
    pub(super) async fn session(
        &self,
        reach: &Reach,
        until: Instant,
    ) -> Result<Arc<Session>, Failure> {
        let current = || self.state().session.clone();
        if let Some(session) = current() {
            return Ok(session);
        }
        let build = async {
            let _building = self.building.lock().await;
            if let Some(session) = current() {
                return Ok(session);
            }
            let session = Session::start(reach.spec().await?, until).await?;
            *self.state() = State {
                session: Some(Arc::clone(&session)),
                built_at: Some(Instant::now()),
                ..State::default()
            };
            Ok(session)
        };
        let session = tokio::time::timeout_at(until, build).await;
        session.unwrap_or(Err(Failure::TimedOut))
    }

    /// Keeps what a call taught about its client; true if that is given up now.
    pub(super) fn note(&self, session: &Arc<Session>, failure: Option<&Failure>) -> bool {
        let mut state = self.state();
        let current = state.session.as_ref();
        if !current.is_some_and(|current| Arc::ptr_eq(current, session)) {
            return false;
        }
        let Some(failure) = failure else {
            state.timeouts = 0;
            state.is_proved = true;
            return false;
        };
        if failure.next() == Next::Return {
            state.timeouts = 0;
            return false;
        }
        state.is_proved = false;
        let is_broken = match failure {
            Failure::TimedOut => {
                state.timeouts += 1;
                state.timeouts >= TIMEOUTS_BEFORE_REBUILD
            }
            // The client's own state may have been left half changed.
            Failure::Panicked(_) | Failure::Closed => true,
            Failure::Client(_) => false,
        };
        let is_due = state
            .built_at
            .is_none_or(|at| at.elapsed() >= REBUILD_SPACING);
        if is_broken && is_due {
            state.session = None;
        }
        is_broken && is_due
    }
}
