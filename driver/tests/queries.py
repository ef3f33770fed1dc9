"""Streaming queries as people write them, and what they must have written when all is over."""

import json
import os
import time
import uuid
from pathlib import Path

ROWS = 20
FILES = 200
AVAILABLE_NOW = "available now"
# Of Kafka: which is read, which is written.
TOPIC, SINK_TOPIC = "clicks", "written"


def source(session, base, trigger, files=FILES, kafka=None):
    """The same rows for the same batch, each value once; of a topic of Kafka where a broker is given."""
    if kafka:
        rows = session.readStream.format("kafka").option("kafka.bootstrap.servers", kafka)
        rows = rows.option("subscribe", TOPIC).option("startingOffsets", "earliest").load()
        return rows.selectExpr("cast(value as string) as value")
    if trigger == AVAILABLE_NOW:
        directory = base / "input"
        if not directory.is_dir():
            directory.mkdir(parents=True)
            for number in range(files):
                (directory / f"{number}.txt").write_text(f"{number}\n")
        rows = session.readStream.format("text").option("maxFilesPerTrigger", 1).load(str(directory))
        return rows.selectExpr("cast(value as bigint) as value")
    rows = session.readStream.format("rate-micro-batch")
    return rows.option("rowsPerBatch", ROWS).option("numPartitions", 1).load().select("value")


def start(session, base, checkpoint, sink, trigger, seconds=0.0, name=None, note=lambda *_: None,
          files=FILES, kafka=None):
    """Starts one query. `seconds` is how long a batch works after it has written its rows."""
    rows = source(session, base, trigger, files, kafka)
    if sink == "stateful":
        rows = rows.groupBy((rows.value % 3).alias("value")).count()
    writer = rows.writeStream.option("checkpointLocation", str(checkpoint))
    if name:
        writer = writer.queryName(name)
    if trigger == AVAILABLE_NOW:
        writer = writer.trigger(availableNow=True)
    else:
        writer = writer.trigger(processingTime=trigger)
    if sink == "noop":
        return writer.format("noop").start()
    if sink == "files":
        return writer.format("json").option("path", str(base / "files")).start()
    if sink == "kafka":
        writer = writer.format("kafka").option("kafka.bootstrap.servers", kafka)
        return writer.option("topic", SINK_TOPIC).start()
    written = base / "written"
    written.mkdir(parents=True, exist_ok=True)

    def work(batch, number):
        note("begin", number)
        lines = [" ".join(str(value) for value in row) for row in batch.collect()]
        file = written / f"{number}.{time.time_ns()}.{uuid.uuid4().hex[:8]}"
        file.with_name("." + file.name).write_text("\n".join(lines))
        os.rename(file.with_name("." + file.name), file)
        time.sleep(seconds)
        batch.count()
        note("end", number)

    mode = "complete" if sink == "stateful" else "append"
    return writer.outputMode(mode).foreachBatch(work).start()


def newest(log):
    """The newest batch of a log; -1 if there is none."""
    if not log.is_dir():
        return -1
    return max((int(p.name) for p in log.iterdir() if p.name.isdigit()), default=-1)


def written_rows(base, checkpoint, sink, trigger):
    """(lost, twice in an idempotent sink, twice in one that only appends) after a last clean stop.

    The idempotent sink is keyed by the batch: what a batch wrote last counts.
    """
    batches = newest(checkpoint / "commits") + 1
    expected = batches * (1 if trigger == AVAILABLE_NOW else ROWS)
    if sink == "noop":
        return 0, 0, 0
    if sink == "files":
        values = [json.loads(line)["value"] for file in listed_files(base / "files")
                  for line in Path(file).read_text().splitlines()]
        return expected - len(set(values)), len(values) - len(set(values)), 0
    last, every = rows_of_batches(base)
    if sink == "stateful":
        counted = sum(int(line.split()[1]) for line in last[batches - 1])
        return max(0, expected - counted), max(0, counted - expected), 0
    values = [line for lines in last.values() for line in lines]
    distinct = len(set(values))
    return expected - distinct, len(values) - distinct, len(every) - len(set(every))


def rows_of_batches(base):
    """What each batch wrote last, and all that was ever written, by foreachBatch."""
    last, every = {}, []
    for file in sorted((base / "written").iterdir(), key=lambda p: int(p.name.split(".")[1])):
        lines = file.read_text().splitlines()
        last[int(file.name.split(".")[0])] = lines
        every += lines
    return last, every


def listed_files(directory):
    """What the file sink's own log holds: a batch that is written again replaces its files."""
    log = directory / "_spark_metadata"
    names = {p.name for p in log.iterdir() if p.name.split(".")[0].isdigit()}
    compacted = max((int(n.split(".")[0]) for n in names if n.endswith(".compact")), default=-1)
    files = []
    for name in names:
        number = int(name.split(".")[0])
        if number > compacted or name == f"{compacted}.compact":
            for line in (log / name).read_text().splitlines()[1:]:
                entry = json.loads(line)
                if entry["action"] == "add":
                    files.append(entry["path"].replace("file://", ""))
    return files
