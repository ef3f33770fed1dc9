//! Tests that take their network or their mounts away, in namespaces of their own.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::client::run_program;

/// Says to a child process which test it runs in its namespaces.
const INSIDE: &str = "STEPDOWN_TEST_ISOLATED";

/// Longer than any test takes.
const DEADLINE: Duration = Duration::from_mins(10);

/// Runs `body` in a process with its own network and mounts: it may unmount what it mounted, and take
/// its loopback interface down ([`set_loopback`]). Servers that it starts live in there too.
///
/// `test` is the calling test's full name: the test is run again, alone, in a child process. In there
/// the loopback interface is up and the only one; Hadoop cannot be fetched
/// (`HadoopVersion::prepare`).
///
/// # Errors
/// If the body fails; also without the right to make namespaces, so that a machine that cannot run the
/// test does not pass it.
pub fn isolated(test: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == test) {
        set_loopback(true)?;
        return body();
    }
    let this_program = std::env::current_exe().context("this test has no program file")?;
    let mut args: Vec<OsString> = ["--net", "--mount", "--propagation=private", "--"]
        .map(OsString::from)
        .into();
    args.push(this_program.into());
    args.extend(["--exact", test, "--nocapture"].map(OsString::from));
    let output = run_program(Path::new("unshare"), &args, test_env(test), DEADLINE)?;
    let printed = format!("{}{}", output.stdout, output.stderr);
    ensure!(
        output.is_ok(),
        "{test} failed in its namespaces (they need root):\n{printed}"
    );
    ensure!(
        printed.contains("1 passed"),
        "{test} is no test:\n{printed}"
    );
    Ok(())
}

/// Takes the loopback interface up or down. Down, packets are lost without a word: open connections
/// and attempts at new ones hang.
///
/// # Errors
/// Outside of [`isolated`]: this would be the machine's.
pub fn set_loopback(up: bool) -> Result<()> {
    ensure!(
        std::env::var_os(INSIDE).is_some(),
        "only an isolated test may take its network down"
    );
    let state = if up { "up" } else { "down" };
    run("ip", &["link", "set", "lo", state])
}

/// Runs `mount`, `umount` or the like in an isolated test.
///
/// # Errors
/// If it fails, with what it printed; outside of [`isolated`].
pub fn run_inside(program: &str, args: &[&str]) -> Result<()> {
    ensure!(
        std::env::var_os(INSIDE).is_some(),
        "only an isolated test may run {program}"
    );
    run(program, args)
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .env("PATH", search_path())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {args:?}: {output:?}");
    }
    Ok(())
}

/// The whole environment: tests read what cargo sets.
fn test_env(test: &str) -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().chain([(INSIDE.into(), test.into())])
}

/// Servers' programs are not on every user's path.
fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}
