"""A job for tests. Appends a line to its log for each thing that happens to it.

Arguments: the log, then any of
  drain=S   seconds from a request to the end (0)
  code=N    exit code after a request (0)
  deaf=1    requests are noted and change nothing
  lives=S   ends by itself after so many seconds, with the code dies=N (1)
  child=S   has a child in its process group that ends S seconds after it, deaf to all requests
  reads=1   reads lines from its input and notes them
  most=S    ends after so many seconds at the latest (150)
"""

import os
import signal
import sys
import threading
import time

log = sys.argv[1]
options = dict(argument.split("=", 1) for argument in sys.argv[2:])
# Whatever becomes of the test: nothing of it runs for ever.
deadline = time.monotonic() + float(options.get("most", 150))


def note(text):
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, (text + "\n").encode())
    os.close(file)


def seconds(name, default):
    return float(options.get(name, default))


requests = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
caught = requests | {signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
signal.pthread_sigmask(signal.SIG_BLOCK, caught)


def next_signal(until):
    """The next signal, or None at that time."""
    while (left := min(until, deadline) - time.monotonic()) > 0:
        if got := signal.sigtimedwait(caught, left):
            return signal.Signals(got.si_signo)
    return None


def linger(after):
    parent = os.getppid()
    until = deadline
    while (left := until - time.monotonic()) > 0:
        if until == deadline and os.getppid() != parent:
            until = time.monotonic() + after
            continue
        if got := signal.sigtimedwait(caught, min(left, 0.02)):
            note("child " + signal.Signals(got.si_signo).name[3:])
    note("child end")
    os._exit(0)


def end(code):
    note(f"end {code}")
    os._exit(code)


def read():
    for line in sys.stdin:
        note("read " + line.rstrip("\n"))
    note("read all")


if "child" in options and os.fork() == 0:
    linger(seconds("child", 0))
if "reads" in options:
    threading.Thread(target=read, daemon=True).start()
note(f"start {os.getpid()}")
own_end = time.monotonic() + seconds("lives", 1e6)
while True:
    got = next_signal(own_end)
    if got is None:
        end(int(options.get("dies", 1)))
    note(got.name[3:])
    if got in requests and "deaf" not in options:
        break
drained = time.monotonic() + seconds("drain", 0)
while got := next_signal(drained):
    note(got.name[3:])
end(int(options.get("code", 0)))
