//! Tests without servers.

mod config;
mod imports;
#[cfg(test)]
mod storage;
