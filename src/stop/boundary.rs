//! When to ask a job that does not drain by itself: after a commit and before the next plan. Pure.
//!
//! From the times at which the batches of a query were planned and committed, all by the storage's own
//! clock, a [`Rhythm`] says how long it will be idle after its last commit. [`judge`] says from what is
//! seen of all queries at this moment whether a request that is sent now arrives in time.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What is done where no gap comes in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtBoundary {
    /// The attempt is asked all the same, wherever its batch is.
    Prefer,
    /// An alarm, and further waiting.
    Require,
}

/// The rules of a request that waits for a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundaryPolicy {
    /// What is done when the patience is over.
    pub at_boundary: AtBoundary,
    /// How long a gap is waited for.
    pub patience: Duration,
    /// How long after the request the driver may still plan a batch; `None` where that is learnt.
    pub reaction: Option<Duration>,
}

/// The reaction of a driver of which no stop is known. A JVM without work ends within one second after
/// SIGTERM to Python and within two after one to `spark-submit`, on a quiet machine.
pub const UNKNOWN_REACTION: Duration = Duration::from_secs(3);

/// How long a driver goes on after a request, from earlier stops: the moment of each request, and the
/// seconds from there to the end. Only those count that found the driver idle, so that nothing but its own
/// end took that time. That is more than the time in which it still plans, which nobody sees. The longest
/// counts, since a driver takes as long again when its machine is as busy again.
pub fn learnt_reaction(stops: impl IntoIterator<Item = (AskedAt, f64)>) -> Option<Duration> {
    stops
        .into_iter()
        .filter(|(asked, _)| matches!(asked, AskedAt::InGap | AskedAt::Quiet))
        .map(|(_, seconds)| duration(seconds))
        .max()
}

/// When a batch was planned and committed, as far as its files are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchTimes {
    /// Time stamp of `offsets/N`.
    pub planned_at: Option<Timestamp>,
    /// Time stamp of `commits/N`.
    pub committed_at: Option<Timestamp>,
}

/// So many of the newest batches count.
const MEMORY: usize = 20;

/// Fewer gaps than this say nothing.
const LEAST_GAPS: usize = 3;

/// Of each so many gaps and intervals one of the shortest is left out as an accident, and of so many
/// batches a regular trigger may come early for one. Of fewer none: batches that follow each other would
/// pass for regular ones.
const ACCIDENTS: usize = 10;

/// How far from a multiple of the interval a plan may come, as a share of the interval.
const PHASE_TOLERANCE: f64 = 0.1;

/// How the batches of a query follow each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Rhythm {
    /// The batches whose plan and commit are known, the oldest first, in seconds since the first plan.
    batches: Vec<Seconds>,
    /// The pause of a trigger that comes by the clock, where there is one.
    interval: Option<f64>,
    /// The gap that all but accidents are as long as.
    short_gap: f64,
    usual_gap: f64,
    last_batch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Seconds {
    planned: f64,
    committed: f64,
}

impl Rhythm {
    /// The rhythm that these batches show; `None` where they are too few.
    pub fn of(batches: &BTreeMap<u64, BatchTimes>) -> Option<Rhythm> {
        let (last_batch, _) = batches.last_key_value()?;
        let mut newest: Vec<(u64, Timestamp, Timestamp)> = batches
            .iter()
            .rev()
            .filter_map(|(batch, times)| Some((*batch, times.planned_at?, times.committed_at?)))
            .take(MEMORY + 1)
            .collect();
        newest.reverse();
        let origin = newest.first()?.1;
        let seconds = |at: Timestamp| at.duration_since(origin).as_secs_f64();
        let mut run: Vec<Seconds> = Vec::with_capacity(newest.len());
        let mut before: Option<u64> = None;
        for (batch, planned_at, committed_at) in newest {
            if before.is_some_and(|before| before + 1 != batch) {
                // What lies before a missing batch does not say how long a gap was.
                run.clear();
            }
            before = Some(batch);
            run.push(Seconds {
                planned: seconds(planned_at),
                committed: seconds(committed_at),
            });
        }
        let gaps: Vec<f64> = pairs(&run).map(|(a, b)| b.planned - a.committed).collect();
        if gaps.len() < LEAST_GAPS {
            return None;
        }
        let mut rhythm = Rhythm {
            interval: None,
            short_gap: but_for_accidents(&gaps)?.max(0.0),
            usual_gap: median(&gaps)?.max(0.0),
            batches: run,
            last_batch: *last_batch,
        };
        rhythm.interval = rhythm.find_interval();
        Some(rhythm)
    }

