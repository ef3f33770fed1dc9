package io.stepdown;

import java.io.IOException;
import java.net.URI;
import java.util.Collections;
import java.util.List;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;

/**
 * The few calls that the kit makes on a file system. Any of them may hang: see {@link Deadline}.
 *
 * <p>"No such file" is told only where the file system said just that; everything else is an error.
 */
interface Storage {
    /** Message files larger than this are not read. */
    int MAX_BYTES = 1 << 20;

    /** Whether the file is there. */
    boolean exists(URI file) throws IOException;

    /**
     * What tells this directory from another one at the same path: its number in the file system, or
     * null where that does not give one.
     */
    String numberOf(URI dir) throws IOException;

    /** The bytes of a small file; null if there is no such file. */
    byte[] readSmall(URI file) throws IOException;

    /** Makes the file unless it is there; whether this call made it. */
    boolean createNew(URI file, byte[] bytes) throws IOException;

    /** Puts the bytes in place of the file in one step, by a temporary file and a rename. */
    void replace(URI file, byte[] bytes) throws IOException;

    /** Removes the file if it is there. */
    void delete(URI file) throws IOException;

    /** The names in a directory; null if there is no such directory. */
    List<String> names(URI dir) throws IOException;

    /** The newest number among the names in a directory; null if there is none. */
    static Long newestNumber(Storage storage, URI dir) throws IOException {
        List<String> names = storage.names(dir);
        Long newest = null;
        for (String name : names == null ? Collections.<String>emptyList() : names) {
            Long number = number(name);
            if (number != null && (newest == null || number > newest)) {
                newest = number;
            }
        }
        return newest;
    }

    /** The storage of a URI, with the rights of the calling thread's user. */
    static Storage of(URI uri, Configuration conf) {
        return isLocal(uri) ? new LocalStorage() : new HadoopStorage(uri, conf);
    }

    /** Reads a URI as stepdown does: a plain path is on local disk. */
    static URI parse(String text) {
        if (text.startsWith("/")) {
            return new Path("file", null, text).toUri();
        }
        URI uri = new Path(text).toUri();
        if (uri.getScheme() == null || uri.getPath() == null || !uri.getPath().startsWith("/")) {
            throw new IllegalArgumentException("'" + text + "' is neither a URI nor an absolute path");
        }
        return uri;
    }

    /** Of a marker: nobody vouches for an absence in a directory that is not there. */
    static IOException missingDirectory(Object dir) {
        return new IOException(dir + " does not exist: make it, and touch the marker in it");
    }

    static boolean isLocal(URI uri) {
        return "file".equals(uri.getScheme());
    }

    /** The URI as stepdown writes it: local ones as plain paths. */
    static String show(URI uri) {
        return isLocal(uri) ? uri.getPath() : new Path(uri).toString();
    }

    static URI parent(URI file) {
        return new Path(file).getParent().toUri();
    }

    static URI child(URI dir, String name) {
        return new Path(new Path(dir), name).toUri();
    }

    /** The number that a batch's file has for a name, or null for every other name. */
    static Long number(String name) {
        return name.matches("[0-9]{1,18}") ? Long.valueOf(name) : null;
    }
}
