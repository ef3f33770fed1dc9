//! The one-way rule: who may import whom, and which crate is used where.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each part of the library with the parts that it may import.
const MAY_IMPORT: &[(&str, &str)] = &[
    ("model", ""),
    ("hadoop", "model"),
    ("storage", "model hadoop"),
    ("config", "model storage"),
    ("process", "model"),
    ("control", "model storage"),
    ("marker", "model storage control"),
    ("checkpoint", "model storage control"),
    ("stop", "model storage control marker checkpoint process"),
    (
        "rollout",
        "model storage control marker checkpoint process stop",
    ),
    (
        "daemon",
        "model storage control marker checkpoint process stop rollout",
    ),
    (
        "app",
        "model hadoop storage config control marker checkpoint process stop rollout daemon",
    ),
    (
        "doctor",
        "model hadoop storage config control checkpoint process rollout app",
    ),
    (
        "cli",
        "model hadoop storage config control marker checkpoint process stop rollout daemon app doctor",
    ),
    ("main", "cli process"),
    ("lib", ""),
];

/// Crates that have one place, by the beginning of the file's path below `src`.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("clap_mangen", &["cli/"]),
    ("comfy_table", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("anyhow", &["cli/", "main.rs"]),
    ("tracing_subscriber", &["cli/"]),
    ("toml", &["config/"]),
    ("notify", &["marker/watch.rs"]),
    ("hdfs_native", &["storage/hdfs"]),
    ("roxmltree", &["hadoop/"]),
    ("whoami", &["hadoop/"]),
];

/// What `config` may see of `storage`: how places are written, not how they are reached.
const URI_TYPES: &[&str] = &["Authority", "InvalidUri", "StoragePath", "StorageUri"];

/// Decisions, made of values alone: the same input gives the same answer, so they can be tested by
/// the hundred thousand.
const PURE: &[&str] = &[
    "marker/state.rs",
    "stop/boundary.rs",
    "stop/decide.rs",
    "checkpoint/contents.rs",
    "checkpoint/inspect/mod.rs",
    "checkpoint/inspect/operators.rs",
    "checkpoint/inspect/sources.rs",
    "checkpoint/layout.rs",
    "checkpoint/listing.rs",
    "checkpoint/log/commits.rs",
    "checkpoint/log/mod.rs",
    "checkpoint/log/offsets.rs",
    "checkpoint/log/source_offset.rs",
    "checkpoint/log/sources.rs",
    "checkpoint/needs/logs.rs",
    "checkpoint/needs/mod.rs",
    "checkpoint/needs/schemas.rs",
    "checkpoint/needs/sources.rs",
    "checkpoint/needs/state.rs",
    "checkpoint/operator.rs",
    "checkpoint/plan/mod.rs",
    "checkpoint/plan/select.rs",
    "checkpoint/state_store/chain.rs",
    "checkpoint/state_store/stores.rs",
    "checkpoint/target.rs",
    "checkpoint/retain.rs",
    "rollout/decide/mod.rs",
    "rollout/decide/across.rs",
    "rollout/decide/back.rs",
    "rollout/decide/before.rs",
    "rollout/observation.rs",
    "rollout/state.rs",
];

/// One source file without comments, strings and tests.
struct Source {
    /// Its path below `src`, with `/`.
    path: String,
    code: String,
}

impl Source {
    /// The part of the library that it belongs to.
    fn part(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// Every identifier right behind `before`, or those in the braces that stand there.
    fn names_after(&self, before: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (at, _) in self.code.match_indices(before) {
            let is_longer = self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if is_longer {
                continue;
            }
            let rest = &self.code[at + before.len()..];
            match rest.strip_prefix('{') {
                Some(group) => names.extend(names_of_group(group)),
                None => names.extend(first_name(rest)),
            }
        }
        names
    }
}

fn first_name(text: &str) -> Option<String> {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// The names on the first level of a group of imports whose opening brace is behind us.
fn names_of_group(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 0;
    let mut item = String::new();
    for character in group.chars() {
        match character {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => names.extend(first_name(std::mem::take(&mut item).trim())),
            other if depth == 0 => item.push(other),
            _ => {}
        }
    }
    names.extend(first_name(item.trim()));
    names
}

/// `text` up to its tests, with comments and the contents of strings blanked.
fn code_of(text: &str) -> String {
    let text = match text.find("\n#[cfg(test)]\nmod ") {
        Some(tests) => &text[..tests],
        None => text,
    };
    let mut code = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            raw.find("\"#").map_or(rest.len(), |end| end + 5)
        } else if rest.starts_with("'\"'") || rest.starts_with("'{'") || rest.starts_with("'}'") {
            3
        } else if next == '"' {
            string_length(rest)
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skipped..];
    }
    code
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

fn sources() -> Vec<Source> {
    fn is_test(path: &Path) -> bool {
        path.to_str()
            .is_some_and(|path| path.ends_with("_tests.rs"))
    }

    fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path)
            {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let sources: Vec<Source> = files
        .iter()
        .map(|file| Source {
            path: file
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
            code: code_of(&fs::read_to_string(file).unwrap()),
        })
        .collect();
    assert!(
        sources.len() > 30,
        "only {} sources were found",
        sources.len()
    );
    sources
}

#[test]
fn parts_import_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        let part = source.part();
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == part) else {
            wrong.push(format!(
                "{}: the part {part} has no rule; add one",
                source.path
            ));
            continue;
        };
        let root = if part == "main" {
            "stepdown::"
        } else {
            "crate::"
        };
        for name in source.names_after(root) {
            let is_part = MAY_IMPORT.iter().any(|(part, _)| *part == name);
            if is_part && name != part && !allowed.split(' ').any(|one| one == name) {
                wrong.push(format!("{} imports {name}", source.path));
            }
        }
        if source.code.contains("super::super::") {
            wrong.push(format!(
                "{} goes up twice by super; write crate::",
                source.path
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn crates_have_their_place() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, places) in ONLY_IN {
            let here = places.iter().any(|place| source.path.starts_with(place));
            let used = !source.names_after(&format!("{name}::")).is_empty()
                || source.names_after("use ").contains(*name);
            if used && !here {
                wrong.push(format!("{} uses {name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn config_sees_no_more_of_storage_than_uris() {
    for source in sources().iter().filter(|source| source.part() == "config") {
        for name in source.names_after("crate::storage::") {
            assert!(
                URI_TYPES.contains(&name.as_str()),
                "{} uses {name}",
                source.path
            );
        }
    }
}

#[test]
fn decisions_are_pure() {
    let sources = sources();
    let pure: Vec<_> = sources
        .iter()
        .filter(|source| PURE.contains(&source.path.as_str()))
        .collect();
    assert!(!pure.is_empty());
    for source in pure {
        for word in [
            "tokio",
            "async ",
            "dyn Storage",
            "std::fs",
            "Instant::now",
            "SystemTime",
            "Timestamp::now",
            "fastrand",
            "Uuid::new",
        ] {
            assert!(!source.code.contains(word), "{} has {word}", source.path);
        }
    }
}

#[test]
fn the_reader_of_imports_reads_groups() {
    let source = Source {
        path: "x.rs".into(),
        code: code_of(
            "use crate::{a::{b, c}, d, e as f};\n// crate::g\nlet x = \"crate::h\"; crate::i::j()",
        ),
    };
    let names: Vec<_> = source.names_after("crate::").into_iter().collect();
    assert_eq!(names, ["a", "d", "e", "i"]);
}
