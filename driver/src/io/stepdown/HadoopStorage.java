package io.stepdown;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.net.URI;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;
import java.util.UUID;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.CreateFlag;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileContext;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Options;
import org.apache.hadoop.fs.Path;

/** HDFS, viewfs and what else Hadoop's {@code FileSystem} reaches, with the application's credentials. */
final class HadoopStorage implements Storage {
    private final URI root;
    private final Configuration conf;
    private FileSystem opened;

    HadoopStorage(URI root, Configuration conf) {
        this.root = root;
        this.conf = conf;
    }

    @Override
    public boolean exists(URI file) throws IOException {
        try {
            fileSystem().getFileStatus(new Path(file));
            return true;
        } catch (FileNotFoundException error) {
            return false;
        } catch (IOException error) {
            throw forgetIfClosed(error);
        }
    }

    @Override
    public String numberOf(URI dir) throws IOException {
        FileStatus status;
        try {
            status = fileSystem().getFileStatus(new Path(dir));
        } catch (FileNotFoundException error) {
            throw Storage.missingDirectory(dir);
        } catch (IOException error) {
            throw forgetIfClosed(error);
        }
        if (!status.isDirectory()) {
            throw new IOException(dir + " is no directory");
        }
        try {
            // HDFS never gives the number of an inode twice. Not all clients show it.
            Method number = status.getClass().getMethod("getFileId");
            // The class is not public, its interface is.
            number.setAccessible(true);
            return String.valueOf(number.invoke(status));
        } catch (NoSuchMethodException | IllegalAccessException | InvocationTargetException error) {
            return null;
        }
    }

    @Override
    public byte[] readSmall(URI file) throws IOException {
        try (FSDataInputStream stream = fileSystem().open(new Path(file))) {
            byte[] bytes = new byte[MAX_BYTES + 1];
            int length = 0;
            for (int read = 0; read >= 0 && length < bytes.length; length += read) {
                read = stream.read(bytes, length, bytes.length - length);
                if (read < 0) {
                    return Arrays.copyOf(bytes, length);
                }
            }
            throw new IOException(file + " is too large for a message");
        } catch (FileNotFoundException error) {
            return null;
        } catch (IOException error) {
            throw forgetIfClosed(error);
        }
    }

    @Override
    public boolean createNew(URI file, byte[] bytes) throws IOException {
        Path path = new Path(file);
        try {
            FileSystem fs = fileSystem();
            int buffer = 4096;
            // Not with its parents: a directory that is missing is a mistake, or not mounted.
            try (FSDataOutputStream stream =
                    fs.createNonRecursive(
                            path,
                            false,
                            buffer,
                            fs.getDefaultReplication(path),
                            fs.getDefaultBlockSize(path),
                            null)) {
                stream.write(bytes);
            }
            return true;
        } catch (FileAlreadyExistsException error) {
            return false;
        } catch (IOException error) {
            throw forgetIfClosed(error);
        }
    }

    @Override
    public void replace(URI file, byte[] bytes) throws IOException {
        // FileSystem has no public rename that replaces.
        // Unlike that, a FileContext takes no hdfs:///path.
        Path target = fileSystem().makeQualified(new Path(file));
        FileContext context = FileContext.getFileContext(target.toUri(), conf);
        String name = "." + target.getName() + "." + UUID.randomUUID() + ".stepdown-tmp";
        Path temporary = new Path(target.getParent(), name);
        boolean isRenamed = false;
        try {
            try (FSDataOutputStream stream =
                    context.create(temporary, EnumSet.of(CreateFlag.CREATE))) {
                stream.write(bytes);
            }
            context.rename(temporary, target, Options.Rename.OVERWRITE);
            isRenamed = true;
        } finally {
            if (!isRenamed) {
                context.delete(temporary, false);
            }
        }
    }

    @Override
    public void delete(URI file) throws IOException {
        fileSystem().delete(new Path(file), false);
    }

    @Override
    public List<String> names(URI dir) throws IOException {
        try {
            List<String> names = new ArrayList<>();
            for (FileStatus entry : fileSystem().listStatus(new Path(dir))) {
                names.add(entry.getPath().getName());
            }
            return names;
        } catch (FileNotFoundException error) {
            return null;
        } catch (IOException error) {
            throw forgetIfClosed(error);
        }
    }

    /** An instance of its own: a job may close the one that all others share. */
    private synchronized FileSystem fileSystem() throws IOException {
        if (opened == null) {
            opened = FileSystem.newInstance(root, conf);
        }
        return opened;
    }

    /** {@code FileSystem.closeAll} of a job closes this one too: then the next call opens another. */
    private synchronized IOException forgetIfClosed(IOException error) {
        if ("Filesystem closed".equals(error.getMessage())) {
            opened = null;
        }
        return error;
    }
}
