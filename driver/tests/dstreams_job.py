"""A DStreams job: a queue of batches, each of which takes a third of its interval."""

import os
import sys
import time

from pyspark import SparkContext
from pyspark.streaming import StreamingContext

directory = sys.argv[1]


def note(text):
    with open(os.path.join(directory, "batches"), "a") as file:
        file.write(f"{time.time():.3f} 0 {text}\n")


context = SparkContext(appName="clicks")
streaming = StreamingContext(context, 6)
stream = streaming.queueStream([[number] for number in range(200)])


def work(moment, rows):
    first = rows.collect()[0]
    note(f"begin {first}")
    time.sleep(2)
    # Not `count`: PySpark 3.3 cannot send functions from Python 3.11.
    rows.collect()
    note(f"end {first}")


stream.foreachRDD(work)
streaming.start()
streaming.awaitTermination()
note("returned")
