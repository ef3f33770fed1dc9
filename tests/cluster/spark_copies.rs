//! Copies of checkpoints that real Spark writes: each one restarts, and goes on with exactly right
//! sums.

mod cold;
mod hot;
mod lab;
mod on_hdfs;
mod passes;
mod rewound;
mod soak;
mod sums;
