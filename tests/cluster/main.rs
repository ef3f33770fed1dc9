//! Tests against real servers.

#[path = "../common/mod.rs"]
pub mod common;

mod fixtures;
#[cfg(test)]
mod hdfs_adapter;
#[cfg(test)]
mod hdfs_speed;
