//! stepdown's reading of a Hadoop configuration compared with Hadoop's own.
//!
//! What Hadoop's classes read is taken from programs that come with it: `Configuration.main` prints
//! every property as it was read, `GetConf` the resolved value of one key and the addresses of the
//! NameNodes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use stepdown::hadoop::{ConfSource, Environment, HadoopConf, Origin};
use stepdown::storage::open::{StorageOptions, Storages};
use stepdown::storage::{Authority, CreateMode};

use crate::common::client::HadoopClient;
use crate::common::hadoop::Hadoop;
use crate::common::isolated::isolated;
use crate::common::{HadoopVersion, Hdfs};
use crate::hdfs_adapter::{CALL, open, path, write};

const GET_CONF: &str = "org.apache.hadoop.hdfs.tools.GetConf";
const CONFIGURATION: &str = "org.apache.hadoop.conf.Configuration";

const CORE_SITE: &str = r#"<?xml version="1.0"?>
<configuration xmlns:xi="http://www.w3.org/2001/XInclude">
<property><name> t.blanks </name><value>
   x  </value></property>
<property><name>t.empty</name><value></value></property>
<property><name>t.novalue</name></property>
<property><value>no name</value></property>
<property><name>t.cdata</name><value><![CDATA[c<d]]></value></property>
<property><name>t.comment</name><value>one<!-- c -->two</value></property>
<property><name>t.final.blanks</name><value>1</value><final> true </final></property>
<property><name>t.final.blanks</name><value>2</value></property>
<property><name>t.final</name><value>1</value><final>true</final></property>
<property><name>t.final</name><value>2</value></property>
<property><name>t.twice</name><value>1</value></property>
<property><name>t.twice</name><value>2</value></property>
<property><name>t.text</name><value>ä &amp; &#x20AC;</value></property>
<property><name>dfs.umaskmode</name><value>027</value></property>
<property><name>fs.default.name</name><value>hdfs://127.0.0.9:1</value></property>
<xi:include href="beside.xml"/>
<property><name>t.after</name><value>core</value></property>
<property><name>t.one</name><value>1</value></property>
<property><name>t.which</name><value>one</value></property>
<property><name>t.nested</name><value>${t.${t.which}}</value></property>
<property><name>t.unset</name><value>${t.one}${t.nobody}${t.one}</value></property>
<property><name>t.env</name><value>${env.T_SET}|${env.T_UNSET:-d}|${env.T_EMPTY:-d}|${env.T_EMPTY-d}|${env.T_UNSET-d-e}</value></property>
<property><name>t.env.nested</name><value>${env.T_UNSET:-${t.one}}</value></property>
<property><name>t.system</name><value>${user.name} ${file.separator} ${java.io.tmpdir}</value></property>
<property><name>t.self</name><value>a${t.self}</value></property>
<property><name>t.loop</name><value>${t.pool}</value></property>
<property><name>t.pool</name><value>${t.loop}</value></property>
<property><name>t.blank.inside</name><value>${ t.one } ${} ${t.one} $t.one {t.one}</value></property>
<property><name>t.nineteen</name><value>${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}${t.one}</value></property>
<property><name>t.twenty</name><value>${t.nineteen}</value></property>
</configuration>
"#;

/// What only Hadoop 3's own reader takes.
const ONLY_3: &str = r#"<configuration xmlns:xi="http://www.w3.org/2001/XInclude">
<property><name>t.cdata.and.text</name><value><![CDATA[c<d]]> tail</value></property>
<property name="t.attribute" value="a" final="true"/>
<property><name>t.attribute</name><value>b</value></property>
<xi:include href="nowhere.xml"><xi:fallback><property><name>t.fallback</name><value>1</value></property></xi:fallback></xi:include>
<xi:include href="empty.xml"><xi:fallback><property><name>t.nofallback</name><value>1</value></property></xi:fallback></xi:include>
<other><property><name>t.inside</name><value>1</value></property></other>
</configuration>"#;

const BESIDE: &str = r#"<configuration xmlns:xi="http://www.w3.org/2001/XInclude">
<property><name>t.included</name><value>1</value></property>
<property><name>t.twice</name><value>3</value></property>
<property><name>t.after</name><value>beside</value></property>
</configuration>"#;

const HDFS_SITE: &str = r"<configuration>
<property><name>dfs.nameservices</name><value> ns1 , ns2 </value></property>
<property><name>dfs.ha.namenodes.ns1</name><value> a ,
    b,c </value></property>
<property><name>dfs.namenode.rpc-address.ns1.a</name><value>127.0.0.4:8020</value></property>
<property><name>dfs.namenode.rpc-address.ns1.b</name><value> 127.0.0.2:9000 </value></property>
<property><name>dfs.namenode.rpc-address.ns2</name><value>127.0.0.3:8020</value></property>
</configuration>";

