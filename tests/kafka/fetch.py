#!/usr/bin/env python3
"""Puts the jars of a Kafka broker and its tools, or of Spark's connector, into a cache directory and
prints where.

    fetch.py broker CACHE
    fetch.py 3.3.4|3.5.9|4.0.5|4.3.0 CACHE    what that Spark needs to read and write Kafka

By Maven from the repository it is configured for. Runs once per version and cache.
"""

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.dont_write_bytecode = True  # the checkout stays as it is
from cache import fetch_by_maven, fetch_once  # noqa: E402

# Scala's and the connector's version for each Spark: its own where it is to be had, else the newest
# that was found of a line that works with it.
CONNECTORS = {
    "3.3.4": ("2.12", "3.3.4"),
    "3.5.9": ("2.12", "3.5.1"),
    "4.0.5": ("2.13", "4.0.0"),
    "4.3.0": ("2.13", "4.2.0"),
}


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in (*CONNECTORS, "broker"):
        sys.exit(f"usage: fetch.py broker|{'|'.join(CONNECTORS)} CACHE")
    # Maven takes a relative path from where its POM is.
    what, cache = sys.argv[1], Path(sys.argv[2]).resolve()
    pom, properties, name = HERE / "pom.xml", {}, "kafka-broker"
    if what != "broker":
        scala, connector = CONNECTORS[what]
        pom, properties = HERE / "connector/pom.xml", {"scala": scala, "connector": connector}
        name = f"kafka-connector-{connector}"
    home = cache / f"{name}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"

    def fetch(new):
        fetch_by_maven(pom, new / "jars", **properties)
    fetch_once(home, fetch)
    print(home)


main()
