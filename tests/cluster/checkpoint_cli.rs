//! `stepdown checkpoint` over a real HDFS: there, within, and back.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Result;
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::common::Hdfs;
use crate::sandbox::Sandbox;

/// Calls stepdown with the configuration of one HDFS.
struct Caller {
    sandbox: Sandbox,
    conf_dir: String,
}

impl Caller {
    fn json(&self, args: &[&str], code: i32) -> Value {
        let args = [&["--json", "checkpoint"], args].concat();
        let mut command = self.sandbox.command(&args);
        let ran = Sandbox::finish(command.env("HADOOP_CONF_DIR", &self.conf_dir));
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        ran.json()
    }
}

fn unpack(sample: &str, dir: &Path) -> Result<()> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints");
    let archive = File::open(fixtures.join(format!("{sample}.tar.gz")))?;
    tar::Archive::new(GzDecoder::new(archive)).unpack(dir)?;
    Ok(())
}

#[test]
fn copies_go_to_hdfs_within_it_and_back() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = hdfs.fresh_dir("checkpoint-cli")?;
    let at = |name: &str| format!("{}{dir}/{name}", hdfs.nn_uri());
    let caller = Caller {
        sandbox: Sandbox::new(),
        conf_dir: hdfs.conf_dir().to_str().unwrap().to_owned(),
    };
    // This one names its own place in its files.
    let sample = "4.0.5-tws-v2-inflight-tmp";
    unpack(sample, &caller.sandbox.path(""))?;

    let up = caller.json(&["copy", "--verify", sample, &at("clicks")], 0);
    assert_eq!(up["total"]["files"], json!(15));
    let found = caller.json(&["inspect", &at("clicks")], 0);
    assert_eq!(found["uri"], json!(at("clicks")));
    assert_eq!(found["state"], "in-flight");
    assert_eq!(found["findings"], json!([]));
    // Without a host the default file system is meant: the same place by another name.
    caller.json(&["verify", "--deep", &format!("hdfs://{dir}/clicks")], 0);
    let nested = format!("hdfs://{dir}/clicks/state/copy");
    caller.json(&["copy", &at("clicks"), &nested], 2);
    caller.json(&["copy", &at("clicks"), &at("missing/copy")], 7);
    caller.json(&["copy", sample, &at("clicks")], 1);

    caller.json(&["sync", &at("clicks"), &at("second")], 0);
    let second = caller.json(&["sync", "--finish", &at("clicks"), &at("second")], 0);
    assert_eq!(second["last_planned_batch"], json!(13));
    caller.json(&["verify", "--deep", &at("second")], 0);
    let metadata = hdfs.dfs(&["-cat", &format!("{}/state/0/_metadata/v2/0", at("second"))])?;
    assert!(
        metadata.contains(&at("second/state/0/_stateSchema")),
        "{metadata}"
    );
    caller.json(&["diff", &at("clicks"), &at("second")], 0);

    // What is not in a minimal copy cannot be gone back to.
    caller.json(&["copy", "--at", "committed", &at("second"), "down"], 3);
    let args = ["copy", "--new-query-id", &at("second"), "down"];
    let down = caller.json(&args, 0);
    assert_eq!(down["last_planned_batch"], json!(13));
    caller.json(&["verify", "--deep", "down"], 0);
    let text = fs::read_to_string(caller.sandbox.path("down/state/0/_metadata/v2/0"))?;
    assert!(
        text.contains(&format!("file:{}/state", caller.sandbox.text("down"))),
        "{text}"
    );

    let listed = caller.json(&["ls", &at("")], 0);
    assert_eq!(listed["copies"].as_array().map(Vec::len), Some(2));
    // The source of each is another one, so both are the newest.
    let kept = caller.json(
        &["retain", &at(""), "--keep-last", "0", "--keep-for", "0s"],
        0,
    );
    assert_eq!(kept["copies"][0]["fate"], "keep-newest");
    let third = caller.json(&["copy", &at("clicks"), &at("third")], 0);
    let args = ["retain", &at(""), "--keep-last", "0", "--keep-for", "0s"];
    let kept = caller.json(&args, 0);
    let fates: Vec<&Value> = kept["copies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["fate"])
        .collect();
    assert_eq!(fates, ["keep-newest", "remove", "keep-newest"]);
    assert_eq!(third["copied"]["files"], json!(15));
    let left = hdfs.dfs(&["-ls", "-C", &dir])?;
    let mut left: Vec<&str> = left
        .lines()
        .filter_map(|line| line.rsplit('/').next())
        .collect();
    left.sort_unstable();
    assert_eq!(left, ["clicks", "third"]);
    Ok(())
}
