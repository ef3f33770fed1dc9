"""A Spark driver that runs streaming queries as it is told.

    session.py SCRATCH SECONDS

Takes one JSON object per line on standard input and answers each with one on standard output. Ends
with its input, and after SECONDS whatever happens. What a batch gave is appended to the query's sink
file as one line before the batch is committed.

    {"do": "start", "name": .., "shape": .., "provider": .., "checkpoint": .., "sink": ..,
     "rows": .., "scale": .., "conf": {..}, "trigger-ms": ..}      without trigger-ms: one run to the end
           "fail-at": N     the batch fails after its results were computed and noted
           "hang-at": N     the batch hangs there
    {"do": "stop", "name": ..}       it ends with an error before its next batch, which is planned then
    {"do": "status", "name": ..}     {"active": .., "error": ..}
"""

import json
import os
import sys
import threading
import time

# What Spark prints goes to the log: standard output is for answers.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

# Python processes of Spark's own are of the same Python.
os.environ["PYSPARK_PYTHON"] = sys.executable

from pyspark.sql import SparkSession  # noqa: E402
from shapes import PROVIDERS, SHAPES, lines  # noqa: E402

LONGEST_ERROR = 2000


class Chosen(Exception):
    """The failure that was asked for."""


class Running:
    """A query, and whether it is to begin no further batch."""

    def __init__(self):
        self.query = None
        self.is_to_end = threading.Event()


def open_session(scratch):
    java = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData -Xshare:auto -Xss4m"
    java += " -XX:+ErrorFileToStderr"
    builder = SparkSession.builder.master("local[2]").appName("checkpoints")
    settings = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "600m",
        "spark.driver.extraJavaOptions": f"{java} -Djava.io.tmpdir={scratch}",
        "spark.hadoop.dfs.replication": "1",
        "spark.local.dir": scratch,
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.streaming.minBatchesToRetain": "2",
        # Else a run to the end has one batch more, without rows, that the formulas do not know.
        "spark.sql.streaming.noDataMicroBatches.enabled": "false",
        "spark.sql.streaming.stateStore.maintenanceInterval": "1s",
        "spark.sql.streaming.stateStore.minDeltasForSnapshot": "3",
        "spark.sql.warehouse.dir": f"{scratch}/warehouse",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


class Driver:
    def __init__(self, spark):
        self.spark = spark
        self.queries = {}

    def start(self, ask):
        spark = self.spark.newSession()
        for key, value in {**PROVIDERS[ask["provider"]], **ask["conf"]}.items():
            spark.conf.set(key, value)
        mode, adds_up, shape = SHAPES[ask["shape"]]

        running = Running()

        def sink(frame, batch):
            if running.is_to_end.is_set():
                raise Chosen(batch)
            note = json.dumps({"batch": batch, "rows": lines(frame, adds_up)})
            with open(ask["sink"], "a") as file:
                file.write(note + "\n")
            if ask.get("fail-at") == batch:
                raise Chosen(batch)
            while ask.get("hang-at") == batch:
                time.sleep(0.1)

        writer = shape(spark, ask).writeStream.outputMode(mode).foreachBatch(sink)
        interval = ask.get("trigger-ms")
        when = {"processingTime": f"{interval} milliseconds"} if interval else {"availableNow": True}
        writer = writer.option("checkpointLocation", ask["checkpoint"]).trigger(**when)
        running.query = writer.start()
        self.queries[ask["name"]] = running
        return {}

    def stop(self, ask):
        # Not by the query's own stop: tasks that it aborts may use a RocksDB that is closed already,
        # and take the JVM with them.
        self.queries[ask["name"]].is_to_end.set()
        return {}

    def status(self, ask):
        query = self.queries[ask["name"]].query
        # Asked for before the error: a query that just ends is not told as ended well.
        active = query.isActive
        error = None if active else query.exception()
        return {"active": active, "error": None if error is None else str(error)[:LONGEST_ERROR]}


def answer(reply):
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


def main():
    scratch, most_seconds = sys.argv[1], float(sys.argv[2])
    deadline = threading.Timer(most_seconds, lambda: os._exit(9))
    deadline.daemon = True
    deadline.start()
    driver = Driver(open_session(scratch))
    java = driver.spark.sparkContext._gateway.proc.pid
    answer({"spark": driver.spark.version, "java-pid": java})
    for line in sys.stdin:
        ask = json.loads(line)
        try:
            answer(getattr(driver, ask["do"])(ask))
        except Exception as error:
            answer({"refused": f"{type(error).__name__}: {error}"[:LONGEST_ERROR]})
    # Its JVM ends when it loses this process.
    os._exit(0)


main()
