//! `init`, `marker`, `config show --hadoop` and `doctor` on a real HDFS, beside Hadoop's own tool.

use anyhow::Result;
use serde_json::Value;

use crate::common::site::{Site, write_conf_dir};
use crate::common::{HadoopVersion, Hdfs};
use crate::sandbox::{Ran, Sandbox};

/// Calls stepdown with the configuration of one HDFS.
struct Caller {
    sandbox: Sandbox,
    conf_dir: String,
    config: String,
}

impl Caller {
    fn new(hdfs: &Hdfs) -> Self {
        let sandbox = Sandbox::new();
        let config = sandbox.write("stepdown.toml", "[watch]\ncall-timeout = \"3s\"\n");
        Self {
            sandbox,
            conf_dir: hdfs.conf_dir().to_str().unwrap().to_owned(),
            config,
        }
    }

    fn call(&self, args: &[&str]) -> Ran {
        self.call_with(args, &[])
    }

    fn call_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Ran {
        let args = [&["--config", &self.config], args].concat();
        let mut command = self.sandbox.command(&args);
        command.env("HADOOP_CONF_DIR", &self.conf_dir);
        Sandbox::finish(command.envs(variables.iter().copied()))
    }

    /// The exit code of `stepdown marker VERB URI`, with everything it said for a failed assertion.
    fn marker(&self, verb: &str, uri: &str) -> (i32, Ran) {
        let ran = self.call(&["marker", verb, uri]);
        (ran.code, ran)
    }
}

fn assert_codes(caller: &Caller, uri: &str, expected: &[(&str, i32)]) {
    for (verb, code) in expected {
        let (found, ran) = caller.marker(verb, uri);
        assert_eq!(found, *code, "marker {verb} {uri}: {ran:?}");
    }
}

#[test]
fn markers_are_the_same_to_stepdown_and_to_hadoop() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = hdfs.fresh_dir("cli")?;
    let caller = Caller::new(hdfs);
    let marker = format!("{}{dir}/clicks.blue", hdfs.nn_uri());
    assert_codes(
        &caller,
        &marker,
        &[("stat", 7), ("touch", 0), ("stat", 0), ("touch", 0)],
    );
    hdfs.dfs(&["-test", "-e", &marker])?;

    hdfs.dfs(&["-rm", "-skipTrash", &marker])?;
    assert_codes(&caller, &marker, &[("stat", 7), ("rm", 7)]);

    hdfs.dfs(&["-touchz", &marker])?;
    // The default file system is meant where no host is named.
    let short = format!("hdfs://{dir}/clicks.blue");
    let listing = caller.call(&["--json", "marker", "ls", &format!("hdfs://{dir}")]);
    let names: Vec<_> = listing.json()["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["clicks.blue"]);
    assert_codes(&caller, &short, &[("stat", 0), ("rm", 0), ("rm", 7)]);

    // A name that needs care, in a directory that is not there, and a directory in its place.
    let odd = format!("hdfs://{dir}/a b %20 \u{e4}");
    assert_codes(&caller, &odd, &[("touch", 0), ("stat", 0), ("rm", 0)]);
    let lost = format!("hdfs://{dir}/missing/m");
    assert_codes(&caller, &lost, &[("stat", 5), ("rm", 5), ("touch", 7)]);
    assert_codes(&caller, &format!("hdfs://{dir}"), &[("rm", 1)]);
    Ok(())
}

#[test]
fn a_user_without_rights_learns_nothing() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = hdfs.fresh_dir("closed")?;
    hdfs.dfs(&["-chmod", "700", &dir])?;
    let caller = Caller::new(hdfs);
    let uri = format!("hdfs://{dir}/m");
    for verb in ["stat", "touch", "rm"] {
        let ran = caller.call_with(&["marker", verb, &uri], &[("HADOOP_USER_NAME", "mallory")]);
        assert_eq!(ran.code, 1, "{verb}: {ran:?}");
        assert!(ran.stderr.contains("permission denied"), "{}", ran.stderr);
    }
    Ok(())
}

