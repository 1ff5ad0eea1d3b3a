"""Every server of the stack, through the client library that the product uses; and the guarantees about their processes."""

import contextlib
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import boto3
import clickhouse_connect
import psutil
import psycopg
import pytest
import redis
from botocore.config import Config
from clickhouse_connect.driver.exceptions import DatabaseError
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas.kafka_access import KafkaAccess
from stack import aot_cache, clickhouse_server, kafka_server, servers, valkey_server
from stack.launch import ServiceFailed
from stack.ports import free_port
from stack.replaced import replaced
from stack.service import Child, NotYet, Service


def test_kafka_commits_and_aborts_transactions(kafka_url: str, unique: str) -> None:
    admin = AdminClient(KafkaAccess(kafka_url).settings("test"))
    admin.create_topics([NewTopic(unique, num_partitions=4, replication_factor=1)])[unique].result(10)
    producer = Producer({**KafkaAccess(kafka_url).settings("test"), "transactional.id": unique})
    producer.init_transactions(10)
    for text, commits in (("aborted", False), ("committed", True)):
        producer.begin_transaction()
        producer.produce(unique, text, partition=2)
        producer.flush(10)
        if commits:
            producer.commit_transaction(10)
        else:
            producer.abort_transaction(10)
    consumer = Consumer(
        {
            **KafkaAccess(kafka_url).settings("test"),
            "group.id": unique,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "session.timeout.ms": 6000,
        }
    )
    consumer.subscribe([unique])
    record = consumer.poll(20)
    assert record is not None
    assert record.value() == b"committed"
    assert record.partition() == 2
    consumer.close()


def test_kafka_makes_no_topic_by_accident(kafka_url: str, unique: str) -> None:
    consumer = Consumer(
        {**KafkaAccess(kafka_url).settings("test"), "group.id": unique, "allow.auto.create.topics": True}
    )
    consumer.subscribe([unique])
    with pytest.raises(KafkaException, match="UNKNOWN_TOPIC_OR_PART"):
        raise KafkaException(_first_error(consumer))
    consumer.close()
    assert unique not in AdminClient(KafkaAccess(kafka_url).settings("test")).list_topics(timeout=10).topics


def _first_error(consumer: Consumer) -> object:
    record = consumer.poll(20)
    assert record is not None
    return record.error()


@pytest.fixture(scope="module")
def aot_folder() -> Path:
    """The AOT cache of this machine; made now if there is none."""
    kafka_server.make_ready()
    folder = kafka_server.aot_folder()
    assert aot_cache.is_usable(folder)
    return folder


def test_a_new_kafka_is_formatted_as_its_own_tool_does(tmp_path: Path, aot_folder: Path) -> None:
    assert (aot_folder / kafka_server.BOOTSTRAP).is_file()
    ours = kafka_server.service(tmp_path / "ours")
    assert len(ours.steps) == 1  # no run of the tool
    theirs = kafka_server.service(tmp_path / "theirs", extra=["-Xshare:auto"])
    subprocess.run(theirs.steps[0], check=True, capture_output=True)
    mine, tools = ({path.name: path for path in (folder / "data").iterdir()} for folder in (ours.folder, theirs.folder))
    assert mine.keys() == tools.keys() == {"meta.properties", kafka_server.BOOTSTRAP}
    random = re.compile(rb"(?<=\.id=)[\w-]{22}(?=\n)|(?<=#)\w{3} \w{3} \d\d \d\d:\d\d:\d\d UTC \d{4}")
    said, expected = (random.sub(b"*", files["meta.properties"].read_bytes()) for files in (mine, tools))
    assert said == expected
    assert said.count(b"*") == 3
    batches, expected_batches = (without_times(files[kafka_server.BOOTSTRAP].read_bytes()) for files in (mine, tools))
    assert batches == expected_batches


def without_times(batches: bytes) -> list[bytes]:
    """Record batches of Kafka without their timestamps and checksums."""
    found = []
    while batches:
        end = 12 + int.from_bytes(batches[8:12], "big")
        found.append(batches[:17] + batches[21:27] + batches[43:end])
        batches = batches[end:]
    return found


