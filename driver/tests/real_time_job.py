"""A query in real-time mode, from rows in memory."""

import sys
import threading
import time
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

directory = Path(sys.argv[1])
spark = SparkSession.builder.appName("clicks").config(
    "spark.sql.streaming.realTimeMode.allowlistCheck", "false").getOrCreate()
streams = getattr(spark._jvm.org.apache.spark.sql.execution.streaming.sources, "LowLatencyMemoryStream$")
stream = getattr(streams, "MODULE$").singlePartition(
    spark._jsparkSession, spark._jvm.org.apache.spark.sql.Encoders.STRING())
rows = DataFrame(stream.toDF(), spark)
writer = rows.writeStream.format("noop").queryName("q0").outputMode("update")
writer = writer.option("checkpointLocation", str(directory / "checkpoint-0"))
query = writer.trigger(realTime="5 seconds").start()


def feed():
    sequence = spark._jvm.scala.jdk.javaapi.CollectionConverters
    while True:
        stream.addData(sequence.asScala(spark._jvm.java.util.List.of("a")))
        time.sleep(0.1)


threading.Thread(target=feed, daemon=True).start()
query.awaitTermination()
with open(directory / "batches", "a") as file:
    file.write(f"{time.time():.3f} 0 returned\n")
