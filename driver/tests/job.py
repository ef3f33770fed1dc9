"""A streaming job as people write them. It knows nothing of stepdown.

Its checkpoints are DIR/checkpoint-<i>; each batch of foreachBatch leaves a line in DIR/batches when it
begins and when it ends.
"""

import argparse
import os
import sys
import time

from pyspark.sql import SparkSession

parser = argparse.ArgumentParser()
parser.add_argument("dir")
parser.add_argument("--main", default="await", choices="await any poll loop none".split())
parser.add_argument("--batch-seconds", type=float, nargs="+", default=[2.0])
parser.add_argument("--trigger", default="0 seconds")
parser.add_argument("--available-now", action="store_true")
parser.add_argument("--sessions", action="store_true", help="each query in a session of its own")
parser.add_argument("--noop", action="store_true", help="a sink without Python on the driver")
parser.add_argument("--continuous", action="store_true")
parser.add_argument("--call", action="store_true", help="hold at a call of one line")
args = parser.parse_args()


def note(text):
    with open(os.path.join(args.dir, "batches"), "a") as file:
        file.write(f"{time.time():.3f} {text}\n")


note("0 main")
spark = SparkSession.builder.appName("clicks").getOrCreate()
note("0 session")
if args.call:
    spark._jvm.io.stepdown.Stepdown.awaitGo()


def start(index, seconds):
    session = spark.newSession() if args.sessions else spark

    def work(rows, batch):
        note(f"{index} begin {batch}")
        rows.count()
        time.sleep(seconds)
        rows.count()
        note(f"{index} end {batch}")

    if args.continuous or args.available_now:
        source = "rate"
    else:
        source = "rate-micro-batch"
    rows = session.readStream.format(source)
    if args.available_now:
        os.makedirs(f"{args.dir}/input", exist_ok=True)
        for file in range(20):
            with open(f"{args.dir}/input/{file}.txt", "w") as text:
                text.write("a\n")
        rows = session.readStream.format("text").option("maxFilesPerTrigger", 1)
        rows = rows.load(f"{args.dir}/input")
    elif args.continuous:
        rows = rows.option("rowsPerSecond", 10).load()
    else:
        rows = rows.option("rowsPerBatch", 10).option("numPartitions", 1).load()
    writer = rows.writeStream.queryName(f"q{index}")
    writer = writer.option("checkpointLocation", f"{args.dir}/checkpoint-{index}")
    if args.available_now:
        writer = writer.trigger(availableNow=True)
    elif args.continuous:
        writer = writer.trigger(continuous="1 second")
    else:
        writer = writer.trigger(processingTime=args.trigger)
    if args.noop or args.continuous:
        return writer.format("noop").start()
    return writer.foreachBatch(work).start()


def start_all():
    return [start(index, seconds) for index, seconds in enumerate(args.batch_seconds)]


queries = start_all()
if args.main == "await":
    for query in queries:
        query.awaitTermination()
elif args.main == "any":
    spark.streams.awaitAnyTermination()
    note("0 stopping")
    spark.stop()
elif args.main == "poll":
    while all(query.isActive for query in queries):
        time.sleep(0.01)
    note("0 stopping")
    spark.stop()
elif args.main == "loop":
    while True:
        for query in queries:
            query.awaitTermination()
        queries = start_all()
note("0 returned")
sys.exit(0)
