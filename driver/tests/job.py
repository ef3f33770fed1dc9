"""A streaming job as people write them. It knows nothing of stepdown.

Its checkpoints are DIR/checkpoint-<i>; each batch of foreachBatch leaves a line in DIR/batches when it
begins and when it ends.
"""

import argparse
import sys
import time
from pathlib import Path

import queries as shapes
from pyspark.sql import SparkSession

parser = argparse.ArgumentParser()
parser.add_argument("dir", type=Path)
parser.add_argument("--main", default="await", choices="await any poll loop none".split())
parser.add_argument("--batch-seconds", type=float, nargs="+", default=[2.0], help="one for each query")
parser.add_argument("--trigger", default="0 seconds")
parser.add_argument("--sink", default="foreach", choices="foreach noop files stateful kafka".split())
parser.add_argument("--files", type=int, default=shapes.FILES, help="of available now, a batch each")
parser.add_argument("--kafka", help="read a topic of this broker")
parser.add_argument("--sessions", action="store_true", help="each query in a session of its own")
parser.add_argument("--continuous", action="store_true")
parser.add_argument("--async-progress", action="store_true")
parser.add_argument("--once", action="store_true")
parser.add_argument("--fail-at", type=int, help="the first query fails in this batch, after its work")
parser.add_argument("--call", action="store_true", help="hold at a call of one line")
parser.add_argument("--take-over", help="ask the predecessor to step down, wait so long")
args = parser.parse_args()


def note(text):
    with open(args.dir / "batches", "a") as file:
        file.write(f"{time.time():.3f} {text}\n")


note("0 main")
spark = SparkSession.builder.appName("clicks").getOrCreate()
note("0 session")
if args.call:
    spark._jvm.io.stepdown.Stepdown.awaitGo()
if args.take_over:
    note("0 took-over " + spark._jvm.io.stepdown.Stepdown.takeOver(args.take_over))


def start(index, seconds):
    session = spark.newSession() if args.sessions else spark
    checkpoint = args.dir / f"checkpoint-{index}"

    def note_batch(what, number):
        note(f"{index} {what} {number}")
        if what == "end" and index == 0 and number == args.fail_at:
            raise ValueError("this batch fails")

    if args.continuous:
        rows = session.readStream.format("rate").option("rowsPerSecond", 10).load()
        writer = rows.writeStream.option("checkpointLocation", str(checkpoint))
        return writer.trigger(continuous="1 second").format("noop").start()
    if args.async_progress:
        rows = shapes.source(session, args.dir, args.trigger)
        writer = rows.writeStream.option("checkpointLocation", str(checkpoint)).format("noop")
        return writer.option("asyncProgressTrackingEnabled", "true").trigger(
            processingTime=args.trigger).start()
    if args.once:
        rows = session.readStream.format("rate-micro-batch").option("rowsPerBatch", 10).load()
        writer = rows.writeStream.option("checkpointLocation", str(checkpoint)).trigger(once=True)

        def work(batch, number):
            note_batch("begin", number)
            batch.count()
            time.sleep(seconds)
            batch.count()
            note_batch("end", number)
        return writer.foreachBatch(work).start()
    return shapes.start(session, args.dir / f"query-{index}", checkpoint, args.sink, args.trigger,
                        seconds, f"q{index}", note_batch, args.files, args.kafka)


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
