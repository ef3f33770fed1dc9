//! Tests against real servers.

#[path = "../common/mod.rs"]
pub mod common;

mod fixtures;
#[cfg(test)]
mod hadoop_conf;
#[cfg(test)]
mod hdfs_adapter;
#[cfg(test)]
mod hdfs_failover;
#[cfg(test)]
mod hdfs_kerberos;
#[cfg(test)]
mod hdfs_outages;
#[cfg(test)]
mod hdfs_speed;
