//! Tests without servers.

#[cfg(test)]
mod hadoop_conf;
