//! stepdown: a marker-file watcher for Spark streaming jobs.

pub mod model;
pub mod process;
pub mod storage;
