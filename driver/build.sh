#!/bin/sh
# Compiles the driver kit against the jars of PySpark and says where the jar is. Needs a JDK, 9 or newer;
# the jar runs on Java 8.
set -eu
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain -- driver 2>/dev/null)" ] || revision="$revision-dirty"
# The older of the Sparks that every test run fetches: what it lacks cannot be used by mistake. What 3.3 lacks
# besides, the tests on it tell.
spark=$(python3 tests/spark/fetch.py 3.5.9 .cache)

out=${STEPDOWN_DRIVER_OUT:-target/driver}
classes=$out/classes
jar=$out/stepdown-driver-$version.jar
rm -rf "$classes"
mkdir -p "$classes/io/stepdown"
javac --release 8 -Xlint:all,-options,-classfile,-path,-serial -Werror -cp "$spark/pyspark/jars/*" -d "$classes" \
    driver/src/io/stepdown/*.java
printf 'version=%s\nrevision=%s\n' "$version" "$revision" >"$classes/io/stepdown/build.properties"
printf 'Implementation-Title: stepdown driver kit\nImplementation-Version: %s\nImplementation-Revision: %s\n' \
    "$version" "$revision" >"$out/manifest"
jar --create --file "$jar" --manifest "$out/manifest" -C "$classes" io

# What the tests put beside it.
for tests in java java-missing; do
    rm -rf "$out/test-$tests"
    mkdir -p "$out/test-$tests"
    find "driver/tests/$tests" -name '*.java' -exec \
        javac --release 8 -Xlint:-options -cp "$classes:$spark/pyspark/jars/*" -d "$out/test-$tests" {} +
done
echo "$jar"