fn variables() -> Vec<(OsString, OsString)> {
    [("T_SET", "set"), ("T_EMPTY", "")]
        .map(|(k, v)| (k.into(), v.into()))
        .into()
}

fn ours(dir: &Path) -> Result<HadoopConf> {
    let properties = ["user.name", "file.separator", "java.io.tmpdir"];
    let process = Environment::of_process();
    let properties =
        properties.map(|name| (name, process.property(name).unwrap_or_default().to_owned()));
    let variables = [("T_SET", "set".to_owned()), ("T_EMPTY", String::new())];
    let environment = Environment::new(variables, properties);
    Ok(HadoopConf::load(
        &ConfSource::Dir(dir.to_owned()),
        &BTreeMap::new(),
        environment,
    )?)
}

/// Name, value and whether it is final, of each property that begins with `t.` or was renamed.
fn as_hadoop_read_it(client: &HadoopClient) -> Result<BTreeMap<String, (String, bool)>> {
    let printed = client.succeed(CONFIGURATION, &[])?;
    let document = roxmltree::Document::parse(&printed)?;
    let mut read = BTreeMap::new();
    for property in document
        .descendants()
        .filter(|node| node.has_tag_name("property"))
    {
        let text = |tag| {
            let child = property.children().find(|node| node.has_tag_name(tag));
            child
                .and_then(|child| child.text())
                .unwrap_or_default()
                .to_owned()
        };
        read.insert(text("name"), (text("value"), text("final") == "true"));
    }
    read.retain(|name, _| name.starts_with("t.") || RENAMED.contains(&name.as_str()));
    Ok(read)
}

/// One that every class of Hadoop knows to be renamed; others only those of HDFS.
const RENAMED: [&str; 2] = ["fs.default.name", "fs.defaultFS"];

fn compare(version: HadoopVersion) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut core = CORE_SITE.to_owned();
    if version == HadoopVersion::V3_4 {
        let inside = ONLY_3
            .split_once('>')
            .and_then(|(_, rest)| rest.rsplit_once('<'))
            .context("no element")?
            .0;
        core = core.replace("</configuration>", &format!("{inside}</configuration>"));
    }
    for (name, text) in [
        ("core-site.xml", core.as_str()),
        ("beside.xml", BESIDE),
        ("empty.xml", "<configuration/>"),
        ("hdfs-site.xml", HDFS_SITE),
    ] {
        fs::write(dir.path().join(name), text)?;
    }
    let conf = ours(dir.path())?;
    let client = HadoopClient::new(Hadoop::of(version)?, dir.path().to_owned(), variables());

    let read = as_hadoop_read_it(&client)?;
    assert!(read.len() > 20, "{read:?}");
    for (name, (value, is_final)) in &read {
        let entry = conf.entries().into_iter().find(|entry| entry.key == *name);
        let entry = entry.with_context(|| format!("{name} is only read by Hadoop"))?;
        // Hadoop prints values before variables are replaced; those are compared below.
        if !value.contains("${") {
            assert_eq!(
                conf.get_untrimmed(name)?.as_deref(),
                Some(value.as_str()),
                "{name}"
            );
        }
        // Hadoop 2.7 does not print it.
        if version == HadoopVersion::V3_4 {
            assert_eq!(entry.is_final, *is_final, "{name}");
        }
    }
    for entry in conf.entries() {
        let is_known = read.contains_key(&entry.key) || entry.origin == Origin::Default;
        assert!(
            is_known || !entry.key.starts_with("t."),
            "{} is only read by stepdown",
            entry.key
        );
    }

    let mut compared = 0;
    for key in [
        "t.nested",
        "t.unset",
        "t.env",
        "t.env.nested",
        "t.system",
        "t.self",
        "t.loop",
        "t.blank.inside",
        "t.nineteen",
        "t.twenty",
        "t.blanks",
        "fs.default.name",
        "fs.permissions.umask-mode",
    ] {
        // Hadoop 2.7 knows no variables of the environment, and gives up on a value that names itself.
        let is_newer = key.starts_with("t.env") || key == "t.self";
        if version == HadoopVersion::V2_7 && is_newer {
            continue;
        }
        let output = client.run(GET_CONF, &["-confKey", key], &[])?;
        match conf.get(key) {
            Ok(value) if output.is_ok() => {
                assert_eq!(value.unwrap_or_default(), output.stdout.trim(), "{key}");
                compared += 1;
            }
            Err(error) if !output.is_ok() => {
                assert!(
                    output.stderr.contains("substitution depth too large"),
                    "{key}: {output:?}"
                );
                assert!(error.to_string().contains("more than 20 deep"), "{error}");
                compared += 1;
            }
            ours => panic!("{key}: {ours:?}, but Hadoop says {output:?}"),
        }
    }
    println!(
        "{} properties and {compared} resolved values are the same",
        read.len()
    );

    let printed = client.succeed(GET_CONF, &["-nnRpcAddresses"])?;
    let mut theirs: Vec<&str> = printed.split_whitespace().collect();
    let mut ours = Vec::new();
    for name in ["ns1", "ns2", &conf.default_hdfs()?] {
        let service = conf.name_service(name)?;
        ours.extend(service.namenodes.iter().map(ToString::to_string));
    }
    theirs.sort_unstable();
    ours.sort_unstable();
    assert_eq!(ours, theirs);
    Ok(())
}

