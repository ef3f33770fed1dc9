#!/usr/bin/env python3
"""Hundreds of stops of real Spark, by the kit and by other means, as a table in docs/soak.md.

    soak.py [--spark VERSION]... [--ways WAY]... [--scale FACTOR] [--show]

Can be interrupted: what is done is kept in .cache/soak/driver.jsonl, and the next run goes on from there.
The table is written when all is done, or what there is of it with --show.
"""

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import cases  # noqa: E402
from harness import END_S, ROOT, Failed, Job, check, newest, replace_block, spark_home  # noqa: E402
from queries import AVAILABLE_NOW, written_rows  # noqa: E402
from run import SPARKS  # noqa: E402

RESULTS = ROOT / ".cache/soak/driver.jsonl"
DOCS = ROOT / "docs/soak.md"
BEGIN, END = "<!-- driver stops -->", "<!-- end of driver stops -->"
COUNTS = ["stops", "dirty", "wrong_exits", "lost", "twice", "appended_twice"]
TRIALS_A_UNIT = 10

# What is stopped how: (units on each Spark, its name in the table).
IN_ONE_JVM = {
    "kit": (2, "the kit, many stops in one JVM"),
    "moments": (2, "the kit, 0 to 60 ms after the plan of a batch"),
    "mark": (1, "the kit's mark at any moment"),
    "stop": (1, "`query.stop()`"),
}
APPLICATIONS = {
    "rm": (5, "the kit, whole applications, `rm` of the marker"),
    "term": (3, "the kit, whole applications, SIGTERM"),
    "plain-term": (3, "SIGTERM without the kit"),
}
# Whole applications that read a topic of Kafka.
ON_KAFKA = {
    "kafka": (4, "the kit, applications that read Kafka, `rm` of the marker"),
}
WAYS = {**IN_ONE_JVM, **APPLICATIONS, **ON_KAFKA}
BY_THE_KIT = ("kit", "moments", "rm", "term", "kafka")
STOPS_ON_KAFKA = 6
KAFKA_SHAPES = [("foreach", "0 seconds", 0.5), ("kafka", "0 seconds", 0), ("foreach", "2 seconds", 0),
                ("kafka", "2 seconds", 0)]
MAINS = ["await", "any", "poll", "loop"]
TRIGGERS = ["0 seconds", "200 milliseconds", "2 seconds", "30 seconds", AVAILABLE_NOW]
SINKS = [("foreach", 0), ("foreach", 1.5), ("noop", 0), ("files", 0), ("stateful", 0.5)]


def trials(home, way, number):
    """One Spark with some trials of two stops each."""
    how = "kit" if way == "moments" else way
    args = ["--count", TRIALS_A_UNIT, "--seed", number, "--ways", how]
    if way == "moments":
        args += ["--moments", "planned", "--triggers", "0 seconds", "200 milliseconds", "1 second"]
    if way in ("mark", "stop"):
        # For comparison only; ten queries at once take their time.
        args += ["--queries", 1, 3]
    counted = cases.trials(home, *args, seconds=3600)[how]
    return {key: counted.get(key, 0) for key in COUNTS} | {
        "seconds": counted["longest_ms"] / 1000, "details": counted["details"]}


def application(home, way, number):
    """One application that is stopped, started again, and stopped again."""
    random.seed(f"{way} {number}")
    (sink, seconds), trigger = random.choice(SINKS), TRIGGERS[number % len(TRIGGERS)]
    main, queries = MAINS[number % len(MAINS)], random.choice([1, 1, 3, 10])
    shape = f"{main}, {sink} {seconds} s, trigger {trigger}, {queries} queries"
    args = ["--main", main, "--sink", sink, "--trigger", trigger]
    args += ["--files", 400, "--batch-seconds", *[seconds] * queries]
    conf = {"spark.stepdown.end-loop-after": "2s", "spark.driver.memory": "1g"}
    if way == "plain-term":
        conf = {"spark.plugins": "", "spark.driver.memory": "1g"}
    counted = dict.fromkeys(COUNTS, 0) | {"seconds": 0.0, "details": []}
    with Job(home, args=args, conf=conf) as job:
        for again in (False, True):
            if again:
                job.start_again()
            took, code, logs = stop_once(job, way, queries, trigger)
            counted["stops"] += 1
            counted["seconds"] = max(counted["seconds"], took)
            if any(planned != committed for planned, committed in logs):
                counted["dirty"] += 1
                counted["details"].append([shape, logs])
            if code not in ((0,) if way == "rm" else (143, -15)):
                counted["wrong_exits"] += 1
                counted["details"].append([shape, f"exit code {code}"])
        if way == "plain-term":
            # The batch that was planned last must be done before rows are counted.
            job.start_again({"spark.plugins": "io.stepdown.StepdownPlugin",
                             "spark.stepdown.end-loop-after": "2s"})
            stop_once(job, "rm", queries, trigger)
        for index in range(queries):
            rows = written_rows(job.dir / f"query-{index}", job.dir / f"checkpoint-{index}", sink, trigger)
            for key, more in zip(("lost", "twice", "appended_twice"), rows):
                counted[key] += more
            if rows[0] or rows[1]:
                counted["details"].append([shape, rows])
    return counted


