//! Every direction: up to HDFS, within it, down again, and to another HDFS.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{MANIFEST, Yard, contents, true_manifest};
use crate::common::{HadoopVersion, Hdfs};
use crate::eye::Eye;

/// Names that a shell, a URI or a pattern would take for something else.
const NAMES: [&str; 7] = [
    "with a blank",
    " begins and ends ",
    "grüße/日本語",
    "100% a+b #1?x=[y]{z}",
    "%41%20",
    "quo\"te'back\\slash",
    "e\u{301} decomposed",
];

fn chmod(mode: &str, dir: &str) -> Result<()> {
    let done = Command::new("chmod").args(["-R", mode, dir]).status()?;
    ensure!(done.success(), "chmod {mode} {dir}");
    Ok(())
}

/// All files of `copy` but its manifest are those of the source.
fn assert_copy_of(
    source: &BTreeMap<String, Vec<u8>>,
    mut copy: BTreeMap<String, Vec<u8>>,
) -> Result<()> {
    true_manifest(copy.clone())?;
    copy.remove(MANIFEST);
    for (name, content) in &copy {
        ensure!(source.get(name) == Some(content), "{name} differs");
    }
    for name in NAMES {
        ensure!(copy.contains_key(&format!("more/{name}")), "no {name:?}");
    }
    ensure!(copy.get("more/empty").is_some_and(Vec::is_empty));
    Ok(())
}

#[test]
fn a_read_only_source_with_any_names_goes_up_within_down_and_across() -> Result<()> {
    let first = Hdfs::shared()?;
    let second = Hdfs::builder().version(HadoopVersion::V2_7).start()?;
    let yard = Yard::on(first, "directions")?;
    let source = yard.sample("3.5.9-agg-hdfs-inflight", "ck")?;
    for name in NAMES {
        let file = Path::new(&source).join("more").join(name);
        fs::create_dir_all(file.parent().unwrap_or(&file))?;
        fs::write(&file, name)?;
    }
    fs::write(Path::new(&source).join("more/empty"), "")?;
    chmod("a-w", &source)?;
    let expected = contents(Path::new(&source))?;
    let other = Eye::open(second.conf_dir())?;
    other.make_dir("/far")?;
    let across = format!("{}/far/copy", second.nn_uri());
    let down = yard.text("down");
    for (from, to) in [
        (source.as_str(), yard.uri("up").as_str()),
        (&yard.uri("up"), &yard.uri("within")),
        (&yard.uri("within"), &across),
        (&across, &down),
    ] {
        let report = yard.json(&["copy", "--full", "--verify", from, to], 0)?;
        assert_eq!(report["last_planned_batch"], json!(9), "{report:#}");
        assert_eq!(report["last_committed_batch"], json!(8), "{report:#}");
        let verified = yard.json(&["verify", "--deep", to], 0)?;
        assert_eq!(verified["findings"], json!([]), "{verified:#}");
    }
    assert_copy_of(&expected, yard.eye().contents(&yard.at("up"))?)?;
    assert_copy_of(&expected, yard.eye().contents(&yard.at("within"))?)?;
    assert_copy_of(&expected, other.contents("/far/copy")?)?;
    assert_copy_of(&expected, contents(Path::new(&down))?)?;
    yard.json(&["diff", &yard.uri("up"), &down], 0)?;
    // An independent look at what only HDFS has.
    let listed = first.dfs(&["-ls", "-C", &format!("{}/more", yard.at("within"))])?;
    assert_eq!(listed.lines().count(), NAMES.len() + 1, "{listed}");
    let mode = yard.eye().stat(&yard.at("within/metadata"))?;
    assert_eq!(mode.map(|status| status.permission & 0o777), Some(0o444));
    chmod("u+w", &source)?;
    chmod("u+w", &down)
}

/// Somebody who is not the superuser, for whom HDFS keeps its rules.
const SOMEBODY: &[(&str, &str)] = &[("HADOOP_USER_NAME", "somebody")];

#[test]
fn a_read_only_source_of_somebody_else_is_copied_without_special_rights() -> Result<()> {
    let yard = Yard::on(Hdfs::shared()?, "others")?;
    let source = yard.sample("3.5.9-agg-hdfs-clean", "ck")?;
    chmod("a-w", &source)?;
    yard.json(&["copy", "--full", &source, &yard.uri("theirs")], 0)?;
    let expected = contents(Path::new(&source))?;
    yard.eye().make_dir(&yard.at("mine"))?;
    yard.eye().chown(&yard.at("mine"), "somebody")?;
    let copy = yard.uri("mine/copy");
    let args = ["copy", "--verify", &yard.uri("theirs"), &copy];
    let report = yard.json_with(&args, SOMEBODY, 0)?;
    assert_eq!(report["last_committed_batch"], json!(8));
    let mut copied = yard.eye().contents(&yard.at("mine/copy"))?;
    true_manifest(copied.clone())?;
    copied.remove(MANIFEST);
    for (name, content) in &copied {
        assert_eq!(expected.get(name), Some(content), "{name}");
    }
    let owner = yard.eye().stat(&yard.at("mine/copy/metadata"))?;
    assert_eq!(
        owner.map(|status| status.owner).as_deref(),
        Some("somebody")
    );
    assert_eq!(yard.eye().names(&yard.at("mine"))?, ["copy"]);
    chmod("u+w", &source)
}
