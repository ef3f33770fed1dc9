//! Several watchers of one job, storages that fail, clocks that jump: engines in memory, where every
//! single call of the storage can be the one at which something happens.

use std::time::Duration;

use stepdown::marker::Trigger;
use stepdown::stop::Observation;
use stepdown::stop::decide::{Escalate, Outcome};
use stepdown::stop::receipt::How;
use stepdown::storage::ErrorKind;
use stepdown::storage::Storage;
use stepdown::storage::faulty::{Fault, Operation, Signal, When};
use stepdown::storage::memory::MemoryStorage;

use crate::engines::{DRAIN_DEADLINE, Host, LEASE_TTL, Stage, marker, pass, path, until};

fn armed(memory: &MemoryStorage) -> bool {
    let armed = path("/c/state/clicks/armed");
    let paths = memory.paths();
    paths
        .iter()
        .any(|path| path.is_below(&armed) && path.name().starts_with("blue-"))
}

/// Removes the marker a while after the job was armed.
fn remove_once_armed(stage: &Stage) -> tokio::task::JoinHandle<()> {
    let memory = stage.memory.clone();
    tokio::spawn(async move {
        until("the job is armed", || armed(&memory)).await;
        pass(Duration::from_secs(7)).await;
        memory.remove(&marker()).unwrap();
    })
}

/// How many calls of the storage one undisturbed stop makes, from the start of `stepdown` on.
async fn calls_of_one_stop() -> u64 {
    let stage = Stage::new().await;
    let mut host = stage.host("a");
    host.start(&stage);
    remove_once_armed(&stage).await.unwrap();
    until("a receipt is there", || stage.has_receipt()).await;
    host.end().await;
    host.script.all_calls()
}

/// That the job was stopped as it should be: asked once, confirmed once, for its marker.
async fn assert_stopped_once(stage: &Stage, what: &str) {
    stage.await_receipt(what).await;
    pass(LEASE_TTL * 4).await;
    let receipts = stage.receipts().await;
    let told = || format!("{what}\n{receipts:#?}\n{}", stage.log());
    assert_eq!(receipts.len(), 1, "{}", told());
    assert_eq!(receipts[0].outcome, Outcome::Stopped, "{}", told());
    assert_eq!(stage.job.requests().len(), 1, "{}", told());
    assert_eq!(stage.job.kills(), [], "{}", told());
    assert!(!stage.job.runs(), "{}", told());
}

fn executed() -> Fault {
    let now = Signal::new();
    now.give();
    Fault::ExecuteLate(now)
}

