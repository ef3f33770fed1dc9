//! stepdown's HDFS storage on a cluster that asks for Kerberos tickets or tokens.
//!
//! The Kerberos library looks at the environment of its process, so everything here runs in child
//! processes: the program itself for what operators see, this test program for the rest.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepdown::storage::conformance::{BelowFile, Capabilities, DirRename, Identities, run_all};
use stepdown::storage::{ErrorKind, Touched};

use crate::common::client::{ToolOutput, run_program};
use crate::common::isolated::{isolated, run_inside};
use crate::common::secure::{Protection, SecureHdfs};
use crate::common::{HadoopVersion, Hdfs, wait_until, wait_until_async};
use crate::hdfs_adapter::{CALL, chain, kind, open, path};

type Env = Vec<(OsString, OsString)>;

const A_MINUTE: Duration = Duration::from_mins(1);
const AN_HOUR: Duration = Duration::from_hours(1);

/// `stepdown marker touch hdfs:///tmp/<name>` with `hadoop` as that section of its configuration.
fn touch(env: &Env, name: &str, hadoop: &str) -> Result<ToolOutput> {
    let dir = tempfile::tempdir()?;
    let config = dir.path().join("stepdown.toml");
    fs::write(&config, format!("[hadoop]\n{hadoop}\n"))?;
    let uri = format!("hdfs:///tmp/{name}");
    let config = config.to_str().context("not UTF-8")?;
    let args = ["--config", config, "marker", "touch", &uri].map(OsString::from);
    let program = Path::new(env!("CARGO_BIN_EXE_stepdown"));
    run_program(program, &args, env.iter().cloned(), A_MINUTE)
}

fn works(what: &str, env: &Env, name: &str, hadoop: &str) -> Result<()> {
    let output = touch(env, name, hadoop)?;
    ensure!(output.is_ok(), "{what}: {output:?}");
    Ok(())
}

/// Fails as "storage not reachable", with these words.
fn fails(what: &str, env: &Env, hadoop: &str, words: &[&str]) -> Result<()> {
    let output = touch(env, "refused", hadoop)?;
    println!("{what}:\n{}", output.stderr);
    ensure!(output.status.code() == Some(5), "{what}: {output:?}");
    for word in words {
        ensure!(
            output.stderr.contains(word),
            "{what}: {word:?} is not in {}",
            output.stderr
        );
    }
    Ok(())
}

fn with(env: &Env, name: &str, value: impl Into<OsString>) -> Env {
    let mut env = env.clone();
    env.push((name.into(), value.into()));
    env
}

/// The shared cluster, with a `/tmp` for all.
fn cluster() -> Result<&'static SecureHdfs> {
    let secure = SecureHdfs::shared()?;
    secure.hdfs().dfs(&["-mkdir", "-p", "/tmp"])?;
    secure.hdfs().dfs(&["-chmod", "1777", "/tmp"])?;
    Ok(secure)
}

fn keytab(file: &Path, principal: &str) -> String {
    format!(
        "keytab = {:?}\nprincipal = {principal:?}",
        file.display().to_string()
    )
}

#[test]
fn a_ticket_a_keytab_or_a_token_lets_in() -> Result<()> {
    let secure = cluster()?;
    let kdc = secure.kdc();
    let (alice, bob) = (kdc.add_principal("alice")?, kdc.add_principal("bob")?);
    let ticket = kdc.kinit(&alice, AN_HOUR)?;
    let with_ticket = secure.env(Some(&ticket));
    let without = secure.env(None);
    let owner = |name: &str| secure.hdfs().dfs(&["-stat", "%u", &format!("/tmp/{name}")]);

    works("a ticket", &with_ticket, "ticket", "")?;
    assert_eq!(owner("ticket")?.trim(), "alice");
    let named = with(&with_ticket, "HADOOP_USER_NAME", "somebody");
    works("HADOOP_USER_NAME does not count", &named, "ticket", "")?;

    works(
        "a keytab",
        &without,
        "keytab",
        &keytab(&bob.keytab, &bob.name),
    )?;
    assert_eq!(owner("keytab")?.trim(), "bob");
    let short = &keytab(&bob.keytab, "bob");
    works("a principal without its realm", &without, "keytab", short)?;

    let token = secure.fetch_delegation_token(&ticket)?;
    let with_token = with(&without, "HADOOP_TOKEN_FILE_LOCATION", token.clone());
    works("a delegation token", &with_token, "token", "")?;
    assert_eq!(owner("token")?.trim(), "alice");
    cancel(secure, &token, &ticket)?;
    fails(
        "a cancelled token",
        &with_token,
        "",
        &["delegation token was cancelled"],
    )
}

