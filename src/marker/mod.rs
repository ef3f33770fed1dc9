//! Markers: files whose presence means "this slot should be running".
//!
//! [`poll`] looks at all markers of one directory in one round and says of each `present`, `absent`
//! or `unknown`. [`state`] is the pure part that makes a decision of a row of such sightings: armed,
//! confirmed, wanted. [`watch`] turns file system events into hints to poll now. [`mod@file`] makes and
//! removes markers.

pub mod file;
pub mod poll;
pub mod state;
pub mod watch;

pub use poll::{DirectoryPoll, Guard, GuardRecord, Sighting, Why};
pub use state::{MarkerPolicy, MarkerState, Trigger, Verdict};
