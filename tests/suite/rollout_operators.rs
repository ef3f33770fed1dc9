//! What operators do to a rollout in each of its states: abort it, remove a marker, touch one.
//!
//! stepdown is killed when it has entered the state, the operator acts, and the rollout is gone on with:
//! so each state is met for sure, however short it is.

use std::fs;
use std::thread;
use std::time::Duration;

use super::rollouts::{Stage, live_through_all, set, text};

/// How many cases run at once; most of the time they wait.
const AT_ONCE: usize = 4;

/// A way through the states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// A hand-over that goes well.
    HandOver,
    /// A hand-over whose checks fail: it is taken back.
    Back,
    /// A stop-start whose new job does not start: the old one is started again.
    Recovery,
    /// Both run side by side for a while.
    Parallel,
}

impl Path {
    fn stage(self) -> Stage {
        let mut stage = match self {
            Path::HandOver | Path::Back => Stage::new("hand-over"),
            Path::Recovery => Stage::new("stop-start"),
            Path::Parallel => Stage::new("parallel"),
        };
        let begun = stage.roll_out(&["--version", "1"]);
        assert!(begun.status.success(), "{}", text(&begun));
        match self {
            Path::HandOver | Path::Parallel => {}
            Path::Back => "gate = [\"sh\", \"-c\", \"exit 3\"]".clone_into(&mut stage.extra),
            Path::Recovery => {
                let words = ["--fail", "start", "--only", "green"].map(str::to_owned);
                stage.job_words.extend(words);
            }
        }
        stage.configure();
        stage
    }
}

/// What the operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Abort,
    Remove(&'static str),
    Touch(&'static str),
}

impl Deed {
    fn act(self, stage: &Stage) {
        match self {
            Deed::Abort => fs::write(stage.path("c/requests/clicks.abort"), "").unwrap(),
            Deed::Remove(slot) => fs::remove_file(stage.marker(slot)).unwrap(),
            Deed::Touch(slot) => fs::write(stage.marker(slot), "").unwrap(),
        }
    }
}

const X: &str = "blue";
const Y: &str = "green";

/// Path, place, deed; the outcome, and the slot that runs then.
type Case = (
    Path,
    &'static str,
    Deed,
    &'static str,
    &'static [&'static str],
);

