package io.stepdown;

import java.net.URI;
import java.util.Arrays;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Pattern;
import org.apache.spark.SparkConf;
import scala.Tuple2;

/** The settings {@code spark.stepdown.*} of one application. */
final class Settings {
    private static final String PREFIX = "spark.stepdown.";
    private static final Set<String> KEYS =
            new TreeSet<>(
                    Arrays.asList(
                            "control", "job", "slot", "marker", "go", "rollout", "generation", "hold",
                            "go-timeout", "take-over", "create-marker", "interval", "confirm", "confirm-spacing",
                            "call-timeout", "status-interval", "drain-timeout", "end-loop-after"));
    private static final Pattern JOB_NAME = Pattern.compile("[A-Za-z0-9_][A-Za-z0-9_-]{0,99}");

    /** The control directory; null where the application only has a marker. */
    final URI control;

    /** Where {@code stepdown run}, which has the slot's status file, reads the kit's; null without it. */
    private final URI ownStatus;

    /** The job's name; the application's where none was set. */
    final String job;

    final String slot;
    final URI marker;
    final boolean createMarker;

    /** The file that lets the queries start; null: nothing is held. */
    final URI go;

    /** The rollout that started this application; null if none did. */
    final String rollout;

    /** Its generation; negative if there is none. */
    final long generation;

    /** Whether the job itself says where it is held, by {@link Stepdown#awaitGo}. */
    final boolean holdAtCall;

    final long goTimeoutMs;

    /** How long the predecessor has for stepping down before this application goes on; 0: not asked. */
    final long takeOverMs;

    final long intervalMs;
    final int confirm;
    final long confirmSpacingMs;
    final long callTimeoutMs;
    final long statusIntervalMs;
    final long drainTimeoutMs;

    /** After this time an application that goes on starting queries is ended; negative: never. */
    final long endLoopAfterMs;

    private final SparkConf conf;

    /**
     * Reads them.
     *
     * @throws IllegalArgumentException if one is unknown, missing or wrong: a job that is not protected
     *     as its owner thinks must not start
     */
    Settings(SparkConf conf) {
        this.conf = conf;
        refuseUnknownKeys();
        control = uri("control");
        ownStatus = ownStatus();
        slot = text("slot", ownStatus == null ? "blue" : environment("STEPDOWN_SLOT"));
        if (!slot.equals("blue") && !slot.equals("green")) {
            throw wrong("slot", "it is neither blue nor green");
        }
        job =
                text(
                        "job",
                        ownStatus == null
                                ? conf.get("spark.app.name", "")
                                : environment("STEPDOWN_JOB"));
        if (status() != null && !JOB_NAME.matcher(job).matches()) {
            throw wrong("job", "'" + job + "' is no job name: letters, digits, '-' and '_'");
        }
        marker = marker();
        createMarker = conf.getBoolean(PREFIX + "create-marker", false);

        String hold = text("hold", "start");
        if (!hold.equals("start") && !hold.equals("call")) {
            throw wrong("hold", "it is neither start nor call");
        }
        holdAtCall = hold.equals("call");
        String where = text("go", null);
        if (where != null && where.equals("control")) {
            if (control == null) {
                throw wrong("go", "'control' needs spark.stepdown.control");
            }
            go = below("state/" + job + "/go." + slot + ".json");
        } else {
            go = uri("go");
        }
        rollout = text("rollout", environment("STEPDOWN_ROLLOUT_ID"));
        generation = number("generation", environment("STEPDOWN_GENERATION"));
        if (go != null && (rollout == null || generation < 0)) {
            throw wrong(
                    "go",
                    "it needs spark.stepdown.rollout and spark.stepdown.generation too, or"
                            + " STEPDOWN_ROLLOUT_ID and STEPDOWN_GENERATION in the environment");
        }
        goTimeoutMs = time("go-timeout", "1h");
        takeOverMs = time("take-over", "0s");
        if (takeOverMs > 0 && control == null) {
            throw wrong("take-over", "it needs spark.stepdown.control");
        }

        intervalMs = time("interval", "5s");
        confirm = conf.getInt(PREFIX + "confirm", 2);
        if (confirm < 1) {
            throw wrong("confirm", "it is less than 1");
        }
        confirmSpacingMs = time("confirm-spacing", Storage.isLocal(marker) ? "20ms" : "1s");
        callTimeoutMs = time("call-timeout", "10s");
        statusIntervalMs = time("status-interval", "30s");
        drainTimeoutMs = time("drain-timeout", "30min");
        endLoopAfterMs =
                "never".equals(text("end-loop-after", null)) ? -1 : time("end-loop-after", "10s");
    }

