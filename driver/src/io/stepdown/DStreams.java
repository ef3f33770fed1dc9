package io.stepdown;

import java.lang.reflect.Method;

/** The active {@code StreamingContext} of the application, if it uses DStreams. */
final class DStreams {
    private final ClassLoader loader;

    DStreams(ClassLoader loader) {
        this.loader = loader;
    }

    /** The active context; null if there is none. */
    Object active() throws ReflectiveOperationException {
        Class<?> type;
        try {
            type = Class.forName("org.apache.spark.streaming.StreamingContext", true, loader);
        } catch (ClassNotFoundException error) {
            // An application without DStreams need not have their jar.
            return null;
        }
        return SparkInternals.option(type.getMethod("getActive").invoke(null));
    }

    /** Stops the context when what it has received is processed; returns after that. */
    static void stopGracefully(Object context) throws ReflectiveOperationException {
        Method stop = context.getClass().getMethod("stop", boolean.class, boolean.class);
        boolean stopSparkContext = false;
        boolean stopGracefully = true;
        stop.invoke(context, stopSparkContext, stopGracefully);
    }
}
