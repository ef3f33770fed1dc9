package io.stepdown;

import java.io.IOException;
import java.io.InputStream;
import java.util.Properties;

/** What was built: the version and the revision of the sources. */
final class Kit {
    static final String VERSION;
    static final String REVISION;

    static {
        Properties build = new Properties();
        try (InputStream stream = Kit.class.getResourceAsStream("build.properties")) {
            build.load(stream);
        } catch (IOException | RuntimeException error) {
            throw new IllegalStateException("the driver kit's jar lacks build.properties", error);
        }
        VERSION = build.getProperty("version");
        REVISION = build.getProperty("revision");
    }

    private Kit() {}
}
