//! The generated pages are what the code says. With `STEPDOWN_UPDATE_DOCS=1` (`make docs`) they are
//! rewritten instead.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use stepdown::cli;
use stepdown::cli::exit::Exit;
use stepdown::config::{Environment, Lookup, Origin, load, reference};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Compares a file with what it should be, or writes it.
fn assert_current(file: &Path, wanted: &str) {
    let name = file.strip_prefix(root()).unwrap().display().to_string();
    if std::env::var_os("STEPDOWN_UPDATE_DOCS").is_some_and(|value| value == "1") {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, wanted).unwrap();
        return;
    }
    let found = fs::read_to_string(file).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).position(|(a, b)| a != b);
    let line = differs.unwrap_or_else(|| found.lines().count().min(wanted.lines().count()));
    assert!(
        found == wanted,
        "{name} is not current at line {}: run `make docs`\n  it has:    {:?}\n  it should: {:?}",
        line + 1,
        found.lines().nth(line),
        wanted.lines().nth(line)
    );
}

/// The page with the block between `<!-- generated: name -->` and the next `<!-- end -->` replaced.
fn splice(page: &str, name: &str, block: &str) -> String {
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("the page has no block {name}"));
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    format!("{before}{begin}{}\n<!-- end -->{after}", block.trim_end())
}

fn assert_page(name: &str, blocks: &[(&str, String)]) {
    let file = root().join("docs").join(name);
    let mut page = fs::read_to_string(&file).unwrap();
    for (name, block) in blocks {
        page = splice(&page, name, block);
    }
    assert_current(&file, &page);
}

/// One key of the reference file.
#[derive(Debug)]
struct Key {
    name: String,
    value: String,
    meaning: String,
}

impl Key {
    /// The default in words: as the comment says, else the value that is shown.
    fn default(&self) -> String {
        if let Some((_, rest)) = self.meaning.split_once("Default: ") {
            let end = rest
                .find(". ")
                .map_or(rest.trim_end_matches('.'), |end| &rest[..end]);
            return end.to_owned();
        }
        if self.meaning.contains("Required with") {
            return "none".to_owned();
        }
        if self.meaning.contains("Required") {
            return "required".to_owned();
        }
        format!("`{}`", self.value)
    }

    fn description(&self) -> String {
        let text = match self.meaning.split_once("Default: ") {
            Some((before, _)) => before,
            None => &self.meaning,
        };
        let text = text
            .replace("Required: ", "")
            .replace("Required.", "")
            .replace("Required, as above.", "");
        match text.trim() {
            "" => "As above.".to_owned(),
            text => text.replace('|', "\\|"),
        }
    }
}

/// One table of the reference file.
#[derive(Debug)]
struct Section {
    name: String,
    meaning: String,
    keys: Vec<Key>,
}

/// Reads `conf/stepdown.toml` by its conventions: a comment stands above what it is about, `#key` is
/// an example.
fn reference_sections() -> Vec<Section> {
    let mut sections = vec![Section {
        name: String::new(),
        meaning: String::new(),
        keys: Vec::new(),
    }];
    let mut comment = String::new();
    for line in reference::FILE.lines().skip_while(|line| !line.is_empty()) {
        if let Some(text) = line.strip_prefix("# ") {
            let break_before = if text.starts_with("- ") { "\n" } else { " " };
            comment += if comment.is_empty() { "" } else { break_before };
            comment += text;
            continue;
        }
        let code = line.strip_prefix('#').unwrap_or(line);
        let meaning = std::mem::take(&mut comment);
        if let Some(name) = code.strip_prefix('[') {
            sections.push(Section {
                name: name.trim_end_matches(']').to_owned(),
                meaning,
                keys: Vec::new(),
            });
        } else if let Some((name, value)) = code.split_once(" = ") {
            assert!(!meaning.is_empty(), "{name} has no comment");
            sections.last_mut().unwrap().keys.push(Key {
                name: name.to_owned(),
                value: value.to_owned(),
                meaning,
            });
        } else {
            assert_eq!(line, "", "a line of another sort");
        }
    }
    sections
}

/// The reference file with all its examples in force.
fn reference_in_force() -> String {
    let is_example = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && *line != "#";
    let lines: Vec<&str> = reference::FILE
        .lines()
        .map(|line| if is_example(&line) { &line[1..] } else { line })
        .collect();
    lines.join("\n")
}

