//! The sample checkpoints, and the table that describes them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use stepdown::storage::StoragePath;
use stepdown::storage::local::{LocalOptions, LocalStorage};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints")
}

/// A sample, unpacked.
pub(crate) struct Sample {
    _temp: TempDir,
    pub(crate) storage: LocalStorage,
    pub(crate) dir: StoragePath,
}

impl Sample {
    pub(crate) fn unpack(name: &str) -> Self {
        let temp = TempDir::new().unwrap();
        let archive = File::open(fixtures().join(format!("{name}.tar.gz"))).unwrap();
        tar::Archive::new(GzDecoder::new(archive))
            .unpack(temp.path())
            .unwrap();
        let dir = temp.path().canonicalize().unwrap().join(name);
        Self {
            _temp: temp,
            storage: LocalStorage::new(LocalOptions { fsync: false }),
            dir: StoragePath::parse(dir.to_str().unwrap()).unwrap(),
        }
    }

    /// The real path of a file of the sample.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        Path::new(self.dir.as_str()).join(relative)
    }
}

/// A row of the table, by the title of the column.
pub(crate) struct Row(BTreeMap<String, String>);

impl Row {
    pub(crate) fn get(&self, column: &str) -> &str {
        self.0
            .get(column)
            .unwrap_or_else(|| panic!("no column {column:?}"))
    }
}

/// The table of the samples.
pub(crate) fn table() -> Vec<Row> {
    let text = fs::read_to_string(fixtures().join("README.md")).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with('|'));
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_matches('|');
        inner
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    let titles = cells(lines.next().unwrap());
    let rows: Vec<Row> = lines
        .filter(|line| !line.starts_with("|---"))
        .map(|line| {
            let row = cells(line);
            assert_eq!(row.len(), titles.len(), "{line}");
            Row(titles.iter().cloned().zip(row).collect())
        })
        .collect();
    assert_eq!(rows.len(), 22);
    rows
}
