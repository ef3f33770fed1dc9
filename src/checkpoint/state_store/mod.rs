//! State stores on disk: which files rebuild a version, and whether those files are whole. Pure.

pub mod chain;
pub mod checksum;
pub mod lz4;
pub mod payload;
pub mod rocksdb;
pub mod schema;
pub mod stores;