#[test]
fn a_control_directory_on_hdfs_passes_the_doctor() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = hdfs.fresh_dir("control")?;
    let caller = Caller::new(hdfs);
    let control = format!("hdfs://{dir}/stepdown");
    let variables = [("STEPDOWN_CONTROL", control.as_str())];
    let ran = caller.call_with(&["doctor"], &variables);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.stdout.contains("has no sentinel"), "{}", ran.stdout);

    let first = caller.call(&["--json", "init", &control]).json();
    let second = caller
        .call(&["--json", "init", "--group", "etl", &control])
        .json();
    assert_eq!(first["directory_id"], second["directory_id"]);
    assert_eq!(second["outcome"], "exists");
    let modes = hdfs.dfs(&["-ls", &format!("{dir}/stepdown")])?;
    let of = |name: &str| modes.lines().find(|line| line.ends_with(name)).unwrap();
    assert!(of("/markers").starts_with("drwxrwxr-x") && of("/markers").contains(" etl "));
    assert!(!of("/state").contains(" etl "), "{modes}");

    let ran = caller.call_with(&["--json", "doctor"], &variables);
    assert_eq!(ran.code, 0, "{ran:?}");
    let report = ran.json();
    let verdict = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        let found = checks
            .iter()
            .find(|check| check["name"].as_str().unwrap().starts_with(name));
        found.map(|check| check["verdict"].clone())
    };
    for name in [
        "hadoop-configuration",
        "hdfs://",
        "credentials for hdfs://",
        "control-directory",
        "write",
        "exclusive-create",
        "rename",
        "clock-skew",
    ] {
        assert_eq!(verdict(name), Some(Value::from("ok")), "{name}: {report}");
    }
    let left = hdfs.dfs(&["-ls", "-R", &format!("{dir}/stepdown/state")])?;
    assert_eq!(left.trim(), "", "probes are removed");
    Ok(())
}

#[test]
fn the_values_of_hadoop_have_their_origin() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let caller = Caller::new(hdfs);
    let ran = caller.call(&["--json", "config", "show", "--hadoop", "fs.defaultFS"]);
    let property = &ran.json()["properties"][0];
    assert_eq!(property["value"], hdfs.nn_uri());
    let origin = property["origin"].as_str().unwrap();
    assert!(origin.contains("core-site.xml:"), "{origin}");
    Ok(())
}

#[test]
fn what_does_not_answer_is_exit_code_5() -> Result<()> {
    let hdfs = Hdfs::builder().version(HadoopVersion::chosen()?).start()?;
    let caller = Caller::new(&hdfs);
    let marker = "hdfs:///m";
    assert_codes(&caller, marker, &[("touch", 0)]);

    hdfs.enter_safe_mode()?;
    assert_codes(&caller, marker, &[("stat", 0), ("touch", 5), ("rm", 5)]);
    hdfs.leave_safe_mode()?;

    hdfs.namenode().suspend()?;
    assert_codes(&caller, marker, &[("stat", 5), ("rm", 5), ("ls", 5)]);
    hdfs.namenode().resume()?;

    hdfs.namenode().kill()?;
    assert_codes(
        &caller,
        marker,
        &[("stat", 5), ("rm", 5), ("touch", 5), ("ls", 5)],
    );
    let ran = caller.call_with(&["doctor"], &[("STEPDOWN_CONTROL", "hdfs:///c")]);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.stdout.contains("can be reached from here"),
        "{}",
        ran.stdout
    );
    Ok(())
}

#[test]
fn a_wrong_hadoop_configuration_is_exit_code_2() {
    let caller = |conf_dir: &str| {
        let sandbox = Sandbox::new();
        let config = sandbox.write("stepdown.toml", "");
        Caller {
            conf_dir: conf_dir.replace("DIR", &sandbox.text("conf")),
            sandbox,
            config,
        }
    };
    let missing = caller("/nowhere/conf");
    assert_codes(
        &missing,
        "hdfs:///m",
        &[("stat", 2), ("touch", 2), ("ls", 2)],
    );

    let no_default = caller("DIR");
    write_conf_dir(
        &no_default.sandbox.path("conf"),
        &Site::default(),
        &Site::default(),
    )
    .unwrap();
    assert_codes(&no_default, "hdfs:///m", &[("stat", 2)]);
    // Local markers need no Hadoop.
    assert_codes(&no_default, "m", &[("stat", 7), ("touch", 0)]);

    let broken = caller("DIR");
    broken
        .sandbox
        .write("conf/core-site.xml", "<configuration><property>");
    assert_codes(&broken, "hdfs:///m", &[("stat", 2)]);
}
