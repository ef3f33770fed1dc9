//! What cannot be seen is unknown: processes of other users, other pid namespaces.
//!
//! To become somebody else takes root: without it these tests fail, as all that take namespaces do.

use std::process::Command;

use stepdown::model::AttemptId;
use stepdown::process::{identify, this_host};

use super::roles::{role, said};
use super::{Started, runs};

/// The part, played by nobody in a namespace where `/proc` is mounted with these options.
fn played_by_nobody(part: &str, proc_options: &str, attempt: &AttemptId) -> String {
    let this = std::env::current_exe().unwrap();
    let script = "mount -t proc -o \"$1\" proc /proc && mount --bind \"$2\" /mnt && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"/mnt/$3\" \
                  process::roles::play --exact --ignored --nocapture --quiet";
    let mut command = role(part);
    let vars: Vec<_> = command
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()))
        .collect();
    command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .args(["sh", "-c", script, "sh", proc_options])
        .arg(this.parent().unwrap())
        .arg(this.file_name().unwrap())
        .envs(vars)
        .env("ATTEMPT", json(attempt))
        .current_dir("/");
    said(&mut command)
}

fn json(attempt: &AttemptId) -> String {
    serde_json::to_string(attempt).unwrap()
}

#[test]
fn a_hidden_process_is_unknown_and_a_foreign_one_is_not_to_be_signalled() {
    let child = Started(Started::sh("exec sleep 600").spawn().unwrap());
    let attempt = identify(child.pid()).unwrap();

    // Everything to be seen, nothing to be done.
    let open = played_by_nobody("observe", "hidepid=0", &attempt);
    assert!(open.starts_with("Running"), "{open}");
    let refused = played_by_nobody("terminate", "hidepid=0", &attempt);
    assert!(refused.starts_with("NotPermitted"), "{refused}");
    assert!(
        refused.contains("not permitted to send SIGTERM"),
        "{refused}"
    );

    // 1 refuses to read, 2 says that there is no such file: neither is an end.
    for hidden in ["hidepid=1", "hidepid=2"] {
        for part in ["observe", "observe-group", "terminate"] {
            let state = played_by_nobody(part, hidden, &attempt);
            assert!(state.starts_with("Unknown"), "{part}, {hidden}: {state}");
        }
    }
    assert!(runs(&attempt));

    let gone = {
        let mut child = Started(Started::sh("exec sleep 600").spawn().unwrap());
        let attempt = identify(child.pid()).unwrap();
        child.0.kill().unwrap();
        child.bury();
        attempt
    };
    // What the kernel does not know at all has ended, hidden or not.
    for hidden in ["hidepid=0", "hidepid=1", "hidepid=2"] {
        let state = played_by_nobody("observe", hidden, &gone);
        assert!(state.starts_with("Stopped"), "{hidden}: {state}");
    }
}

#[test]
fn a_number_means_nothing_in_another_pid_namespace() {
    const NAMESPACE: &[&str] = &["--pid", "--fork"];
    let child = Started(Started::sh("exec sleep 600").spawn().unwrap());
    let attempt = identify(child.pid()).unwrap();
    let within = |part: &str, proc: &[&str]| {
        let outer = role(part);
        let mut command = Command::new("unshare");
        command.args(NAMESPACE).args(proc).arg(outer.get_program());
        command.args(outer.get_args());
        for (name, value) in outer.get_envs() {
            command.env(name, value.unwrap());
        }
        said(command.env("ATTEMPT", json(&attempt)))
    };

    // Its own /proc: other numbers, so another host, with the same name and the same boot.
    let host = within("host", &["--mount-proc"]);
    let outside = this_host().unwrap();
    assert!(
        host.starts_with(&format!("{}/pid:[", outside.name)),
        "{host}"
    );
    for part in ["observe", "terminate"] {
        let state = within(part, &["--mount-proc"]);
        assert!(state.starts_with("Unknown"), "{part}: {state}");
        assert!(state.contains("belongs to host"), "{part}: {state}");
    }
    // The outer /proc: it shows processes that have other numbers here.
    assert_eq!(within("host", &[]), "ForeignProc");
    assert!(within("observe", &[]).starts_with("Unknown"));
    assert!(runs(&attempt));
}
