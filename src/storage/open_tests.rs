//! Which storage a URI opens, and what is said when it cannot.

use super::*;
use crate::storage::memory::MemoryStorage;

fn storages(overrides: &[(&str, &str)]) -> Storages {
    let options = StorageOptions {
        hadoop_conf: ConfSource::Nowhere,
        hadoop_overrides: overrides
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        call_timeout: Duration::from_secs(5),
        ..StorageOptions::default()
    };
    let environment = Environment::new([("A", "b")], [("user.name", "ann")]);
    Storages::with_environment(options, environment)
}

fn uri(text: &str) -> StorageUri {
    text.parse().unwrap()
}

fn chain(error: &StorageError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn one_file_system_is_one_storage_whatever_it_is_called() {
    let storages = storages(&[("fs.defaultFS", "hdfs://nn")]);
    let open = |text: &str| storages.open(&uri(text).authority).unwrap();
    let named = open("hdfs://nn:8020/a");
    for text in ["hdfs:///a", "hdfs://nn/a", "hdfs:/a"] {
        assert!(Arc::ptr_eq(&named, &open(text)), "{text}");
    }
    assert_eq!(named.authority(), &Authority::Hdfs("nn:8020".to_owned()));
    assert!(!Arc::ptr_eq(&named, &open("hdfs://nn:9000/a")));
    assert!(Arc::ptr_eq(&open("/a"), &open("file:///b")));
}

#[test]
fn what_cannot_be_opened_is_a_matter_of_configuration() {
    for (overrides, text, word) in [
        (&[][..], "hdfs:///a", "fs.defaultFS is not set"),
        (
            &[("dfs.ha.namenodes.ns", "a")][..],
            "hdfs://ns/a",
            "dfs.namenode.rpc-address.ns",
        ),
        (
            &[("fs.permissions.umask-mode", "x")],
            "hdfs://nn/a",
            "neither octal",
        ),
        (
            &[("hadoop.security.authentication", "x")],
            "hdfs://nn/a",
            "neither simple nor kerberos",
        ),
        (&[], "viewfs://c/a", "no mount table"),
        (
            &[("fs.viewfs.mounttable.c.link./a", "s3a://b/c")],
            "viewfs://c/a",
            "s3a",
        ),
        (
            &[("fs.viewfs.mounttable.c.link./a", "viewfs://c/b")],
            "viewfs://c/a",
            "back into viewfs",
        ),
    ] {
        let error = storages(overrides).open(&uri(text).authority).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Config, "{text}");
        assert!(chain(&error).contains(word), "{text}: {}", chain(&error));
    }
    let error = storages(&[])
        .open(&Authority::Memory("m".into()))
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}

#[test]
fn a_wrong_configuration_does_not_touch_local_paths() {
    let options = StorageOptions {
        hadoop_conf: ConfSource::Dir("/nonexistent/conf".into()),
        ..StorageOptions::default()
    };
    let storages = Storages::with_environment(options, Environment::default());
    assert!(storages.open(&Authority::Local).is_ok());
    for text in ["hdfs://nn/a", "viewfs://c/a"] {
        let error = storages.open(&uri(text).authority).unwrap_err();
        assert!(
            chain(&error).contains("/nonexistent/conf"),
            "{}",
            chain(&error)
        );
    }
}

#[tokio::test]
async fn a_mount_table_opens_its_targets_once() {
    let storages = storages(&[
        ("fs.defaultFS", "viewfs://c/"),
        ("fs.viewfs.mounttable.c.link./a", "memory://m/in"),
        ("fs.viewfs.mounttable.c.link./b", "hdfs://nn"),
        ("fs.viewfs.mounttable.c.linkFallback", "memory://m/"),
    ]);
    let memory = MemoryStorage::new("m");
    storages.register(Arc::new(memory.clone()));
    let view = storages.open(&uri("viewfs:///x").authority).unwrap();
    assert_eq!(view.authority(), &Authority::Viewfs("c".to_owned()));
    let path = |text| StoragePath::parse(text).unwrap();
    memory.create_dir(&path("/in")).await.unwrap();
    view.touch(&path("/a/m")).await.unwrap();
    assert!(memory.stat(&path("/in/m")).await.is_ok());
    assert!(Arc::ptr_eq(
        &view,
        &storages.open(&uri("viewfs://c/x").authority).unwrap()
    ));
}

#[test]
fn hosts_that_stand_for_several_namenodes_are_resolved() {
    let mut service = NameService {
        name: "ns".to_owned(),
        is_logical: true,
        namenodes: vec![NameNode {
            id: None,
            host: "127.0.0.1".to_owned(),
            port: 9,
        }],
        without_address: Vec::new(),
        resolve_hosts: true,
    };
    resolve_hosts(&mut service, Duration::from_secs(5)).unwrap();
    assert_eq!(service.namenodes[0].to_string(), "127.0.0.1:9");
    service.namenodes = vec![NameNode {
        id: None,
        host: "bad..name".to_owned(),
        port: 9,
    }];
    let error = resolve_hosts(&mut service, Duration::from_secs(5))
        .unwrap_err()
        .to_string();
    assert!(error.contains("resolve-needed.ns"), "{error}");
}
