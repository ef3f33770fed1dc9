"""A server of Spark Connect, and clients of it."""

import os
import subprocess
import sys

from harness import END_S, HERE, Job, environment_of, spark_home
from servers import free_address

SERVER = "org.apache.spark.sql.connect.service.SparkConnectServer"


def jars_of_connect(home):
    return tuple(of_connect(home).glob("*.jar"))


def of_connect(home):
    """What Spark's own distribution has, and the one of all tests lacks."""
    return spark_home(home.name.split("-")[1], "connect")


def python_path(home):
    """Of the Python workers of a server too: a `foreachBatch` is a client of it."""
    return {"PYTHONPATH": os.pathsep.join(map(str, (home, of_connect(home), HERE)))}


def environment_of_client(home, remote):
    return python_path(home) | {"SPARK_REMOTE": remote}


class ConnectServer(Job):
    """As `start-connect-server.sh` starts it, with the kit; its clients' queries are in its directory."""

    def __init__(self, home):
        self.address = free_address()
        super().__init__(home, environment=python_path(home), classes=jars_of_connect(home), conf={
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": self.address.split(":")[1],
            "spark.stepdown.job": "clicks",
        })

    def words(self):
        return ["--class", SERVER, "spark-internal"]

    def await_client(self, client):
        """What its exit code is."""
        try:
            return client.wait(END_S)
        finally:
            client.kill()

    def start_client(self, *args):
        remote = environment_of_client(self.home, f"sc://{self.address}")
        with open(self.dir / "log-client", "a") as log:
            return subprocess.Popen([sys.executable, HERE / "job.py", self.dir, *map(str, args)],
                                    env=os.environ | environment_of(self.home) | remote,
                                    stdout=log, stderr=log, stdin=subprocess.DEVNULL)
