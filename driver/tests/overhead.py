#!/usr/bin/env python3
"""Batch times with and without the driver kit, as a table in docs/driver.md.

    overhead.py [--spark VERSION] [--rounds N] [--batches N] [--warm-up N]

The ways take turns, so that what else the machine does falls on all of them.
"""

import argparse
import datetime
import json
import os
import statistics
import sys

sys.dont_write_bytecode = True
from harness import ROOT, Job, check, replace_block, spark_home  # noqa: E402
from run import SPARKS  # noqa: E402

DOCS = ROOT / "docs/driver.md"
BEGIN, END = "<!-- overhead -->", "<!-- end of overhead -->"
WAYS = {
    "without the kit": {"spark.plugins": ""},
    "the kit as it is": {"spark.stepdown.interval": "5s"},
    "looks and status every 100 ms": {"spark.stepdown.status-interval": "100ms"},
}


def measure(home, conf, args):
    conf = conf | {"spark.driver.extraJavaOptions": "-XX:+UseSerialGC"}
    with Job(home, script="overhead_job.py", args=[args.batches, args.warm_up], conf=conf) as job:
        check(job.await_end(1800) == 0, "it did not end well")
        return json.loads((job.dir / "overhead.json").read_text())


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spark", choices=SPARKS, default=SPARKS[-1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=100, help="batches that do not count")
    args = parser.parse_args()
    home = spark_home(args.spark)
    measured = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, conf in WAYS.items():
            measured[way].append(measure(home, conf, args))
            print(way, statistics.median(measured[way][-1]["batch_ms"]), "ms", flush=True)
    lines = ["| | batches | median of each round | 95 of 100 batches within | CPU of the kit's threads |",
             "| --- | --- | --- | --- | --- |"]
    for way, runs in measured.items():
        every = [ms for run in runs for ms in run["batch_ms"]]
        medians = ", ".join(f"{statistics.median(run['batch_ms']):.0f}" for run in runs)
        cpu = sum(run["kit_cpu_seconds"] for run in runs) / sum(run["seconds"] for run in runs)
        shown = "" if way == "without the kit" else f"{100 * cpu:.2f} % of a core"
        lines.append(f"| {way} | {len(every)} | {medians} ms | {percentile(every, 0.95)} ms | {shown} |")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    load = os.getloadavg()[2]
    replace_block(DOCS, BEGIN, END, (
        f"{datetime.date.today()}, Spark {args.spark}, `noop`, trigger 0 s, {os.cpu_count()} cores, "
        f"{memory:.0f} GB, load of the machine {load:.0f}:\n\n" + "\n".join(lines)))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
