#!/usr/bin/env python3
"""Many drains, and as many stops of other kinds beside them, as a table.

    soak.py [COUNT]     of each kind on each Spark; 100
"""

import sys

sys.dont_write_bytecode = True
import cases  # noqa: E402
from harness import spark_home  # noqa: E402
from run import SPARKS  # noqa: E402

WAYS = {"kit": "the driver kit", "mark": "its mark at any moment", "stop": "`query.stop()`"}


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    print("| Spark | stopped by | stops | dirty | longest |\n| --- | --- | --- | --- | --- |", flush=True)
    dirty = 0
    for version in SPARKS:
        home = spark_home(version)
        for way, name in WAYS.items():
            counted = cases.trials(home, "--count", count, "--ways", way, seconds=60 * count)[way]
            longest = counted["longest_ms"] / 1000
            print(f"| {version} | {name} | {count} | {counted['dirty']} | {longest:.1f} s |", flush=True)
            for detail in counted["details"] if way == "kit" else []:
                print(f"dirty: {detail}", file=sys.stderr)
            dirty += counted["dirty"] if way == "kit" else 0
    sys.exit(1 if dirty else 0)


main()
