//! The `stepdown` binary.

fn main() {}
