//! Tests without servers.

mod hadoop_conf;
