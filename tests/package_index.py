"""Downloads from the Python package index that pip is configured for."""

import hashlib
import html
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request

ANSWER_SECONDS = 60


def fetch_package(project, name, sha256, target):
    """Not by `pip download`: that runs the package's own setup, which fails on current Pythons."""
    try:
        download(project, name, target)
    except OSError as error:
        sys.exit(f"could not fetch {name} from the Python package index: {error}")
    digest = hashlib.sha256()
    with open(target, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    if digest.hexdigest() != sha256:
        sys.exit(f"{name} has the SHA-256 {digest.hexdigest()}, expected {sha256}")


def download(project, name, target):
    page_url = f"{package_index().rstrip('/')}/{project}/"
    with urllib.request.urlopen(page_url, timeout=ANSWER_SECONDS) as page:
        links = re.findall('href="([^"]+)"', page.read().decode())
    for link in map(html.unescape, links):
        file_url = urllib.parse.urljoin(page_url, link)
        if urllib.parse.urlparse(file_url).path.endswith(f"/{name}"):
            with urllib.request.urlopen(file_url, timeout=ANSWER_SECONDS) as source:
                with open(target, "wb") as file:
                    shutil.copyfileobj(source, file)
            return
    raise OSError(f"{page_url} has no link to it")


def package_index():
    """The index that pip is configured for, or else the one that pip itself has built in."""
    own = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    index = (
        os.environ.get("PIP_INDEX_URL")
        or ask_python("-m", "pip", "config", "get", "global.index-url")
        or ask_python("-c", own)
    )
    if not index:
        sys.exit("pip is missing: install it (Debian package python3-pip), or set PIP_INDEX_URL")
    return index


def ask_python(*arguments):
    """What it prints; nothing if it fails."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
