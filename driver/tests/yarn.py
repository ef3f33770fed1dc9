"""A ResourceManager and a NodeManager, and Spark with its part for YARN."""

import json
import os
import shutil
import urllib.request
from pathlib import Path

from harness import ROOT, START_S, check, kit_jar, spark_home, wait_until
from servers import Servers, await_port, free_address

RESOURCE_MANAGER = "org.apache.hadoop.yarn.server.resourcemanager.ResourceManager"
NODE_MANAGER = "org.apache.hadoop.yarn.server.nodemanager.NodeManager"

# States of an application that has ended.
OVER = ("FINISHED", "FAILED", "KILLED")


class Yarn(Servers):
    def __init__(self, home):
        super().__init__("hadoop", "yarn", "stepdown-yarn-")
        self.home = self.spark_with_yarn(home)
        self.web = free_address()
        java = Path(shutil.which("java")).resolve().parents[1]
        self.environment = {"HADOOP_CONF_DIR": str(self.dir), "YARN_CONF_DIR": str(self.dir),
                            "JAVA_HOME": str(java)}
        manager = {name: free_address() for name in (
            "address", "scheduler.address", "resource-tracker.address", "admin.address")}
        self.address = manager["address"]
        site = {f"yarn.resourcemanager.{name}": value for name, value in manager.items()} | {
            "fs.defaultFS": "file:///",
            "hadoop.tmp.dir": self.dir / "tmp",
            "yarn.resourcemanager.hostname": "127.0.0.1",
            "yarn.resourcemanager.bind-host": "127.0.0.1",
            "yarn.resourcemanager.webapp.address": self.web,
            "yarn.resourcemanager.scheduler.class":
                "org.apache.hadoop.yarn.server.resourcemanager.scheduler.fifo.FifoScheduler",
            "yarn.nodemanager.hostname": "127.0.0.1",
            "yarn.nodemanager.bind-host": "127.0.0.1",
            "yarn.nodemanager.address": free_address(),
            "yarn.nodemanager.localizer.address": free_address(),
            "yarn.nodemanager.collector-service.address": free_address(),
            "yarn.nodemanager.webapp.address": free_address(),
            "yarn.nodemanager.local-dirs": self.dir / "local",
            "yarn.nodemanager.log-dirs": self.dir / "containers",
            "yarn.nodemanager.disk-health-checker.enable": "false",
            "yarn.nodemanager.vmem-check-enabled": "false",
            "yarn.nodemanager.pmem-check-enabled": "false",
            "yarn.nodemanager.resource.memory-mb": 8192,
            "yarn.nodemanager.resource.cpu-vcores": 8,
            "yarn.scheduler.minimum-allocation-mb": 128,
            # So that logs of containers are still there when a test looks.
            "yarn.nodemanager.delete.debug-delay-sec": 3600,
        }
        self.configure(site, ("core-site.xml", "yarn-site.xml"))

    def spark_with_yarn(self, common):
        """The Spark of all tests and the one jar that it lacks for YARN."""
        (jar,) = spark_home(common.name.split("-")[1], "yarn").glob("*.jar")
        home = self.dir / common.name
        home.mkdir()
        for entry in common.iterdir():
            if entry.name != "pyspark":
                (home / entry.name).symlink_to(entry.resolve())
        (home / "pyspark/jars").mkdir(parents=True)
        for entry in (common / "pyspark").iterdir():
            if entry.name != "jars":
                (home / "pyspark" / entry.name).symlink_to(entry.resolve())
        for entry in [*(common / "pyspark/jars").iterdir(), jar]:
            (home / "pyspark/jars" / entry.name).symlink_to(entry.resolve())
        return home

    def bring_up(self):
        environment = dict(os.environ, **self.environment)
        self.start(RESOURCE_MANAGER, environment=environment)
        await_port(self.web, "the ResourceManager")
        self.start(NODE_MANAGER, environment=environment)
        wait_until(120, "a node runs", lambda: self.ask("nodes").get("nodes") and
                   self.ask("nodes")["nodes"]["node"][0]["state"] == "RUNNING")

    def __exit__(self, *error):
        try:
            # Containers outlive the NodeManager that started them.
            for application in self.applications():
                if application["state"] not in OVER:
                    self.end(application)
        finally:
            super().__exit__(*error)

    def end(self, application):
        url = f"http://{self.web}/ws/v1/cluster/apps/{application['id']}/state"
        asked = urllib.request.Request(url, b'{"state": "KILLED"}', method="PUT",
                                       headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=20):
            pass
        wait_until(60, f"{application['id']} ended", lambda: self.ask(
            f"apps/{application['id']}")["app"]["state"] in OVER)

    def ask(self, what):
        with urllib.request.urlopen(f"http://{self.web}/ws/v1/cluster/{what}", timeout=20) as answer:
            return json.load(answer)

    def applications(self):
        """All applications, as the ResourceManager describes them, oldest first."""
        found = (self.ask("apps").get("apps") or {}).get("app") or []
        return sorted(found, key=lambda application: application["id"])

    def application(self):
        """The newest one; None before there is one."""
        return (self.applications() or [None])[-1]

    def await_application(self, state):
        return wait_until(START_S, f"the application is {state}", lambda: (
            self.application() if (self.application() or {}).get("state") == state else None))

    def check_succeeded(self, application):
        """It ended by itself and was not started again."""
        check(application["finalStatus"] == "SUCCEEDED", f"{application}")
        check(len(self.attempts(application)) == 1, "there was a second attempt")

    def attempts(self, application):
        return self.ask(f"apps/{application['id']}/appattempts")["appAttempts"]["appAttempt"]

    def settings(self, deploy_mode):
        """What a job needs beside what all jobs have, and its environment."""
        in_container = {
            # The jar's name in the container's directory.
            "spark.driver.extraClassPath": kit_jar().name,
        } if deploy_mode == "cluster" else {}
        return in_container | {
            "spark.jars": str(kit_jar()),
            "spark.submit.pyFiles": str(ROOT / "driver/tests/queries.py"),
            "spark.master": "yarn",
            "spark.submit.deployMode": deploy_mode,
            "spark.yarn.jars": f"local:{self.home}/pyspark/jars/*",
            "spark.yarn.stagingDir": f"file://{self.dir}/staging",
            "spark.executor.instances": "1",
            "spark.executor.memory": "500m",
            "spark.yarn.am.memory": "500m",
            "spark.yarn.submit.waitAppCompletion": "true",
            "spark.yarn.report.interval": "200ms",
            # Containers have the environment of the NodeManager; the name of the host need not be a
            # loopback address.
            "spark.yarn.appMasterEnv.SPARK_LOCAL_IP": "127.0.0.1",
            "spark.executorEnv.SPARK_LOCAL_IP": "127.0.0.1",
        }, {**self.environment, "PYSPARK_ARCHIVES_PATH": f"local:{self.home}"}