#[test]
fn what_is_wrong_with_a_ticket_a_keytab_or_a_token_is_said() -> Result<()> {
    let secure = cluster()?;
    let kdc = secure.kdc();
    let (anna, bert) = (kdc.add_principal("anna")?, kdc.add_principal("bert")?);
    let without = secure.env(None);
    let missing = [
        "authentication failed",
        "no-cache does not exist",
        "run kinit",
    ];
    fails("no ticket", &without, "", &missing)?;
    let expired = kdc.expired_ticket(&anna)?;
    let words = ["ticket of anna@STEPDOWN.TEST", "expired at"];
    fails("an expired ticket", &secure.env(Some(&expired)), "", &words)?;
    let junk = expired.cache.with_extension("junk");
    fs::write(&junk, "junk")?;
    let with_junk = with(&without, "KRB5CCNAME", junk.clone());
    fails(
        "a damaged cache",
        &with_junk,
        "",
        &["no ticket cache, or damaged"],
    )?;

    let (bert_file, bert_name) = (bert.keytab.as_path(), bert.name.as_str());
    let absent = Path::new("/nonexistent/keytab");
    for (what, file, principal, words) in [
        (
            "a missing keytab",
            absent,
            bert_name,
            &["cannot read the keytab /nonexistent/keytab", "No such file"][..],
        ),
        (
            "a damaged keytab",
            &junk,
            bert_name,
            &["no keytab, or damaged"],
        ),
        (
            "another's keytab",
            bert_file,
            &anna.name,
            &["has no key of anna@STEPDOWN.TEST, only of bert@STEPDOWN.TEST"],
        ),
        (
            "another realm",
            bert_file,
            "bert@ELSEWHERE.TEST",
            &["has no key of bert@ELSEWHERE.TEST"],
        ),
    ] {
        fails(what, &without, &keytab(file, principal), words)?;
    }

    let token = |file: &Path| with(&without, "HADOOP_TOKEN_FILE_LOCATION", file);
    let absent = Path::new("/nonexistent/token");
    fails(
        "a missing token file",
        &token(absent),
        "",
        &["cannot read the token file /nonexistent/token"],
    )?;
    fails(
        "a damaged token file",
        &token(&junk),
        "",
        &["no Hadoop token file"],
    )
}

#[test]
fn what_is_wrong_with_servers_and_settings_is_said() -> Result<()> {
    let secure = cluster()?;
    let dora = secure.kdc().add_principal("dora")?;
    let without = secure.env(None);
    let simple = "overrides = { \"hadoop.security.authentication\" = \"simple\" }";
    let words = [
        "requires Kerberos",
        "hadoop.security.authentication is simple",
        "hadoop.overrides",
    ];
    fails("a client that does not know", &without, simple, &words)?;

    let dead = dead_kdc(&secure.kdc().conf_path())?;
    let ticket = with(
        &with_ticket_only(secure, &dora)?,
        "KRB5_CONFIG",
        dead.clone(),
    );
    fails("no KDC for a ticket", &ticket, "", &["no KDC answers"])?;
    let without = with(&without, "KRB5_CONFIG", dead);
    fails(
        "no KDC for a keytab",
        &without,
        &keytab(&dora.keytab, &dora.name),
        &["no KDC answers"],
    )
}

