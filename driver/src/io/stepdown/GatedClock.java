package io.stepdown;

import java.lang.reflect.InvocationHandler;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;

/**
 * A clock of Spark that leads the query's own thread through the gate, and marks the query as ended
 * behind it. Everybody else, and every other call, gets the clock's own answer.
 */
final class GatedClock implements InvocationHandler {
    /** Which of Spark's looks at a clock stand between two batches. */
    enum Reads {
        /** All that the loop of {@code ProcessingTimeExecutor} does. */
        ALL,
        /** The one with which a trigger ends, after the commit of its batch. */
        AT_END_OF_TRIGGER
    }

    private static final String END_OF_TRIGGER = "finishTrigger";

    private final Object clock;
    private final Reads reads;
    private final Query query;
    private final Gate gate;

    private GatedClock(Object clock, Reads reads, Query query, Gate gate) {
        this.clock = clock;
        this.reads = reads;
        this.query = query;
        this.gate = gate;
    }

    /** The clock with the gate in it; the same clock if it has that already. */
    static Object of(Object clock, Class<?> type, Reads reads, Query query, Gate gate) {
        if (Proxy.isProxyClass(clock.getClass())) {
            InvocationHandler handler = Proxy.getInvocationHandler(clock);
            if (handler instanceof GatedClock && ((GatedClock) handler).reads == reads) {
                return clock;
            }
        }
        Class<?>[] interfaces = {type};
        return Proxy.newProxyInstance(
                type.getClassLoader(), interfaces, new GatedClock(clock, reads, query, gate));
    }

    @Override
    public Object invoke(Object proxy, Method method, Object[] arguments) throws Throwable {
        boolean isWait = method.getName().equals("waitTillTime");
        if (query.isOwnThread()
                && (isWait || method.getName().equals("getTimeMillis"))
                && (reads == Reads.ALL || isAtEndOfTrigger())) {
            gate.pass(query.runId);
            query.terminate();
            if (isWait) {
                return System.currentTimeMillis();
            }
        }
        try {
            return method.invoke(clock, arguments);
        } catch (InvocationTargetException error) {
            throw error.getCause();
        }
    }

    private static boolean isAtEndOfTrigger() {
        for (StackTraceElement frame : Thread.currentThread().getStackTrace()) {
            if (frame.getMethodName().equals(END_OF_TRIGGER)) {
                return true;
            }
        }
        return false;
    }
}
