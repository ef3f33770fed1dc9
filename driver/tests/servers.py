"""Servers on free loopback ports."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, check, wait_until

# What Hadoop 3.4's own scripts give Java 17; Spark's too, but for drivers of its own cluster manager before 4.0.
OPENS = ["--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.util=ALL-UNNAMED",
         "--add-opens=java.base/java.nio=ALL-UNNAMED", "--add-opens=java.base/java.net=ALL-UNNAMED",
         "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED"]
JAVA = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *OPENS]


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def await_port(address, what):
    host, port = address.split(":")

    def is_open():
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0
    wait_until(120, f"{what} listens", is_open)


def fetched(product, release):
    """Where the jars are, which are fetched first if need be; it fails where they are not to be had."""
    fetch = [sys.executable, str(ROOT / f"tests/{product}/fetch.py"), release, str(ROOT / ".cache")]
    done = subprocess.run(fetch, capture_output=True, text=True)
    check(done.returncode == 0, f"{product} {release}: {done.stderr}")
    return done.stdout.split()[-1]


class Servers:
    """Processes with a configuration directory of their own."""

    def __init__(self, product, release, prefix):
        home = fetched(product, release)
        self.dir = Path(tempfile.mkdtemp(prefix=prefix))
        self.class_path = f"{self.dir}:{home}/jars/*:{home}"
        self.running = {}

    def configure(self, site, names):
        shutil.copy(ROOT / "tests/hadoop/log4j.properties", self.dir)
        lines = [f"<property><name>{k}</name><value>{v}</value></property>" for k, v in site.items()]
        for name in names:
            (self.dir / name).write_text(f"<configuration>{''.join(lines)}</configuration>")

    def __enter__(self):
        try:
            self.bring_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for server in self.running.values():
            server.kill()
            server.wait()
        shutil.rmtree(self.dir)

    def start(self, server, *args, environment=None):
        log = open(self.dir / f"{server.rpartition('.')[2]}.log", "a")
        command = ["nice", "-n", "10", *JAVA, "-cp", self.class_path, server, *args]
        self.running[server] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def kill(self, server):
        self.running[server].kill()
        self.running[server].wait()

    def hang(self, server):
        self.running[server].send_signal(signal.SIGSTOP)

    def resume(self, server):
        self.running[server].send_signal(signal.SIGCONT)
