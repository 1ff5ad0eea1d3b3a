"""Opens the tables of a partition before they are restored: in memory, or in RocksDB in a folder of their own.

Enters: the number of a partition. Leaves: its tables, each at the changelog position of its store. A folder belongs to one changelog of one
Kafka cluster; other contents are rebuilt. A store that its former owner on this machine still has open is waited for, within a bound.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer

from pipelines.engine.shared_changelog import OneTable, SharedChangelog
from pipelines.engine.topic_identity import TopicIdentity
from tables.layout import Layout
from tables.stores.factory import Kind, open_partition
from tables.table import StoreInUse, Table

IN_USE_SECONDS = 15.0  # how long a store on disk may still be open elsewhere on this machine


class PartitionTables:
    """Opens the tables of one stage. `open` blocks: call it from a thread. The rest does not block."""

    def __init__(
        self,
        *,
        kind: Kind,
        folder: Path,
        layouts: Sequence[Layout[Any]],
        changelog: Callable[[str], str],
        shared: bool,
        topic_identity: TopicIdentity,
        consumer: Consumer,
    ) -> None:
        self._kind = kind
        self._folder = folder
        self._layouts = layouts
        self._changelog = changelog
        self._shared = shared
        self._topic_identity = topic_identity
        self._consumer = consumer

    def open(self, number: int) -> dict[str, Table[Any]]:
        """The tables of a partition by name. Blocks up to IN_USE_SECONDS for each. Raises StoreInUse and other StoreFailed, KafkaException
        (only for RocksDB, which asks for the cluster's id)."""
        return {layout.name: self._open_table(layout, number) for layout in self._layouts}

    def changelogs(
        self, tables: Mapping[int, Mapping[str, Table[Any]]]
    ) -> dict[tuple[str, int], OneTable | SharedChangelog]:
        """Changelog (topic, partition) -> the receiver of its rows, for the tables of these partitions."""
        if self._shared:
            return {(self._changelog(""), number): SharedChangelog(held) for number, held in tables.items() if held}
        return {
            (self._changelog(name), number): OneTable(table)
            for number, held in tables.items()
            for name, table in held.items()
        }

    def _open_table(self, layout: Layout[Any], number: int) -> Table[Any]:
        folder = self._folder / layout.name / str(number)
        identity = self._identity(self._changelog(layout.name), number) if self._kind == "rocksdb" else ""
        end = time.monotonic() + IN_USE_SECONDS
        while True:
            try:
                return open_partition(self._kind, layout, folder, identity)
            except StoreInUse:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)  # its former owner is about to close it

    def _identity(self, changelog: str, number: int) -> str:
        cluster = self._consumer.list_topics(timeout=30).cluster_id
        return f"{cluster} {changelog} {self._topic_identity.ids[changelog]} {number}"
