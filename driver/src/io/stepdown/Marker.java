package io.stepdown;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.net.URI;
import java.util.Objects;

/**
 * The marker of this application: present, absent or unknown, and whether its absence is a stop.
 *
 * <p>An absence counts only after the marker was seen once (armed), in the very directory in which it
 * was seen, and {@code confirm} times in a row. Arming is bound to this attempt, so memory is enough:
 * when it is lost, so is the attempt.
 */
final class Marker {
    private static final String SENTINEL = ".stepdown";

    private final Storage storage;
    private final Deadline deadline;
    private final URI file;
    private final URI dir;
    private final int confirm;

    private volatile Directory armedIn;
    private int missed;
    private volatile Sighting last;

    Marker(Storage storage, Deadline deadline, URI file, int confirm) {
        this.storage = storage;
        this.deadline = deadline;
        this.file = file;
        this.dir = Storage.parent(file);
        this.confirm = confirm;
    }

    /** Looks once; true if the marker of an armed attempt is gone for sure. */
    boolean isGone() {
        Sighting sighting;
        try {
            sighting = deadline.call(this::look);
        } catch (IOException error) {
            sighting = Sighting.unknown(String.valueOf(error.getMessage()));
        }
        last = sighting;
        boolean counts = sighting.kind == Sighting.Kind.ABSENT && armedIn != null;
        missed = counts ? missed + 1 : 0;
        return missed >= confirm;
    }

    boolean isArmed() {
        return armedIn != null;
    }

    /** Whether it was missed, but not often enough yet. */
    boolean isBeingConfirmed() {
        return missed > 0;
    }

    /** What the last look said; null before the first. */
    Sighting last() {
        return last;
    }

    private Sighting look() throws IOException {
        String number = storage.numberOf(dir);
        if (storage.exists(file)) {
            // Its directory is asked who it is when it was not seen a moment ago, or is another one now.
            if (last != Sighting.PRESENT || !Objects.equals(armedIn.number, number)) {
                Directory now = directory(number);
                if (!now.isKnown()) {
                    return Sighting.unknown(
                            Storage.show(Storage.child(dir, SENTINEL))
                                    + " is missing, and this file system gives directories no"
                                    + " number: nothing would vouch for an absence");
                }
                armedIn = now;
            }
            return Sighting.PRESENT;
        }
        // Before and after: a directory that was swapped in between shows in one of the two.
        Directory now = directory(storage.numberOf(dir));
        if (!Objects.equals(now.number, number)) {
            return Sighting.unknown("the directory was replaced during the look");
        }
        if (armedIn != null && !armedIn.isSameAs(now)) {
            return Sighting.unknown(
                    "the directory is not the one in which the marker was seen; if it was made anew"
                            + " on purpose, touch the marker again");
        }
        return Sighting.ABSENT;
    }

    private Directory directory(String number) throws IOException {
        byte[] sentinel = storage.readSmall(Storage.child(dir, SENTINEL));
        if (sentinel == null) {
            return new Directory(number, null);
        }
        JsonNode id = Messages.read(sentinel, "sentinel").get("directory_id");
        if (id == null) {
            throw new IOException("the sentinel of the marker's directory has no directory_id");
        }
        return new Directory(number, id.asText());
    }

    /** What is known of a directory: its number and the id in its sentinel, either may be missing. */
    private static final class Directory {
        final String number;
        final String id;

        Directory(String number, String id) {
            this.number = number;
            this.id = id;
        }

        boolean isKnown() {
            return number != null || id != null;
        }

        /** A sentinel that was added later does not make it another directory. */
        boolean isSameAs(Directory now) {
            return Objects.equals(number, now.number) && (id == null || id.equals(now.id));
        }
    }
}
