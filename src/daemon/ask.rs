//! One-shot questions and orders of a command: stop this slot, wait for that marker.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Daemon;
use super::poller::{PollPolicy, Poller};
use super::slot::{Followed, SlotEngine};
use super::watch::PlannedSlot;
use crate::control::{DocumentError, Sentinel, SentinelError};
use crate::marker::poll::{DirectoryPoll, Sighting, Why, error_chain};
use crate::marker::{MarkerPolicy, MarkerState, Trigger, Verdict};
use crate::model::AttemptId;
use crate::stop::receipt::{Receipt, load_newest_receipt, load_receipt};
use crate::stop::record::{Armed, load_armed, load_unconfirmed, save_armed};
use crate::stop::{BackendError, Freshness, Observation};
use crate::storage::{DirIdentity, ErrorKind, Storage, StorageError, StoragePath, StorageUri};

/// Why a slot could not be asked to stop. The attempt runs on.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Which attempt runs cannot be told.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The storage refused or did not answer.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A record could not be read or written.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The marker or its directory cannot be seen for what they are.
    #[error("marker {marker} cannot be used: {why}")]
    MarkerUnknown {
        /// The marker.
        marker: StorageUri,
        /// Why.
        why: String,
    },
}

/// The poll of one marker by itself.
pub fn single_poll(
    daemon: &Daemon,
    storage: &Arc<dyn Storage>,
    marker: &StoragePath,
    sentinel_dir: &StoragePath,
) -> DirectoryPoll {
    DirectoryPoll::new(
        Arc::clone(storage),
        marker.parent().unwrap_or_else(StoragePath::root),
        sentinel_dir,
        vec![marker.name().to_owned()],
        daemon.boot_id.clone(),
    )
}

/// Has the marker of `attempt` say "stop": armed first, so that every watcher takes it for that.
///
/// # Errors
/// [`AskError`]; then the marker is as it was.
pub async fn request_by_marker(
    daemon: &Daemon,
    slot: &PlannedSlot,
    attempt: &AttemptId,
) -> Result<(), AskError> {
    let spec = &slot.spec;
    let storage = &spec.marker_storage;
    let trigger = spec.marker_policy.trigger;
    slot.control.vouch().await?;
    slot.control.ensure_job(&spec.job, spec.slot).await?;
    let parent = spec.marker.path.parent().unwrap_or_else(StoragePath::root);
    storage.identify_dir(&parent).await?;
    Sentinel::ensure(storage.as_ref(), &spec.sentinel_dir).await?;
    let mut poll = single_poll(daemon, storage, &spec.marker.path, &spec.sentinel_dir);
    let unknown = |why: &Why| AskError::MarkerUnknown {
        marker: spec.marker.clone(),
        why: why.to_string(),
    };
    let mut round = poll.poll().await;
    let armed = load_armed(&slot.control, &spec.job, spec.slot, attempt, &spec.marker).await?;
    // Armed in a directory that is not there any more it would not be missed in this one.
    let armed = armed.filter(|armed| {
        let guard = round.guard.as_ref();
        guard.is_ok_and(|now| armed.directory.is_same(now))
    });
    if armed.is_none() && trigger.asks(&round.sighting(0, trigger, None)) == Some(true) {
        // Never seen as it should be: what this command is asked for makes up for it.
        match trigger {
            Trigger::Disappears => {
                storage.touch(&spec.marker.path).await?;
            }
            Trigger::Appears => {
                storage.delete_file(&spec.marker.path).await?;
            }
        }
        round = poll.poll().await;
    }
    if armed.is_none() {
        if let Sighting::Unknown(why) = round.sighting(0, trigger, None) {
            return Err(unknown(&why));
        }
        let directory = round.guard.as_ref().map_err(unknown)?.clone();
        let armed = Armed {
            attempt: attempt.clone(),
            marker: spec.marker.clone(),
            directory,
            armed_at: Timestamp::now(),
        };
        save_armed(&slot.control, &spec.job, spec.slot, &armed).await?;
    }
    match trigger {
        Trigger::Disappears => {
            storage.delete_file(&spec.marker.path).await?;
        }
        Trigger::Appears => {
            storage.touch(&spec.marker.path).await?;
        }
    }
    Ok(())
}

