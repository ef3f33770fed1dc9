//! The command line as people and scripts see it: help, exit codes, stdout, stderr.

use std::fmt::Write as _;
use std::fs;
use std::process::{Command as Process, Stdio};

use serde_json::json;
use stepdown::cli;

use crate::sandbox::{Ran, Sandbox};

/// Visits every command with its full name.
fn for_every_command(visit: &mut impl FnMut(&str, &mut clap::Command)) {
    fn walk(
        name: &str,
        command: &mut clap::Command,
        visit: &mut impl FnMut(&str, &mut clap::Command),
    ) {
        visit(name, command);
        for sub in command.get_subcommands_mut() {
            if sub.get_name() != "help" {
                let name = format!("{name} {}", sub.get_name());
                walk(&name, sub, visit);
            }
        }
    }
    walk("stepdown", &mut cli::command(), visit);
}

#[test]
fn help_of_every_command() {
    for_every_command(&mut |name, command| {
        let help = command.render_long_help().to_string();
        // The global options are the same everywhere.
        let own = match help.split_once("\nGlobal options:") {
            Some((before, rest)) if name != "stepdown" => {
                let after = rest.find("\nExample").map_or("", |at| &rest[at..]);
                format!("{before}{after}")
            }
            _ => help,
        };
        insta::assert_snapshot!(name.replace(' ', "-"), own);
    });
}

#[test]
fn every_command_has_an_example_and_what_changes_something_a_dry_run() {
    let changing = [
        "init",
        "watch",
        "run",
        "marker touch",
        "marker rm",
        "stop",
        "checkpoint copy",
        "checkpoint sync",
        "checkpoint rewind",
        "checkpoint retain",
        "rollout start",
        "rollout rollback",
        "rollout retain",
    ];
    let mut seen = 0;
    for_every_command(&mut |name, command| {
        let short = name.strip_prefix("stepdown ").unwrap_or_default();
        if !command.has_subcommands() {
            let help = command.get_after_help();
            let examples = help.map(ToString::to_string).unwrap_or_default();
            let example = format!("  stepdown {short}");
            assert!(
                examples.contains(short.split(' ').next_back().unwrap())
                    && examples.contains("stepdown "),
                "{name} has no example such as {example:?}"
            );
        }
        let can_try = command
            .get_arguments()
            .any(|argument| argument.get_id() == "dry_run");
        assert_eq!(can_try, changing.contains(&short), "--dry-run of {name}");
        seen += 1;
    });
    assert!(seen > 10);
}

#[test]
fn mistakes_on_the_command_line_are_exit_code_2() {
    let sandbox = Sandbox::new();
    for args in [
        &[][..],
        &["wibble"],
        &["marker"],
        &["marker", "stat"],
        &["marker", "stat", "--wibble", "x"],
        &["marker", "stat", "/x", "--job", "clicks"],
        &["marker", "stat", "--job", "a.b"],
        &["marker", "stat", "s3://b/k"],
        &["marker", "stat", "hdfs:x"],
        &["marker", "stat", "missing/../x"],
        &["marker", "ls"],
        &["init"],
        &["--color", "sometimes", "doctor"],
        &["-q", "-v", "doctor"],
        &["completions", "tcsh"],
        &["--config", "missing.toml", "doctor"],
    ] {
        let ran = sandbox.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{args:?}");
        assert!(
            ran.stderr.contains("error:") || args.len() < 2,
            "{args:?}: {ran:?}"
        );
    }
}

#[test]
fn help_and_version_are_no_mistake() {
    let sandbox = Sandbox::new();
    for args in [
        &["--help"][..],
        &["-h"],
        &["marker", "rm", "--help"],
        &["--version"],
        &["help"],
    ] {
        let ran = sandbox.run(args);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{args:?}");
        assert!(ran.stdout.contains("stepdown"), "{args:?}");
    }
}

#[test]
fn a_marker_is_made_seen_and_removed() {
    let sandbox = Sandbox::new();
    let marker = sandbox.text("m");
    let outcome = |ran: &Ran| ran.json()["outcome"].as_str().unwrap().to_owned();
    let json = |verb: &str| sandbox.run(&["--json", "marker", verb, &marker]);

    let ran = json("stat");
    assert_eq!(
        (ran.code, ran.json()),
        (7, json!({"uri": marker, "state": "absent"}))
    );
    assert_eq!(
        (json("touch").code, fs::read(&marker).unwrap().len()),
        (0, 0)
    );
    let ran = json("stat");
    assert_eq!(
        (ran.code, ran.json()["state"].as_str()),
        (0, Some("present"))
    );
    fs::write(&marker, "content stays").unwrap();
    let ran = json("touch");
    assert_eq!((ran.code, outcome(&ran)), (0, "refreshed".to_owned()));
    assert_eq!(fs::read_to_string(&marker).unwrap(), "content stays");
    let ran = json("rm");
    assert_eq!((ran.code, outcome(&ran)), (0, "deleted".to_owned()));
    assert!(!fs::exists(&marker).unwrap());
    let ran = json("rm");
    assert_eq!((ran.code, outcome(&ran)), (7, "absent".to_owned()));
}

