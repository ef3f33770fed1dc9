//! Tests without servers.

#[path = "../common/mod.rs"]
pub mod common;

#[cfg(test)]
mod boundary;
#[cfg(test)]
mod checkpoint_cli;
#[cfg(test)]
mod checkpoints;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod config;
#[cfg(test)]
mod copy_on_stop;
#[cfg(test)]
#[cfg(feature = "crash-points")]
mod crashes;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod docs_current;
#[cfg(test)]
mod engines;
#[cfg(test)]
mod hadoop_conf;
#[cfg(test)]
mod imports;
#[cfg(test)]
mod json_output;
#[cfg(test)]
mod kit_status;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod notify;
#[cfg(test)]
mod process;
#[cfg(test)]
mod race_table;
#[cfg(test)]
mod races;
#[cfg(test)]
mod resting;
#[cfg(test)]
#[cfg(feature = "crash-points")]
mod rollout_checks;
#[cfg(test)]
#[cfg(feature = "crash-points")]
mod rollout_crashes;
#[cfg(test)]
#[cfg(feature = "crash-points")]
mod rollout_failures;
#[cfg(test)]
#[cfg(feature = "crash-points")]
mod rollout_hooks;
#[cfg(test)]
#[cfg(feature = "crash-points")]
mod rollout_operators;
#[cfg(test)]
#[cfg(feature = "crash-points")]
mod rollout_queries;
#[cfg(test)]
#[cfg(feature = "crash-points")]
mod rollout_rollback;
#[cfg(test)]
#[cfg(feature = "crash-points")]
mod rollout_shown;
#[cfg(test)]
#[cfg(feature = "crash-points")]
mod rollout_watch;
#[cfg(test)]
mod rollouts;
#[cfg(test)]
mod run_asks;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod stops;
#[cfg(test)]
mod storage;
#[cfg(test)]
mod storage_flaws;
#[cfg(test)]
mod watchers;
