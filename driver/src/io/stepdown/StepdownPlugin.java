package io.stepdown;

import org.apache.spark.api.plugin.DriverPlugin;
import org.apache.spark.api.plugin.ExecutorPlugin;
import org.apache.spark.api.plugin.SparkPlugin;

/** The class that {@code spark.plugins} names. Nothing of it runs in executors. */
public final class StepdownPlugin implements SparkPlugin {
    @Override
    public DriverPlugin driverPlugin() {
        return new DriverKit();
    }

    @Override
    public ExecutorPlugin executorPlugin() {
        return null;
    }
}
