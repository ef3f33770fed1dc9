//! The documents of `--json` have the fields that `docs/json-output.md` promises, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::sandbox::Sandbox;

/// The example that the page gives under this name.
fn example(page: &str, name: &str) -> Value {
    let begin = format!("<!-- example: {name} -->\n```json\n");
    let (_, rest) = page
        .split_once(&begin)
        .unwrap_or_else(|| panic!("docs/json-output.md has no example {name}"));
    let (text, _) = rest.split_once("\n```").unwrap();
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every field with the sort of its value, as `a.b[]: string`.
fn shape(value: &Value, at: &str, fields: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                shape(value, &format!("{at}.{key}"), fields);
            }
        }
        Value::Array(items) => {
            fields.insert(format!("{at}: array"));
            for item in items {
                shape(item, &format!("{at}[]"), fields);
            }
        }
        Value::String(_) => drop(fields.insert(format!("{at}: string"))),
        Value::Number(_) => drop(fields.insert(format!("{at}: number"))),
        Value::Bool(_) => drop(fields.insert(format!("{at}: boolean"))),
        Value::Null => drop(fields.insert(format!("{at}: null"))),
    }
}

fn shape_of(value: &Value) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    shape(value, "", &mut fields);
    fields
}

#[test]
fn documents_have_the_documented_fields() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json-output.md");
    let page = fs::read_to_string(page).unwrap();
    let sandbox = Sandbox::new();
    let odd = sandbox.write(
        "odd.toml",
        "control = \"/c\"\n[jobs.clicks.stop]\nbackend = \"driver\"\n",
    );
    let wrong = sandbox.write("wrong.toml", "[watch]\nintervall = \"1s\"\n");
    let one_key = sandbox.write("one.toml", "[watch]\ninterval = \"1s\"\n");
    let cases: &[(&str, &[&str])] = &[
        ("error", &["marker", "stat", "missing/m"]),
        ("config-error", &["--config", &wrong, "config", "check"]),
        ("init", &["init", "c"]),
        ("marker-touch", &["marker", "touch", "m"]),
        ("marker-stat", &["marker", "stat", "m"]),
        ("marker-ls", &["marker", "ls", "m"]),
        ("config-check", &["--config", &odd, "config", "check"]),
        (
            "config-show",
            &["--config", &one_key, "config", "show", "watch.interval"],
        ),
        ("doctor", &["doctor"]),
    ];
    for (name, args) in cases {
        let ran = sandbox.run(&[&["--json"], *args].concat());
        let mut found = shape_of(&ran.json());
        // Good checks have no advice; the example shows one that has.
        found.remove(".checks[].advice: null");
        assert_eq!(found, shape_of(&example(&page, name)), "{name}");
    }
    assert_eq!(
        page.matches("<!-- example: ").count(),
        cases.len(),
        "examples without a case"
    );
}
