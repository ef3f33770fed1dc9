//! stepdown: a marker-file watcher for Spark streaming jobs.

pub mod checkpoint;
pub mod control;
pub mod model;
pub mod storage;
