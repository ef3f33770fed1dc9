//! Copies of checkpoints against what a user would take instead, in turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::stream::{self, TryStreamExt as _};
use serde_json::Value;
use stepdown::checkpoint::manifest::MANIFEST;
use stepdown::hadoop::{ConfSource, Environment};
use stepdown::storage::StorageUri;
use stepdown::storage::open::{StorageOptions, Storages};
use tempfile::TempDir;

use crate::common::Hdfs;
use crate::common::checkpoint_tree::{self as trees, Shape};
use crate::page::{Row, Table};
use crate::places::STEPDOWN;
use crate::proc::memory_kb;

/// About 10,000 files of 0.5 to 4 KB.
const MANY: Shape = Shape {
    batches: 100,
    partitions: 98,
    snapshot_each: 0,
};
/// For peers that take long: a rate is enough.
const SOME: Shape = Shape {
    batches: 10,
    partitions: 28,
    snapshot_each: 0,
};
const TURNS: usize = 3;

/// Where the trees of a measurement lie; on the disk of the build.
fn ground() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .context("no directory")
}

/// Files a second, of several turns.
#[derive(Debug, Default)]
struct Rates(Vec<f64>);

impl Rates {
    fn push(&mut self, files: u64, taken: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        self.0.push(files as f64 / taken.as_secs_f64());
    }

    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn text(&self, files: u64) -> String {
        let all: Vec<String> = self.0.iter().map(|rate| format!("{rate:.0}")).collect();
        format!(
            "{:.0} files/s ({}; {files} files)",
            self.median(),
            all.join(", ")
        )
    }
}

fn timed(run: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    run()?;
    Ok(begun.elapsed())
}

fn stepdown(conf_dir: Option<&Path>, args: &[&str]) -> Result<Value> {
    let mut command = Command::new(STEPDOWN);
    command.arg("--json").args(args).stdin(Stdio::null());
    command.env_remove("STEPDOWN_CONFIG");
    if let Some(dir) = conf_dir {
        command.env("HADOOP_CONF_DIR", dir);
    }
    let output = command.output().context("stepdown cannot be run")?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success(),
        "{args:?}: {}: {told}",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = text.lines().rfind(|line| line.starts_with('{'));
    // Streams end with the document; a document may have many lines.
    let document = serde_json::from_str(&text);
    document
        .or_else(|_| serde_json::from_str(last.unwrap_or("null")))
        .context("no JSON")
}

/// A number of a document.
fn count(report: &Value, pointer: &str) -> Result<u64> {
    let found = report.pointer(pointer).and_then(Value::as_u64);
    found.with_context(|| format!("no {pointer} in {report:#}"))
}

fn shell(script: &str, args: &[&Path]) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-euc", script, "sh"]).args(args);
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "{script}: {status}");
    Ok(())
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output();
    found.is_ok_and(|output| output.status.success())
}

fn quick_closing_hdfs() -> Result<Hdfs> {
    Hdfs::builder()
        .heap_mb(1024)
        .server_hdfs_site("dfs.namenode.file.close.num-committed-allowed", "1")
        .start()
}

/// A cluster with both checkpoints on it.
struct Stage {
    hdfs: Hdfs,
    dir: TempDir,
}

