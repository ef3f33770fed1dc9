//! Quotas, rights, full disks, two at once: a message that says what to do, and nothing visible.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{Yard, contents, message_with, true_manifest};
use crate::common::checkpoint_tree::{self, Shape};
use crate::common::client::ToolOutput;
use crate::common::isolated::{isolated, run_inside};
use crate::common::place::{Place, SOON};
use crate::common::proxy::{CutProxy, Traffic};
use crate::common::{Hdfs, wait_until};
use crate::eye::Eye;
use crate::remote::{Remote, fresh_path};

const SHAPE: Shape = Shape {
    batches: 20,
    partitions: 8,
    snapshot_each: 0,
};
const SOMEBODY: &[(&str, &str)] = &[("HADOOP_USER_NAME", "somebody")];
const GOES_ON: &str = "the same command goes on with it";

#[test]
fn a_quota_that_is_used_up_is_named_and_the_copy_goes_on_when_it_is_raised() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let yard = Yard::on(hdfs, "quotas")?;
    let source = yard.tree("ck", SHAPE)?;
    // With no room for a block not even the record of the work can be written.
    let cases = [
        ("names", "NSQuota", GOES_ON),
        ("bytes", "DSQuota", "was not begun"),
    ];
    for (dir, class, advice) in cases {
        let parent = yard.at(dir);
        yard.eye().make_dir(&parent)?;
        if dir == "names" {
            hdfs.set_name_quota(&parent, 100)?;
        } else {
            // Less than one block of a small file.
            hdfs.set_space_quota(&parent, 600 << 10)?;
        }
        let copy = format!("{dir}/copy");
        let args = ["copy", &source, &yard.uri(&copy)];
        let words = [
            "once the quota is raised",
            advice,
            &yard.at(&copy),
            "a quota is used up",
            class,
        ];
        let told = yard.told(&args, 1, &words)?;
        println!("{told}");
        ensure!(!yard.published(&copy)?);
        // What stands there is seen with the quota still used up, too.
        yard.told(&args, 1, &words[..1])?;
        if dir == "names" {
            hdfs.client().dfsadmin(&["-clrQuota", &parent])?;
        } else {
            hdfs.client().dfsadmin(&["-clrSpaceQuota", &parent])?;
        }
        let report = yard.json(&args, 0)?;
        assert_eq!(report["last_committed_batch"], json!(19));
        ensure!(yard.published(&copy)?);
        assert_eq!(yard.eye().names(&parent)?, ["copy"]);
    }
    Ok(())
}

#[test]
fn a_right_that_is_missing_is_told_with_its_place() -> Result<()> {
    let yard = Yard::on(Hdfs::shared()?, "rights")?;
    let source = yard.tree("ck", SHAPE)?;
    yard.json(&["copy", &source, &yard.uri("ck")], 0)?;

    // Not into this directory.
    let args = ["copy", &yard.uri("ck"), &yard.uri("copy")];
    let words = [
        "once this user has the right",
        "permission denied",
        "user=somebody",
        "access=WRITE",
        yard.remote.dir(),
    ];
    println!("{}", yard.told_with(&args, SOMEBODY, 1, &words)?);
    yard.assert_tidy("copy")?;

    yard.eye().make_dir(&yard.at("mine"))?;
    yard.eye().chown(&yard.at("mine"), "somebody")?;
    let args = ["copy", &yard.uri("ck"), &yard.uri("mine/copy")];
    for (file, where_seen) in [
        ("state/0/3/7.delta", "state/0/3/7.delta"),
        ("offsets/19", "offsets/19"),
    ] {
        let file = yard.at(&format!("ck/{file}"));
        yard.eye().chmod(&file, 0o600)?;
        let words = [
            "permission denied",
            "user=somebody",
            "access=READ",
            where_seen,
        ];
        println!("{}", yard.told_with(&args, SOMEBODY, 1, &words)?);
        ensure!(!yard.published("mine/copy")?);
        yard.eye().chmod(&file, 0o644)?;
    }
    // A directory that cannot be looked into has nobody say that its files are lost.
    let store = yard.at("ck/state/0/5");
    yard.eye().chmod(&store, 0o700)?;
    let words = ["permission denied", "user=somebody", "state/0/5"];
    println!("{}", yard.told_with(&args, SOMEBODY, 1, &words)?);
    yard.eye().chmod(&store, 0o755)?;
    yard.json_with(&args, SOMEBODY, 0)?;
    ensure!(yard.published("mine/copy")?);
    assert_eq!(yard.eye().names(&yard.at("mine"))?, ["copy"]);
    Ok(())
}

