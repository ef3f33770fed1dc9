"""Starts real Spark with the driver kit, and looks at what it leaves behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
# Starts take 6 s on an idle machine; tests share it with others.
START_S = 300
END_S = 240


class Failed(Exception):
    pass


class TooLate(Failed):
    """Something did not come in time: it may only have been slow."""


def check(condition, what):
    if not condition:
        raise Failed(what)


def wait_until(seconds, what, look):
    """What `look` returns once that is true; it fails after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise TooLate(f"not within {seconds} s: {what}")


def kit_jar():
    (jar,) = (ROOT / "target/driver").glob("stepdown-driver-*.jar")
    return jar


def spark_home(version, *more):
    """Where that Spark is; or what it needs more, for YARN or Connect."""
    fetch = [sys.executable, str(ROOT / "tests/spark/fetch.py"), version, str(ROOT / ".cache"), *more]
    return Path(subprocess.run(fetch, check=True, capture_output=True, text=True).stdout.strip())


def program():
    return os.environ.get("STEPDOWN", str(ROOT / "target/debug/stepdown"))


def stepdown(*words, code=0):
    """What the program says; anything but this exit code fails."""
    done = subprocess.run([program(), *map(str, words)], capture_output=True, text=True, timeout=END_S)
    check(done.returncode == code, f"{words}: {done.returncode} {done.stdout}{done.stderr}")
    return done.stdout


def newest(directory):
    """The newest batch of a log; None if there is none."""
    if not directory.is_dir():
        return None
    return max((int(p.name) for p in directory.iterdir() if p.name.isdigit()), default=None)


def replace_block(page, begin, end, text):
    """Puts the text between two marks of a page."""
    before, rest = page.read_text().split(begin)
    after = rest.split(end)[1]
    new = page.with_suffix(".tmp")
    new.write_text(f"{before}{begin}\n{text}\n{end}{after}")
    new.rename(page)


def settings_of_all(directory, classes=()):
    """What every job is started with."""
    return {
        "spark.master": "local[2]",
        "spark.driver.memory": "700m",
        # Half of a short job's time is its start.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": str(directory / "warehouse"),
        "spark.plugins": "io.stepdown.StepdownPlugin",
        "spark.driver.extraClassPath": ":".join(map(str, (kit_jar(), *classes))),
        "spark.stepdown.interval": "100ms",
    }