#[test]
fn words_for_people() {
    let sandbox = Sandbox::new();
    let mut told = String::new();
    for args in [
        &["marker", "rm", "m"][..],
        &["marker", "stat", "m"],
        &["marker", "touch", "m", "--dry-run"],
        &["marker", "touch", "m"],
        &["marker", "touch", "./home/../m"],
        &["marker", "rm", "--dry-run", "m"],
        &["marker", "rm", "m"],
        &["marker", "rm", "home"],
        &["marker", "touch", "nowhere/m"],
        &["marker", "stat", "nowhere/m"],
        &["marker", "rm", "nowhere/m"],
        &["marker", "ls", "nowhere"],
        &["marker", "stat", "--job", "clicks"],
        &["init", "c", "--dry-run"],
        &["init", "c"],
        &["init", "c"],
        &["init", "."],
    ] {
        let ran = sandbox.run(args);
        let (stdout, stderr) = (sandbox.plain(&ran.stdout), sandbox.plain(&ran.stderr));
        let _infallible = write!(
            told,
            "$ stepdown {}\n{stdout}{stderr}[{}]\n\n",
            args.join(" "),
            ran.code
        );
    }
    insta::assert_snapshot!(told);
}

#[test]
fn what_cannot_be_seen_is_unknown_and_not_absent() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "");
    for (args, code) in [
        (["marker", "stat", "missing/m"], 5),
        (["marker", "rm", "missing/m"], 5),
        (["marker", "stat", "file/m"], 5),
        (["marker", "rm", "file/m"], 5),
    ] {
        let ran = sandbox.run(&args);
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let sandbox = Sandbox::new();
    let kept = sandbox.write("kept", "x");
    for args in [
        &["marker", "touch", "new", "--dry-run"][..],
        &["marker", "rm", "kept", "--dry-run"],
        &["init", "control", "--dry-run"],
    ] {
        assert_eq!(sandbox.run(args).code, 0, "{args:?}");
    }
    assert_eq!(fs::read_to_string(kept).unwrap(), "x");
    let names = |dir: &str| fs::read_dir(sandbox.path(dir)).unwrap().count();
    assert_eq!(names("."), 2, "home and kept");
}

#[test]
fn quiet_confirms_nothing_and_still_answers() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(&["-q", "marker", "touch", "m"]).stdout, "");
    assert!(
        sandbox
            .run(&["-q", "marker", "stat", "m"])
            .stdout
            .contains("present")
    );
}

#[test]
fn a_listing_shows_markers_and_no_escape_sequences() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run(&["init", "c"]).code, 0);
    for name in ["b.green", "a.blue", "evil\u{1b}[2J\nname"] {
        fs::write(sandbox.path("c/markers").join(name), "").unwrap();
    }
    let mut command = sandbox.command(&["marker", "ls"]);
    let ran = Sandbox::finish(command.env("STEPDOWN_CONTROL", sandbox.text("c")));
    assert_eq!(ran.code, 0, "{ran:?}");
    let first: Vec<_> = ran
        .stdout
        .lines()
        .map(|line| line.split("  ").next().unwrap())
        .collect();
    assert_eq!(
        first,
        ["MARKER", "a.blue", "b.green", "evil\\u{1b}[2J\\nname"]
    );
}

#[test]
fn a_control_directory_is_made_once() {
    let sandbox = Sandbox::new();
    let init = || sandbox.run(&["--json", "init", "c"]).json();
    let first = init();
    assert_eq!(first["outcome"], "created");
    let second = init();
    assert_eq!(second["outcome"], "exists");
    assert_eq!(first["directory_id"], second["directory_id"]);
    for name in [
        ".stepdown",
        "markers/.stepdown",
        "requests",
        "status",
        "state",
    ] {
        assert!(fs::exists(sandbox.path("c").join(name)).unwrap(), "{name}");
    }
    // A folder that was lost is made again.
    fs::remove_dir(sandbox.path("c/status")).unwrap();
    init();
    assert!(fs::exists(sandbox.path("c/status")).unwrap());
}

