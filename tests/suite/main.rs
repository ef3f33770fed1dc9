//! Tests without servers.

mod config;
#[cfg(test)]
mod hadoop_conf;
#[cfg(test)]
mod storage;
