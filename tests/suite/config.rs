//! The configuration: what is read, and every mistake with its place and advice.

use std::time::Duration;

use stepdown::config::{
    AtBoundary, AttemptFrom, Config, ConfigError, DriverStop, EndsWith, Environment, Escalate,
    Loaded, Lookup, Origin, SignalTarget, Stop, StopSignal, Trigger, lint, load,
};
use stepdown::model::Slot;
use stepdown::storage::Authority;

fn read(text: &str) -> Result<Loaded, ConfigError> {
    read_with(text, &[])
}

fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    load::parse(
        text,
        Lookup::Found("stepdown.toml".into()),
        &Environment::from_pairs(variables.iter().copied()),
    )
}

const TWO_SLOTS: &str = r#"
control = "hdfs://ns/stepdown"

[hadoop]
overrides = { "dfs.client.failover.max.attempts" = "0" }

[watch]
interval = "1m 30s"
jitter = 0

[hooks]
on-died = ["/usr/local/bin/page", "it died"]
timeout = "10s"

[jobs.clicks]
trigger = "appears"
checkpoints = ["hdfs:///ck/a", "/ck/b"]
escalate = "kill"
hooks.on-clean = ["true"]

[jobs.clicks.stop]
backend = "signal"
attempt-from = "pid-file"
pid-file = "/run/clicks.pid"
signal = "SIGINT"
target = "group"
ends-with = "process"

[jobs.clicks.slots.blue]

[jobs.clicks.slots.green]
marker = "/markers/clicks"
checkpoints = ["/ck/green"]
stop = { backend = "driver" }

[jobs.views.stop]
backend = "command"
request = ["yarn-stop", "views"]
observe = ["yarn-state", "views"]
"#;

#[test]
fn a_file_is_read_with_its_inheritance() {
    let config = read(TWO_SLOTS).unwrap().config;
    assert_eq!(config.watch.interval, Duration::from_secs(90));
    assert_eq!(config.watch.confirm, 2);
    let clicks = &config.jobs[&"clicks".parse().unwrap()];
    assert_eq!(clicks.trigger, Trigger::Appears);
    assert_eq!(clicks.escalate, Escalate::Kill);
    assert_eq!(clicks.hooks.on_clean.as_ref().unwrap().program(), "true");
    assert_eq!(clicks.hooks.on_died, config.hooks.on_died);
    assert_eq!(clicks.hooks.timeout, Duration::from_secs(10));

    let blue = &clicks.slots[&Slot::Blue];
    assert_eq!(
        blue.marker.to_string(),
        "hdfs://ns/stepdown/markers/clicks.blue"
    );
    assert_eq!(blue.checkpoints.len(), 2);
    let Stop::Signal(signal) = &blue.stop else {
        panic!("{:?}", blue.stop);
    };
    assert_eq!(
        signal.attempt_from,
        AttemptFrom::PidFile("/run/clicks.pid".into())
    );
    assert_eq!(signal.signal, StopSignal::Int);
    assert_eq!(signal.target, SignalTarget::Group);
    assert_eq!(signal.ends_with, EndsWith::Process);

    let green = &clicks.slots[&Slot::Green];
    assert_eq!(green.marker.to_string(), "/markers/clicks");
    assert_eq!(green.checkpoints[0].to_string(), "/ck/green");
    assert_eq!(green.stop, Stop::Driver(DriverStop::default()));

    let views = &config.jobs[&"views".parse().unwrap()];
    assert_eq!(views.slots.keys().collect::<Vec<_>>(), [&Slot::Blue]);
    assert_eq!(views.slots[&Slot::Blue].stop.backend(), "command");
    assert_eq!(views.drain_deadline, Duration::from_mins(30));
}

#[test]
fn the_examples_are_good() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(root.join("conf/examples")).unwrap() {
        let file = entry.unwrap().path();
        let text = std::fs::read_to_string(&file).unwrap();
        let loaded = read(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let warnings = lint::of_values(&loaded.config);
        assert_eq!(warnings, [], "{}", file.display());
        assert!(!loaded.config.jobs.is_empty());
        count += 1;
    }
    assert!(count >= 4);
}

