//! Keys that Hadoop renamed, defaults that matter to a client, and keys whose values are secret.

/// Hadoop's default for each key that stepdown looks at (`core-default.xml`, `hdfs-default.xml`).
pub(super) const DEFAULTS: &[(&str, &str)] = &[
    (
        "dfs.client.block.write.replace-datanode-on-failure.best-effort",
        "false",
    ),
    (
        "dfs.client.block.write.replace-datanode-on-failure.enable",
        "true",
    ),
    (
        "dfs.client.block.write.replace-datanode-on-failure.policy",
        "DEFAULT",
    ),
    ("dfs.client.socket-timeout", "60000"),
    ("dfs.client.use.datanode.hostname", "false"),
    ("dfs.user.home.dir.prefix", "/user"),
    ("fs.defaultFS", "file:///"),
    ("fs.permissions.umask-mode", "022"),
    ("hadoop.security.authentication", "simple"),
    ("hadoop.security.token.service.use_ip", "true"),
    ("hadoop.tmp.dir", "/tmp/hadoop-${user.name}"),
    ("ipc.client.fallback-to-simple-auth-allowed", "false"),
];

/// Old name and new name, as `Configuration.dumpDeprecatedKeys` of Hadoop 3.4 lists them.
const RENAMED: &[(&str, &str)] = &[
    (
        "dfs.access.time.precision",
        "dfs.namenode.accesstime.precision",
    ),
    ("dfs.backup.address", "dfs.namenode.backup.address"),
    (
        "dfs.backup.http.address",
        "dfs.namenode.backup.http-address",
    ),
    (
        "dfs.balance.bandwidthPerSec",
        "dfs.datanode.balance.bandwidthPerSec",
    ),
    ("dfs.block.size", "dfs.blocksize"),
    ("dfs.data.dir", "dfs.datanode.data.dir"),
    (
        "dfs.datanode.max.xcievers",
        "dfs.datanode.max.transfer.threads",
    ),
    ("dfs.df.interval", "fs.df.interval"),
    (
        "dfs.encryption.key.provider.uri",
        "hadoop.security.key.provider.path",
    ),
    ("dfs.federation.nameservice.id", "dfs.nameservice.id"),
    ("dfs.federation.nameservices", "dfs.nameservices"),
    ("dfs.http.address", "dfs.namenode.http-address"),
    ("dfs.https.address", "dfs.namenode.https-address"),
    (
        "dfs.https.client.keystore.resource",
        "dfs.client.https.keystore.resource",
    ),
    ("dfs.https.need.client.auth", "dfs.client.https.need-auth"),
    (
        "dfs.max-repl-streams",
        "dfs.namenode.replication.max-streams",
    ),
    ("dfs.max.objects", "dfs.namenode.max.objects"),
    ("dfs.name.dir", "dfs.namenode.name.dir"),
    ("dfs.name.dir.restore", "dfs.namenode.name.dir.restore"),
    ("dfs.name.edits.dir", "dfs.namenode.edits.dir"),
    (
        "dfs.namenode.replication.considerLoad",
        "dfs.namenode.redundancy.considerLoad",
    ),
    (
        "dfs.namenode.replication.considerLoad.factor",
        "dfs.namenode.redundancy.considerLoad.factor",
    ),
    (
        "dfs.namenode.replication.interval",
        "dfs.namenode.redundancy.interval.seconds",
    ),
    (
        "dfs.namenode.replication.pending.timeout-sec",
        "dfs.namenode.reconstruction.pending.timeout-sec",
    ),
    ("dfs.nfs.exports.allowed.hosts", "nfs.exports.allowed.hosts"),
    ("dfs.permissions", "dfs.permissions.enabled"),
    (
        "dfs.permissions.supergroup",
        "dfs.permissions.superusergroup",
    ),
    ("dfs.read.prefetch.size", "dfs.client.read.prefetch.size"),
    (
        "dfs.replication.considerLoad",
        "dfs.namenode.redundancy.considerLoad",
    ),
    (
        "dfs.replication.interval",
        "dfs.namenode.redundancy.interval.seconds",
    ),
    ("dfs.replication.min", "dfs.namenode.replication.min"),
    (
        "dfs.replication.pending.timeout.sec",
        "dfs.namenode.reconstruction.pending.timeout-sec",
    ),
    ("dfs.safemode.extension", "dfs.namenode.safemode.extension"),
    (
        "dfs.safemode.threshold.pct",
        "dfs.namenode.safemode.threshold-pct",
    ),
    (
        "dfs.secondary.http.address",
        "dfs.namenode.secondary.http-address",
    ),
    ("dfs.socket.timeout", "dfs.client.socket-timeout"),
    ("dfs.umaskmode", "fs.permissions.umask-mode"),
    ("dfs.write.packet.size", "dfs.client-write-packet-size"),
    ("fs.checkpoint.dir", "dfs.namenode.checkpoint.dir"),
    (
        "fs.checkpoint.edits.dir",
        "dfs.namenode.checkpoint.edits.dir",
    ),
    ("fs.checkpoint.period", "dfs.namenode.checkpoint.period"),
    ("fs.default.name", "fs.defaultFS"),
    (
        "hadoop.configured.node.mapping",
        "net.topology.configured.node.mapping",
    ),
    (
        "heartbeat.recheck.interval",
        "dfs.namenode.heartbeat.recheck-interval",
    ),
    ("io.bytes.per.checksum", "dfs.bytes-per-checksum"),
    ("session.id", "dfs.metrics.session-id"),
    ("slave.host.name", "dfs.datanode.hostname"),
    (
        "topology.node.switch.mapping.impl",
        "net.topology.node.switch.mapping.impl",
    ),
    ("topology.script.file.name", "net.topology.script.file.name"),
    (
        "topology.script.number.args",
        "net.topology.script.number.args",
    ),
];

