//! From sightings to a decision: pure, without clock or storage.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::poll::Sighting;

/// What a marker does to ask for a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// It disappears.
    #[default]
    Disappears,
    /// It appears (recipes with a stop file).
    Appears,
}

impl Trigger {
    /// Whether a sighting asks for a stop; `None` if it says nothing.
    pub fn asks(self, sighting: &Sighting) -> Option<bool> {
        match (sighting, self) {
            (Sighting::Unknown(_), _) => None,
            (Sighting::Absent, Trigger::Disappears) | (Sighting::Present(_), Trigger::Appears) => {
                Some(true)
            }
            (Sighting::Present(_), Trigger::Disappears) | (Sighting::Absent, Trigger::Appears) => {
                Some(false)
            }
        }
    }
}

/// The numbers by which sightings become a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkerPolicy {
    /// What asks for a stop.
    pub trigger: Trigger,
    /// How many sightings in a row must say so; at least 1.
    pub confirm: u32,
    /// How far these must be apart.
    pub confirm_spacing: Duration,
    /// How long a marker may be unknown before an alarm.
    pub alarm_after: Duration,
}

/// What to do after a sighting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on watching.
    Watch,
    /// The marker stands as it should and this is not saved yet: save it, then call
    /// [`MarkerState::set_armed`].
    Arm,
    /// The stop is asked for, but not confirmed: look again at this time.
    LookAgainAt(Duration),
    /// The stop is asked for, confirmed, of an armed attempt.
    StopWanted,
    /// The marker has been unknown for too long; said once for each time it becomes so.
    Alarm {
        /// Since when.
        unknown_for: Duration,
        /// What the last sighting said.
        why: String,
    },
    /// A marker that was in alarm is known again; said once. Sightings go on counting.
    AlarmOver,
}

/// What is remembered of one marker from one sighting to the next. Times are durations since any
/// fixed moment of one monotonic clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MarkerState {
    armed: bool,
    /// Count of confirming sightings and the time of the last one.
    asked: Option<(u32, Duration)>,
    unknown_since: Option<Duration>,
    in_alarm: bool,
}

impl MarkerState {
    /// The state of an attempt that was armed before (by this process or an earlier one), or not.
    pub fn new(armed: bool) -> Self {
        Self {
            armed,
            ..Self::default()
        }
    }

    /// Says that the armed record is saved: from now on an absence means something.
    pub fn set_armed(&mut self) {
        self.armed = true;
    }

    /// Whether an absence means something.
    pub fn is_armed(&self) -> bool {
        self.armed
    }

    /// Whether the last sightings ask for a stop, confirmed or not.
    pub fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether the same sighting again would change nothing, however long it goes on.
    pub fn is_settled(&self) -> bool {
        self.asked.is_none() && self.unknown_since.is_none() && !self.in_alarm
    }