impl Stage {
    fn new(quick_close: bool) -> Result<Self> {
        let hdfs = if quick_close {
            quick_closing_hdfs()?
        } else {
            Hdfs::builder().heap_mb(1024).start()?
        };
        let stage = Self {
            hdfs,
            dir: ground()?,
        };
        for (name, shape) in [("many", MANY), ("some", SOME)] {
            let local = stage.dir.path().join(name);
            trees::make(&local, shape)?;
            stage.copy(&local.to_string_lossy(), &stage.at(name))?;
        }
        Ok(stage)
    }

    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.hdfs.nn_uri())
    }

    fn local(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        let args = ["checkpoint", "copy", "--full", from, to];
        stepdown(Some(self.hdfs.conf_dir()), &args).map(drop)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.hdfs
            .dfs(&["-rm", "-r", "-skipTrash", &self.at(name)])
            .map(drop)
    }

    fn rclone(&self, from: &str, to: &str) -> Result<()> {
        let namenode = format!("127.0.0.1:{}", self.hdfs.namenode().port());
        let mut command = Command::new("rclone");
        command
            .args([
                "copy",
                "--config",
                "/dev/null",
                "--transfers",
                "16",
                "--hdfs-namenode",
            ])
            .args([&namenode, "--hdfs-username", "root"])
            .args([format!(":hdfs:/{from}"), format!(":hdfs:/{to}")])
            .stdin(Stdio::null());
        let output = command.output()?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "rclone: {told}");
        Ok(())
    }

    /// Empty files made a second, with as many calls under way as a copy has.
    fn create_rate(&self, turn: usize) -> Result<(u64, Duration)> {
        const FILES: u64 = 5_000;
        let options = StorageOptions {
            call_timeout: Duration::from_mins(1),
            hadoop_conf: ConfSource::Dir(self.hdfs.conf_dir().to_owned()),
            ..StorageOptions::default()
        };
        let storages = Storages::with_environment(options, Environment::of_process());
        let dir: StorageUri = self.at(&format!("empty-{turn}")).parse()?;
        let storage = storages.open(&dir.authority)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(storage.create_dir_all(&dir.path))?;
        let taken = timed(|| {
            let files = stream::iter((0..FILES).map(Ok::<_, anyhow::Error>));
            runtime.block_on(files.try_for_each_concurrent(128, async |index| {
                storage.touch(&dir.path.join(&index.to_string())).await?;
                Ok(())
            }))
        })?;
        Ok((FILES, taken))
    }
}

pub fn measure_in_hdfs() -> Result<Table> {
    in_hdfs(false)
}

pub fn measure_in_hdfs_quick_close() -> Result<Table> {
    in_hdfs(true)
}

fn in_hdfs(quick_close: bool) -> Result<Table> {
    let stage = Stage::new(quick_close)?;
    let with_rclone = has("rclone");
    let [
        mut ours,
        mut cp,
        mut cp16,
        mut distcp,
        mut rclone,
        mut ceiling,
    ] = [const { Rates(Vec::new()) }; 6];
    for turn in 0..TURNS {
        ours.push(
            MANY.files(),
            timed(|| stage.copy(&stage.at("many"), &stage.at("ours")))?,
        );
        let client = stage.hdfs.client();
        let (from, to) = (stage.at("some"), stage.at("cp"));
        cp.push(
            SOME.files(),
            timed(|| {
                let done = client.stock_dfs(&["-cp", &from, &to])?;
                ensure!(done.is_ok(), "{done:?}");
                Ok(())
            })?,
        );
        let to = stage.at("cp16");
        cp16.push(
            SOME.files(),
            timed(|| {
                let done = client.stock_dfs(&["-cp", "-t", "16", &from, &to])?;
                ensure!(done.is_ok(), "{done:?}");
                Ok(())
            })?,
        );
        let to = stage.at("distcp");
        distcp.push(
            SOME.files(),
            timed(|| client.distcp(&[&from, &to]).map(drop))?,
        );
        if with_rclone {
            rclone.push(SOME.files(), timed(|| stage.rclone("some", "rclone"))?);
            stage.remove("rclone")?;
        }
        let (files, taken) = stage.create_rate(turn)?;
        ceiling.push(files, taken);
        for name in ["ours", "cp", "cp16", "distcp"] {
            stage.remove(name)?;
        }
    }
    let ratio = |other: &Rates| ours.median() / other.median();
    let mut rows = vec![
        Row::plain("`stepdown checkpoint copy --full`", ours.text(MANY.files())),
        Row::plain("`hdfs dfs -cp`", cp.text(SOME.files())),
        Row::plain("`hdfs dfs -cp -t 16`", cp16.text(SOME.files())),
        Row::plain("`hadoop distcp`, local mode", distcp.text(SOME.files())),
    ];
    rows.push(if with_rclone {
        Row::plain("`rclone copy`, 16 transfers", rclone.text(SOME.files()))
    } else {
        Row::plain("`rclone copy`", "not measured: not installed".to_owned())
    });
    rows.push(Row::plain(
        "the NameNode makes empty files",
        ceiling.text(5_000),
    ));
    rows.push(Row::with_target(
        "times `-cp`",
        format!("{:.0}", ratio(&cp)),
        "≥ 30",
        ratio(&cp) >= 30.0,
    ));
    let mut others = vec![("times `-cp -t 16`", &cp16), ("times `distcp`", &distcp)];
    if with_rclone {
        others.push(("times `rclone`", &rclone));
    }
    for (what, other) in others {
        rows.push(Row::with_target(
            what,
            format!("{:.1}", ratio(other)),
            "> 1",
            ratio(other) > 1.0,
        ));
    }
    let server = if quick_close {
        "with `dfs.namenode.file.close.num-committed-allowed=1`"
    } else {
        "with its defaults"
    };
    Ok(Table {
        how: format!(
            "From HDFS to the same HDFS, one NameNode and one DataNode of Hadoop 3.4 {server}, \
             {TURNS} turns of all. Wall time of the whole process, JVM start included; slow ones copy \
             fewer files, so that only their rate is compared. stepdown also makes digests and a \
             manifest, and checks the copy."
        ),
        rows,
    })
}

