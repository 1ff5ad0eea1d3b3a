"""Faust's view of our tables: registered in `app.tables`, with Faust's changelog topics and routing, rows held by the engine.

Reads and writes of a stage never come here; the turns own the rows. What remains is what Faust needs to assign and what its web
views and command line ask for.
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
    """A table whose rows live in the engine, one Table a partition; as a mapping it shows those of this worker."""

    def _changelog_topic_name(self) -> str:
        return str(self.app.engine.changelog(self.name))  # Faust's own name would be a topic for each table

    @property
    def layout(self) -> Layout[Any]:
        """How its rows are written, as the stage declares it."""
        return next(layout for layout in self.app.engine.stage.tables if layout.name == self.name)

    def partitions_held(self) -> Mapping[int, Table[Any]]:
        """Partition number -> rows, of what this worker owns."""
        return {
            number: partition.tables[self.name]
            for number, partition in sorted(self.app.engine.partitions.items())
            if self.name in partition.tables
        }

    def _new_store(self) -> RowsOfWorker:
        return RowsOfWorker("memory://", self.app, self, table_name=self.name, loop=self.loop)

    def on_key_set(self, key: Any, value: Any) -> None:
        """Faust would send a changelog record, outside of any transaction; the store refuses the write itself."""

    def on_key_del(self, key: Any) -> None:
        """As for a key that is set."""

    def on_clear(self) -> None:
        """As for a key that is set."""

    async def on_rebalance(self, *args: Any, **kwargs: Any) -> None:
        """The engine restores tables; Faust's store has none of our rows."""


class BulkRecovery(Recovery):
    """Fence, restore, seek to the committed offsets, only then let the flow go.

    This is the order Faust has for apps without tables; its path for apps with tables drops records at a clean restart.
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
                continue  # the next one is on its way
            except (StoreFailed, UnusableTopics) as error:
                engine.fail(str(error))
            except Exception as error:  # noqa: BLE001  # a worker that cannot restore must end, not linger
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
        """Faust's record-by-record recovery; the engine restores in bulk."""

    @Service.task
    async def _publish_stats(self) -> None:
        """Statistics of Faust's own recovery."""


class BulkTableManager(TableManager):
    """Faust's table manager with our recovery, started at once: Faust waits a second for tables that are declared late."""

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
