//! The `^C` that a terminal shows when the key is pressed: not while a bar is drawn.
//!
//! The bar leaves the cursor at the right edge, so a `^C` goes to the next line, and the bar that is
//! taken away or drawn anew then is one line off: its old line stays.

use std::io;

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcgetpgrp, tcsetattr};

/// Keeps control keys from being shown; they work as before. Shown again when dropped.
#[derive(Debug)]
pub(super) struct Unechoed(());

impl Unechoed {
    /// Takes effect on the terminal of stderr, if this is its foreground job and it shows them.
    pub(super) fn begin() -> Option<Self> {
        set(|modes| {
            let shown = modes.contains(LocalModes::ECHOCTL);
            modes.remove(LocalModes::ECHOCTL);
            shown
        })
        .then_some(Self(()))
    }
}

impl Drop for Unechoed {
    fn drop(&mut self) {
        set(|modes| {
            modes.insert(LocalModes::ECHOCTL);
            true
        });
    }
}

/// Sets the modes where `change` says that something is to be changed; true if that was done. A job in
/// the background would be stopped for it, and what it shows is not disturbed by keys.
fn set(change: impl FnOnce(&mut LocalModes) -> bool) -> bool {
    let terminal = io::stderr();
    if tcgetpgrp(&terminal) != Ok(getpgrp()) {
        return false;
    }
    let Ok(mut modes) = tcgetattr(&terminal) else {
        return false;
    };
    change(&mut modes.local_modes) && tcsetattr(&terminal, OptionalActions::Now, &modes).is_ok()
}
