//! The Hadoop configuration from real directories: where it is looked for, what wins, what is wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use stepdown::hadoop::{ConfSource, Environment, HadoopConf, HadoopConfError, Origin};
use tempfile::TempDir;

/// A directory with these files; `a/b.xml` makes a folder.
fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = dir.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    dir
}

/// A site file of these properties; one that begins with `<` is taken as it is.
fn site(properties: &[(&str, &str)]) -> String {
    let property = |(name, value): &(&str, &str)| {
        if name.starts_with('<') {
            return format!("{name}\n");
        }
        format!("<property><name>{name}</name><value>{value}</value></property>\n")
    };
    let inner = properties.iter().map(property).collect::<Vec<_>>().concat();
    format!(
        "<configuration xmlns:xi=\"http://www.w3.org/2001/XInclude\">\n{inner}</configuration>\n"
    )
}

fn environment(vars: &[(&str, &Path)]) -> Environment {
    let vars = vars
        .iter()
        .map(|(name, path)| (*name, path.to_str().unwrap()));
    Environment::new(vars, [("user.name", "ann")])
}

fn load(dir: &Path) -> Result<HadoopConf, HadoopConfError> {
    HadoopConf::load(
        &ConfSource::Dir(dir.to_owned()),
        &BTreeMap::new(),
        environment(&[]),
    )
}

fn get(conf: &HadoopConf, key: &str) -> String {
    conf.get(key).unwrap().unwrap_or_else(|| "-".to_owned())
}

#[test]
fn the_directory_is_the_named_one_else_the_environments() {
    let named = dir(&[("core-site.xml", &site(&[("k", "named")]))]);
    let variable = dir(&[("core-site.xml", &site(&[("k", "conf dir")]))]);
    let home = dir(&[("etc/hadoop/core-site.xml", &site(&[("k", "home")]))]);
    let both = [
        ("HADOOP_CONF_DIR", variable.path()),
        ("HADOOP_HOME", home.path()),
    ];
    let empty = [
        ("HADOOP_CONF_DIR", Path::new("")),
        ("HADOOP_HOME", home.path()),
    ];
    let from = |source: ConfSource, vars: &[(&str, &Path)]| {
        let conf = HadoopConf::load(&source, &BTreeMap::new(), environment(vars)).unwrap();
        get(&conf, "k")
    };
    assert_eq!(
        from(ConfSource::Dir(named.path().to_owned()), &both),
        "named"
    );
    assert_eq!(from(ConfSource::Environment, &both), "conf dir");
    assert_eq!(from(ConfSource::Environment, &both[1..]), "home");
    assert_eq!(from(ConfSource::Environment, &empty), "home");
    assert_eq!(from(ConfSource::Environment, &[]), "-");
    assert_eq!(from(ConfSource::Nowhere, &both), "-");
}

#[test]
fn later_files_win_over_earlier_ones_but_not_over_final() {
    let dir = dir(&[
        (
            "core-site.xml",
            &site(&[
                ("a", "core"),
                (
                    "<property><name>f</name><value>core</value><final>true</final></property>",
                    "",
                ),
                ("fs.permissions.umask-mode", "077"),
                ("empty.in.hdfs", "core"),
            ]),
        ),
        (
            "hdfs-site.xml",
            &site(&[("a", "hdfs"), ("f", "hdfs"), ("empty.in.hdfs", "")]),
        ),
    ]);
    let conf = load(dir.path()).unwrap();
    assert_eq!(get(&conf, "a"), "hdfs");
    assert_eq!(get(&conf, "f"), "core");
    assert_eq!(get(&conf, "empty.in.hdfs"), "core");
    assert_eq!(conf.umask().unwrap(), 0o077);
    assert_eq!(conf.ignored()[0].0, "f");

    let overrides = BTreeMap::from([("f".to_owned(), "stepdown".to_owned())]);
    let source = ConfSource::Dir(dir.path().to_owned());
    let conf = HadoopConf::load(&source, &overrides, environment(&[])).unwrap();
    assert_eq!(get(&conf, "f"), "stepdown");
    assert_eq!(conf.origin("f"), Some(&Origin::Override));
}

