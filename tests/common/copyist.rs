//! Who copies in the tests.

use std::time::Duration;

use anyhow::Result;
use stepdown::checkpoint::copy::Copyist;
use stepdown::control::{LeaseOwner, LeasePolicy};
use stepdown::process::{identify, this_host};

/// This process, as somebody of its own with each call: nobody else's lease counts as left before `ttl` is
/// over.
///
/// # Errors
/// This process or this host cannot be named.
pub fn copyist(ttl: Duration) -> Result<Copyist> {
    Ok(Copyist {
        owner: LeaseOwner {
            instance: uuid::Uuid::new_v4(),
            process: identify(std::process::id())?,
            taken_at: jiff::Timestamp::now(),
        },
        policy: LeasePolicy {
            ttl,
            owner_has_ended: |_| false,
        },
        host: this_host()?.name,
    })
}
