//! stepdown: a marker-file watcher for Spark streaming jobs.

pub mod hadoop;
pub mod model;
pub mod storage;
