//! Real servers and small tools that both test binaries start.
//!
//! All fixtures are blocking, so that plain tests, async tests and a fixture shared by all tests of a
//! binary can use them alike; an async test whose own tasks have to go on meanwhile uses the
//! multi-threaded runtime (`#[tokio::test(flavor = "multi_thread")]`). Every wait has a deadline, every server dies with the test process, and
//! what it leaves on disk is removed then.

pub mod batches;
pub mod checkpoint_tree;
pub mod client;
pub mod cluster_slot;
pub mod copyist;
pub mod daemon;
pub mod ha;
pub mod hadoop;
pub mod hdfs;
pub mod isolated;
pub mod jmx;
pub mod job;
pub mod kdc;
pub mod node;
pub mod place;
pub mod ports;
pub mod proxy;
pub mod scratch;
pub mod secure;
pub mod server;
pub mod site;
pub mod spark;
pub mod systemd;
pub mod turn;
pub mod wait;
pub mod warm_up;

pub use ha::HaHdfs;
pub use hadoop::HadoopVersion;
pub use hdfs::{Hdfs, HdfsBuilder};
pub use isolated::isolated;
pub use job::Job;
pub use kdc::Kdc;
pub use place::Place;
pub use proxy::{CutProxy, Lost, Traffic};
pub use secure::SecureHdfs;
pub use spark::{Query, Spark, SparkVersion};
pub use systemd::Systemd;
pub use turn::Turn;
pub use wait::{wait_until, wait_until_async};
