//! Hadoop's own command line tools: the independent client of the tests.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::daemon::{leashed, spawn_leashed};
use super::hadoop::{Hadoop, java_program};
use super::scratch::scratch_dir;
use super::wait::wait_until;

/// Far longer than any tool takes here.
pub const TOOL_DEADLINE: Duration = Duration::from_mins(2);
const TOOL_HEAP_MB: u32 = 256;
/// The class behind `hdfs dfs`.
pub const FS_SHELL: &str = "org.apache.hadoop.fs.FsShell";
/// The class behind `hdfs dfsadmin`.
pub const DFS_ADMIN: &str = "org.apache.hadoop.hdfs.tools.DFSAdmin";

const DIST_CP: &str = "org.apache.hadoop.tools.DistCp";

/// What a tool printed and how it ended.
#[derive(Debug, Clone)]
pub struct ToolOutput {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl ToolOutput {
    /// Whether the exit code was 0.
    pub fn is_ok(&self) -> bool {
        self.status.success()
    }
}

/// Runs Hadoop's tools against one cluster.
#[derive(Debug, Clone)]
pub struct HadoopClient {
    hadoop: Hadoop,
    conf_dir: PathBuf,
    env: Vec<(OsString, OsString)>,
    jvm_flags: Vec<OsString>,
}

impl HadoopClient {
    /// Tools of `hadoop` with the configuration in `conf_dir` and `env` added to their environment.
    pub fn new(hadoop: Hadoop, conf_dir: PathBuf, env: Vec<(OsString, OsString)>) -> Self {
        Self {
            hadoop,
            conf_dir,
            env,
            jvm_flags: Vec::new(),
        }
    }

    /// What clients take as `HADOOP_CONF_DIR`.
    pub fn conf_dir(&self) -> &Path {
        &self.conf_dir
    }

    /// The same tools with more in their environment.
    #[must_use]
    pub fn with_env(&self, env: Vec<(OsString, OsString)>) -> Self {
        let mut with = self.clone();
        with.env.extend(env);
        with
    }

    /// The same tools with more flags for their JVM.
    #[must_use]
    pub fn with_jvm_flags(&self, flags: &[OsString]) -> Self {
        let mut with = self.clone();
        with.jvm_flags.extend_from_slice(flags);
        with
    }

    /// What `hdfs dfs <args>` prints.
    ///
    /// # Errors
    /// If its exit code is not 0, with what it printed.
    pub fn dfs(&self, args: &[&str]) -> Result<String> {
        self.succeed(FS_SHELL, args)
    }

    /// Runs `hdfs dfs <args>`; a failure of the command is part of the output.
    ///
    /// # Errors
    /// If it cannot be run, or does not end within two minutes.
    pub fn try_dfs(&self, args: &[&str]) -> Result<ToolOutput> {
        self.run(FS_SHELL, args, &[])
    }

    /// Runs `hdfs dfs <args>` with the flags that Hadoop's own scripts give to `java`: without what makes
    /// the tools of the tests start quickly.
    ///
    /// # Errors
    /// If it cannot be run, or does not end within two minutes.
    pub fn stock_dfs(&self, args: &[&str]) -> Result<ToolOutput> {
        let mut java = self.hadoop.stock_java_args(&self.conf_dir, FS_SHELL);
        java.extend(args.iter().map(OsString::from));
        run_program(
            &java_program(),
            &java,
            self.env.iter().cloned(),
            TOOL_DEADLINE,
        )
    }

    /// Runs `hdfs dfs <args>` as another user (simple authentication only).
    ///
    /// # Errors
    /// If it cannot be run, or does not end within two minutes.
    pub fn try_dfs_as(&self, user: &str, args: &[&str]) -> Result<ToolOutput> {
        self.run(FS_SHELL, args, &[("HADOOP_USER_NAME", user)])
    }

    /// Writes a file with this content, replacing one that is there (`hdfs dfs -put -f`).
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_file(&self, path: &str, content: &[u8]) -> Result<()> {
        let local = scratch_dir("put")?.join("content");
        fs::write(&local, content).with_context(|| format!("cannot write {}", local.display()))?;
        let local = local.to_str().context("a scratch directory is not UTF-8")?;
        self.dfs(&["-put", "-f", local, path]).map(drop)
    }

    /// What `hdfs dfsadmin <args>` prints.
    ///
    /// # Errors
    /// If its exit code is not 0, with what it printed.
    pub fn dfsadmin(&self, args: &[&str]) -> Result<String> {
        self.succeed(DFS_ADMIN, args)
    }

    /// What `hadoop distcp <args>` prints. The copy runs in this one process (MapReduce's local runner).
    ///
    /// # Errors
    /// If its exit code is not 0, with what it printed.
    pub fn distcp(&self, args: &[&str]) -> Result<String> {
        let staging = scratch_dir("distcp")?;
        let staging = format!(
            "-Dmapreduce.jobtracker.staging.root.dir={}",
            staging.display()
        );
        self.succeed(DIST_CP, &[&[staging.as_str()], args].concat())
    }

    /// What the tool `class` prints.
    ///
    /// # Errors
    /// If its exit code is not 0, with what it printed.
    pub fn succeed(&self, class: &str, args: &[&str]) -> Result<String> {
        let output = self.run(class, args, &[])?;
        if !output.is_ok() {
            let ToolOutput {
                status,
                stdout,
                stderr,
            } = output;
            bail!("{class} {args:?} ended with {status}:\n{stdout}{stderr}");
        }
        Ok(output.stdout)
    }

    /// Runs the tool `class` with `env` added to its environment.
    ///
    /// # Errors
    /// If it cannot be run, or does not end within two minutes.
    pub fn run(&self, class: &str, args: &[&str], env: &[(&str, &str)]) -> Result<ToolOutput> {
        let mut java = self.jvm_flags.clone();
        java.extend(self.hadoop.java_args(&self.conf_dir, TOOL_HEAP_MB, class));
        java.extend(args.iter().map(OsString::from));
        run_program(
            &java_program(),
            &java,
            self.env
                .iter()
                .cloned()
                .chain(env.iter().map(|(key, value)| (key.into(), value.into()))),
            TOOL_DEADLINE,
        )
    }
}

/// Runs a program to its end, with nothing on its standard input.
///
/// # Errors
/// If it cannot be started, or does not end before `deadline`; it is killed then.
pub fn run_program(
    program: &Path,
    args: &[OsString],
    env: impl Iterator<Item = (OsString, OsString)>,
    deadline: Duration,
) -> Result<ToolOutput> {
    let mut command = leashed(program, args);
    command
        .envs(env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn_leashed(command)?;
    let stdout = child.stdout.take().context("no standard output")?;
    let stderr = child.stderr.take().context("no standard error")?;
    let stdout = thread::spawn(move || read_all(stdout));
    let stderr = thread::spawn(move || read_all(stderr));
    let mut status = None;
    let waited = wait_until(deadline, "a command ends", || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    let status = match status {
        Some(status) => status,
        None => child.kill().and_then(|()| child.wait())?,
    };
    let output = ToolOutput {
        status,
        stdout: join(stdout)?,
        stderr: join(stderr)?,
    };
    waited.with_context(|| format!("{} {args:?}: {output:?}", program.display()))?;
    Ok(output)
}

fn read_all(mut from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map(|_| bytes)
}

fn join(reader: thread::JoinHandle<std::io::Result<Vec<u8>>>) -> Result<String> {
    let Ok(bytes) = reader.join() else {
        bail!("a reader of output panicked");
    };
    Ok(String::from_utf8_lossy(&bytes?).into_owned())
}