/// The attempt to stop in a slot: the one that runs, or one that ended and has no receipt yet because
/// nobody was there to write it.
///
/// # Errors
/// Where that cannot be told.
pub async fn find_stoppable(slot: &PlannedSlot) -> Result<Option<AttemptId>, AskError> {
    if let Some(running) = slot.backend.find_attempt().await? {
        return Ok(Some(running));
    }
    let spec = &slot.spec;
    for attempt in load_unconfirmed(&slot.control, &spec.job, spec.slot).await? {
        let seen = slot.backend.observe(&attempt, Freshness::Now).await;
        if !matches!(seen, Observation::Unknown { .. }) {
            return Ok(Some(attempt));
        }
    }
    Ok(None)
}

/// Follows `attempt` to its receipt, acting on its marker like a watcher; whoever has the lease acts.
/// `None` when `shutdown` came first.
pub async fn await_receipt(
    daemon: &Daemon,
    slot: &PlannedSlot,
    attempt: &AttemptId,
    policy: PollPolicy,
    shutdown: CancellationToken,
) -> Option<Box<Receipt>> {
    let spec = &slot.spec;
    let poll = single_poll(
        daemon,
        &spec.marker_storage,
        &spec.marker.path,
        &spec.sentinel_dir,
    );
    let (poller, views) = Poller::new(poll, policy, 1);
    let sightings = views.of(0);
    drop(views);
    let polling = tokio::spawn(poller.run(shutdown.clone()));
    let mut engine = SlotEngine::new(
        daemon.clone(),
        Arc::clone(spec),
        slot.control.clone(),
        Arc::clone(&slot.backend),
        sightings,
        shutdown,
    );
    let followed = Box::pin(engine.follow(attempt)).await;
    drop(engine);
    // It ends with its last listener.
    let _ended = polling.await;
    match followed {
        Followed::Receipt(receipt) => Some(receipt),
        Followed::Interrupted => None,
    }
}

/// What a wait for a marker came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkerWait {
    /// It is there.
    Present,
    /// It was there and is gone.
    Gone,
    /// It was not there from the beginning, so its absence says nothing.
    NeverSeen,
}

