package org.apache.spark.sql.execution.streaming;

/** Spark 3.5 does not know it: with it on the class path that Spark is one the kit does not know. */
public final class ProgressContext {}
