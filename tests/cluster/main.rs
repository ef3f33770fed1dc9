//! Tests against real servers.

#[path = "../common/mod.rs"]
pub mod common;

#[cfg(test)]
mod applications;
#[cfg(test)]
mod boundary;
#[cfg(test)]
mod checkpoint_cli;
#[cfg(test)]
mod checkpoint_faults;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod clicks;
#[cfg(test)]
mod closes;
#[cfg(test)]
mod eye;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod ha;
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
#[cfg(test)]
mod kerberos;
#[cfg(test)]
mod markers;
#[cfg(test)]
mod remote;
#[cfg(test)]
mod rollout_kills;
#[cfg(test)]
mod rollout_outages;
#[cfg(test)]
mod rollout_part;
#[cfg(test)]
mod rollouts;
#[cfg(test)]
mod safety;
#[cfg(test)]
#[path = "../suite/sandbox.rs"]
#[expect(dead_code, reason = "the suite uses more of it")]
mod sandbox;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod spark_copies;
#[cfg(test)]
mod spark_job;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod systemd_driver;
#[cfg(test)]
mod takeover;
#[cfg(test)]
mod watch;
