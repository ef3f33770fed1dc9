//! `inspect`, `verify` and the plan of a copy on 22 checkpoints that Spark 3.3 to 4.3 wrote.
//!
//! `tests/fixtures/checkpoints/README.md` says what is in them; every column of its table is checked.

mod copies;
mod facts;
mod hot;
mod large;
mod passes;
mod plans;
mod random;
mod reports;
pub(crate) mod samples;
mod verify;
