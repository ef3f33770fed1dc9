package io.stepdown;

import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;

/**
 * Where queries wait, between two batches, until all of them are there: a main that waits for any of
 * its queries, and then stops the context, must not do so while another one runs its batch.
 */
final class Gate {
    private final Set<String> arrived = ConcurrentHashMap.newKeySet();
    private final CountDownLatch open = new CountDownLatch(1);

    /** Called by the query's own thread; returns when the gate opens, or the thread is interrupted. */
    void pass(String runId) {
        arrived.add(runId);
        try {
            open.await();
        } catch (InterruptedException error) {
            // Somebody stops this query; Spark finds out by the flag.
            Thread.currentThread().interrupt();
        }
    }

    boolean hasArrived(String runId) {
        return arrived.contains(runId);
    }

    void open() {
        open.countDown();
    }

    boolean isOpen() {
        return open.getCount() == 0;
    }
}
