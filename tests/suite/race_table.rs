//! Every row of the tables of races in `docs/markers.md` names a test that is there.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The cells of each row of the tables that say what they are shown by.
fn rows(page: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut is_shown = false;
    for line in page.lines() {
        let Some(inner) = line
            .strip_prefix("| ")
            .and_then(|rest| rest.strip_suffix('|'))
        else {
            is_shown = false;
            continue;
        };
        let cells: Vec<String> = inner
            .split(" | ")
            .map(|cell| cell.trim().to_owned())
            .collect();
        let last = cells.last().unwrap().as_str();
        let last = last.trim_end_matches('|').trim();
        if last == "shown by" {
            is_shown = true;
        } else if is_shown && !last.starts_with("---") {
            rows.push(cells);
        }
    }
    rows
}

/// Whether `text` has this function, as a test.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().enumerate().any(|(at, line)| {
        let line = line.trim_start();
        let declared = line.strip_prefix("async ").unwrap_or(line);
        let is_it = declared
            .strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('));
        // Attributes may take several lines; before them there is an empty one or a brace.
        let above = lines[..at].iter().rev().map(|line| line.trim());
        let mut attributes = above.take_while(|line| !line.is_empty() && *line != "}");
        is_it
            && attributes
                .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

/// What is wrong with the name of a test, if something is.
fn complaint(kind: &str, name: &str) -> Option<String> {
    let dir = match kind {
        "suite" => root().join("tests/suite"),
        "cluster" => root().join("tests/cluster"),
        _ => root().join("src"),
    };
    let Some((module, test)) = name.rsplit_once("::") else {
        return Some(format!("`{name}` names no module"));
    };
    let file = dir.join(module.replace("::", "/")).with_extension("rs");
    let Ok(source) = fs::read_to_string(&file) else {
        return Some(format!("`{name}`: there is no {}", file.display()));
    };
    (!has_test(&source, test)).then(|| format!("`{name}` is no test of {}", file.display()))
}

/// What is wrong with the last cell of a row.
fn complaints(cell: &str, is_first: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut kind = "unit";
    let mut names = 0;
    for (index, part) in cell.split('`').enumerate() {
        if index % 2 == 1 {
            names += 1;
            found.extend(complaint(kind, part));
            continue;
        }
        // Each name is of the kind that was said last; after a `;` of none.
        for word in part.split(' ') {
            match word {
                "suite" | "cluster" => kind = word,
                _ if word.contains(';') => kind = "unit",
                _ => {}
            }
        }
    }
    let refers_back = cell.starts_with("the same") && !is_first;
    if names == 0 && !refers_back {
        found.push("no test is named".to_owned());
    }
    found
}

#[test]
fn every_race_is_shown_by_a_test() {
    let page = fs::read_to_string(root().join("docs/markers.md")).unwrap();
    let rows = rows(&page);
    assert!(rows.len() > 50, "only {} rows were found", rows.len());
    let mut wrong = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let cell = row.last().unwrap();
        for complaint in complaints(cell, index == 0) {
            wrong.push(format!("{}: {complaint}", row[0]));
        }
    }
    assert!(wrong.is_empty(), "docs/markers.md:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_races_finds_what_is_missing() {
    assert_eq!(complaints("", false).len(), 1);
    assert_eq!(complaints("the same", true).len(), 1);
    assert_eq!(complaints("the same", false).len(), 0);
    assert_eq!(
        complaints("suite `race_table::no_such_test`", false).len(),
        1
    );
    assert_eq!(complaints("suite `no_such_file::test`", false).len(), 1);
    assert_eq!(complaints("suite `rows`", false).len(), 1);
    assert_eq!(complaints("suite `race_table::rows`", false).len(), 1);
    let own = "suite `race_table::every_race_is_shown_by_a_test`";
    assert_eq!(complaints(own, false).len(), 0);
    let table = "| a | b | shown by |\n| --- | --- | --- |\n| x | y | |\n";
    assert_eq!(rows(table).len(), 1, "a cell without a word is a row too");
}
