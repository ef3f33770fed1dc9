"""Drains in one Spark, many times over: shapes of queries, at random and at chosen moments.

Writes DIR/trials.json: for each way of stopping the number of trials, and of those in which a batch was
planned and not committed. A trial whose queries fail or do not end is an error.
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
from pyspark.sql import functions as F

parser = argparse.ArgumentParser()
parser.add_argument("dir", type=Path)
parser.add_argument("--count", type=int, required=True)
parser.add_argument("--ways", nargs="+", required=True, help="kit, mark, stop: see DrainTrial")
parser.add_argument("--sinks", nargs="+", default=["noop", "foreach-batch", "parquet", "stateful"])
parser.add_argument("--triggers", nargs="+", default=["0 seconds", "200 milliseconds", "1 second"])
parser.add_argument("--queries", nargs="+", type=int, default=[1, 3])
parser.add_argument("--moments", nargs="+", default=["random", "planned"])
parser.add_argument("--delay-ms", type=int, default=60, help="longest, from the plan of a batch")
args = parser.parse_args()
spark = SparkSession.builder.appName("clicks").getOrCreate()
DEADLINE_MS = 60_000


def newest(log):
    return max((int(path.name) for path in log.iterdir() if path.name.isdigit()), default=-1)


def start(base, sink, trigger):
    rows = spark.readStream.format("rate-micro-batch")
    rows = rows.option("rowsPerBatch", 20).option("numPartitions", 1).load()
    if sink == "stateful":
        rows = rows.groupBy((F.col("value") % 3).alias("key")).count()
    writer = rows.writeStream.option("checkpointLocation", str(base / "checkpoint"))
    writer = writer.trigger(processingTime=trigger)
    if sink == "foreach-batch":
        def work(batch, _):
            batch.count()
            time.sleep(0.05)
            batch.count()
        return writer.foreachBatch(work).start()
    if sink == "parquet":
        return writer.format("parquet").option("path", str(base / "out")).start()
    return writer.format("noop").outputMode("update").start()


def trial(number, how, sink, trigger, queries, moment):
    base = args.dir / f"trial-{number}"
    bases = [base / str(index) for index in range(queries)]
    running = [start(each, sink, trigger) for each in bases]
    end = time.monotonic() + 60
    while any(newest(each / "checkpoint/commits") < 1 for each in bases if each.exists()):
        for query in running:
            if query.exception():
                raise query.exception()
        if time.monotonic() > end:
            sys.exit("no batch within 60 s")
        time.sleep(0.02)
    if moment == "planned":
        offsets, delay = str(bases[0] / "checkpoint/offsets"), random.randrange(args.delay_ms * 1000)
    else:
        offsets, delay = "", random.randrange(1_200_000)
    took = spark._jvm.io.stepdown.DrainTrial.run(how, offsets, delay, DEADLINE_MS)
    for query in running:
        query.awaitTermination(60)
        if query.isActive or (how != "stop" and query.exception()):
            sys.exit(f"{how} {sink} {trigger}: {query.exception()}")
    logs = [(newest(each / "checkpoint/offsets"), newest(each / "checkpoint/commits")) for each in bases]
    shutil.rmtree(base)
    return took, logs


results = {}
shapes = list(itertools.product(args.sinks, args.triggers, args.queries, args.moments))
for how in args.ways:
    random.seed(20261120)
    dirty, longest, details = 0, 0, []
    order = random.sample(shapes, len(shapes))
    for number in range(args.count):
        shape = order[number % len(order)]
        took, logs = trial(f"{how}-{number}", how, *shape)
        longest = max(longest, took)
        if any(planned != committed for planned, committed in logs):
            dirty += 1
            details.append([*shape, logs])
    results[how] = {"trials": args.count, "dirty": dirty, "longest_ms": longest, "details": details}
    (args.dir / "trials.tmp").write_text(json.dumps(results, indent=1))
    (args.dir / "trials.tmp").rename(args.dir / "trials.json")