/// Waits until the marker is there (`Appears`), or was there and is gone (`Disappears`). A storage that
/// does not answer is waited for.
///
/// # Errors
/// Where the directory cannot be given a sentinel, so that no absence could be told.
pub async fn await_marker(
    mut poll: DirectoryPoll,
    until: Trigger,
    policy: MarkerPolicy,
    interval: Duration,
    sentinel_dir: &StoragePath,
) -> Result<MarkerWait, SentinelError> {
    if until == Trigger::Disappears {
        await_sentinel(poll.storage().as_ref(), sentinel_dir, interval).await?;
    }
    let policy = MarkerPolicy {
        trigger: Trigger::Disappears,
        ..policy
    };
    let origin = Instant::now();
    let mut state = MarkerState::new(false);
    let mut never_seen = 0_u32;
    let mut armed_in = None;
    loop {
        let round = poll.poll().await;
        let sighting = round.sighting(0, policy.trigger, armed_in.as_ref());
        let mut pause = interval;
        match (&sighting, until) {
            (Sighting::Present(_), Trigger::Appears) => return Ok(MarkerWait::Present),
            (Sighting::Absent, Trigger::Appears) => {}
            (Sighting::Unknown(_), _) | (_, Trigger::Disappears) => {
                if !state.is_armed() && sighting == Sighting::Absent {
                    never_seen += 1;
                    if never_seen >= policy.confirm {
                        return Ok(MarkerWait::NeverSeen);
                    }
                    pause = policy.confirm_spacing;
                }
                match state.decide(&sighting, origin.elapsed(), &policy) {
                    Verdict::Arm => {
                        armed_in = round.guard.ok();
                        state.set_armed();
                    }
                    Verdict::LookAgainAt(at) => {
                        pause = at.saturating_sub(origin.elapsed()).min(interval);
                    }
                    Verdict::StopWanted => return Ok(MarkerWait::Gone),
                    Verdict::Alarm { why, .. } => {
                        tracing::warn!("the marker has been unknown for a while: {why}");
                    }
                    Verdict::Watch | Verdict::AlarmOver => {}
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}

/// Gives the directory its sentinel as soon as the storage takes it. One that is not there may not be
/// mounted, and is waited for; where this user may not write, a local directory is known by its number.
async fn await_sentinel(
    storage: &dyn Storage,
    dir: &StoragePath,
    interval: Duration,
) -> Result<(), SentinelError> {
    let mut told = false;
    loop {
        match Sentinel::ensure(storage, dir).await {
            Ok(_) => return Ok(()),
            Err(error)
                if error.storage_kind() == Some(ErrorKind::PermissionDenied)
                    && is_numbered(storage, dir).await =>
            {
                return Ok(());
            }
            Err(error)
                if is_passing(&error) || error.storage_kind() == Some(ErrorKind::NotFound) =>
            {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("waiting for the storage: {}", error_chain(&error));
                }
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(interval).await;
    }
}

async fn is_numbered(storage: &dyn Storage, dir: &StoragePath) -> bool {
    let identity = storage.identify_dir(dir).await;
    matches!(identity, Ok(DirIdentity::Inode { .. }))
}

/// Whether the storage may come to answer by itself. Credentials do not.
fn is_passing(error: &DocumentError) -> bool {
    error
        .storage_kind()
        .is_some_and(|kind| kind.is_unreachable() && kind != ErrorKind::Authentication)
}

/// The receipt of the slot's last stop, once nothing runs in the slot and all that ran is confirmed.
/// `None` if nothing runs and nothing was ever confirmed.
///
/// # Errors
/// Where the receipts cannot be read, but for a storage that does not answer: that is waited for.
pub async fn await_stopped(
    slot: &PlannedSlot,
    interval: Duration,
) -> Result<Option<Receipt>, AskError> {
    let mut seen: Option<AttemptId> = None;
    loop {
        match slot.backend.find_attempt().await {
            Ok(Some(attempt)) => seen = Some(attempt),
            Ok(None) => match last_receipt(slot, seen.as_ref()).await {
                Ok(Confirmed::Receipt(receipt)) => return Ok(Some(*receipt)),
                Ok(Confirmed::Nothing) => return Ok(None),
                Ok(Confirmed::NotYet) => {}
                Err(error) if is_passing(&error) => tracing::warn!("{}", error_chain(&error)),
                Err(error) => return Err(error.into()),
            },
            Err(error) => tracing::warn!("{}", error_chain(&error)),
        }
        tokio::time::sleep(interval).await;
    }
}

/// What is confirmed of a slot in which nothing runs.
enum Confirmed {
    /// This is how its last attempt ended.
    Receipt(Box<Receipt>),
    /// Its last attempt is over, and nobody has written its receipt yet.
    NotYet,
    /// It never had an attempt that was watched.
    Nothing,
}

async fn last_receipt(
    slot: &PlannedSlot,
    seen: Option<&AttemptId>,
) -> Result<Confirmed, DocumentError> {
    let spec = &slot.spec;
    let found = match seen {
        // The attempt that was seen to run must have its own receipt.
        Some(attempt) => {
            let stop_id = attempt.stop_id(spec.slot);
            let receipt = load_receipt(&slot.control, &spec.job, &stop_id).await?;
            return Ok(receipt.map_or(Confirmed::NotYet, |receipt| {
                Confirmed::Receipt(Box::new(receipt))
            }));
        }
        None => load_newest_receipt(&slot.control, &spec.job, spec.slot).await?,
    };
    if !load_unconfirmed(&slot.control, &spec.job, spec.slot)
        .await?
        .is_empty()
    {
        return Ok(Confirmed::NotYet);
    }
    Ok(found.map_or(Confirmed::Nothing, |receipt| {
        Confirmed::Receipt(Box::new(receipt))
    }))
}

/// The attempt that runs in the slot, once one does.
pub async fn await_running(slot: &PlannedSlot, interval: Duration) -> AttemptId {
    loop {
        match slot.backend.find_attempt().await {
            Ok(Some(attempt)) => match slot.backend.observe(&attempt, Freshness::Now).await {
                Observation::Running | Observation::Stopping => return attempt,
                Observation::Restarted { attempt } => return attempt,
                Observation::Stopped { .. } | Observation::Unknown { .. } => {}
            },
            Ok(None) => {}
            Err(error) => tracing::warn!("{}", error_chain(&error)),
        }
        tokio::time::sleep(interval).await;
    }
}