pub fn measure_across() -> Result<Table> {
    let stage = Stage::new(false)?;
    let [mut down, mut get, mut up, mut put] = [const { Rates(Vec::new()) }; 4];
    let text = |path: &Path| path.to_string_lossy().into_owned();
    for turn in 0..TURNS {
        let to = text(&stage.local(&format!("down-{turn}")));
        down.push(MANY.files(), timed(|| stage.copy(&stage.at("many"), &to))?);
        let to = text(&stage.local(&format!("get-{turn}")));
        let client = stage.hdfs.client();
        get.push(
            SOME.files(),
            timed(|| {
                let done = client.stock_dfs(&["-get", &stage.at("some"), &to])?;
                ensure!(done.is_ok(), "{done:?}");
                Ok(())
            })?,
        );
        let from = text(&stage.local("many"));
        let to = stage.at(&format!("up-{turn}"));
        up.push(MANY.files(), timed(|| stage.copy(&from, &to))?);
        let from = text(&stage.local("some"));
        let to = stage.at(&format!("put-{turn}"));
        put.push(
            SOME.files(),
            timed(|| {
                let done = client.stock_dfs(&["-put", &from, &to])?;
                ensure!(done.is_ok(), "{done:?}");
                Ok(())
            })?,
        );
    }
    let (downs, ups) = (down.median() / get.median(), up.median() / put.median());
    Ok(Table {
        how: format!("As before, between HDFS and a local disk, {TURNS} turns."),
        rows: vec![
            Row::plain("HDFS to local: stepdown", down.text(MANY.files())),
            Row::plain("`hdfs dfs -get`", get.text(SOME.files())),
            Row::with_target("times `-get`", format!("{downs:.0}"), "≥ 10", downs >= 10.0),
            Row::plain("local to HDFS: stepdown", up.text(MANY.files())),
            Row::plain("`hdfs dfs -put`", put.text(SOME.files())),
            Row::with_target("times `-put`", format!("{ups:.0}"), "≥ 10", ups >= 10.0),
        ],
    })
}

/// Wall time of several turns.
#[derive(Debug, Default)]
struct Times(Vec<Duration>);

impl Times {
    fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn text(&self) -> String {
        let all: Vec<String> = self
            .0
            .iter()
            .map(|t| format!("{:.1}", t.as_secs_f64()))
            .collect();
        format!("{:.1} s ({})", self.median().as_secs_f64(), all.join(", "))
    }
}

