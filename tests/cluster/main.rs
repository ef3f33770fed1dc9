//! Tests against real servers.

#[path = "../common/mod.rs"]
pub mod common;

#[cfg(test)]
mod eye;
mod fixtures;
#[cfg(test)]
mod ha;
#[cfg(test)]
mod kerberos;
#[cfg(test)]
mod markers;
#[cfg(test)]
mod remote;
#[cfg(test)]
mod safety;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod watch;
