package io.stepdown;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.time.Instant;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import org.apache.hadoop.util.ShutdownHookManager;
import org.apache.spark.SparkConf;
import org.apache.spark.SparkContext;
import org.apache.spark.api.plugin.DriverPlugin;
import org.apache.spark.api.plugin.PluginContext;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The kit of one application: a thread that looks at the marker, and one that drains.
 *
 * <p>What it does to a healthy job is nothing; it kills nothing.
 */
final class DriverKit implements DriverPlugin {
    // At warn: the default level of PySpark, and these lines come a few times in a job's life.
    private static final Logger LOG = LoggerFactory.getLogger("io.stepdown");

    /** Before Spark's own hook (40), which stops the context under a running batch. */
    private static final int BEFORE_SPARK = 100;
    /** After Spark's, before Hadoop closes the file systems (10). */
    private static final int AFTER_SPARK = 20;

    private static final String LISTENERS = "spark.sql.streaming.streamingQueryListeners";
    private static final long DRAIN_STEP_MS = 10;
    private static final long DRAINED_STEP_MS = 100;
    private static final long GO_POLL_MS = 500;

    private static volatile DriverKit current;

    private final CountDownLatch drained = new CountDownLatch(1);
    private final Object goLock = new Object();
    private final String markerRunId = UUID.randomUUID().toString();

    private SparkContext context;
    private Settings settings;
    private Storage markerStorage;
    private Deadline markerDeadline;
    private Marker marker;
    private Status status;
    private DStreams dstreams;

    /** Null where {@link #missing} says what this Spark lacks. */
    private SparkInternals spark;

    private String missing;
    private Drain drain;
    private Thread dstreamsStop;
    private boolean hasMarkerOfItsOwn;
    private boolean isMarkerMade;
    private String lastMarkerWord = "";
    private boolean isGoGiven;
    private long refusedAtNanos;
    private boolean isBeingEnded;

    private volatile Phase phase = Phase.STARTING;
    private volatile String drainReason;

    static DriverKit current() {
        return current;
    }

    @Override
    public Map<String, String> init(SparkContext sparkContext, PluginContext pluginContext) {
        context = sparkContext;
        settings = new Settings(sparkContext.conf());
        ClassLoader loader = SparkContext.class.getClassLoader();
        dstreams = new DStreams(loader);
        try {
            spark = new SparkInternals(loader);
        } catch (ReflectiveOperationException | LinkageError error) {
            missing = error.toString();
            LOG.error(
                    "this Spark {} lacks what a drain needs, so the marker will not stop this job: {}",
                    sparkContext.version(),
                    missing);
        }
        if (spark != null) {
            drain = new Drain(spark);
            addListener(sparkContext.conf());
        }
        return Collections.emptyMap();
    }

    /** Spark reads this setting when it makes a session, which comes later. */
    private static void addListener(SparkConf conf) {
        String others = conf.get(LISTENERS, "");
        String own = Refusal.class.getName();
        conf.set(LISTENERS, others.isEmpty() ? own : others + "," + own);
    }

    /** Called when the application has its id and executors are being started, before any user code. */
    @Override
    public void registerMetrics(String applicationId, PluginContext pluginContext) {
        current = this;
        markerStorage = Storage.of(settings.marker, context.hadoopConfiguration());
        markerDeadline = new Deadline("stepdown-marker", settings.callTimeoutMs);
        marker = new Marker(markerStorage, markerDeadline, settings.marker, settings.confirm);
        status = settings.status() == null ? null : new Status(settings, context);
        LOG.warn(
                "stepdown driver kit {} ({}): marker {}",
                Kit.VERSION,
                Kit.REVISION,
                Storage.show(settings.marker));

        ShutdownHookManager hooks = ShutdownHookManager.get();
        long slackMs = 2 * settings.callTimeoutMs;
        hooks.addShutdownHook(
                this::drainBeforeShutdown,
                BEFORE_SPARK,
                settings.drainTimeoutMs + slackMs,
                TimeUnit.MILLISECONDS);
        hooks.addShutdownHook(
                this::sayEnded, AFTER_SPARK, 3 * slackMs, TimeUnit.MILLISECONDS);

        startThread(this::watch, "stepdown");
        if (settings.takeOverMs > 0) {
            takeOver(settings.takeOverMs);
        }
        if (settings.go != null && !settings.holdAtCall) {
            awaitGo();
        }
    }

    /** Holds the calling thread until the {@code go} of this rollout and generation is there. */
    void awaitGo() {
        // Not the kit's own lock: a drain is asked for while the caller is held.
        synchronized (goLock) {
            if (settings.go != null && !isGoGiven) {
                hold();
                isGoGiven = true;
            }
        }
    }

