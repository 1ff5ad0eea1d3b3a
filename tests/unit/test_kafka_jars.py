"""Kafka's jars are those of the lock: compared before they run, replaced once if wrong, refused if still wrong."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stack import kafka_jars, kafka_server
from stack.kafka_jars import Jar
from stack.launch import ServiceFailed
from tests.support.source_tree import modules
from tools.lock_jars import REPLACED, STREAMS

CONTENT = {"org.one:one:1.0": b"one", "org.two:two:2.0": b"two"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with the two jars of a small lock; this process has not compared them yet."""
    jars = tuple(Jar(hashlib.sha512(content).hexdigest(), name) for name, content in CONTENT.items())
    monkeypatch.setattr(kafka_jars, "locked", lambda *_: jars)
    monkeypatch.setattr(kafka_jars, "_checked", set())
    folder = tmp_path / "cache" / "kafka"
    folder.mkdir(parents=True)
    for jar in jars:
        (folder / jar.name).write_bytes(CONTENT[jar.coordinate])
    return folder


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A local Maven repository with `CONTENT`; returns the list of jars that were requested."""
    asked: list[str] = []

    class Repository(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            group, artifact, version, name = self.path.removeprefix("/org/").split("/")
            content = CONTENT.get(f"org.{group}:{artifact}:{version}")
            is_jar = name == f"{artifact}-{version}.jar" and content is not None
            self.send_response(200 if is_jar else 404)
            self.end_headers()
            if is_jar:
                asked.append(name)
                self.wfile.write(content or b"")

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Repository) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(kafka_jars, "REPOSITORIES", {"here": f"http://127.0.0.1:{server.server_port}"})
        yield asked
        server.shutdown()
        thread.join()


def test_the_right_ones_are_taken_from_the_cache(folder: Path, fetched: list[str]) -> None:
    assert [path.name for path in kafka_jars.ready(folder)] == ["one-1.0.jar", "two-2.0.jar"]
    assert fetched == []


def test_a_changed_a_missing_and_a_foreign_jar_are_told_and_put_right_once(folder: Path, fetched: list[str]) -> None:
    (folder / "one-1.0.jar").write_bytes(b"ONE")  # the same size
    (folder / "two-2.0.jar").unlink()
    (folder / "also.jar").write_bytes(b"not ours")
    lines: list[str] = []
    paths = kafka_jars.ready(folder, lines.append)
    assert [path.read_bytes() for path in paths] == [b"one", b"two"]
    assert sorted(path.name for path in folder.iterdir()) == ["one-1.0.jar", "two-2.0.jar"]
    assert sorted(fetched) == ["one-1.0.jar", "two-2.0.jar"]
    [line] = lines
    assert "also.jar, one-1.0.jar, two-2.0.jar; they are downloaded again" in " ".join(line.split())
    assert list(folder.parent.iterdir()) == [folder]
    assert kafka_jars.ready(folder, lines.append) == paths
    assert len(lines) == 1


def test_a_link_in_place_of_a_jar_is_no_jar(folder: Path, fetched: list[str], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jar"
    shutil.copy(folder / "one-1.0.jar", elsewhere)
    (folder / "one-1.0.jar").unlink()
    (folder / "one-1.0.jar").symlink_to(elsewhere)
    kafka_jars.ready(folder)
    assert fetched == ["one-1.0.jar"]
    assert not (folder / "one-1.0.jar").is_symlink()


def test_what_is_wrong_as_downloaded_is_never_kept(
    folder: Path, fetched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTENT, "org.two:two:2.0", b"somebody else's")
    shutil.rmtree(folder)
    with pytest.raises(ServiceFailed, match=r"two-2\.0\.jar has another SHA-512; none was run"):
        kafka_jars.ready(folder)
    assert len(fetched) == 2
    assert list(folder.parent.iterdir()) == []


def test_the_lock_names_every_jar_once_and_none_with_a_known_weakness() -> None:
    jars = kafka_jars.locked()
    assert len({jar.name for jar in jars}) == len(jars) > 40
    assert all(len(jar.sha512) == 128 and jar.coordinate.count(":") == 2 for jar in jars)
    coordinates = {jar.coordinate.rpartition(":")[0]: jar.coordinate.rpartition(":")[2] for jar in jars}
    assert coordinates["org.apache.kafka:kafka_2.13"] == kafka_server.VERSION
    assert "org.lz4:lz4-java" not in coordinates  # CVE-2025-12183, and not maintained
    assert tuple(map(int, coordinates["at.yawk.lz4:lz4-java"].split("."))) >= (1, 11, 1)


def test_a_real_jar_comes_by_its_coordinate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Maven Central, as in a first run: a jar of 5 KB."""
    [small] = [jar for jar in kafka_jars.locked() if jar.name.startswith("jspecify")]
    monkeypatch.setattr(kafka_jars, "locked", lambda *_: (small,))
    [path] = kafka_jars.ready(tmp_path / "kafka")
    assert hashlib.sha512(path.read_bytes()).hexdigest() == small.sha512


def test_the_lock_of_kafka_streams_is_of_the_same_releases_and_replaces_the_same() -> None:
    """The jars of the benchmark, and Avro for the Java producer of docs/produce.md."""
    streams = {jar.coordinate for jar in kafka_jars.locked(STREAMS)}
    assert {
        f"org.apache.kafka:kafka-streams:{kafka_server.VERSION}",
        f"org.apache.kafka:kafka-clients:{kafka_server.VERSION}",
    } <= streams
    assert not {
        name for name in streams if name.rpartition(":")[0] in REPLACED and name != REPLACED[name.rpartition(":")[0]]
    }
    shared = {jar.coordinate: jar.sha512 for jar in kafka_jars.locked()}
    assert all(jar.sha512 == shared.get(jar.coordinate, jar.sha512) for jar in kafka_jars.locked(STREAMS))


def test_whoever_asks_maven_for_a_jar_has_a_lock() -> None:
    """Without a lock, nobody has reviewed the jar."""
    asking = {module.name for module in modules() if any(dotted.startswith("jgo") for _, dotted in module.imports())}
    assert asking == {"stack/kafka_jars.py", "tools/lock_jars.py"}


def test_other_jars_are_compared_as_kafkas_are(folder: Path, fetched: list[str]) -> None:
    one = kafka_jars.Jar(hashlib.sha512(b"one").hexdigest(), "org.one:one:1.0")
    elsewhere = folder.with_name("others")
    elsewhere.mkdir()
    (elsewhere / "one-1.0.jar").write_bytes(b"changed")
    assert kafka_jars.ready(elsewhere, jars=[one]) == [elsewhere / "one-1.0.jar"]
    assert (fetched, (elsewhere / "one-1.0.jar").read_bytes()) == (["one-1.0.jar"], b"one")
