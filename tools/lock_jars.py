"""Writes stack/kafka_jars.txt and the lock of the benchmark's Kafka Streams: `python -m tools.lock_jars`, or `make lock`. For maintainers.

Enters: the dependencies from Maven Central, and our replacements for some of them. Leaves: one line per jar, with the SHA-512 of the file
that was downloaded now. Read the changes of these files before you commit them.
"""

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

from jgo.maven import MavenContext

from stack.kafka_jars import LOCK
from stack.kafka_server import VERSION

LOGGING = "org.slf4j:slf4j-simple:1.7.36"
STREAMS = Path(__file__).parent.parent / "benchmarks" / "engine" / "streams_jars.txt"
# Avro is for the Java producer of docs/produce.md as well.
LOCKS = {
    LOCK: ("Kafka", (f"org.apache.kafka:kafka_2.13:{VERSION}", LOGGING)),
    STREAMS: ("Kafka Streams", (f"org.apache.kafka:kafka-streams:{VERSION}", "org.apache.avro:avro:1.12.1", LOGGING)),
}
# Dependency -> its replacement, and why.
REPLACED = {
    # CVE-2025-12183, CVE-2025-66566 and CVE-2026-59949: org.lz4 is not maintained any more; this fork has the same classes.
    "org.lz4:lz4-java": "at.yawk.lz4:lz4-java:1.14.0",
    # CVE-2025-48734, and CVE-2025-68161: later versions of Kafka come with these or newer ones.
    "commons-beanutils:commons-beanutils": "commons-beanutils:commons-beanutils:1.11.0",
    "org.apache.logging.log4j:log4j-api": "org.apache.logging.log4j:log4j-api:2.25.5",
    "org.apache.logging.log4j:log4j-core": "org.apache.logging.log4j:log4j-core:2.25.5",
}
HEAD = f"# The jars of {{}} {VERSION}: SHA-512 and coordinate. Written by tools/lock_jars.py; read the difference before you commit it.\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        context = MavenContext(repo_cache=Path(place), local_repos=[], timeout=60)
        for lock, (what, coordinates) in LOCKS.items():
            lines = [f"{_sha512(context, each)} {each}\n" for each in sorted(_resolved(context, coordinates))]
            lock.write_text(HEAD.format(what) + "".join(lines), encoding="ascii")


def _resolved(context: MavenContext, coordinates: Iterable[str]) -> set[str]:
    """The coordinates with all their dependencies, after the replacements."""
    inputs, transitive = context.resolver.resolve([context.create_dependency(each) for each in coordinates])
    found = set()
    for dependency in (*inputs, *transitive):
        name = f"{dependency.groupId}:{dependency.artifactId}"
        found.add(REPLACED.get(name, f"{name}:{dependency.version}"))
    return found


def _sha512(context: MavenContext, coordinate: str) -> str:
    with context.create_dependency(coordinate).artifact.resolve().open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


if __name__ == "__main__":
    main()
