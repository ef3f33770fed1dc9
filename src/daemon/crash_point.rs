//! Named places at which a test can have the process killed or halted, as `kill -9` and SIGSTOP would.
//!
//! Empty unless the crate is built with the feature `crash-points`, which only tests do.

/// Ends the process here, at once and without any clean-up, or halts it until it is told to go on, if
/// the test asked for this place.
#[cfg(feature = "crash-points")]
pub(crate) fn crash_point(name: &str) {
    use rustix::process::{Signal, getpid, kill_process};

    tracing::trace!(name, "crash point");
    for (variable, signal) in [
        ("STEPDOWN_CRASH_AT", Signal::KILL),
        ("STEPDOWN_HALT_AT", Signal::STOP),
    ] {
        if std::env::var_os(variable).is_some_and(|at| at == name) {
            let _sent = kill_process(getpid(), signal);
        }
    }
}

/// Does nothing in this build.
#[cfg(not(feature = "crash-points"))]
pub(crate) fn crash_point(_: &str) {}
