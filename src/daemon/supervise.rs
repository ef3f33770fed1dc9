//! Following one attempt of `run` to its receipt: its exit code, the signals that are passed on to it,
//! and the pause before the next one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::alarm::{AlarmKind, Alarms};
use super::child_backend::OneRequest;
use super::crash_point::crash_point;
use super::poller::Sightings;
use super::run::{Ask, Attempt, AttemptEnd, RunError, Runner};
use super::signals::Signals;
use super::slot::Followed;
use crate::marker::poll::{GuardRecord, error_chain};
use crate::marker::{MarkerState, Sighting, Trigger, Verdict};
use crate::model::AttemptId;
use crate::process::forward::{FirstRequest, RunReaction, SignalPlan};
use crate::process::{
    Child, ChildGroup, EndsWith, ProcessState, Signal, SignalTarget, Terminal, adopt, send,
};
use crate::stop::Exit;
use crate::stop::decide::Outcome;
use crate::stop::status::Phase;

/// Pause after which the end of an attempt is waited for anew; the wait itself ends with it.
const LOOK_AGAIN: Duration = Duration::from_hours(1);

impl Runner {
    /// Writes the receipt of an attempt that is over; no signals, no terminal.
    pub(super) async fn supervise_unattended(
        &self,
        attempt: Attempt,
        sightings: &Sightings,
    ) -> Result<AttemptEnd, RunError> {
        let (_sender, exit) = watch::channel(None);
        let mut engine = self.engine(&attempt, sightings, exit, OneRequest::default());
        let followed = Box::pin(engine.follow(&attempt.id));
        match tokio::time::timeout(self.options.receipt_deadline, followed).await {
            Ok(Followed::Receipt(receipt)) => Ok(AttemptEnd {
                exit: receipt.exit,
                on_purpose: receipt.outcome != Outcome::Died,
                receipt: Some(receipt),
                ran_for: Duration::ZERO,
            }),
            Ok(Followed::Interrupted) | Err(_) => Err(RunError::NoReceipt { exit: None }),
        }
    }

    /// Follows one attempt to its receipt, and passes on what signals ask for meanwhile.
    pub(super) async fn supervise(
        &self,
        mut attempt: Attempt,
        sightings: &Sightings,
        signals: &mut Signals,
        mut terminal: Option<&mut Terminal>,
    ) -> Result<AttemptEnd, RunError> {
        let (exit_seen, exit) = watch::channel(None);
        let one_request = OneRequest::default();
        let mut engine = self.engine(&attempt, sightings, exit, one_request.clone());
        let (asked, wanted, aborted) = (engine.asked(), engine.wanted(), engine.aborted());
        let requested = engine.requested();
        let id = attempt.id.clone();
        let mut followed = tokio::spawn(async move { Box::pin(engine.follow(&id)).await });
        // One that is to be asked between two batches is asked by its engine.
        let by_signal = matches!(self.options.ask, Ask::Signal) && self.spec.boundary.is_none();
        let first = if by_signal {
            FirstRequest::Forward
        } else {
            FirstRequest::Keep
        };
        let mut plan = SignalPlan::new(first, ChildGroup::Own);
        let mut removal: Option<AbortOnDropHandle<()>> = None;
        // Its own process may end long before the last one of its group.
        let mut over = attempt
            .child
            .is_none()
            .then(|| await_over(&attempt.id, self.options.ends_with));
        let mut over_at: Option<Instant> = None;
        let receipt = loop {
            let give_up = over_at.map(|at| at + self.patience(aborted.is_cancelled()));
            tokio::select! {
                exit = await_child(attempt.child.as_mut(), terminal.as_deref_mut()), if over.is_none() => {
                    let exit = exit.map(Exit::from);
                    if attempt.in_foreground && exit.is_some_and(is_interrupt) {
                        // The terminal asked it, past stepdown. Said before the end is told.
                        asked.cancel();
                    }
                    exit_seen.send_replace(exit);
                    over = Some(await_over(&attempt.id, self.options.ends_with));
                }
                () = until_over(over.as_mut()), if over_at.is_none() => {
                    over_at = Some(Instant::now());
                }
                signal = signals.next() => {
                    if requested.is_cancelled() || one_request.is_claimed() {
                        plan.drain_began();
                    }
                    let reaction = plan.on_signal(signal, std::time::Instant::now());
                    match reaction.run {
                        RunReaction::GoOn => {}
                        RunReaction::Drain => {
                            tracing::info!(%signal, "draining; a second signal kills the command");
                            // Before it is asked: if it ends at once, it was asked.
                            match self.options.ask {
                                Ask::Signal if by_signal => asked.cancel(),
                                Ask::Signal | Ask::Command(_) => wanted.cancel(),
                                Ask::Driver { .. } => {
                                    wanted.cancel();
                                    removal = Some(self.take_marker_away());
                                }
                            }
                        }
                        RunReaction::Abort => {
                            tracing::warn!(%signal, "killing the command");
                            aborted.cancel();
                            self.kill(&attempt);
                        }
                    }
                    let is_request = reaction.run == RunReaction::Drain;
                    if let Some(signal) = reaction.forward
                        && (!is_request || one_request.claim())
                    {
                        self.forward(&attempt.id, signal);
                    }
                }
                joined = &mut followed => match joined {
                    Ok(Followed::Receipt(receipt)) => break receipt,
                    Ok(Followed::Interrupted) => {
                        return Err(RunError::NoReceipt { exit: *exit_seen.borrow() });
                    }
                    Err(error) => {
                        let source = std::io::Error::other(error);
                        return Err(RunError::Unfollowed { source });
                    }
                },
                () = until(give_up) => {
                    followed.abort();
                    return Err(RunError::NoReceipt { exit: *exit_seen.borrow() });
                }
            }
        };
        crash_point("receipt-seen");
        drop(removal);
        let exit = exit_seen.borrow().or(receipt.exit);
        if let Err(error) = self.save_phase(&attempt.id, Phase::Ended, exit).await {
            tracing::warn!("the status was not saved: {}", error_chain(&error));
        }
        Ok(AttemptEnd {
            exit,
            on_purpose: receipt.outcome != Outcome::Died
                || asked.is_cancelled()
                || wanted.is_cancelled(),
            receipt: Some(receipt),
            ran_for: attempt.begun.elapsed(),
        })
    }

