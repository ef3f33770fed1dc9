//! The documents of `--json` have the fields that `docs/json-output.md` promises, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::checkpoint_cli::unpack;
use crate::sandbox::Sandbox;

/// The page, and which of its examples were compared.
struct Page {
    text: String,
    compared: BTreeSet<String>,
}

impl Page {
    fn load() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json-output.md");
        Self {
            text: fs::read_to_string(file).unwrap(),
            compared: BTreeSet::new(),
        }
    }

    /// The example of this name, with the receipts in it written out.
    fn example(&self, name: &str) -> Value {
        let begin = format!("<!-- example: {name} -->\n```json\n");
        let (_, rest) = self
            .text
            .split_once(&begin)
            .unwrap_or_else(|| panic!("docs/json-output.md has no example {name}"));
        let (text, _) = rest.split_once("\n```").unwrap();
        let mut value: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        if name != "receipt" {
            let receipt = self.example("receipt");
            for at in ["/receipt", "/slots/0/receipt"] {
                if let Some(short) = value.pointer_mut(at) {
                    *short = receipt.clone();
                }
            }
            if name == "status"
                && let Some(proof) = value.pointer_mut("/slots/0/checkpoints")
            {
                *proof = receipt["proof"].clone();
            }
        }
        value
    }

    /// Compares the fields of `found` with those of the example. What is `null` or empty here has its
    /// fields in the example only.
    fn compare(&mut self, name: &str, found: &Value) {
        let example = shape_of(&self.example(name));
        let found = shape_of(found);
        let unknown: Vec<_> = found.difference(&example).collect();
        let unknown: Vec<_> = unknown
            .into_iter()
            .filter(|field| {
                let known_otherwise = field.strip_suffix(": null").is_some_and(|path| {
                    let deeper = [format!("{path}: "), format!("{path}."), format!("{path}[")];
                    example
                        .iter()
                        .any(|field| deeper.iter().any(|d| field.starts_with(d)))
                });
                // `restarted_as` is null in the example.
                let is_null_there = field
                    .split_once(": ")
                    .is_some_and(|(path, _)| example.contains(&format!("{path}: null")));
                !known_otherwise && !is_null_there
            })
            .collect();
        assert!(unknown.is_empty(), "{name}: not documented: {unknown:?}");
        let empty: Vec<&str> = found
            .iter()
            .filter_map(|field| {
                field
                    .strip_suffix(": null")
                    .or(field.strip_suffix(": array"))
            })
            .collect();
        let missing: Vec<_> = example
            .difference(&found)
            .filter(|field| !empty.iter().any(|path| field.starts_with(path)))
            .collect();
        assert!(
            missing.is_empty(),
            "{name}: documented and missing: {missing:?}"
        );
        self.compared.insert(name.to_owned());
    }

    fn assert_all_compared(&self, names: &[&str]) {
        for name in names {
            assert!(self.compared.contains(*name), "{name}");
        }
    }
}

/// Every field with the sort of its value, as `.a.b[]: string`.
fn shape(value: &Value, at: &str, fields: &mut BTreeSet<String>) {
    let sort = match value {
        Value::Object(object) => {
            for (key, value) in object {
                shape(value, &format!("{at}.{key}"), fields);
            }
            return;
        }
        Value::Array(items) => {
            for item in items {
                shape(item, &format!("{at}[]"), fields);
            }
            "array"
        }
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "boolean",
        Value::Null => "null",
    };
    fields.insert(format!("{at}: {sort}"));
}

fn shape_of(value: &Value) -> BTreeSet<String> {
    let mut fields = BTreeSet::new();
    shape(value, "", &mut fields);
    fields
}

#[test]
fn documents_have_the_documented_fields() {
    let mut page = Page::load();
    let sandbox = Sandbox::new();
    let odd = sandbox.write(
        "odd.toml",
        "control = \"/c\"\n[jobs.clicks]\nstop.backend = \"driver\"\ncheckpoints = []\n",
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
        ("wait-marker", &["wait", "m", "--until", "present"]),
        ("config-check", &["--config", &odd, "config", "check"]),
        (
            "config-show",
            &["--config", &one_key, "config", "show", "watch.interval"],
        ),
        (
            "config-show-hadoop",
            &["config", "show", "--hadoop", "dfs.replication"],
        ),
        ("doctor", &["doctor"]),
    ];
    sandbox.write(
        "hadoop/core-site.xml",
        "<configuration><property><name>dfs.replication</name><value>1</value><final>true</final>\
         </property></configuration>",
    );
    sandbox.write(
        "hadoop/hdfs-site.xml",
        "<configuration><property><name>dfs.replication</name><value>2</value></property>\
         </configuration>",
    );
    for (name, args) in cases {
        let mut command = sandbox.command(&[&["--json"], *args].concat());
        let ran = Sandbox::finish(command.env("HADOOP_CONF_DIR", sandbox.path("hadoop")));
        page.compare(name, &ran.json());
    }
}

