//! Tests without servers.

#[cfg(test)]
mod storage;
