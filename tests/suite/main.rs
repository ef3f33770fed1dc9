//! Tests without servers.

mod process;
