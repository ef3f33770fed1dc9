"""A Master and a Worker of Spark's own cluster manager."""

import json
import os
import tempfile
import urllib.request
from pathlib import Path

from harness import kit_jar, wait_until
from servers import OPENS, Servers, await_port, free_address

MASTER = "org.apache.spark.deploy.master.Master"
WORKER = "org.apache.spark.deploy.worker.Worker"


class Standalone(Servers):
    def __init__(self, home):
        self.dir = Path(tempfile.mkdtemp(prefix="stepdown-standalone-"))
        self.class_path = f"{home}/pyspark/jars/*"
        self.running = {}
        self.address, self.web = free_address(), free_address()
        # PySpark lacks the file by which a Worker knows that it is a release.
        (scala,) = Path(home, "pyspark/jars").glob("scala-library-*.jar")
        version = ".".join(scala.stem.split("-")[-1].split(".")[:2])
        self.environment = dict(os.environ, SPARK_LOCAL_IP="127.0.0.1", SPARK_HOME=f"{home}/pyspark",
                                SPARK_SCALA_VERSION=version)

    def bring_up(self):
        host, port = self.address.split(":")
        ui = self.web.split(":")[1]
        self.start(MASTER, "--host", host, "--port", port, "--webui-port", ui, environment=self.environment)
        await_port(self.web, "the Master")
        of_worker = ["--host", host, "--webui-port", "0", "--cores", "2", "--memory", "2g",
                     "--work-dir", str(self.dir / "work"), f"spark://{self.address}"]
        self.start(WORKER, *of_worker, environment=self.environment)
        wait_until(120, "a worker is there", self.has_worker)

    def has_worker(self):
        try:
            return self.ask()["aliveworkers"] == 1
        # Its pages come one after the other.
        except (OSError, ValueError):
            return False

    def ask(self):
        with urllib.request.urlopen(f"http://{self.web}/json/", timeout=20) as answer:
            return json.load(answer)

    def settings(self, deploy_mode="client"):
        """What a job needs beside what all jobs have."""
        return {
            "spark.submit.deployMode": deploy_mode,
            "spark.driver.extraJavaOptions": " ".join(OPENS),
            # So that spark-submit ends when the driver does.
            "spark.standalone.submit.waitAppCompletion": "true",
            "spark.master": f"spark://{self.address}",
            # Executors load plugins too.
            "spark.jars": str(kit_jar()),
            "spark.executor.memory": "500m",
            "spark.executor.cores": "1",
        }
