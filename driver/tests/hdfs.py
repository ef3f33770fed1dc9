"""A NameNode and a DataNode on free loopback ports."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import ROOT, wait_until

NAME_NODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
DATA_NODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"
# What Hadoop 3.4's own scripts give Java 17.
JAVA = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
        "--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.util=ALL-UNNAMED",
        "--add-opens=java.base/java.nio=ALL-UNNAMED", "--add-opens=java.base/java.net=ALL-UNNAMED",
        "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Hdfs:
    def __init__(self):
        version = os.environ.get("STEPDOWN_TEST_HADOOP", "3.4")
        fetch = [sys.executable, str(ROOT / "tests/hadoop/fetch.py"), version, str(ROOT / ".cache")]
        home = subprocess.run(fetch, check=True, capture_output=True, text=True).stdout.split()[-1]
        self.dir = Path(tempfile.mkdtemp(prefix="stepdown-hdfs-"))
        self.address = f"127.0.0.1:{free_port()}"
        self.uri = f"hdfs://{self.address}"
        self.class_path = f"{self.dir}:{home}/jars/*:{home}"
        site = {
            "fs.defaultFS": self.uri,
            "hadoop.tmp.dir": self.dir / "tmp",
            "dfs.namenode.rpc-address": self.address,
            "dfs.namenode.http-address": "127.0.0.1:0",
            "dfs.namenode.name.dir": f"file://{self.dir}/name",
            "dfs.namenode.safemode.extension": 0,
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.datanode.data.dir": f"file://{self.dir}/data",
            "dfs.datanode.address": "127.0.0.1:0",
            "dfs.datanode.ipc.address": "127.0.0.1:0",
            "dfs.datanode.http.address": "127.0.0.1:0",
            "dfs.replication": 1,
        }
        lines = [f"<property><name>{k}</name><value>{v}</value></property>" for k, v in site.items()]
        for name in ("core-site.xml", "hdfs-site.xml"):
            (self.dir / name).write_text(f"<configuration>{''.join(lines)}</configuration>")
        shutil.copy(ROOT / "tests/hadoop/log4j.properties", self.dir)
        self.running = {}

    def __enter__(self):
        log = open(self.dir / "format.log", "w")
        format_it = [*JAVA, "-cp", self.class_path, NAME_NODE, "-format", "-nonInteractive"]
        subprocess.run(format_it, check=True, stdout=log, stderr=log)
        self.start_name_node()
        self.start(DATA_NODE)
        report = self.dir / "data/current"
        wait_until(120, "the DataNode has its block pool", lambda: list(report.glob("BP-*")))
        return self

    def __exit__(self, *_):
        for server in self.running.values():
            server.kill()
            server.wait()
        shutil.rmtree(self.dir)

    def start(self, server):
        log = open(self.dir / f"{server.rpartition('.')[2]}.log", "a")
        command = ["nice", "-n", "10", *JAVA, "-cp", self.class_path, server]
        self.running[server] = subprocess.Popen(command, stdout=log, stderr=log)

    def start_name_node(self):
        self.start(NAME_NODE)
        host, port = self.address.split(":")
        wait_until(120, "the NameNode listens", lambda: not socket.socket().connect_ex((host, int(port))))

    def kill_name_node(self):
        self.running[NAME_NODE].kill()
        self.running[NAME_NODE].wait()

    def hang(self):
        self.running[NAME_NODE].send_signal(signal.SIGSTOP)

    def resume(self):
        self.running[NAME_NODE].send_signal(signal.SIGCONT)
