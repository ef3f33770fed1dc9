//! Whether a job that ended by itself is started again, and when. Pure: no clock, no randomness.

use std::time::Duration;

use super::exit::Exit;

/// When a job is started again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RestartMode {
    /// Never.
    Never,
    /// When it ended by itself with another code than 0, or by a signal.
    OnFailure,
}

/// How a job is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartPolicy {
    /// When at all.
    pub mode: RestartMode,
    /// The pause before the first restart; each further one doubles it.
    pub first_delay: Duration,
    /// The longest pause.
    pub max_delay: Duration,
    /// A run of at least this length was stable: the count of restarts begins anew.
    pub stable_after: Duration,
    /// How many restarts in a row, without a stable run between them; no limit if none.
    pub max_restarts: Option<u32>,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        RestartPolicy {
            mode: RestartMode::Never,
            first_delay: Duration::from_secs(1),
            max_delay: Duration::from_mins(5),
            stable_after: Duration::from_mins(10),
            max_restarts: Some(10),
        }
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndCause {
    /// Somebody wanted it: a marker, a request, a signal to stepdown.
    OnPurpose,
    /// Nobody did.
    ByItself,
}

/// A run that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedRun {
    /// Why.
    pub cause: EndCause,
    /// How; nothing where it is not known, as for a process that was adopted.
    pub exit: Option<Exit>,
    /// How long it ran.
    pub ran_for: Duration,
}

/// The restarts in a row so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RestartCount(pub u32);

/// What to do after a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartDecision {
    /// Start it again.
    Restart {
        /// After this pause.
        after: Duration,
        /// The count from then on.
        count: RestartCount,
    },
    /// Leave it.
    Leave(LeaveReason),
}

/// Why a job is not started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum LeaveReason {
    /// It was stopped on purpose.
    #[error("it was stopped on purpose")]
    OnPurpose,
    /// The policy is `never`.
    #[error("the restart policy is never")]
    Policy,
    /// It ended with exit code 0.
    #[error("it ended by itself with exit code 0")]
    Success,
    /// Nobody knows its exit code, so nobody knows that it failed.
    #[error("its exit code is not known")]
    ExitUnknown,
    /// It failed too often in a row.
    #[error("it failed again after {0} restarts in a row")]
    TooMany(u32),
}

