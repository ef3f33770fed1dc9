package io.stepdown;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.net.URI;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.hadoop.conf.Configuration;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Asks the application in the other slot to step down, by its marker, and waits for the evidence that it
 * did: its own status, a receipt of stepdown that names it, or, on this host, that its process is gone.
 *
 * <p>A status that cannot be read, one that is old, a marker that is not there: none of them is evidence.
 */
final class TakeOver {
    private static final Logger LOG = LoggerFactory.getLogger("io.stepdown");
    private static final String SENTINEL = ".stepdown";

    private final Settings settings;
    private final Storage storage;
    private final Deadline deadline;
    private final Batches batches;
    private final Set<String> readReceipts = new HashSet<>();

    /** The attempt that is to step down; null until one was seen. */
    private JsonNode asked;

    private String why = "it was not looked at";

    TakeOver(Settings settings, Configuration hadoop) {
        if (settings.control == null) {
            throw new IllegalStateException("a take-over needs spark.stepdown.control");
        }
        this.settings = settings;
        storage = Storage.of(settings.control, hadoop);
        deadline = new Deadline("stepdown-take-over", settings.callTimeoutMs);
        batches = new Batches(hadoop);
    }

    /**
     * One look, and what follows from it: {@code clean}, {@code dirty} or {@code unproven} when the
     * predecessor is over, {@code none} if there is none; null if it is to be looked at again.
     *
     * @throws IllegalStateException if it will not step down
     */
    String look() {
        try {
            String word = deadline.call(this::next);
            if (word != null) {
                LOG.warn("the predecessor {} stepped down: {}", asked == null ? "" : asked, word);
            }
            return word;
        } catch (IOException error) {
            if (error.getCause() instanceof IllegalStateException) {
                throw (IllegalStateException) error.getCause();
            }
            why = String.valueOf(error.getMessage());
            return null;
        }
    }

    /** Why the last look was not enough. */
    String lastWhy() {
        return why;
    }

    private String next() throws IOException {
        byte[] bytes = storage.readSmall(settings.otherStatus());
        boolean isMarkerThere = storage.exists(settings.otherMarker());
        // In the same look: a directory that is gone, or is another one, says nothing of what was in it.
        if (storage.readSmall(Storage.child(settings.control, SENTINEL)) == null) {
            return wait(Storage.show(settings.control) + " has no sentinel: `stepdown init` makes one");
        }
        if (bytes == null) {
            if (asked == null && !isMarkerThere) {
                return "none";
            }
            return wait("nobody says what runs in slot " + settings.otherSlot());
        }
        JsonNode status = Messages.read(bytes, "status");
        JsonNode attempt = status.path("attempt");
        String phase = status.path("phase").asText();
        if (asked == null) {
            asked = attempt;
        }
        boolean isOver = phase.equals("ended") || phase.equals("drained");
        if (!isOver && !attempt.equals(asked)) {
            throw new IllegalStateException(
                    "the predecessor " + asked + " was started again as " + attempt);
        }
        isOver = isOver || Attempt.isGoneFromThisHost(attempt) || hasReceipt(attempt);
        if (isOver) {
            if (isMarkerThere) {
                // It would be a request to start again. Then once more: somebody may just have done so.
                storage.delete(settings.otherMarker());
                return wait("it is over, its marker was removed");
            }
            return verdict(status);
        }
        if (!status.path("can_drain").asBoolean(true)) {
            throw new IllegalStateException(
                    "the predecessor cannot drain: " + status.path("missing").asText());
        }
        if (!isMarkerThere) {
            return wait("its marker is gone, its phase is " + phase);
        }
        if (!status.path("armed").asBoolean(true)) {
            return wait("it has not seen its marker yet, so it would not miss it");
        }
        LOG.warn("asking the predecessor {} to step down", attempt);
        storage.delete(settings.otherMarker());
        return wait("its marker was removed just now");
    }

    private String wait(String reason) {
        why = reason;
        return null;
    }

    /** What the checkpoints of its queries say now. */
    private String verdict(JsonNode status) {
        boolean isProven = status.path("queries").size() > 0;
        for (JsonNode each : status.path("queries")) {
            ObjectNode query = each.deepCopy();
            batches.describe(query);
            if (query.has("batches_unknown") || !query.hasNonNull("last_planned")) {
                isProven = false;
            } else if (!query.get("last_planned").equals(query.get("last_batch"))) {
                return "dirty";
            }
        }
        return isProven ? "clean" : "unproven";
    }

    /** Whether a receipt says that this attempt is over. */
    private boolean hasReceipt(JsonNode attempt) throws IOException {
        List<String> names = storage.names(settings.receipts());
        if (names == null) {
            return false;
        }
        for (String name : names) {
            boolean isOfSlot = name.startsWith(settings.otherSlot() + "-") && name.endsWith(".json");
            if (!isOfSlot || readReceipts.contains(name)) {
                continue;
            }
            URI file = Storage.child(settings.receipts(), name);
            byte[] bytes = storage.readSmall(file);
            if (bytes == null) {
                continue;
            }
            JsonNode receipt = Messages.read(bytes, "receipt");
            if (receipt.path("attempt").equals(attempt)) {
                String outcome = receipt.path("outcome").asText();
                return outcome.equals("stopped") || outcome.equals("died");
            }
            readReceipts.add(name);
        }
        return false;
    }
}
