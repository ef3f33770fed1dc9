"""A broker of Kafka, a job that reads a topic, and a producer of Kafka's own that writes it."""

import json
import re
import subprocess
import threading
import time
from pathlib import Path

from harness import START_S, Job, check, wait_until
from queries import SINK_TOPIC, TOPIC, rows_of_batches
from servers import JAVA, Servers, await_port, fetched, free_address

BROKER = "kafka.Kafka"
FORMAT = "kafka.tools.StorageTool"
TOPICS = "org.apache.kafka.tools.TopicCommand"
OFFSETS = "org.apache.kafka.tools.GetOffsetShell"
PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
CLUSTER_ID = "c3RlcGRvd24tdGVzdHMxMg"
TOOL_S = 120
ROWS_PER_SECOND = 300
# So that a producer whose test has failed ends by itself.
MOST_ROWS = 1_000_000


class Kafka(Servers):
    """One node, broker and controller in one."""

    def __init__(self):
        super().__init__("kafka", "broker", "stepdown-kafka-")
        # Only the broker logs: half of a tool's time is the start of its log.
        jars = Path(fetched("kafka", "broker"), "jars").glob("*.jar")
        self.tools = ":".join(str(jar) for jar in jars if not jar.name.startswith("log4j-slf4j"))
        self.address, controller = free_address(), free_address()
        site = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": self.dir / "data",
            # For the topic that a job writes.
            "num.partitions": 2,
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "group.initial.rebalance.delay.ms": 0,
            "log.cleaner.dedupe.buffer.size": 1 << 21,
        }
        self.site = self.dir / "server.properties"
        self.site.write_text("".join(f"{key}={value}\n" for key, value in site.items()))

    def bring_up(self):
        self.tool(FORMAT, "format", "--cluster-id", CLUSTER_ID, "--config", self.site)
        self.start(BROKER, str(self.site))
        await_port(self.address, "the broker")

    def command(self, name, *words):
        return ["nice", "-n", "10", *JAVA, "-cp", self.tools, name, *map(str, words)]

    def tool(self, name, *words):
        """What one of Kafka's tools prints."""
        done = subprocess.run(self.command(name, *words), capture_output=True, text=True, timeout=TOOL_S)
        check(done.returncode == 0, f"{name} {words}: {done.stdout}{done.stderr}")
        return done.stdout

    def create_topic(self, topic, partitions):
        self.tool(TOPICS, "--bootstrap-server", self.address, "--create", "--topic", topic,
                  "--partitions", partitions)

    def end_offsets(self, topic):
        """By partition, as a checkpoint has them."""
        said = self.tool(OFFSETS, "--bootstrap-server", self.address, "--topic", topic)
        ends = re.findall(rf"^{topic}:(\d+):(\d+)$", said, re.M)
        check(ends, f"no offsets of {topic}: {said}")
        return {partition: int(end) for partition, end in ends}

    def rows(self, topic):
        """All that was written into it."""
        count = sum(self.end_offsets(topic).values())
        said = self.tool(CONSUMER, "--bootstrap-server", self.address, "--topic", topic,
                         "--from-beginning", "--max-messages", count, "--timeout-ms", 60_000)
        return said.split()

    def hang(self):
        super().hang(BROKER)

    def resume(self):
        super().resume(BROKER)


class Producer:
    """Writes the numbers from `first` into a topic that has those before it, each once, until it is
    told to finish."""

    def __init__(self, kafka, topic, first=0):
        self.kafka, self.topic, self.first = kafka, topic, first
        self.next = first
        self.finished = threading.Event()

    def __enter__(self):
        # It must wait for a broker that hangs.
        self.process = subprocess.Popen(
            self.kafka.command(
                PRODUCER, "--bootstrap-server", self.kafka.address, "--topic", self.topic,
                "--timeout", 10, "--request-timeout-ms", 60_000, "--message-send-max-retries", 1000,
                "--reader-property", "parse.key=true", "--reader-property", "key.separator=:"),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.writer = threading.Thread(target=self.write, daemon=True)
        self.writer.start()
        return self

    def write(self):
        begun = time.monotonic()
        while self.next < MOST_ROWS and not self.finished.wait(
                max(0, begun + (self.next - self.first) / ROWS_PER_SECOND - time.monotonic())):
            # The key spreads them over the partitions.
            self.process.stdin.write(f"{self.next}:{self.next}\n")
            self.process.stdin.flush()
            self.next += 1

    def finish(self):
        """The number after the last; the broker has all before it."""
        self.finished.set()
        self.writer.join(TOOL_S)
        _, errors = self.process.communicate(timeout=TOOL_S)
        check(self.process.returncode == 0, f"the producer failed: {errors}")
        there = sum(self.kafka.end_offsets(self.topic).values())
        check(there == self.next, f"{self.next} rows were written, {there} are there")
        return self.next

    def __exit__(self, *_):
        self.finished.set()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Reader(Job):
    """A job that reads a topic."""

    def __init__(self, home, kafka, *args):
        self.kafka = kafka
        kafka.create_topic(TOPIC, partitions=3)
        jars = Path(fetched("kafka", home.name.split("-")[1]), "jars").glob("*.jar")
        conf = {"spark.jars": ",".join(map(str, jars))}
        super().__init__(home, args=["--kafka", kafka.address, *args], conf=conf)

    def committed_offsets(self):
        """By partition, from the checkpoint's own files."""
        batch = self.last_committed()
        if batch is None:
            return {}
        offsets = self.dir / f"checkpoint-0/offsets/{batch}"
        return json.loads(offsets.read_text().splitlines()[-1])[TOPIC]

    def await_all_rows(self):
        """The end of each partition, when the job has read and committed all of them."""
        ends = self.kafka.end_offsets(TOPIC)
        wait_until(START_S, "every row of the topic is read",
                   lambda: self.committed_offsets() == ends or not self.is_running())
        return ends

    def rows(self, sink):
        """What a sink that knows its batches holds, and what one that only appends."""
        if sink == "kafka":
            rows = self.kafka.rows(SINK_TOPIC)
            return rows, rows
        last, every = rows_of_batches(self.dir / "query-0")
        return [row for rows in last.values() for row in rows], every
