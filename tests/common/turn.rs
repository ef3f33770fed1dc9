//! Tests that keep the processor busy take turns, however many run at once: most tests wait for a
//! deadline, and those beside them would miss theirs.

use std::num::NonZero;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::available_parallelism;

static BUSY: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to keep a core busy, until it is dropped.
#[derive(Debug)]
pub struct Turn(());

impl Turn {
    /// Waits until fewer tests than there are cores have one. A test must not ask for a second one.
    pub fn take() -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        let busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
        let mut busy = ENDED
            .wait_while(busy, |busy| *busy >= cores)
            .unwrap_or_else(PoisonError::into_inner);
        *busy += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *BUSY.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}
