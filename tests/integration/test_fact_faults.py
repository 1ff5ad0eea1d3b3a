"""ClickHouse and workers fail in every way at every moment: facts, latest states and roll-ups are those of a run without faults."""

import asyncio
import random
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from schemas.records import DeliveryState
from sinks.clickhouse import ClickHouseFacts, connect
from sinks.fact_repeats import inserts_since, window
from sinks.fact_tables import EVENTS, FILLED, batch_of
from sinks.sink_errors import Unavailable
from stack import clickhouse_server
from stack.service import Child
from tests.support.fact_partition import FactPartition
from tests.support.fact_reference import differences
from tests.support.long_runs import LONG
from tests.support.lossy_proxy import LossyProxy
from tests.support.sink_databases import T0, clickhouse_database, state

DAY = 86_400_000
WINDOW = 8  # in place of 10,000, so that few inserts overrun it
BETWEEN = (0, WINDOW // 2 - 1, WINDOW // 2, 2 * WINDOW, 5 * WINDOW) if LONG else (WINDOW // 2 - 1, 2 * WINDOW)


def now() -> int:
    return int(time.time() * 1000)


def transitions(deliveries: int, start: int = 0, days: int = 1) -> list[DeliveryState]:
    """The whole lives of deliveries, which were accepted on so many days."""
    return [
        _moved(state(n, version, attempt=version - 1), n % days * DAY)
        for version in (1, 2, 3, 4)
        for n in range(start, start + deliveries)
    ]


def _moved(each: DeliveryState, by: int) -> DeliveryState:
    times = [name for name in each.__slots__ if name.endswith("_at") and getattr(each, name) is not None]
    return replace(each, **{name: getattr(each, name) + by for name in times})


@pytest.fixture
def url(clickhouse_url: str) -> Iterator[str]:
    with clickhouse_database(clickhouse_url) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    client = connect(url)
    for name in FILLED[EVENTS.name]:
        client.command(f"alter table {name} modify setting non_replicated_deduplication_window = {WINDOW}")
    yield client
    client.close()


async def insert_others(url: str, inserts: int, start: int) -> list[DeliveryState]:
    """Another worker inserts so many batches of one row each; returns the rows."""
    others = [state(start + n) for n in range(inserts)]
    facts = ClickHouseFacts(url)
    for n, each in enumerate(others):
        await facts.insert(f"other-{start + n}", [each])
    await facts.close()
    return others


# --- the window is overrun ----------------------------------------------------------------------------------------------


async def test_without_the_look_a_forgotten_token_would_count_twice(url: str, client: Client) -> None:
    """Otherwise the tests below would prove nothing."""
    facts = ClickHouseFacts(url)
    await facts.insert("t", [state(1)])
    await insert_others(url, WINDOW + 1, 1000)
    await facts.insert("t", [state(1)])
    await facts.close()
    assert client.query("select count() from delivery_events where delivery_id = 'd1'").result_rows == [(2,)]


async def test_a_planned_batch_is_completed_however_many_inserts_came_between(url: str, client: Client) -> None:
    """Whether its worker crashed before or after the insert; the next turns are of another size. The same database for all cases."""
    given: list[DeliveryState] = []
    for number, others in enumerate(BETWEEN):
        for is_written in (False, True):
            start = 100 * (2 * number + is_written)
            states = transitions(8, start, days=4)
            partition = FactPartition(url, states, turn=20, partition=start)
            decision = partition.plan(now())
            if is_written:
                await partition.stage.write(decision)
            given += [*states, *await insert_others(url, others, 10_000 + start)]
            await partition.crash(url)
            partition.turn = 11
            await partition.finish(now())
            await partition.sink.close()
    assert differences(client, given) == []


@contextmanager
def without_views(client: Client) -> Iterator[None]:
    """An insert in the meantime is one that ClickHouse did not survive: its facts are there, its views' targets are not."""
    names = [
        name
        for (name,) in client.query(
            "select name from system.tables where engine = 'MaterializedView' and database = currentDatabase()"
        ).result_rows
    ]
    for name in names:
        client.command(f"detach table {name}")
    yield
    for name in names:
        client.command(f"attach table {name}")


@pytest.mark.parametrize("others", [WINDOW // 2 - 1, WINDOW // 2])
async def test_an_insert_that_died_half_done_is_completed_within_the_window(
    url: str, client: Client, others: int
) -> None:
    """Some of its days are facts, and no view has got them. Beyond half of the window only the facts are completed: ClickHouse cannot tell
    what the views have, and the roll-ups show less than the facts (decision 0038)."""
    states = transitions(8, days=4)
    partition = FactPartition(url, states, turn=32)
    planned = partition.plan(now()).writes[0]
    with without_views(client):
        some = [each for each in planned.rows if int(each.delivery_id[1:]) % 4 < 2]
        await asyncio.to_thread(partition.sink._insert, EVENTS, planned.token, some, batch_of(planned.token))
    given = [*states, *await insert_others(url, others, 1000)]
    await partition.crash(url)
    await partition.finish(now())
    await partition.sink.close()
    stored = client.query("select count(), uniqExact(delivery_id, version) from delivery_events").result_rows
    assert stored == [(len(given), len(given))]
    assert bool(differences(client, given)) == (others >= WINDOW // 2)


async def test_a_token_without_its_rows_is_no_reason_to_leave_them_out(url: str, client: Client) -> None:
    """ClickHouse notes a token before it keeps the rows. Killed in between, it would ignore every repetition."""
    facts, rows, planned_at = ClickHouseFacts(url), transitions(5), now()
    await facts.insert("batch", rows)
    for relation in FILLED[EVENTS.name]:
        client.command(f"alter table {relation} delete where 1 settings mutations_sync = 2")
    await facts.insert("batch", rows)
    assert client.query("select count() from delivery_events").result_rows == [(0,)], "the token alone is remembered"
    await facts.insert_again("batch", rows, planned_at)
    await facts.close()
    assert differences(client, rows) == []


async def test_a_batch_of_many_days_takes_as_many_entries_of_the_window(url: str, client: Client) -> None:
    assert window(client, EVENTS) == WINDOW
    facts = ClickHouseFacts(url)
    await facts.insert("many", [state(n, accepted_at=T0 + n * DAY) for n in range(365)])
    await facts.close()
    assert inserts_since(client, EVENTS, batch_of("other"), 0) == 365
    assert inserts_since(client, EVENTS, batch_of("many"), 0) == 0
    assert differences(client, [state(n, accepted_at=T0 + n * DAY) for n in range(365)]) == []


async def test_a_relation_without_a_window_is_no_reason_to_trust_tokens(url: str, client: Client) -> None:
    client.command("alter table deliveries_by_hour reset setting non_replicated_deduplication_window")
    assert window(client, EVENTS) == 0
    partition = FactPartition(url, transitions(3), turn=5)
    await partition.stage.write(partition.plan(now()))
    await partition.crash(url)
    await partition.finish(now())
    await partition.sink.close()
    assert differences(client, transitions(3)) == []


# --- answers are lost ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 2 * WINDOW])
async def test_an_insert_that_took_effect_without_an_answer_counts_once(url: str, client: Client, others: int) -> None:
    states = transitions(6)
    with LossyProxy(url) as proxy:
        partition = FactPartition(proxy.url, states, turn=24)
        await partition.sink.open()
        proxy.loses_answers.set()
        write = asyncio.create_task(partition.stage.write(partition.plan(now())))
        await asyncio.to_thread(proxy.has_lost.wait, 30)
        between = await insert_others(url, others, 1000)
        proxy.loses_answers.clear()
        await write
        await partition.finish(now())
        await partition.sink.close()
    assert proxy.has_lost.is_set()
    assert differences(client, [*states, *between]) == []


@pytest.mark.parametrize("others", [0, 2 * WINDOW])
async def test_the_answer_of_a_repetition_may_be_lost_as_well(url: str, client: Client, others: int) -> None:
    """The window is overrun before the repetition, and perhaps again before the repetition of that."""
    states = transitions(6, days=2)
    with LossyProxy(url) as proxy:
        partition = FactPartition(proxy.url, states, turn=24)
        decision = partition.plan(now())
        given = [*states, *await insert_others(url, 2 * WINDOW, 1000)]
        await partition.crash(proxy.url)
        chunk = partition.plan(now()).writes[0]
        assert chunk.rows == decision.writes[0].rows
        insert = partition.sink._insert

        def insert_without_an_answer(*arguments: Any) -> None:
            proxy.loses_answers.set()
            try:
                insert(*arguments)
            finally:
                proxy.loses_answers.clear()

        setattr(partition.sink, "_insert", insert_without_an_answer)  # noqa: B010  # the fault: only the answers of inserts are lost
        with pytest.raises(Unavailable):
            await partition.sink.insert_again(chunk.token, chunk.rows, chunk.planned_at)
        setattr(partition.sink, "_insert", insert)  # noqa: B010  # the end of the fault
        given += await insert_others(url, others, 2000)
        await partition.sink.insert_again(chunk.token, chunk.rows, chunk.planned_at)
        await partition.sink.close()
    assert proxy.has_lost.is_set()
    assert differences(client, given) == []


@pytest.mark.parametrize("others", [0, 2 * WINDOW])
async def test_a_former_owner_that_wakes_up_adds_nothing(url: str, client: Client, others: int) -> None:
    """It was stopped between its plan and its insert; the next owner has inserted the batch since."""
    states = transitions(6)
    zombie = FactPartition(url, states, turn=10)
    late = zombie.plan(now() - (90_000 if others else 0))
    owner = FactPartition(url, states, turn=7)
    owner.desk.changelog = {name: dict(rows) for name, rows in zombie.desk.changelog.items()}
    await owner.crash(url)
    await owner.finish(now())
    between = await insert_others(url, others, 1000)
    await zombie.stage.write(late)
    for each in (owner, zombie):
        await each.sink.close()
    assert differences(client, [*states, *between]) == []


async def test_a_former_owner_and_the_next_insert_at_the_same_time(url: str, client: Client) -> None:
    states = transitions(6)
    with LossyProxy(url) as proxy:
        zombie = FactPartition(proxy.url, states, turn=10)
        await zombie.sink.open()
        proxy.open_gate.clear()
        late = asyncio.create_task(zombie.stage.write(zombie.plan(now())))
        owner = FactPartition(url, states, turn=7)
        owner.desk.changelog = {name: dict(rows) for name, rows in zombie.desk.changelog.items()}
        await owner.crash(url)
        await owner.finish(now())
        proxy.open_gate.set()
        await late
        for each in (owner, zombie):
            await each.sink.close()
    assert differences(client, states) == []


# --- the server dies ----------------------------------------------------------------------------------------------------


@contextmanager
def own_server(folder: Path) -> Iterator[tuple[str, Child]]:
    """A ClickHouse that a test may kill and start again, at the same address."""
    child = Child(clickhouse_server.service(folder))
    child.start()
    try:
        child.wait()
        yield child.service.settings["clickhouse_url"], child
    finally:
        child.stop(timeout_seconds=2)
        shutil.rmtree(folder, ignore_errors=True)  # thousands of files


def kill(child: Child) -> None:
    child.terminate(signal.SIGKILL)
    while child.returncode is None:
        time.sleep(0.01)


async def test_clickhouse_killed_in_the_middle_of_inserts(tmp_path: Path) -> None:
    """Each round at another moment; after every second one the worker has crashed as well, and takes other turns."""
    rounds, order = (60 if LONG else 3), random.Random(5)  # noqa: S311  # reproducible moments, no secret
    states = transitions(rounds * 30, days=12)
    with own_server(tmp_path / "clickhouse") as (server, child), clickhouse_database(server) as url:
        partition = FactPartition(url, states, turn=200)
        for n in range(rounds):
            write = asyncio.create_task(partition.stage.write(partition.plan(now())))
            await asyncio.sleep(order.uniform(0.0, 0.25))
            await asyncio.to_thread(kill, child)
            if n % 2:
                write.cancel()
                await asyncio.wait([write])
                await partition.crash(url)
                partition.turn = order.randint(50, 300)
            await asyncio.to_thread(child.start)
            await asyncio.to_thread(child.wait)
            if not n % 2:
                await write
        await partition.finish(now())
        await partition.sink.close()
        client = connect(url)
        assert differences(client, states) == []
        client.close()
