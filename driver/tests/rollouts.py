"""A job on YARN that stepdown rolls out."""

import json
import shlex
import shutil
import tempfile
from pathlib import Path

from harness import (HERE, START_S, check, environment_of, settings_of_all, stepdown,
                     wait_until)
from queries import written_rows

# The one of docs/rollouts.md.
CONFIG = """
control = "{base}/control"

[jobs.clicks.stop]
backend = "driver"

[jobs.clicks.slots.blue]
checkpoints = ["{base}/clicks.blue"]
[jobs.clicks.slots.green]
checkpoints = ["{base}/clicks.green"]

[jobs.clicks.rollout]
strategy = "{strategy}"
two-writers = "accept"
start = ["{dir}/submit.sh"]
"""
SUBMIT = """#!/bin/sh
{exports}
exec "$SPARK_HOME/bin/spark-submit" {flags} \\
  --conf spark.stepdown.control="$STEPDOWN_CONTROL" \\
  --conf spark.stepdown.job="$STEPDOWN_JOB" --conf spark.stepdown.slot="$STEPDOWN_SLOT" \\
  ${{STEPDOWN_GO:+--conf spark.stepdown.go=control}} \\
  --conf spark.stepdown.rollout="$STEPDOWN_ROLLOUT_ID" \\
  --conf spark.stepdown.generation="$STEPDOWN_GENERATION" \\
  --conf spark.yarn.tags="$STEPDOWN_ROLLOUT_ID" \\
  {script} "$STEPDOWN_CHECKPOINT" {dir}/out
"""


class OnYarn:
    """Applications in cluster mode; their directory is left behind when a test fails."""

    def __init__(self, yarn, base=None):
        """`base` has the control directory, the markers in it, and the checkpoints; else the local one."""
        self.dir = Path(tempfile.mkdtemp(prefix="stepdown-driver-"))
        self.base = base or str(self.dir)
        self.config = self.dir / "stepdown.toml"
        self.slot, self.version = "green", 0
        conf, environment = yarn.settings("cluster")
        settings = settings_of_all(self.dir) | conf | {
            "spark.yarn.submit.waitAppCompletion": "false",
            "spark.yarn.maxAppAttempts": "1",
            # As long as the job may be held.
            "spark.yarn.am.waitTime": "600s",
        }
        flags = [word for key, value in settings.items() for word in ("--conf", f"{key}={value}")]
        exports = [f"export {key}={shlex.quote(str(value))}"
                   for key, value in (environment_of(yarn.home) | environment).items()]
        submit = self.dir / "submit.sh"
        submit.write_text(SUBMIT.format(dir=self.dir, exports="\n".join(exports), flags=shlex.join(flags),
                                        script=HERE / "rollout_job.py"))
        submit.chmod(0o755)
        stepdown("init", f"{self.base}/control")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            shutil.rmtree(self.dir)
        else:
            print(f"    left behind: {self.dir}")

    def checkpoint(self):
        """Of the slot that runs, or ran last."""
        return f"{self.base}/clicks.{self.slot}"

    def last_committed(self):
        return json.loads(stepdown("--json", "checkpoint", "inspect", self.checkpoint()))[
            "last_committed_batch"]

    def roll_out(self, strategy):
        """The next version takes over."""
        self.config.write_text(CONFIG.format(dir=self.dir, base=self.base, strategy=strategy))
        self.version += 1
        self.slot = "blue" if self.slot == "green" else "green"
        start = ["rollout", "start", "clicks", "--version", f"1.{self.version}"]
        said = stepdown("--config", self.config, "--json", *start)
        record = json.loads(said.splitlines()[-1])
        check(record["outcome"] == "rolled-out" and record["new"] == self.slot, f"{record}")

    def await_commits(self):
        """The job that runs does some more batches."""
        before = self.last_committed()
        wait_until(START_S, f"commits after {before} in {self.slot}",
                   lambda: self.last_committed() > before + 2)

    def stop(self):
        said = stepdown("--config", self.config, "--json", "stop", "clicks", "--slot", self.slot)
        check('"clean"' in said, f"not clean: {said}")

    def rows(self):
        """Lost, twice, and twice if no batch were known by its number."""
        copy = self.dir / f"copy-{self.version}"
        stepdown("checkpoint", "copy", "--full", "--replace", self.checkpoint(), copy)
        return written_rows(self.dir / "out", copy, "foreach", None)