    /// The gap between two batches as it usually is: the median.
    pub fn usual_gap(&self) -> Duration {
        duration(self.usual_gap)
    }

    /// How long the query is expected to be idle after the commit of its last batch. `None` where that
    /// batch is not committed yet.
    pub fn expected_gap(&self, last_committed: u64) -> Option<Duration> {
        if last_committed != self.last_batch {
            return None;
        }
        let at = self.batches.len().checked_sub(1)?;
        Some(duration(self.gap_after(at)))
    }

    /// The longest gap that could be expected after any of the batches.
    pub fn longest_expected_gap(&self) -> Duration {
        let gaps = (0..self.batches.len()).map(|at| self.gap_after(at));
        duration(gaps.fold(0.0, f64::max))
    }

    fn gap_after(&self, at: usize) -> f64 {
        self.interval
            .and_then(|interval| self.predict(at, interval))
            .unwrap_or(self.short_gap)
            .max(0.0)
    }

    /// The gap after batch `at` if a trigger comes every `interval`: until the next moment of the row
    /// that the newest plan lies in that was in step.
    fn predict(&self, at: usize, interval: f64) -> Option<f64> {
        let batch = self.batches.get(at)?;
        let in_step = |at: &usize| {
            let steps = at
                .checked_sub(1)
                .and_then(|before| self.batches.get(before))
                .zip(self.batches.get(*at))
                .map(|(before, this)| (this.planned - before.planned) / interval);
            steps.is_some_and(|steps| {
                steps > 0.5 && (steps - steps.round()).abs() <= PHASE_TOLERANCE
            })
        };
        let anchor = (0..=at).rev().find(in_step)?;
        let anchor = self.batches.get(anchor)?.planned;
        let steps = ((batch.planned - anchor) / interval + PHASE_TOLERANCE).floor() + 1.0;
        Some(anchor + steps * interval - batch.committed)
    }

    /// The pause of a trigger that comes by the clock. It must have been right for nearly all batches:
    /// none may have been planned before its moment. Later ones are pauses without data.
    fn find_interval(&self) -> Option<f64> {
        let between: Vec<f64> = pairs(&self.batches)
            .map(|(a, b)| b.planned - a.planned)
            .collect();
        let rough = but_for_accidents(&between).filter(|rough| *rough > 0.0)?;
        let parts: Vec<f64> = between
            .iter()
            .filter(|between| {
                let steps = **between / rough;
                steps > 0.5 && (steps - steps.round()).abs() <= PHASE_TOLERANCE
            })
            .map(|between| between / (between / rough).round())
            .collect();
        if parts.len() + accidents(between.len()) < between.len() {
            return None;
        }
        let interval = median(&parts)?;
        let tolerance = (interval * PHASE_TOLERANCE).max(0.02);
        let early = pairs(&self.batches)
            .enumerate()
            .filter(|(at, (this, next))| {
                let gap = next.planned - this.committed;
                self.predict(*at, interval)
                    .is_some_and(|predicted| gap + tolerance < predicted)
            })
            .count();
        (early <= accidents(between.len())).then_some(interval)
    }
}

fn pairs(batches: &[Seconds]) -> impl Iterator<Item = (Seconds, Seconds)> {
    batches.iter().copied().zip(batches.iter().copied().skip(1))
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()
}

/// How many of so many are taken for accidents.
fn accidents(count: usize) -> usize {
    count / ACCIDENTS
}

/// The least of these, but for accidents.
fn but_for_accidents(values: &[f64]) -> Option<f64> {
    sorted(values).get(accidents(values.len())).copied()
}

fn median(values: &[f64]) -> Option<f64> {
    sorted(values).get(values.len() / 2).copied()
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// How long a query has been idle. The truth lies between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleFor {
    /// Since it was seen so.
    pub at_least: Duration,
    /// Since its last commit, by the storage's clock; `None` where that clock is not known here.
    pub at_most: Option<Duration>,
}

