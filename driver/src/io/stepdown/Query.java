package io.stepdown;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
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

    /** Takes {@link #terminate} back. */
    void revive() {
        state.compareAndSet(spark.terminated, spark.active);
    }

    void interrupt() {
        thread.interrupt();
    }

    /** Spark's own stop, which does not wait for a batch. */
    void stopAtOnce() throws ReflectiveOperationException {
        spark.stop.invoke(execution);
    }

    /** What its thread is doing. */
    Doing doing() {
        return Doing.of(thread.getStackTrace());
    }

    /**
     * Has the query end itself between two batches, on its own thread: from now on the clock of its
     * trigger loop, which the loop reads only there, leads through the gate. Whether its trigger has
     * such a loop.
     */
    boolean endBetweenBatches(Gate gate) throws ReflectiveOperationException {
        Object executor = isMicroBatch() ? spark.triggerExecutor.invoke(execution) : null;
        if (!spark.processingTimeExecutor.isInstance(executor)) {
            return false;
        }
        Object clock = spark.executorClock.get(executor);
        if (!Proxy.isProxyClass(clock.getClass())) {
            Class<?>[] interfaces = {spark.clock};
            ClassLoader loader = spark.clock.getClassLoader();
            Object gated = Proxy.newProxyInstance(loader, interfaces, gated(clock, gate));
            spark.executorClock.set(executor, gated);
        }
        return true;
    }

    private InvocationHandler gated(Object clock, Gate gate) {
        return (proxy, method, arguments) -> {
            boolean isWait = method.getName().equals("waitTillTime");
            if (Thread.currentThread() == thread
                    && (isWait || method.getName().equals("getTimeMillis"))) {
                gate.pass(runId);
                terminate();
                if (isWait) {
                    return System.currentTimeMillis();
                }
            }
            try {
                return method.invoke(clock, arguments);
            } catch (InvocationTargetException error) {
                throw error.getCause();
            }
        };
    }

    /** What the thread of a query is doing, as far as a drain must know. */
    enum Doing {
        /** It sleeps until its next trigger. */
        WAITING,
        /** It runs a planned batch, past the point at which Spark 4.3 looks whether it was ended. */
        WRITING,
        OTHER;

        static Doing of(StackTraceElement[] stack) {
            boolean isInSink = false;
            for (int at = 0; at < stack.length; at++) {
                String type = stack[at].getClassName();
                String method = stack[at].getMethodName();
                if (method.equals("waitTillTime")
                        && at + 1 < stack.length
                        && stack[at + 1].getClassName().endsWith(".ProcessingTimeExecutor")) {
                    return WAITING;
                }
                isInSink |= method.startsWith("withNewExecutionId") && type.contains(".SQLExecution");
                if (isInSink
                        && method.contains("runBatch")
                        && type.contains(".MicroBatchExecution")) {
                    return WRITING;
                }
            }
            return OTHER;
        }
    }
}
