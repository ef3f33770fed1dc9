#!/usr/bin/env python3
"""Puts one version of PySpark into a cache directory and prints where.

    fetch.py 3.3.4|3.5.9|4.0.5|4.3.0 CACHE
    fetch.py VERSION CACHE yarn|connect       a directory with what Spark needs more for YARN, for Connect

What it prints is a PYTHONPATH: the source package without its setup, with the jars where `pip
install` puts them, and Py4J beside it. Left out are parts that no streaming job needs. Runs once per
version and cache.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.dont_write_bytecode = True  # the checkout stays as it is
from cache import fetch_once  # noqa: E402
from package_index import fetch_package  # noqa: E402

SHA256 = {
    "3.3.4": "1f866be47130a522355240949ed50d9812a8f327bd7619f043ffe07fbcf7f7b6",
    "3.5.9": "ea27adc39ddac9413b8951e45aa748cbed6c785971b81386efc41938f6243d93",
    "4.0.5": "a0d44b0e7faf0458ad83b7aa664e7ed8b96beed8a55d66ce3b0dfac2309dfca6",
    "4.3.0": "e8c517948eff7088a7aa07449aa8eafa4a15a8d50319de2525a6fd26622476c6",
}
# What the Python side of `transformWithState` imports, and what that does.
PACKAGES = {
    "3.3.4": [],
    "3.5.9": [],
    "4.0.5": [],
    "4.3.0": """
        numpy==2.3.5 pandas==2.3.3 protobuf==7.36.2 pyarrow==26.0.1 python-dateutil==2.9.0.post0
        pytz==2025.2 six==1.17.0 tzdata==2025.2
    """.split(),
}
# Jars of other cluster managers, of Hive, of machine learning, by the beginnings of their names.
UNUSED_JARS = """
    breeze datanucleus derby hive- JTransforms kubernetes- mesos spark-connect spark-ganglia
    spark-graphx spark-hive spark-kubernetes spark-mesos spark-mllib spark-yarn spire
""".split()
UNUSED_PYTHON = ("examples", "pandas")
# Of these, what some tests need: jars, by the beginnings of their names, and packages of a client.
MORE = {
    "yarn": (["spark-yarn_"], []),
    # Its server asks for a class of machine learning when a session ends.
    "connect": (["spark-connect_", "spark-mllib_"], """
        googleapis-common-protos==1.76.0 grpcio==1.85.3 grpcio-status==1.85.3 zstandard==0.25.0
    """.split()),
}


def unpack_jars(archive, beginnings, home):
    wanted = set(beginnings)
    with tarfile.open(archive) as package:
        for member in package:
            directory, name = os.path.split(member.name)
            mine = {beginning for beginning in wanted if name.startswith(beginning)}
            if member.isfile() and mine and directory.endswith("deps/jars") and name.endswith(".jar"):
                with package.extractfile(member) as source, open(home / name, "wb") as file:
                    shutil.copyfileobj(source, file)
                wanted -= mine
    if wanted:
        sys.exit(f"{archive.name} holds no jar {', '.join(sorted(wanted))}")


def unpack(archive, home):
    with tarfile.open(archive) as package:
        for member in package:
            target = place_of(member.name)
            if not member.isfile() or target is None:
                continue
            path = home / target
            path.parent.mkdir(parents=True, exist_ok=True)
            with package.extractfile(member) as source, open(path, "wb") as file:
                shutil.copyfileobj(source, file)
            path.chmod(0o755 if member.mode & 0o100 else 0o644)
    py4j = next((home / "lib").glob("py4j-*-src.zip"))
    with zipfile.ZipFile(py4j) as package:
        package.extractall(home)
    shutil.rmtree(home / "lib")


def install(packages, home):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    pip += ["--no-compile", "--disable-pip-version-check", "--root-user-action", "ignore"]
    if packages and subprocess.run([*pip, "--target", home, *packages]).returncode != 0:
        sys.exit("pip could not fetch the packages that PySpark needs")


def place_of(name):
    """Where the file of the package goes; None for one that is left out."""
    _, *parts = name.split("/")
    if len(parts) < 2:
        return None
    top, *rest = parts
    if top == "pyspark" and rest[0] not in UNUSED_PYTHON and "tests" not in rest:
        return Path(top, *rest)
    if top == "deps" and rest[0] == "jars" and not rest[-1].startswith(tuple(UNUSED_JARS)):
        return Path("pyspark", *rest)
    if top == "deps" and rest[0] == "bin":
        return Path("pyspark", *rest)
    if top == "lib" and rest[-1].startswith("py4j-"):
        return Path(top, *rest)
    return None


def main():
    more = sys.argv[3] if len(sys.argv) == 4 else None
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in SHA256 or more not in (None, *MORE):
        sys.exit(f"usage: fetch.py {'|'.join(SHA256)} CACHE [{'|'.join(MORE)}]")
    version, cache = sys.argv[1], Path(sys.argv[2])
    jars, packages = MORE[more] if more else (UNUSED_JARS, PACKAGES[version])
    contents = " ".join([SHA256[version], *packages, *jars, *(() if more else UNUSED_PYTHON)])
    name = f"spark-{more}" if more else "pyspark"
    home = cache / f"{name}-{version}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"

    def fetch(new):
        archive = new / f"pyspark-{version}.tar.gz"
        fetch_package("pyspark", archive.name, SHA256[version], archive)
        if more:
            unpack_jars(archive, jars, new)
        else:
            unpack(archive, new)
        install(packages, new)
        archive.unlink()
    fetch_once(home, fetch)
    print(home)


main()