pub fn measure_local() -> Result<Table> {
    const LARGE: u64 = 10;
    const MIB: u64 = 512;
    let dir = ground()?;
    let source = dir.path().join("source");
    trees::make(&source, MANY)?;
    trees::add_large_files(&source, LARGE, MIB)?;
    let with_b3sum = has("b3sum");
    let digests = if with_b3sum {
        "cp -a \"$0\" \"$1\"; sync; find \"$1\" -type f -print0 | xargs -0 b3sum"
    } else {
        "cp -a \"$0\" \"$1\"; sync; find \"$1\" -type f -print0 | xargs -0 sha256sum"
    };
    let digests = digests
        .replace("\"$1\"", "\"$2\"")
        .replace("\"$0\"", "\"$1\"");
    let [mut ours, mut whole, mut plain] = [const { Times(Vec::new()) }; 3];
    for _ in 0..TURNS {
        let to = dir.path().join("ours");
        ours.0.push(timed(|| {
            let (from, to) = (source.to_string_lossy(), to.to_string_lossy());
            stepdown(None, &["checkpoint", "copy", "--full", &from, &to]).map(drop)
        })?);
        fs::remove_dir_all(&to)?;
        let to = dir.path().join("whole");
        whole.0.push(timed(|| shell(&digests, &[&source, &to]))?);
        fs::remove_dir_all(&to)?;
        let to = dir.path().join("plain");
        plain
            .0
            .push(timed(|| shell("cp -a \"$1\" \"$2\"", &[&source, &to]))?);
        fs::remove_dir_all(&to)?;
        shell("sync", &[])?;
    }
    let ratio = whole.median().as_secs_f64() / ours.median().as_secs_f64();
    let tool = if with_b3sum { "b3sum" } else { "sha256sum" };
    Ok(Table {
        how: format!(
            "{} files of 0.5 to 4 KB and {LARGE} of {MIB} MiB on one local disk, {TURNS} turns.",
            MANY.files()
        ),
        rows: vec![
            Row::plain("`stepdown checkpoint copy --full`", ours.text()),
            Row::plain(&format!("`cp -a && sync && {tool}`"), whole.text()),
            Row::plain("`cp -a`, no digest, nothing forced to disk", plain.text()),
            Row::with_target(
                "as quick as `cp -a`, `sync` and digests",
                format!("{ratio:.2} times"),
                "≥ 1",
                ratio >= 1.0,
            ),
        ],
    })
}

pub fn measure_minimal() -> Result<Table> {
    const USUAL: Shape = Shape {
        batches: 100,
        partitions: 200,
        snapshot_each: 10,
    };
    let dir = ground()?;
    let source = dir.path().join("source");
    trees::make(&source, USUAL)?;
    let mut rows = Vec::new();
    for (name, flag) in [("full", "--full"), ("minimal", "--minimal")] {
        let to = dir.path().join(name);
        let begun = Instant::now();
        let args = [
            "checkpoint",
            "copy",
            flag,
            &source.to_string_lossy(),
            &to.to_string_lossy(),
        ];
        let report = stepdown(None, &args)?;
        let taken = begun.elapsed();
        let (files, bytes) = (
            count(&report, "/total/files")?,
            count(&report, "/total/bytes")?,
        );
        rows.push(Row::plain(
            name,
            format!("{files} files, {bytes} bytes, {:.2} s", taken.as_secs_f64()),
        ));
    }
    Ok(Table {
        how: format!(
            "A checkpoint with {} batches and {} partitions, a snapshot every {} versions, on local disk.",
            USUAL.batches, USUAL.partitions, USUAL.snapshot_each
        ),
        rows,
    })
}

/// Batches of a source and how many files that are.
const HISTORIES: [(&str, u64); 3] = [("1,000", 10), ("10,000", 100), ("50,000", 500)];

/// What a first pass and a last one took, one batch later; `add` adds it.
fn finish(
    what: &str,
    conf_dir: Option<&Path>,
    args: &[&str],
    add: impl FnOnce() -> Result<()>,
) -> Result<Row> {
    let first = timed(|| stepdown(conf_dir, args).map(drop))?;
    add()?;
    let begun = Instant::now();
    let report = stepdown(conf_dir, &[args, &["--finish"]].concat())?;
    let last = begun.elapsed();
    Ok(Row::plain(
        what,
        format!(
            "first pass {:.2} s; last pass {:.3} s for {} files of {}",
            first.as_secs_f64(),
            last.as_secs_f64(),
            count(&report, "/copied/files")?,
            count(&report, "/total/files")?
        ),
    ))
}

