package io.stepdown;

import java.util.HashSet;
import java.util.Set;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Ends every query of the application after its current batch, and refuses those that are started
 * later. No batch is cancelled.
 *
 * <p>Spark's trigger loop looks between two batches whether its query was marked as ended, so that is
 * where the query is marked: by its own thread at the {@link Gate}, or while it sleeps until the next
 * trigger, and is then woken. A mark set while a batch is planned makes Spark 4.3 abort that batch, and
 * makes the query look ended to its main while the batch still runs.
 */
final class Drain {
    private static final Logger LOG = LoggerFactory.getLogger("io.stepdown");

    private final SparkInternals spark;
    private final Gate gate = new Gate();
    private final Set<String> known = new HashSet<>();
    private volatile boolean hasRefused;

    Drain(SparkInternals spark) {
        this.spark = spark;
    }

    /** Takes every query one step on; true if none of them can write any more. To be repeated. */
    boolean step() throws ReflectiveOperationException {
        boolean areAllBetween = true;
        boolean isDone = true;
        for (Query query : spark.queries()) {
            refuse(query);
            if (!query.isAlive()) {
                continue;
            }
            isDone = false;
            if (known.add(query.runId)) {
                LOG.info("query {} ends after its batch", query.id);
            }
            areAllBetween &= isBetweenBatches(query);
        }
        if (areAllBetween) {
            gate.open();
        }
        if (gate.isOpen() && !isDone) {
            for (Query query : spark.queries()) {
                end(query);
            }
        }
        return isDone;
    }

    /** Refuses the query that is just being started; on the thread of that query. */
    void refuse(String runId) throws ReflectiveOperationException {
        for (Query query : spark.queries()) {
            if (query.runId.equals(runId)) {
                refuse(query);
            }
        }
    }

    private void refuse(Query query) {
        if (query.refuse()) {
            hasRefused = true;
            LOG.warn("refused query {}: the application is stepping down", query.id);
        }
    }

    /** Whether the application tried to start a query since the drain began. */
    boolean hasRefused() {
        return hasRefused;
    }

    /** Whether the query can begin no further batch before the gate opens. */
    private boolean isBetweenBatches(Query query) throws ReflectiveOperationException {
        if (query.isTerminated()) {
            // It is on its way out, and not there yet.
            return false;
        }
        if (!query.isMicroBatch()) {
            // Continuous processing has no batch to finish; a restart goes on from the last epoch.
            return true;
        }
        // The clock is exchanged first: whoever sleeps now meets the gate when it wakes.
        query.endBetweenBatches(gate);
        return gate.hasArrived(query.runId) || query.isWaiting();
    }

    private void end(Query query) throws ReflectiveOperationException {
        if (!query.isMicroBatch()) {
            if (!query.isTerminated()) {
                query.stopAtOnce();
            }
        } else if (!gate.hasArrived(query.runId) && query.isWaiting()) {
            query.terminate();
            if (query.isWaiting()) {
                query.interrupt();
            }
        }
    }
}
