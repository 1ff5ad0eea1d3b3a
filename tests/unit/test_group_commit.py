"""Writes of several partitions share a transaction, fail alone, and wait while the database is unavailable. While it works, they decide."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import group_commit
from pipelines.group_commit import GroupCommit
from sinks.sink_errors import SinkFenced, Unavailable
from tests.support.builders import examples


@dataclass
class Batch:
    name: str
    size: int = 1
    fault: str = ""  # the database's error for any group with this write
    said: int = 1  # how often the database says that everything was sent


class Database:
    """Takes a group completely or not at all. It is unavailable for `outages` writes; `gate` delays it."""

    def __init__(self, outages: int = 0) -> None:
        self.outages = outages
        self.gate = asyncio.Event()
        self.gate.set()
        self.tried: list[list[str]] = []
        self.taken: list[list[str]] = []
        self.under_way = 0
        self.begun = asyncio.Event()
        self.took = asyncio.Event()
        self.done: list[str] = []  # what happened, in order

    async def write(self, batches: Sequence[Batch], sent: Callable[[], None]) -> None:
        self.under_way += 1
        assert self.under_way == 1
        self.begun.set()
        self.tried.append([batch.name for batch in batches])
        await asyncio.sleep(0)
        self.done.append(f"sent {batches[0].name}")
        for _ in range(batches[0].said):
            sent()
        await self.gate.wait()
        await asyncio.sleep(0.001)
        self.under_way -= 1
        if self.outages:
            self.outages -= 1
            raise Unavailable("unavailable")
        for batch in batches:
            if batch.fault:
                raise SinkFenced(f"{batch.name} {batch.fault}")
        self.taken.append([batch.name for batch in batches])
        self.took.set()
        self.done.append(f"took {batches[0].name}")


def a_group(database: Database, *, interval_ms: int = 0, most_bytes: int = 100) -> GroupCommit[Batch]:
    return GroupCommit(database.write, database="PostgreSQL", interval_ms=interval_ms, most_bytes=most_bytes)


async def put_all(group: GroupCommit[Batch], *batches: Batch) -> list[str]:
    """Puts each write from its own partition; returns their errors, "" for success."""
    outcomes = await asyncio.gather(*(group.put(batch) for batch in batches), return_exceptions=True)
    return ["" if outcome is None else str(outcome) for outcome in outcomes]


async def test_all_waiting_writes_are_one_group_and_later_ones_form_the_next() -> None:
    database = Database()
    group = a_group(database)
    database.gate.clear()
    first = asyncio.create_task(put_all(group, Batch("a"), Batch("b")))
    await database.begun.wait()
    second = asyncio.create_task(put_all(group, Batch("c"), Batch("d"), Batch("e")))
    await asyncio.sleep(0)
    database.gate.set()
    assert await first == ["", ""]
    assert await second == ["", "", ""]
    assert database.taken == [["a", "b"], ["c", "d", "e"]]


async def test_a_fenced_partition_fails_alone_and_the_others_are_written() -> None:
    database = Database()
    outcomes = await put_all(a_group(database), Batch("a"), Batch("b", fault="is another worker's"), Batch("c"))
    assert outcomes == ["", "b is another worker's", ""]
    assert database.taken == [["a"], ["c"]]
    assert database.tried == [["a", "b", "c"], ["a"], ["b"], ["c"]]


async def test_an_unavailable_database_gets_the_same_group_again() -> None:
    database = Database(outages=2)
    group = a_group(database)
    first = asyncio.create_task(put_all(group, Batch("a"), Batch("b")))
    await database.begun.wait()
    assert await put_all(group, Batch("c")) == [""]
    assert await first == ["", ""]
    assert database.tried == [["a", "b"], ["a", "b"], ["a", "b"], ["c"]]


async def test_partitions_that_waited_are_in_one_group() -> None:
    """Partitions whose turns end a few milliseconds apart are in one group; the next group follows an interval later."""
    database = Database()
    group = a_group(database, interval_ms=200)

    async def partition(name: str, late: float) -> None:
        for _ in range(3):
            await asyncio.sleep(group.wait())
            await asyncio.sleep(late)  # its turn
            await group.put(Batch(name))

    began = asyncio.get_running_loop().time()
    await asyncio.gather(partition("a", 0), partition("b", 0.003), partition("c", 0.006))
    assert [sorted(names) for names in database.taken] == [["a", "b", "c"]] * 3
    assert asyncio.get_running_loop().time() - began > 0.4


async def test_a_cancelled_partition_does_not_stop_the_others() -> None:
    database = Database()
    group = a_group(database)
    database.gate.clear()
    gone = asyncio.create_task(group.put(Batch("gone")))
    stays = asyncio.create_task(group.put(Batch("stays")))
    await database.begun.wait()
    gone.cancel()
    database.gate.set()
    await stays
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert database.taken == [["gone", "stays"]]


async def two_partitions(database: Database, *, said: int = 1) -> list[str]:
    """Two partitions of which each write is a group; returns what happened, with the decision of each partition after its write."""
    group = a_group(database, most_bytes=1)

    async def partition(name: str) -> None:
        for number in (1, 2):
            await group.put(Batch(f"{name}{number}", said=said))
            database.done.append(f"{name} decides")

    await asyncio.gather(partition("a"), partition("b"))
    return database.done


async def test_a_partition_decides_while_the_database_works_on_the_next_group() -> None:
    assert await two_partitions(Database()) == [
        "sent a1", "took a1",
        "sent b1", "a decides", "took b1",
        "sent a2", "b decides", "took a2",
        "sent b2", "a decides", "took b2",
        "b decides",
    ]  # fmt: skip  # a line for each group


async def test_a_database_that_says_nothing_lets_partitions_go_on_after_the_next_group() -> None:
    done = await two_partitions(Database(), said=0)
    assert [each for each in done if not each.startswith("sent")] == [
        "took a1", "took b1", "a decides", "b decides", "took a2", "took b2", "a decides", "b decides",
    ]  # fmt: skip  # one line


async def test_a_partition_does_not_wait_for_a_slow_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group that waits for a lock has not said that everything was sent."""
    monkeypatch.setattr(group_commit, "HELD_SECONDS", 0.05)
    database = Database()
    group = a_group(database, most_bytes=1)
    first = asyncio.create_task(group.put(Batch("a", said=0)))
    second = asyncio.create_task(group.put(Batch("b", said=0)))
    await database.took.wait()
    database.gate.clear()
    await first
    assert not second.done()
    database.gate.set()
    await second


