"""Every store of tables/ keeps the contract of tables/table.py."""

from collections.abc import Iterator

import pytest

from tables.stores import bucketed_memory, buckets, rocksdb
from tests.support.builders import examples
from tests.support.table_contract import STORES, TableMachine


@pytest.fixture(autouse=True, scope="module")
def _small_bounds() -> Iterator[None]:
    """Limits so low that a few rows reach them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rocksdb, "CACHED_ROWS", 2)
        patch.setattr(rocksdb, "SCANNED_ROWS", 2)
        patch.setattr(rocksdb, "LOADED_ROWS", 3)
        patch.setattr(buckets, "LOAD", 1)
        patch.setattr(buckets, "LARGE", 9)
        patch.setattr(bucketed_memory, "REMEMBERED", 2)
        yield


class InMemory(TableMachine):
    store = STORES["memory"]


class Packed(TableMachine):
    store = STORES["packed"]


class Bucketed(TableMachine):
    store = STORES["bucketed"]


class OnDisk(TableMachine):
    store = STORES["rocksdb"]


class Ageless(TableMachine):
    store = STORES["ageless"]


class AgelessBucketed(TableMachine):
    store = STORES["ageless_bucketed"]


class AgelessOnDisk(TableMachine):
    store = STORES["ageless_rocksdb"]


for machine in (InMemory, Packed, Bucketed, Ageless, AgelessBucketed):
    machine.TestCase.settings = examples(150, steps=60)
OnDisk.TestCase.settings = AgelessOnDisk.TestCase.settings = examples(15, steps=40)
TestInMemory = InMemory.TestCase
TestPacked = Packed.TestCase
TestBucketed = Bucketed.TestCase
TestAgeless = Ageless.TestCase
TestAgelessBucketed = AgelessBucketed.TestCase
TestOnDisk = OnDisk.TestCase
TestAgelessOnDisk = AgelessOnDisk.TestCase
