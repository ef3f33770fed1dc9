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
        DriverKit kit = DriverKit.current();
        if (kit == null) {
            throw new IllegalStateException(
                    "the driver kit is not loaded: set spark.plugins=io.stepdown.StepdownPlugin");
        }
        kit.awaitGo();
    }
}
