//! stepdown: a marker-file watcher for Spark streaming jobs.

pub mod app;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod doctor;
pub mod hadoop;
pub mod marker;
pub mod model;
pub mod process;
pub mod rollout;
pub mod stop;
pub mod storage;
