package io.stepdown;

import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.Map;

/**
 * The parts of Spark that the drain needs and that are no public interface, looked up by name once, at
 * start-up: what is missing in a version is known before it is needed.
 */
final class SparkInternals {
    // 4.1 moved the package.
    private static final String[] PACKAGES = {
        "org.apache.spark.sql.execution.streaming.runtime.",
        "org.apache.spark.sql.execution.streaming.",
    };
    private static final String[] SESSIONS = {
        "org.apache.spark.sql.classic.SparkSession", "org.apache.spark.sql.SparkSession",
    };

    final Object initializing;
    final Object active;
    final Object terminated;
    final Class<?> microBatchExecution;
    final Method triggerExecutor;
    final Class<?> processingTimeExecutor;
    final Field executorClock;
    final Field triggerClock;

    /** What the current batch is kept in; null before Spark 4. */
    final Method latestBatch;

    /** Its clock; null before Spark 4. */
    final Field batchClock;

    final Class<?> clock;
    final Method state;
    final Method thread;
    final Method id;
    final Method runId;
    final Method name;
    final Method checkpoint;
    final Method stop;

    private final Method defaultSession;
    private final Method sharedState;
    private final Method activeQueries;

    /** Seen once, kept: a job may clear the default session. */
    private volatile Object shared;

    /**
     * Looks them up.
     *
     * @throws ReflectiveOperationException that names what is missing
     */
    SparkInternals(ClassLoader loader) throws ReflectiveOperationException {
        Class<?> session = first(loader, SESSIONS, "");
        defaultSession = session.getMethod("getDefaultSession");
        sharedState = session.getMethod("sharedState");
        activeQueries = sharedState.getReturnType().getMethod("activeStreamingQueries");

        Class<?> execution = first(loader, PACKAGES, "StreamExecution");
        state = execution.getMethod("state");
        thread = execution.getMethod("queryExecutionThread");
        id = execution.getMethod("id");
        runId = execution.getMethod("runId");
        name = execution.getMethod("name");
        checkpoint = execution.getMethod("resolvedCheckpointRoot");
        stop = execution.getMethod("stop");
        initializing = module(loader, "INITIALIZING$");
        active = module(loader, "ACTIVE$");
        terminated = module(loader, "TERMINATED$");

        microBatchExecution = first(loader, PACKAGES, "MicroBatchExecution");
        // Private in 3.3.
        triggerExecutor = microBatchExecution.getDeclaredMethod("triggerExecutor");
        triggerExecutor.setAccessible(true);
        processingTimeExecutor = first(loader, PACKAGES, "ProcessingTimeExecutor");
        executorClock = field(processingTimeExecutor, "clock");
        triggerClock = field(execution, "triggerClock");
        Class<?> context = firstOrNull(loader, "ProgressContext");
        latestBatch = context == null ? null : execution.getMethod("getLatestExecutionContext");
        batchClock = context == null ? null : field(context, "triggerClock");
        checkMethod(context == null ? execution : context, "finishTrigger");
        clock = Class.forName("org.apache.spark.util.Clock", false, loader);
        clock.getMethod("getTimeMillis");
        clock.getMethod("waitTillTime", long.class);
    }

    /** The active queries of all sessions; none before the application has a session. */
    List<Query> queries() throws ReflectiveOperationException {
        if (shared == null) {
            Object session = option(defaultSession.invoke(null));
            if (session == null) {
                return Collections.emptyList();
            }
            shared = sharedState.invoke(session);
        }
        Collection<?> executions = ((Map<?, ?>) activeQueries.invoke(shared)).values();
        List<Query> queries = new ArrayList<>();
        for (Object execution : executions) {
            queries.add(new Query(this, execution));
        }
        return queries;
    }

    /** What is in a Scala {@code Option}; null if nothing is. */
    static Object option(Object option) throws ReflectiveOperationException {
        boolean isDefined = (Boolean) option.getClass().getMethod("isDefined").invoke(option);
        return isDefined ? option.getClass().getMethod("get").invoke(option) : null;
    }

    private static Object module(ClassLoader loader, String name)
            throws ReflectiveOperationException {
        return first(loader, PACKAGES, name).getField("MODULE$").get(null);
    }

    private static Field field(Class<?> type, String name) throws NoSuchFieldException {
        Field field = type.getDeclaredField(name);
        field.setAccessible(true);
        return field;
    }

    /** Its parameters differ from version to version; it is looked for in stacks only. */
    private static void checkMethod(Class<?> type, String name) throws NoSuchMethodException {
        for (Method method : type.getMethods()) {
            if (method.getName().equals(name)) {
                return;
            }
        }
        throw new NoSuchMethodException(type.getName() + "." + name);
    }

    private static Class<?> firstOrNull(ClassLoader loader, String name) {
        try {
            return first(loader, PACKAGES, name);
        } catch (ClassNotFoundException error) {
            return null;
        }
    }

    private static Class<?> first(ClassLoader loader, String[] beginnings, String name)
            throws ClassNotFoundException {
        for (String beginning : beginnings) {
            try {
                return Class.forName(beginning + name, true, loader);
            } catch (ClassNotFoundException error) {
                // Another version has it elsewhere.
                continue;
            }
        }
        throw new ClassNotFoundException(beginnings[beginnings.length - 1] + name);
    }
}
