//! `stepdown checkpoint` as operators use it: the real samples, every refusal, every way to be cut
//! short.

mod copies;
mod cut_short;
mod looks;
mod refusals;
mod sync;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::sandbox::{Ran, Sandbox};

/// A sandbox with one sample in it, as `ck`.
struct Bench {
    sandbox: Sandbox,
}

impl Bench {
    fn with(sample: &str) -> Self {
        let bench = Self::empty();
        unpack(sample, &bench.sandbox.path(""));
        fs::rename(bench.sandbox.path(sample), bench.sandbox.path("ck")).unwrap();
        bench
    }

    fn empty() -> Self {
        Self {
            sandbox: Sandbox::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.sandbox.path(name)
    }

    fn has(&self, name: &str) -> bool {
        self.path(name).symlink_metadata().is_ok()
    }

    /// `stepdown checkpoint ...` with its text.
    fn run(&self, args: &[&str]) -> Ran {
        self.sandbox.run(&[&["checkpoint"], args].concat())
    }

    /// `stepdown --json checkpoint ...`, which must end with `code`.
    fn json(&self, args: &[&str], code: i32) -> Value {
        let ran = self
            .sandbox
            .run(&[&["--json", "checkpoint"], args].concat());
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        ran.json()
    }

    /// Runs the command, which must end with `code` and change nothing at all; gives its stderr.
    fn refused(&self, args: &[&str], code: i32) -> String {
        let before = picture(&self.path(""));
        let ran = self.run(args);
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        assert_eq!(picture(&self.path("")), before, "{args:?}");
        self.sandbox.plain(&ran.stderr)
    }
}

/// Unpacks a sample into `dir`.
pub(crate) fn unpack(sample: &str, dir: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints");
    let archive = File::open(fixtures.join(format!("{sample}.tar.gz"))).unwrap();
    tar::Archive::new(GzDecoder::new(archive))
        .unpack(dir)
        .unwrap();
}

/// Every entry below a directory: its path, kind with length, last change, and where a link leads.
fn picture(dir: &Path) -> BTreeMap<PathBuf, (u32, u64, SystemTime)> {
    let mut entries = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            let found = entry.metadata().unwrap();
            // A directory's own time changes with what comes and goes in it, also for a moment.
            let changed = if found.is_dir() {
                dirs.push(entry.path());
                SystemTime::UNIX_EPOCH
            } else {
                found.modified().unwrap()
            };
            entries.insert(entry.path(), (found.mode(), found.len(), changed));
        }
    }
    entries
}

/// The files below a directory with their contents, by relative path.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    picture(dir)
        .into_keys()
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

/// The manifest of a copy, every file of it held against what is there.
fn true_manifest(dir: &Path) -> Value {
    let mut found = contents(dir);
    let manifest = found.remove(".stepdown-manifest.json").unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    for file in manifest["files"].as_array().unwrap() {
        let path = file["path"].as_str().unwrap();
        let content = found.remove(path).unwrap_or_else(|| panic!("{path}"));
        let digest = blake3::hash(&content).to_hex().to_string();
        assert_eq!(file["blake3"], digest, "{path}");
    }
    assert!(found.is_empty(), "not in the manifest: {:?}", found.keys());
    manifest
}
