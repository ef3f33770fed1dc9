//! The commands, one file each.

pub mod checkpoint;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod init;
pub mod man;
pub mod marker;
pub mod rollout;
pub mod run;
pub mod status;
pub mod stop;
pub mod wait;
pub mod watch;

/// The environment variables that stepdown reads, with what they do.
pub const VARIABLES: &[(&str, &str)] = &[
    (
        "STEPDOWN_CONFIG",
        "The configuration file, where --config names none.",
    ),
    (
        "STEPDOWN_CONTROL",
        "The control directory; wins over the configuration file.",
    ),
    (
        "STEPDOWN_LOG",
        "What is logged, as a level or a filter (warn,stepdown::storage=trace); wins over -v, -q and the configuration.",
    ),
    (
        "HADOOP_CONF_DIR",
        "Directory of core-site.xml and hdfs-site.xml, where the configuration file names none.",
    ),
    (
        "HADOOP_USER_NAME",
        "User name on clusters without Kerberos, where the configuration file names none.",
    ),
    ("KRB5CCNAME", "The Kerberos ticket cache."),
    (
        "HADOOP_TOKEN_FILE_LOCATION",
        "File with delegation tokens, as YARN gives it to its containers.",
    ),
    (
        "XDG_CONFIG_HOME",
        "In the place of ~/.config for the user's configuration file.",
    ),
    ("NO_COLOR", "No colours, if it is set and not empty."),
];
