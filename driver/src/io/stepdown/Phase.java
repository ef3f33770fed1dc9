package io.stepdown;

import java.util.Locale;

/** Where an attempt is in its life, as stepdown reads it from the status file. */
enum Phase {
    STARTING,
    HELD,
    RUNNING,
    DRAINING,
    DRAINED,
    ENDED;

    String word() {
        return name().toLowerCase(Locale.ROOT);
    }
}