    private void hold() {
        Storage storage = Storage.of(settings.go, context.hadoopConfiguration());
        Go go = new Go(storage, new Deadline("stepdown-go", settings.callTimeoutMs), settings);
        holdUntil(() -> go.isGiven() ? "go" : null, go::lastWhy, settings.goTimeoutMs);
        LOG.warn("go for rollout {}, generation {}", settings.rollout, settings.generation);
    }

    /** Asks the predecessor to step down and holds the calling thread until it has; how it ended. */
    String takeOver(long withinMs) {
        synchronized (goLock) {
            TakeOver takeOver = new TakeOver(settings, context.hadoopConfiguration());
            return holdUntil(takeOver::look, takeOver::lastWhy, withinMs);
        }
    }

    /** What the look finds, once it finds something. */
    private String holdUntil(Supplier<String> look, Supplier<String> why, long withinMs) {
        Phase before = phase;
        enter(Phase.HELD);
        long sinceNanos = System.nanoTime();
        String said = null;
        while (true) {
            String found = look.get();
            if (drainReason != null) {
                throw new IllegalStateException("not started: " + drainReason);
            }
            if (found != null) {
                enter(before);
                return found;
            }
            if (!why.get().equals(said)) {
                said = why.get();
                LOG.warn("held: {}", said);
            }
            if (elapsedMs(sinceNanos) > withinMs) {
                throw new IllegalStateException("not started in time: " + said);
            }
            pause(GO_POLL_MS);
        }
    }

    private void watch() {
        while (current == this && drainReason == null) {
            try {
                pause(look());
            } catch (ReflectiveOperationException | RuntimeException error) {
                // The next round tries again: a thread that died would leave the job unprotected.
                LOG.error("stepdown could not look at the marker", error);
                pause(settings.intervalMs);
            }
        }
    }

    private void drain() {
        while (current == this) {
            try {
                pause(drainStep());
            } catch (ReflectiveOperationException | RuntimeException error) {
                // The next round tries again: queries may wait at the gate for this thread.
                LOG.error("stepdown could not go on with the drain", error);
                pause(DRAINED_STEP_MS);
            }
        }
    }

    private void startThread(Runnable task, String name) {
        Thread thread = new Thread(task, name);
        thread.setDaemon(true);
        thread.start();
    }

    /** One look at the marker; returns how long to wait for the next. */
    private long look() throws ReflectiveOperationException {
        if (settings.createMarker && !isMarkerMade) {
            createMarker();
        }
        if (marker.isGone()) {
            requestDrain("the marker " + Storage.show(settings.marker) + " is gone");
        }
        tellMarker();
        // Where queries cannot be seen, it is taken to run.
        if (phase == Phase.STARTING && (spark == null || isActive())) {
            enter(Phase.RUNNING);
        }
        writeStatus();
        if (marker.isBeingConfirmed()) {
            return settings.confirmSpacingMs;
        }
        // Jobs that were started together must not ask the NameNode together for ever.
        return Math.round(settings.intervalMs * ThreadLocalRandom.current().nextDouble(0.9, 1.1));
    }

    /** From here on there is no way back: a later touch is a request to start again. */
    private synchronized void requestDrain(String reason) {
        if (drainReason != null || drain == null) {
            return;
        }
        LOG.warn("draining: {}", reason);
        drainReason = reason;
        enter(Phase.DRAINING);
        // Not by the thread that looks at the marker: a SIGTERM does not wait for a hung NameNode.
        startThread(this::drain, "stepdown-drain");
    }

    void refuseIfDraining(String runId) {
        if (drainReason == null) {
            return;
        }
        try {
            drain.refuse(runId);
        } catch (ReflectiveOperationException error) {
            LOG.error("a query could not be refused", error);
        }
    }

    private long drainStep() throws ReflectiveOperationException {
        boolean isDone = drain.step() & isDStreamsDone();
        if (isDone && phase != Phase.DRAINED) {
            LOG.warn("drained; the application ends when its main returns");
            phase = Phase.DRAINED;
            writeStatusNow(Phase.DRAINED);
            drained.countDown();
        } else if (!isDone && phase == Phase.DRAINED) {
            enter(Phase.DRAINING);
        }
        writeStatus();
        if (isDone && drain.hasRefused()) {
            endLoop();
        }
        return isDone ? DRAINED_STEP_MS : DRAIN_STEP_MS;
    }

    private boolean isDStreamsDone() throws ReflectiveOperationException {
        Object streaming = dstreamsStop == null ? dstreams.active() : null;
        if (streaming != null) {
            dstreamsStop = new Thread(() -> stopDStreams(streaming), "stepdown-dstreams");
            dstreamsStop.setDaemon(true);
            dstreamsStop.start();
        }
        return dstreamsStop == null || !dstreamsStop.isAlive();
    }

