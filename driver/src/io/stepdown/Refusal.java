package io.stepdown;

import org.apache.spark.sql.streaming.StreamingQueryListener;

/**
 * Refuses queries that are started after the drain began. Spark makes one for every session and calls it
 * within {@code start()}, before the query plans anything; a look from outside would come too late.
 */
public final class Refusal extends StreamingQueryListener {
    @Override
    public void onQueryStarted(QueryStartedEvent event) {
        DriverKit kit = DriverKit.current();
        if (kit != null) {
            kit.refuseIfDraining(event.runId().toString());
        }
    }

    @Override
    public void onQueryProgress(QueryProgressEvent event) {}

    @Override
    public void onQueryTerminated(QueryTerminatedEvent event) {}
}
