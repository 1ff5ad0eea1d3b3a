"""Stage archive against a PostgreSQL of its own that is killed, locked, full, or refuses: afterwards each row is there once, and the
backlog is gone. Four partitions write at the same time, as in a worker. With CHAT4ALL_LONG=1, each fault lasts a minute."""

import asyncio
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import structlog

from pipelines.archive import Archive
from pipelines.postgres_stage import State
from sinks import postgres_sink
from sinks.migrate import migrate_postgres
from sinks.postgres import PostgresArchive
from sinks.sink_errors import SinkFenced
from stack import postgres_server
from stack.service import Child
from tests.support.builders import Desk, record
from tests.support.long_runs import LONG
from tests.support.postgres_proxy import COMMITTED, COPY_BEGINS, PostgresProxy
from tests.support.sink_databases import rows, sequenced, state

AWAY = 60.0 if LONG else 1.5  # seconds
PARTITIONS, TURNS, MESSAGES = 4, 8, 8
SMALL = Path("tmp") / "small"
# 4 kB that cannot be compressed, so that a full disk is full soon
TEXT = random.Random(1).randbytes(2000).hex()  # noqa: S311  # no secret


class World:
    """A stage with its partitions, the proxy to its server, and what was seen of it."""

    def __init__(self, server: Child, database: str, proxy: PostgresProxy) -> None:
        at = urlsplit(server.service.url)
        self.server = server
        self.url = urlunsplit(at._replace(path=f"/{database}"))  # past the proxy
        behind = f"{at.username}:{at.password}@127.0.0.1:{proxy.port}"
        self.proxied = urlunsplit(at._replace(netloc=behind, path=f"/{database}"))
        self.proxy = proxy
        self.sink = PostgresArchive(self.proxied)
        self.stage = Archive(sink=self.sink, linger_ms=0)
        self.most_waiting = 0
        self.log: list[dict[str, object]] = []

    async def own(self, number: int, *, stage: Archive | None = None, turns: range = range(TURNS)) -> None:
        """What the engine does with a partition: one turn after the other, the next when this one is written."""
        desk: Desk[State] = Desk(stage or self.stage, number)
        for turn in turns:
            first = turn * MESSAGES
            names = [number * 10_000 + first + n for n in range(MESSAGES)]
            log = [
                record(
                    "conversation-log",
                    sequenced(n, conversation_id=f"c{number}", text=TEXT),
                    partition=number,
                    offset=first + i,
                )
                for i, n in enumerate(names)
            ]
            states = [
                record("delivery-states", state(n, version), partition=number, offset=4 * first + 4 * i + version - 1)
                for i, n in enumerate(names)
                for version in (1, 2, 3, 4)
            ]
            await (stage or self.stage).write(desk.turn([*log, *states]))
            await asyncio.sleep(0.02)

    async def all_positions(self, stage: Archive | None = None) -> None:
        topics = ("conversation-log", "delivery-states")
        await (stage or self.stage).positions([(topic, number) for topic in topics for number in range(PARTITIONS)])

    async def watch(self) -> None:
        while True:
            self.most_waiting = max(self.most_waiting, len(self.stage._group._waiting))
            await asyncio.sleep(0.01)

    def kill(self) -> None:
        """PostgreSQL's immediate end, as in a crash: nothing more is written, and no one is answered."""
        self.server.terminate(signal.SIGQUIT)

    async def said(self, *words: str) -> None:
        """Waits until the log has a line with all of these words, and then for as long as the fault lasts."""
        began = time.monotonic()
        while not any(all(word in str(each.get("error")) for word in words) for each in self.log):
            assert time.monotonic() < began + 60, self.log
            await asyncio.sleep(0.05)
        await asyncio.sleep(AWAY)

    def restart(self) -> None:
        """Blocks the loop: a child ends with the thread that started it."""
        self.kill()
        if self.server._process is not None:
            self.server._process.wait()
        self.server.start()
        self.server.wait()