#[test]
fn errors_in_json_stand_on_stdout_and_in_words_on_stderr() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["--json", "marker", "stat", "missing/m"]);
    assert_eq!(ran.code, 5);
    let error = &ran.json()["error"];
    assert_eq!(
        (&error["exit"], &error["exit_code"]),
        (&json!("unreachable"), &json!(5))
    );
    assert!(
        ran.stderr.starts_with("error: cannot tell"),
        "{}",
        ran.stderr
    );

    let ran = sandbox.run(&[
        "--json",
        "--log-format",
        "json",
        "marker",
        "stat",
        "missing/m",
    ]);
    let line: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(line, ran.json());

    let ran = sandbox.run(&["marker", "stat", "--json", "--wibble"]);
    assert_eq!(
        (ran.code, &ran.json()["error"]["exit"]),
        (2, &json!("usage"))
    );
    let message = ran.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("--wibble") && !message.contains("Usage"),
        "{message}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let sandbox = Sandbox::new();
    for args in [
        &["config", "reference"][..],
        &["config", "show"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Process::new(env!("CARGO_BIN_EXE_stepdown"))
            .args(args)
            .env_clear()
            .env("HOME", sandbox.path("home"))
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Process::new(env!("CARGO_BIN_EXE_stepdown"))
        .args(["config", "reference"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"));
}

#[test]
fn colours_only_where_they_are_wanted() {
    let sandbox = Sandbox::new();
    let escapes = |args: &[&str], variable: Option<(&str, &str)>| {
        let mut command = sandbox.command(args);
        command.env("TERM", "xterm").envs(variable);
        Sandbox::finish(&mut command).stdout.contains('\u{1b}')
    };
    let show = &["config", "show"][..];
    assert!(!escapes(show, None), "a pipe");
    assert!(!escapes(show, Some(("NO_COLOR", "1"))));
    assert!(escapes(&["--color", "always", "config", "show"], None));
}

#[test]
fn completions_and_man_pages_are_written() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = sandbox.run(&["completions", shell]);
        assert!(ran.code == 0 && ran.stdout.contains("marker"), "{shell}");
    }
    let ran = sandbox.run(&["man"]);
    assert!(ran.stdout.contains("EXIT STATUS") && ran.stdout.contains("STEPDOWN_CONTROL"));
    let ran = sandbox.run(&["man", "marker", "rm"]);
    assert!(ran.stdout.contains("past any trash"), "{}", ran.stdout);
    assert_eq!(sandbox.run(&["man", "wibble"]).code, 7);
    fs::create_dir(sandbox.path("pages")).unwrap();
    assert_eq!(sandbox.run(&["man", "--dir", "pages"]).code, 0);
    assert!(fs::exists(sandbox.path("pages/stepdown-marker-rm.1")).unwrap());
}

#[test]
fn the_log_is_text_or_json_on_stderr() {
    let sandbox = Sandbox::new();
    let config = sandbox.write("stepdown.toml", "");
    let ran = sandbox.run(&["--config", &config, "-vvv", "marker", "touch", "m"]);
    assert!(
        ran.stderr.contains("DEBUG") && ran.stderr.contains(&config),
        "{}",
        ran.stderr
    );
    let args = [
        "--config",
        &config,
        "-vvv",
        "--log-format",
        "json",
        "marker",
        "touch",
        "m",
    ];
    let ran = sandbox.run(&args);
    assert!(!ran.stderr.is_empty());
    for line in ran.stderr.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            line["level"].is_string() && line["timestamp"].is_string(),
            "{line}"
        );
    }
    assert_eq!(
        sandbox.run(&["marker", "touch", "m"]).stderr,
        "",
        "silence under cron"
    );

    let mut command = sandbox.command(&["marker", "touch", "m"]);
    let ran = Sandbox::finish(command.env("STEPDOWN_LOG", "a=b=c"));
    assert_eq!(ran.code, 2, "{ran:?}");
}

