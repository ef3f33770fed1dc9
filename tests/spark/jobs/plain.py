"""A streaming job as people write them: it knows nothing of stepdown, and handles no signal.

    plain.py CHECKPOINTS TRIGGER SECONDS...

One query for each of SECONDS, which is what its batches take; TRIGGER is Spark's, as "2 seconds".
"""

import sys
import time

from pyspark.sql import SparkSession

checkpoints, trigger, *seconds = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[2]")
    .appName("plain")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.memory", "700m")
    .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    .config("spark.sql.shuffle.partitions", "1")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")


def start(index, takes):
    def work(rows, batch):
        rows.count()
        time.sleep(takes)

    rows = spark.readStream.format("rate-micro-batch")
    rows = rows.option("rowsPerBatch", 10).option("numPartitions", 1).load()
    writer = rows.writeStream.option("checkpointLocation", f"{checkpoints}/{index}")
    return writer.trigger(processingTime=trigger).foreachBatch(work).start()


queries = [start(index, float(takes)) for index, takes in enumerate(seconds)]
spark.streams.awaitAnyTermination()
