import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import org.apache.spark.api.java.function.VoidFunction2;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.Trigger;

/** A streaming job in Java as people write them; it leaves the same notes in DIR as job.py: Clicks DIR SECONDS. */
public final class Clicks {
    private Clicks() {}

    public static void main(String[] args) throws Exception {
        Path directory = Paths.get(args[0]);
        long milliseconds = (long) (Double.parseDouble(args[1]) * 1000);
        SparkSession spark = SparkSession.builder().appName("clicks").getOrCreate();
        Dataset<Row> rows = spark.readStream().format("rate-micro-batch").option("rowsPerBatch", 20).load();
        VoidFunction2<Dataset<Row>, Long> work = (batch, number) -> {
            note(directory, "0 begin " + number);
            batch.count();
            Thread.sleep(milliseconds);
            batch.count();
            note(directory, "0 end " + number);
        };
        rows.writeStream()
                .option("checkpointLocation", directory.resolve("checkpoint-0").toString())
                .trigger(Trigger.ProcessingTime(0))
                .foreachBatch(work)
                .start()
                .awaitTermination();
        note(directory, "0 returned");
    }

    private static void note(Path directory, String text) throws IOException {
        byte[] line = (System.currentTimeMillis() / 1e3 + " " + text + "\n").getBytes(StandardCharsets.UTF_8);
        Files.write(directory.resolve("batches"), line, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }
}
