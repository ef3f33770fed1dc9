package io.stepdown;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;

/** The file that lets a held application start its queries. */
final class Go {
    private final Storage storage;
    private final Deadline deadline;
    private final Settings settings;
    private String lastWhy;

    Go(Storage storage, Deadline deadline, Settings settings) {
        this.storage = storage;
        this.deadline = deadline;
        this.settings = settings;
    }

    /** Whether it is there and means this application: a left-over one starts nothing. */
    boolean isGiven() {
        byte[] bytes;
        try {
            bytes = deadline.call(() -> storage.readSmall(settings.go));
            if (bytes == null) {
                lastWhy = "there is no " + Storage.show(settings.go);
                return false;
            }
            JsonNode go = Messages.read(bytes, "go");
            String rollout = go.path("rollout_id").asText();
            long generation = go.path("generation").asLong(-1);
            // The lease of a rollout may have changed hands meanwhile; its generation only grows.
            if (rollout.equals(settings.rollout) && generation >= settings.generation) {
                return true;
            }
            lastWhy =
                    Storage.show(settings.go)
                            + " is of rollout " + rollout + ", generation " + generation;
        } catch (IOException error) {
            lastWhy = Storage.show(settings.go) + ": " + error.getMessage();
        }
        return false;
    }

    /** Why the last look was no go. */
    String lastWhy() {
        return lastWhy;
    }
}