async def test_a_partition_does_not_wait_while_the_database_is_unavailable() -> None:
    database = Database()
    group = a_group(database, most_bytes=1)
    first = asyncio.create_task(group.put(Batch("a")))
    second = asyncio.create_task(group.put(Batch("b", said=0)))
    await database.took.wait()
    database.outages = 3
    await first
    assert database.taken == [["a"]]
    await second
    assert database.taken == [["a"], ["b"]]


@examples(150)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.integers(0, 2)), min_size=1, max_size=30),
    st.integers(1, 100),
)
def test_every_write_succeeds_once_or_fails_alone_and_groups_are_bounded(
    batches: list[tuple[int, bool, int]], most_bytes: int
) -> None:
    async def run() -> None:
        database = Database()
        made = [
            Batch(str(n), size, "fault" if is_faulty else "", said) for n, (size, is_faulty, said) in enumerate(batches)
        ]
        outcomes = await put_all(a_group(database, most_bytes=most_bytes), *made)
        assert outcomes == [f"{batch.name} fault" if batch.fault else "" for batch in made]
        taken = [name for names in database.taken for name in names]
        assert sorted(taken) == sorted(batch.name for batch in made if not batch.fault)
        sizes = {batch.name: batch.size for batch in made}
        assert all(len(names) == 1 or sum(sizes[name] for name in names) <= most_bytes for names in database.tried)

    asyncio.run(run())
