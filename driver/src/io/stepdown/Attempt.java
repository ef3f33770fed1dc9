package io.stepdown;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Paths;
import org.apache.spark.SparkContext;

/** This run of the application, named as stepdown names attempts. */
final class Attempt {
    private static final String FIRST_PID_NAMESPACE = "pid:[4026531836]";

    private Attempt() {}

    /**
     * A process of a host where the driver was started as one, so that stepdown on that host sees its
     * end by itself; else the application id with the attempt's number.
     */
    static ObjectNode describe(SparkContext context, ObjectNode attempt) {
        if (!isStartedByCluster(context)) {
            try {
                return process(attempt);
            } catch (IOException | RuntimeException error) {
                // No /proc, as on macOS: the application id will do.
                attempt.removeAll();
            }
        }
        String number =
                context.applicationAttemptId().isDefined() ? context.applicationAttemptId().get() : "1";
        return attempt.put("kind", "named").put("name", context.applicationId() + "/" + number);
    }

    private static boolean isStartedByCluster(SparkContext context) {
        return "cluster".equals(context.conf().get("spark.submit.deployMode", "client"))
                || context.conf().getBoolean("spark.kubernetes.submitInDriver", false);
    }

    /**
     * Whether this attempt was a process of this host, in this boot, and is over. False also where that
     * cannot be seen from here.
     */
    static boolean isGoneFromThisHost(JsonNode attempt) throws IOException {
        if (!"process".equals(attempt.path("kind").asText())) {
            return false;
        }
        ObjectNode own;
        try {
            own = process(JsonNodeFactory.instance.objectNode());
        } catch (IOException | RuntimeException error) {
            return false;
        }
        if (!own.get("host").equals(attempt.get("host"))
                || !own.get("boot_id").equals(attempt.get("boot_id"))) {
            return false;
        }
        try {
            return startTicks("/proc/" + attempt.path("pid").asLong() + "/stat")
                    != attempt.path("start_ticks").asLong();
        } catch (NoSuchFileException error) {
            return true;
        }
    }

    private static ObjectNode process(ObjectNode attempt) throws IOException {
        String pid = Files.readSymbolicLink(Paths.get("/proc/self")).toString();
        String host = text("/proc/sys/kernel/hostname");
        String namespace = Files.readSymbolicLink(Paths.get("/proc/self/ns/pid")).toString();
        if (!namespace.equals(FIRST_PID_NAMESPACE)) {
            host = host + "/" + namespace;
        }
        return attempt.put("kind", "process")
                .put("host", host)
                .put("boot_id", text("/proc/sys/kernel/random/boot_id"))
                .put("pid", Long.parseLong(pid))
                .put("start_ticks", startTicks("/proc/self/stat"));
    }

    private static long startTicks(String file) throws IOException {
        // Field 22; the fields behind the command's name, which may hold anything, begin with the third.
        String stat = text(file);
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        return Long.parseLong(fields[22 - 3]);
    }

    private static String text(String file) throws IOException {
        return new String(Files.readAllBytes(Paths.get(file)), StandardCharsets.UTF_8).trim();
    }
}
