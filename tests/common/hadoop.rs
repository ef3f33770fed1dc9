//! The Hadoop that runs the servers, and how its Java programs are started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::warm_up::{archive_for, formatted_path, warm_up};

/// Cheap JVMs: two cores serve several of them. The packages are opened as Hadoop's own start scripts
/// do on Java 17, and those of Kerberos that Hadoop 2.7 reads by reflection.
const JVM_FLAGS: [&str; 13] = [
    // A JVM's own warnings would go to standard output, among what a tool prints.
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
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
    /// The line that tests run which do not ask for one: 3.4, or what `STEPDOWN_TEST_HADOOP` says
    /// where Maven reaches no repository.
    ///
    /// # Errors
    /// If the variable names no known line.
    pub fn chosen() -> Result<Self> {
        match std::env::var("STEPDOWN_TEST_HADOOP").as_deref() {
            Err(_) | Ok("3.4") => Ok(HadoopVersion::V3_4),
            Ok("2.7") => Ok(HadoopVersion::V2_7),
            Ok(other) => bail!("STEPDOWN_TEST_HADOOP is {other:?}, and neither 3.4 nor 2.7"),
        }
    }

    /// Fetches and prepares its parts. Starting a cluster does so too; a test that starts one without
    /// a network does it before.
    ///
    /// # Errors
    /// If they cannot be fetched, with the reason.
    pub fn prepare(self) -> Result<()> {
        Hadoop::of(self).map(drop)
    }

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
    home: PathBuf,
    warm: Option<PathBuf>,
}

static READY: Mutex<BTreeMap<HadoopVersion, Hadoop>> = Mutex::new(BTreeMap::new());

impl Hadoop {
    /// The parts of `version`, fetched now if the cache does not have them.
    ///
    /// # Errors
    /// If they cannot be fetched, with the reason.
    pub fn of(version: HadoopVersion) -> Result<Self> {
        let mut ready = READY.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hadoop) = ready.get(&version) {
            return Ok(hadoop.clone());
        }
        let mut hadoop = Self {
            home: fetch(version)?,
            warm: None,
        };
        let warm = hadoop.home.join(format!("warm-{}", java_fingerprint()?));
        warm_up(&hadoop, &warm).context("cannot prepare Hadoop for quick starts")?;
        hadoop.warm = Some(warm);
        ready.insert(version, hadoop.clone());
        Ok(hadoop)
    }

    /// A name directory as `hdfs namenode -format` leaves it.
    ///
    /// # Errors
    /// While Hadoop is being prepared for quick starts.
    pub fn formatted_name_dir(&self) -> Result<PathBuf> {
        let warm = self
            .warm
            .as_deref()
            .context("no name directory is formatted yet")?;
        Ok(formatted_path(warm))
    }

    /// The arguments of `java` as Hadoop's own scripts give them to `class`.
    pub fn stock_java_args(&self, conf_dir: &Path, class: &str) -> Vec<OsString> {
        let opens = JVM_FLAGS.iter().filter(|flag| flag.starts_with("--add-"));
        let mut args: Vec<OsString> = opens.map(OsString::from).collect();
        args.push("-cp".into());
        args.push(self.class_path(conf_dir));
        args.push(class.into());
        args
    }

    fn class_path(&self, conf_dir: &Path) -> OsString {
        let mut class_path = self.home.join("jars/*").into_os_string();
        for dir in [conf_dir, &self.home] {
            class_path.push(":");
            class_path.push(dir);
        }
        class_path
    }

    /// The arguments of `java` that run `class` with the configuration in `conf_dir`. Temporary files
    /// go beside that directory: a killed server does not remove its own.
    pub fn java_args(&self, conf_dir: &Path, heap_mb: u32, class: &str) -> Vec<OsString> {
        let mut args: Vec<OsString> = JVM_FLAGS.iter().map(OsString::from).collect();
        args.push(format!("-Xmx{heap_mb}m").into());
        if let Some(beside) = conf_dir.parent() {
            let mut flag = OsString::from("-Djava.io.tmpdir=");
            flag.push(beside);
            args.push(flag);
        }
        if let Some(archive) = self
            .warm
            .as_deref()
            .and_then(|warm| archive_for(warm, class))
        {
            let mut flag = OsString::from("-XX:SharedArchiveFile=");
            flag.push(archive);
            args.push(flag);
        }
        args.push("-cp".into());
        args.push(self.class_path(conf_dir));
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

/// Changes with every build of Java: a class archive serves only the one that wrote it.
fn java_fingerprint() -> Result<String> {
    let output = Command::new(java_program())
        .arg("-fullversion")
        .stdin(Stdio::null())
        .output()
        .context(
            "cannot run java: install a JDK or JRE 17 (Debian package openjdk-17-jre-headless)",
        )?;
    // Java writes its version to standard error.
    let digest = blake3::hash(&output.stderr).to_hex();
    Ok(digest.chars().take(12).collect())
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