/// The key and the message of each warning of a file.
fn warnings_of(text: &str) -> Vec<String> {
    let loaded = read(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let warnings = lint::of_values(&loaded.config).into_iter();
    warnings
        .map(|warning| format!("{}: {}", warning.key, warning.message))
        .collect()
}

#[test]
fn odd_rollouts_are_told() {
    let job = |rollout: &str, slots: &str| {
        let text = format!(
            r#"
control = "/srv/stepdown"
hooks.on-alarm = ["true"]
[jobs.clicks]
stop.backend = "driver"
[jobs.clicks.rollout]
{rollout}
[jobs.clicks.slots.blue]
checkpoints = ["/ck/blue"]
[jobs.clicks.slots.green]
{slots}
"#
        );
        warnings_of(&text)
    };
    let own = "checkpoints = [\"/ck/green\"]";
    let good = "start = [\"run.sh\", \"{checkpoint}\"]";
    assert_eq!(job(good, own), Vec::<String>::new());
    // The same directories change hands: that is meant.
    let in_place = format!("checkpoint = \"in-place\"\n{good}");
    assert_eq!(
        job(&in_place, "checkpoints = [\"/ck/blue\"]"),
        Vec::<String>::new()
    );
    let told = |rollout: &str, slots: &str, said: &str| {
        let warnings = job(rollout, slots);
        assert!(
            warnings.len() == 1 && warnings[0].contains(said),
            "{said}: {warnings:?}"
        );
    };
    told(
        "",
        own,
        "rollout.start: there is no command to start the job in blue and green",
    );
    let one = format!("{own}\nstart = [\"run.sh\"]");
    told("", &one, "to start the job in blue:");
    // The common command has a place of one slot.
    told(
        "start = [\"run.sh\", \"--to=/ck/blue\"]",
        own,
        "slots.green.start: \"--to=/ck/blue\" names the checkpoint of blue",
    );
    told(
        "start = [\"run.sh\", \"/srv/stepdown/markers/clicks.green\"]",
        own,
        "slots.blue.start: \"/srv/stepdown/markers/clicks.green\" names the marker of green",
    );
    told(
        good,
        &format!(
            "{own}\nstop = {{ backend = \"command\", observe = [\"o\"], request = [\"kubectl\", \
             \"delete\", \"pod\", \"x\", \"--grace-period=30\"] }}"
        ),
        "\"--grace-period=30\" has the platform kill after \"30s\", and drain-deadline is \"30m\"",
    );
}

#[test]
fn file_sinks_have_one_writer_and_stay_at_their_place() {
    let warnings = |rollout: &str, blue: &str, green: &str, other: &str| {
        let text = format!(
            r#"
control = "/srv/stepdown"
hooks.on-alarm = ["true"]
[jobs.clicks]
stop.backend = "driver"
[jobs.clicks.rollout]
start = ["run.sh"]
{rollout}
[jobs.clicks.slots.blue]
checkpoints = ["/ck/blue"]
{blue}
[jobs.clicks.slots.green]
checkpoints = ["/ck/green"]
{green}
[jobs.views]
stop.backend = "driver"
checkpoints = ["/ck/views"]
{other}
"#
        );
        warnings_of(&text)
    };
    let sinks = |dir: &str| format!("file-sinks = [\"{dir}\"]");
    let (out, aside) = (sinks("/out/clicks"), sinks("/out/clicks-2"));
    let hand_over = "strategy = \"hand-over\"";
    let parallel = "strategy = \"parallel\"\ntwo-writers = \"accept\"";
    assert!(warnings(hand_over, &out, &out, &sinks("/out/views")).is_empty());
    assert!(warnings(parallel, &out, &aside, "").is_empty());
    // A checkpoint in the output is common.
    assert!(warnings(parallel, &sinks("/ck"), &aside, "").is_empty());
    for (rollout, blue, green, other, said) in [
        (
            parallel,
            &out,
            &out,
            "",
            "/out/clicks is the file sink of both slots",
        ),
        (
            hand_over,
            &out,
            &aside,
            "",
            "green.file-sinks: are not those of blue",
        ),
        (
            hand_over,
            &out,
            &out,
            out.as_str(),
            "views.slots.blue.file-sinks: /out/clicks is a file sink of clicks, too",
        ),
        (
            parallel,
            &sinks("/ck/blue/out"),
            &aside,
            "",
            "/ck/blue/out lies in the checkpoint /ck/blue",
        ),
    ] {
        let told = warnings(rollout, blue, green, other);
        assert!(
            told.len() == 1 && told[0].contains(said),
            "{said}: {told:?}"
        );
    }
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(read("").unwrap().config, Config::default());
}

#[test]
fn the_spacing_of_confirmation_follows_the_storage() {
    let watch = Config::default().watch;
    let of = |authority| watch.confirm_spacing_of(&authority);
    assert_eq!(of(Authority::Local), Duration::from_millis(20));
    assert_eq!(of(Authority::Hdfs("ns".into())), Duration::from_secs(1));
    let watch = read("[watch]\nconfirm-spacing = \"3s\"")
        .unwrap()
        .config
        .watch;
    assert_eq!(
        watch.confirm_spacing_of(&Authority::Local),
        Duration::from_secs(3)
    );
}

#[test]
fn every_value_knows_its_origin() {
    let variables = [("HADOOP_USER_NAME", "etl"), ("STEPDOWN_CONTROL", "/run/sd")];
    let loaded = read_with(TWO_SLOTS, &variables).unwrap();
    let of = |key: &str| {
        let found = loaded.settings.iter().find(|setting| setting.key == key);
        let setting = found.unwrap_or_else(|| panic!("{key} is not shown"));
        (setting.value.as_deref(), &setting.origin)
    };
    let environment = |name: &str| Origin::Environment { name: name.into() };
    let key = |key: &str| Origin::Key { key: key.into() };
    assert_eq!(
        of("control"),
        (Some("\"/run/sd\""), &environment("STEPDOWN_CONTROL"))
    );
    assert_eq!(
        of("hadoop.user"),
        (Some("\"etl\""), &environment("HADOOP_USER_NAME"))
    );
    assert_eq!(of("hadoop.keytab"), (None, &Origin::Default));
    assert_eq!(of("watch.confirm"), (Some("2"), &Origin::Default));
    let (value, origin) = of("watch.interval");
    assert_eq!(value, Some("\"1m 30s\""));
    assert!(
        matches!(origin, Origin::File(place) if place.line == 8),
        "{origin:?}"
    );
    assert_eq!(
        of("jobs.clicks.hooks.on-died"),
        (
            Some(r#"["/usr/local/bin/page", "it died"]"#),
            &key("hooks.on-died")
        )
    );
    assert_eq!(
        of("jobs.clicks.slots.blue.marker"),
        (Some("\"/run/sd/markers/clicks.blue\""), &key("control"))
    );
    assert_eq!(
        of("jobs.clicks.slots.blue.checkpoints"),
        (
            Some(r#"["hdfs:///ck/a", "/ck/b"]"#),
            &key("jobs.clicks.checkpoints")
        )
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = r#"
control = "stepdown"
bogus-level = 1

[hadoop]
conf-dir = "conf"
keytab = "/etc/k"

[watch]
intervall = "5s"
call_timeout = "5s"
jitter = 1.5
confirm = "two"
confirm-spacing = 5
alarm-after = "soon"
lease-ttl = "5"
control = "/x"
level = "info"
wibble = 1

[run]
restart = "always"

[log]
level = "warning"
format = "xml"

[hooks]
on-clean = "notify-send done"
on-dirty = []
on-died = ["bin/page"]

[jobs."a.b"]

[jobs.clicks]
checkpoints = "/ck/a"
escalate = "kil"

[jobs.clicks.stop]
backend = "signal"
signal = "KILL"
target = 3
pid-file = "/run/x.pid"

[jobs.views]
checkpoints = ["s3://bucket/ck", "/ck/../b"]

[jobs.views.slots.red]

[jobs.views.slots.blue]
marker = "hdfs:views"

[jobs.third]
escalate = "kill"
stop = { backend = "command", observe = ["o"] }

[jobs.fourth]
stop = "TERM"

[jobs.fifth.stop]
backend = "yarn"
"#;
    insta::assert_snapshot!(read(text).unwrap_err());
}

#[test]
fn what_is_not_toml_is_told_with_its_place() {
    insta::assert_snapshot!(read("[watch]\ninterval = 5s\n[log\nlevel = \"x\"\n").unwrap_err());
}

#[test]
fn a_job_without_control_directory_or_backend_is_refused() {
    insta::assert_snapshot!(read("[jobs.clicks]\n").unwrap_err());
}

#[test]
fn copies_need_a_place_of_their_own_for_each_checkpoint() {
    let told: Vec<String> = [
        "",
        "checkpoints = [\"/ck/a\"]",
        "checkpoints = [\"/ck/a\", \"/ck/b\"]\ncopy-to = [\"/next/a\"]",
        "checkpoints = [\"/ck/a\"]\ncopy-to = [\"/ck/a/copy\"]",
        "checkpoints = [\"/ck/a\", \"/ck/b\"]\ncopy-to = [\"/next/a\", \"/next/a\"]",
        "checkpoints = [\"/ck/a\"]\ncopy-to = [\"/next/a\"]\ncopy-existing = \"overwrite\"",
    ]
    .iter()
    .map(|keys| {
        let job =
            "control = \"/c\"\n[jobs.clicks]\nstop.backend = \"driver\"\non-stopped = \"copy\"";
        read(&format!("{job}\n{keys}\n")).unwrap_err().to_string()
    })
    .collect();
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn a_request_that_waits_for_a_boundary_needs_checkpoints() {
    let signal = "control = \"/c\"\n[jobs.clicks]\nstop.backend = \"signal\"\n";
    let waits = format!("{signal}stop.at-boundary = \"prefer\"\nstop.boundary-patience = \"2m\"\n");
    let refused = read(&waits).unwrap_err().to_string();
    assert!(
        refused.contains("at-boundary needs the batches to be seen"),
        "{refused}"
    );
    let config = read(&format!("{waits}checkpoints = [\"/ck\"]\n"))
        .unwrap()
        .config;
    let job = &config.jobs[&"clicks".parse().unwrap()];
    let boundary = job.slots[&Slot::Blue].stop.boundary();
    assert_eq!(boundary.at_boundary, AtBoundary::Prefer);
    assert_eq!(boundary.patience, Duration::from_mins(2));
    assert_eq!(boundary.reaction, None);
    // A driver is only asked where it cannot drain by itself.
    let driver = "control = \"/c\"\n[jobs.clicks]\nstop.backend = \"driver\"\n";
    let config = read(driver).unwrap().config;
    let job = &config.jobs[&"clicks".parse().unwrap()];
    let boundary = job.slots[&Slot::Blue].stop.boundary();
    assert_eq!(boundary.at_boundary, AtBoundary::Require);
    let long = "stop.at-boundary = \"require\"\nstop.boundary-patience = \"2h\"\n";
    let config = read(&format!("{signal}{long}checkpoints = [\"/ck\"]\n"))
        .unwrap()
        .config;
    let warned = lint::of_values(&config);
    let key = "jobs.clicks.slots.blue.stop.boundary-patience";
    assert!(
        warned.iter().any(|warning| warning.key == key),
        "{warned:?}"
    );
}

#[test]
fn a_bad_variable_is_named() {
    insta::assert_snapshot!(read_with("", &[("STEPDOWN_CONTROL", "there")]).unwrap_err());
}

mod command {
    //! The commands that work on the configuration, and which file they read.

    use std::fmt::Write as _;
    use std::fs;

    use serde_json::json;

    use crate::sandbox::Sandbox;

    const GOOD: &str = r#"
control = "/srv/stepdown"
hooks.on-alarm = ["true"]
[jobs.clicks]
checkpoints = ["/ck/clicks"]
stop.backend = "driver"
"#;

    #[test]
    fn mistakes_are_exit_code_2_and_change_nothing() {
        let sandbox = Sandbox::new();
        let file = sandbox.write("stepdown.toml", "[watch]\nintervall = \"5s\"\n");
        let mut told = String::new();
        for args in [
            &["config", "check"][..],
            &["config", "show"],
            &["doctor"],
            &["marker", "touch", "m"],
            &["init", "c"],
        ] {
            let ran = sandbox.run(&[&["--config", &file], args].concat());
            assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}");
            told = sandbox.plain(&ran.stderr);
        }
        insta::assert_snapshot!(told);
        assert!(!fs::exists(sandbox.path("m")).unwrap());
        assert!(!fs::exists(sandbox.path("c")).unwrap());
    }

    #[test]
    fn files_that_cannot_be_read() {
        let sandbox = Sandbox::new();
        let mut told = String::new();
        let mut tell = |what: &str, args: &[&str], variables: &[(&str, &str)]| {
            let mut command = sandbox.command(args);
            let ran = Sandbox::finish(command.envs(variables.iter().copied()));
            assert_eq!(ran.code, 2, "{what}: {ran:?}");
            let _infallible = writeln!(told, "{what}\n{}", sandbox.plain(&ran.stderr));
        };
        let check = &["config", "check"][..];
        tell(
            "named by an option",
            &["config", "check", "--config", "missing.toml"],
            &[],
        );
        tell(
            "named by a variable",
            check,
            &[("STEPDOWN_CONFIG", "/missing.toml")],
        );
        tell("a directory", &["config", "check", "--config", "home"], &[]);
        let latin = sandbox.path("latin.toml");
        fs::write(&latin, b"# a\n# \xe4\n").unwrap();
        tell(
            "not UTF-8",
            &["config", "check", "--config", "latin.toml"],
            &[],
        );
        fs::create_dir_all(sandbox.path("xdg/stepdown/stepdown.toml")).unwrap();
        let xdg = sandbox.text("xdg");
        let no_conf_dir = "[hadoop]\nconf-dir = \"/nowhere/conf\"\n";
        sandbox.write("no-conf-dir.toml", no_conf_dir);
        let args = ["config", "check", "--config", "no-conf-dir.toml"];
        tell("a Hadoop configuration that is not there", &args, &[]);
        tell(
            "found, and a directory",
            check,
            &[("XDG_CONFIG_HOME", &xdg)],
        );
        insta::assert_snapshot!(told);
    }

    #[test]
    fn exactly_one_file_is_read() {
        let sandbox = Sandbox::new();
        let file = |name: &str| sandbox.write(name, &format!("control = \"/{name}\"\n"));
        file("stepdown.toml");
        let option = file("option.toml");
        let variable = file("variable.toml");
        let show = |args: &[&str], variables: &[(&str, &str)]| {
            let mut command =
                sandbox.command(&[&["--json", "config", "show", "control"], args].concat());
            let ran = Sandbox::finish(command.envs(variables.iter().copied()));
            let json = ran.json();
            let value = json["settings"][0]["value"]
                .as_str()
                .map(|text| text.trim_matches('"').to_owned());
            (
                json["found_by"].as_str().unwrap().to_owned(),
                value.unwrap_or_default(),
            )
        };
        let found = |by: &str, name: &str| (by.to_owned(), name.to_owned());
        if !fs::exists("/etc/stepdown/stepdown.toml").unwrap() {
            // Not the one in the current directory.
            assert_eq!(show(&[], &[]), found("nothing", ""));
        }
        file("home/.config/stepdown/stepdown.toml");
        assert_eq!(
            show(&[], &[]),
            found("found", "/home/.config/stepdown/stepdown.toml")
        );
        file("xdg/stepdown/stepdown.toml");
        let xdg = sandbox.text("xdg");
        let xdg = ("XDG_CONFIG_HOME", xdg.as_str());
        assert_eq!(
            show(&[], &[xdg]),
            found("found", "/xdg/stepdown/stepdown.toml")
        );
        let variables = [xdg, ("STEPDOWN_CONFIG", variable.as_str())];
        assert_eq!(show(&[], &variables), found("variable", "/variable.toml"));
        let args = ["--config", option.as_str()];
        assert_eq!(show(&args, &variables), found("option", "/option.toml"));
    }

    #[test]
    fn warnings_are_told_and_strict_makes_them_findings() {
        let sandbox = Sandbox::new();
        let good = sandbox.write("good.toml", GOOD);
        let ran = sandbox.run(&["--config", &good, "config", "check", "--strict"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");

        let odd = sandbox.write(
            "odd.toml",
            r#"
control = "/srv/stepdown"
[watch]
confirm = 1
lease-ttl = "5s"
alarm-after = "1s"
[jobs.a]
checkpoints = ["/ck/a"]
drain-deadline = "10s"
escalate = "kill"
stop = { backend = "driver" }
[jobs.a.slots.blue]
marker = "/ck/a/m"
[jobs.a.slots.green]
marker = "/ck/a/m"
[jobs.b.stop]
backend = "command"
request = ["no-such-program", "b"]
observe = ["/etc/passwd"]
"#,
        );
        let args = ["--config", &odd, "config", "check"];
        let ran = sandbox.run(&args);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        insta::assert_snapshot!(sandbox.plain(&ran.stdout));
        assert_eq!(sandbox.run(&[&args[..], &["--strict"]].concat()).code, 3);
    }

    #[test]
    fn a_file_that_others_may_write_is_odd() {
        use std::os::unix::fs::PermissionsExt as _;
        let sandbox = Sandbox::new();
        let file = sandbox.write("open.toml", GOOD);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        let ran = sandbox.run(&["--json", "--config", &file, "config", "check"]);
        let warnings = ran.json()["warnings"].clone();
        assert_eq!(warnings.as_array().unwrap().len(), 1, "{warnings}");
        assert!(
            warnings[0]["message"]
                .as_str()
                .unwrap()
                .contains("everyone")
        );
    }

    #[test]
    fn values_are_shown_with_their_origin() {
        let sandbox = Sandbox::new();
        let file = sandbox.write("stepdown.toml", GOOD);
        let args = ["--config", &file, "config", "show", "jobs.clicks"];
        let mut command = sandbox.command(&args);
        let ran = Sandbox::finish(command.env("STEPDOWN_CONTROL", "/other"));
        insta::assert_snapshot!(sandbox.plain(&ran.stdout));
        let ran = sandbox.run(&["--config", &file, "config", "show", "wibble"]);
        assert_eq!(ran.code, 7);
        let ran = sandbox.run(&["--json", "--config", &file, "config", "show", "control"]);
        assert_eq!(
            ran.json()["settings"],
            json!([{
                "key": "control",
                "value": "\"/srv/stepdown\"",
                "origin": {"from": "file", "line": 2, "column": 11}
            }])
        );
    }

    #[test]
    fn hadoop_values_are_shown_with_their_origin() {
        let sandbox = Sandbox::new();
        let property = |key: &str, value: &str| {
            format!("<property>\n<name>{key}</name><value>{value}</value></property>\n")
        };
        let site = format!(
            "<configuration>\n{}{}</configuration>",
            property("fs.defaultFS", "hdfs://${ns}"),
            property("ns", "east")
        );
        sandbox.write("conf/core-site.xml", &site);
        let file = sandbox.write(
            "stepdown.toml",
            &format!(
                "[hadoop]\nconf-dir = {:?}\noverrides = {{ \"fs.trash.interval\" = \"0\" }}\n",
                sandbox.text("conf")
            ),
        );
        let show = |key: &str| sandbox.run(&["--config", &file, "config", "show", "--hadoop", key]);
        insta::assert_snapshot!(sandbox.plain(&show("fs.").stdout));
        assert_eq!(show("wibble").code, 7);
        sandbox.write("conf/core-site.xml", "<configuration>");
        let ran = show("fs.");
        assert_eq!(ran.code, 2);
        insta::assert_snapshot!(sandbox.plain(&ran.stderr));
    }
}