Fault = Callable[[World], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def killed_in_copy(world: World) -> AsyncIterator[None]:
    world.proxy.cut_at(COPY_BEGINS, world.kill, passes=5)
    yield
    await asyncio.wait_for(world.proxy.fired.wait(), 60)
    world.restart()


@asynccontextmanager
async def killed_after_commit(world: World) -> AsyncIterator[None]:
    """Committed, but the server ends before its answer arrives."""
    world.proxy.cut_at(COMMITTED, world.kill, passes=3)
    yield
    await asyncio.wait_for(world.proxy.fired.wait(), 60)
    world.restart()


@asynccontextmanager
async def answer_lost(world: World) -> AsyncIterator[None]:
    """Committed, but only the connection breaks."""
    world.proxy.cut_at(COMMITTED, passes=3)
    yield
    await asyncio.wait_for(world.proxy.fired.wait(), 60)


@asynccontextmanager
async def away(world: World) -> AsyncIterator[None]:
    world.kill()
    yield
    await asyncio.sleep(AWAY)
    world.restart()


@asynccontextmanager
async def locked(world: World) -> AsyncIterator[None]:
    """Somebody holds a relation for longer than we wait for one; shorter in the short run."""
    if not LONG:
        await world.sink.close()
        postgres_sink.LOCK_SECONDS, before = 1, postgres_sink.LOCK_SECONDS
    connection = await psycopg.AsyncConnection.connect(world.url)
    await connection.execute("lock table deliveries in access exclusive mode")
    yield
    await world.said("lock timeout")
    await connection.rollback()
    await connection.close()
    if not LONG:
        postgres_sink.LOCK_SECONDS = before


@asynccontextmanager
async def disk_full(world: World) -> AsyncIterator[None]:
    """The file system of the database has room for a part of the rows only."""
    small = world.server.service.folder / SMALL
    ballast = small / "ballast"
    free = shutil.disk_usage(small).free
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - (256 << 10))
    try:
        yield
        await world.said("No space left on device")
        assert rows(world.url, "select sum(next_offset) from sink_offsets") < [(PARTITIONS * TURNS * MESSAGES * 5,)]
    finally:
        ballast.unlink()


@asynccontextmanager
async def password_changed(world: World) -> AsyncIterator[None]:
    """New connections are refused, and the one there is ends; then the password is the one of the setting again."""
    password = urlsplit(world.url).password
    with psycopg.connect(world.url, autocommit=True) as connection:
        connection.execute("alter role chat4all password 'another'")
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        yield
        await world.said("CHAT4ALL_POSTGRES_URL", "password")
        connection.execute(f"alter role chat4all password '{password}'".encode())
    assert not any(str(password) in str(each) or "another" in str(each) for each in world.log)


