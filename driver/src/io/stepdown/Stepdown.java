package io.stepdown;

/** What a job may call. No job has to. */
public final class Stepdown {
    private Stepdown() {}

    /**
     * Returns when this application may start its queries: at once without {@code spark.stepdown.go},
     * else when the {@code go} of its rollout is there. With {@code spark.stepdown.hold=call} this is
     * where a job is held, after its own warm-up. From Python: {@code
     * spark._jvm.io.stepdown.Stepdown.awaitGo()}.
     *
     * @throws IllegalStateException if the kit is not loaded, the time is over, or the marker is gone
     */
    public static void awaitGo() {
        kit().awaitGo();
    }

    /**
     * Asks the application in the other slot of this job to step down, and returns when it has: {@code
     * clean} if it committed all that it planned, {@code dirty} if not, {@code unproven} if its
     * checkpoints do not tell, {@code none} if there is nobody. To be called before queries are started.
     * From Python: {@code spark._jvm.io.stepdown.Stepdown.takeOver("30min")}.
     *
     * @param within how long to wait, as Spark writes times
     * @throws IllegalStateException if the predecessor did not step down in that time, cannot, or was
     *     started again, or if this application is to stop itself: do not start queries then
     */
    public static String takeOver(String within) {
        return kit().takeOver(Settings.time(within));
    }

    private static DriverKit kit() {
        DriverKit kit = DriverKit.current();
        if (kit == null) {
            throw new IllegalStateException(
                    "the driver kit is not loaded: set spark.plugins=io.stepdown.StepdownPlugin");
        }
        return kit;
    }
}