    /// Removes the marker, whoever made it: a driver knows of nothing else that it is to stop.
    fn take_marker_away(&self) -> AbortOnDropHandle<()> {
        let storage = Arc::clone(&self.spec.marker_storage);
        let path = self.spec.marker.path.clone();
        let pause = self.options.poll.interval;
        AbortOnDropHandle::new(tokio::spawn(async move {
            while let Err(error) = storage.delete_file(&path).await {
                tracing::warn!("the marker is not removed yet: {}", error_chain(&error));
                tokio::time::sleep(pause).await;
            }
        }))
    }

    /// How long after its end the receipt of an attempt is waited for.
    fn patience(&self, aborted: bool) -> Duration {
        let patience = self.options.receipt_deadline;
        if aborted {
            patience.min(self.spec.lease_ttl)
        } else {
            patience
        }
    }

    fn forward(&self, attempt: &AttemptId, signal: Signal) {
        if let Err(error) = send(attempt, self.options.target, signal) {
            tracing::error!(%signal, "the signal was not passed on: {}", error_chain(&error));
        }
    }

    /// Kills all that the attempt's end waits for.
    fn kill(&self, attempt: &Attempt) {
        let sent = match (self.options.ends_with, &attempt.group) {
            (EndsWith::Group, Some(group)) => group.signal(Signal::KILL),
            (EndsWith::Group, None) => send(&attempt.id, SignalTarget::Group, Signal::KILL),
            (EndsWith::Process, _) => send(&attempt.id, self.options.target, Signal::KILL),
        };
        if let Err(error) = sent {
            tracing::error!("it was not killed: {}", error_chain(&error));
        }
    }

    /// Waits before a restart; false if a signal or the marker's removal says that there is none.
    pub(super) async fn await_restart(&self, after: Duration, signals: &mut Signals) -> bool {
        let policy = self.spec.marker_policy;
        let begun = Instant::now();
        let mut poll = self.directory_poll();
        let mut marker = MarkerState::new(true);
        let mut alarms = Alarms::default();
        let armed_in: Option<&GuardRecord> = self.armed_in.as_ref();
        loop {
            let round = poll.poll().await;
            let sighting = round.sighting(0, Trigger::Disappears, armed_in);
            let at = round.begun.saturating_duration_since(begun);
            let mut wake = Instant::now() + self.options.poll.interval;
            match marker.decide(&sighting, at, &policy) {
                Verdict::StopWanted => {
                    tracing::info!("no restart: the marker was removed meanwhile");
                    return false;
                }
                Verdict::LookAgainAt(when) => wake = begun + when,
                Verdict::Alarm { why, .. } => {
                    let text = format!("no restart yet: the marker is unknown: {why}");
                    alarms.raise(AlarmKind::MarkerUnknown, &text, &self.spec.hooks);
                }
                Verdict::AlarmOver => alarms.clear(AlarmKind::MarkerUnknown),
                Verdict::Watch | Verdict::Arm => {}
            }
            if begun.elapsed() < after {
                wake = wake.min(begun + after);
            } else if matches!(sighting, Sighting::Present(_)) {
                return true;
            }
            tokio::select! {
                signal = signals.next() => {
                    tracing::info!(%signal, "no restart");
                    return false;
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }
}

/// Whether a command ends so when the terminal interrupts it: by the signal, or with the code that
/// shells and JVMs make of it.
fn is_interrupt(exit: Exit) -> bool {
    match exit {
        Exit::Signal { signal } => signal == Signal::INT.number(),
        Exit::Code { code } => code == 128 + Signal::INT.number(),
    }
}

type Over = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Waits until the attempt is over, with all that counts of it.
fn await_over(attempt: &AttemptId, ends_with: EndsWith) -> Over {
    let adopted = adopt(attempt.clone(), ends_with);
    Box::pin(async move {
        let over = |state| matches!(state, ProcessState::Stopped { .. });
        while !over(adopted.await_end(LOOK_AGAIN).await) {}
    })
}

async fn until_over(over: Option<&mut Over>) {
    match over {
        Some(over) => over.await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for the child's end. `None` if its exit code was lost.
async fn await_child(
    child: Option<&mut Child>,
    terminal: Option<&mut Terminal>,
) -> Option<crate::process::Exit> {
    let Some(child) = child else {
        return std::future::pending().await;
    };
    let exit = match terminal {
        Some(terminal) => terminal.supervise(child).await,
        None => child.wait().await,
    };
    match exit {
        Ok(exit) => Some(exit),
        Err(error) => {
            tracing::error!("{}", error_chain(&error));
            None
        }
    }
}