    private static void stopDStreams(Object streaming) {
        try {
            DStreams.stopGracefully(streaming);
        } catch (ReflectiveOperationException | RuntimeException error) {
            LOG.error("the streaming context could not be stopped gracefully", error);
        }
    }

    /**
     * Ends an application whose main goes on starting queries although each is refused: it would never
     * end by itself, and nothing of it can write any more.
     */
    private void endLoop() {
        if (refusedAtNanos == 0) {
            refusedAtNanos = System.nanoTime();
        }
        long endAfterMs = settings.endLoopAfterMs;
        if (endAfterMs < 0 || isBeingEnded || elapsedMs(refusedAtNanos) < endAfterMs) {
            return;
        }
        isBeingEnded = true;
        LOG.warn("the main goes on starting queries; the application is ended with code 0");
        new Thread(() -> System.exit(0), "stepdown-end").start();
    }

    private boolean isActive() throws ReflectiveOperationException {
        return dstreams.active() != null || spark != null && !spark.queries().isEmpty();
    }

    /** A SIGTERM, or a main that returned while its queries run. */
    private void drainBeforeShutdown() {
        try {
            if (current != this || drain == null || !isActive()) {
                return;
            }
            requestDrain("the JVM was told to shut down");
            if (!drained.await(settings.drainTimeoutMs, TimeUnit.MILLISECONDS)) {
                LOG.error("not drained within {} ms", settings.drainTimeoutMs);
            }
        } catch (ReflectiveOperationException error) {
            LOG.error("could not drain before the shutdown", error);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }

    private void sayEnded() {
        if (current != this) {
            return;
        }
        if (hasMarkerOfItsOwn) {
            removeOwnMarker();
        }
        current = null;
        writeStatusNow(Phase.ENDED);
    }

    private void createMarker() {
        try {
            ObjectNode note = Messages.create("marker");
            note.put("run_id", markerRunId).put("job", settings.job).put("slot", settings.slot);
            note.put("created_at", Instant.now().toString());
            byte[] bytes = Messages.bytes(note);
            hasMarkerOfItsOwn =
                    markerDeadline.call(() -> markerStorage.createNew(settings.marker, bytes));
            isMarkerMade = true;
        } catch (IOException error) {
            tell("the marker cannot be made", ": " + error.getMessage());
        }
    }

    /** Removes the marker if it is still the one that this application made. */
    private void removeOwnMarker() {
        try {
            byte[] bytes = markerDeadline.call(() -> markerStorage.readSmall(settings.marker));
            if (bytes != null
                    && Messages.read(bytes, "marker").path("run_id").asText().equals(markerRunId)) {
                markerDeadline.call(
                        () -> {
                            markerStorage.delete(settings.marker);
                            return null;
                        });
            }
        } catch (IOException error) {
            LOG.warn("the marker was not removed: {}", error.getMessage());
        }
    }

    private void tellMarker() {
        Sighting last = marker.last();
        if (last.kind == Sighting.Kind.UNKNOWN) {
            tell("the marker is unknown, nothing is stopped", ": " + last.why);
        } else if (last.kind == Sighting.Kind.PRESENT) {
            tell("the marker is there: when it is removed, this job drains", "");
        } else if (!marker.isArmed()) {
            tell("the marker is not there yet: touch it, and its removal drains this job", "");
        }
    }

    /** Says it once for each time it becomes so; the reasons may change from look to look. */
    private void tell(String word, String reason) {
        if (!word.equals(lastMarkerWord)) {
            lastMarkerWord = word;
            LOG.warn("{}{}", word, reason);
        }
    }

    private void enter(Phase next) {
        phase = next;
        writeStatus();
    }

    private void writeStatus() {
        if (status != null) {
            status.write(phase, queries(), this::describe);
        }
    }

    private void writeStatusNow(Phase last) {
        if (status != null) {
            status.writeNow(last, queries(), this::describe);
        }
    }

    private List<Query> queries() {
        try {
            return spark == null ? Collections.emptyList() : spark.queries();
        } catch (ReflectiveOperationException | RuntimeException error) {
            // A context that is stopped: what was seen before is still told.
            return Collections.emptyList();
        }
    }

    private void describe(ObjectNode message) {
        message.put("can_drain", drain != null);
        if (missing != null) {
            message.put("missing", missing);
        }
        message.put("armed", marker.isArmed());
        Sighting last = marker.last();
        if (last != null) {
            message.put("sighting", last.kind.name().toLowerCase(Locale.ROOT));
        }
        if (drainReason != null) {
            message.put("drain_reason", drainReason);
        }
    }

    private static long elapsedMs(long sinceNanos) {
        return TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - sinceNanos);
    }

    private static void pause(long ms) {
        try {
            Thread.sleep(ms);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }
}