#[test]
fn every_value_keeps_its_origin() {
    let dir = dir(&[
        (
            "core-site.xml",
            &site(&[
                ("fs.default.name", "hdfs://${cluster}"),
                ("cluster", "ns1"),
                ("fs.s3a.secret.key", "hush"),
                ("leaks", "${env.DB_PASSWORD}"),
                ("loop", "${pool}"),
                ("pool", "${loop}"),
            ]),
        ),
        (
            "hdfs-site.xml",
            &site(&[("<xi:include href=\"more.xml\"/>", "")]),
        ),
        ("more.xml", &site(&[("dfs.nameservices", "ns1")])),
    ]);
    let conf = load(dir.path()).unwrap();
    let shown: BTreeMap<_, _> = conf
        .entries()
        .into_iter()
        .map(|entry| {
            let origin = entry.origin.to_string();
            let origin = origin.replace(dir.path().to_str().unwrap(), "DIR");
            (entry.key, (entry.value, origin))
        })
        .collect();
    for (key, value, origin) in [
        ("fs.defaultFS", "hdfs://ns1", "DIR/core-site.xml:2"),
        ("cluster", "ns1", "DIR/core-site.xml:3"),
        ("fs.s3a.secret.key", "(hidden)", "DIR/core-site.xml:4"),
        ("leaks", "(hidden)", "DIR/core-site.xml:5"),
        ("dfs.nameservices", "ns1", "DIR/more.xml:2"),
        ("fs.permissions.umask-mode", "022", "default"),
        ("hadoop.tmp.dir", "/tmp/hadoop-ann", "default"),
    ] {
        assert_eq!(shown[key], (value.to_owned(), origin.to_owned()), "{key}");
    }
    assert!(
        shown["loop"].0.contains("more than 20 deep"),
        "{:?}",
        shown["loop"]
    );
    assert!(conf.get("loop").is_err());
    assert!(!shown.contains_key("fs.default.name"));
}

#[test]
fn includes_are_found_on_the_class_path_and_beside_the_file() {
    let elsewhere = dir(&[("abs.xml", &site(&[("abs", "1")]))]);
    let absolute = elsewhere.path().join("abs.xml");
    let conf = dir(&[
        (
            "core-site.xml",
            &site(&[
                ("before", "core"),
                ("<xi:include href=\"sub/one.xml\"/>", ""),
                (
                    &format!("<xi:include href=\"{}\"/>", absolute.display()),
                    "",
                ),
                (
                    &format!("<xi:include href=\"file://{}\"/>", absolute.display()),
                    "",
                ),
                (
                    "<xi:include href=\"none.xml\"><xi:fallback><property name=\"fb\" value=\"1\"/></xi:fallback></xi:include>",
                    "",
                ),
                (
                    "<xi:include href=\"mounts.xml\"><xi:fallback><property name=\"fb2\" value=\"1\"/></xi:fallback></xi:include>",
                    "",
                ),
                ("after", "core"),
            ]),
        ),
        (
            "sub/one.xml",
            &site(&[
                ("before", "one"),
                ("after", "one"),
                ("<xi:include href=\"two.xml\"/>", ""),
                ("<xi:include href=\"mounts.xml\"/>", ""),
            ]),
        ),
        ("sub/two.xml", &site(&[("two", "1")])),
        (
            "mounts.xml",
            &site(&[("fs.viewfs.mounttable.c.link./a", "hdfs://x/a")]),
        ),
    ]);
    let conf = load(conf.path()).unwrap();
    for (key, value) in [
        ("before", "one"),
        ("after", "core"),
        ("two", "1"),
        ("abs", "1"),
        ("fb", "1"),
        ("fb2", "-"),
    ] {
        assert_eq!(get(&conf, key), value, "{key}");
    }
    assert_eq!(conf.mount_table("c").unwrap().links.len(), 1);
}

