"""Every store of tables/ keeps the contract of tables/table.py, and one on disk comes back from whatever happened to it."""

from collections.abc import Iterator

import pytest

from tables import rocks
from tests.builders import examples
from tests.contracts.table_contract import STORES, TableMachine


@pytest.fixture(autouse=True, scope="module")
def _small_bounds() -> Iterator[None]:
    """So that a few rows are enough to pass them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rocks, "CACHED_ROWS", 2)
        patch.setattr(rocks, "SCANNED_ROWS", 2)
        patch.setattr(rocks, "LOADED_ROWS", 3)
        yield


class InMemory(TableMachine):
    store = STORES["memory"]


class Packed(TableMachine):
    store = STORES["packed"]


class OnDisk(TableMachine):
    store = STORES["rocksdb"]


class Ageless(TableMachine):
    store = STORES["ageless"]


class AgelessOnDisk(TableMachine):
    store = STORES["ageless_rocksdb"]


InMemory.TestCase.settings = Packed.TestCase.settings = Ageless.TestCase.settings = examples(150, steps=60)
OnDisk.TestCase.settings = AgelessOnDisk.TestCase.settings = examples(15, steps=40)
TestInMemory = InMemory.TestCase
TestPacked = Packed.TestCase
TestAgeless = Ageless.TestCase
TestOnDisk = OnDisk.TestCase
TestAgelessOnDisk = AgelessOnDisk.TestCase
