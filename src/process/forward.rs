//! What the signals mean that `stepdown run` receives: pass on, drain, abort. No I/O but
//! [`signals_to_catch`].

use std::time::{Duration, Instant};

use super::signal::Signal;

/// The signals that `run` passes on to its child.
pub const FORWARDED: [Signal; 6] = [
    Signal::TERM,
    Signal::INT,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
];

/// A second request within this time is the same one: `timeout` signals the process and then its
/// group, a shell and the kernel both tell that the terminal is gone.
const SAME_REQUEST: Duration = Duration::from_millis(250);

/// Whether the child is in a process group of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChildGroup {
    /// It leads one: what the terminal sends reaches it only in the foreground, and then not stepdown.
    Own,
    /// It shares stepdown's: what the terminal sends reaches both.
    Shared,
}

/// What the first request to end does besides the start of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FirstRequest {
    /// The child gets the signal.
    Forward,
    /// The child does not get it: it is drained by other means, and a signal would cut its batch.
    Keep,
}

/// What to do about one received signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaction {
    /// The signal to pass on to the child.
    pub forward: Option<Signal>,
    /// What becomes of the run.
    pub run: RunReaction,
}

/// What a received signal does to the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunReaction {
    /// Nothing.
    GoOn,
    /// Begin to drain: a stop on purpose, no restart after it.
    Drain,
    /// Do not wait any longer.
    Abort,
}

/// The rule "the first request drains, the second aborts", as a state.
///
/// TERM, INT and HUP are requests to end. HUP alone never aborts: nobody is left at the terminal who
/// could have meant it. QUIT, USR1 and USR2 are passed on each time and change nothing (QUIT makes
/// a JVM print its threads).
#[derive(Debug, Clone)]
pub struct SignalPlan {
    first: FirstRequest,
    group: ChildGroup,
    draining: bool,
    requested_at: Option<Instant>,
}

impl SignalPlan {
    /// A plan for a run that is not draining.
    pub fn new(first: FirstRequest, group: ChildGroup) -> SignalPlan {
        SignalPlan {
            first,
            group,
            draining: false,
            requested_at: None,
        }
    }

    /// Notes that a drain began for another reason (the marker is gone): the next request is not
    /// passed on, the one after it aborts.
    pub fn drain_began(&mut self) {
        self.draining = true;
    }

    /// What to do about a signal received at this time.
    pub fn on_signal(&mut self, signal: Signal, at: Instant) -> Reaction {
        let go_on = |forward| Reaction {
            forward,
            run: RunReaction::GoOn,
        };
        // The terminal sends these two to the whole group, so the child has it already.
        let has_it =
            self.group == ChildGroup::Shared && matches!(signal, Signal::INT | Signal::QUIT);
        let forward = Some(signal).filter(|_| !has_it);
        if !matches!(signal, Signal::TERM | Signal::INT | Signal::HUP) {
            return go_on(forward);
        }
        match self.requested_at {
            None => {
                self.requested_at = Some(at);
                if self.draining {
                    return go_on(None);
                }
                self.draining = true;
                Reaction {
                    forward: forward.filter(|_| self.first == FirstRequest::Forward),
                    run: RunReaction::Drain,
                }
            }
            Some(_) if signal == Signal::HUP => go_on(None),
            Some(first_at) if at.saturating_duration_since(first_at) < SAME_REQUEST => go_on(None),
            Some(_) => Reaction {
                forward: None,
                run: RunReaction::Abort,
            },
        }
    }
}

/// The signals of [`FORWARDED`] that this process was not told to ignore when it was started. Ask
/// before any of them is caught.
///
/// `nohup` makes HUP ignored, a shell does so with INT and QUIT for what it starts in the
/// background; to catch one of these would undo it, for the child too.
pub fn signals_to_catch() -> Vec<Signal> {
    let ignored = std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| parse_ignored(&status))
        .unwrap_or(0);
    FORWARDED
        .into_iter()
        .filter(|signal| !is_in(ignored, *signal))
        .collect()
}

