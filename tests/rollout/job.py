#!/usr/bin/env python3
"""A job as a rollout sees one: a status file as the driver kit writes it, a checkpoint as Spark does.

    job.py SINK [--batch SECONDS] [--warm-up SECONDS] [--fail WHEN [--only SLOT]] [--deaf]

Everything else comes from the environment that a start command gets: STEPDOWN_JOB, _SLOT, _MARKER,
_CHECKPOINTS, _CONTROL, _GO, _ROLLOUT_ID, _GENERATION, _VERSION. Paths are local.

Batch N has the rows 10 N to 10 N + 9. SINK gets a line for each batch that is written: query id, batch,
first and last row, slot, pid. A lock beside each checkpoint shows a second writer, which is noted in
SINK.violations. --fail start|held|planned|committed ends the process by itself at that place. --deaf takes
no notice of its marker, nor of SIGTERM. --mute waits for its go without a word, as a start script does.
"""

import argparse
import fcntl
import json
import os
import signal
import sys
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path


def path_of(uri):
    return Path(uri.removeprefix("file://"))


def attempt():
    fields = Path("/proc/self/stat").read_text().rsplit(") ", 1)[1].split()
    return {
        "kind": "process",
        "host": os.uname().nodename,
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid": os.getpid(),
        "start_ticks": int(fields[19]),
    }


def publish(path, text):
    temporary = path.with_name(f".{path.name}.{uuid.uuid4()}.tmp")
    temporary.write_text(text)
    os.rename(temporary, path)


class Job:
    def __init__(self, args):
        self.args = args
        env = os.environ
        self.job, self.slot = env["STEPDOWN_JOB"], env["STEPDOWN_SLOT"]
        self.marker = path_of(env["STEPDOWN_MARKER"])
        self.control = path_of(env["STEPDOWN_CONTROL"])
        self.checkpoints = [path_of(uri) for uri in env["STEPDOWN_CHECKPOINTS"].split("\n") if uri]
        self.rollout, self.generation = env.get("STEPDOWN_ROLLOUT_ID", ""), env.get("STEPDOWN_GENERATION", "")
        self.attempt = attempt()
        self.seen = False

    def say(self, phase):
        status = {
            "format": 1, "kind": "status", "write_id": str(uuid.uuid4()),
            "job": self.job, "slot": self.slot, "attempt": self.attempt, "phase": phase,
            "written_at": datetime.now(timezone.utc).isoformat().replace("+00:00", "Z"),
        }
        if self.rollout:
            status["rollout_id"], status["generation"] = self.rollout, int(self.generation or 0)
        publish(self.control / "status" / f"{self.job}.{self.slot}.json", json.dumps(status))

    def fail_at(self, place):
        if self.args.fail == place and self.args.only in (None, self.slot):
            os._exit(9)

    def is_asked(self):
        if self.args.deaf:
            return False
        if self.marker.exists():
            self.seen = True
            return False
        if not self.seen:
            return False
        time.sleep(0.02)
        return not self.marker.exists()

    def await_go(self):
        go = os.environ.get("STEPDOWN_GO")
        if not go:
            return True
        if not self.args.mute:
            self.say("held")
        self.fail_at("held")
        while True:
            try:
                said = json.loads(path_of(go).read_text())
                if said["rollout_id"] == self.rollout and str(said["generation"]) == self.generation:
                    return True
            except (OSError, ValueError, KeyError):
                pass
            if self.is_asked():
                return False
            time.sleep(0.02)

    def open(self, checkpoint):
        lock = open(checkpoint.with_name(f".{checkpoint.name}.lock"), "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with open(f"{self.args.sink}.violations", "a") as file:
                file.write(f"two writers on {checkpoint}: {self.slot} {os.getpid()}\n")
        for name in ("offsets", "commits"):
            (checkpoint / name).mkdir(parents=True, exist_ok=True)
        metadata = checkpoint / "metadata"
        if not metadata.exists():
            publish(metadata, json.dumps({"id": str(uuid.uuid4())}))
        return lock, json.loads(metadata.read_text())["id"]

    @staticmethod
    def newest(folder):
        return max((int(p.name) for p in folder.iterdir() if p.name.isdigit()), default=-1)

    def plan(self, checkpoint):
        planned, committed = self.newest(checkpoint / "offsets"), self.newest(checkpoint / "commits")
        if planned > committed:
            return planned
        batch = committed + 1
        head = json.dumps({"batchWatermarkMs": 0, "batchTimestampMs": int(time.time() * 1000), "conf": {}})
        publish(checkpoint / "offsets" / str(batch), f"v1\n{head}\n{(batch + 1) * 10}")
        self.fail_at("planned")
        return batch

    def write(self, query_id, batch):
        line = f"{query_id} {batch} {batch * 10} {batch * 10 + 9} {self.slot} {os.getpid()}\n"
        with open(self.args.sink, "a") as sink:
            fcntl.flock(sink, fcntl.LOCK_EX)
            sink.write(line)

    def run(self):
        self.fail_at("start")
        self.say("starting")
        time.sleep(self.args.warm_up)
        if not self.await_go():
            self.say("ended")
            return 1
        opened = [(checkpoint, *self.open(checkpoint)) for checkpoint in self.checkpoints]
        self.say("running")
        while not self.is_asked():
            for checkpoint, _, query_id in opened:
                batch = self.plan(checkpoint)
                time.sleep(self.args.batch)
                self.write(query_id, batch)
                publish(checkpoint / "commits" / str(batch), 'v1\n{"nextBatchWatermarkMs":0}')
                self.fail_at("committed")
        self.say("draining")
        self.say("drained")
        self.say("ended")
        return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sink")
    parser.add_argument("--batch", type=float, default=0.1)
    parser.add_argument("--warm-up", type=float, default=0.0)
    parser.add_argument("--fail", choices=["start", "held", "planned", "committed"])
    parser.add_argument("--only", choices=["blue", "green"], help="fail in this slot only")
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--mute", action="store_true")
    args = parser.parse_args()
    if args.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(Job(args).run())


main()