#[test]
fn a_configuration_reads_as_in_hadoop_3_4() -> Result<()> {
    compare(HadoopVersion::V3_4)
}

#[test]
fn a_configuration_reads_as_in_hadoop_2_7() -> Result<()> {
    compare(HadoopVersion::V2_7)
}

#[test]
fn a_symbolic_umask_means_the_same_to_hadoop() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    for umask in ["u=rwx,g=rx,o=", "a=rx", "ug=rwx,g-w,o=r", "0027"] {
        let dir = hdfs.fresh_dir("umask")?;
        let option = format!("-Dfs.permissions.umask-mode={umask}");
        let made = format!("{dir}/made");
        hdfs.dfs(&[&option, "-mkdir", &made])?;
        let shown = hdfs.dfs(&["-stat", "%a", &made])?;
        let overrides =
            BTreeMap::from([("fs.permissions.umask-mode".to_owned(), umask.to_owned())]);
        let conf = HadoopConf::load(&ConfSource::Nowhere, &overrides, Environment::default())?;
        assert_eq!(
            format!("{:o}", 0o777 & !conf.umask()?),
            shown.trim(),
            "{umask}"
        );
    }
    Ok(())
}

/// A configuration as a managed cluster has it: an entry file, an include, variables, a final value.
#[tokio::test(flavor = "multi_thread")]
async fn includes_and_variables_lead_to_the_cluster() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let dir = tempfile::tempdir()?;
    let (host, port) = hdfs
        .nn_uri()
        .trim_start_matches("hdfs://")
        .split_once(':')
        .context("no port")?;
    let core = r#"<configuration xmlns:xi="http://www.w3.org/2001/XInclude">
        <xi:include href="cluster/common.xml"/>
        <property><name>fs.defaultFS</name><value>hdfs://wrong:1</value></property>
        </configuration>"#;
    let common = r"<configuration>
        <property><name>fs.defaultFS</name><value>hdfs://${nn.host}:${env.NN_PORT:-1}</value><final>true</final></property>
        <property><name>nn.host</name><value>${env.NN_HOST}</value></property>
        </configuration>";
    fs::create_dir(dir.path().join("cluster"))?;
    fs::write(dir.path().join("core-site.xml"), core)?;
    fs::write(dir.path().join("cluster/common.xml"), common)?;
    let environment = Environment::new(
        [
            ("NN_PORT", port),
            ("NN_HOST", host),
            ("HADOOP_CONF_DIR", dir.path().to_str().context("not UTF-8")?),
        ],
        [("user.name", "root")],
    );
    let storages = Storages::with_environment(StorageOptions::default(), environment);
    let storage = storages.open(&Authority::Hdfs(String::new()))?;
    let file = path(&hdfs.fresh_dir("included")?).join("m");
    write(&*storage, &file, CreateMode::New, b"x").await?;
    assert_eq!(hdfs.dfs(&["-cat", file.as_str()])?, "x");
    let origin = storages
        .hadoop_conf()?
        .origin("fs.defaultFS")
        .map(ToString::to_string);
    assert!(
        origin
            .as_deref()
            .is_some_and(|origin| origin.ends_with("cluster/common.xml:2")),
        "{origin:?}"
    );
    Ok(())
}

#[test]
fn without_a_port_it_is_8020() -> Result<()> {
    HadoopVersion::chosen()?.prepare()?;
    // In there port 8020 is free, whatever runs on this machine.
    isolated("hadoop_conf::without_a_port_it_is_8020", || {
        let hdfs = Hdfs::builder().start()?;
        let proxy = std::net::TcpListener::bind("127.0.0.1:8020")?;
        let target = hdfs.nn_uri().trim_start_matches("hdfs://").to_owned();
        std::thread::spawn(move || forward(&proxy, &target));
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(async {
            let options = StorageOptions::default();
            let storages = Storages::with_environment(
                options,
                Environment::new([("A", "b")], [("user.name", "root")]),
            );
            let storage = storages.open(&Authority::Hdfs("127.0.0.1".to_owned()))?;
            storage.touch(&path("/m")).await?;
            assert!(open(hdfs.conf_dir(), CALL).stat(&path("/m")).await.is_ok());
            Ok(())
        })
    })
}

/// Joins each connection to one of `target`'s.
fn forward(listener: &std::net::TcpListener, target: &str) -> std::io::Result<()> {
    loop {
        let (client, _) = listener.accept()?;
        let server = std::net::TcpStream::connect(target)?;
        for (mut from, mut to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
    }
}
