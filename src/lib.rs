//! stepdown: a marker-file watcher for Spark streaming jobs.

pub mod config;
pub mod model;
pub mod storage;
