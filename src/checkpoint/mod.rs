//! Spark checkpoints: what a directory holds, whether it is sound, and what a copy of it needs.
//!
//! A checkpoint is Spark's directory for one query: `metadata`, `offsets/`, `commits/`, `sources/`,
//! `state/`. Batch N is planned when `offsets/N` exists and committed when `commits/N` exists; it
//! leaves version N+1 of the state.

pub mod contents;
pub mod copies;
pub mod copy;
pub mod diff;
mod error;
pub mod file_sink;
pub mod finding;
pub mod inspect;
pub mod lag;
pub mod layout;
pub mod listing;
pub mod load;
pub mod log;
pub mod manifest;
pub mod needs;
pub mod operator;
pub mod plan;
pub mod progress;
mod query_id;
pub mod replaced;
pub mod retain;
pub mod state_store;
pub mod target;
pub mod verify;

pub use error::CheckpointError;
pub use query_id::{InvalidQueryId, QueryId};
