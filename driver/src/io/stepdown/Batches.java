package io.stepdown;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.net.URI;
import java.util.HashMap;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;

/** The last batches of queries, as their checkpoints themselves say. */
final class Batches {
    private final Configuration hadoop;

    /** The storages of checkpoints, by scheme and authority. */
    private final Map<String, Storage> storages = new HashMap<>();

    Batches(Configuration hadoop) {
        this.hadoop = hadoop;
    }

    /** Adds them to the description of a query, which names its checkpoint; or why they are not known. */
    void describe(ObjectNode query) {
        query.remove("batches_unknown");
        try {
            URI checkpoint = Storage.parse(query.path("checkpoint").asText());
            String root = checkpoint.getScheme() + "://" + checkpoint.getAuthority();
            Storage logs =
                    storages.computeIfAbsent(root, key -> Storage.of(checkpoint, hadoop));
            query.put("last_planned", newest(logs, checkpoint, "offsets"));
            query.put("last_batch", newest(logs, checkpoint, "commits"));
        } catch (IOException | RuntimeException error) {
            query.put("batches_unknown", String.valueOf(error.getMessage()));
        }
    }

    private static Long newest(Storage logs, URI checkpoint, String log) throws IOException {
        return Storage.newestNumber(logs, Storage.child(checkpoint, log));
    }
}
