"""Streaming queries whose results are known in advance: what each batch gives is a formula of its
number alone. `tests/cluster/spark_copies/sums.rs` has the formulas."""

from pyspark.sql import functions as F

HDFS = "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider"
ROCKSDB = "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
STORE = "spark.sql.streaming.stateStore"

PROVIDERS = {
    "hdfs": {f"{STORE}.providerClass": HDFS},
    "rocksdb": {f"{STORE}.providerClass": ROCKSDB},
    "changelog": {
        f"{STORE}.providerClass": ROCKSDB,
        f"{STORE}.rocksdb.changelogCheckpointing.enabled": "true",
    },
    "format-v2": {
        f"{STORE}.providerClass": ROCKSDB,
        f"{STORE}.rocksdb.changelogCheckpointing.enabled": "true",
        f"{STORE}.checkpointFormatVersion": "2",
    },
}


def rows(spark, ask):
    """Batch b has the `rows` values that follow those of batch b-1, all at b seconds."""
    return (
        spark.readStream.format("rate-micro-batch")
        .option("rowsPerBatch", ask["rows"])
        .option("numPartitions", 1)
        .option("startTimestamp", 0)
        .option("advanceMillisPerBatch", 1000)
        .load()
    )


def summed(frame, *keys):
    return frame.groupBy(*keys).agg(F.sum("amount").alias("sum"), F.count("*").alias("count"))


def amount(ask):
    return (F.col("value") * ask["scale"]).alias("amount")


def aggregation(spark, ask):
    return summed(rows(spark, ask).select((F.col("value") % 10).alias("key"), amount(ask)), "key")


def watermark(spark, ask):
    """Windows of three batches, each given once, when the watermark has passed it."""
    late = rows(spark, ask).withWatermark("timestamp", "0 seconds")
    windows = late.select(F.window("timestamp", "3 seconds").alias("window"), amount(ask))
    start = F.col("window.start").cast("long").alias("key")
    return summed(windows, "window").select(start, "sum", "count")


def distinct(spark, ask):
    """Each hundred of values has fifty keys of the hundred before and fifty new ones."""
    key = F.floor(F.col("value") / 100) * 50 + F.col("value") % 100
    return rows(spark, ask).select(key.alias("amount")).dropDuplicates(["amount"])


def deduplication(spark, ask):
    return distinct(spark, ask).select(F.lit(0).alias("key"), F.col("amount").alias("sum"))


def two_operators(spark, ask):
    keyed = distinct(spark, ask).select((F.col("amount") % 10).alias("key"), "amount")
    return summed(keyed, "key")


def join(spark, ask):
    """What comes on the right side meets its equal on the left 150 values later."""
    left = rows(spark, ask).select(F.col("value").alias("id"))
    right = rows(spark, ask).select((F.col("value") + 150).alias("other"))
    both = left.join(right, F.col("id") == F.col("other"))
    return both.select(F.lit(0).alias("key"), F.col("id").alias("sum"))


def processor(spark, ask):
    """An aggregation with a state of one's own: its metadata has absolute paths."""
    from own_state import Sums

    keyed = rows(spark, ask).select((F.col("value") % 10).alias("key"), amount(ask)).groupBy("key")
    columns = "key long, sum long, count long"
    return keyed.transformWithState(Sums(), columns, "Update", "none")


def files(spark, ask):
    """One file of a hundred values a batch."""
    frame = spark.readStream.schema("value long").option("maxFilesPerTrigger", 1).csv(ask["input"])
    return summed(frame.select((F.col("value") % 10).alias("key"), amount(ask)), "key")


# Output mode, whether the rows of a batch are to be added up, query.
SHAPES = {
    "aggregation": ("update", False, aggregation),
    "watermark": ("append", False, watermark),
    "deduplication": ("append", True, deduplication),
    "two-operators": ("update", False, two_operators),
    "join": ("append", True, join),
    "processor": ("update", False, processor),
    "files": ("update", False, files),
}


def lines(frame, adds_up):
    """The result of a batch as [key, sum, count], sorted."""
    found = frame.collect()
    if adds_up:
        values = [row["sum"] for row in found]
        return [[0, sum(values), len(values)]] if values else []
    return sorted([row["key"], row["sum"], row["count"]] for row in found)