/// The name that Hadoop uses now for `key`; `key` itself if it was never renamed.
pub(super) fn current_name(key: &str) -> &str {
    RENAMED
        .iter()
        .find_map(|(old, new)| (*old == key).then_some(*new))
        .unwrap_or(key)
}

/// Whether the value of `key` must not be shown: wider than Hadoop's own
/// `hadoop.security.sensitive-config-keys`, since a shown secret cannot be taken back.
pub(super) fn is_secret(key: &str) -> bool {
    const WORDS: [&str; 8] = [
        "secret",
        "password",
        "passwd",
        "passphrase",
        "keystore.pass",
        "account.key",
        "access.key",
        "oauth",
    ];
    let key = key.to_ascii_lowercase();
    let last = key.rsplit('.').next().unwrap_or_default();
    WORDS.iter().any(|word| key.contains(word)) || matches!(last, "token" | "credential")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renamed_keys_are_found_and_sorted() {
        assert_eq!(current_name("fs.default.name"), "fs.defaultFS");
        assert_eq!(current_name("dfs.umaskmode"), "fs.permissions.umask-mode");
        assert_eq!(current_name("fs.defaultFS"), "fs.defaultFS");
        assert!(RENAMED.is_sorted());
        assert!(DEFAULTS.is_sorted());
        for (_, new) in RENAMED {
            assert_eq!(current_name(new), *new, "renamed twice");
        }
    }

    #[test]
    fn secrets_are_known_by_their_keys() {
        for key in [
            "ssl.server.keystore.password",
            "fs.s3a.secret.key",
            "fs.s3a.access.key",
            "fs.azure.account.key.x.blob",
            "x.credential",
            "dfs.adls.oauth2.refresh.token",
            "x.SECRET",
        ] {
            assert!(is_secret(key), "{key}");
        }
        for key in [
            "fs.defaultFS",
            "hadoop.security.authentication",
            "dfs.nameservices",
        ] {
            assert!(!is_secret(key), "{key}");
        }
    }
}