def on_kafka(home, way, number):
    """One application that is stopped again and again while rows are written into its topic."""
    random.seed(f"{way} {number}")
    sink, trigger, seconds = KAFKA_SHAPES[number % len(KAFKA_SHAPES)]
    return cases.stops_on_kafka(home, sink, trigger, STOPS_ON_KAFKA, seconds)


def stop_once(job, way, queries, trigger):
    """Seconds, exit code, and what was planned and committed last by each query."""
    checkpoints = [job.dir / f"checkpoint-{index}" for index in range(queries)]
    for index in range(queries):
        before = job.last_committed(index)
        more = 1 if trigger == "30 seconds" else 2
        job.await_commit((-1 if before is None else before) + more, index)
    time.sleep(random.uniform(0, 3))
    job.is_running()
    begun = time.monotonic()
    if way == "rm":
        job.marker.unlink()
    else:
        os.kill(job.java_pid(), signal.SIGTERM)
    code = job.await_end(2 * END_S)
    took = time.monotonic() - begun
    return took, code, [(newest(c / "offsets"), newest(c / "commits")) for c in checkpoints]


def units(versions, scale):
    """Every unit, in an order in which all Sparks and ways come on together."""
    plan = []
    for way, (count, _) in WAYS.items():
        for number in range(max(1, round(count * scale))):
            plan += [(number / count, version, way, number) for version in versions]
    return [unit[1:] for unit in sorted(plan, key=lambda unit: unit[0])]


def load():
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return [json.loads(line) for line in lines]


def save(result):
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with open(RESULTS, "a") as file:
        file.write(json.dumps(result) + "\n")


def table(results):
    names = {way: name for way, (_, name) in WAYS.items()}
    lines = ["| Spark | stopped by | stops | dirty | wrong exit code | rows lost | rows twice | "
             "rows twice where the sink only appends | longest |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for way, name in names.items():
        for version in SPARKS:
            mine = [r for r in results if (r["spark"], r["way"]) == (version, way)]
            if not mine:
                continue
            sums = [sum(r[key] for r in mine) for key in COUNTS]
            if way in IN_ONE_JVM:
                sums[2] = ""
            cells = " | ".join(map(str, sums))
            lines.append(f"| {version} | {name} | {cells} | {max(r['seconds'] for r in mine):.1f} s |")
    return "\n".join(lines)


def write_docs(results):
    days = sorted({r["date"] for r in results})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    stops = sum(r["stops"] for r in results)
    kit = sum(r["stops"] for r in results if r["way"] in BY_THE_KIT)
    kits = {r["kit"] for r in results}
    text = (f"{span}, {os.cpu_count()} cores, {memory:.0f} GB, kit {', '.join(sorted(kits))}: "
            f"{stops} stops, {kit} of them by the kit.\n\n{table(results)}")
    replace_block(DOCS, BEGIN, END, text)


def revision():
    words = ["git", "-C", str(ROOT), "log", "-1", "--format=%h", "--", "driver/src"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spark", action="append", choices=SPARKS)
    parser.add_argument("--ways", nargs="+", choices=WAYS)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of stops")
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = load()
    if args.show:
        write_docs(results)
        return
    done = {(r["spark"], r["way"], r["number"]) for r in results}
    failed = 0
    for version, way, number in units(args.spark or SPARKS, args.scale):
        if (version, way, number) in done or way not in (args.ways or [way]):
            continue
        run = trials if way in IN_ONE_JVM else on_kafka if way in ON_KAFKA else application
        begun = time.monotonic()
        try:
            counted = run(spark_home(version), way, number)
        except Failed as error:
            failed += 1
            print(f"FAILED: {version} {way} {number}: {error}", flush=True)
            continue
        counted.update(spark=version, way=way, number=number, kit=revision(),
                       date=datetime.date.today().isoformat())
        save(counted)
        print(f"{version} {way} {number}: {counted} ({time.monotonic() - begun:.0f} s)", flush=True)
    results = load()
    write_docs(results)
    print(table(results))
    dirty = sum(r["dirty"] + r["wrong_exits"] for r in results if r["way"] in BY_THE_KIT)
    wrong = sum(r["lost"] + r["twice"] for r in results)
    check(not failed, f"{failed} units failed")
    check(not dirty and not wrong, f"{dirty} dirty, {wrong} rows lost or twice")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(str(error))