/// What is seen of one query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// It cannot be read at the moment.
    Unknown {
        /// Why not.
        why: String,
    },
    /// Its checkpoint does not show its batches, and never will.
    Blind {
        /// Why not.
        why: String,
    },
    /// A batch is planned and not committed.
    Busy,
    /// All that is planned is committed.
    Idle {
        /// Since when.
        idle_for: IdleFor,
        /// How long it is expected to be so in all; `None` where its batches are too few to tell.
        expected: Option<Duration>,
    },
}

/// What a request takes, from the commit that it waits for until the driver plans nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivery {
    /// From the commit until it is seen here: the pause between two looks and two looks, as measured.
    pub look: Duration,
    /// From there until the request is out, as measured.
    pub send: Duration,
    /// From there until the driver plans nothing more: a setting, or learnt.
    pub reaction: Duration,
}

impl Delivery {
    /// How long the rest of a gap must be: what is measured counts twice.
    pub fn needs(&self) -> Duration {
        (self.look + self.send) * 2 + self.reaction
    }
}

/// A query that has been idle for so many times what a request needs, and for twice as long as it was
/// expected to be, is taken to have nothing to do.
const QUIET: u32 = 20;

/// A good moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// In the gap after a commit.
    Gap {
        /// The gap as it is expected; of several queries the one that is over first.
        expected: Duration,
        /// How much of it is left, at least.
        left: Duration,
    },
    /// No query has had anything to do for a long time.
    Quiet {
        /// How long at least.
        idle_for: Duration,
    },
}

/// What stands in the way of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// A checkpoint does not show its batches: waiting does not help.
    Blind {
        /// Why not.
        why: String,
    },
    /// A checkpoint cannot be read.
    Unknown {
        /// Why not.
        why: String,
    },
    /// The gaps of a query are not well above what a request needs.
    Short {
        /// The usual one.
        usual: Duration,
        /// What is needed.
        needs: Duration,
    },
    /// There are too few batches to tell.
    Young,
    /// The gaps are long enough, and the next one is waited for.
    Ahead {
        /// The shortest usual one.
        usual: Duration,
        /// Whether it is one that all of several queries must have together.
        together: bool,
    },
    /// The drain deadline has passed, and a kill would come next.
    Late,
}

impl Hindrance {
    /// Whether it is told in the same words, but for its figures.
    pub fn is_same_sort(&self, other: &Hindrance) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Whether it goes away by itself.
    pub fn is_passing(&self) -> bool {
        match self {
            Hindrance::Young | Hindrance::Ahead { .. } => true,
            Hindrance::Blind { .. }
            | Hindrance::Unknown { .. }
            | Hindrance::Short { .. }
            | Hindrance::Late => false,
        }
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = |duration: &Duration| format!("{:.2} s", duration.as_secs_f64());
        match self {
            Hindrance::Blind { why } => write!(f, "its batches cannot be followed: {why}"),
            Hindrance::Unknown { why } => write!(f, "its batches cannot be read now: {why}"),
            Hindrance::Short { usual, needs } => write!(
                f,
                "no gap: between two batches there are usually {}, and a request needs {}",
                s(usual),
                s(needs)
            ),
            Hindrance::Late => f.write_str("the drain deadline has passed without a gap"),
            Hindrance::Young => f.write_str("it has had too few batches to tell its gaps"),
            Hindrance::Ahead {
                usual,
                together: false,
            } => write!(f, "waiting for the next gap, usually of {}", s(usual)),
            Hindrance::Ahead {
                usual,
                together: true,
            } => write!(
                f,
                "waiting for a gap of all queries together; the shortest is usually of {}",
                s(usual)
            ),
        }
    }
}

/// What is known of one query at this moment.
#[derive(Debug, Clone)]
pub struct QueryNow<'r> {
    /// What is seen of it.
    pub sight: Sight,
    /// How its batches follow each other, where they are enough to tell.
    pub rhythm: Option<&'r Rhythm>,
}