#[test]
fn the_doctor_tells_what_does_not_work() {
    let sandbox = Sandbox::new();
    let control = sandbox.text("c");
    let doctor = |args: &[&str]| {
        let mut command = sandbox.command(args);
        Sandbox::finish(command.env("STEPDOWN_CONTROL", &control))
    };
    let ran = doctor(&["--json", "doctor"]);
    assert_eq!((ran.code, &ran.json()["verdict"]), (3, &json!("fail")));
    let advice = ran.json()["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find_map(|check| {
            (check["verdict"] == "fail").then(|| check["advice"].as_str().unwrap().to_owned())
        });
    assert_eq!(advice, Some(format!("`stepdown init {control}` makes it")));

    assert_eq!(sandbox.run(&["init", "c"]).code, 0);
    let ran = doctor(&["doctor"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    for name in [
        "open-files",
        "processes",
        "write",
        "exclusive-create",
        "rename",
        "clock-skew",
    ] {
        assert!(
            ran.stdout.contains(&format!("ok    {name}: ")),
            "{name}: {}",
            ran.stdout
        );
    }
    assert_eq!(
        fs::read_dir(sandbox.path("c/state")).unwrap().count(),
        0,
        "probes are removed"
    );

    let ran = doctor(&["doctor", "--no-probes"]);
    assert!(ran.code == 0 && !ran.stdout.contains("exclusive-create"));
    fs::remove_dir(sandbox.path("c/state")).unwrap();
    assert_eq!(doctor(&["doctor"]).code, 3, "no folder to write to");
}

#[test]
fn the_doctor_sees_a_file_sink_that_is_not_of_its_checkpoint() {
    let sandbox = Sandbox::new();
    let control = sandbox.text("c");
    assert_eq!(sandbox.run(&["init", "c"]).code, 0);
    let (checkpoint, sink) = (sandbox.text("ck"), sandbox.text("out"));
    let config = format!(
        "control = \"{control}\"\n[jobs.clicks]\ncheckpoints = [\"{checkpoint}\"]\n\
         file-sinks = [\"{sink}\"]\nstop.backend = \"driver\"\n"
    );
    let config = sandbox.write("sinks.toml", &config);
    let tells = |words: &[&str]| {
        let ran = sandbox.run(&["--config", &config, "doctor", "--no-probes"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let line = ran.stdout.lines().find(|line| line.contains("file-sink "));
        let line = line.unwrap_or_else(|| panic!("{ran:?}"));
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    };
    tells(&["nothing is written yet"]);
    sandbox.write(
        "ck/metadata",
        r#"{"id":"0f6d9c33-8a7c-4d5e-9d57-4b1f0c7a7f10"}"#,
    );
    for log in ["offsets", "commits"] {
        sandbox.write(&format!("ck/{log}/11"), "v1\n{}\n-");
    }
    tells(&["it has no log, and batch 11 is committed"]);
    sandbox.write("out/_spark_metadata/9.compact", "v1");
    tells(&["ends with batch 9, and batch 11 is committed"]);
    sandbox.write("out/_spark_metadata/11", "v1");
    tells(&["ok ", "as far as a checkpoint"]);
    sandbox.write("out/_spark_metadata/12", "v1");
    tells(&["Spark skips batches up to 12"]);
}

#[test]
fn under_run_the_codes_up_to_63_are_the_commands() {
    let sandbox = Sandbox::new();
    sandbox.write("not-executable", "");
    let wrong = sandbox.write("wrong.toml", "wibble = 1\n");
    let run = |args: &[&str], command: &[&str]| {
        let args = [&["-q", "run"], args, &["--"], command].concat();
        sandbox.run(&args)
    };
    let marker = ["--marker", "m"];
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["sh", "-c", "exit 63"], 63),
        (&["sh", "-c", "exit 200"], 200),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["./not-executable"], 126),
        (&["no-such-command"], 127),
    ] {
        let ran = run(&marker, command);
        assert_eq!(ran.code, code, "{command:?}: {ran:?}");
        assert!(
            !fs::exists(sandbox.path("m")).unwrap(),
            "{command:?} left its marker"
        );
    }
    assert_eq!(run(&["--marker", "m", "--wibble"], &["true"]).code, 66);
    assert_eq!(run(&["--marker", "s3://b/k"], &["true"]).code, 66);
    assert_eq!(
        run(&["--marker", "m", "--config", &wrong], &["true"]).code,
        66
    );
    assert_eq!(
        run(&["--marker", "missing/m"], &["touch", "started"]).code,
        66
    );
    assert!(
        !fs::exists(sandbox.path("started")).unwrap(),
        "without its marker nothing is started"
    );
    assert_eq!(
        sandbox.run(&["run", "--marker", "m"]).code,
        66,
        "no command"
    );
}

#[test]
fn under_run_stdout_is_the_commands_own() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["--json", "-q", "run", "--marker", "m", "--", "echo", "own"]);
    assert_eq!(ran.stdout, "own\n");
    let document: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(document["exit"], json!({"kind": "code", "code": 0}));
    let ran = sandbox.run(&["--json", "run", "--marker", "s3://b/k", "--", "echo", "own"]);
    assert_eq!(ran.stdout, "");
    let document: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(document["error"]["exit_code"], 66);
}
