#!/usr/bin/env python3
"""Puts the jars of one Hadoop version into a cache directory and prints where.

    fetch.py 3.4 CACHE    the current line, by Maven from the repository it is configured for
    fetch.py 2.7 CACHE    the oldest line in use, from the source package of PySpark 2.4.8
    fetch.py yarn CACHE   YARN's servers of the current line, by Maven

Runs once per version and cache.
"""

import functools
import hashlib
import os
import re
import shutil
import sys
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.dont_write_bytecode = True  # the checkout stays as it is
from cache import fetch_by_maven, fetch_once  # noqa: E402
from package_index import fetch_package  # noqa: E402

POMS = {"3.4": HERE / "pom.xml", "yarn": HERE / "yarn/pom.xml"}
PYSPARK = "pyspark-2.4.8.tar.gz"
PYSPARK_SHA256 = "3a19b71b8dc8dd91ebc943604a05e1ab01bce052456d42937035632d852d78dc"
# What Hadoop needs of the jars that Spark brings, by the beginnings of their names.
PYSPARK_JARS = """
    activation- api-asn1-api- api-util- apacheds- avro-1 commons- curator- gson- guava- hadoop-
    htrace- httpclient- httpcore- jackson-core-asl- jackson-jaxrs- jackson-mapper-asl- jackson-xc-
    javax.servlet-api- javax.ws.rs-api- jaxb-api- jetty- jsp-api- jsr305- leveldbjni- log4j- netty-
    paranamer- protobuf-java- slf4j- snappy-java- stax-api-1.0-2 xercesImpl- xmlenc- xz- zookeeper-
""".split()
# The servers refuse to start without these directories; the tests use none of the pages in them.
WEBAPPS = ["hdfs", "datanode", "journal", "static", "cluster", "node"]


def fetch_from_pyspark(jars):
    archive = jars.parent / PYSPARK
    fetch_package("pyspark", PYSPARK, PYSPARK_SHA256, archive)
    jars.mkdir()
    with tarfile.open(archive) as package:
        for member in package:
            name = os.path.basename(member.name)
            wanted = name.endswith(".jar") and name.startswith(tuple(PYSPARK_JARS))
            if member.isfile() and "/deps/jars/" in member.name and wanted:
                with package.extractfile(member) as source, open(jars / name, "wb") as target:
                    shutil.copyfileobj(source, target)
    archive.unlink()


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in (*POMS, "2.7"):
        sys.exit("usage: fetch.py 3.4|2.7|yarn CACHE")
    # Maven takes a relative path from where its POM is.
    version, cache = sys.argv[1], Path(sys.argv[2]).resolve()
    if version in POMS:
        pom = POMS[version].read_text()
        release = re.search("<hadoop.version>(.+?)<", pom).group(1)
        name = "hadoop" if version == "3.4" else version
        home = cache / f"{name}-{release}-{digest(pom)}"
        fetch = functools.partial(fetch_by_maven, POMS[version])
    else:
        home, fetch = cache / f"hadoop-2.7.3-{digest(' '.join(PYSPARK_JARS))}", fetch_from_pyspark

    def fetch_all(new):
        fetch(new / "jars")
        if not any(new.glob("jars/hadoop-*.jar")):
            sys.exit(f"nothing of Hadoop {version} came to {new / 'jars'}")
        for name in WEBAPPS:
            (new / "webapps" / name).mkdir(parents=True)
    fetch_once(home, fetch_all)
    print(home)


main()
