#!/bin/sh
# Gets what the cluster tests run, beside a Rust tool chain: as root it installs missing packages
# (Debian, Ubuntu), else it names them; then it fetches Hadoop and Spark into .cache/. Does nothing the
# second time. The servers are started by the tests themselves.
set -eu
cd "$(dirname "$0")/.."
# Servers' programs are not on every user's path.
PATH="$PATH:/usr/sbin:/sbin"

missing=""
need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need java openjdk-17-jre-headless
need javac openjdk-17-jdk-headless
need mvn maven
need python3 python3-minimal
need setpriv util-linux
need unshare util-linux
need systemctl systemd
need ip iproute2
need krb5kdc krb5-kdc
need kadmin.local krb5-admin-server
need kinit krb5-user
python3 -m pip --version >/dev/null 2>&1 || missing="$missing python3-pip"
# hdfs-native loads it when it meets a Kerberos cluster.
ldconfig -p | grep -q 'libgssapi_krb5\.so\.2 ' || missing="$missing libgssapi-krb5-2"

if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "missing for the cluster tests; install these packages:$missing" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    # The release's own versions: an exact one would be gone after the next security update.
    # shellcheck disable=SC2086
    apt-get install -y -qq --no-install-recommends $missing ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; }
fi

python3 tests/hadoop/fetch.py 2.7 .cache
if [ "${STEPDOWN_TEST_HADOOP:-3.4}" = 3.4 ] && ! python3 tests/hadoop/fetch.py 3.4 .cache; then
    echo "where Maven reaches no repository, STEPDOWN_TEST_HADOOP=2.7 runs the tests on Hadoop 2.7" >&2
    exit 1
fi
for version in 3.5.9 4.3.0; do
    python3 tests/spark/fetch.py "$version" .cache
done
