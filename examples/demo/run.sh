#!/bin/sh
# The demo behind `make run`: a sample job, a watcher, a marker for you to remove.
#
# Ctrl-C ends it and what it started. Its data is in target/demo, made anew each time.
#   DEMO_REMOVE_AFTER=10     it removes the marker itself after so many seconds
#   STEPDOWN=PATH            a stepdown that is built already
#   DEMO_DIR=DIR             another place for its data; what is there is lost
set -eu
cd "$(dirname "$0")/../.."
demo=${DEMO_DIR:-$PWD/target/demo}
patience=15m

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$(printf '\033[1m') plain=$(printf '\033[0m')
else
    bold='' plain=''
fi
say() { printf '%s\n' "$bold$*$plain"; }
show() { # COMMAND...: as one would type it, with what it prints
    say "\$ stepdown $*"
    "$stepdown" "$@"
}
await() { # COMMAND...: until it succeeds, ten seconds at most
    waits=0
    until "$@" || [ "$waits" -ge 100 ]; do
        waits=$((waits + 1))
        sleep 0.1
    done
}
# Whether the process of a pid file is one of a demo in this directory: numbers are used again.
lives() { # PID-FILE
    [ -f "$1" ] && grep -qsaF "STEPDOWN_CONFIG=$demo/" "/proc/$(cat "$1")/environ"
}
ended() { ! lives "$1"; }
end() { # PID-FILE
    lives "$1" || return 0
    kill -TERM "$(cat "$1")" 2>/dev/null || return 0
    await ended "$1"
}
end_all() {
    end "$demo/remover.pid"
    end "$demo/wait.pid"
    end "$demo/clicks.pid"
    end "$demo/watch.pid"
}
clean_up() {
    trap '' INT TERM
    end_all
    rm -f "$demo/demo.pid"
}

if [ -f "$demo/demo.pid" ] && grep -qsaF run.sh "/proc/$(cat "$demo/demo.pid")/cmdline"; then
    echo "a demo is running already, as process $(cat "$demo/demo.pid")" >&2
    exit 1
fi

if [ -z "${STEPDOWN:-}" ]; then
    say "Building stepdown (the first time takes some minutes) ..."
    cargo build --quiet --bin stepdown
    STEPDOWN=${CARGO_TARGET_DIR:-target}/debug/stepdown
fi
case $STEPDOWN in
*/*) stepdown=$(cd "$(dirname "$STEPDOWN")" && pwd)/$(basename "$STEPDOWN") ;;
*) stepdown=$(command -v "$STEPDOWN") ;;
esac

# What a demo left that was killed.
end_all
rm -rf "$demo"
mkdir -p "$demo"
echo "$$" >"$demo/demo.pid"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP
sed "s|@DEMO@|$demo|" examples/demo/stepdown.toml >"$demo/stepdown.toml"
# Found by every stepdown below, without --config.
export STEPDOWN_CONFIG="$demo/stepdown.toml"
unset STEPDOWN_CONTROL STEPDOWN_LOG

echo
say "1. A control directory, for markers and messages"
show init

echo
say "2. A job, as a scheduler would start it: it commits a batch every 3 seconds"
examples/demo/job.sh "$demo/checkpoint" "$demo/clicks.pid" 3 &
await test -f "$demo/clicks.pid"

echo
say "3. Its marker: a file that says \"this job should be running\""
show marker touch --job clicks

echo
say "4. The watcher (its whole log is in target/demo/watch.log)"
say "\$ stepdown watch"
# Two of these end by themselves, when the watcher does.
mkfifo "$demo/log"
tee "$demo/watch.log" <"$demo/log" | sed -u 's/^[^ ]*T\([0-9:]*\)[^ ]* /watch | \1/; s/slot{[^}]*}: //' &
"$stepdown" --color never watch 2>"$demo/log" &
echo "$!" >"$demo/watch.pid"
await grep -qs ' armed marker=' "$demo/watch.log"

echo
say "Now it is your turn. In another terminal:"
echo
echo "    rm $demo/control/markers/clicks.blue"
echo
if [ -n "${DEMO_REMOVE_AFTER:-}" ]; then
    echo "(or wait: DEMO_REMOVE_AFTER removes it in $DEMO_REMOVE_AFTER s)"
    sh -c 'sleep "$1" && rm "$2"' remover \
        "$DEMO_REMOVE_AFTER" "$demo/control/markers/clicks.blue" &
    echo "$!" >"$demo/remover.pid"
elif [ ! -t 0 ] || [ ! -t 1 ]; then
    echo "(there is no terminal here: DEMO_REMOVE_AFTER=10 make run removes it itself after 10 s)"
fi
echo "(Ctrl-C ends the demo; it ends by itself in $patience)"
echo

# In the background, so that Ctrl-C is not kept waiting.
"$stepdown" wait clicks --until stopped --timeout "$patience" >"$demo/stopped" &
echo "$!" >"$demo/wait.pid"
wait "$!" && code=0 || code=$?
if [ "$code" -ne 0 ]; then
    exit "$code"
fi

sleep 0.5
echo
say "The job is stopped, and this is how (\"stepdown wait clicks --until stopped\" waited for it):"
cat "$demo/stopped"
echo
say "Clean means: the last batch that was planned is committed. The receipt says so, and stays:"
receipt=$(find "$demo/control/state/clicks/receipts" -name 'blue-*.json')
echo "\$ cat $receipt"
cat "$receipt"
echo
show status clicks