const CASES: &[Case] = {
    use Deed::{Abort, Remove, Touch};
    use Path::{Back, HandOver, Parallel, Recovery};
    const TO_Y: (&str, &[&str]) = ("rolled-out", &[Y]);
    const TO_X: (&str, &[&str]) = ("recovered", &[X]);
    const AS_BEFORE: (&str, &[&str]) = ("aborted", &[X]);
    const STOPPED: (&str, &[&str]) = ("stopped-by-operator", &[]);
    const PREPARING: &str = "rollout-prepare-new-done";
    const STARTING: &str = "rollout-entered-starting";
    const HELD: &str = "rollout-entered-held";
    const SHADOW: &str = "rollout-entered-shadow";
    const STOPPING: &str = "rollout-entered-stopping";
    const ASKED: &str = "rollout-ask-old-done";
    const AT_REST: &str = "rollout-entered-stopped";
    const CUTOVER: &str = "rollout-entered-cutover";
    const PROVING: &str = "rollout-entered-proving";
    const ABORTING: &str = "rollout-entered-aborting";
    const RECOVERY: &str = "rollout-entered-recover-old";
    &[
        (HandOver, PREPARING, Abort, AS_BEFORE.0, AS_BEFORE.1),
        (HandOver, STARTING, Abort, AS_BEFORE.0, AS_BEFORE.1),
        (HandOver, HELD, Abort, AS_BEFORE.0, AS_BEFORE.1),
        // x's stop cannot be undone; it is started again.
        (HandOver, STOPPING, Abort, TO_X.0, TO_X.1),
        (HandOver, ASKED, Abort, TO_X.0, TO_X.1),
        (HandOver, AT_REST, Abort, TO_X.0, TO_X.1),
        (HandOver, CUTOVER, Abort, TO_X.0, TO_X.1),
        // Too late, or under way already: refused.
        (HandOver, PROVING, Abort, TO_Y.0, TO_Y.1),
        (Back, ABORTING, Abort, AS_BEFORE.0, AS_BEFORE.1),
        (Recovery, RECOVERY, Abort, TO_X.0, TO_X.1),
        (HandOver, PREPARING, Remove(X), STOPPED.0, STOPPED.1),
        (HandOver, STARTING, Remove(X), STOPPED.0, STOPPED.1),
        (HandOver, HELD, Remove(X), STOPPED.0, STOPPED.1),
        (Back, ABORTING, Remove(X), STOPPED.0, STOPPED.1),
        // Nothing runs there yet that it could stop.
        (HandOver, PREPARING, Remove(Y), TO_Y.0, TO_Y.1),
        (Recovery, RECOVERY, Remove(Y), TO_X.0, TO_X.1),
        (Parallel, SHADOW, Abort, AS_BEFORE.0, AS_BEFORE.1),
        (Parallel, SHADOW, Remove(X), STOPPED.0, STOPPED.1),
        (Parallel, SHADOW, Remove(Y), AS_BEFORE.0, AS_BEFORE.1),
        (Parallel, SHADOW, Touch(X), TO_Y.0, TO_Y.1),
        (Parallel, SHADOW, Touch(Y), TO_Y.0, TO_Y.1),
        // It is what the rollout wants, too.
        (HandOver, STOPPING, Remove(X), TO_Y.0, TO_Y.1),
        (HandOver, STARTING, Remove(Y), AS_BEFORE.0, AS_BEFORE.1),
        (HandOver, HELD, Remove(Y), AS_BEFORE.0, AS_BEFORE.1),
        (Back, ABORTING, Remove(Y), AS_BEFORE.0, AS_BEFORE.1),
        // y never got its go.
        (HandOver, ASKED, Remove(Y), TO_X.0, TO_X.1),
        (HandOver, AT_REST, Remove(Y), TO_X.0, TO_X.1),
        (HandOver, CUTOVER, Remove(Y), STOPPED.0, STOPPED.1),
        (HandOver, PROVING, Remove(Y), STOPPED.0, STOPPED.1),
        // A marker says what should run, not what is to be started.
        (HandOver, PREPARING, Touch(X), TO_Y.0, TO_Y.1),
        (HandOver, STARTING, Touch(X), TO_Y.0, TO_Y.1),
        (HandOver, STOPPING, Touch(X), TO_Y.0, TO_Y.1),
        (HandOver, STARTING, Touch(Y), TO_Y.0, TO_Y.1),
        (HandOver, STOPPING, Touch(Y), TO_Y.0, TO_Y.1),
        (HandOver, CUTOVER, Touch(Y), TO_Y.0, TO_Y.1),
        (Back, ABORTING, Touch(X), AS_BEFORE.0, AS_BEFORE.1),
        (HandOver, HELD, Touch(X), TO_Y.0, TO_Y.1),
        (HandOver, AT_REST, Touch(X), TO_Y.0, TO_Y.1),
        (HandOver, CUTOVER, Touch(X), TO_Y.0, TO_Y.1),
        (HandOver, PROVING, Touch(X), TO_Y.0, TO_Y.1),
        (Recovery, RECOVERY, Touch(X), TO_X.0, TO_X.1),
        (HandOver, PREPARING, Touch(Y), TO_Y.0, TO_Y.1),
        (HandOver, HELD, Touch(Y), TO_Y.0, TO_Y.1),
        (HandOver, AT_REST, Touch(Y), TO_Y.0, TO_Y.1),
        (HandOver, PROVING, Touch(Y), TO_Y.0, TO_Y.1),
        (Back, ABORTING, Touch(Y), AS_BEFORE.0, AS_BEFORE.1),
        (Recovery, RECOVERY, Touch(Y), TO_X.0, TO_X.1),
    ]
};

