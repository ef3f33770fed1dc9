//! Named places at which a test can have the process killed, as `kill -9` would.
//!
//! Empty unless the crate is built with the feature `crash-points`, which only tests do.

/// Ends the process here, at once and without any clean-up, if the test asked for this place.
#[cfg(feature = "crash-points")]
pub(crate) fn crash_point(name: &str) {
    if std::env::var("STEPDOWN_CRASH_AT").is_ok_and(|at| at == name) {
        let me = rustix::process::getpid();
        let _killed = rustix::process::kill_process(me, rustix::process::Signal::KILL);
    }
}

/// Does nothing in this build.
#[cfg(not(feature = "crash-points"))]
pub(crate) fn crash_point(_: &str) {}
