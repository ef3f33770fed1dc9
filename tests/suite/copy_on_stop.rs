//! `on-stopped = "copy"`: marker gone, stop, proof, a verified copy for the new job, a receipt that
//! names it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::checkpoints::samples::Sample;
use crate::common::job::BareJob;
use crate::common::place::{Place, SOON};
use crate::common::{Job, wait_until};

const CLEAN: &str = "3.5.9-agg-hdfs-clean";
const DAMAGED: &str = "4.0.5-agg-rocksdb-damaged-missing-sst";

/// A job with a sample as its checkpoint, which is copied when it is stopped.
struct Streaming {
    place: Place,
    sample: Sample,
    job: Job,
}

impl Streaming {
    /// `to` is a path in the place; `keys` are keys of the job.
    fn new(name: &str, sample: &str, to: &str, keys: &str) -> Result<Self> {
        let (place, sample) = (Place::new(name)?, Sample::unpack(sample));
        let keys = format!(
            "checkpoints = [\"{}\"]\non-stopped = \"copy\"\ncopy-to = [\"{}\"]\n{keys}",
            sample.dir,
            place.text(to)
        );
        place.configure(&place.pid_file_job("clicks", &keys, ""))?;
        let job = place.job("clicks")?;
        Ok(Self { place, sample, job })
    }

    fn start(&self) -> Result<BareJob> {
        let bare = self.job.start(&["drain=0.1"])?;
        self.place.write_pid("clicks", bare.pid())?;
        self.place.touch("clicks")?;
        Ok(bare)
    }

    /// A job that is watched and stopped by `rm`; its receipt.
    fn stop_once(&self, watch: &str, receipts: usize) -> Result<Value> {
        let _bare = self.start()?;
        let _watch = self.place.watch(watch, &[])?;
        self.place.await_log(watch, " armed ")?;
        self.place.remove("clicks")?;
        let receipt = self.place.await_receipt("clicks", receipts)?;
        // The hook comes after the receipt, and would end with the watcher.
        let told = |word: &str| self.place.count_hooks(word);
        wait_until(SOON, "the hook ran", || {
            told("on-clean") + told("on-dirty") + told("on-unproven") >= receipts
        })?;
        Ok(receipt)
    }
}

/// Every file below `dir` with its content.
fn contents(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let name = path.strip_prefix(dir)?.to_string_lossy().into_owned();
                found.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(found)
}

/// What lies in the copy is what the source has under the same name, and the manifest besides.
fn assert_is_copy(source: &Path, copy: &Path) -> Result<()> {
    let (from, mut to) = (contents(source)?, contents(copy)?);
    ensure!(to.remove(".stepdown-manifest.json").is_some());
    ensure!(to.contains_key("metadata") && to.keys().any(|name| name.starts_with("state/")));
    for (name, content) in to {
        ensure!(from.get(&name) == Some(&content), "{name} differs");
    }
    Ok(())
}

#[test]
fn a_removed_marker_leads_to_a_copy_that_the_receipt_names() -> Result<()> {
    let job = Streaming::new("copies", CLEAN, "next", "")?;
    let before = contents(&job.sample.path(""))?;
    let receipt = job.stop_once("watch", 1)?;
    let copy = &receipt["copies"][0];
    assert_eq!(copy["result"], "copied", "{receipt:#}");
    assert_eq!(copy["destination"], job.place.text("next"));
    let planned = &receipt["proof"]["checkpoints"][0]["last_planned_batch"];
    assert_eq!(&copy["last_planned_batch"], planned);
    assert_is_copy(&job.sample.path(""), &job.place.path("next"))?;
    assert_eq!(
        before,
        contents(&job.sample.path(""))?,
        "the source was written to"
    );
    assert_eq!(job.place.hooks(), ["on-clean clicks clean"]);
    let hidden = fs::read_dir(job.place.path(""))?
        .filter_map(Result::ok)
        .any(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .contains("stepdown-copy")
        });
    assert!(!hidden, "the work directory stays");
    Ok(())
}

#[test]
fn each_stop_can_have_a_copy_of_its_own() -> Result<()> {
    let job = Streaming::new("copies", CLEAN, "copy-{stop-id}", "")?;
    for count in 1..=2 {
        let receipt = job.stop_once(&format!("watch{count}"), count)?;
        assert_eq!(receipt["copies"][0]["result"], "copied", "{receipt:#}");
        let name = format!("copy-{}", receipt["stop_id"].as_str().context("no id")?);
        assert_is_copy(&job.sample.path(""), &job.place.path(&name))?;
    }
    Ok(())
}

