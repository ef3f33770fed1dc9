"""A job whose checkpoint and output are told on its command line, as a start command does it."""

import sys
from pathlib import Path

import queries
from pyspark.sql import SparkSession

checkpoint, out = sys.argv[1:]
spark = SparkSession.builder.appName("clicks").getOrCreate()
queries.start(spark, Path(out), checkpoint, "foreach", "1 second", 0.5).awaitTermination()