/// Whether, and after which pause, a run that ended is followed by another one.
///
/// `jitter` from 0 to 1 takes up to half of the pause away, so that jobs which fell together do not
/// get up together.
pub fn decide_restart(
    policy: &RestartPolicy,
    count: RestartCount,
    ended: EndedRun,
    jitter: f64,
) -> RestartDecision {
    use RestartDecision::{Leave, Restart};

    match (ended.cause, policy.mode, ended.exit) {
        (EndCause::OnPurpose, _, _) => return Leave(LeaveReason::OnPurpose),
        (EndCause::ByItself, RestartMode::Never, _) => return Leave(LeaveReason::Policy),
        (EndCause::ByItself, RestartMode::OnFailure, None) => {
            return Leave(LeaveReason::ExitUnknown);
        }
        (EndCause::ByItself, RestartMode::OnFailure, Some(exit)) if exit.is_success() => {
            return Leave(LeaveReason::Success);
        }
        (EndCause::ByItself, RestartMode::OnFailure, Some(_)) => {}
    }
    let restarts = if ended.ran_for >= policy.stable_after {
        0
    } else {
        count.0
    };
    if policy.max_restarts.is_some_and(|max| restarts >= max) {
        return Leave(LeaveReason::TooMany(restarts));
    }
    let factor = 2_u32.saturating_pow(restarts);
    let pause = policy
        .first_delay
        .saturating_mul(factor)
        .min(policy.max_delay);
    let jitter = if jitter.is_finite() {
        jitter.clamp(0.0, 1.0)
    } else {
        0.0
    };
    Restart {
        after: pause.mul_f64(1.0 - jitter / 2.0),
        count: RestartCount(restarts.saturating_add(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: Exit = Exit::Signal {
        number: 9,
        core_dumped: false,
    };

    fn policy(mode: RestartMode, max_restarts: Option<u32>) -> RestartPolicy {
        RestartPolicy {
            mode,
            max_restarts,
            ..RestartPolicy::default()
        }
    }

    fn ended(cause: EndCause, exit: Option<Exit>, ran_for: u64) -> EndedRun {
        EndedRun {
            cause,
            exit,
            ran_for: Duration::from_secs(ran_for),
        }
    }

    #[test]
    fn only_a_failure_that_nobody_wanted_is_followed_by_a_restart() {
        use EndCause::{ByItself, OnPurpose};
        use LeaveReason as L;
        use RestartMode::{Never, OnFailure};
        let table = [
            (
                OnFailure,
                OnPurpose,
                Some(Exit::Code(0)),
                Some(L::OnPurpose),
            ),
            (
                OnFailure,
                OnPurpose,
                Some(Exit::Code(1)),
                Some(L::OnPurpose),
            ),
            (OnFailure, OnPurpose, Some(KILLED), Some(L::OnPurpose)),
            (OnFailure, OnPurpose, None, Some(L::OnPurpose)),
            (Never, OnPurpose, Some(KILLED), Some(L::OnPurpose)),
            (Never, ByItself, Some(KILLED), Some(L::Policy)),
            (Never, ByItself, Some(Exit::Code(0)), Some(L::Policy)),
            (OnFailure, ByItself, Some(Exit::Code(0)), Some(L::Success)),
            (OnFailure, ByItself, None, Some(L::ExitUnknown)),
            (OnFailure, ByItself, Some(Exit::Code(1)), None),
            (OnFailure, ByItself, Some(KILLED), None),
        ];
        for (mode, cause, exit, leave) in table {
            let decision = decide_restart(
                &policy(mode, None),
                RestartCount::default(),
                ended(cause, exit, 5),
                0.0,
            );
            match leave {
                Some(reason) => assert_eq!(decision, RestartDecision::Leave(reason)),
                None => assert!(
                    matches!(decision, RestartDecision::Restart { .. }),
                    "{decision:?}"
                ),
            }
        }
    }

    #[test]
    fn the_pause_doubles_up_to_its_limit_and_a_stable_run_resets_it() {
        let policy = policy(RestartMode::OnFailure, Some(40));
        // (restarts so far, seconds it ran, jitter, pause in milliseconds, count from then on)
        let table = [
            (0, 5, 0.0, 1_000, 1),
            (1, 5, 0.0, 2_000, 2),
            (2, 5, 0.0, 4_000, 3),
            (8, 5, 0.0, 256_000, 9),
            (9, 5, 0.0, 300_000, 10),
            (39, 5, 0.0, 300_000, 40),
            (9, 599, 0.0, 300_000, 10),
            (9, 600, 0.0, 1_000, 1),
            (40, 600, 0.0, 1_000, 1),
            (0, 5, 1.0, 500, 1),
            (0, 5, 0.5, 750, 1),
            (3, 5, 1.0, 4_000, 4),
            // What is no fraction is taken for the nearest one.
            (0, 5, -3.0, 1_000, 1),
            (0, 5, 7.0, 500, 1),
            (0, 5, f64::NAN, 1_000, 1),
        ];
        for (count, ran_for, jitter, pause, next) in table {
            assert_eq!(
                decide_restart(
                    &policy,
                    RestartCount(count),
                    ended(EndCause::ByItself, Some(KILLED), ran_for),
                    jitter
                ),
                RestartDecision::Restart {
                    after: Duration::from_millis(pause),
                    count: RestartCount(next)
                },
                "{count} restarts, ran {ran_for} s, jitter {jitter}"
            );
        }
    }

    #[test]
    fn it_gives_up_after_too_many_restarts_in_a_row() {
        let failed = ended(EndCause::ByItself, Some(KILLED), 5);
        let mut count = RestartCount::default();
        let limited = policy(RestartMode::OnFailure, Some(3));
        for _ in 0..3 {
            let RestartDecision::Restart { count: next, .. } =
                decide_restart(&limited, count, failed, 0.0)
            else {
                panic!("gave up after {count:?}")
            };
            count = next;
        }
        assert_eq!(
            decide_restart(&limited, count, failed, 0.0),
            RestartDecision::Leave(LeaveReason::TooMany(3))
        );
        let none = policy(RestartMode::OnFailure, Some(0));
        assert_eq!(
            decide_restart(&none, RestartCount(0), failed, 0.0),
            RestartDecision::Leave(LeaveReason::TooMany(0))
        );
        let endless = policy(RestartMode::OnFailure, None);
        assert_eq!(
            decide_restart(&endless, RestartCount(u32::MAX), failed, 0.0),
            RestartDecision::Restart {
                after: Duration::from_mins(5),
                count: RestartCount(u32::MAX)
            }
        );
    }
}
