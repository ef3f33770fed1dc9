//! What a Java process would see around it: environment variables and system properties.

use std::collections::BTreeMap;

/// Environment variables and the Java system properties that configurations refer to.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    vars: BTreeMap<String, String>,
    properties: BTreeMap<String, String>,
}

impl Environment {
    /// An environment of the given variables and system properties (tests).
    pub fn new<K: Into<String>, V: Into<String>>(
        vars: impl IntoIterator<Item = (K, V)>,
        properties: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let own = |(key, value): (K, V)| (key.into(), value.into());
        Self {
            vars: vars.into_iter().map(own).collect(),
            properties: properties.into_iter().map(own).collect(),
        }
    }

    /// The environment of this process. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        let vars: BTreeMap<_, _> = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let mut properties = BTreeMap::from([
            ("java.io.tmpdir".to_owned(), "/tmp".to_owned()),
            ("file.separator".to_owned(), "/".to_owned()),
            ("path.separator".to_owned(), ":".to_owned()),
            ("line.separator".to_owned(), "\n".to_owned()),
            ("os.name".to_owned(), "Linux".to_owned()),
        ]);
        // Java asks the user database, not $USER: under sudo or cron the two differ.
        if let Ok(name) = whoami::username() {
            properties.insert("user.name".to_owned(), name);
        }
        if let Some(home) = vars.get("HOME") {
            properties.insert("user.home".to_owned(), home.clone());
        }
        if let Some(dir) = std::env::current_dir()
            .ok()
            .and_then(|d| d.into_os_string().into_string().ok())
        {
            properties.insert("user.dir".to_owned(), dir);
        }
        Self { vars, properties }
    }

    /// An environment variable.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }

    /// A Java system property, such as `user.name`.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }
}
