//! What a round says of the marker of the attempt that is followed: armed, unknown, to be stopped.

use jiff::Timestamp;
use tokio::time::Instant;

use super::alarm::AlarmKind;
use super::following::Watched;
use super::slot::SlotEngine;
use crate::marker::poll::{Round, error_chain};
use crate::marker::{Sighting, Verdict};
use crate::model::AttemptId;
use crate::stop::record::{Armed, load_armed, save_armed};
use crate::storage::ErrorKind;

impl SlotEngine {
    /// Takes one round; true if the stop is wanted.
    pub(super) async fn take_round(
        &mut self,
        attempt: &AttemptId,
        round: &Round,
        watched: &mut Watched,
    ) -> bool {
        let policy = self.spec.marker_policy;
        if watched.unsure && !watched.marker.is_armed() {
            self.see_armed(attempt, watched).await;
        }
        let armed_in = watched.armed_in.as_ref();
        let sighting = round.sighting(self.sightings.index(), policy.trigger, armed_in);
        let at = round.begun.saturating_duration_since(self.origin);
        if watched.marker.is_armed() && self.stands(&sighting) {
            self.check_guard(round);
        }
        match watched.marker.decide(&sighting, at, &policy) {
            Verdict::Watch => {
                if !watched.marker.is_asked()
                    && let Some(early) = watched.early.take()
                {
                    self.drop_early(*early).await;
                }
                let moved = matches!(&round.guard, Ok(now) if armed_in != Some(now));
                if watched.marker.is_armed() && moved && self.stands(&sighting) {
                    // It is seen in a directory that is not the one on record: arm it there.
                    self.arm(attempt, round, watched).await;
                }
                self.rest_on(round, watched);
            }
            Verdict::Arm => {
                self.arm(attempt, round, watched).await;
                if watched.marker.is_armed() {
                    self.rest_on(round, watched);
                }
            }
            Verdict::LookAgainAt(when) => {
                self.sightings.poke(self.origin + when);
                // What the stop will need is made ready while the confirmation is waited for.
                if watched.early.is_none() {
                    let early = self.prepare(attempt).await;
                    watched.early = (!early.is_empty()).then(|| Box::new(early));
                }
            }
            Verdict::StopWanted => return true,
            Verdict::Alarm { unknown_for, why } => {
                let text = format!(
                    "marker {} has been unknown for {} s; the job runs on, but its removal would \
                     not be noticed: {why}",
                    self.spec.marker,
                    unknown_for.as_secs()
                );
                self.alarms
                    .raise(AlarmKind::MarkerUnknown, &text, &self.spec.hooks);
            }
            Verdict::AlarmOver => {
                self.alarms.clear(AlarmKind::MarkerUnknown);
                self.sightings.poke(Instant::now());
            }
        }
        false
    }

    /// Has no further round told while they all say what this one says, if that changes nothing.
    fn rest_on(&self, round: &Round, watched: &Watched) {
        let stands_where_armed =
            matches!(&round.guard, Ok(now) if watched.armed_in.as_ref().is_none_or(|at| at == now));
        if watched.marker.is_settled() && stands_where_armed {
            self.sightings.rest_on(round);
        }
    }

    /// Looks whether the record was saved after all.
    pub(super) async fn see_armed(&mut self, attempt: &AttemptId, watched: &mut Watched) {
        let spec = &self.spec;
        let armed = load_armed(&self.control, &spec.job, spec.slot, attempt, &spec.marker).await;
        if let Ok(Some(armed)) = armed {
            tracing::info!(marker = %spec.marker, "armed");
            watched.armed_in = Some(armed.directory);
            watched.marker.set_armed();
            self.alarms.clear(AlarmKind::Unprotected);
        }
    }

    /// A marker that is there says nothing of whether its removal would be noticed.
    fn check_guard(&mut self, round: &Round) {
        match &round.guard {
            Ok(_) => {
                if self.unguarded.take().is_some() {
                    self.alarms.clear(AlarmKind::Unprotected);
                }
            }
            Err(why) => {
                let since = *self.unguarded.get_or_insert_with(Instant::now);
                let text = format!(
                    "the job is unprotected: marker {} is there, but its removal would not be \
                     noticed: {why}",
                    self.spec.marker
                );
                self.alarm_if_late(AlarmKind::Unprotected, since, &text);
            }
        }
    }

    fn stands(&self, sighting: &Sighting) -> bool {
        self.spec.marker_policy.trigger.asks(sighting) == Some(false)
    }

    async fn arm(&mut self, attempt: &AttemptId, round: &Round, watched: &mut Watched) {
        let saved = match &round.guard {
            Ok(directory) => {
                let armed = Armed {
                    attempt: attempt.clone(),
                    marker: self.spec.marker.clone(),
                    directory: directory.clone(),
                    armed_at: Timestamp::now(),
                };
                let _permit = self.daemon.writes.acquire().await;
                save_armed(&self.control, &self.spec.job, self.spec.slot, &armed)
                    .await
                    .map(|()| directory.clone())
                    .map_err(|error| {
                        watched.unsure = error.storage_kind() == Some(ErrorKind::OutcomeUnknown);
                        error_chain(&error)
                    })
            }
            Err(why) => Err(why.to_string()),
        };
        match saved {
            Ok(directory) => {
                if !watched.marker.is_armed() {
                    tracing::info!(marker = %self.spec.marker, "armed");
                }
                watched.armed_in = Some(directory);
                watched.marker.set_armed();
                self.alarms.clear(AlarmKind::Unprotected);
            }
            Err(why) => {
                let text = format!(
                    "the job is unprotected: marker {} is there, but that cannot be put on \
                     record, so its removal would stop nothing: {why}",
                    self.spec.marker
                );
                self.alarms
                    .raise(AlarmKind::Unprotected, &text, &self.spec.hooks);
            }
        }
    }
}
