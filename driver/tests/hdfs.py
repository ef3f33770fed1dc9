"""A NameNode and a DataNode."""

import os
import subprocess

from harness import wait_until
from servers import JAVA, Servers, await_port, free_address

NAME_NODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
DATA_NODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"


class Hdfs(Servers):
    def __init__(self):
        super().__init__("hadoop", os.environ.get("STEPDOWN_TEST_HADOOP", "3.4"), "stepdown-hdfs-")
        self.address = free_address()
        self.uri = f"hdfs://{self.address}"
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
        self.configure(site, ("core-site.xml", "hdfs-site.xml"))

    def bring_up(self):
        log = open(self.dir / "format.log", "w")
        format_it = [*JAVA, "-cp", self.class_path, NAME_NODE, "-format", "-nonInteractive"]
        subprocess.run(format_it, check=True, stdout=log, stderr=log)
        self.start_name_node()
        self.start(DATA_NODE)
        report = self.dir / "data/current"
        wait_until(120, "the DataNode has its block pool", lambda: list(report.glob("BP-*")))

    def start_name_node(self):
        self.start(NAME_NODE)
        await_port(self.address, "the NameNode")

    def kill_name_node(self):
        self.kill(NAME_NODE)

    def hang_name_node(self):
        self.hang(NAME_NODE)

    def resume_name_node(self):
        self.resume(NAME_NODE)
