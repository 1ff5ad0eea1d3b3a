"""One partition of stage analyse with the real sink: its log and its committed rows are in memory, so that a test chooses every crash."""

from collections.abc import Sequence

from pipelines.analyse import STATES, Analyse, State
from pipelines.engine.stage import Decision, Record
from schemas.records import DeliveryState
from sinks.clickhouse import ClickHouseFacts
from tests.support.builders import Desk, record


class FactPartition:
    """`states` are the records of delivery-states, in order. `turn` is how many a turn takes."""

    def __init__(self, url: str, states: Sequence[DeliveryState], turn: int, partition: int = 0) -> None:
        self.log: list[Record] = [record(STATES, each, partition=partition, offset=n) for n, each in enumerate(states)]
        self.partition, self.turn = partition, turn
        self.committed = self.position = 0
        self._start(url)
        self.desk: Desk[State] = Desk(self.stage, partition)

    def _start(self, url: str) -> None:
        self.sink = ClickHouseFacts(url)
        self.stage = Analyse(sink=self.sink, linger_ms=0)

    async def crash(self, url: str) -> None:
        """A new worker takes the partition over."""
        await self.sink.close()
        self._start(url)
        self.desk.restart(self.stage)
        self.position = self.committed

    def plan(self, now: int) -> Decision:
        """Decides and commits the next turn; its chunks are not written yet."""
        batch = self.log[self.position : self.position + self.turn]
        decision = self.desk.turn(batch, now=now)
        self.position += len(batch)
        self.committed = max(self.committed, decision.offsets.get((STATES, self.partition), 0))
        return decision

    @property
    def is_done(self) -> bool:
        return self.position == len(self.log) and self.stage.is_done(self.desk.state)

    async def finish(self, now: int) -> None:
        """Turns until everything is inserted and its offset committed."""
        while not self.is_done:
            await self.stage.write(self.plan(now))
        assert self.committed == len(self.log)
