//! Tests without servers.

#[cfg(test)]
mod checkpoints;
#[cfg(test)]
mod config;
#[cfg(test)]
mod imports;
#[cfg(test)]
mod storage;
