package io.stepdown;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.function.Consumer;
import org.apache.hadoop.conf.Configuration;
import org.apache.spark.SparkContext;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The status file of the slot, which this application alone writes while it runs. */
final class Status {
    private static final Logger LOG = LoggerFactory.getLogger("io.stepdown");

    private static final int MAX_QUERIES = 100;

    private final Settings settings;
    private final Storage storage;
    private final Deadline deadline;
    private final ObjectNode fixed;

    /** The last run of every query that was seen, by its id: what ended is still told. */
    private final Map<String, ObjectNode> queries =
            new LinkedHashMap<String, ObjectNode>() {
                // Queries without a checkpoint of their own have a new id each time.
                @Override
                protected boolean removeEldestEntry(Map.Entry<String, ObjectNode> eldest) {
                    return size() > MAX_QUERIES;
                }
            };

    private final Batches batches;

    private Phase written;
    private long writtenAtNanos;
    private String lastError;

    Status(Settings settings, SparkContext context) {
        this.settings = settings;
        Configuration hadoop = context.hadoopConfiguration();
        batches = new Batches(hadoop);
        storage = Storage.of(settings.status(), hadoop);
        deadline = new Deadline("stepdown-status", settings.callTimeoutMs);
        fixed = Messages.create("status");
        fixed.put("job", settings.job).put("slot", settings.slot);
        Attempt.describe(context, fixed.putObject("attempt"));
        String scheme = settings.marker.getScheme();
        if (scheme.equals("file") || scheme.equals("hdfs") || scheme.equals("viewfs")) {
            // stepdown knows no other scheme, and would not read the rest either.
            fixed.put("marker", Storage.show(settings.marker));
        }
        fixed.put("application_id", context.applicationId());
        fixed.put("spark_version", context.version());
        fixed.put("kit_version", Kit.VERSION).put("kit_revision", Kit.REVISION);
        if (settings.rollout != null) {
            fixed.put("rollout_id", settings.rollout);
        }
        if (settings.generation >= 0) {
            fixed.put("generation", settings.generation);
        }
    }

    /**
     * Starts a write if the phase has changed, or the last write is old. Does not wait for it; one that
     * fails is made up for by the next.
     *
     * @param changing what differs from write to write
     */
    synchronized void write(Phase phase, List<Query> active, Consumer<ObjectNode> changing) {
        if (isOver(phase)) {
            return;
        }
        long age = System.nanoTime() - writtenAtNanos;
        if (phase == written && age < settings.statusIntervalMs * 1_000_000L) {
            return;
        }
        ObjectNode message = message(phase, changing);
        if (deadline.start(() -> save(message, active))) {
            written = phase;
            writtenAtNanos = System.nanoTime();
        }
    }

    /** Writes the last phases, which must be there before the process ends. */
    synchronized void writeNow(Phase phase, List<Query> active, Consumer<ObjectNode> changing) {
        if (isOver(phase)) {
            return;
        }
        ObjectNode message = message(phase, changing);
        deadline.settle();
        written = phase;
        writtenAtNanos = System.nanoTime();
        try {
            deadline.call(() -> save(message, active));
        } catch (IOException error) {
            complain(error);
        }
    }

    /** The end is the last word: the thread of the drain may come with a phase of before. */
    private boolean isOver(Phase next) {
        return written == Phase.ENDED && next != Phase.ENDED;
    }

    private ObjectNode message(Phase phase, Consumer<ObjectNode> changing) {
        ObjectNode message = fixed.deepCopy();
        message.put("write_id", UUID.randomUUID().toString());
        message.put("phase", phase.word());
        message.put("written_at", Instant.now().toString());
        changing.accept(message);
        return message;
    }

    /** On the deadline's thread: it reads checkpoints, which may hang. */
    private Void save(ObjectNode message, List<Query> active) {
        try {
            for (Query query : active) {
                queries.put(query.id, describe(query));
            }
            ArrayNode all = message.putArray("queries");
            for (ObjectNode query : queries.values()) {
                ObjectNode seen = query.deepCopy();
                batches.describe(seen);
                all.add(seen);
            }
            storage.replace(settings.status(), Messages.bytes(message));
            lastError = null;
        } catch (IOException | RuntimeException error) {
            complain(error);
        }
        return null;
    }

    private ObjectNode describe(Query query) {
        ObjectNode description = fixed.objectNode();
        description.put("id", query.id).put("run_id", query.runId).put("name", query.name);
        try {
            return description.put("checkpoint", query.checkpoint());
        } catch (ReflectiveOperationException error) {
            return description.putNull("checkpoint");
        }
    }

    /** Says it once for each time it becomes so: a NameNode that is down must not fill the log. */
    private void complain(Exception error) {
        String text = String.valueOf(error.getMessage());
        if (!text.equals(lastError)) {
            lastError = text;
            LOG.warn("the status file {} cannot be written: {}", settings.status(), text);
        }
    }
}
