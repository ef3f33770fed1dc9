//! The reference: every key with its default and meaning.

/// `conf/stepdown.toml` as it was when this binary was built.
pub const FILE: &str = include_str!("../../conf/stepdown.toml");
