//! Hadoop's XML configuration files.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The properties of one `*-site.xml`.
#[derive(Debug, Clone, Default)]
pub struct Site(BTreeMap<String, String>);

impl Site {
    /// Sets one property, replacing an earlier value.
    pub fn set(&mut self, key: impl Into<String>, value: impl Display) -> &mut Self {
        self.0.insert(key.into(), value.to_string());
        self
    }

    /// Sets all properties of `other`, which win.
    pub fn merge(&mut self, other: &Site) -> &mut Self {
        self.0.extend(other.0.clone());
        self
    }

    /// The value of `key`, if it is set.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The file as Hadoop reads it.
    pub fn to_xml(&self) -> String {
        let mut xml = String::from("<?xml version=\"1.0\"?>\n<configuration>\n");
        for (key, value) in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(
                xml,
                "  <property><name>{}</name><value>{}</value></property>",
                escape(key),
                escape(value)
            );
        }
        xml.push_str("</configuration>\n");
        xml
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Has servers renew the figures that they show every second instead of every ten.
const METRICS: &str = "*.period=1\n";

/// Writes a configuration directory: `core-site.xml`, `hdfs-site.xml`, and what logging and metrics
/// read.
///
/// # Errors
/// If a file cannot be written.
pub fn write_conf_dir(dir: &Path, core: &Site, hdfs: &Site) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (name, text) in [
        ("core-site.xml", core.to_xml()),
        ("hdfs-site.xml", hdfs.to_xml()),
        (
            "log4j.properties",
            include_str!("../hadoop/log4j.properties").to_owned(),
        ),
        ("hadoop-metrics2.properties", METRICS.to_owned()),
    ] {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
