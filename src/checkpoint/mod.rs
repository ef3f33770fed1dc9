//! Spark checkpoints: what a directory holds, whether it is sound, and what a copy of it needs.
//!
//! A checkpoint is Spark's directory for one query: `metadata`, `offsets/`, `commits/`, `sources/`,
//! `state/`. Batch N is planned when `offsets/N` exists and committed when `commits/N` exists; it
//! leaves version N+1 of the state.

mod error;
pub mod layout;
pub mod progress;
mod query_id;

pub use error::CheckpointError;
pub use query_id::{InvalidQueryId, QueryId};
