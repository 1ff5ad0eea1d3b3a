"""Garbage of a process that collects at fixed intervals: young garbage, and objects that survived collections before."""

import asyncio
import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from pipelines.engine import garbage_collection


class Knot:
    """Refers to itself, so that only the garbage collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _own_collector() -> Iterator[None]:
    """Sets the thresholds of a worker, and afterwards those of the tests."""
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    garbage_collection.favour_long_decisions()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


async def test_young_garbage_is_freed_by_the_next_collection() -> None:
    gone = asyncio.Event()
    knot = weakref.ref(Knot(), lambda _: gone.set())
    looking = asyncio.create_task(garbage_collection.collect_garbage(young_seconds=0.01, all_seconds=3600))
    await asyncio.wait_for(gone.wait(), 20)
    assert knot() is None
    looking.cancel()


async def test_what_survived_collections_before_it_became_garbage_is_freed_too() -> None:
    gone = asyncio.Event()
    knot: Knot | None = Knot()
    seen = weakref.ref(knot, lambda _: gone.set())
    gc.collect()
    assert any(each is knot for each in gc.get_objects(generation=2)), "it is old"
    knot = None
    gc.collect(1)
    assert seen() is not None, "a collection of new objects does not find it"
    looking = asyncio.create_task(garbage_collection.collect_garbage(young_seconds=0.01, all_seconds=0.02))
    await asyncio.wait_for(gone.wait(), 20)
    looking.cancel()