pub fn measure_finish() -> Result<Table> {
    // Of a source with a snapshot in each tenth version a minimal copy needs little.
    let scopes: [(&str, &[&str], u64); 2] = [("minimal", &[], 10), ("full", &["--full"], 0)];
    let mut rows = Vec::new();
    for (scope, flags, snapshot_each) in scopes {
        for (files, batches) in HISTORIES {
            let shape = Shape {
                batches,
                partitions: 98,
                snapshot_each,
            };
            let dir = ground()?;
            let source = dir.path().join("source");
            trees::make(&source, shape)?;
            let to = dir.path().join("copy");
            let (from, to) = (source.to_string_lossy(), to.to_string_lossy());
            let args = [
                &["checkpoint", "sync"],
                flags,
                &[from.as_ref(), to.as_ref()],
            ]
            .concat();
            let what = format!("{scope}, {files} files in the source");
            rows.push(finish(&what, None, &args, || {
                trees::add_batch(&source, shape, batches)
            })?);
        }
    }
    Ok(Table {
        how: "`checkpoint sync` on local disk: a first pass, one more batch over 98 partitions, then `--finish`. \
              Minimal, as by default, with a snapshot in each tenth version; full with deltas alone. Wall time of \
              the whole process."
            .to_owned(),
        rows,
    })
}

pub fn measure_finish_in_hdfs() -> Result<Table> {
    let hdfs = quick_closing_hdfs()?;
    let mut rows = Vec::new();
    for (files, batches) in HISTORIES {
        let shape = Shape {
            batches,
            partitions: 98,
            snapshot_each: 10,
        };
        let dir = ground()?;
        let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
        trees::make(&old, shape)?;
        let none = Shape {
            batches: 0,
            ..shape
        };
        trees::make(&new, none)?;
        trees::add_batch(&new, shape, batches)?;
        let [from, to] = ["from", "to"].map(|name| format!("{}/{name}-{batches}", hdfs.nn_uri()));
        let upload = [
            "checkpoint",
            "copy",
            "--full",
            &old.to_string_lossy(),
            &from,
        ];
        stepdown(Some(hdfs.conf_dir()), &upload)?;
        // The copy in HDFS is a checkpoint like any other without it.
        hdfs.dfs(&["-rm", "-skipTrash", &format!("{from}/{MANIFEST}")])?;
        let args = ["checkpoint", "sync", &from, &to];
        let what = format!("minimal, {files} files in the source");
        rows.push(finish(&what, Some(hdfs.conf_dir()), &args, || {
            let parts = ["offsets", "state", "commits"].map(|name| new.join(name));
            let parts = parts.each_ref().map(|part| part.to_string_lossy());
            let [offsets, state, commits] = parts.each_ref().map(AsRef::as_ref);
            hdfs.dfs(&["-put", "-f", offsets, state, commits, &from])
                .map(drop)
        })?);
    }
    Ok(Table {
        how: "The same within HDFS, one NameNode and one DataNode of Hadoop 3.4 with \
              `dfs.namenode.file.close.num-committed-allowed=1`."
            .to_owned(),
        rows,
    })
}

pub fn measure_memory() -> Result<Table> {
    const SHAPE: Shape = Shape {
        batches: 1000,
        partitions: 98,
        snapshot_each: 0,
    };
    let dir = ground()?;
    let source = dir.path().join("source");
    trees::make(&source, SHAPE)?;
    trees::add_large_files(&source, 1, 5 * 1024)?;
    let begun = Instant::now();
    let mut child = Command::new(STEPDOWN)
        .args(["checkpoint", "copy", "--full"])
        .args([&source, &dir.path().join("copy")])
        .env_remove("STEPDOWN_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        // Between its last sign and its end it has no memory any more.
        peak = peak.max(memory_kb(child.id(), "VmHWM").unwrap_or(0));
        thread::sleep(Duration::from_millis(20));
    };
    ensure!(status.success(), "the copy ended with {status}");
    let taken = begun.elapsed();
    Ok(Table {
        how: format!(
            "A copy of {} files of 0.5 to 4 KB and one of 5 GiB, on local disk.",
            SHAPE.files()
        ),
        rows: vec![
            Row::with_target(
                "peak resident memory",
                format!("{} MB", peak / 1024),
                "< 150 MB",
                peak < 150 * 1024,
            ),
            Row::plain("wall time", format!("{:.0} s", taken.as_secs_f64())),
        ],
    })
}
