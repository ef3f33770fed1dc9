//! What to do next in a stop: pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What happens when the drain deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Escalate {
    /// An alarm, and further waiting.
    #[default]
    Never,
    /// The attempt is ended by force.
    Kill,
}

/// The rules of one stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopPolicy {
    /// How long the drain may take.
    pub drain_deadline: Duration,
    /// What then.
    pub escalate: Escalate,
    /// How long after a request of unknown fate (stepdown was killed while asking) it is repeated.
    pub resend_after: Duration,
    /// How long a killed attempt may take to go before the alarm.
    pub kill_deadline: Duration,
}

/// The steps of a stop that are on the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one file that is there or not"
)]
pub struct Steps {
    /// The intent.
    pub intent: bool,
    /// The marker was looked at once more after the intent: no way back.
    pub latched: bool,
    /// The moment at which the attempt can be asked is waited for.
    pub waiting: bool,
    /// Someone was about to ask the attempt.
    pub requesting: bool,
    /// The attempt was asked.
    pub requested: bool,
    /// Someone was about to kill the attempt.
    pub killing: bool,
    /// The stop is over and confirmed.
    pub receipt: bool,
}

/// The look at the marker after the intent was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Not done, or it said nothing.
    Unknown,
    /// The marker still asks for the stop.
    Asks,
    /// It does not ask any more.
    Withdrawn,
}

/// What is observed of the attempt, without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptState {
    /// It runs, draining or not.
    Running,
    /// It is over, and no other one runs.
    Stopped,
    /// It is over, and another one runs.
    Restarted,
    /// It cannot be told.
    Unknown,
}

/// Who wrote `requesting` (or `killing`), and what is known of the act that followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing was written yet.
    None,
    /// This process wrote it and has not acted yet.
    Due,
    /// An earlier process wrote it, so it may have acted: known for this long.
    Inherited(Duration),
    /// Done by this process, or known to be done.
    Done,
}

/// Whether the attempt can be asked right away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It can.
    Now,
    /// When it is between two batches.
    Boundary,
    /// Its driver drains by itself, and has not said yet that it does. Nothing is sent.
    Listening,
}

/// All that a decision sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is seen by itself")]
pub struct Situation {
    /// What is on the storage.
    pub steps: Steps,
    /// The look after the intent.
    pub look: Look,
    /// The attempt.
    pub attempt: AttemptState,
    /// When the attempt can be asked, if it was not yet.
    pub moment: Moment,
    /// State of the request.
    pub request: Act,
    /// State of the kill.
    pub kill: Act,
    /// Time since the attempt was asked, or else since the moment for it is waited for; on trusted
    /// clocks only.
    pub draining_for: Duration,
    /// Whether the driver says that it runs and its marker is present: then nothing is killed.
    pub protected: bool,
    /// Whether the driver looks at the marker itself and needs no request to drain.
    pub drains_itself: bool,
    /// Whether the driver was there to say that it had drained, and did not; nor was it sent anything.
    pub undrained: bool,
    /// Whether the attempt was asked by other means: a signal that `run` passed on.
    pub signalled: bool,
}

/// How a stop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The attempt was asked and is over.
    Stopped,
    /// The attempt was asked and is over, but another one of the slot runs.
    Restarted,
    /// The attempt ended without having been asked; another one may run in its place.
    Died,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Publish the intent.
    SaveIntent,
    /// Look at the marker once more.
    Look,
    /// Take the intent back: the marker does not ask any more.
    Withdraw,
    /// Make the stop irrevocable.
    Latch,
    /// Record that the moment to ask is waited for.
    SaveWaiting,
    /// Wait for the moment to ask, and then record and do it.
    AwaitMoment,
    /// As `AwaitMoment`, and raise the alarm that the deadline has passed.
    OverdueMoment,
    /// Record that the attempt is about to be asked.
    SaveRequesting,
    /// Ask the attempt.
    Request,
    /// Record that it was asked.
    SaveRequested,
    /// Observe the attempt again soon.
    Observe,
    /// As `Observe`, and raise the alarm that the deadline has passed.
    Overdue,
    /// Record that the attempt is about to be killed.
    SaveKilling,
    /// Kill it.
    Kill,
    /// Prove and write the receipt.
    Confirm(Outcome),
    /// Nothing: the receipt is there.
    Done,
}

