"""Pages of rows and the search by prefix: every row once, bounded work, and no way to find what a caller may not see."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines import row_listing
from pipelines.row_listing import NextPages, Position, Search
from tables.layout import JsonLayout
from tables.sequences import Sequence
from tables.stores.factory import open_partition
from tables.table import Table

PERSON = "15557654321"
KEYS = [
    *(f"c-{n}" for n in range(40)),
    *(f"whatsapp:1:{PERSON[:7]}{n:04}" for n in range(40)),
    f"order-{PERSON}",
    "é/日本",
]


class Worker:
    """The tables of a worker, as faust/tables.py shows them."""

    name = "sequences"

    def __init__(self, held: Mapping[int, Table[Sequence]]) -> None:
        self.held = dict(held)

    def partitions_held(self) -> Mapping[int, Table[Sequence]]:
        return self.held


@pytest.fixture(params=["memory", "bucketed", "rocksdb"])
def worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Worker]:
    layout = JsonLayout("sequences", Sequence, bucketed=request.param == "bucketed")
    kind: Any = "rocksdb" if request.param == "rocksdb" else "memory"
    held = {number: open_partition(kind, layout, tmp_path / str(number), "i") for number in (1, 3)}
    for n, key in enumerate(KEYS):
        held[1 if n % 2 else 3].put(key.encode(), Sequence(n))
    for table in held.values():
        table.changes()
        table.commit(1)
    yield Worker(held)
    for table in held.values():
        table.close()


def pages(
    worker: Worker, prefix: str = "", *, limit: int = 7, whole: bool = True, skip: int = 0
) -> tuple[list[list[str]], int]:
    """The keys of all pages, and how many rows were searched."""
    found: list[list[str]] = []
    searched, start = 0, Position()
    while True:
        search = Search(worker, prefix, limit, skip if not found else 0, whole, None)
        following = asyncio.run(search.run(start))
        assert search.absent is None
        found.append([entry["key"] for entry in search.shown])
        searched += search.searched
        assert len(found) < 400
        if following is None:
            return found, searched
        start = following


def flat(found: list[list[str]]) -> list[str]:
    return [key for keys in found for key in keys]


def test_every_row_is_on_one_page(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    for look in (3, 10, 1000):
        monkeypatch.setattr(row_listing, "LOOK", look)
        found, _ = pages(worker)
        assert sorted(flat(found)) == sorted(KEYS)
        assert all(len(keys) <= 7 for keys in found)
    assert sorted(flat(pages(worker, skip=5)[0])) != sorted(KEYS)
    assert len(flat(pages(worker, skip=5)[0])) == len(KEYS) - 5


def test_a_prefix_finds_all_keys_that_begin_with_it(worker: Worker) -> None:
    for prefix in ("c-1", "c-", "whatsapp:1:", f"order-{PERSON[:3]}", "é/日", "none"):
        assert sorted(flat(pages(worker, prefix)[0])) == sorted(key for key in KEYS if key.startswith(prefix))


def test_a_search_is_cut_and_goes_on(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_listing, "LOOK", 4)
    monkeypatch.setattr(row_listing, "SEARCHED", 8)
    found, _ = pages(worker, "c-3", limit=100)
    assert sorted(flat(found)) == sorted(key for key in KEYS if key.startswith("c-3"))
    monkeypatch.setattr(row_listing, "SEARCHED", 10**9)
    monkeypatch.setattr(row_listing, "SECONDS", 0.0)
    found, _ = pages(worker, limit=1000)
    assert len(found) > 2
    assert sorted(flat(found)) == sorted(KEYS)


def test_who_may_not_see_numbers_cannot_find_them_digit_by_digit(worker: Worker) -> None:
    """Neither by rows, nor by how many were searched."""
    searched = set()
    for length in range(1, len(PERSON)):
        for prefix in (f"whatsapp:1:{PERSON[:length]}", f"order-{PERSON[:length]}", f"whatsapp:1:9{PERSON[:length]}"):
            found, looked = pages(worker, prefix, whole=False)
            assert flat(found) == []
            searched.add(looked)
    assert len(searched) == 1
    found, _ = pages(worker, "whatsapp:1:", whole=False)
    assert set(flat(found)) == {"whatsapp:1:***"}
    assert flat(pages(worker, "order-", whole=False)[0]) == ["order-***"]


def test_a_partition_that_is_given_up_is_no_end_of_the_list(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_listing, "LOOK", 2)
    search = Search(worker, "", 1000, 0, True, None)

    async def run() -> Position | None:
        running = asyncio.create_task(search.run(Position()))
        await asyncio.sleep(0)
        del worker.held[3]
        return await running

    assert asyncio.run(run()) is None
    assert search.absent == 3


def test_the_next_page_says_nothing_of_a_key() -> None:
    known = NextPages()
    named = known.named(Position(1, f"whatsapp:1:{PERSON}".encode(), 2))
    assert PERSON not in named
    assert known.position(named) == Position(1, f"whatsapp:1:{PERSON}".encode(), 2)
    for _ in range(row_listing.KEPT):
        known.named(Position())
    assert known.position(named) is None
