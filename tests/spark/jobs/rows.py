"""A streaming job as people write them; of stepdown it knows one line, and that only with --call.

    rows.py SINK [--batch SECONDS] [--warm-up SECONDS] [--call]

Batch N has the rows 10 N to 10 N + 9. What a batch had is appended to SINK as one line before the batch
is committed: query id, batch, the rows, pid. The checkpoint is STEPDOWN_CHECKPOINT.
"""

import argparse
import os
import threading
import time

from pyspark.sql import SparkSession

# Whoever started it may be gone, and does not end it then.
LONGEST_LIFE_S = 1800

parser = argparse.ArgumentParser()
parser.add_argument("sink")
parser.add_argument("--batch", type=float, default=0.5)
parser.add_argument("--warm-up", type=float, default=0)
parser.add_argument("--call", action="store_true", help="hold after the warm-up, not before it")
args = parser.parse_args()

end = threading.Timer(LONGEST_LIFE_S, lambda: os._exit(9))
end.daemon = True
end.start()

spark = SparkSession.builder.appName("clicks").getOrCreate()
if args.warm_up:
    time.sleep(args.warm_up)
    spark.range(1000).count()
if args.call:
    spark._jvm.io.stepdown.Stepdown.awaitGo()

is_started = threading.Event()


def work(frame, batch):
    is_started.wait()
    rows = sorted(row["value"] for row in frame.select("value").collect())
    time.sleep(args.batch)
    with open(args.sink, "a") as sink:
        sink.write(f"{query.id} {batch} {','.join(map(str, rows))} {os.getpid()}\n")


source = spark.readStream.format("rate-micro-batch").option("startTimestamp", 0)
frame = source.option("rowsPerBatch", 10).option("numPartitions", 1).load()
checkpoint = os.environ["STEPDOWN_CHECKPOINT"]
query = frame.writeStream.option("checkpointLocation", checkpoint).foreachBatch(work).start()
is_started.set()
query.awaitTermination()
