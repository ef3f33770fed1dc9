"""What tests fetch, once for each cache directory."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def fetch_once(home, fetch):
    """`fetch(directory)` fills an empty directory that is renamed to `home` as the last step, so what is
    there is complete. A lock file keeps two test processes from doing it at the same time."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.parent / "fetch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            with tempfile.TemporaryDirectory(dir=home.parent, prefix="fetch-") as work:
                new = Path(work) / "home"
                new.mkdir()
                fetch(new)
                os.rename(new, home)


def fetch_by_maven(pom, jars, **properties):
    """Puts the jars that a POM names, and what they need, into a directory."""
    if shutil.which("mvn") is None:
        sys.exit("mvn is missing: install Maven 3.6 or later (Debian package maven)")
    command = [
        "mvn", "--batch-mode", "--no-transfer-progress", "--strict-checksums", "--file", str(pom),
        "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={jars}",
        *(f"-D{name}={value}" for name, value in properties.items()),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if "ERROR" in line]
        sys.exit("Maven could not fetch it:\n" + "\n".join(errors[:10] or [done.stdout[-2000:]]))
