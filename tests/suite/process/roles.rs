//! Parts that other tests have this binary play in a process of their own.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use stepdown::model::AttemptId;
use stepdown::process::{
    EndsWith, Signal, SignalTarget, SpawnOptions, Terminal, observe, send, spawn_gated, terminal,
    this_host,
};

use super::gated;

/// Names the part to play.
const ROLE: &str = "STEPDOWN_TEST_ROLE";

/// A command that has this binary play a part.
pub(super) fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["process::roles::play", "--exact", "--ignored"])
        .args(["--nocapture", "--quiet"])
        .env(ROLE, name);
    command
}

/// The same as a line for a shell; variables go before it.
pub(super) fn role_line(name: &str) -> String {
    format!(
        "{ROLE}={name} {} process::roles::play --exact --ignored --nocapture --quiet",
        std::env::current_exe().unwrap().display()
    )
}

#[test]
#[ignore = "a part that other tests have this binary play"]
fn play() {
    match std::env::var(ROLE).as_deref() {
        Ok("supervise") => std::process::exit(supervise()),
        Ok("observe") => say(&format!(
            "{:?}",
            observe(&attempt_of_env(), EndsWith::Process)
        )),
        Ok("observe-group") => say(&format!(
            "{:?}",
            observe(&attempt_of_env(), EndsWith::Group)
        )),
        Ok("terminate") => match send(&attempt_of_env(), SignalTarget::Process, Signal::TERM) {
            Ok(delivery) => say(&format!("{delivery:?}")),
            Err(error) => say(&format!("{error:?}: {error}")),
        },
        Ok("host") => match this_host() {
            Ok(host) => say(&host.name),
            Err(error) => say(&format!("{error:?}")),
        },
        other => panic!("no such part: {other:?}"),
    }
}

fn say(text: &str) {
    println!("SAID {text}");
}

/// What a played part said.
pub(super) fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.split_once("SAID ").map(|(_, said)| said.to_owned()))
        .unwrap_or_else(|| panic!("nothing was said: {output:?}"))
}

fn attempt_of_env() -> AttemptId {
    serde_json::from_str(&std::env::var("ATTEMPT").unwrap()).unwrap()
}

/// Supervises `sh -c $CHILD` as `stepdown run` does, and leaves a file in `$DIR` for each step:
/// `gated` with the attempt, `releasing`, `released`, `ended` with the exit.
///
/// `$HOLD`: never releases. `$SAVING_MS`: as long as a record takes to be saved. `$ON_DEATH`: the child's signal at the parent's death. `$CHATTY`: writes
/// to the terminal while the child has it. `$CHILD_BEFORE`: a child that it supervises first.
fn supervise() -> i32 {
    terminal::allow_background_output().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = PathBuf::from(std::env::var_os("DIR").unwrap());
        let child = std::env::var_os("CHILD").unwrap();
        let mut options = gated([OsString::from("sh"), "-c".into(), child]);
        options.on_parent_death = std::env::var("ON_DEATH")
            .ok()
            .map(|signal| signal.parse().unwrap());
        let mut terminal = Terminal::open().unwrap();
        if let Some(first) = std::env::var_os("CHILD_BEFORE") {
            let mut before = options.clone();
            before.argv = vec!["sh".into(), "-c".into(), first];
            supervise_one(&dir, before, &mut terminal).await;
        }
        supervise_one(&dir, options, &mut terminal).await
    })
}

async fn supervise_one(dir: &Path, options: SpawnOptions, terminal: &mut Option<Terminal>) -> i32 {
    note(dir, "spawning", "");
    let gated = spawn_gated(options).await.unwrap();
    note(
        dir,
        "gated",
        &serde_json::to_string(gated.attempt()).unwrap(),
    );
    if std::env::var_os("HOLD").is_some() {
        std::future::pending::<()>().await;
    }
    if let Ok(millis) = std::env::var("SAVING_MS") {
        tokio::time::sleep(Duration::from_millis(millis.parse().unwrap())).await;
    }
    if let (Some(terminal), Some(group)) = (&mut *terminal, gated.group()) {
        terminal.lend_to(group);
    }
    note(dir, "releasing", "");
    let mut child = gated.release().await.unwrap();
    note(dir, "released", "");
    if std::env::var_os("CHATTY").is_some() {
        println!("a word from the supervisor");
        note(dir, "talked", "");
    }
    let exit = match terminal {
        Some(terminal) => terminal.supervise(&mut child).await,
        None => child.wait().await,
    };
    let exit = exit.unwrap();
    note(dir, "ended", &exit.to_string());
    i32::from(exit.shell_code())
}

/// Writes a line to a file, whole or not at all.
fn note(dir: &Path, name: &str, text: &str) {
    let mut file = tempfile::NamedTempFile::new_in(dir).unwrap();
    writeln!(file, "{text}").unwrap();
    file.persist(dir.join(name)).unwrap();
}