@pytest.mark.parametrize("damage", ["cut off", "overwritten", "another file"])
def test_kafka_starts_without_an_aot_cache_that_does_not_fit_and_discards_it(
    tmp_path: Path, aot_folder: Path, damage: str, monkeypatch: pytest.MonkeyPatch, start: Callable[[Service], Child]
) -> None:
    folder = tmp_path / "cache" / "kafka-aot-1"
    shutil.copytree(aot_folder, folder)
    (cache,) = folder.glob("*.aot")
    whole = bytearray(cache.read_bytes())
    if damage == "overwritten":
        whole[len(whole) // 2 : len(whole) // 2 + 100_000] = bytes(100_000)
    cache.write_bytes({"cut off": bytes(whole[: len(whole) // 3]), "another file": b"hello"}.get(damage, bytes(whole)))
    monkeypatch.setattr(kafka_server, "aot_folder", lambda: folder)
    child = start(kafka_server.service(tmp_path / "kafka"))
    child.wait()
    assert not aot_cache.is_finished(folder)  # so the next start makes it again


def test_kafka_starts_from_its_aot_cache(tmp_path: Path, aot_folder: Path, start: Callable[[Service], Child]) -> None:
    for file in aot_folder.iterdir():
        file.chmod(0o600)  # as root makes it with a strict umask; Kafka is another user then
    child = start(kafka_server.service(tmp_path / "kafka"))
    child.wait()
    assert aot_cache.is_usable(aot_folder)
    mapped = Path(f"/proc/{child.pid}/maps")
    assert not mapped.exists() or str(aot_folder) in mapped.read_text(encoding="utf-8")


def test_postgres_keeps_rows_and_listens_on_tcp_only(postgres_url: str, unique: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute(f"CREATE TABLE {unique} (id text PRIMARY KEY, at timestamptz)".encode())
        connection.execute(f"INSERT INTO {unique} VALUES ('ä', now())".encode())
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute(f"SELECT id FROM {unique}".encode()).fetchall() == [("ä",)]
        assert connection.execute("SHOW unix_socket_directories").fetchone() == ("",)
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)


def test_postgres_wants_its_password(postgres_url: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres_url, password="wrong")


def test_valkey_counts(valkey_url: str, unique: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        assert client.incrby(unique, 3) == 3
        assert client.eval("return redis.call('INCR', KEYS[1])", 1, unique) == 4
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_valkey_wants_its_password(valkey_url: str) -> None:
    parts = urlsplit(valkey_url)
    for credentials in ("", "default:wrong@", ":@"):
        address = f"redis://{credentials}127.0.0.1:{parts.port}/0"
        with redis.Redis.from_url(address) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_kafka_compresses_with_the_lz4_it_did_not_ask_for(kafka_url: str, unique: str) -> None:
    """The broker itself compresses records that arrive in another form, and returns them to consumers."""
    admin = AdminClient(KafkaAccess(kafka_url).settings("test"))
    topic = NewTopic(unique, num_partitions=1, replication_factor=1, config={"compression.type": "lz4"})
    admin.create_topics([topic])[unique].result(10)
    text = b"compressible " * 5000
    # Made by the broker; checked by it; undone with the one and made with the other.
    for codec in (
        "none",
        "lz4",
        "gzip",
    ):
        producer = Producer({**KafkaAccess(kafka_url).settings("test"), "compression.type": codec})
        producer.produce(unique, text, key=codec)
        assert producer.flush(10) == 0
    group = {"group.id": unique, "auto.offset.reset": "earliest", "check.crcs": True}
    consumer = Consumer({**KafkaAccess(kafka_url).settings("test"), **group})
    consumer.subscribe([unique])
    records = consumer.consume(3, 20)
    assert [(record.key(), record.value() == text) for record in records] == [
        (b"none", True),
        (b"lz4", True),
        (b"gzip", True),
    ]
    consumer.close()


def test_clickhouse_deduplicates_an_insert_and_its_views_by_token(clickhouse_url: str, unique: str) -> None:
    client = clickhouse_connect.get_client(dsn=clickhouse_url)
    client.command(f"CREATE DATABASE {unique}")
    client = clickhouse_connect.get_client(dsn=clickhouse_url.removesuffix("default") + unique)
    window = "SETTINGS non_replicated_deduplication_window = 1000"
    client.command(f"CREATE TABLE facts (channel String, ms UInt32) ENGINE = MergeTree ORDER BY channel {window}")
    columns = "channel String, times AggregateFunction(quantilesTDigest(0.5, 0.99), UInt32), n SimpleAggregateFunction(sum, UInt64)"
    client.command(f"CREATE TABLE hourly ({columns}) ENGINE = AggregatingMergeTree ORDER BY channel {window}")
    client.command(
        "CREATE MATERIALIZED VIEW to_hourly TO hourly AS"
        " SELECT channel, quantilesTDigestState(0.5, 0.99)(ms) AS times, count() AS n FROM facts GROUP BY channel"
    )
    rows = [["whatsapp", ms] for ms in range(1, 101)]
    settings = {"insert_deduplication_token": "batch-1", "deduplicate_blocks_in_dependent_materialized_views": 1}
    for _ in range(2):
        client.insert("facts", rows, column_names=["channel", "ms"], settings=settings)
    client.insert(
        "facts", rows, column_names=["channel", "ms"], settings={**settings, "insert_deduplication_token": "batch-2"}
    )
    assert client.command("SELECT count() FROM facts") == 200
    [(quantiles, n)] = client.query("SELECT quantilesTDigestMerge(0.5, 0.99)(times), sum(n) FROM hourly").result_rows
    assert n == 200
    assert quantiles[0] == pytest.approx(50, abs=1)
    assert quantiles[1] == pytest.approx(99, abs=1)


def test_clickhouse_parameterised_view_takes_any_text(clickhouse_url: str, unique: str) -> None:
    client = clickhouse_connect.get_client(dsn=clickhouse_url)
    client.command(f"CREATE VIEW {unique} AS SELECT {{text:String}} AS said, number FROM numbers({{n:UInt64}})")
    text = "it's\ta \\ line\nand 'more'"
    query = f"SELECT said, number FROM {unique}(text = {{text:String}}, n = {{n:UInt64}})"
    assert client.query(query, parameters={"text": text, "n": 2}).result_rows == [(text, 0), (text, 1)]
    # Sent as a form.
    assert client.query("SELECT {s:String}", parameters={"s": "long " * 5000}).result_rows == [("long " * 5000,)]


@pytest.mark.parametrize("compress", [False, True, "lz4", "zstd", "gzip"])
def test_clickhouse_takes_and_gives_every_compression(clickhouse_url: str, unique: str, compress: bool | str) -> None:
    client = clickhouse_connect.get_client(dsn=clickhouse_url, compress=compress)
    client.command(
        f"CREATE TABLE {unique} (a UInt64, b Nullable(String), m Map(String, Array(Float64))) ENGINE = MergeTree ORDER BY a"
    )
    rows = [(n, None if n % 2 else "FORMAT Native\n", {"k": [n / 2]}) for n in range(5000)]
    assert client.insert(unique, rows, column_names=["a", "b", "m"]).written_rows == 5000
    assert client.query(f"SELECT * FROM {unique} ORDER BY a").result_rows == rows


def test_clickhouse_refuses_as_clickhouse_does(clickhouse_url: str, unique: str) -> None:
    client = clickhouse_connect.get_client(dsn=clickhouse_url)
    with pytest.raises(DatabaseError, match=r"code: 60, .*Code: 60\. DB::Exception: .*\(UNKNOWN_TABLE\)"):
        client.query(f"SELECT * FROM {unique}")
    with pytest.raises(DatabaseError, match=r"UNKNOWN_SETTING"):
        client.query("SELECT 1", settings={"no_such_setting": "1"})
    parts = urlsplit(clickhouse_url)
    create = f"http://127.0.0.1:{parts.port}/?query=CREATE%20TABLE%20{unique}%20(a%20Int8)%20ENGINE=Memory"
    with pytest.raises(urllib.error.HTTPError) as refused:  # a GET only reads
        urllib.request.urlopen(urllib.request.Request(create, headers={"X-ClickHouse-Key": parts.password or ""}))
    refused.value.close()
    assert refused.value.headers["X-ClickHouse-Exception-Code"] == "164"


def test_clickhouse_settings_do_not_leak_into_the_next_query(clickhouse_url: str) -> None:
    client = clickhouse_connect.get_client(dsn=clickhouse_url)
    ask = "SELECT getSetting('max_result_rows')"
    assert client.query(ask, settings={"max_result_rows": 77}).result_rows == [(77,)]
    assert client.query(ask).result_rows == [(0,)]


def test_s3_takes_a_presigned_multipart_upload(s3: dict[str, str], unique: str) -> None:
    client = _s3_client(s3)
    client.create_bucket(Bucket=unique)
    upload = client.create_multipart_upload(Bucket=unique, Key="video.bin")["UploadId"]
    parts = []
    for number, body in ((1, b"a" * 5 * 1024 * 1024), (2, b"end")):
        arguments = {"Bucket": unique, "Key": "video.bin", "UploadId": upload, "PartNumber": number}
        address = client.generate_presigned_url("upload_part", Params=arguments, ExpiresIn=60)
        with urllib.request.urlopen(urllib.request.Request(address, data=body, method="PUT")) as response:
            parts.append({"PartNumber": number, "ETag": response.headers["ETag"]})
    client.complete_multipart_upload(Bucket=unique, Key="video.bin", UploadId=upload, MultipartUpload={"Parts": parts})
    address = client.generate_presigned_url("get_object", Params={"Bucket": unique, "Key": "video.bin"}, ExpiresIn=60)
    with urllib.request.urlopen(address) as response:
        assert response.read() == b"a" * 5 * 1024 * 1024 + b"end"
    client.close()


def test_s3_refuses_a_wrong_key(s3: dict[str, str], unique: str) -> None:
    client = _s3_client({**s3, "s3_secret_key": "wrong"})
    with pytest.raises(client.exceptions.ClientError, match="SignatureDoesNotMatch"):
        client.create_bucket(Bucket=unique)
    client.close()


def _s3_client(s3: dict[str, str]):  # type: ignore[no-untyped-def]  # noqa: ANN202  # boto3 makes its classes at run time
    return boto3.client(
        "s3",
        endpoint_url=s3["s3_url"],
        aws_access_key_id=s3["s3_access_key"],
        aws_secret_access_key=s3["s3_secret_key"],
        region_name="us-east-1",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )


OWNER = """
import json, sys, time
from pathlib import Path
from stack.servers import SERVERS
from stack.service import Child
children = [Child(SERVERS[name](Path(sys.argv[1]) / name)) for name in sys.argv[2:]]
for child in children: child.start()
for child in children: child.wait()
print(json.dumps({child.service.name: [child.pid, child.service.url] for child in children}), flush=True)
time.sleep(600)
"""


@pytest.fixture
def own() -> Iterator[Callable[..., tuple[subprocess.Popen[str], dict[str, tuple[int, str]]]]]:
    """Starts another process that starts servers and prints their pids when they are ready."""
    with contextlib.ExitStack() as owners:

        def start(folder: Path, *names: str) -> tuple[subprocess.Popen[str], dict[str, tuple[int, str]]]:
            command = [sys.executable, "-c", OWNER, str(folder), *names]
            owner = owners.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            owners.callback(owner.kill)
            assert owner.stdout is not None
            return owner, json.loads(owner.stdout.readline())

        yield start


@pytest.fixture
def start() -> Iterator[Callable[[Service], Child]]:
    """Starts a service, and stops it at the end of the test."""
    children: list[Child] = []

    def started(service: Service) -> Child:
        children.append(Child(service))
        children[-1].start()
        return children[-1]

    yield started
    for child in children:
        child.stop(timeout_seconds=2)


def test_servers_die_with_a_killed_owner_and_two_sets_live_side_by_side(
    tmp_path: Path, own: Callable[..., tuple[subprocess.Popen[str], dict[str, tuple[int, str]]]]
) -> None:
    before = set(Path("/tmp").iterdir())  # noqa: S108  # the guarantee is about this folder
    names = tuple(servers.SERVERS)
    first, first_children = own(tmp_path / "first", *names)
    second, second_children = own(tmp_path / "second", *names)
    assert not {url for _, url in first_children.values()} & {url for _, url in second_children.values()}
    ours = [psutil.Process(pid) for pid, _ in [*first_children.values(), *second_children.values()]]
    ours += [grandchild for child in ours for grandchild in child.children(recursive=True)]
    assert len(ours) > 10  # PostgreSQL has processes of its own
    for owner in (first, second):
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    _, alive = psutil.wait_procs(ours, timeout=15)
    assert alive == []
    assert {path.name for path in set(Path("/tmp").iterdir()) - before if _is_of_a_server(path)} == set()  # noqa: S108  # the same


def _is_of_a_server(path: Path) -> bool:
    """Other programs of the machine may write to /tmp meanwhile."""
    return path.name.startswith(
        (".s.PGSQL", "hsperfdata", "snappy", "libzstd", "liblz4", "kafka", "rclone", "chdb", "clickhouse", "valkey")
    )


def test_data_survive_a_restart(tmp_path: Path) -> None:
    engine = tmp_path / "clickhouse" / "data"
    for expected in (1, 2):
        children = {
            name: Child(servers.SERVERS[name](tmp_path / name)) for name in ("postgres", "valkey", "clickhouse")
        }
        for child in children.values():
            child.start()
        for child in children.values():
            child.wait()
        with redis.Redis.from_url(children["valkey"].service.url) as client:
            assert client.incr("starts") == expected
        with psycopg.connect(children["postgres"].service.url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS starts (n int)")
            connection.execute("INSERT INTO starts VALUES (1)")
            assert connection.execute("SELECT count(*) FROM starts").fetchone() == (expected,)
        client = clickhouse_connect.get_client(dsn=children["clickhouse"].service.url)
        client.command("CREATE TABLE IF NOT EXISTS starts (n Int8) ENGINE = MergeTree ORDER BY ()")
        client.insert("starts", [[1]], column_names=["n"])
        assert client.command("SELECT count() FROM starts") == expected
        is_server = shutil.which("clickhouse") is not None
        assert is_server or not list(engine.glob("insert-*"))
        for child in children.values():
            child.stop()
            assert child.returncode is not None
        (engine / "insert-killed").touch()  # what a killed process leaves must be gone after the next start


def test_a_server_whose_url_is_set_counts_as_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in servers.SERVERS:
        monkeypatch.delenv(f"CHAT4ALL_{name.upper()}_URL", raising=False)
    assert replaced() == {}
    monkeypatch.setenv("CHAT4ALL_KAFKA_URL", "broker:9092")
    assert replaced() == {"kafka": "broker:9092"}


def test_a_server_that_fails_says_which_log_and_its_last_lines(
    tmp_path: Path, start: Callable[[Service], Child]
) -> None:
    running = start(valkey_server.service(tmp_path / "one"))
    running.wait()
    port = running.service.url.rpartition(":")[2].removesuffix("/0")
    healthy = valkey_server.service(tmp_path / "two")
    taken = [[*healthy.steps[0], "--port", port]]
    failing = start(Service(name="valkey", folder=healthy.folder, url=healthy.url, steps=taken, probe=healthy.probe))
    with pytest.raises(
        ServiceFailed,
        match=r"valkey ended with 1 before it answered; log .*two/valkey\.log ends: .*Address already in use",
    ):
        failing.wait(15)


def test_a_server_that_hangs_is_ended_at_the_limit(tmp_path: Path, start: Callable[[Service], Child]) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    def probe() -> str:
        with urllib.request.urlopen(url, timeout=1):
            return "never"

    # Ignores SIGTERM and leaves a grandchild: the whole group must go.
    stubborn = "import signal,subprocess,sys,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('thinking', flush=True);"
    stubborn += "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True); time.sleep(600)"
    child = start(Service(name="slow", folder=tmp_path, url=url, steps=[[sys.executable, "-c", stubborn]], probe=probe))
    with pytest.raises(ServiceFailed, match=r"slow did not answer on .* within 2 s .* ends: thinking \| \d+"):
        child.wait(2)
    assert child.returncode == -signal.SIGKILL
    grandchild = int(child.service.log.read_text().split()[-1])
    deadline = time.monotonic() + 10
    while _runs(grandchild):
        assert time.monotonic() < deadline


def _runs(pid: int) -> bool:
    """A zombie does not run: it only waits for an init process, which a container may lack."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_preparation_that_fails_ends_the_start(tmp_path: Path, start: Callable[[Service], Child]) -> None:
    steps = [
        [sys.executable, "-c", "print('no disk'); raise SystemExit(3)"],
        [sys.executable, "-c", "print('started anyway')"],
    ]

    def probe() -> str:
        raise NotYet("nobody there")

    child = start(Service(name="sad", folder=tmp_path, url="nowhere", steps=steps, probe=probe))
    with pytest.raises(
        ServiceFailed, match=r"sad ended with 3 before it answered; .* ends: no disk \| .* ended with 3$"
    ):
        child.wait(20)


def test_a_clickhouse_server_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "clickhouse"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    service = clickhouse_server.service(tmp_path / "clickhouse")
    written = tmp_path / "clickhouse" / "tmp" / "config.xml"
    assert service.steps == [[str(program), "server", f"--config-file={written}"]]
    config = ET.parse(written)  # noqa: S314  # we wrote it
    assert config.findtext("http_port") == service.url.rpartition(":")[2].removesuffix("/default")
    password = urlsplit(service.url).password or ""
    assert config.findtext("users/default/password_sha256_hex") == hashlib.sha256(password.encode()).hexdigest()
    assert not [
        grant.text for grant in config.iter("query") if re.search("FILE|URL|SOURCES|[*] TO|ALL", grant.text or "")
    ]