/// Ends a process of the test, however the test ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn documents_of_a_job_that_runs_and_stops() {
    let mut page = Page::load();
    let sandbox = Sandbox::new();
    let config = sandbox.write(
        "stepdown.toml",
        &format!(
            "control = {:?}\n[watch]\ninterval = \"200ms\"\n[jobs.clicks]\ncheckpoints = [{:?}]\n\
             stop.backend = \"signal\"\n",
            sandbox.text("c"),
            sandbox.text("ck"),
        ),
    );
    let stepdown = |args: &[&str]| sandbox.run(&[&["--json", "--config", &config], args].concat());
    assert_eq!(stepdown(&["init"]).code, 0);
    for (name, text) in [
        (
            "ck/metadata",
            "{\"id\":\"0f6d9c33-8a7c-4d5e-9d57-4b1f0c7a7f10\"}",
        ),
        (
            "ck/offsets/0",
            "v1\n{\"batchWatermarkMs\":0,\"batchTimestampMs\":1,\"conf\":{}}\n0",
        ),
        ("ck/commits/0", "v1\n{\"nextBatchWatermarkMs\":0}"),
    ] {
        sandbox.write(name, text);
    }
    page.compare("watch-dry-run", &stepdown(&["watch", "--dry-run"]).json());
    let run = ["run", "--job", "clicks", "--kill-with-parent"];
    let dry = stepdown(&[&run[..], &["--dry-run", "--", "true"]].concat());
    page.compare("run-dry-run", &serde_json::from_str(&dry.stderr).unwrap());

    let child = std::process::Command::new(env!("CARGO_BIN_EXE_stepdown"))
        .args(["--json", "-q", "--config", &config])
        .args(run)
        .args([
            "--",
            "sh",
            "-c",
            "trap 'kill $!; exit 0' TERM; sleep 60 & wait",
        ])
        .env_clear()
        .env("HOME", sandbox.path("home"))
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .stderr(fs::File::create(sandbox.path("run.err")).unwrap())
        .spawn()
        .unwrap();
    let mut child = Ended(child);
    page.compare(
        "wait-running",
        &stepdown(&["wait", "clicks", "--until", "running"]).json(),
    );
    wait_until("the job is armed", || {
        stepdown(&["status"]).json()["slots"][0]["armed"] == true
    });
    page.compare(
        "stop-dry-run",
        &stepdown(&["stop", "clicks", "--dry-run"]).json(),
    );
    let stopped = stepdown(&["stop", "clicks"]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    page.compare("receipt", &stopped.json());
    page.compare("status", &stepdown(&["status"]).json());
    wait_until("run has ended", || child.0.try_wait().unwrap().is_some());
    let err = fs::read_to_string(sandbox.path("run.err")).unwrap();
    page.compare("run", &serde_json::from_str(err.trim()).unwrap());
    page.assert_all_compared(&["receipt", "status", "run"]);
}

#[test]
fn documents_of_checkpoints() {
    let mut page = Page::load();
    let sandbox = Sandbox::new();
    for sample in [
        "4.0.5-tws-v2-inflight-tmp",
        "3.5.9-agg-hdfs-clean",
        "3.5.9-agg-hdfs-damaged-missing-delta",
    ] {
        unpack(sample, &sandbox.path(""));
    }
    fs::rename(sandbox.path("3.5.9-agg-hdfs-clean"), sandbox.path("ck")).unwrap();
    let stepdown = |args: &[&str]| {
        let ran = sandbox.run(&[&["--json", "checkpoint"], args].concat());
        ran.json()
    };
    let mut found = stepdown(&["inspect", "4.0.5-tws-v2-inflight-tmp"]);
    // What the checkpoint pins is not stepdown's to promise.
    found["conf"] = serde_json::json!({"spark.sql.shuffle.partitions": "3"});
    page.compare("checkpoint-inspect", &found);
    page.compare(
        "checkpoint-verify",
        &stepdown(&["verify", "3.5.9-agg-hdfs-damaged-missing-delta"]),
    );
    let mut plan = stepdown(&["copy", "--dry-run", "ck", "copy"]);
    for why in ["older-state", "hadoop-checksum"] {
        plan["left_out"].as_object_mut().unwrap().remove(why);
    }
    page.compare("checkpoint-plan", &plan);
    page.compare("checkpoint-sync", &stepdown(&["sync", "ck", "copy"]));
    page.compare("checkpoint-copy", &stepdown(&["copy", "ck", "copy"]));
    stepdown(&["rewind", "--to", "5", "ck", "old"]);
    page.compare("checkpoint-diff", &stepdown(&["diff", "ck", "old"]));
    page.compare("checkpoint-ls", &stepdown(&["ls", "."]));
    page.compare(
        "checkpoint-retain",
        &stepdown(&["retain", ".", "--dry-run"]),
    );
}

#[test]
fn every_example_has_a_case() {
    let page = Page::load();
    let cases = include_str!("json_output.rs");
    for part in page.text.split("<!-- example: ").skip(1) {
        let (name, _) = part.split_once(" -->").unwrap();
        assert!(
            cases.contains(&format!("\"{name}\"")),
            "no case for the example {name}"
        );
    }
}