/// Whether a request that is sent now arrives between two batches of every query.
///
/// # Errors
/// What stands in the way.
pub fn judge(queries: &[QueryNow<'_>], delivery: Delivery) -> Result<Moment, Hindrance> {
    let needs = delivery.needs();
    let hindrance = || hinders(queries, needs);
    let mut gap: Option<(Duration, Duration)> = None;
    let mut quiet: Option<Duration> = None;
    for query in queries {
        let Sight::Idle { idle_for, expected } = &query.sight else {
            return Err(hindrance());
        };
        let left = expected
            .zip(idle_for.at_most)
            .and_then(|(expected, idle)| expected.checked_sub(idle));
        match (left, expected) {
            (Some(left), Some(expected)) if left >= needs => {
                if gap.is_none_or(|(_, least)| left < least) {
                    gap = Some((*expected, left));
                }
            }
            _ if idle_for.at_least >= needs * QUIET
                && idle_for.at_least >= expected.unwrap_or_default() * 2 =>
            {
                quiet = Some(quiet.map_or(idle_for.at_least, |least| least.min(idle_for.at_least)));
            }
            _ => return Err(hindrance()),
        }
    }
    match (gap, quiet) {
        (Some((expected, left)), _) => Ok(Moment::Gap { expected, left }),
        (None, Some(idle_for)) => Ok(Moment::Quiet { idle_for }),
        (None, None) => Err(Hindrance::Blind {
            why: "no checkpoint is configured".to_owned(),
        }),
    }
}

/// What stands in the way: the worst first.
fn hinders(queries: &[QueryNow<'_>], needs: Duration) -> Hindrance {
    let why = |wanted: fn(&Sight) -> Option<&String>| {
        queries
            .iter()
            .find_map(|query| wanted(&query.sight))
            .cloned()
    };
    if let Some(why) = why(|sight| match sight {
        Sight::Blind { why } => Some(why),
        Sight::Unknown { .. } | Sight::Busy | Sight::Idle { .. } => None,
    }) {
        return Hindrance::Blind { why };
    }
    if let Some(why) = why(|sight| match sight {
        Sight::Unknown { why } => Some(why),
        Sight::Blind { .. } | Sight::Busy | Sight::Idle { .. } => None,
    }) {
        return Hindrance::Unknown { why };
    }
    let rhythms = queries.iter().filter_map(|query| query.rhythm);
    let shortest = rhythms.min_by_key(|rhythm| rhythm.longest_expected_gap());
    match shortest {
        Some(rhythm) if rhythm.longest_expected_gap() < needs => Hindrance::Short {
            usual: rhythm.usual_gap(),
            needs,
        },
        Some(rhythm) if queries.iter().all(|query| query.rhythm.is_some()) => Hindrance::Ahead {
            usual: rhythm.usual_gap(),
            together: queries.len() > 1,
        },
        Some(_) | None => Hindrance::Young,
    }
}

/// At what moment a request was sent that waited for a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AskedAt {
    /// After a commit and, as was expected, before the next plan.
    InGap,
    /// After a long time without any batch.
    Quiet,
    /// At no such moment: the patience was over, or waiting could not help.
    WithoutGap,
    /// stepdown ended between "about to ask" and "asked".
    Unknown,
}

/// How the moment of a request was chosen; the proof beside it says what came of that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoundaryReport {
    /// At what moment.
    pub asked: AskedAt,
    /// How long that gap was expected to be, in seconds.
    pub gap_seconds: Option<f64>,
    /// How long the query had been idle by then: since its commit at most (`in-gap`), or at least
    /// (`quiet`).
    pub idle_seconds: Option<f64>,
    /// The usual gap; of several queries the shortest.
    pub usual_gap_seconds: Option<f64>,
    /// What had to be left of a gap.
    pub needed_seconds: f64,
    /// The part of it that was measured: seeing a commit and sending the request.
    pub delivery_seconds: f64,
    /// How long the request waited for its moment.
    pub waited_seconds: f64,
    /// Why there was no better moment, or why the driver had to be asked at all.
    pub why: Option<String>,
}

/// What is done at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The request is sent at a good moment.
    Send(Moment),
    /// The request is sent although there is none.
    SendAnyway(Hindrance),
    /// It waits; the flag says that the patience is over, which is worth an alarm.
    Wait {
        /// For what.
        hindrance: Hindrance,
        /// Whether it is waited for longer than was wanted.
        overdue: bool,
    },
}

