package io.stepdown;

import java.io.IOException;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Makes storage calls on a thread of its own, one after the other, each with a time-out: an HDFS client
 * has none, and a hung mount does not even take an interrupt. Never more than one call hangs.
 */
final class Deadline {
    private final ExecutorService thread;
    private final long timeoutMs;
    private Future<?> last;

    Deadline(String name, long timeoutMs) {
        this.timeoutMs = timeoutMs;
        thread =
                Executors.newSingleThreadExecutor(
                        task -> {
                            Thread thread = new Thread(task, name);
                            thread.setDaemon(true);
                            return thread;
                        });
    }

    /** Makes the call and waits for its result. Any failure is an {@code IOException}. */
    synchronized <T> T call(Callable<T> call) throws IOException {
        if (isBusy()) {
            throw new IOException("an earlier call still hangs");
        }
        Future<T> result = thread.submit(call);
        last = result;
        try {
            return result.get(timeoutMs, TimeUnit.MILLISECONDS);
        } catch (TimeoutException error) {
            // Not Future.cancel: the call would then count as over while it still hangs.
            throw new IOException("no answer within " + timeoutMs + " ms", error);
        } catch (ExecutionException error) {
            throw new IOException(error.getCause().toString(), error.getCause());
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new IOException("interrupted", error);
        }
    }

    /** Starts the call, unless an earlier one is still under way; whether it was started. */
    synchronized boolean start(Callable<?> call) {
        if (isBusy()) {
            return false;
        }
        last = thread.submit(call);
        return true;
    }

    /** Waits for a call that is under way, up to its time-out. */
    synchronized void settle() {
        if (!isBusy()) {
            return;
        }
        try {
            last.get(timeoutMs, TimeUnit.MILLISECONDS);
        } catch (TimeoutException | ExecutionException error) {
            // Whoever made the call says what came of it.
            return;
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
        }
    }

    private boolean isBusy() {
        return last != null && !last.isDone();
    }
}
