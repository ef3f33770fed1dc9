"""Some hundred batches, and how long each took; and the CPU time of the driver kit's threads."""

import json
import sys
import time
from pathlib import Path

from pyspark.sql import SparkSession
from queries import newest, start

directory, batches, warm_up = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
spark = SparkSession.builder.appName("clicks").getOrCreate()
spark.sparkContext.setLogLevel("WARN")
spark.conf.set("spark.sql.streaming.numRecentProgressUpdates", str(batches))
query = start(spark, directory / "query-0", directory / "checkpoint-0", "noop", "0 seconds")


def kit_cpu_seconds():
    threads = spark._jvm.java.lang.management.ManagementFactory.getThreadMXBean()
    mine = [i for i in threads.getThreadInfo(threads.getAllThreadIds())
            if i is not None and i.getThreadName().startswith("stepdown")]
    return sum(threads.getThreadCpuTime(i.getThreadId()) for i in mine) / 1e9


while newest(directory / "checkpoint-0/commits") < warm_up:
    time.sleep(0.1)
before, begun = kit_cpu_seconds(), time.monotonic()
while newest(directory / "checkpoint-0/commits") < warm_up + batches:
    time.sleep(0.1)
result = {
    "batch_ms": [p["durationMs"]["triggerExecution"] for p in map(dict, query.recentProgress)],
    "kit_cpu_seconds": kit_cpu_seconds() - before,
    "seconds": time.monotonic() - begun,
}
(directory / "overhead.json").write_text(json.dumps(result))
query.stop()