#[test]
fn of_two_copies_to_one_place_one_wins_and_the_other_is_told() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let proxy = CutProxy::start(hdfs.namenode().port())?;
    let dir = fresh_path("twice");
    let eye = std::sync::Arc::new(Eye::open(hdfs.conf_dir())?);
    let slow = Remote::within(
        std::sync::Arc::clone(&eye),
        &dir,
        &proxy.conf_dir(hdfs)?,
        "",
    )?;
    let (slow, quick) = (
        Yard::of(slow)?,
        Yard::of(Remote::beside(eye, &dir, hdfs.conf_dir(), "")?)?,
    );
    let source = slow.tree("ck", SHAPE)?;
    let args = [source.as_str(), &slow.uri("copy")];
    proxy.hold_after(30, "create");
    let mut first = slow.begin("first", &args)?;
    wait_until(SOON, "the first is under way", || {
        proxy.cuts() == 1 || first.has_ended()
    })?;
    let words = [
        "another process copies to",
        &slow.at("copy"),
        "wait until it has ended",
    ];
    let told = quick.told(&[&["copy"], &args[..]].concat(), 4, &words);
    proxy.set(Traffic::Pass);
    println!("{}", told?);
    let (code, report, log) = first.end(SOON * 2)?;
    assert_eq!(code, 0, "{log}");
    assert_eq!(report["last_committed_batch"], json!(19));
    ensure!(quick.published("copy")?);
    quick.assert_tidy("copy")?;

    // At the same moment: by chance either, and the loser may come when the winner is done.
    for round in 0..2 {
        let name = format!("copy-{round}");
        let to = quick.uri(&name);
        let both = [
            quick.begin(&format!("a{round}"), &[&source, &to])?,
            quick.begin(&format!("b{round}"), &[&source, &to])?,
        ];
        let mut codes = Vec::new();
        for copying in both {
            let (code, document, log) = copying.end(SOON * 2)?;
            let message = document["error"]["message"].as_str().unwrap_or_default();
            ensure!(
                code == 0
                    || (code == 4 && message.contains("another process copies to"))
                    || (code == 1 && message.contains("exists already")),
                "{code} {log}"
            );
            codes.push(code);
        }
        assert_eq!(
            codes.iter().filter(|code| **code == 0).count(),
            1,
            "{codes:?}"
        );
        ensure!(quick.published(&name)?);
        quick.assert_tidy(&name)?;
    }
    Ok(())
}

#[test]
fn a_full_disk_is_told_and_the_copy_goes_on_when_there_is_room() -> Result<()> {
    let test =
        "checkpoint_faults::refusals::a_full_disk_is_told_and_the_copy_goes_on_when_there_is_room";
    isolated(test, || {
        let place = Place::new("full")?;
        let source = place.path("ck");
        checkpoint_tree::make(&source, SHAPE)?;
        // Streamed, where the others are written whole.
        fs::write(source.join("large"), vec![7; 3 << 20])?;
        let disk = place.text("disk");
        fs::create_dir(&disk)?;
        run_inside("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", &disk])?;
        let copy = format!("{disk}/copy");
        let from = place.text("ck");
        let ran = |size: &str| -> Result<ToolOutput> {
            let size = format!("remount,size={size}");
            run_inside("mount", &["-o", &size, &disk])?;
            place.stepdown(&["checkpoint", "copy", &from, &copy])
        };
        for size in ["64k", "300k", "1m"] {
            let full = ran(size)?;
            ensure!(full.status.code() == Some(1), "{size}: {full:?}");
            let words = ["no space left", "once there is room", GOES_ON, &copy];
            let told = message_with(&full.stderr, &words)?;
            println!("{size}: {told}");
            ensure!(!Path::new(&copy).exists());
        }
        let whole = ran("32m")?;
        ensure!(whole.is_ok(), "{whole:?}");
        true_manifest(contents(Path::new(&copy))?)?;
        let left = fs::read_dir(&disk)?.count();
        ensure!(left == 1, "{left} entries");
        run_inside("umount", &[&disk])
    })
}

#[test]
fn a_name_that_hdfs_does_not_take_is_told() -> Result<()> {
    let yard = Yard::on(Hdfs::shared()?, "names")?;
    let source = yard.sample("3.5.9-agg-hdfs-clean", "ck")?;
    let file = Path::new(&source).join("a:b");
    fs::write(&file, "colon")?;
    let args = ["copy", &source, &yard.uri("copy")];
    let words = ["a:b", "not a valid path", "once all names are such as"];
    let told = yard.told(&args, 2, &words)?;
    println!("{told}");
    ensure!(!yard.published("copy")?);
    fs::remove_file(&file)?;
    let report: Value = yard.json(&args, 0)?;
    report["copy_id"].as_str().context("no id")?;
    ensure!(yard.published("copy")?);
    Ok(())
}