/// A ticket that was never used: there is no ticket for the NameNode beside it.
fn with_ticket_only(secure: &SecureHdfs, principal: &crate::common::kdc::Principal) -> Result<Env> {
    Ok(secure.env(Some(&secure.kdc().kinit(principal, AN_HOUR)?)))
}

fn cancel(secure: &SecureHdfs, token: &Path, ticket: &crate::common::kdc::Ticket) -> Result<()> {
    let token = token.to_str().context("not UTF-8")?;
    let tools = secure.client_with(Some(ticket));
    tools.succeed(
        "org.apache.hadoop.hdfs.tools.DelegationTokenFetcher",
        &["--cancel", token],
    )?;
    Ok(())
}

/// The same realm with a KDC where nothing listens.
fn dead_kdc(conf: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(conf)?;
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("kdc ="))
        .context("no KDC")?;
    let dead = conf.with_file_name("dead-kdc.conf");
    fs::write(&dead, text.replace(line, "  kdc = 127.0.0.1:1"))?;
    Ok(dead)
}

#[test]
fn a_cluster_without_kerberos_is_not_trusted_by_a_client_with() -> Result<()> {
    let hdfs = Hdfs::shared()?;
    let kdc = SecureHdfs::shared()?.kdc();
    hdfs.dfs(&["-mkdir", "-p", "/tmp"])?;
    let ticket = kdc.kinit(&kdc.add_principal("carol")?, AN_HOUR)?;
    let mut env = hdfs.env();
    env.extend(kdc.client_env(Some(&ticket)));
    let kerberos = "\"hadoop.security.authentication\" = \"kerberos\"";
    let strict = format!("overrides = {{ {kerberos} }}");
    fails(
        "an open cluster",
        &env,
        &strict,
        &[
            "does not authenticate anybody",
            "ipc.client.fallback-to-simple-auth-allowed",
        ],
    )?;
    let lax = format!(
        "overrides = {{ {kerberos}, \"ipc.client.fallback-to-simple-auth-allowed\" = \"true\" }}"
    );
    works("an open cluster, allowed", &env, "fallback", &lax)
}

#[test]
fn without_the_kerberos_library_the_message_says_what_to_install() -> Result<()> {
    HadoopVersion::chosen()?.prepare()?;
    isolated(
        "hdfs_kerberos::without_the_kerberos_library_the_message_says_what_to_install",
        || {
            let secure = SecureHdfs::start(Protection::Authentication)?;
            let ticket = secure
                .kdc()
                .kinit(&secure.kdc().add_principal("alice")?, AN_HOUR)?;
            let env = secure.env(Some(&ticket));
            let mut hidden = 0;
            for dir in [
                "/usr/lib/x86_64-linux-gnu",
                "/usr/lib/aarch64-linux-gnu",
                "/usr/lib64",
                "/usr/lib",
            ] {
                let library = format!("{dir}/libgssapi_krb5.so.2");
                if Path::new(&library).exists() {
                    run_inside("mount", &["--bind", "/dev/null", &library])?;
                    hidden += 1;
                }
            }
            ensure!(hidden > 0, "libgssapi_krb5.so.2 was not found");
            fails(
                "no library",
                &env,
                "",
                &["the Kerberos library is missing", "install"],
            )
        },
    )
}

/// Says to a child process which test it is to run.
const INSIDE: &str = "STEPDOWN_TEST_KERBEROS";

/// Runs the calling test again in a process with this environment; `true` in there.
fn is_inside(test: &str, env: impl FnOnce() -> Result<Env>) -> Result<bool> {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == test) {
        return Ok(true);
    }
    let args = ["--exact", test, "--nocapture"].map(OsString::from);
    let env = with(&env()?, INSIDE, test);
    let program = std::env::current_exe()?;
    let output = run_program(&program, &args, env.into_iter(), A_MINUTE * 5)?;
    ensure!(
        output.is_ok() && output.stdout.contains("1 passed"),
        "{}{}",
        output.stdout,
        output.stderr
    );
    println!("{}", output.stdout);
    Ok(false)
}

fn conf_dir() -> Result<PathBuf> {
    Ok(std::env::var_os("HADOOP_CONF_DIR")
        .context("no configuration")?
        .into())
}