/// The next thing to do.
pub fn decide(now: &Situation, policy: &StopPolicy) -> Next {
    let steps = now.steps;
    if steps.receipt {
        return Next::Done;
    }
    let was_asked = steps.requesting || now.signalled;
    match now.attempt {
        AttemptState::Stopped | AttemptState::Restarted if now.undrained => {
            return Next::Confirm(Outcome::Died);
        }
        AttemptState::Stopped if was_asked => return Next::Confirm(Outcome::Stopped),
        AttemptState::Restarted if was_asked => return Next::Confirm(Outcome::Restarted),
        AttemptState::Stopped | AttemptState::Restarted if now.drains_itself => {
            let asked_for = if now.attempt == AttemptState::Stopped {
                Outcome::Stopped
            } else {
                Outcome::Restarted
            };
            // It may have seen its marker before anybody else did.
            return match now.look {
                _ if steps.latched => Next::Confirm(asked_for),
                Look::Asks => Next::Confirm(asked_for),
                Look::Unknown => Next::Look,
                Look::Withdrawn => Next::Confirm(Outcome::Died),
            };
        }
        // Until someone was about to ask it, an end is the attempt's own.
        AttemptState::Stopped | AttemptState::Restarted => return Next::Confirm(Outcome::Died),
        AttemptState::Running | AttemptState::Unknown => {}
    }
    if !steps.latched {
        if !steps.intent {
            return Next::SaveIntent;
        }
        return match now.look {
            Look::Unknown => Next::Look,
            Look::Withdrawn => Next::Withdraw,
            Look::Asks => Next::Latch,
        };
    }
    if !steps.requesting {
        let is_late = now.draining_for >= policy.drain_deadline;
        return match now.moment {
            Moment::Now => Next::SaveRequesting,
            Moment::Boundary | Moment::Listening if !steps.waiting => Next::SaveWaiting,
            // It would be killed, which is worse than to be asked in the middle of a batch.
            Moment::Boundary if is_late && policy.escalate == Escalate::Kill => {
                Next::SaveRequesting
            }
            Moment::Boundary | Moment::Listening if is_late => Next::OverdueMoment,
            Moment::Boundary | Moment::Listening => Next::AwaitMoment,
        };
    }
    if !steps.requested {
        match now.request {
            // It may have been asked already, and a second signal can mean "abort" to a driver. Nor is
            // it killed before it is known to have been asked.
            Act::Inherited(known_for) if known_for < policy.resend_after => return Next::Observe,
            Act::None | Act::Due | Act::Inherited(_) => return Next::Request,
            Act::Done => return Next::SaveRequested,
        }
    }
    if now.draining_for < policy.drain_deadline {
        return Next::Observe;
    }
    match policy.escalate {
        Escalate::Never => Next::Overdue,
        Escalate::Kill if now.protected || now.attempt == AttemptState::Unknown => Next::Overdue,
        Escalate::Kill if !steps.killing => Next::SaveKilling,
        // Killing twice does no harm, so an inherited kill is repeated at once.
        Escalate::Kill => match now.kill {
            Act::None | Act::Due | Act::Inherited(_) => Next::Kill,
            Act::Done if now.draining_for < policy.drain_deadline + policy.kill_deadline => {
                Next::Observe
            }
            Act::Done => Next::Overdue,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: StopPolicy = StopPolicy {
        drain_deadline: Duration::from_secs(100),
        escalate: Escalate::Kill,
        resend_after: Duration::from_secs(10),
        kill_deadline: Duration::from_secs(5),
    };

    fn start() -> Situation {
        Situation {
            steps: Steps::default(),
            look: Look::Unknown,
            attempt: AttemptState::Running,
            moment: Moment::Now,
            request: Act::None,
            kill: Act::None,
            draining_for: Duration::ZERO,
            protected: false,
            drains_itself: false,
            undrained: false,
            signalled: false,
        }
    }

    #[test]
    fn a_request_waits_for_its_moment_after_the_latch() {
        let mut now = start();
        now.steps.intent = true;
        now.moment = Moment::Boundary;
        assert_eq!(decide(&now, &POLICY), Next::Look);
        now.steps.latched = true;
        assert_eq!(decide(&now, &POLICY), Next::SaveWaiting);
        now.steps.waiting = true;
        now.draining_for = Duration::from_secs(99);
        assert_eq!(decide(&now, &POLICY), Next::AwaitMoment);
        // One that ends meanwhile was not asked.
        let ended = Situation {
            attempt: AttemptState::Stopped,
            ..now
        };
        assert_eq!(decide(&ended, &POLICY), Next::Confirm(Outcome::Died));
        now.moment = Moment::Now;
        assert_eq!(decide(&now, &POLICY), Next::SaveRequesting);
    }

    #[test]
    fn at_the_deadline_one_that_waits_is_asked_before_it_is_killed() {
        let mut now = start();
        (now.steps.intent, now.steps.latched, now.steps.waiting) = (true, true, true);
        now.moment = Moment::Boundary;
        now.draining_for = Duration::from_secs(100);
        assert_eq!(decide(&now, &POLICY), Next::SaveRequesting);
        let never = StopPolicy {
            escalate: Escalate::Never,
            ..POLICY
        };
        assert_eq!(decide(&now, &never), Next::OverdueMoment);
        // Nothing is sent to a driver that is there and listens.
        now.moment = Moment::Listening;
        assert_eq!(decide(&now, &POLICY), Next::OverdueMoment);
    }

    #[test]
    fn a_driver_that_never_said_that_it_had_drained_died() {
        let mut now = start();
        (now.steps.intent, now.steps.latched) = (true, true);
        (now.steps.requesting, now.steps.requested) = (true, true);
        now.drains_itself = true;
        now.attempt = AttemptState::Stopped;
        assert_eq!(decide(&now, &POLICY), Next::Confirm(Outcome::Stopped));
        now.undrained = true;
        assert_eq!(decide(&now, &POLICY), Next::Confirm(Outcome::Died));
    }

    #[test]
    fn an_attempt_that_ends_on_a_passed_on_signal_was_stopped() {
        let ended = Situation {
            attempt: AttemptState::Stopped,
            ..start()
        };
        assert_eq!(decide(&ended, &POLICY), Next::Confirm(Outcome::Died));
        let signalled = Situation {
            signalled: true,
            ..ended
        };
        assert_eq!(decide(&signalled, &POLICY), Next::Confirm(Outcome::Stopped));
    }

    #[test]
    fn the_steps_in_order() {
        let mut now = start();
        let mut row = Vec::new();
        for _ in 0..20 {
            let next = decide(&now, &POLICY);
            row.push(next);
            match next {
                Next::SaveIntent => now.steps.intent = true,
                Next::Look => now.look = Look::Asks,
                Next::Latch => now.steps.latched = true,
                Next::SaveRequesting => {
                    now.steps.requesting = true;
                    now.request = Act::Due;
                }
                Next::Request => now.request = Act::Done,
                Next::SaveRequested => now.steps.requested = true,
                Next::Observe => now.attempt = AttemptState::Stopped,
                Next::Confirm(_) => now.steps.receipt = true,
                Next::Done => break,
                Next::Withdraw
                | Next::SaveWaiting
                | Next::AwaitMoment
                | Next::OverdueMoment
                | Next::Overdue
                | Next::SaveKilling
                | Next::Kill => unreachable!(),
            }
        }
        assert_eq!(
            row,
            [
                Next::SaveIntent,
                Next::Look,
                Next::Latch,
                Next::SaveRequesting,
                Next::Request,
                Next::SaveRequested,
                Next::Observe,
                Next::Confirm(Outcome::Stopped),
                Next::Done
            ]
        );
    }

    #[test]
    fn a_touch_between_intent_and_latch_withdraws() {
        let mut now = start();
        now.steps.intent = true;
        now.look = Look::Withdrawn;
        assert_eq!(decide(&now, &POLICY), Next::Withdraw);
    }

    #[test]
    fn a_driver_that_sees_its_marker_itself_was_stopped_by_it() {
        let ended = Situation {
            attempt: AttemptState::Stopped,
            drains_itself: true,
            ..start()
        };
        assert_eq!(decide(&ended, &POLICY), Next::Look);
        let looked = |look| decide(&Situation { look, ..ended }, &POLICY);
        assert_eq!(looked(Look::Asks), Next::Confirm(Outcome::Stopped));
        assert_eq!(looked(Look::Withdrawn), Next::Confirm(Outcome::Died));
    }

    #[test]
    fn a_request_of_unknown_fate_waits_before_it_is_repeated() {
        let mut now = start();
        now.steps = Steps {
            intent: true,
            latched: true,
            requesting: true,
            ..Steps::default()
        };
        now.request = Act::Inherited(Duration::from_secs(3));
        assert_eq!(decide(&now, &POLICY), Next::Observe);
        now.request = Act::Inherited(Duration::from_secs(10));
        assert_eq!(decide(&now, &POLICY), Next::Request);
    }

    #[test]
    fn deadlines_and_escalation() {
        let mut now = start();
        now.steps = Steps {
            intent: true,
            latched: true,
            requesting: true,
            requested: true,
            ..Steps::default()
        };
        now.request = Act::Done;
        now.draining_for = Duration::from_secs(99);
        assert_eq!(decide(&now, &POLICY), Next::Observe);
        now.draining_for = Duration::from_secs(100);
        assert_eq!(decide(&now, &POLICY), Next::SaveKilling);
        assert_eq!(
            decide(
                &Situation {
                    protected: true,
                    ..now
                },
                &POLICY
            ),
            Next::Overdue
        );
        let never = StopPolicy {
            escalate: Escalate::Never,
            ..POLICY
        };
        assert_eq!(decide(&now, &never), Next::Overdue);
        now.steps.killing = true;
        now.kill = Act::Inherited(Duration::ZERO);
        assert_eq!(decide(&now, &POLICY), Next::Kill);
        now.kill = Act::Done;
        assert_eq!(decide(&now, &POLICY), Next::Observe);
        now.draining_for = Duration::from_secs(106);
        assert_eq!(decide(&now, &POLICY), Next::Overdue);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Over random worlds and crashes: nothing is asked before the latch, nothing latched
        /// without a look that asked, nothing killed early or while protected, and only one receipt.
        #[test]
        fn the_never_list_holds(events in prop::collection::vec((0_u8..12, 0_u64..40), 1..120)) {
            let mut now = start();
            let mut looked = false;
            let mut requests = 0_u32;
            let mut receipts = 0_u32;
            let mut crashed_while_asking = false;
            for (event, seconds) in events {
                let wait = Duration::from_secs(seconds);
                if now.steps.latched { now.draining_for += wait; }
                if let Act::Inherited(known) = &mut now.request { *known += wait; }
                match event {
                    0 => now.attempt = AttemptState::Unknown,
                    1 => now.attempt = AttemptState::Running,
                    2 if receipts == 0 => now.protected = !now.protected,
                    // A crash: all that is not on the storage is forgotten.
                    3 => {
                        now.look = Look::Unknown;
                        looked = false;
                        now.draining_for = Duration::ZERO;
                        now.request = match now.steps {
                            Steps { requested: true, .. } => Act::Done,
                            Steps { requesting: true, .. } => {
                                crashed_while_asking = true;
                                Act::Inherited(Duration::ZERO)
                            }
                            _ => Act::None,
                        };
                        now.kill = if now.steps.killing { Act::Inherited(Duration::ZERO) } else { Act::None };
                    }
                    4 if requests > 0 => now.attempt = AttemptState::Stopped,
                    7 => now.moment = Moment::Boundary,
                    8 => now.moment = Moment::Now,
                    9 => now.moment = Moment::Listening,
                    _ => {}
                }
                match decide(&now, &POLICY) {
                    Next::SaveIntent => { prop_assert!(!now.steps.latched); now.steps.intent = true; }
                    Next::Look => { now.look = if event == 5 { Look::Withdrawn } else if event == 6 { Look::Unknown } else { Look::Asks }; looked = now.look == Look::Asks; }
                    Next::Withdraw => { prop_assert!(!now.steps.latched); now.steps.intent = false; now.look = Look::Unknown; }
                    Next::Latch => { prop_assert!(looked && now.steps.intent); now.steps.latched = true; }
                    Next::SaveWaiting => { prop_assert!(now.steps.latched && !now.steps.waiting); now.steps.waiting = true; }
                    Next::AwaitMoment | Next::OverdueMoment => {
                        prop_assert!(now.steps.waiting && !now.steps.requesting && now.moment != Moment::Now);
                        if event >= 10 && now.moment == Moment::Boundary {
                            now.steps.requesting = true;
                            now.request = Act::Done;
                            now.draining_for = Duration::ZERO;
                            requests += 1;
                        }
                    }
                    Next::SaveRequesting => { prop_assert!(now.steps.latched && now.moment != Moment::Listening); now.steps.requesting = true; now.request = Act::Due; }
                    Next::Request => {
                        prop_assert!(now.steps.latched && now.steps.requesting);
                        requests += 1;
                        now.request = Act::Done;
                    }
                    Next::SaveRequested => now.steps.requested = true,
                    Next::SaveKilling => { prop_assert!(now.draining_for >= POLICY.drain_deadline && !now.protected); now.steps.killing = true; now.kill = Act::Due; }
                    Next::Kill => { prop_assert!(now.draining_for >= POLICY.drain_deadline && !now.protected); now.kill = Act::Done; }
                    Next::Confirm(outcome) => {
                        receipts += 1;
                        prop_assert!(matches!(now.attempt, AttemptState::Stopped | AttemptState::Restarted));
                        prop_assert_eq!(outcome == Outcome::Died, !now.steps.requesting);
                        now.steps.receipt = true;
                    }
                    Next::Observe | Next::Overdue | Next::Done => {}
                }
            }
            prop_assert!(receipts <= 1);
            if !crashed_while_asking { prop_assert!(requests <= 1); }
        }
    }
}