FAULTS: dict[str, Fault] = {
    each.__name__: each
    for each in (killed_in_copy, killed_after_commit, answer_lost, away, locked, disk_full, password_changed)
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """A server which has a file system of 64 MB at SMALL, if we are root, who alone may mount one. The server sees no other folders of its
    own than `data` and `tmp`, and these as they are when it starts."""
    child = Child(postgres_server.service(tmp_path_factory.mktemp("own")))
    small = child.service.folder / SMALL
    small.mkdir(parents=True)
    mount = ["/usr/bin/env", "mount", "-t", "tmpfs", "-o", "size=64m,mode=0777", "tmpfs", str(small)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    try:
        if mounted:
            (small / "space").mkdir()
        child.start()
        child.wait()
        child.service = dataclasses.replace(child.service, steps=child.service.steps[-1:])
        yield child
        child.terminate(signal.SIGQUIT)
        child.stop()
    finally:
        if mounted:
            subprocess.run(["/usr/bin/env", "umount", "-l", str(small)], check=True)


def small_disk(server: Child) -> str:
    """SQL that puts a database on the small file system. Without one the test is left out: test_archive.py only raises the error."""
    space = server.service.folder / SMALL / "space"
    if not space.exists():
        pytest.skip("mounting a small file system needs root")
    owner = (server.service.folder / "data").stat()
    os.chown(space, owner.st_uid, owner.st_gid)
    space.chmod(0o700)
    return f"create tablespace small location '{space}'"


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_row_is_there_once_and_the_backlog_goes(server: Child, fault: str, unique: str) -> None:
    space = small_disk(server) if fault == "disk_full" else ""
    with psycopg.connect(server.service.url, autocommit=True) as connection:
        if space:
            connection.execute(space.encode())
        connection.execute(f"create database {unique} {'tablespace small' if space else ''}".encode())
    await survive(server, FAULTS[fault], unique)
    with psycopg.connect(server.service.url, autocommit=True) as connection:
        connection.execute(f"drop database {unique} with (force)".encode())
        if space:
            connection.execute("drop tablespace small")


async def survive(server: Child, fault: Fault, database: str) -> None:
    async with PostgresProxy(urlsplit(server.service.url).port or 0).running() as proxy:
        world = World(server, database, proxy)
        with psycopg.connect(world.url, autocommit=True) as connection:
            migrate_postgres(connection)
        await world.all_positions()
        watching = asyncio.create_task(world.watch())
        with structlog.testing.capture_logs() as log:
            world.log = log  # type: ignore[assignment]  # structlog's own class of dicts
            async with fault(world):
                owners = asyncio.gather(*(world.own(number) for number in range(PARTITIONS)))
                await asyncio.sleep(0.3)
            await asyncio.wait_for(owners, 60)
        watching.cancel()
        await world.sink.close()
        check(world)


def check(world: World) -> None:
    number = PARTITIONS * TURNS * MESSAGES
    assert rows(world.url, "select count(*), count(distinct message_id) from messages") == [(number, number)]
    assert rows(world.url, "select count(*), min(version), sum(attempts) from deliveries") == [(number, 4, number)]
    assert rows(world.url, "select count(*), count(distinct event_id) from delivery_events") == [
        (4 * number, 4 * number)
    ]
    assert rows(world.url, "select sum(read), sum(deliveries) from message_states") == [(number, number)]
    assert rows(world.url, "select count(*) from message_conflicts") == [(0,)]
    assert rows(world.url, "select last_seq from conversations order by 1") == [
        (n * 10_000 + TURNS * MESSAGES - 1,) for n in range(PARTITIONS)
    ]
    assert set(rows(world.url, "select topic, next_offset from sink_offsets")) == {
        ("conversation-log", TURNS * MESSAGES),
        ("delivery-states", 4 * TURNS * MESSAGES),
    }
    assert world.most_waiting <= PARTITIONS, "one batch of each partition at most"


async def test_a_former_owner_stops_and_the_new_one_goes_on(server: Child, unique: str) -> None:
    """Two workers on the same partitions: as after a worker that was silent for too long."""
    with psycopg.connect(server.service.url, autocommit=True) as connection:
        connection.execute(f"create database {unique}".encode())
    async with PostgresProxy(urlsplit(server.service.url).port or 0).running() as proxy:
        world = World(server, unique, proxy)
        with psycopg.connect(world.url, autocommit=True) as connection:
            migrate_postgres(connection)
        await world.all_positions()
        await asyncio.gather(*(world.own(number, turns=range(4)) for number in range(PARTITIONS)))
        heir = PostgresArchive(world.proxied)
        new = Archive(sink=heir, linger_ms=0)
        await world.all_positions(new)
        await asyncio.gather(*(world.own(number, stage=new, turns=range(4, 7)) for number in range(PARTITIONS)))
        zombies = await asyncio.gather(
            *(world.own(number, turns=range(4, TURNS)) for number in range(PARTITIONS)), return_exceptions=True
        )
        assert [type(each) for each in zombies] == [SinkFenced] * PARTITIONS
        await asyncio.gather(*(world.own(number, stage=new, turns=range(7, TURNS)) for number in range(PARTITIONS)))
        await heir.close()
        await world.sink.close()
        check(world)
    with psycopg.connect(server.service.url, autocommit=True) as connection:
        connection.execute(f"drop database {unique} with (force)".encode())
