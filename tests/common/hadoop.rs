//! The Hadoop that runs the servers, and how its Java programs are started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

/// Cheap JVMs: two cores serve several of them. The packages are opened as Hadoop's own start scripts
/// do on Java 17, and those of Kerberos that Hadoop 2.7 reads by reflection.
const JVM_FLAGS: [&str; 11] = [
    "-Xshare:auto",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
];

/// A Hadoop release line that the tests run servers of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HadoopVersion {
    /// The current line, from Maven Central.
    V3_4,
    /// The oldest line in use, from the source package of PySpark 2.4.8.
    V2_7,
}

impl HadoopVersion {
    /// The version as `fetch.py` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            HadoopVersion::V3_4 => "3.4",
            HadoopVersion::V2_7 => "2.7",
        }
    }
}

/// The directory of parts that tests fetch once: `.cache` in the checkout.
pub fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache")
}

/// An unpacked Hadoop.
#[derive(Debug, Clone)]
pub struct Hadoop {
    /// Its release line.
    pub version: HadoopVersion,
    home: PathBuf,
}

static FETCHED: Mutex<BTreeMap<HadoopVersion, PathBuf>> = Mutex::new(BTreeMap::new());

impl Hadoop {
    /// The parts of `version`, fetched now if the cache does not have them.
    ///
    /// # Errors
    /// If they cannot be fetched, with the reason.
    pub fn of(version: HadoopVersion) -> Result<Self> {
        let mut fetched = FETCHED.lock().unwrap_or_else(PoisonError::into_inner);
        let home = match fetched.get(&version) {
            Some(home) => home.clone(),
            None => fetched.entry(version).or_insert(fetch(version)?).clone(),
        };
        Ok(Self { version, home })
    }

    /// The arguments of `java` that run `class` with the configuration in `conf_dir`.
    pub fn java_args(&self, conf_dir: &Path, heap_mb: u32, class: &str) -> Vec<OsString> {
        let mut class_path = self.home.join("jars/*").into_os_string();
        for dir in [conf_dir, &self.home] {
            class_path.push(":");
            class_path.push(dir);
        }
        let mut args: Vec<OsString> = JVM_FLAGS.iter().map(OsString::from).collect();
        args.push(format!("-Xmx{heap_mb}m").into());
        args.push("-cp".into());
        args.push(class_path);
        args.push(class.into());
        args
    }
}

/// The `java` of `JAVA_HOME`, or else of `PATH`.
pub fn java_program() -> PathBuf {
    match std::env::var_os("JAVA_HOME") {
        Some(home) => Path::new(&home).join("bin/java"),
        None => "java".into(),
    }
}

fn fetch(version: HadoopVersion) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hadoop/fetch.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(version.as_str())
        .arg(cache_dir())
        .stdin(Stdio::null())
        .output()
        .context("cannot run python3")?;
    if !output.status.success() {
        bail!(
            "Hadoop {} is missing: {}",
            version.as_str(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let home = String::from_utf8(output.stdout).context("fetch.py printed no path")?;
    Ok(PathBuf::from(home.trim()))
}
