"""Where the jars of the local broker are: resolved once by Maven, kept in the platform's cache.

The cache folder is named after the pom's hash, so another pom never meets old
jars, and a folder under its final name is always complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from platformdirs import user_cache_path

from worker.errors import OperationFailed

MIN_JAVA = 17
WAYS_OUT = "install it, or run `docker compose up -d kafka` and set PILOT_BOOTSTRAP_SERVERS to that broker"
POM = files("worker.kafka").joinpath("pom.xml")


def java() -> str:
    """Path of a Java runtime that can run the broker.

    Raises:
        OperationFailed: there is none, or it is too old; the line names both ways out.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None:
        raise OperationFailed(f"the local Kafka needs Java {MIN_JAVA} or newer, and there is no `java`: {WAYS_OUT}")
    answer = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    if version is None or int(version[1]) < MIN_JAVA:
        shown = version[1] if version else "unknown"
        raise OperationFailed(f"the local Kafka needs Java {MIN_JAVA} or newer, {found} is version {shown}: {WAYS_OUT}")
    return found


def jars(cache: Path | None = None) -> Path:
    """Folder with the broker's jars; the first call downloads them, safe to call at the same time.

    Raises:
        OperationFailed: Maven is missing or could not resolve the pom.
    """
    root = cache if cache is not None else user_cache_path("pilot-router") / "kafka"
    pom = POM.read_bytes()
    complete = root / hashlib.sha256(pom).hexdigest()[:16]
    if complete.is_dir():
        return complete
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperationFailed(f"{root}: the local Kafka's jars cannot be kept there: {error.strerror}") from None
    with exclusive(root / "lock"):
        if not complete.is_dir():
            _resolve(pom, complete)
    return complete


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an advisory lock on a file; waits for whoever holds it."""
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _resolve(pom: bytes, complete: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise OperationFailed(f"the local Kafka is fetched with Maven, and there is no `mvn`: {WAYS_OUT}")
    with tempfile.TemporaryDirectory(dir=complete.parent, prefix="resolving-") as scratch:
        (Path(scratch) / "pom.xml").write_bytes(pom)
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=lib"]
        done = subprocess.run([maven, "-q", "-B", *goal], cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line]
            said = lines[0] if lines else f"exit {done.returncode}"
            raise OperationFailed(f"Maven could not fetch the local Kafka ({said}): check the network, or {WAYS_OUT}")
        (Path(scratch) / "lib").rename(complete)