#[test]
fn what_stands_at_the_place_is_kept_and_the_receipt_says_so() -> Result<()> {
    let job = Streaming::new("copies", CLEAN, "next", "")?;
    fs::create_dir(job.place.path("next"))?;
    fs::write(job.place.path("next/metadata"), "mine")?;
    let receipt = job.stop_once("watch", 1)?;
    let copy = &receipt["copies"][0];
    assert_eq!(copy["result"], "failed", "{receipt:#}");
    ensure!(
        copy["why"]
            .as_str()
            .is_some_and(|why| why.contains("exists already")),
        "{copy}"
    );
    assert_eq!(contents(&job.place.path("next"))?.len(), 1);
    assert_eq!(receipt["outcome"], "stopped");
    assert_eq!(job.place.count_hooks("on-alarm clicks copy-failed"), 1);
    let waited = job
        .place
        .stepdown(&["wait", "clicks", "--until", "stopped"])?;
    assert_eq!(waited.status.code(), Some(3), "{waited:?}");
    ensure!(waited.stdout.contains("NOT copied to"), "{waited:?}");

    // Moved aside where that is allowed.
    let keys = "copy-existing = \"replace\"";
    let job = Streaming::new("copies", CLEAN, "next", keys)?;
    fs::create_dir(job.place.path("next"))?;
    fs::write(job.place.path("next/metadata"), "mine")?;
    let receipt = job.stop_once("watch", 1)?;
    let copy = &receipt["copies"][0];
    assert_eq!(copy["result"], "copied", "{receipt:#}");
    assert_is_copy(&job.sample.path(""), &job.place.path("next"))?;
    let aside = copy["moved_aside"].as_str().context("not told where")?;
    assert_eq!(
        fs::read_to_string(Path::new(aside).join("metadata"))?,
        "mine"
    );
    Ok(())
}

#[test]
fn a_damaged_checkpoint_is_not_copied_and_its_stop_still_confirmed() -> Result<()> {
    let job = Streaming::new("copies", DAMAGED, "next", "")?;
    let receipt = job.stop_once("watch", 1)?;
    let copy = &receipt["copies"][0];
    assert_eq!(copy["result"], "failed", "{receipt:#}");
    ensure!(
        copy["why"]
            .as_str()
            .is_some_and(|why| why.contains("would fail")),
        "{copy}"
    );
    assert!(!job.place.path("next").exists());
    Ok(())
}

#[test]
fn a_place_that_is_not_there_yet_is_waited_for() -> Result<()> {
    let job = Streaming::new("copies", CLEAN, "later/next", "")?;
    let _bare = job.start()?;
    let _watch = job.place.watch("watch", &[])?;
    job.place.await_log("watch", " armed ")?;
    job.place.remove("clicks")?;
    job.place.await_log("watch", "copy-failed")?;
    assert!(job.place.receipts("clicks")?.is_empty());
    fs::create_dir(job.place.path("later"))?;
    let receipt = job.place.await_receipt("clicks", 1)?;
    assert_eq!(receipt["copies"][0]["result"], "copied", "{receipt:#}");

    // But not for ever.
    let job = Streaming::new("copies", CLEAN, "later/next", "copy-deadline = \"1s\"")?;
    let receipt = job.stop_once("watch", 1)?;
    assert_eq!(receipt["copies"][0]["result"], "failed", "{receipt:#}");
    Ok(())
}

#[test]
fn run_waits_for_the_copy() -> Result<()> {
    let job = Streaming::new("copies", CLEAN, "next", "")?;
    let argv = job.job.argv(&["drain=0.1", "code=3"]);
    let mut run = job.place.run("run", &["--job", "clicks"], argv, &[])?;
    job.place.await_log("run", "armed=true")?;
    // Before it has its handler a signal would end it in its own way.
    job.job.await_starts(1)?;
    job.place.remove("clicks")?;
    assert_eq!(run.await_end(SOON)?.code(), Some(3));
    ensure!(
        job.place.log("run").contains("copied to /"),
        "{}",
        job.place.log("run")
    );
    assert_is_copy(&job.sample.path(""), &job.place.path("next"))
}

#[cfg(feature = "crash-points")]
#[test]
fn a_watcher_killed_around_the_copy_leaves_one_copy_and_one_receipt() -> Result<()> {
    for crash in ["proved", "copied", "receipt-saved"] {
        let job = Streaming::new("copies", CLEAN, "next", "")?;
        let _bare = job.start()?;
        let mut first = job.place.watch("first", &[("STEPDOWN_CRASH_AT", crash)])?;
        job.place.await_log("first", " armed ")?;
        job.place.remove("clicks")?;
        assert_eq!(first.await_end(SOON)?.signal(), Some(9), "{crash}");
        let _second = job.place.watch("second", &[])?;
        let receipt = job.place.await_receipt("clicks", 1)?;
        let copy = &receipt["copies"][0];
        assert_eq!(copy["result"], "copied", "{crash}: {receipt:#}");
        assert_is_copy(&job.sample.path(""), &job.place.path("next"))?;
        let manifest = fs::read(job.place.path("next/.stepdown-manifest.json"))?;
        let manifest: Value = serde_json::from_slice(&manifest)?;
        assert_eq!(copy["copy_id"], manifest["copy_id"], "{crash}");
    }
    Ok(())
}
