//! Tests without servers.

mod config;
#[cfg(test)]
mod storage;
#[cfg(test)]
mod storage_flaws;