fn parse_ignored(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn is_in(set: u64, signal: Signal) -> bool {
    u32::try_from(signal.number() - 1).is_ok_and(|bit| set >> bit & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One run: (received, milliseconds since the start, passed on, what becomes of the run).
    type Step = (Signal, u64, Option<Signal>, RunReaction);

    fn check(name: &str, mut plan: SignalPlan, steps: &[Step]) {
        let start = Instant::now();
        for (index, (signal, millis, forward, run)) in steps.iter().enumerate() {
            let reaction = plan.on_signal(*signal, start + Duration::from_millis(*millis));
            assert_eq!(
                reaction,
                Reaction {
                    forward: *forward,
                    run: *run
                },
                "{name}, step {index}: {signal}"
            );
        }
    }

    #[test]
    fn the_first_request_drains_and_the_second_aborts() {
        use RunReaction::{Abort, Drain, GoOn};
        use Signal as S;
        let own = || SignalPlan::new(FirstRequest::Forward, ChildGroup::Own);
        let shared = || SignalPlan::new(FirstRequest::Forward, ChildGroup::Shared);
        let kept = || SignalPlan::new(FirstRequest::Keep, ChildGroup::Own);
        let draining = || {
            let mut plan = own();
            plan.drain_began();
            plan
        };
        for signal in [S::TERM, S::INT, S::HUP] {
            check("first", own(), &[(signal, 0, Some(signal), Drain)]);
            check(
                "then TERM",
                own(),
                &[
                    (signal, 0, Some(signal), Drain),
                    (S::TERM, 5000, None, Abort),
                ],
            );
        }
        check(
            "repeated within the same request",
            own(),
            &[
                (S::TERM, 0, Some(S::TERM), Drain),
                (S::TERM, 1, None, GoOn),
                (S::INT, 249, None, GoOn),
                (S::INT, 250, None, Abort),
            ],
        );
        check(
            "terminal gone",
            own(),
            &[
                (S::HUP, 0, Some(S::HUP), Drain),
                (S::HUP, 900, None, GoOn),
                (S::HUP, 9000, None, GoOn),
            ],
        );
        check(
            "users' signals",
            own(),
            &[
                (S::USR1, 0, Some(S::USR1), GoOn),
                (S::USR1, 1, Some(S::USR1), GoOn),
                (S::USR2, 2, Some(S::USR2), GoOn),
                (S::QUIT, 3, Some(S::QUIT), GoOn),
                (S::TERM, 4, Some(S::TERM), Drain),
                (S::QUIT, 5000, Some(S::QUIT), GoOn),
                (S::TERM, 6000, None, Abort),
            ],
        );
        check(
            "shared group",
            shared(),
            &[
                (S::QUIT, 0, None, GoOn),
                (S::INT, 1, None, Drain),
                (S::INT, 5000, None, Abort),
            ],
        );
        check(
            "shared group",
            shared(),
            &[(S::TERM, 0, Some(S::TERM), Drain)],
        );
        check(
            "kept from the child",
            kept(),
            &[
                (S::TERM, 0, None, Drain),
                (S::USR1, 1, Some(S::USR1), GoOn),
                (S::TERM, 5000, None, Abort),
            ],
        );
        check(
            "during a drain",
            draining(),
            &[
                (S::TERM, 0, None, GoOn),
                (S::USR1, 1, Some(S::USR1), GoOn),
                (S::TERM, 5000, None, Abort),
            ],
        );
        // A clock that seems to go back makes no abort of it.
        let mut plan = own();
        let start = Instant::now();
        plan.on_signal(S::TERM, start + Duration::from_secs(9));
        assert_eq!(plan.on_signal(S::TERM, start).run, GoOn);
    }

    #[test]
    fn ignored_signals_are_read_from_the_kernels_set() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001007\nSigCgt:\t00000001800054ea\n";
        let ignored = parse_ignored(status).unwrap();
        for (signal, expected) in [
            (Signal::HUP, true),
            (Signal::INT, true),
            (Signal::QUIT, true),
            (Signal::TERM, false),
            (Signal::USR1, false),
        ] {
            assert_eq!(is_in(ignored, signal), expected, "{signal}");
        }
        assert_eq!(parse_ignored("Name: x"), None);
        assert_eq!(parse_ignored("SigIgn:\tx"), None);
    }
}
