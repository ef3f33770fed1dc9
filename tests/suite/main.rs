//! Tests without servers.

mod config;
#[cfg(test)]
mod storage;
