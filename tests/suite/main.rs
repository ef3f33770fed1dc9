//! Tests without servers.