    /** The one that was named; else that of {@code stepdown run}; else the one in the control directory. */
    private URI marker() {
        URI named = uri("marker");
        String ofRun = ownStatus == null ? null : environment("STEPDOWN_MARKER");
        if (named == null && ofRun != null) {
            return Storage.parse(ofRun);
        }
        if (named == null && control == null) {
            throw wrong(
                    "marker",
                    "neither a marker nor spark.stepdown.control is set: name a file whose removal"
                            + " is to stop this job, or the control directory");
        }
        return named != null ? named : below("markers/" + job + "." + slot);
    }

    /** The status file; null without a control directory, unless {@code stepdown run} has one for it. */
    URI status() {
        if (ownStatus != null) {
            return ownStatus;
        }
        return control == null ? null : below("status/" + job + "." + slot + ".json");
    }

    /** What {@code stepdown run} says in the environment of its command. */
    private static URI ownStatus() {
        String text = environment("STEPDOWN_KIT_STATUS");
        if (text == null
                || environment("STEPDOWN_JOB") == null
                || environment("STEPDOWN_SLOT") == null) {
            return null;
        }
        return Storage.parse(text);
    }

    /** A time as Spark writes it, in milliseconds. */
    static long time(String text) {
        return new SparkConf(false).set("time", text).getTimeAsMs("time");
    }

    /** The slot of the predecessor. */
    String otherSlot() {
        return slot.equals("blue") ? "green" : "blue";
    }

    /** The marker of the other slot. */
    URI otherMarker() {
        return below("markers/" + job + "." + otherSlot());
    }

    /** The status file of the other slot. */
    URI otherStatus() {
        return below("status/" + job + "." + otherSlot() + ".json");
    }

    /** The receipts of this job's stops. */
    URI receipts() {
        return below("state/" + job + "/receipts");
    }

    private URI below(String path) {
        return URI.create(control.toString().replaceAll("/+$", "") + "/" + path);
    }

    private void refuseUnknownKeys() {
        for (Tuple2<String, String> entry : conf.getAllWithPrefix(PREFIX)) {
            if (!KEYS.contains(entry._1())) {
                throw wrong(entry._1(), "it is not known; known are, after " + PREFIX + ": " + KEYS);
            }
        }
    }

    private String text(String key, String otherwise) {
        return conf.get(PREFIX + key, otherwise);
    }

    /** What a rollout gives to the jobs that it starts; null if it is not set. */
    private static String environment(String name) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? null : value;
    }

    private long number(String key, String otherwise) {
        String value = text(key, otherwise);
        try {
            return value == null ? -1 : Long.parseLong(value);
        } catch (NumberFormatException error) {
            throw wrong(key, "'" + value + "' is no number");
        }
    }

    private long time(String key, String otherwise) {
        return conf.getTimeAsMs(PREFIX + key, otherwise);
    }

    private URI uri(String key) {
        String text = text(key, null);
        if (text == null) {
            return null;
        }
        try {
            return Storage.parse(text);
        } catch (IllegalArgumentException error) {
            throw wrong(key, error.getMessage());
        }
    }

    private static IllegalArgumentException wrong(String key, String why) {
        return new IllegalArgumentException(PREFIX + key + ": " + why);
    }
}