/// Ends `stepdown` as `kill -9` does, at this call of the storage, and starts it again.
async fn crash_at(call: u64, fault: Fault, other_host: bool) {
    let what = format!("crash at call {call}, {fault:?}, other host: {other_host}");
    let stage = Stage::new().await;
    let mut host = stage.host("a");
    host.script.inject(When::always().nth(call), fault);
    host.start(&stage);
    let operator = remove_once_armed(&stage);
    until("the call comes", || host.script.faults() == 1).await;
    pass(Duration::from_millis(1)).await;
    host.crash().await;
    pass(Duration::from_secs(3)).await;
    let mut second = if other_host { stage.host("b") } else { host };
    second.start(&stage);
    operator.await.unwrap();
    assert_stopped_once(&stage, &what).await;
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn kill_9_at_every_call_of_the_storage() {
    let calls = calls_of_one_stop().await;
    assert!(calls > 40, "{calls}");
    for call in 1..=calls {
        for other_host in [false, true] {
            crash_at(call, Fault::Hang, other_host).await;
            crash_at(call, executed(), other_host).await;
        }
    }
    println!("{} crashes", calls * 4);
}

/// One stop with a fault at this call and `times - 1` more.
async fn fail_at(call: u64, times: u64, fault: Fault) {
    let what = format!("{fault:?} at call {call}, {times} times");
    let stage = Stage::new().await;
    let mut host = stage.host("a");
    let when = When::always().after(call - 1).times(times);
    host.script.inject(when, fault);
    host.start(&stage);
    remove_once_armed(&stage).await.unwrap();
    assert_stopped_once(&stage, &what).await;
    assert!(host.script.faults() > 0, "{what}: no fault");
    assert!(!host.has_failed(), "{what}\n{}", stage.log());
    host.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_every_call_of_the_storage() {
    let calls = calls_of_one_stop().await;
    let faults = [
        Fault::Refuse(ErrorKind::NoSpace),
        Fault::Refuse(ErrorKind::PermissionDenied),
        Fault::Refuse(ErrorKind::SafeMode),
        Fault::LoseAnswer,
        Fault::Hang,
    ];
    let mut runs = 0;
    for call in 1..=calls {
        for fault in &faults {
            for times in [1, 2, 7] {
                fail_at(call, times, fault.clone()).await;
                runs += 1;
            }
        }
    }
    println!("{runs} runs with failures");
}

/// `stepdown` on host a is halted at this call for longer than a lease holds, as by SIGSTOP, while
/// another one watches on host b; then it goes on with all that it believed.
async fn halt_at(call: u64, fault: Fault) {
    let what = format!("{fault:?} at call {call}");
    let stage = Stage::new().await;
    let mut first = stage.patient_host("a");
    first.script.inject(When::always().nth(call), fault);
    first.start(&stage);
    let mut second = stage.host("b");
    pass(Duration::from_secs(1)).await;
    second.start(&stage);
    remove_once_armed(&stage).await.unwrap();
    assert_stopped_once(&stage, &what).await;
    pass(LEASE_TTL * 10).await;
    assert_stopped_once(&stage, &what).await;
    assert!(
        !first.has_failed() && !second.has_failed(),
        "{what}\n{}",
        stage.log()
    );
    first.end().await;
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_is_halted_at_every_call_and_goes_on_late() {
    let calls = calls_of_one_stop().await;
    for call in 1..=calls {
        halt_at(call, Fault::Delay(LEASE_TTL * 3)).await;
    }
    println!("{calls} runs with a halted watcher");
}

/// What the host asked for at this call is done only long after another finished the stop.
async fn late_write_at(call: u64) {
    let what = format!("late write of call {call}");
    let stage = Stage::new().await;
    let mut first = stage.host("a");
    let later = Signal::new();
    let late = Fault::ExecuteLate(later.clone());
    first.script.inject(When::always().nth(call), late);
    first.start(&stage);
    let operator = remove_once_armed(&stage);
    until("the call comes", || first.script.faults() == 1).await;
    first.crash().await;
    let mut second = stage.host("b");
    second.start(&stage);
    operator.await.unwrap();
    assert_stopped_once(&stage, &what).await;
    let receipts = stage.receipts().await;
    later.give();
    until("the late call is made", || first.script.late_calls() == 1).await;
    pass(LEASE_TTL * 10).await;
    assert_stopped_once(&stage, &what).await;
    assert_eq!(stage.receipts().await, receipts, "{what}");
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_write_of_every_step_that_arrives_after_the_stop() {
    let calls = calls_of_one_stop().await;
    for call in 1..=calls {
        late_write_at(call).await;
    }
    println!("{calls} late calls");
}

/// Where a stop has come to, from its files.
fn is_latched(stage: &Stage) -> bool {
    let paths = stage.paths_in("/c/state/clicks/stops");
    paths
        .iter()
        .any(|path| path.name().ends_with(".latched.json"))
}

/// The marker is touched again at this call; with a crash at the same moment or without.
async fn touch_at(call: u64, crash: bool) -> bool {
    let what = format!("touch at call {call}, crash: {crash}");
    let stage = Stage::new().await;
    let mut host = stage.host("a");
    let pause = Fault::Delay(Duration::from_secs(1));
    host.script.inject(When::always().nth(call), pause);
    host.start(&stage);
    let operator = remove_once_armed(&stage);
    until("the call comes", || host.script.faults() == 1).await;
    // Before the removal a touch says nothing new.
    operator.await.unwrap();
    stage.touch();
    let was_over = !stage.job.runs();
    let latched = is_latched(&stage);
    if crash {
        host.crash().await;
        host.start(&stage);
    }
    pass(LEASE_TTL * 10).await;
    let receipts = stage.receipts().await;
    let told = || format!("{what}\n{receipts:#?}\n{}", stage.log());
    // The one moment in which both may happen is the call that latches itself.
    let stopped = if latched { true } else { is_latched(&stage) };
    if stopped {
        assert_eq!(receipts.len(), 1, "{}", told());
        assert_eq!(receipts[0].outcome, Outcome::Stopped, "{}", told());
        // After the end of the job it may be too late for this receipt.
        assert!(was_over || receipts[0].start_requested, "{}", told());
        let requests = stage.paths_in("/c/requests");
        assert_eq!(
            requests.len(),
            usize::from(receipts[0].start_requested),
            "{}",
            told()
        );
        assert_eq!(stage.job.requests().len(), 1, "{}", told());
    } else {
        assert_eq!(receipts, [], "{}", told());
        assert_eq!(stage.job.requests(), [], "{}", told());
        assert!(stage.job.runs(), "{}", told());
        // It is watched as before.
        stage.remove();
        assert_stopped_once(&stage, &what).await;
    }
    host.end().await;
    stopped
}

#[tokio::test(start_paused = true)]
async fn a_marker_touched_again_at_every_call() {
    let calls = calls_of_one_stop().await;
    let (mut stopped, mut withdrawn) = (0, 0);
    for call in 1..=calls {
        for crash in [false, true] {
            if touch_at(call, crash).await {
                stopped += 1;
            } else {
                withdrawn += 1;
            }
        }
    }
    println!("{stopped} stops, {withdrawn} withdrawn");
    assert!(stopped > 10 && withdrawn > 10, "{stopped} {withdrawn}");
}

/// The job ends by itself at this call.
async fn die_at(call: u64, crash: bool) -> Outcome {
    let what = format!("the job dies at call {call}, crash: {crash}");
    let stage = Stage::new().await;
    stage.job.drains_for(None);
    let mut host = stage.host("a");
    let pause = Fault::Delay(Duration::from_secs(1));
    host.script.inject(When::always().nth(call), pause);
    host.start(&stage);
    let operator = remove_once_armed(&stage);
    until("the call comes", || host.script.faults() == 1).await;
    let armed = armed(&stage.memory);
    stage.job.end(9);
    if crash {
        host.crash().await;
        host.start(&stage);
    }
    if !armed {
        // Nobody knew of it.
        operator.abort();
        host.end().await;
        return Outcome::Died;
    }
    stage.await_receipt(&what).await;
    pass(LEASE_TTL * 10).await;
    let receipts = stage.receipts().await;
    let told = || format!("{what}\n{receipts:#?}\n{}", stage.log());
    assert_eq!(receipts.len(), 1, "{}", told());
    let asked = !stage.job.requests().is_empty();
    if asked {
        assert_eq!(receipts[0].outcome, Outcome::Stopped, "{}", told());
    }
    assert!(stage.job.requests().len() <= 1, "{}", told());
    host.end().await;
    receipts[0].outcome
}

#[tokio::test(start_paused = true)]
async fn a_job_that_dies_at_every_call() {
    // A deaf job: the calls up to the request are those of any stop.
    let calls = calls_of_one_stop().await - 10;
    let (mut died, mut stopped) = (0, 0);
    for call in 1..=calls {
        for crash in [false, true] {
            match die_at(call, crash).await {
                Outcome::Died => died += 1,
                Outcome::Stopped => stopped += 1,
                Outcome::Restarted => panic!("nothing was started"),
            }
        }
    }
    println!("{died} died, {stopped} were stopped");
    assert!(died > 10 && stopped > 2, "{died} {stopped}");
}

/// Starts `stepdown` on host a and waits until the job is armed.
async fn armed_host(stage: &Stage) -> Host {
    let mut host = stage.host("a");
    host.start(stage);
    until("the job is armed", || armed(&stage.memory)).await;
    pass(Duration::from_millis(100)).await;
    host
}

fn unknown() -> Observation {
    Observation::Unknown {
        why: "played".to_owned(),
    }
}

fn over() -> Observation {
    Observation::Stopped { exit: None }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_only_looks_like_over_is_not_stopped() {
    // Its marker was never there, so its absence means nothing, whatever the job looks like.
    let odd: [Vec<Observation>; 5] = [
        vec![over()],
        vec![over(), Observation::Running],
        vec![over(), unknown()],
        vec![over(), unknown(), over(), unknown(), unknown()],
        vec![unknown(), over(), Observation::Running, over(), unknown()],
    ];
    for shown in odd {
        let stage = Stage::new().await;
        stage.remove();
        let mut host = stage.host("a");
        host.start(&stage);
        for _ in 0..50 {
            pass(Duration::from_secs(7)).await;
            stage.job.shows(shown.clone());
        }
        pass(Duration::from_hours(1)).await;
        let told = || format!("{shown:?}\n{}", stage.log());
        assert_eq!(stage.job.requests(), [], "{}", told());
        assert!(!stage.has_receipt() || shown == vec![over()], "{}", told());
        assert!(
            stage.steps_of_all().is_empty(),
            "{:?} {}",
            stage.steps_of_all(),
            told()
        );
        host.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_cannot_be_seen_is_looked_at_in_the_rhythm_of_the_configuration() {
    let stage = Stage::new().await;
    let mut host = armed_host(&stage).await;
    stage.job.vanish(true);
    let before = stage.job.looks();
    pass(Duration::from_mins(10)).await;
    let looks = stage.job.looks() - before;
    assert!((60..=250).contains(&looks), "{looks} looks in ten minutes");
    assert_eq!(stage.alarms("attempt-unknown"), 1, "{}", stage.log());
    // A stop needs nothing of it.
    stage.job.vanish(false);
    stage.remove();
    assert_stopped_once(&stage, "after all").await;
    host.end().await;
}

/// Calls of the storage that a watcher makes in ten minutes of some trouble during a drain.
async fn calls_in_trouble(fault: Fault) -> u64 {
    let stage = Stage::new().await;
    stage.job.drains_for(None);
    let mut host = armed_host(&stage).await;
    stage.remove();
    until("it is asked", || !stage.job.requests().is_empty()).await;
    pass(Duration::from_secs(5)).await;
    host.script.inject(When::always(), fault);
    // By then the lease could not be kept alive, so the end is not what is seen first.
    pass(LEASE_TTL).await;
    stage.job.end(0);
    host.script.reset_counts();
    pass(Duration::from_mins(10)).await;
    let calls = host.script.all_calls();
    host.script.clear();
    assert_stopped_once(&stage, "after the trouble").await;
    assert_eq!(stage.alarms("record-failed"), 1, "{}", stage.log());
    host.end().await;
    calls
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_fails_at_once_is_not_asked_without_pause() {
    for kind in [
        ErrorKind::PermissionDenied,
        ErrorKind::NoSpace,
        ErrorKind::Other,
    ] {
        let calls = calls_in_trouble(Fault::Refuse(kind)).await;
        // Two a second for the stop, some for the polls.
        assert!(calls < 3_000, "{calls} calls in ten minutes with {kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_another_watcher_waits_without_hurry() {
    let stage = Stage::new().await;
    stage.job.drains_for(Some(Duration::from_mins(5)));
    let mut first = armed_host(&stage).await;
    let mut second = stage.host("b");
    second.start(&stage);
    stage.remove();
    until("it is asked", || !stage.job.requests().is_empty()).await;
    let asker = stage.job.requests()[0].host.clone();
    let (holder, waiter) = if asker == "a" {
        (&mut first, &mut second)
    } else {
        (&mut second, &mut first)
    };
    // The job ends, and the holder hangs before its receipt: nothing changes any more.
    holder
        .script
        .inject(When::always(), Fault::Delay(Duration::from_millis(1_900)));
    stage.job.end(0);
    waiter.script.reset_counts();
    pass(Duration::from_secs(10)).await;
    let calls = waiter.script.all_calls();
    assert!(calls < 150, "{calls} calls in ten seconds");
    holder.script.clear();
    assert_stopped_once(&stage, "two watchers").await;
    first.end().await;
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_latch_that_failed_looks_again_before_the_next_try() {
    let stage = Stage::new().await;
    let mut host = armed_host(&stage).await;
    // The latch is the one rename of the intent itself.
    let stops = path("/c/state/clicks/stops");
    let refused = Fault::Refuse(ErrorKind::SafeMode);
    let intent = stops.join(&format!("{}.json", stage.stop_id()));
    host.script
        .inject(When::on(Operation::Rename).at(&intent), refused);
    stage.remove();
    until("the latch fails", || host.script.faults() > 3).await;
    // Minutes later the operator wants the job to go on, and then the storage works again.
    pass(Duration::from_mins(3)).await;
    stage.touch();
    pass(Duration::from_secs(1)).await;
    host.script.clear();
    pass(Duration::from_mins(3)).await;
    assert_eq!(stage.job.requests(), [], "{}", stage.log());
    assert!(stage.job.runs() && !stage.has_receipt(), "{}", stage.log());
    stage.remove();
    assert_stopped_once(&stage, "a later stop").await;
    host.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_confirmed_before_another_took_its_stop_back_is_confirmed_anew() {
    let stage = Stage::new().await;
    // Host a is halted with the lease in its hands, host b waits for it.
    let mut first = stage.patient_host("a");
    first.start(&stage);
    until("the job is armed", || armed(&stage.memory)).await;
    pass(Duration::from_millis(100)).await;
    let halt = Fault::Delay(Duration::from_secs(20));
    let intents = When::on(Operation::Rename).within(&path("/c/state/clicks/stops"));
    first.script.inject(intents.nth(1), halt);
    stage.remove();
    until("the first is halted", || first.script.faults() == 1).await;
    let mut second = stage.host("b");
    second.start(&stage);
    pass(Duration::from_secs(8)).await;
    // Both have confirmed the absence; the marker comes back and stays for a while.
    stage.touch();
    until("the first took its stop back", || {
        stage.log().contains("withdrawn")
    })
    .await;
    pass(Duration::from_millis(200)).await;
    let rounds = second.script.calls(Operation::IdentifyDir);
    stage.remove();
    assert_stopped_once(&stage, "a second removal").await;
    let confirming = second.script.calls(Operation::IdentifyDir) - rounds;
    // The two polls that confirm and the look after the intent ask for the directory twice each.
    assert!(
        confirming >= 6,
        "{confirming} looks at the directory\n{}",
        stage.log()
    );
    first.end().await;
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_intent_that_another_took_back_does_not_hold_the_watcher_up() {
    let stage = Stage::new().await;
    let mut host = armed_host(&stage).await;
    // Halted between the intent and the look, for less than the lease holds.
    let halt = Fault::Delay(Duration::from_millis(1_500));
    let intent = path(&format!("/c/state/clicks/stops/{}.json", stage.stop_id()));
    host.script
        .inject(When::on(Operation::Stat).at(&intent).nth(1), halt);
    stage.remove();
    until("the host is halted", || host.script.faults() == 1).await;
    // A late withdrawal of one that had the lease before.
    let withdrawn = path(&format!(
        "/c/state/clicks/stops/{}.withdrawn-x.json",
        stage.stop_id()
    ));
    stage.memory.rename(&intent, &withdrawn).await.unwrap();
    assert_stopped_once(&stage, "the marker is still gone").await;
    host.end().await;
}

/// Who takes a stop over.
#[derive(Debug, Clone, Copy)]
enum Successor {
    SameBoot,
    Rebooted,
    OtherHost,
}

/// A deaf job, asked, `stepdown` gone, the storage's clock jumps, `stepdown` there again: how long after
/// the request the kill came.
async fn killed_after(jump: i64, successor: Successor, down_for: Duration) -> Duration {
    let mut stage = Stage::new().await;
    stage.escalate = Escalate::Kill;
    stage.job.drains_for(None);
    let mut host = armed_host(&stage).await;
    stage.remove();
    until("it is asked", || !stage.job.requests().is_empty()).await;
    let asked_at = stage.job.requests()[0].at;
    pass(Duration::from_secs(10)).await;
    host.crash().await;
    pass(down_for).await;
    let jumped = stage.memory.now() + jiff::SignedDuration::from_secs(jump);
    stage.memory.set_clock(jumped);
    let mut next = match successor {
        Successor::SameBoot => host,
        Successor::Rebooted => {
            host.reboot();
            host
        }
        Successor::OtherHost => stage.host("b"),
    };
    next.start(&stage);
    until("it is killed", || !stage.job.kills().is_empty()).await;
    let killed_at = stage.job.kills()[0].at;
    // Of its own accord the clock may jump back, too.
    stage
        .memory
        .set_clock(stage.memory.now() - jiff::SignedDuration::from_secs(jump));
    stage.await_receipt("killed").await;
    pass(LEASE_TTL * 3).await;
    assert_eq!(stage.job.kills().len(), 1, "{}", stage.log());
    assert_eq!(stage.job.requests().len(), 1, "{}", stage.log());
    let receipts = stage.receipts().await;
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0].how, How::Killed);
    next.end().await;
    killed_at - asked_at
}

#[tokio::test(start_paused = true)]
async fn no_clock_that_jumps_kills_a_job_early() {
    let mut kills = 0;
    for jump in [0, 300, -300, 599, 601, -601, 86_400, -86_400] {
        for successor in [
            Successor::SameBoot,
            Successor::Rebooted,
            Successor::OtherHost,
        ] {
            for down_for in [Duration::from_secs(1), Duration::from_mins(5)] {
                let after = killed_after(jump, successor, down_for).await;
                assert!(
                    after >= DRAIN_DEADLINE,
                    "killed {after:?} after the request: jump {jump} s, {successor:?}, down {down_for:?}"
                );
                kills += 1;
            }
        }
    }
    println!("{kills} kills");
}

#[tokio::test(start_paused = true)]
async fn a_stop_file_of_another_directory_stops_nothing() {
    let mut stage = Stage::new().await;
    stage.trigger = Trigger::Appears;
    stage.remove();
    let mut host = armed_host(&stage).await;
    // The disk is gone, and what lies below its mount point has an old stop file.
    stage.memory.renew_identity(&path("/c/markers")).unwrap();
    stage.touch();
    let before = host.script.calls(Operation::IdentifyDir);
    pass(Duration::from_mins(10)).await;
    let polls = host.script.calls(Operation::IdentifyDir) - before;
    assert!(polls > 100, "{polls} polls");
    assert_eq!(stage.job.requests(), [], "{}", stage.log());
    assert_eq!(stage.alarms("marker-unknown"), 1, "{}", stage.log());
    assert!(
        stage.steps_of_all().is_empty(),
        "{:?}",
        stage.steps_of_all()
    );
    // Taken away it stands as it should, and is armed here; then it means something.
    stage.remove();
    pass(Duration::from_secs(30)).await;
    stage.touch();
    assert_stopped_once(&stage, "the stop file appears").await;
    host.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_control_directory_that_is_not_mounted_says_nothing() {
    let stage = Stage::new().await;
    let mut host = armed_host(&stage).await;
    host.crash().await;
    // The marker is taken away while stepdown is down, and the control directory is not there when it
    // comes up: it must not be taken for one without an armed record.
    stage.remove();
    let whole = stage.memory.paths();
    stage
        .memory
        .rename(&path("/c"), &path("/elsewhere"))
        .await
        .unwrap();
    host.start(&stage);
    pass(Duration::from_mins(5)).await;
    assert!(
        stage.paths_in("/c").is_empty(),
        "{:?}",
        stage.paths_in("/c")
    );
    assert_eq!(stage.alarms("attempt-unknown"), 1, "{}", stage.log());
    stage
        .memory
        .rename(&path("/elsewhere"), &path("/c"))
        .await
        .unwrap();
    assert_eq!(stage.memory.paths().len(), whole.len());
    assert_stopped_once(&stage, "mounted again").await;
    host.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_another_watcher_armed_is_missed_by_the_one_that_is_left() {
    let stage = Stage::new().await;
    stage.remove();
    let mut second = stage.host("b");
    second.start(&stage);
    pass(Duration::from_secs(1)).await;
    // Between two of its polls the marker comes, is armed by another watcher, and goes.
    stage.touch();
    let mut first = stage.host("a");
    first.start(&stage);
    until("the job is armed", || armed(&stage.memory)).await;
    first.crash().await;
    stage.remove();
    assert_stopped_once(&stage, "armed by another").await;
    second.end().await;
}
