package io.stepdown;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.UUID;

/** The envelope of stepdown's message files: JSON with a format version and a kind. */
final class Messages {
    private static final int FORMAT = 1;
    private static final ObjectMapper JSON = new ObjectMapper();

    private Messages() {}

    static ObjectNode create(String kind) {
        ObjectNode message = JSON.createObjectNode();
        message.put("format", FORMAT);
        message.put("kind", kind);
        message.put("write_id", UUID.randomUUID().toString());
        return message;
    }

    static byte[] bytes(ObjectNode message) throws IOException {
        String text = JSON.writerWithDefaultPrettyPrinter().writeValueAsString(message) + "\n";
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** The message in these bytes; another kind or format version is an error, not a guess. */
    static JsonNode read(byte[] bytes, String kind) throws IOException {
        JsonNode message = JSON.readTree(bytes);
        if (message == null || message.path("format").asInt(-1) != FORMAT) {
            throw new IOException("no message of format version " + FORMAT);
        }
        if (!kind.equals(message.path("kind").asText())) {
            throw new IOException("no message of kind " + kind);
        }
        return message;
    }
}
