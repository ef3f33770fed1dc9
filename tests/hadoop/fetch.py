#!/usr/bin/env python3
"""Puts the jars of one Hadoop version into a cache directory and prints where: fetch.py 3.4 CACHE.

Runs once per version and cache: a directory that is there is complete, because it is renamed into
place as the last step. A lock file keeps two test processes from doing it at the same time.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
# The servers refuse to start without these directories; the tests use none of the pages in them.
WEBAPPS = ["hdfs", "datanode", "journal", "static"]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def fetch_by_maven(into):
    if shutil.which("mvn") is None:
        sys.exit("mvn is missing: install Maven 3.6 or later (Debian package maven)")
    command = [
        "mvn", "--batch-mode", "--no-transfer-progress", "--strict-checksums", "--file", str(POM),
        "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={into}",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if "ERROR" in line]
        sys.exit("Maven could not fetch Hadoop:\n" + "\n".join(errors[:10] or [done.stdout[-2000:]]))


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("3.4",):
        sys.exit("usage: fetch.py 3.4 CACHE")
    cache = Path(sys.argv[2])
    cache.mkdir(parents=True, exist_ok=True)
    release = re.search("<hadoop.version>(.+?)<", POM.read_text()).group(1)
    home = cache / f"hadoop-{release}-{digest(POM)}"
    with open(cache / "fetch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as work:
                new = Path(work) / "home"
                fetch_by_maven(new / "jars")
                for name in WEBAPPS:
                    (new / "webapps" / name).mkdir(parents=True)
                os.rename(new, home)
    print(home)


main()
