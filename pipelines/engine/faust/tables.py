"""The engine's tables as Faust's tables: registered in `app.tables`, with Faust's changelog topics and routing; the engine holds the rows.

Enters: assignments of the group. Leaves: calls to the engine that take partitions over, and read-only mappings for Faust's web views and
command line. A stage's reads and writes never come through here.
"""

from collections.abc import Mapping
from typing import Any

import faust
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery
from mode import Service

from pipelines.engine.faust.rows import RowsOfWorker
from pipelines.engine.poison import raised_where
from pipelines.engine.takeover import while_kafka_starts
from pipelines.engine.topic_identity import UnusableTopics
from tables.layout import Layout
from tables.table import StoreFailed, Table


class BatchTable(faust.Table):
    """A table whose rows are in the engine, one Table for each partition; as a mapping it shows the rows of this worker."""

    def _changelog_topic_name(self) -> str:
        return str(self.app.engine.changelog(self.name))  # Faust would have a topic for each table

    @property
    def layout(self) -> Layout[Any]:
        """The layout of its rows, as the stage declares it."""
        return next(layout for layout in self.app.engine.stage.tables if layout.name == self.name)

    def partitions_held(self) -> Mapping[int, Table[Any]]:
        """Partition number -> rows, of the partitions that this worker owns."""
        return {
            number: partition.tables[self.name]
            for number, partition in sorted(self.app.engine.partitions.items())
            if self.name in partition.tables
        }

    def _new_store(self) -> RowsOfWorker:
        return RowsOfWorker("memory://", self.app, self, table_name=self.name, loop=self.loop)

    def on_key_set(self, key: Any, value: Any) -> None:
        """Does nothing: Faust would send a changelog record outside of any transaction. The store refuses the write itself."""

    def on_key_del(self, key: Any) -> None:
        """Does nothing, as for a key that is set."""

    def on_clear(self) -> None:
        """Does nothing, as for a key that is set."""

    async def on_rebalance(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the engine restores tables."""


class BulkRecovery(Recovery):
    """Takes partitions over at each assignment: fence, restore, seek to the committed offsets, and only then start the flow.

    Faust has this order for apps without tables; its order for apps with tables drops records at a clean restart. A Faust service in the
    event loop. An error that is not temporary ends the worker.
    """

    @Service.task
    async def _restart_recovery(self) -> None:
        while not self.should_stop:
            if await self.wait_for_stopped(self.signal_recovery_start):
                return
            self.signal_recovery_start.clear()
            generation = self._generation_id
            engine = self.app.engine
            try:
                numbers = engine.source_partitions(self.app.consumer.assignment())
                await while_kafka_starts(
                    lambda generation=generation, numbers=numbers: self._take_over(generation, numbers),  # type: ignore[misc]  # mypy cannot type a default in a lambda
                    is_current=lambda generation=generation: self._is_current(generation),  # type: ignore[misc]  # the same
                    seconds=engine.stuck_seconds,
                )
            except RebalanceAgain:
                continue  # the next assignment is on its way
            except (StoreFailed, UnusableTopics) as error:
                engine.fail(str(error))
            except Exception as error:  # noqa: BLE001  # a worker that cannot restore must end
                engine.fail(f"taking partitions over failed: {raised_where(error)}")

    async def _take_over(self, generation: int, numbers: set[int]) -> None:
        self._set_recovery_started()
        if await self.app.engine.take_over(numbers, lambda: self._is_current(generation)):
            self._set_recovery_ended()
            await self._resume_streams(generation_id=generation)

    def _is_current(self, generation: int) -> bool:
        return bool(self.app.engine.is_current(generation) and not self.should_stop)

    @Service.task
    async def _slurp_changelogs(self) -> None:
        """Does nothing, in place of Faust's record-by-record recovery."""

    @Service.task
    async def _publish_stats(self) -> None:
        """Does nothing, in place of the statistics of Faust's own recovery."""


class BulkTableManager(TableManager):
    """Faust's table manager with BulkRecovery, which starts at once: Faust waits a second for tables that are declared late."""

    _recovery: Any = None

    async def on_start(self) -> None:
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()

    @property
    def recovery(self) -> Any:
        if self._recovery is None:
            self._recovery = BulkRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
