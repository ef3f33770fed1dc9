//! Tests without servers.

mod config;
mod imports;