#[test]
fn what_is_wrong_is_said_with_file_and_line() {
    let file = dir(&[("x", "")]);
    let file = file.path().join("x");
    let table: Vec<(&str, TempDir, &[&str])> = vec![
        (
            "broken XML",
            dir(&[(
                "core-site.xml",
                "<configuration>\n<property>\n</configuration>",
            )]),
            &["core-site.xml:3:", "property"],
        ),
        (
            "broken XML in an included file",
            dir(&[
                (
                    "core-site.xml",
                    &site(&[("<xi:include href=\"x.xml\"/>", "")]),
                ),
                ("x.xml", "<configuration>\n<a</configuration>"),
            ]),
            &["x.xml:2:"],
        ),
        (
            "missing include",
            dir(&[(
                "hdfs-site.xml",
                &site(&[("a", "1"), ("<xi:include href=\"x.xml\"/>", "")]),
            )]),
            &["hdfs-site.xml:3", "\"x.xml\"", "no fallback"],
        ),
        (
            "include of itself",
            dir(&[(
                "core-site.xml",
                &site(&[("<xi:include href=\"core-site.xml\"/>", "")]),
            )]),
            &["core-site.xml:2", "include itself"],
        ),
        (
            "include from the network",
            dir(&[(
                "core-site.xml",
                &site(&[("<xi:include href=\"http://h/x.xml\"/>", "")]),
            )]),
            &["core-site.xml:2", "not followed"],
        ),
        (
            "no site file",
            dir(&[("yarn-site.xml", &site(&[]))]),
            &["neither core-site.xml nor hdfs-site.xml"],
        ),
        (
            "a folder instead of a file",
            dir(&[("core-site.xml/x", "")]),
            &["cannot read", "core-site.xml"],
        ),
        (
            "a proxy's error page",
            dir(&[("core-site.xml", "<html><body/></html>")]),
            &["core-site.xml:1:1", "<html>"],
        ),
    ];
    for (what, dir, words) in &table {
        let error = load(dir.path()).unwrap_err().to_string();
        for word in *words {
            assert!(error.contains(word), "{what}: {error}");
        }
    }
    for (path, words) in [
        (
            Path::new("/nonexistent/conf"),
            ["does not exist", "core-site.xml"],
        ),
        (file.as_path(), ["is no directory", "core-site.xml"]),
    ] {
        let error = load(path).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        let vars = environment(&[("HADOOP_CONF_DIR", path)]);
        let error = HadoopConf::load(&ConfSource::Environment, &BTreeMap::new(), vars).unwrap_err();
        assert!(
            error.to_string().contains("from HADOOP_CONF_DIR"),
            "{error}"
        );
    }
}

#[test]
fn a_dangling_link_is_no_missing_file() {
    let dir = dir(&[("hdfs-site.xml", &site(&[]))]);
    std::os::unix::fs::symlink("/nonexistent/x", dir.path().join("core-site.xml")).unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("cannot read") && error.contains("core-site.xml"),
        "{error}"
    );
}

#[test]
fn a_bad_value_is_said_with_its_place() {
    let dir = dir(&[(
        "hdfs-site.xml",
        &site(&[
            ("fs.permissions.umask-mode", "rwx"),
            ("hadoop.security.authentication", "certificate"),
            ("dfs.client.socket-timeout", "60s"),
            ("dfs.ha.namenodes.ns", "a"),
            ("dfs.namenode.rpc-address.ns.a", "host:port"),
        ]),
    )]);
    let conf = load(dir.path()).unwrap();
    for (error, words) in [
        (
            conf.umask().unwrap_err(),
            ["fs.permissions.umask-mode = \"rwx\"", "hdfs-site.xml:2"],
        ),
        (
            conf.is_kerberos().unwrap_err(),
            ["certificate", "hdfs-site.xml:3"],
        ),
        (
            conf.get_number("dfs.client.socket-timeout").unwrap_err(),
            ["60s", "hdfs-site.xml:4"],
        ),
        (
            conf.name_service("ns").unwrap_err(),
            ["\"port\" is no port", "hdfs-site.xml:6"],
        ),
    ] {
        let error = error.to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}