fn parse(text: &str) -> load::Loaded {
    let lookup = Lookup::Found("reference".into());
    load::parse(text, lookup, &Environment::default()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_reference_file_is_all_defaults_as_it_stands() {
    let loaded = parse(reference::FILE);
    assert_eq!(loaded.config, stepdown::config::Config::default());
}

#[test]
fn the_reference_file_names_every_key_with_its_default() {
    let full = parse(&reference_in_force());
    let unset: Vec<_> = full
        .settings
        .iter()
        .filter(|setting| !matches!(setting.origin, Origin::File(_)))
        .map(|setting| setting.key.as_str())
        // Inherited, or of the backend that the example does not use.
        .filter(|key| {
            let others = ["jobs.views.", "jobs.orders.", "jobs.clicks.slots."];
            !others.iter().any(|other| key.starts_with(other))
        })
        .collect();
    // Shown in the table `stop` of the slot; here it would contradict `attempt-from`.
    assert_eq!(unset, ["jobs.clicks.stop.pid-file"]);

    // A minimal file with all backends, whose values are all defaults.
    let defaults = parse(
        r#"
control = "/c"
[jobs.clicks.stop]
backend = "signal"
[jobs.views.stop]
backend = "command"
request = ["r"]
observe = ["o"]
[jobs.clicks.slots.blue]
checkpoints = ["/blue"]
[jobs.clicks.slots.green]
checkpoints = ["/green"]
[jobs.clicks.rollout]
[jobs.orders.stop]
backend = "driver"
"#,
    );
    let mut compared = 0;
    for section in reference_sections() {
        for key in &section.keys {
            let told = key.meaning.contains("Default: ") || key.meaning.contains("Required");
            // `overrides` is a table; what is in it is told key by key.
            if told || key.name == "overrides" {
                continue;
            }
            let full = if section.name.is_empty() {
                key.name.clone()
            } else {
                format!("{}.{}", section.name, key.name)
            };
            let setting = defaults.settings.iter().find(|setting| setting.key == full);
            let setting = setting.unwrap_or_else(|| panic!("{full} is no key"));
            assert_eq!(setting.value.as_deref(), Some(key.value.as_str()), "{full}");
            compared += 1;
        }
    }
    assert!(compared > 25, "only {compared} defaults were compared");
}

#[test]
fn configuration_page() {
    let mut block = String::new();
    for section in reference_sections() {
        let title = match section.name.as_str() {
            "" => "Top of the file".to_owned(),
            name => {
                let generic = name
                    .replace("jobs.clicks", "jobs.<job>")
                    .replace("jobs.views", "jobs.<job>")
                    .replace("slots.blue", "slots.<slot>");
                let backend = if name == "jobs.views.stop" {
                    " with `backend = \"command\"`"
                } else {
                    ""
                };
                format!("`[{generic}]`{backend}")
            }
        };
        let _ = writeln!(block, "### {title}\n");
        if !section.meaning.is_empty() {
            let _ = writeln!(block, "{}\n", section.meaning);
        }
        block += "| key | default | meaning |\n| --- | --- | --- |\n";
        for key in &section.keys {
            let _ = writeln!(
                block,
                "| `{}` | {} | {} |",
                key.name,
                key.default().replace('|', "\\|"),
                key.description()
            );
        }
        block += "\n";
    }
    assert_page("configuration.md", &[("keys", block)]);
}

#[test]
fn exit_codes_page() {
    let mut codes = String::from("| code | name | meaning |\n| --- | --- | --- |\n");
    let mut run = codes.clone();
    for exit in Exit::ALL {
        let _ = writeln!(
            codes,
            "| {} | {} | {} |",
            exit.code(),
            exit.name(),
            exit.meaning()
        );
        if exit.code_under_run() >= 64 {
            let _ = writeln!(
                run,
                "| {} | {} | {} |",
                exit.code_under_run(),
                exit.name(),
                exit.meaning()
            );
        }
    }
    assert_page("exit-codes.md", &[("codes", codes), ("run", run)]);
}

#[test]
fn command_line_page() {
    assert_page("cli.md", &[("commands", cli::reference::markdown())]);
}

#[test]
fn man_pages() {
    let dir = root().join("docs/man");
    let pages = cli::cmd::man::pages().unwrap();
    for page in &pages {
        let text = String::from_utf8(page.text.clone()).unwrap();
        assert_current(&dir.join(page.file_name()), &text);
    }
    for entry in fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = pages.iter().any(|page| page.file_name() == name);
        assert!(known, "docs/man/{name} is of no command any more");
    }
}
