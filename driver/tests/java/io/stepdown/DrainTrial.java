package io.stepdown;

import java.net.URI;
import java.util.Objects;
import org.apache.spark.SparkContext;

/** Drains the queries of this JVM at a chosen moment; a new drain each time, so many in one JVM. */
public final class DrainTrial {
    private static final long STEP_MS = 10;
    private static final long SPACING_MS = 20;
    private static final int CONFIRM = 2;

    private DrainTrial() {}

    /**
     * Ends all queries and returns after how many milliseconds they had ended.
     *
     * @param how {@code kit}; for comparison {@code mark}, the mark without the kit's care for the
     *     moment, and {@code stop}, Spark's own
     * @param marker of {@code kit} without {@code offsets}: is removed, and missed by the kit's own looks
     * @param offsets the log whose next entry is waited for first; empty: nothing is waited for
     * @param delayMicros then so much more
     */
    public static long run(
            String how, String marker, String offsets, long delayMicros, long deadlineMs)
            throws Exception {
        SparkInternals spark = new SparkInternals(SparkContext.class.getClassLoader());
        Drain drain = new Drain(spark);
        if (!offsets.isEmpty()) {
            URI log = Storage.parse(offsets);
            Storage storage = new LocalStorage();
            Long before = Storage.newestNumber(storage, log);
            while (Objects.equals(before, Storage.newestNumber(storage, log)) && isAnyAlive(spark)) {
                Thread.yield();
            }
        }
        long begun = System.nanoTime();
        while (System.nanoTime() - begun < delayMicros * 1000) {
            Thread.yield();
        }
        begun = System.nanoTime();
        if (how.equals("kit") && offsets.isEmpty()) {
            missMarker(marker);
        }
        while (!step(how, spark, drain)) {
            if (System.nanoTime() - begun > deadlineMs * 1_000_000) {
                throw new IllegalStateException("the queries did not end");
            }
            Thread.sleep(STEP_MS);
        }
        return (System.nanoTime() - begun) / 1_000_000;
    }

    private static void missMarker(String file) throws Exception {
        URI uri = Storage.parse(file);
        LocalStorage storage = new LocalStorage();
        Marker marker = new Marker(storage, new Deadline("trial", 10_000), uri, CONFIRM);
        if (marker.isGone() || !marker.isArmed()) {
            throw new IllegalStateException("the marker was not there");
        }
        storage.delete(uri);
        while (!marker.isGone()) {
            Thread.sleep(SPACING_MS);
        }
    }

    private static boolean isAnyAlive(SparkInternals spark) throws Exception {
        for (Query query : spark.queries()) {
            if (query.isAlive()) {
                return true;
            }
        }
        return false;
    }

    private static boolean step(String how, SparkInternals spark, Drain drain) throws Exception {
        if (how.equals("kit")) {
            return drain.step();
        }
        boolean isDone = true;
        for (Query query : spark.queries()) {
            isDone &= !query.isAlive();
            if (how.equals("stop")) {
                query.stopAtOnce();
            } else {
                query.terminate();
                if (query.isWaiting()) {
                    query.interrupt();
                }
            }
        }
        return isDone;
    }
}
