package io.stepdown;

import java.lang.reflect.Field;
import java.util.concurrent.atomic.AtomicReference;

/** One streaming query, as its {@code StreamExecution} shows it. */
final class Query {
    final String id;
    final String runId;

    /** Null if the job gave none. */
    final String name;

    private final SparkInternals spark;
    private final Object execution;
    private final AtomicReference<Object> state;
    private final Thread thread;

    @SuppressWarnings("unchecked")
    Query(SparkInternals spark, Object execution) throws ReflectiveOperationException {
        this.spark = spark;
        this.execution = execution;
        id = spark.id.invoke(execution).toString();
        runId = spark.runId.invoke(execution).toString();
        name = (String) spark.name.invoke(execution);
        state = (AtomicReference<Object>) spark.state.invoke(execution);
        thread = (Thread) spark.thread.invoke(execution);
    }

    /** Its checkpoint, as a URI or a path. */
    String checkpoint() throws ReflectiveOperationException {
        return (String) spark.checkpoint.invoke(execution);
    }

    boolean isMicroBatch() {
        return spark.microBatchExecution.isInstance(execution);
    }

    boolean isTerminated() {
        return state.get() == spark.terminated;
    }

    /** Whether its thread, which is the one that writes, still runs. */
    boolean isAlive() {
        return thread.isAlive();
    }

    /** Ends a query that has not begun: Spark then starts nothing. Whether it was so. */
    boolean refuse() {
        return state.compareAndSet(spark.initializing, spark.terminated);
    }

    /** Whether this call marked it as ended. Its loop looks at that between two batches. */
    boolean terminate() {
        return state.compareAndSet(spark.active, spark.terminated);
    }

    void interrupt() {
        thread.interrupt();
    }

    /** Spark's own stop, which does not wait for a batch. */
    void stopAtOnce() throws ReflectiveOperationException {
        spark.stop.invoke(execution);
    }

    /** Whether the caller runs on its thread. */
    boolean isOwnThread() {
        return Thread.currentThread() == thread;
    }

    /**
     * Has the query end itself between two batches, on its own thread: from now on the clock of its
     * trigger loop, which the loop reads only there, leads through the gate. A trigger without such a
     * loop passes the gate where it reads the time at its end. To be repeated: each batch may have a
     * clock of its own.
     */
    void endBetweenBatches(Gate gate) throws ReflectiveOperationException {
        Object executor = spark.triggerExecutor.invoke(execution);
        if (spark.processingTimeExecutor.isInstance(executor)) {
            gate(spark.executorClock, executor, GatedClock.Reads.ALL, gate);
            return;
        }
        gate(spark.triggerClock, execution, GatedClock.Reads.AT_END_OF_TRIGGER, gate);
        Object batch = spark.latestBatch == null ? null : spark.latestBatch.invoke(execution);
        if (batch != null) {
            gate(spark.batchClock, batch, GatedClock.Reads.AT_END_OF_TRIGGER, gate);
        }
    }

    private void gate(Field field, Object owner, GatedClock.Reads reads, Gate gate)
            throws ReflectiveOperationException {
        Object clock = field.get(owner);
        Object gated = GatedClock.of(clock, spark.clock, reads, this, gate);
        if (gated != clock) {
            field.set(owner, gated);
        }
    }

    /** Whether its thread sleeps until its next trigger. */
    boolean isWaiting() {
        return isWaiting(thread.getStackTrace());
    }

    static boolean isWaiting(StackTraceElement[] stack) {
        for (int at = 1; at < stack.length; at++) {
            if (stack[at - 1].getMethodName().equals("waitTillTime")
                    && stack[at].getClassName().endsWith(".ProcessingTimeExecutor")) {
                return true;
            }
        }
        return false;
    }
}