fn live_through(case: &Case) -> Result<(), String> {
    let (path, place, deed, outcome, running) = *case;
    let stage = path.stage();
    let start = &["rollout", "start", "clicks", "--version", "2"][..];
    let killed = stage
        .command(start)
        .env("STEPDOWN_CRASH_AT", place)
        .output()
        .map_err(|error| error.to_string())?;
    if killed.status.code().is_some() {
        return Err(format!("it was not killed: {}", text(&killed)));
    }
    deed.act(&stage);
    if let Deed::Remove(slot) = deed {
        // It sees that by itself, as a job with the kit does, where it has seen its marker before.
        let until = std::time::Instant::now() + Duration::from_secs(2);
        while stage.running().contains(slot) && std::time::Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
    }
    let resumed = stage.stepdown(start);
    let record = stage.record();
    if record["outcome"] != outcome {
        return Err(format!(
            "{} at {}, not {outcome}: {}",
            record["outcome"],
            record["state"],
            text(&resumed)
        ));
    }
    // What it ended may still be on its way out.
    let expected = set(running);
    let begun = std::time::Instant::now();
    while stage.running() != expected {
        if begun.elapsed() > Duration::from_secs(10) {
            return Err(format!("{:?} run, not {running:?}", stage.running()));
        }
        thread::sleep(Duration::from_millis(20));
    }
    if let Some(slot) = running.iter().find(|slot| !stage.marker(slot).exists()) {
        return Err(format!("{slot} runs without its marker"));
    }
    stage.find_fault(match path {
        // Both do the same batches while they run side by side.
        Path::Parallel => Stage::check_sink,
        Path::HandOver | Path::Back | Path::Recovery => Stage::check_exactly_once,
    })
}

#[test]
fn operators_are_respected_in_every_state() {
    live_through_all(CASES.iter().collect(), AT_ONCE, |case| {
        let (path, place, deed, ..) = case;
        live_through(case).map_err(|why| format!("{path:?}, {deed:?} at {place}: {why}"))
    });
}

/// Nothing runs there, and nothing is to be started by itself: not by a marker, not by a request that cannot be met.
#[test]
fn at_needs_human_nothing_is_started_that_nobody_asked_for() {
    let mut stage = Stage::new("hand-over");
    let begun = stage.roll_out(&["--version", "1"]);
    assert!(begun.status.success(), "{}", text(&begun));
    let words = ["--fail", "planned", "--only", Y].map(str::to_owned);
    stage.job_words.extend(words);
    stage.configure();
    let output = stage.roll_out(&["--version", "2"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    let came_there = stage.record();
    // The kit of the job that died made no end of its marker.
    for deed in [
        Deed::Touch(X),
        Deed::Remove(X),
        Deed::Touch(Y),
        Deed::Remove(Y),
        Deed::Abort,
    ] {
        deed.act(&stage);
        let output = stage.roll_out(&["--version", "2"]);
        assert_eq!(output.status.code(), Some(3), "{deed:?}: {}", text(&output));
        assert_eq!(stage.state(), "needs-human", "{deed:?}");
        assert_eq!(stage.running(), set(&[]), "{deed:?}");
    }
    assert_eq!(stage.record()["rollout_id"], came_there["rollout_id"]);

    // Mended, started by hand where it was, and accepted.
    stage.job_words.truncate(2);
    stage.configure();
    stage.start_by_hand(Y);
    super::rollouts::wait_until("the new job to run", || stage.running() == set(&[Y]));
    let said = stage.stepdown(&["rollout", "promote", "clicks"]);
    assert!(said.status.success(), "{}", text(&said));
    assert_eq!(stage.record()["outcome"], "rolled-out");
    assert_eq!(stage.running(), set(&[Y]));
    stage.check_exactly_once();
}
