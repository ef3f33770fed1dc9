"""Stops in one Spark, many times over: shapes of queries, at random and at chosen moments.

A trial starts its queries, stops them, starts them again from their checkpoints, and stops them again;
then the rows are counted. Writes DIR/trials.json: for each way of stopping what was counted. A trial
whose queries fail or do not end is an error.
"""

import argparse
import itertools
import json
import random
import shutil
import sys
import time
from pathlib import Path

from pyspark.sql import SparkSession
from queries import AVAILABLE_NOW, FILES, newest, start, written_rows

parser = argparse.ArgumentParser()
parser.add_argument("dir", type=Path)
parser.add_argument("--count", type=int, required=True, help="of trials; each has two stops")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--ways", nargs="+", required=True, help="kit, mark, stop: see DrainTrial")
parser.add_argument("--sinks", nargs="+", default=["noop", "foreach", "slow", "files", "stateful"])
parser.add_argument("--triggers", nargs="+", default=[
    "0 seconds", "200 milliseconds", "2 seconds", "30 seconds", AVAILABLE_NOW])
parser.add_argument("--queries", nargs="+", type=int, default=[1, 1, 3, 10])
parser.add_argument("--moments", nargs="+", default=["random", "planned"])
parser.add_argument("--delay-ms", type=int, default=60, help="longest, from the plan of a batch")
args = parser.parse_args()
spark = SparkSession.builder.appName("clicks").getOrCreate()
spark.sparkContext.setLogLevel("WARN")
DEADLINE_MS = 120_000
TOTALS = ["stops", "dirty", "lost", "twice", "appended_twice"]


def await_commits(running, places, trigger):
    """Two of each query in this run; with a long trigger there is one."""
    more = 1 if trigger == "30 seconds" else 2
    before = [newest(checkpoint / "commits") for _, checkpoint in places]
    end = time.monotonic() + 180
    while True:
        for query in running:
            if query.exception():
                raise query.exception()
        now = [newest(checkpoint / "commits") for _, checkpoint in places]
        if all(n >= b + more for n, b in zip(now, before)):
            return
        if time.monotonic() > end:
            sys.exit(f"no batch within 180 s: {places}")
        time.sleep(0.01)


def one_stop(how, places, sink, trigger, moment, marker):
    running = []
    for index, (base, checkpoint) in enumerate(places):
        seconds = 0.4 if sink == "slow" else 0
        kind = "foreach" if sink == "slow" else sink
        running.append(start(spark, base, checkpoint, kind, trigger, seconds))
    await_commits(running, places, trigger)
    marker.touch()
    if moment == "planned" and trigger != "30 seconds":
        offsets, delay = str(places[0][1] / "offsets"), random.randrange(args.delay_ms * 1000)
    else:
        offsets, delay = "", random.randrange(1_500_000)
    took = spark._jvm.io.stepdown.DrainTrial.run(how, str(marker), offsets, delay, DEADLINE_MS)
    for query in running:
        query.awaitTermination(60)
        if query.isActive or (how != "stop" and query.exception()):
            sys.exit(f"{how} {sink} {trigger}: {query.exception()}")
    logs = [(newest(c / "offsets"), newest(c / "commits")) for _, c in places]
    if trigger == AVAILABLE_NOW and any(committed == FILES - 1 for _, committed in logs):
        sys.exit("a query ended by itself, that is no stop")
    return took, logs


def trial(number, how, sink, trigger, queries, moment):
    top = args.dir / f"trial-{number}"
    (top / "markers").mkdir(parents=True)
    places = [(top / str(index), top / str(index) / "checkpoint") for index in range(queries)]
    stops = []
    for _ in range(2):
        stops.append(one_stop(how, places, sink, trigger, moment, top / "markers/clicks"))
    if any(planned != committed for planned, committed in stops[-1][1]):
        # The batch that was planned last must be done before rows are counted.
        one_stop("kit", places, sink, trigger, "random", top / "markers/clicks")
    kind = "foreach" if sink == "slow" else sink
    rows = [written_rows(base, checkpoint, kind, trigger) for base, checkpoint in places]
    shutil.rmtree(top)
    return stops, [sum(each) for each in zip(*rows)]


results = {}
shapes = list(itertools.product(args.sinks, args.triggers, args.queries, args.moments))
for how in args.ways:
    # The same shapes and moments for every way.
    random.seed(f"shapes {args.seed}")
    order = random.sample(shapes * (1 + args.count // len(shapes)), args.count)
    counted = dict.fromkeys(TOTALS, 0)
    longest, details = 0, []
    for number, shape in enumerate(order):
        begun = time.monotonic()
        stops, (lost, twice, appended_twice) = trial(f"{how}-{number}", how, *shape)
        dirty = sum(any(planned != committed for planned, committed in logs) for _, logs in stops)
        longest = max(longest, *(took for took, _ in stops))
        for key, more in zip(TOTALS, (len(stops), dirty, lost, twice, appended_twice)):
            counted[key] += more
        if dirty or lost or twice:
            details.append([*shape, [logs for _, logs in stops], lost, twice])
        print(how, number, *shape, stops, lost, twice, appended_twice,
              f"{time.monotonic() - begun:.1f} s", flush=True)
    results[how] = {**counted, "longest_ms": longest, "details": details}
    (args.dir / "trials.tmp").write_text(json.dumps(results, indent=1))
    (args.dir / "trials.tmp").rename(args.dir / "trials.json")