    /// Takes one sighting and decides.
    ///
    /// An unknown sighting never counts, and the confirmations before it are void: only complete
    /// rounds in a row confirm.
    pub fn decide(&mut self, sighting: &Sighting, at: Duration, policy: &MarkerPolicy) -> Verdict {
        let Some(asks) = policy.trigger.asks(sighting) else {
            self.asked = None;
            let since = *self.unknown_since.get_or_insert(at);
            let unknown_for = at.saturating_sub(since);
            if !self.in_alarm && unknown_for >= policy.alarm_after {
                self.in_alarm = true;
                let why = match sighting {
                    Sighting::Unknown(why) => why.to_string(),
                    Sighting::Present(_) | Sighting::Absent => String::new(),
                };
                return Verdict::Alarm { unknown_for, why };
            }
            return Verdict::Watch;
        };
        self.unknown_since = None;
        if std::mem::take(&mut self.in_alarm) {
            // The caller is told first; this sighting is repeated in the next round.
            self.asked = None;
            return Verdict::AlarmOver;
        }
        if !asks {
            self.asked = None;
            return if self.armed {
                Verdict::Watch
            } else {
                Verdict::Arm
            };
        }
        if !self.armed {
            return Verdict::Watch;
        }
        let (count, last) = match self.asked {
            None => (1, at),
            // Too soon after the one before: it may be the same moment of the same cache.
            Some((count, last)) if at < last + policy.confirm_spacing => (count, last),
            Some((count, _)) => (count.saturating_add(1), at),
        };
        self.asked = Some((count, last));
        if count >= policy.confirm.max(1) {
            Verdict::StopWanted
        } else {
            Verdict::LookAgainAt(last + policy.confirm_spacing)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::poll::Why;
    use super::*;

    const POLICY: MarkerPolicy = MarkerPolicy {
        trigger: Trigger::Disappears,
        confirm: 2,
        confirm_spacing: Duration::from_millis(20),
        alarm_after: Duration::from_mins(1),
    };

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn unknown() -> Sighting {
        Sighting::Unknown(Why::NotLooked)
    }

    #[test]
    fn never_missed_before_it_was_seen() {
        let mut state = MarkerState::new(false);
        for at in 0..10 {
            assert_eq!(
                state.decide(&Sighting::Absent, ms(at * 1000), &POLICY),
                Verdict::Watch
            );
        }
        assert_eq!(
            state.decide(&Sighting::present(), ms(11_000), &POLICY),
            Verdict::Arm
        );
        // Not saved yet: an absence still means nothing.
        assert_eq!(
            state.decide(&Sighting::Absent, ms(12_000), &POLICY),
            Verdict::Watch
        );
        state.set_armed();
        assert_eq!(
            state.decide(&Sighting::Absent, ms(13_000), &POLICY),
            Verdict::LookAgainAt(ms(13_020))
        );
        assert_eq!(
            state.decide(&Sighting::Absent, ms(13_020), &POLICY),
            Verdict::StopWanted
        );
    }

    #[test]
    fn confirmations_must_be_spaced_and_in_a_row() {
        let mut state = MarkerState::new(true);
        assert_eq!(
            state.decide(&Sighting::Absent, ms(0), &POLICY),
            Verdict::LookAgainAt(ms(20))
        );
        assert_eq!(
            state.decide(&Sighting::Absent, ms(5), &POLICY),
            Verdict::LookAgainAt(ms(20))
        );
        assert_eq!(state.decide(&unknown(), ms(21), &POLICY), Verdict::Watch);
        assert_eq!(
            state.decide(&Sighting::Absent, ms(30), &POLICY),
            Verdict::LookAgainAt(ms(50))
        );
        assert_eq!(
            state.decide(&Sighting::present(), ms(40), &POLICY),
            Verdict::Watch
        );
        assert_eq!(
            state.decide(&Sighting::Absent, ms(60), &POLICY),
            Verdict::LookAgainAt(ms(80))
        );
        assert_eq!(
            state.decide(&Sighting::Absent, ms(80), &POLICY),
            Verdict::StopWanted
        );
    }

    #[test]
    fn unknown_raises_one_alarm_and_one_all_clear() {
        let mut state = MarkerState::new(true);
        assert_eq!(state.decide(&unknown(), ms(0), &POLICY), Verdict::Watch);
        assert!(matches!(
            state.decide(&unknown(), ms(60_000), &POLICY),
            Verdict::Alarm { .. }
        ));
        assert_eq!(
            state.decide(&unknown(), ms(70_000), &POLICY),
            Verdict::Watch
        );
        assert_eq!(
            state.decide(&Sighting::Absent, ms(80_000), &POLICY),
            Verdict::AlarmOver
        );
        assert!(matches!(
            state.decide(&Sighting::Absent, ms(81_000), &POLICY),
            Verdict::LookAgainAt(_)
        ));
    }

    #[test]
    fn a_stop_file_is_the_mirror_image() {
        let policy = MarkerPolicy {
            trigger: Trigger::Appears,
            ..POLICY
        };
        let mut state = MarkerState::new(false);
        assert_eq!(
            state.decide(&Sighting::present(), ms(0), &policy),
            Verdict::Watch
        );
        assert_eq!(
            state.decide(&Sighting::Absent, ms(100), &policy),
            Verdict::Arm
        );
        state.set_armed();
        assert!(matches!(
            state.decide(&Sighting::present(), ms(200), &policy),
            Verdict::LookAgainAt(_)
        ));
        assert_eq!(
            state.decide(&Sighting::present(), ms(300), &policy),
            Verdict::StopWanted
        );
    }

    fn sightings() -> impl Strategy<Value = Vec<(u8, u64)>> {
        prop::collection::vec((0_u8..3, 0_u64..5_000), 1..200)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever is seen: a stop needs an armed attempt and `confirm` absences in a row, spaced,
        /// with nothing else between them.
        #[test]
        fn a_stop_is_always_earned(steps in sightings(), confirm in 1_u32..5) {
            let policy = MarkerPolicy { confirm, ..POLICY };
            let mut state = MarkerState::new(false);
            let mut at = Duration::ZERO;
            let mut seen_present = false;
            let mut row: Vec<Duration> = Vec::new();
            for (kind, pause) in steps {
                at += ms(pause);
                let sighting = match kind {
                    0 => Sighting::present(),
                    1 => Sighting::Absent,
                    _ => unknown(),
                };
                match kind {
                    0 => { seen_present = true; row.clear(); }
                    1 => row.push(at),
                    _ => row.clear(),
                }
                match state.decide(&sighting, at, &policy) {
                    Verdict::Arm => { prop_assert!(kind == 0); state.set_armed(); }
                    Verdict::StopWanted => {
                        prop_assert!(seen_present && kind == 1);
                        prop_assert!(row.len() >= confirm as usize);
                        let span = at.saturating_sub(row[0]);
                        prop_assert!(span >= policy.confirm_spacing * (confirm - 1));
                    }
                    Verdict::LookAgainAt(when) => prop_assert!(kind == 1 && when + policy.confirm_spacing >= at),
                    Verdict::Watch | Verdict::Alarm { .. } | Verdict::AlarmOver => {}
                }
            }
        }
    }
}