/// What to do, from the look at this moment and the time that was waited.
pub fn decide(
    judged: Result<Moment, Hindrance>,
    waited: Duration,
    policy: &BoundaryPolicy,
) -> Verdict {
    let hindrance = match judged {
        Ok(moment) => return Verdict::Send(moment),
        Err(hindrance) => hindrance,
    };
    let hopeless = matches!(hindrance, Hindrance::Blind { .. });
    let overdue = hopeless || waited >= policy.patience;
    match policy.at_boundary {
        AtBoundary::Prefer if overdue => Verdict::SendAnyway(hindrance),
        AtBoundary::Prefer | AtBoundary::Require => Verdict::Wait { hindrance, overdue },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: f64) -> Timestamp {
        #[expect(clippy::cast_possible_truncation, reason = "small")]
        Timestamp::from_millisecond(1_000_000 + (seconds * 1000.0).round() as i64).unwrap()
    }

    /// Batches with these times of plan and commit, the first with the number 40.
    fn batches(times: &[(f64, f64)]) -> BTreeMap<u64, BatchTimes> {
        (40..)
            .zip(times)
            .map(|(batch, (planned, committed))| {
                let times = BatchTimes {
                    planned_at: Some(at(*planned)),
                    committed_at: Some(at(*committed)),
                };
                (batch, times)
            })
            .collect()
    }

    fn expected(times: &[(f64, f64)]) -> Option<f64> {
        let batches = batches(times);
        let (last, _) = batches.last_key_value()?;
        let gap = Rhythm::of(&batches)?.expected_gap(*last)?;
        Some((gap.as_secs_f64() * 100.0).round() / 100.0)
    }

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_trigger_that_comes_by_the_clock_says_when_the_next_batch_is_planned() {
        // Every 2 s, with batches of different lengths.
        let steady = [(0.0, 0.5), (2.0, 3.5), (4.0, 4.3), (6.0, 7.0), (8.0, 8.4)];
        assert_eq!(expected(&steady), Some(1.6));
        // Pauses without data in between.
        let pauses = [
            (0.0, 0.5),
            (2.0, 2.5),
            (8.0, 8.5),
            (10.0, 10.5),
            (18.0, 18.5),
        ];
        assert_eq!(expected(&pauses), Some(1.5));
        // A batch that took too long, and the one after it out of step: the next comes in step.
        let mut overrun: Vec<(f64, f64)> = (0..12)
            .map(|n| f64::from(n) * 2.0)
            .map(|t| (t, t + 0.5))
            .collect();
        overrun.extend([(24.0, 26.9), (26.9, 27.4)]);
        assert_eq!(expected(&overrun), Some(0.6));
    }

    #[test]
    fn batches_that_follow_each_other_leave_no_gap() {
        let mut now = 0.0;
        let back_to_back: Vec<(f64, f64)> = [1.0, 3.0, 1.5, 4.0, 0.5, 2.0, 1.0]
            .into_iter()
            .map(|takes| {
                let begun = now;
                now += takes + 0.01;
                (begun, begun + takes)
            })
            .collect();
        let gap = expected(&back_to_back).unwrap();
        assert!(gap < 0.05, "{gap}");
        let rhythm = Rhythm::of(&batches(&back_to_back)).unwrap();
        assert!(rhythm.longest_expected_gap() < s(0.05), "{rhythm:?}");
    }

    #[test]
    fn gaps_without_a_clock_are_taken_as_short_as_they_come() {
        // Batches when there is data.
        let sparse = [
            (0.0, 0.1),
            (7.0, 7.1),
            (8.4, 8.5),
            (31.0, 31.1),
            (33.7, 33.8),
            (50.0, 50.2),
        ];
        assert_eq!(expected(&sparse), Some(1.3));
    }

    #[test]
    fn too_few_batches_say_nothing() {
        assert_eq!(expected(&[]), None);
        assert_eq!(expected(&[(0.0, 0.5), (2.0, 2.5), (4.0, 4.5)]), None);
        // What stands before a missing batch does not count.
        let mut holed = batches(&[(0.0, 0.5), (2.0, 2.5), (4.0, 4.5), (6.0, 6.5), (8.0, 8.5)]);
        assert!(Rhythm::of(&holed).is_some());
        holed.remove(&42);
        assert_eq!(Rhythm::of(&holed), None);
        // A batch that runs is none to expect anything after.
        let mut running = batches(&[(0.0, 0.5), (2.0, 2.5), (4.0, 4.5), (6.0, 6.5), (8.0, 8.5)]);
        running.get_mut(&44).unwrap().committed_at = None;
        let rhythm = Rhythm::of(&running).unwrap();
        assert_eq!(rhythm.expected_gap(43), None);
    }

    const DELIVERY: Delivery = Delivery {
        look: Duration::from_millis(40),
        send: Duration::from_millis(10),
        reaction: Duration::from_secs(1),
    };

    fn steady(gap: f64) -> Rhythm {
        let times: Vec<(f64, f64)> = (0..10)
            .map(|n| f64::from(n) * 4.0)
            .map(|t| (t, t + 4.0 - gap))
            .collect();
        Rhythm::of(&batches(&times)).unwrap()
    }

    fn idle(at_least: f64, at_most: Option<f64>, expected: Option<f64>) -> Sight {
        Sight::Idle {
            idle_for: IdleFor {
                at_least: s(at_least),
                at_most: at_most.map(s),
            },
            expected: expected.map(s),
        }
    }

    #[test]
    fn a_request_goes_where_enough_of_the_gap_is_left() {
        assert_eq!(DELIVERY.needs(), s(1.1));
        let rhythm = steady(2.0);
        let judged = |sight| {
            let now = [QueryNow {
                sight,
                rhythm: Some(&rhythm),
            }];
            judge(&now, DELIVERY)
        };
        let gap = |expected, left| {
            Ok(Moment::Gap {
                expected: s(expected),
                left: s(left),
            })
        };
        assert_eq!(judged(idle(0.0, Some(0.5), Some(2.0))), gap(2.0, 1.5));
        assert_eq!(judged(idle(0.0, Some(0.9), Some(2.0))), gap(2.0, 1.1));
        for late in [
            idle(0.5, Some(1.0), Some(2.0)),
            // The next plan is due.
            idle(2.5, Some(2.5), Some(2.0)),
            // It is not known for how long.
            idle(0.0, None, Some(2.0)),
            Sight::Busy,
        ] {
            assert!(
                matches!(
                    judged(late.clone()),
                    Err(Hindrance::Ahead {
                        together: false,
                        ..
                    })
                ),
                "{late:?}"
            );
        }
        let quiet = Moment::Quiet { idle_for: s(22.0) };
        assert_eq!(judged(idle(22.0, None, Some(2.0))), Ok(quiet));
        assert_eq!(judged(idle(22.0, Some(90.0), None)), Ok(quiet));
        // A long trigger is not quiet because it is late.
        assert!(judged(idle(100.0, Some(100.0), Some(60.0))).is_err());
    }

    #[test]
    fn gaps_that_are_too_short_are_refused_in_words() {
        let rhythm = steady(1.0);
        let judged = judge(
            &[QueryNow {
                sight: idle(0.0, Some(0.1), Some(1.0)),
                rhythm: Some(&rhythm),
            }],
            DELIVERY,
        );
        let text = judged.unwrap_err().to_string();
        assert_eq!(
            text,
            "no gap: between two batches there are usually 1.00 s, and a request needs 1.10 s"
        );
    }

    #[test]
    fn of_several_queries_all_must_be_idle() {
        let (long, short) = (steady(3.0), steady(2.0));
        let now = |a: Sight, b: Sight| {
            judge(
                &[
                    QueryNow {
                        sight: a,
                        rhythm: Some(&long),
                    },
                    QueryNow {
                        sight: b,
                        rhythm: Some(&short),
                    },
                ],
                DELIVERY,
            )
        };
        let both = now(
            idle(0.0, Some(0.5), Some(3.0)),
            idle(0.0, Some(0.2), Some(2.0)),
        );
        let (expected, left) = (s(2.0), s(1.8));
        assert_eq!(both, Ok(Moment::Gap { expected, left }));
        let one = now(idle(0.0, Some(0.5), Some(3.0)), Sight::Busy);
        assert!(
            matches!(one, Err(Hindrance::Ahead { together: true, .. })),
            "{one:?}"
        );
        // One in its gap, the other without data.
        let mixed = now(idle(60.0, None, None), idle(0.0, Some(0.2), Some(2.0)));
        assert_eq!(mixed, Ok(Moment::Gap { expected, left }));
        let why = "async".to_owned();
        let blind = now(Sight::Busy, Sight::Blind { why: why.clone() });
        assert_eq!(blind, Err(Hindrance::Blind { why }));
        assert!(judge(&[], DELIVERY).is_err());
    }

    #[test]
    fn patience_and_policy() {
        let policy = |at_boundary| BoundaryPolicy {
            at_boundary,
            patience: s(10.0),
            reaction: Some(s(1.0)),
        };
        let (prefer, require) = (policy(AtBoundary::Prefer), policy(AtBoundary::Require));
        let young = || Err(Hindrance::Young);
        let wait = |overdue| Verdict::Wait {
            hindrance: Hindrance::Young,
            overdue,
        };
        assert_eq!(decide(young(), s(9.0), &prefer), wait(false));
        assert_eq!(
            decide(young(), s(10.0), &prefer),
            Verdict::SendAnyway(Hindrance::Young)
        );
        assert_eq!(decide(young(), s(10.0), &require), wait(true));
        let moment = Moment::Quiet { idle_for: s(60.0) };
        assert_eq!(decide(Ok(moment), s(99.0), &require), Verdict::Send(moment));
        // Waiting does not help one that cannot be seen.
        let blind = Hindrance::Blind {
            why: "x".to_owned(),
        };
        assert_eq!(
            decide(Err(blind.clone()), Duration::ZERO, &prefer),
            Verdict::SendAnyway(blind.clone())
        );
        assert_eq!(
            decide(Err(blind.clone()), Duration::ZERO, &require),
            Verdict::Wait {
                hindrance: blind,
                overdue: true
            }
        );
    }

    proptest! {
        /// A query with a steady trigger, seen at any moment: whatever is sent arrives before the next
        /// plan.
        #[test]
        fn what_is_sent_by_the_clock_arrives_in_the_gap(
            interval in 1.0_f64..60.0,
            shares in prop::collection::vec(0.01_f64..0.95, 8..40),
            when in 0.0_f64..1.0,
            lateness in 0.0_f64..0.01,
        ) {
            let times: Vec<(f64, f64)> = (0..).zip(&shares).map(|(n, share)| {
                let planned = f64::from(n) * interval + lateness * share;
                (planned, planned + share * interval)
            }).collect();
            let all = batches(&times);
            let rhythm = Rhythm::of(&all).unwrap();
            let (last, _) = all.last_key_value().unwrap();
            let expected = rhythm.expected_gap(*last);
            let (planned, committed) = *times.last().unwrap();
            let next = planned + interval;
            let idle = (next - committed) * when;
            let sight = Sight::Idle {
                idle_for: IdleFor { at_least: Duration::ZERO, at_most: Some(s(idle)) },
                expected,
            };
            let judged = judge(&[QueryNow { sight, rhythm: Some(&rhythm) }], DELIVERY);
            if judged.is_ok() {
                // With the tolerance that the times have.
                prop_assert!(committed + idle + DELIVERY.needs().as_secs_f64() <= next + 0.1 * interval);
            } else {
                // Nothing is given away that is clearly long enough.
                prop_assert!(committed + idle + DELIVERY.needs().as_secs_f64() >= next - 0.1 * interval);
            }
        }
    }

    #[test]
    fn the_reaction_is_learnt_from_stops_that_found_the_driver_idle() {
        assert_eq!(learnt_reaction([]), None);
        let asked_anywhere = [(AskedAt::WithoutGap, 40.0), (AskedAt::Unknown, 2.0)];
        assert_eq!(learnt_reaction(asked_anywhere), None);
        let stops = [
            (AskedAt::InGap, 1.5),
            (AskedAt::Quiet, 2.25),
            (AskedAt::InGap, 0.5),
        ];
        let all = stops.into_iter().chain(asked_anywhere);
        assert_eq!(learnt_reaction(all), Some(Duration::from_millis(2_250)));
    }
}
