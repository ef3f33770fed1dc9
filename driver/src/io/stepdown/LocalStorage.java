package io.stepdown;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.UUID;
import java.util.stream.Stream;

/** Local disk. Hadoop's own class for it says "no such file" for what it may not see, so not by that. */
final class LocalStorage implements Storage {
    @Override
    public boolean exists(URI file) throws IOException {
        try {
            Files.readAttributes(path(file), BasicFileAttributes.class, LinkOption.NOFOLLOW_LINKS);
            return true;
        } catch (NoSuchFileException error) {
            return false;
        }
    }

    @Override
    public String numberOf(URI dir) throws IOException {
        Path path = path(dir);
        try {
            if (!Files.readAttributes(path, BasicFileAttributes.class).isDirectory()) {
                throw new IOException(path + " is no directory");
            }
        } catch (NoSuchFileException error) {
            throw Storage.missingDirectory(path);
        }
        if (!Files.isReadable(path) || !Files.isExecutable(path)) {
            throw new IOException(path + " is not readable");
        }
        return Files.getAttribute(path, "unix:dev") + ":" + Files.getAttribute(path, "unix:ino");
    }

    @Override
    public byte[] readSmall(URI file) throws IOException {
        try {
            if (Files.size(path(file)) > MAX_BYTES) {
                throw new IOException(path(file) + " is too large for a message");
            }
            return Files.readAllBytes(path(file));
        } catch (NoSuchFileException error) {
            return null;
        }
    }

    @Override
    public boolean createNew(URI file, byte[] bytes) throws IOException {
        try {
            Files.write(path(file), bytes, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
            return true;
        } catch (FileAlreadyExistsException error) {
            return false;
        }
    }

    @Override
    public void replace(URI file, byte[] bytes) throws IOException {
        Path target = path(file);
        String name = "." + target.getFileName() + "." + UUID.randomUUID() + ".stepdown-tmp";
        Path temporary = target.resolveSibling(name);
        try {
            Files.write(temporary, bytes);
            Files.move(temporary, target, StandardCopyOption.ATOMIC_MOVE);
        } finally {
            Files.deleteIfExists(temporary);
        }
    }

    @Override
    public void delete(URI file) throws IOException {
        Files.deleteIfExists(path(file));
    }

    @Override
    public List<String> names(URI dir) throws IOException {
        try (Stream<Path> entries = Files.list(path(dir))) {
            List<String> names = new ArrayList<>();
            for (Iterator<Path> each = entries.iterator(); each.hasNext(); ) {
                names.add(each.next().getFileName().toString());
            }
            return names;
        } catch (NoSuchFileException | FileNotFoundException error) {
            return null;
        }
    }

    private static Path path(URI uri) {
        return Paths.get(uri.getPath());
    }
}
