//! Tables for [`super`]: one row per thing that can be wrong.

use std::collections::BTreeMap;

use super::*;
use crate::hadoop::{ConfSource, tickets, token_file};

fn now() -> Timestamp {
    Timestamp::from_second(1_000).unwrap()
}

fn conf(authentication: &str, vars: &[(&str, &str)]) -> HadoopConf {
    let values = BTreeMap::from([(
        "hadoop.security.authentication".to_owned(),
        authentication.to_owned(),
    )]);
    let vars = vars.iter().copied();
    let environment = Environment::new(vars, [("user.name", "ann")]);
    HadoopConf::load(&ConfSource::Nowhere, &values, environment).unwrap()
}

#[test]
fn who_stepdown_is() {
    let user = |name: &str| Login {
        user: Some(name.to_owned()),
        ..Login::default()
    };
    let simple = |user: &str| Credentials::Simple {
        user: user.to_owned(),
    };
    let env = &[
        ("HADOOP_USER_NAME", "bob"),
        ("HADOOP_TOKEN_FILE_LOCATION", "/t"),
    ];
    assert_eq!(
        conf("simple", &[]).credentials(&Login::default()).unwrap(),
        simple("ann")
    );
    assert_eq!(
        conf("SIMPLE", env).credentials(&Login::default()).unwrap(),
        simple("bob")
    );
    assert_eq!(
        conf("simple", env).credentials(&user("cid")).unwrap(),
        simple("cid")
    );
    assert_eq!(
        conf("Kerberos", env)
            .credentials(&Login::default())
            .unwrap(),
        Credentials::Ticket {
            principal: None,
            token_file: Some("/t".into())
        }
    );
    assert!(matches!(
        conf("kerberos", env).credentials(&user("ann")).unwrap(),
        Credentials::Ticket {
            principal: None,
            ..
        }
    ));
    let keytab = Login {
        keytab: Some("/k".into()),
        principal: Some("ann".into()),
        user: None,
    };
    assert_eq!(
        conf("kerberos", env).credentials(&keytab).unwrap(),
        Credentials::Keytab {
            keytab: "/k".into(),
            principal: "ann".into()
        }
    );
    let keytab_only = Login {
        keytab: Some("/k".into()),
        ..Login::default()
    };
    for (authentication, login, word) in [
        ("kerberos", &keytab_only, "needs a principal"),
        ("token", &Login::default(), "neither simple nor kerberos"),
    ] {
        let error = conf(authentication, &[])
            .credentials(login)
            .unwrap_err()
            .to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn keytabs() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    fs::write(&good, tickets::tests::keytab()).unwrap();
    let bad = dir.path().join("bad");
    fs::write(&bad, "junk").unwrap();
    let examine = |keytab: &Path, principal: &str| {
        let credentials = Credentials::Keytab {
            keytab: keytab.into(),
            principal: principal.into(),
        };
        credentials
            .examine(&Environment::default(), &[], now())
            .map_err(|e| e.to_string())
    };
    assert!(examine(&good, "ann@EXAMPLE.COM").is_ok());
    assert!(examine(&good, "ann").is_ok());
    for (file, principal, word) in [
        (
            good.as_path(),
            "ann@OTHER.COM",
            "no key of ann@OTHER.COM, only of ann@EXAMPLE.COM, nn/host",
        ),
        (good.as_path(), "nn", "no key of nn"),
        (bad.as_path(), "ann", "damaged"),
        (Path::new("/nonexistent/keytab"), "ann", "No such file"),
    ] {
        let error = examine(file, principal).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn tickets_and_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        fs::write(&file, bytes).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let tgt: &[&str] = &["krbtgt", "EXAMPLE.COM"];
    let fresh = put("fresh", &tickets::tests::cache(&[(tgt, 2_000)]));
    let stale = put("stale", &tickets::tests::cache(&[(tgt, 900)]));
    let without = put("without", &tickets::tests::cache(&[]));
    let junk = put("junk", b"junk");
    let token = put("token", &token_file::tests::file("ha-hdfs:ns", 2_000_000));
    let stale_token = put(
        "stale-token",
        &token_file::tests::file("ha-hdfs:ns", 900_000),
    );
    let missing = "/nonexistent/x".to_owned();
    let none = String::new();

    let table = [
        (&fresh, &none, None, Ok("ticket of ann@EXAMPLE.COM")),
        (&fresh, &none, Some("ann"), Ok("ticket of ann@EXAMPLE.COM")),
        (
            &fresh,
            &none,
            Some("bob@EXAMPLE.COM"),
            Err("not of bob@EXAMPLE.COM"),
        ),
        (&stale, &none, None, Err("expired at 1970-01-01T00:15:00Z")),
        (
            &without,
            &none,
            None,
            Err("no Kerberos ticket of ann@EXAMPLE.COM"),
        ),
        (&junk, &none, None, Err("damaged")),
        (&missing, &none, None, Err("run kinit")),
        (
            &missing,
            &token,
            None,
            Ok("delegation token of ann@EXAMPLE.COM for ha-hdfs:ns"),
        ),
        (&missing, &stale_token, None, Err("token for ha-hdfs:ns in")),
        (&fresh, &junk, None, Err("no Hadoop token file")),
        (&fresh, &missing, None, Err("token file /nonexistent/x")),
    ];
    for (cache, token_file, principal, expected) in table {
        let credentials = Credentials::Ticket {
            principal: principal.map(str::to_owned),
            token_file: Some(PathBuf::from(token_file)).filter(|file| file != Path::new("")),
        };
        let environment = Environment::new([("KRB5CCNAME", cache.as_str())], []);
        let found = credentials.examine(&environment, &["ha-hdfs:ns".to_owned()], now());
        match (found, expected) {
            (Ok(found), Ok(word)) => assert!(found.what.contains(word), "{found:?}"),
            (Err(error), Err(word)) => assert!(error.to_string().contains(word), "{error}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    // A token for another cluster does not hide that the ticket would do.
    let credentials = Credentials::Ticket {
        principal: None,
        token_file: Some(token.into()),
    };
    let other = ["ha-hdfs:other".to_owned(), "10.0.0.1:8020".to_owned()];
    let with = |cache: &str| {
        let environment = Environment::new([("KRB5CCNAME", cache)], []);
        credentials.examine(&environment, &other, now())
    };
    assert!(with(&fresh).is_ok());
    let error = with(&stale).unwrap_err().to_string();
    assert!(
        error.contains("only for: ha-hdfs:ns") && error.contains("expired"),
        "{error}"
    );
    assert_eq!(credentials.token_service(&other), None);
    let both = [other[0].clone(), "ha-hdfs:ns".to_owned()];
    assert_eq!(
        credentials.token_service(&both).as_deref(),
        Some("ha-hdfs:ns")
    );
}

#[test]
fn cache_names() {
    for (name, expected) in [
        ("/tmp/x", Some("/tmp/x")),
        ("FILE:/tmp/x", Some("/tmp/x")),
        ("DIR::/run/c/tkt1", Some("/run/c/tkt1")),
        ("DIR:/nonexistent/c", Some("/nonexistent/c/tkt")),
        ("KEYRING:persistent:0", None),
        ("KCM:0", None),
        ("MEMORY:x", None),
    ] {
        assert_eq!(cache_file(name), expected.map(PathBuf::from), "{name}");
    }
    let conf = "[realms]\n default_ccache_name = FILE:/no\n[libdefaults]\n  default_ccache_name = FILE:/run/%{uid}/cc_%{euid}\n";
    assert_eq!(
        configured_cache(conf, "7").as_deref(),
        Some("FILE:/run/7/cc_7")
    );
    assert_eq!(configured_cache("[libdefaults]\n", "7"), None);
}