async fn keeps_all_promises(protection: Protection, test: &str) -> Result<()> {
    let mut secure = None;
    let inside = is_inside(test, || {
        let secure = secure.insert(SecureHdfs::start(protection)?);
        let owner = secure.kdc().add_principal("hdfs/other")?;
        Ok(secure.env(Some(&secure.kdc().kinit(&owner, AN_HOUR)?)))
    })?;
    if !inside {
        return Ok(());
    }
    let capabilities = Capabilities {
        identities: Identities::None,
        below_file: BelowFile::NotADirectory,
        dir_rename: DirRename::Atomic,
        name_bytes: 255,
    };
    let storage = open(&conf_dir()?, CALL);
    let report = run_all(&*storage, &path("/conformance"), capabilities).await;
    let report = report.map_err(|failure| anyhow::anyhow!("{failure}: {:?}", failure.source))?;
    println!("{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_all_promises_with_signed_traffic() -> Result<()> {
    keeps_all_promises(
        Protection::Integrity,
        "hdfs_kerberos::keeps_all_promises_with_signed_traffic",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_all_promises_with_encrypted_traffic() -> Result<()> {
    keeps_all_promises(
        Protection::Privacy,
        "hdfs_kerberos::keeps_all_promises_with_encrypted_traffic",
    )
    .await
}

/// A daemon's ticket expires, and cron renews it late.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_renewed_late_is_found_without_a_restart() -> Result<()> {
    const TEST: &str = "hdfs_kerberos::a_ticket_that_is_renewed_late_is_found_without_a_restart";
    let turns = tempfile::tempdir()?;
    if std::env::var_os(INSIDE).is_some() {
        return with_a_late_ticket(Path::new(&std::env::var_os("TURNS").context("no turns")?))
            .await;
    }
    let secure = SecureHdfs::start(Protection::Authentication)?;
    let owner = secure.kdc().add_principal("hdfs/daemon")?;
    let ticket = secure.kdc().kinit(&owner, Duration::from_secs(20))?;
    let env = with(&secure.env(Some(&ticket)), "TURNS", turns.path());
    std::thread::scope(|scope| {
        let child = scope.spawn(|| is_inside(TEST, || Ok(env)));
        let turn = |name: &str| wait_until(A_MINUTE, name, || turns.path().join(name).exists());
        turn("connected")?;
        wait_until(A_MINUTE, "the ticket expires", || {
            secure.kdc().is_valid(&ticket).is_ok_and(|valid| !valid)
        })?;
        // Connections that are open stay so; a restart ends them.
        secure.hdfs().restart_namenode()?;
        fs::write(turns.path().join("restarted"), "")?;
        turn("refused")?;
        secure.kdc().renew(&ticket, &owner, AN_HOUR)?;
        let child = child
            .join()
            .map_err(|_| anyhow::anyhow!("the child's thread panicked"))?;
        child.map(drop)
    })
}

async fn with_a_late_ticket(turns: &Path) -> Result<()> {
    let storage = open(&conf_dir()?, CALL);
    let file = path("/m");
    assert_eq!(storage.touch(&file).await?, Touched::Created);
    fs::write(turns.join("connected"), "")?;
    let restarted = turns.join("restarted");
    wait_until_async(A_MINUTE * 2, "the NameNode is restarted", async || {
        restarted.exists()
    })
    .await?;
    let error = storage
        .stat(&file)
        .await
        .err()
        .context("it was let in with an expired ticket")?;
    println!("{}", chain(&error));
    assert_eq!(error.kind, ErrorKind::Authentication);
    assert!(error.to_string().contains("expired at"), "{error}");
    assert_eq!(kind(storage.touch(&file).await), ErrorKind::Authentication);
    fs::write(turns.join("refused"), "")?;
    wait_until_async(A_MINUTE, "the renewed ticket is used", async || {
        storage.stat(&file).await.is_ok()
    })
    .await?;
    assert_eq!(storage.touch(&file).await?, Touched::Refreshed);
    Ok(())
}