def environment_of(home):
    """What every job has in its environment."""
    return {
        "PYTHONPATH": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_HOME": str(home / "pyspark"),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


def java_application(home, directory):
    """Compiles and packs the job in Java for this Spark; where its jar is."""
    jar, classes = directory / "clicks.jar", directory / "classes"
    classes.mkdir()
    source = HERE / "java-app/Clicks.java"
    subprocess.run(["javac", "-nowarn", "-cp", f"{home}/pyspark/jars/*", "-d", classes, source], check=True)
    subprocess.run(["jar", "--create", "--file", jar, "-C", classes, "."], check=True)
    return jar


class Job:
    """A job in a directory of its own: marker, control directory, checkpoints."""

    def __init__(self, home, script="job.py", args=(), conf=(), marker=True, control=True,
                 launcher="spark-submit", classes=(), environment=None, follows=None, below_run=False):
        """`follows` is the job in the other slot, whose directory it shares."""
        self.below_run = below_run
        self.home, self.follows = home, follows
        self.dir = follows.dir if follows else Path(tempfile.mkdtemp(prefix="stepdown-driver-"))
        slot = "green" if follows else "blue"
        self.log = self.dir / f"log-{slot}"
        self.control = self.dir / "control"
        self.markers = self.control / "markers"
        self.marker = self.markers / f"clicks.{slot}"
        self.status_file = self.control / f"status/clicks.{slot}.json"
        for name in ("markers", "status", "state/clicks"):
            (self.control / name).mkdir(parents=True, exist_ok=True)
        if marker:
            self.marker.touch()
        self.script, self.args, self.conf, self.launcher = script, args, dict(conf), launcher
        self.uses_control, self.classes, self.environment = control, classes, environment or {}
        self.launch()

    def start_again(self, conf=None):
        """After its end, on the same checkpoints; with other settings where some are given."""
        check(self.process.poll() is not None, "it still runs")
        if conf is not None:
            self.conf = dict(conf)
        self.marker.touch()
        self.launch()

    def launch(self):
        home = self.home
        settings = settings_of_all(self.dir, self.classes)
        if self.uses_control:
            settings["spark.stepdown.control"] = str(self.control)
        if self.follows:
            settings["spark.stepdown.slot"] = "green"
        settings.update(self.conf)
        flags = []
        for key, value in settings.items():
            flags += ["--conf", f"{key}={value}".replace("{dir}", str(self.dir))]
        script = self.words()
        environment = os.environ | environment_of(home) | self.environment
        if self.launcher == "spark-submit":
            command = [str(home / "pyspark/bin/spark-submit"), *flags, *script]
        else:
            command = [sys.executable, *script]
            quoted = " ".join(f"'{flag}'" for flag in flags)
            environment["PYSPARK_SUBMIT_ARGS"] = f"{quoted} pyspark-shell"
        if self.below_run:
            stepdown("init", self.control)
            run = ["--config", self.write_config(), "run", "--job", "clicks", "--kill-with-parent"]
            command = [program(), *map(str, run), "--", *command]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                ["nice", "-n", "10", *command], env=environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, cwd=self.dir, start_new_session=True)

    def words(self):
        """What is started, after the settings."""
        return [str(HERE / self.script), str(self.dir), *map(str, self.args)]

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.follows:
            return
        if kind is None:
            shutil.rmtree(self.dir)
        else:
            print(f"    left behind: {self.dir}")

    def log_has(self, text):
        return text in self.log.read_text(errors="replace")

    def is_running(self):
        check(self.process.poll() is None, f"the job ended: {self.process.returncode}")
        return True

    def await_log(self, text):
        wait_until(START_S, f"'{text}' in the log", lambda: self.log_has(text) or not self.is_running())

    def notes(self):
        """(time, query, what, batch) of each line that the job left."""
        file = self.dir / "batches"
        lines = file.read_text().splitlines() if file.exists() else []
        words = [line.split() for line in lines]
        return [(float(w[0]), w[1], w[2], int(w[3]) if w[3:] and w[3].isdigit() else None)
                for w in words]

    def await_batch(self, number=2, query="0"):
        """Waits until a batch of that number or a later one has just begun; which."""
        def look():
            self.is_running()
            mine = [n for n in self.notes() if n[1] == query and n[2] in ("begin", "end")]
            last = mine[-1] if mine else None
            return last if last and last[2] == "begin" and last[3] >= number else None
        return wait_until(START_S, f"batch {number} of query {query}", look)[3]

    def await_commit(self, number, query=0):
        def look():
            self.is_running()
            committed = self.last_committed(query)
            return committed is not None and committed >= number
        wait_until(START_S, f"commit {number}", look)

    def await_end(self, seconds=END_S):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TooLate(f"it did not end within {seconds} s") from None

    def java_pid(self):
        """The JVM of the job where spark-submit is it."""
        return self.process.pid

    def status(self):
        return json.loads(self.status_file.read_text()) if self.status_file.exists() else {}

    def await_phase(self, phase):
        wait_until(START_S, f"phase {phase}",
                   lambda: self.status().get("phase") == phase or not self.is_running())
        return self.status()

    def check_clean(self, queries=1):
        """Last planned == last committed, and every batch that began has ended."""
        for index in range(queries):
            checkpoint = self.dir / f"checkpoint-{index}"
            planned, committed = newest(checkpoint / "offsets"), newest(checkpoint / "commits")
            check(planned is not None, f"query {index} planned nothing")
            check(planned == committed, f"dirty: query {index} planned {planned}, committed {committed}")
        begun = {(n[1], n[3]) for n in self.notes() if n[2] == "begin"}
        ended = {(n[1], n[3]) for n in self.notes() if n[2] == "end"}
        check(begun == ended, f"batches without an end: {begun - ended}")

    def last_committed(self, query=0):
        return newest(self.dir / f"checkpoint-{query}/commits")

    def write_config(self, control=None):
        """A configuration of stepdown for this job, which may plan a batch until a second after a request."""
        config = self.dir / "stepdown.toml"
        config.write_text(f"""
control = "{control or self.control}"
[jobs.clicks]
checkpoints = ["{self.dir}/checkpoint-0"]
[jobs.clicks.stop]
backend = "driver"
boundary-reaction = "1s"
""")
        return config

    def write_go(self, rollout, generation, path=None):
        go = {"format": 1, "kind": "go", "write_id": str(uuid.uuid4()), "rollout_id": rollout,
              "generation": generation}
        path = path or self.control / "state/clicks/go.blue.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(go))
        temporary.rename(path)


def described_attempt(pid):
    """What stepdown itself would call that process."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    host = os.uname().nodename
    return {
        "kind": "process",
        "host": host if namespace == "pid:[4026531836]" else f"{host}/{namespace}",
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid": pid,
        "start_ticks": int(re.sub(r".*\) ", "", stat, flags=re.S).split()[19]),
    }


class JavaJob(Job):
    """The job in Java."""

    def words(self):
        return ["--class", "Clicks", str(java_application(self.home, self.dir)), str(self.dir), *map(str, self.args)]
