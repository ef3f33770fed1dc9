#!/bin/sh
# A sample job. It behaves like the driver of a streaming query, as far as a watcher can see: it plans
# a batch (offsets/N), works on it, commits it (commits/N), again and again; every file appears whole.
# On SIGTERM it finishes its batch, commits it and ends with exit code 0.
#
# usage: job.sh CHECKPOINT PID-FILE [SECONDS A BATCH]
set -eu
checkpoint=$1 pid_file=$2 seconds=${3:-3}

say() { echo "job   | $*"; }

publish() { # FILE LINE...: written beside its place, then renamed
    file=$1
    shift
    printf '%s\n' "$@" >"$(dirname "$file")/.$(basename "$file").tmp"
    mv "$(dirname "$file")/.$(basename "$file").tmp" "$file"
}

stopping=no
# A shell runs this between two commands, so a batch that has begun goes on.
trap 'stopping=yes; say "SIGTERM: finishing the batch, then ending"' TERM
# Ctrl-C at the terminal is for the demo, not for the job.
trap '' INT

mkdir -p "$checkpoint/offsets" "$checkpoint/commits"
[ -f "$checkpoint/metadata" ] || publish "$checkpoint/metadata" \
    "{\"id\":\"$(cat /proc/sys/kernel/random/uuid)\"}"

# After a restart it goes on where the checkpoint ends.
batch=$(find "$checkpoint/commits" -name '[0-9]*' | wc -l)
publish "$pid_file" "$$"
while [ "$stopping" = no ]; do
    publish "$checkpoint/offsets/$batch" v1 \
        "{\"batchWatermarkMs\":0,\"batchTimestampMs\":$(date +%s)000,\"conf\":{}}" \
        "{\"offset\":$((batch * 100 + 100))}"
    say "batch $batch planned, working"
    sleep "$seconds"
    publish "$checkpoint/commits/$batch" v1 '{"nextBatchWatermarkMs":0}'
    say "batch $batch committed"
    batch=$((batch + 1))
done
rm -f "$pid_file"
say "ended, exit code 0"
