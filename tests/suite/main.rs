//! Tests without servers.

mod config;
